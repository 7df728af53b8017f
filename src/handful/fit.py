"""The loop: mini-batch gradient descent, as the textbook writes it."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from handful import checkpoint
from handful.assemble import assemble
from handful.probe.threads import using_threads
from handful.report import extras
from handful.run import History, Run, RunFolder
from handful.source.base import Batch
from handful.state import Best, Window, copy_weights, load_weights
from handful.step import NonFiniteLoss, Outcome, OutOfMemory, gradient_that_fits
from handful.training import Training, update

Callback = Callable[[str, dict[str, Any]], object]
Tell = Callable[[str, dict[str, Any]], None]
INTERRUPTED = "it was interrupted"


def fit(
    model: Any,
    train: Any,
    *,
    valid: Any = 0.1,
    loss: Any = "auto",
    metrics: Any = "auto",
    batch: Any = "auto",
    micro_batch: int | str | None = "auto",
    optimizer: Any = "adamw",
    lr: float | str = "auto",
    schedule: Any = "cosine",
    l1: float = 0.0,
    l2: float | str = "auto",
    until: Any = None,
    augment: Any = None,
    preprocess: Any = "auto",
    precision: str = "auto",
    compile: bool | str = "auto",
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **more: Any,
) -> Run:
    """Train `model` (in place) on `train` by mini-batch gradient descent and return the Run, with the best weights.

    model:      any nn.Module, or the name of a ready-made one: "auto", "linear", "mlp", "table", "cnn", ..., or
                a name with options, "mlp(hidden=[64], dropout=0.2)"
    train:      anything `handful.open` reads: a path, a pair (X, y) of arrays [n, ...] and [n], a DataFrame, ...
    valid:      share of rows held out (0.1), a number of rows, other data, or None
    loss:       "auto", a name, a torch loss, or a callable (output, target) (see handful.loss)
    batch:      examples per update: an integer; "full" (batch gradient descent); 1 (stochastic); or "auto"
    micro_batch: examples through the model at a time; the update is the same whatever it is
    lr:         learning rate, the schedule's factor times this; "auto" chooses
    until:      when to stop: "epochs(50) | plateau(5)", handful.stop rules, or a number of epochs
    out:        a run folder to write (plan, history, checkpoints, report); None writes nothing
    more:       target, task, weight, score, clip_norm, clip_value, label_smoothing, ema, shuffle, evaluate_every,
                save_every, recipe options ...: see handful.options.Options

    Raises HandfulError, one sentence, for input that cannot be trained on. The global random state is left as it was.

    >>> import handful, torch
    >>> model = torch.nn.Linear(4, 3)
    >>> run = handful.fit(model, "iris", preprocess="standardize", lr=0.05, until="epochs(20)", quiet=True)
    >>> run.evaluate("iris")["accuracy"] > 0.9
    True
    """
    named = {k: v for k, v in locals().items() if k not in ("model", "train", "more", "callbacks", "out")}
    return _run(assemble(model, train, named | more, out=out), callbacks)


def resume(
    path: str | Path,
    *,
    model: Any = None,
    train: Any = None,
    callbacks: Sequence[Callback] = (),
    **given: Any,
) -> Run:
    """Go on with the run in a folder from its newest whole checkpoint; on CPU the end is the same to the bit.

    model: needed when the run trained the caller's own module; train: when it read the caller's own arrays.
    given: what else replaces the plan: a later stop (`until=`), or what a plan cannot hold (a loss, valid data).
    """
    folder = RunFolder(Path(path))
    training = assemble(model, train, given, out=path, resuming=folder.plan())
    tensors, meta, notes = checkpoint.load(folder.checkpoints)
    training.state.restore(tensors, meta, folder.history())
    folder.rewrite_history(training.state.history)
    for note in [*notes, f"resumed at step {training.state.step:,}, {training.state.position:,} examples"]:
        training.live.note(note)
    return _run(training, callbacks)


def _run(t: Training, callbacks: Sequence[Callback]) -> Run:
    """Descend; however that ends, keep the best weights and write down what there is."""
    state = t.state

    def tell(event: str, info: dict[str, Any]) -> None:
        for callback in callbacks:
            callback(event, info)

    generator_state = torch.random.get_rng_state()
    with t.live, using_threads(t.plan.threads), Interrupts() as interrupts:
        t.live.start(t.plan, t.plan.notes)
        try:
            tell("start", {"plan": t.plan, "training": t})
            state.stopped_because = descend(t, tell, interrupts)
        except KeyboardInterrupt:
            state.stopped_because = INTERRUPTED
        except (NonFiniteLoss, OutOfMemory) as error:
            if state.step == 0:
                raise
            state.stopped_because = str(error)  # what was learned before is kept
        finally:
            torch.random.set_rng_state(generator_state)
        t.save()
        restore_best(t)
        t.live.close(state.stopped_because)
    run = Run(
        t.objective.model, t.plan, state, History(state.history), t.pipeline, t.objective, state.stopped_because,
        state.best.row if state.best else None, t.folder,
    )  # fmt: skip
    if t.folder and t.ranks.rank == 0:
        lacking = extras.write(run, t, t.folder.path)
        t.folder.finish(run)
        if lacking:
            t.live.note(lacking)
    tell("end", {"run": run})
    interrupts.pass_on()
    return run


def descend(t: Training, tell: Tell, interrupts: "Interrupts") -> str:
    """Mini-batch gradient descent. Step 1, to initialise the parameters, is done: they are in `t.state`.

    Returns why it stopped.
    """
    state = t.state
    t.objective.model.train()
    mini_batches, clock = MiniBatches(t), time.perf_counter()
    while not (reason := should_stop(t, interrupts)):  # 7. repeat until it should stop
        batch = mini_batches.next()  # 2. choose a random mini-batch
        outcome, state.micro_batch = gradient_that_fits(  # 3. forward, 4. mean loss over the batch, 5. backward
            t.objective, batch, state.micro_batch, t.ranks, seed=t.plan.seed, step=state.step
        )
        rate = update(t)  # 6. update by the learning rate
        state.position += state.batch
        state.step += 1
        observe(t, outcome, rate, tell)
        grow(t)
        state.seconds, clock = state.seconds + time.perf_counter() - clock, time.perf_counter()
    return reason


class MiniBatches:
    """The mini-batches from the state's position on. Their size may change between two steps: no row is lost."""

    def __init__(self, t: Training) -> None:
        self.t = t
        self.stream: Iterator[Batch] | None = None
        self.size = 0

    def next(self) -> Batch:
        t, size = self.t, self.t.batch_size(self.t.progress())
        if self.stream is None or size != self.size:
            t.state.batch = self.size = size
            self.stream = t.batches.stream(t.state.position, size, t.ranks.share)
        return next(self.stream)


def should_stop(t: Training, interrupts: "Interrupts") -> str | None:
    """The stop rule's reason, or None; with several ranks all follow rank 0, whose clock decides."""
    return t.ranks.same_answer(INTERRUPTED if interrupts.asked else t.rule(t.progress()), t.objective.device)


class Interrupts:
    """Inside the block, Ctrl-C (and a scheduler's SIGTERM) asks the run to stop between two steps, so that no update
    is left half made; a second one raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.asked = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self.ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number: int, _frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number

    def pass_on(self) -> None:
        """Let a signal that would have ended the process do so, now that the run is written down."""
        if self.asked == signal.SIGTERM and self.before.get(signal.SIGTERM) == signal.SIG_DFL:
            signal.raise_signal(signal.SIGTERM)


def grow(t: Training) -> None:
    """Let the batch grow where that pays; what was done is said and logged."""
    if t.grower is None:
        return
    said, s = t.grower.consider(t), t.state
    if said:
        t.live.note(said)
        t.log({"step": s.step, "position": s.position, "epoch": s.position / t.examples,
               "seconds": round(s.seconds, 4), "batch": s.batch, "note": said})  # fmt: skip


def observe(t: Training, outcome: Outcome, rate: float, tell: Tell) -> None:
    """What happens between steps: log, evaluate, save. Due moments are functions of position, never of time (but
    for checkpoints, which change nothing)."""
    state = t.state
    state.window.add(outcome)
    logged, evaluated = t.due(t.log_every), t.valid is not None and t.due(t.evaluate_every)
    here = {"step": state.step, "position": state.position}
    if logged or evaluated:
        row = moment(t, rate)
        if evaluated:
            row |= {f"valid_{k}": v for k, v in evaluate(t).items()}
            keep_best(t, row)
        t.log(row)
        tell("step", here if evaluated else row)
        if evaluated:
            tell("evaluate", row)
        (t.live.evaluation if evaluated else t.live.update)(row)
    else:
        tell("step", here)
    if t.checkpoint_due(evaluated):
        t.save()
        tell("checkpoint", here)


def moment(t: Training, rate: float) -> dict[str, Any]:
    """A row of the history: where the run is, and the training scores since the last row."""
    state = t.state
    row: dict[str, Any] = {
        "step": state.step,
        "position": state.position,
        "epoch": state.position / t.examples,
        "seconds": round(state.seconds, 4),
        "batch": state.batch,
        "lr": rate,
        **state.window.scores(t.objective.metrics),
    }
    state.window = Window()
    return row


def evaluate(t: Training) -> dict[str, float]:
    """Scores on the held-out rows, with the averaged weights where there are any."""
    assert t.valid is not None
    t.ranks.same_buffers(t.objective.model)
    kept = None
    if t.state.average is not None:
        kept = copy_weights(t.objective.model)
        load_weights(t.objective.model, t.state.average)
    try:
        return t.objective.evaluate(t.valid.epoch(t.evaluation_batch))
    finally:
        if kept is not None:
            load_weights(t.objective.model, kept)


def keep_best(t: Training, row: dict[str, Any]) -> None:
    """Remember the weights if this evaluation is the best so far; equal scores are told apart by the lower loss."""
    best = t.state.best
    if best is None or t.better(row, best.row):
        weights = t.state.average or copy_weights(t.objective.model, clone=False)
        t.state.best = Best(dict(row), {k: v.clone() for k, v in weights.items()})


def restore_best(t: Training) -> None:
    """Leave the model with its best weights: of the best evaluation, or, with nothing held out, the last (averaged)."""
    state = t.state
    if state.best is not None:
        load_weights(t.objective.model, state.best.weights)
    elif state.average is not None:
        load_weights(t.objective.model, state.average)
    t.objective.model.eval()
