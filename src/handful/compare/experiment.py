"""One run of a comparison: trained by `fit`'s own loop, watched from outside, timed without the watching."""

import copy
import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.batches.batches import Batches
from handful.compare.gradient_variance import plain_rows
from handful.data.base import Source
from handful.fit import run_training  # what `fit` is, with the Training in the caller's hands
from handful.optim.build import state_tensors
from handful.plan import defaults as choose
from handful.plan.build import assemble
from handful.runs.run import Run
from handful.training import stop
from handful.training.training import Training

SAMPLE = 2048  # training rows on which the training scores are measured
MOMENTS = 40  # at which a run is scored


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


def methods(batches: Any, n: int) -> list[Method]:
    """The methods to compare on n training rows. HandfulError for unknown entries, duplicates and none at all."""
    if isinstance(batches, str | int | np.integer):
        batches = [batches]
    found: list[Method] = []
    for entry in batches:
        if choose.grows(entry):
            raise HandfulError(f"compare holds batch sizes against each other; {entry} changes its own: leave it out")
        choice = choose.batch_size(entry, n)
        asked = entry if entry in ("full", "auto") else int(choice.value if choice else 0)
        method = Method(asked, choice.value if choice else None)
        twin = next((m for m in found if m.asked == asked or (m.size is not None and m.size == method.size)), None)
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
    given: dict[str, Any]
    seconds: float | None = None
    until: stop.Rule | None = None

    def training(self, method: Method, seed: int, lr: float | str, epochs: float) -> Training:
        """A Training ready to run, from the model's initial weights; the caller's own module is copied."""
        rule: stop.Rule = stop.epochs(epochs)
        for more in (stop.seconds(self.seconds) if self.seconds else None, self.until):
            rule = rule | more if more is not None else rule
        own = {"batch": method.asked, "lr": lr, "seed": seed, "until": rule, "valid": self.held_out, "quiet": True}
        model = copy.deepcopy(self.model) if isinstance(self.model, nn.Module) else self.model
        # fit itself scores only its end, so that its weights there are the run's last; the rest is scored by Watch
        return assemble(model, self.train, {**self.given, **own, "evaluate_every": epochs})


@dataclass
class Experiment:
    """One run: what was scored when, and how long it took.

    records: a dict a scored moment: position, step, seconds, batch, and scores train_*, valid_* of the weights then
    step_seconds: the median time of a step; setup_seconds: from the call to the first step
    initial: a hash of the weights it started from; run: the Run, with the last weights
    """

    method: Method
    seed: int
    lr: float
    records: list[dict[str, Any]]
    step_seconds: float
    setup_seconds: float
    initial: str
    run: Run
    memory: "Memory | None" = None
    probe_seconds: float = 0.0

    @property
    def last(self) -> dict[str, Any]:
        """The scores at the end."""
        return self.records[-1]

    def column(self, name: str) -> list[float]:
        """The values of a score or measure of progress at every scored moment."""
        return [float(row.get(name, float("nan"))) for row in self.records]


@dataclass
class Watch:
    """The callback that scores a run at chosen moments. Its clock stands still meanwhile."""

    training: Training
    sample: Batches
    moments: list[int]
    records: list[dict[str, Any]] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    resumed: float = 0.0
    counted: float = 0.0

    def __call__(self, event: str, info: dict[str, Any]) -> None:
        state = self.training.state
        if event in ("step", "evaluate"):
            # what `fit` spent on an evaluation of its own is no part of the step
            took = time.perf_counter() - self.resumed
            self.durations.append(max(0.0, info["seconds"] - self.counted) if event == "evaluate" else took)
            self.counted = state.seconds
        due = bool(self.moments) and state.position >= self.moments[0]
        ended = event == "end" and (not self.records or self.records[-1]["step"] != state.step)
        if event == "start" or due or ended:
            self.score()
        self.resumed = time.perf_counter()

    def score(self) -> None:
        """Add a record: the scores of the present weights on the training sample and on the held-out rows."""
        t, state = self.training, self.training.state
        while self.moments and self.moments[0] <= state.position:
            self.moments.pop(0)
        row: dict[str, Any] = {"position": state.position, "step": state.step, "seconds": sum(self.durations)}
        row["batch"] = state.batch
        row |= {f"train_{k}": v for k, v in t.objective.evaluate(self.sample.epoch(512)).items()}
        if t.valid is not None:
            row |= {f"valid_{k}": v for k, v in t.objective.evaluate(t.valid.epoch(512)).items()}
        self.records.append(row)
        if state.step:
            state.history.append({**row, "epoch": state.position / t.examples})  # what stop rules look at


def run_trial(
    task: Task,
    method: Method,
    seed: int,
    lr: float | str,
    epochs: float,
    *,
    moments: int = MOMENTS,
    memory: bool = False,
) -> Experiment:
    """Train once; score at the start, at the end, and at about `moments` positions between.

    Half of the positions are spread evenly in the logarithm, as most is learned early. memory: count what a step
    holds, once the optimizer has its state.
    """
    began = time.perf_counter()
    t = task.training(method, seed, lr, epochs)
    initial = fingerprint(t.objective.model)
    n, total = t.examples, max(1, round(epochs * t.examples))
    wanted = np.r_[np.geomspace(min(n / 64, total), total, moments // 2), np.linspace(0, total, moments // 2 + 1)[1:]]
    due = sorted({max(1, round(p)) for p in wanted})
    watch = Watch(t, plain_rows(t.batches, int(task.given.get("seed", 0)), SAMPLE), due)
    setup = time.perf_counter() - began
    run = run_training(t, [watch])
    typical = float(np.median(watch.durations)) if watch.durations else float("nan")
    size = min(t.state.batch, t.state.micro_batch or t.state.batch)
    counted = step_memory(t, size) if memory else None
    return Experiment(method, seed, float(t.plan.lr), watch.records, typical, setup, initial, run, counted)


def fingerprint(model: nn.Module) -> str:
    """A hash of parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Memory:
    """Bytes that a step holds at its peak: what grows with the batch, and what does not."""

    saved: int
    fixed: int


def step_memory(t: Training, size: int) -> Memory:
    """What one step on `size` rows keeps, counted exactly: no allocator's rounding, no other process.

    saved: the batch, and every tensor that the forward pass saves for the backward pass, each storage once;
    fixed: parameters, their gradients, and the optimizer's state. The model is left as it is.
    """
    owned = {v.untyped_storage().data_ptr() for v in t.objective.model.state_dict().values() if isinstance(v, Tensor)}
    storages: dict[int, int] = {}

    def count(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in owned:
            storages[storage.data_ptr()] = storage.nbytes()
        return value

    batch = t.objective.to_device(t.batches.at(0, size))
    for value in batch.columns.values():
        if isinstance(value, Tensor):
            count(value)
    buffers = {k: v.clone() for k, v in t.objective.model.named_buffers()}
    generator = torch.random.get_rng_state()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
        sums = t.objective.sums(batch, metrics=False)
    saved = sum(storages.values())
    del sums
    torch.random.set_rng_state(generator)
    with torch.no_grad():
        for name, value in t.objective.model.named_buffers():
            value.copy_(buffers[name])
    trained = sum(p.numel() * p.element_size() for p in t.parameters)
    held = sum(p.numel() * p.element_size() for p in t.objective.model.parameters()) + trained
    return Memory(saved, held + sum(v.nbytes for v in state_tensors(t.state.optimizer)[0].values()))
