"""One run of a comparison: trained by `fit`'s own loop, watched from outside, timed without the watching."""

import copy
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.base.keys import left_alone
from handful.base.machine import in_bytes
from handful.batches.batches import Batches
from handful.compare.gradient_variance import plain_rows
from handful.data.base import Source
from handful.fit import run_training  # what `fit` is, with the Training in the caller's hands
from handful.optim.state import state_tensors
from handful.plan import defaults as choose
from handful.plan.build import assemble
from handful.plan.probe.memory import saved_by_autograd
from handful.plan.probe.steps import untouched
from handful.report.words import as_float
from handful.runs.run import Run
from handful.training.process.interrupts import INTERRUPTED, end_by
from handful.training.training import Training
from handful.training.watch import stop
from handful.training.watch.evaluation import evaluate

SAMPLE, LEAST_SAMPLE = 2048, 256  # training rows on which the training scores are measured; where time is short
MOMENTS = 40  # at which a run is scored
KEPT_BYTES = 2**28  # of weights along a run, kept for the picture of its path
SCORING = 0.3  # the share of a limit of time that scoring may take on top


@dataclass(frozen=True)
class Method:
    """A batch size as asked for (an integer, "full" or "auto") and the number of rows it is; None: to be chosen."""

    asked: int | str
    size: int | None

    @property
    def name(self) -> str:
        """As the table and the page call it."""
        if self.asked == "full":
            return "full batch"
        if self.asked == "auto":
            return "auto"
        return "1 row" if self.size == 1 else f"{self.size:,} rows"


def methods(batches: int | str | Sequence[int | str], n: int) -> list[Method]:
    """The methods to compare on n training rows. HandfulError for unknown entries, duplicates and none at all."""
    found: list[Method] = []
    for entry in [batches] if isinstance(batches, str | int | float | np.number) else batches:
        if choose.grows(entry):
            raise HandfulError(f"compare holds batch sizes against each other; {entry} changes its own: leave it out")
        choice = choose.batch_size(entry, n)
        size = None if choice is None else int(choice.value)
        method = Method(entry if size is None or entry == "full" else size, size)
        twin = next((m for m in found if m.asked == method.asked or (size is not None and m.size == size)), None)
        if twin:
            raise HandfulError(f"batches holds {twin.asked!r} and {entry!r}, which are the same for {n:,} rows")
        found.append(method)
    if not found:
        raise HandfulError("batches is empty: name at least one batch size, as in batches=[1, 32, 'auto', 'full']")
    return found


@dataclass(frozen=True)
class Task:
    """What every run of the comparison shares."""

    model: str | nn.Module
    train: Source
    held_out: Source | None
    given: Mapping[str, object]
    seed: int
    epochs: float
    seconds: float | None
    until: stop.Rule | None
    sample: int = SAMPLE

    def limited(self, seconds: float | None) -> "Task":
        """With such a limit of time for every run, where it has none that is shorter."""
        return self if seconds is None else replace(self, seconds=min(seconds, self.seconds or seconds))

    def training(self, method: Method, seed: int, lr: float | str) -> Training:
        """A Training ready to run, from the model's initial weights; the caller's own module is copied."""
        rule: stop.Rule = stop.epochs(self.epochs)
        # one step at least: what was measured before it may have taken all the time
        for more in (stop.seconds(self.seconds) & stop.steps(1) if self.seconds else None, self.until):
            rule = rule | more if more is not None else rule
        own = {"batch": method.asked, "lr": lr, "seed": seed, "until": rule, "valid": self.held_out, "quiet": True}
        # fit itself scores only its end, so that its weights there are the run's last; the rest is scored by Watch
        return assemble(copy.deepcopy(self.model), self.train, {**self.given, **own, "evaluate_every": self.epochs})


Record = dict[str, float]  # position, step, seconds, batch, and scores train_*, valid_* of the weights then


@dataclass
class Experiment:
    """One run: what was scored when, and how long it took.

    records: one per scored moment; step_seconds: the median time per step; setup_seconds: from the call to the first
    step; initial: a hash of the weights it started from; run: the Run, with the last weights; probe_seconds: what auto
    spent on measuring before its first step; weights: the trained parameters as one vector [p] for each record, or none
    """

    method: Method
    seed: int
    lr: float
    records: list[Record]
    step_seconds: float
    setup_seconds: float
    initial: str
    run: Run
    memory: "StepMemory | None" = None
    probe_seconds: float = 0.0
    weights: list[Tensor] = field(default_factory=list)

    @property
    def last(self) -> Record:
        return self.records[-1]

    def column(self, name: str) -> list[float]:
        return [row.get(name, math.nan) for row in self.records]


@dataclass
class Watch:
    """The callback that scores a run at chosen moments. Its clock stands still meanwhile."""

    training: Training
    sample: Batches
    moments: list[int]
    keep: bool = False
    weights: list[Tensor] = field(default_factory=list)
    spent: float = 0.0  # on steps before the first that is seen
    scoring: float = 0.0
    most: float = math.inf
    records: list[Record] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    resumed: float = 0.0
    counted: float = 0.0

    def __call__(self, event: str, info: Mapping[str, object]) -> None:
        state = self.training.state
        if event in ("step", "evaluate"):
            # what `fit` spent on an evaluation of its own is not part of the step
            took = time.perf_counter() - self.resumed
            self.durations.append(max(0.0, as_float(info["seconds"]) - self.counted) if event == "evaluate" else took)
            self.counted = state.seconds
        due = bool(self.moments) and state.position >= self.moments[0] and self.scoring < self.most
        ended = event == "end" and (not self.records or self.records[-1]["step"] != state.step)
        if event == "start" or due or ended:
            self.score()
        self.resumed = time.perf_counter()

    def score(self) -> None:
        """Add a record: the scores of the present weights on the training sample and on the held-out rows."""
        t, state, began = self.training, self.training.state, time.perf_counter()
        self.moments = [position for position in self.moments if position > state.position]
        row: Record = {"position": state.position, "step": state.step, "seconds": self.spent + sum(self.durations)}
        row["batch"] = state.batch
        for part, batches in (("train", self.sample), ("valid", t.valid)):
            if batches is not None:
                row |= {f"{part}_{k}": v for k, v in evaluate(t.objective, batches.epoch(512)).items()}
        self.records.append(row)
        if self.keep:
            self.weights.append(torch.cat([p.detach().flatten().float().cpu() for p in t.parameters]))
        self.scoring += time.perf_counter() - began
        if state.step:
            state.history.append({**row, "epoch": state.position / t.examples})  # what stop rules look at


def run_experiment(
    task: Task, method: Method, seed: int, lr: float | str, *, moments: int = MOMENTS, memory: bool = False
) -> Experiment:
    """Train once; score at the start, at the end, and at about `moments` positions between.

    Half of the positions are spread evenly in the logarithm, as most is learned early. memory: count what a step
    holds, once the optimizer has its state, and keep the weights along the way.
    """
    began = time.perf_counter()
    t = task.training(method, seed, lr)
    initial = fingerprint(t.objective.model)
    n, total = t.examples, max(1, round(task.epochs * t.examples))
    wanted = np.r_[np.geomspace(min(n / 64, total), total, moments // 2), np.linspace(0, total, moments // 2 + 1)[1:]]
    due = sorted({max(1, round(p)) for p in wanted})
    size = 4 * MOMENTS * sum(p.numel() for p in t.parameters)
    most = math.inf if task.seconds is None else SCORING * task.seconds
    watch = Watch(t, plain_rows(t.batches, task.seed, task.sample), due, memory and size <= KEPT_BYTES, most=most)
    watch.spent = t.state.seconds
    setup = time.perf_counter() - began
    with left_alone():
        run = run_training(t, [watch])
    if run.stopped_because == INTERRUPTED:  # a method that was cut off is not to be compared with the others
        end_by(run.exit_status - 128)
    # none is seen from outside where all were taken while rates were compared
    typical = float(np.median(watch.durations)) if watch.durations else t.state.seconds / max(1, t.state.step)
    size = min(t.state.batch, t.state.micro_batch or t.state.batch)
    counted = step_memory(t, size) if memory else None
    return Experiment(
        method, seed, float(t.plan.lr), watch.records, typical, setup, initial, run, counted, weights=watch.weights
    )


def costs(task: Task, largest: int) -> tuple[float, float, float]:
    """The seconds that it takes to set up a run and to score it at its beginning and its end; the same where it is
    scored on LEAST_SAMPLE training rows; and those of a step of the largest batch, whose backward pass takes twice as
    long as the forward pass (Kaplan et al. 2020, section 2.1)."""
    began = time.perf_counter()
    t = task.training(Method(1, 1), task.seed, 1e-3)
    sample = plain_rows(t.batches, task.seed, SAMPLE)
    assembled = time.perf_counter()
    evaluate(t.objective, sample.epoch(512))
    row = (time.perf_counter() - assembled) / len(sample.source)
    held_out = 0 if task.held_out is None else len(task.held_out)
    usual, least = (
        assembled - began + 3 * row * (min(rows, len(sample.source)) + held_out) for rows in (SAMPLE, LEAST_SAMPLE)
    )
    return usual, least, 3 * row * largest


def fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(in_bytes(value))
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a step holds at its peak: what grows with the batch, and what does not."""

    saved: int
    fixed: int


def step_memory(t: Training, size: int) -> StepMemory:
    """What one step on `size` rows keeps, counted exactly: no allocator's rounding, no other process.

    saved: the batch, and every tensor that the forward pass saves for the backward pass, each storage once;
    fixed: parameters, their gradients, and the optimizer's state. The model is left as it is.
    """
    with untouched(t), saved_by_autograd(t.objective.model) as storages:
        batch = t.objective.to_device(t.batches.at(0, size))
        sums = t.objective.sums(batch, metrics=False)
    del sums  # until here, or a storage's address could be given to another
    for value in map(Tensor.untyped_storage, batch.tensors().values()):
        storages[value.data_ptr()] = value.nbytes()
    trained = sum(p.numel() * p.element_size() for p in t.parameters)
    held = sum(p.numel() * p.element_size() for p in t.objective.model.parameters()) + trained
    moments = sum(v.nbytes for v in state_tensors(t.state.optimizer)[0].values())
    return StepMemory(sum(storages.values()), held + moments)
