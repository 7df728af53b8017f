"""The loop: mini-batch gradient descent, as the textbook writes it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from handful.plan.build import assemble
from handful.runs import extras
from handful.runs.folder import RunFolder
from handful.runs.history import History
from handful.runs.run import Run
from handful.training import checkpoint
from handful.training.device import using_threads
from handful.training.interrupts import INTERRUPTED, Interrupts
from handful.training.loop import train as train_loop
from handful.training.observe import Callback, Observer, restore_best
from handful.training.step import NonFiniteLoss, OutOfMemory
from handful.training.training import Training


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
                save_every, recipe options ...: see handful.plan.config.Options

    Raises HandfulError, one sentence, for input that cannot be trained on. The global random state is left as it was.

    >>> import handful, torch
    >>> model = torch.nn.Linear(4, 3)
    >>> run = handful.fit(model, "iris", preprocess="standardize", lr=0.05, until="epochs(20)", quiet=True)
    >>> run.evaluate("iris")["accuracy"] > 0.9
    True
    """
    named = {k: v for k, v in locals().items() if k not in ("model", "train", "more", "callbacks", "out")}
    return run_training(assemble(model, train, named | more, out=out), callbacks)


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
    return run_training(training, callbacks)


def run_training(t: Training, callbacks: Sequence[Callback]) -> Run:
    """Descend; however that ends, keep the best weights and write down what there is."""
    state, observer = t.state, Observer(t, tuple(callbacks))
    generator_state = torch.random.get_rng_state()
    with t.live, using_threads(t.plan.threads), Interrupts() as interrupts:
        t.live.start(t.plan, t.plan.notes)
        try:
            observer.tell("start", {"plan": t.plan, "training": t})
            state.stopped_because = train_loop(t, observer, interrupts)
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
        t.folder.finish(run.model, run.stopped_because, run.best)
        run.report()
        if lacking:
            t.live.note(lacking)
    observer.tell("end", {"run": run})
    interrupts.pass_on()
    return run
