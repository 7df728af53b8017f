"""fit(), resume(), load() and replay(): a run from what the user gives to what is left of it."""

import copy
import errno
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, Never, Unpack, cast

import torch
from torch import nn

from handful.base import files
from handful.base.callbacks import Callback
from handful.base.errors import HandfulError, StepError, shown
from handful.base.keys import left_alone
from handful.base.stopwatch import STEPS, TRACE, Stopwatch, part, stopwatch
from handful.data.base import Batch
from handful.data.options import Collate
from handful.plan.build import adopt, assemble
from handful.plan.config import Config, ConfigOptions, spelled_out
from handful.report.live import Live
from handful.report.spent import BACKWARD, COPYING, FORWARD, LOSS, UPDATE, WAITING
from handful.runs.judge import extras
from handful.runs.replay import Replay, take_again
from handful.runs.run import BROKEN_OFF, DONE, SPENT, UNSAVED, Run, open_run
from handful.training import loop
from handful.training.loop import StepByStep
from handful.training.objective import Objective
from handful.training.process import checkpoint
from handful.training.process.device import choose_device, using_threads
from handful.training.process.exchange import same_start
from handful.training.process.interrupts import INTERRUPTED, Interrupts
from handful.training.process.messages import PeerLost
from handful.training.process.parallel import Ranks, joined, restarted
from handful.training.special.exact import OverRanks
from handful.training.step import ExactGradient
from handful.training.training import Training
from handful.training.watch.folder import RunFolder
from handful.training.watch.history import History
from handful.training.watch.observe import Observer, restore_best
from handful.training.watch.record import save
from handful.training.watch.recovery import train
from handful.training.watch.saved import restore

ENDS = {DONE: "finished", BROKEN_OFF: "failed"}
PATIENCE = 0.5  # seconds of a look at the held-out rows: whoever interrupts a run waits for one more, for its page
UNTRACED, TRACED = 10, 20  # steps of a profile before the trace, and in it
PARTS = (  # of a step: whose method, and what its time is called
    (StepByStep, "choose", WAITING), (Objective, "to_device", COPYING), (Objective, "sums_of", LOSS),
    (ExactGradient, "backward", BACKWARD), (OverRanks, "backward", BACKWARD), (loop, "update", UPDATE),
)  # fmt: skip


@spelled_out
def fit(
    model: str | nn.Module,
    train: object,
    *more: Never,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[ConfigOptions],
) -> Run:
    """Train `model` (in place) on `train` by mini-batch gradient descent and return the Run, with the best weights.

    model: any nn.Module, or the name of a ready-made one: "auto", "linear", "mlp", "table", "cnn", ..., or
        a name with options, "mlp(hidden=[64], dropout=0.2)"
    train: anything `handful.open` reads: a path, a pair (X, y) of arrays [n, ...] and [n], a DataFrame, ...
    out: a run folder to write (plan, history, checkpoints, report); None writes nothing
    callbacks: called as callback(event, info): "start", "step", "evaluate", "checkpoint", "end"; see `handful.callback`
    {options}

    Raises HandfulError, one sentence, for input that cannot be trained on. The global random state is left as it was.

    >>> import handful, torch
    >>> model = torch.nn.Linear(4, 3)
    >>> run = handful.fit(model, "iris", preprocess="standardize", lr=0.05, until="epochs(20)", quiet=True)
    >>> run.evaluate("iris")["accuracy"] > 0.9
    True
    """
    if more:
        raise HandfulError("inputs and target are one argument, a pair: fit(model, (x, y))")
    with stopwatch(), joined_as(options) as ranks:
        given_by, asked = [str(out or "")], options.get("resume") or restarted()
        if ranks.size > 1:
            given_by = ranks.gather(given_by[0])
        if any(given_by) and not given_by[0]:
            raise HandfulError("rank 0 writes the run folder: give out= there, too, or on every rank")
        out = given_by[0] or None
        if out is not None and ranks.told("yes" if asked and RunFolder(Path(out)).holds_run() else "no") == "yes":
            given = {name: value for name, value in options.items() if name not in ("resume", "overwrite")}
            return _go_on(ranks, out, model, train, callbacks, cast(ConfigOptions, given))
        training = assemble(model, train, dict(options), out=out, ranks=ranks, callbacks=callbacks)
        return _ended(training, callbacks, model, train, options)


@contextmanager
def joined_as(options: ConfigOptions) -> Iterator[Ranks]:
    """The ranks of a run with these options; inside, gradients are there, also where the caller has turned them off."""
    asked = Config.of(options)
    ranks = joined(choose_device(asked.device).value, asked.timeout, alone=not asked.join)
    with left_alone(), torch.inference_mode(False), torch.enable_grad(), ranks as found:
        yield found


def resume(
    path: str | Path,
    *,
    model: str | nn.Module | None = None,
    train: object = None,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[ConfigOptions],
) -> Run:
    """Go on with the run in a folder from its newest whole checkpoint; on CPU the end is the same to the bit.

    model: needed when the run trained the caller's own module; train: when it read the caller's own arrays.
    The options that are given replace the plan's, where that makes no other run of it: a later stop (`until=`), another
    rate, schedule or batch; besides them, what a plan cannot hold is given again (a loss, data). "auto" leaves a choice
    as the run made it. Raises HandfulError, by name, for what cannot be changed.
    """
    with joined_as(options) as ranks:
        return _go_on(ranks, path, model, train, callbacks, options)


def _go_on(
    ranks: Ranks, path: str | Path, model: str | nn.Module | None, train: object, callbacks: Sequence[Callback],
    options: ConfigOptions,
) -> Run:  # fmt: skip
    folder = RunFolder(Path(path))
    plan = folder.plan()
    if ranks.rank == 0:
        folder.hold()
    try:
        training = assemble(model, train, dict(options), out=path, resuming=plan, ranks=ranks, callbacks=callbacks)
        tensors, meta, notes = checkpoint.load(folder.checkpoints)
        restore(training.state, tensors, meta)
        adopt(training, plan)
        same_start(ranks, training.plan, training.objective.model, training.state.step)
        training.folder = folder
        if ranks.rank == 0:
            folder.go_on(training.plan, training.state.history)
    except BaseException:
        folder.release()
        raise
    for note in [*notes, f"resumed at step {training.state.step:,}, {training.state.position:,} examples"]:
        training.live.note(note)
    return _ended(training, callbacks, model, train, options)


def _ended(
    training: Training, callbacks: Sequence[Callback], model: str | nn.Module | None, train: object,
    options: ConfigOptions,
) -> Run:  # fmt: skip
    """The run after its last step; one that broke off is told where all else is quiet."""
    run = run_training(training, callbacks)
    if options.get("quiet") and run.exit_status == BROKEN_OFF and run.rank == 0:
        print(f"handful: {shown(run.stopped_because)}", file=sys.stderr)
    return _replayable(run, model, train, options)


def load(
    path: str | Path, *, model: nn.Module | None = None, loss: object = None, collate: Collate | None = None,
    device: str = "auto",
) -> Run:  # fmt: skip
    """The run in a folder, for predict, evaluate, report and export; needs no training data.

    model: an instance of the caller's own module, when that was what the run trained; loss: the caller's own loss
    likewise, without which the loss of an evaluation is not a number; collate: the one that put its samples together.
    """
    run = open_run(path, model=model, loss=loss, collate=collate, device=device)
    return _replayable(run, model, None, {} if loss is None else {"loss": loss})


def _replayable(run: Run, model: str | nn.Module | None, train: object, options: Mapping[str, object]) -> Run:
    """The run, which can take its steps again: with what its plan cannot hold, as it was given."""
    if run.path is not None:
        choices = run.plan.choices
        own: dict[str, Any] = {
            name: value for name, value in options.items() if name in choices and not choices[name].reproducible
        }
        own |= {} if choices["model"].reproducible else {"model": model}
        own |= {} if choices["data"].reproducible else {"train": train}
        run.again = partial(replay, run.path, **own)
    return run


def replay(
    path: str | Path,
    step: int | Literal["worst", "spike"] = "worst",
    *,
    model: nn.Module | None = None,
    train: object = None,
    **options: Unpack[ConfigOptions],
) -> Replay:
    """Take one step of the run in a folder again, from the newest checkpoint before it; the folder stays as it is.

    step: counted from 1; the step after the last one is that at which a run broke off. "worst": the logged step of the
        highest training loss; "spike": of the steepest rise over those before it
    model, train, options: what a plan cannot hold, as for `resume`; the model is not changed

    On CPU it is the run's own step to the bit. Raises HandfulError for a step that the run did not come to.
    """
    folder = RunFolder(Path(path))
    plan, given = folder.plan(), {**options, "quiet": True}
    return take_again(folder, step, lambda: assemble(copy.deepcopy(model), train, given, out=path, resuming=plan))


def run_training(t: Training, callbacks: Sequence[Callback]) -> Run:
    """Descend; however that ends, keep the best weights and write down what there is."""
    try:
        t.state.callbacks.take(callbacks)
        with stopwatch() as watch:
            return _run_training(t, watch)
    except BaseException as error:
        try:
            t.state.callbacks.end({"run": None, "status": "failed", "error": error})
        except Exception as other:
            error.add_note(f"and then a callback failed, too: {other!r}")
        raise
    finally:
        if t.folder:
            t.folder.release()


def _run_training(t: Training, watch: Stopwatch) -> Run:
    state, observer = t.state, Observer(t)
    status = DONE
    with t.live, using_threads(t.plan.threads), Interrupts() as interrupts:
        t.live.start(t.plan.choices, t.plan.notes, t.planned, t.pipeline.unit)
        try:
            observer.tell("start", {"plan": t.plan, "training": t})
            observer.begin()
            with part(STEPS), watched(t, watch):
                state.stopped_because = observer.ended(train(t, observer, interrupts))
        except KeyboardInterrupt:
            if interrupts.held or t.ranks.sharding:  # in the middle of an update: what was saved last stays
                raise
            state.stopped_because = INTERRUPTED
            t.ranks.leave(KeyboardInterrupt())
        except PeerLost:  # the last whole step stays, and whoever started the ranks starts them again
            if t.looked_at == state.step and not (t.ranks.sharding or state.torn):
                save(t)
            raise
        except StepError as error:
            if state.step == 0:
                raise
            state.stopped_because, status = f"it broke off: {error}", BROKEN_OFF  # what was learned before is kept
        unsaved = save(t) if t.looked_at == state.step and not state.torn else observer.unsaved  # or from before
        state.stopped_because += restore_best(t)
        t.live.close(state.stopped_because)
    if state.stopped_because == INTERRUPTED:
        status = interrupts.exit_status
    run = Run(
        t.objective.model, t.plan, state, History(state.history), t.pipeline, t.objective, state.stopped_because,
        state.best.row if state.best else None, t.folder, status, unsaved, t.ranks.rank,
        spent=watch.so_far())  # fmt: skip
    if t.folder and t.ranks.rank == 0:
        write_down(run, t, watch)
    state.callbacks.end({"run": run, "status": ENDS.get(status, "interrupted")})
    interrupts.pass_on()
    return run


@contextmanager
def watched(t: Training, watch: Stopwatch) -> Iterator[None]:
    """Where a profile was asked for, time the parts of each step and trace some; the loop has no line for it."""
    if "profile" not in t.plan.choices:
        yield
        return
    steps, profiler = count(), torch.profiler.profile()

    def stop_tracing() -> None:
        if watch.open[-1] == TRACE:
            profiler.stop()
            if t.folder and t.ranks.rank == 0:
                write_trace(profiler, t.folder.path / "trace.json", t.live)
            watch.leave()

    def choose(step: StepByStep) -> Batch:
        if (taken := next(steps)) == UNTRACED:
            watch.enter(TRACE)
            profiler.start()
        elif taken == UNTRACED + TRACED:
            stop_tracing()
        return chosen(step)

    if t.objective.device.type != "cpu":
        watch.wait = partial(torch.accelerator.synchronize, t.objective.device)
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in PARTS]
    for owner, name, label in PARTS:
        setattr(owner, name, watch.timed(getattr(owner, name), label))
    chosen = StepByStep.choose
    setattr(StepByStep, "choose", choose)  # noqa: B010
    model = t.objective.model
    before = model.register_forward_pre_hook(lambda *_: watch.enter_step(FORWARD))
    after = model.register_forward_hook(lambda *_: watch.leave_step(), always_call=True)
    try:
        yield
    finally:
        for owner, name, method in kept:
            setattr(owner, name, method)
        before.remove()
        after.remove()
        stop_tracing()
        watch.wait = None


def write_trace(profiler: torch.profiler.profile, path: Path, live: Live) -> None:
    """Write what was traced; said where that cannot be done. torch does not say whether it could write all of it."""
    try:
        with files.atomic(path) as temporary:
            try:
                profiler.export_chrome_trace(str(temporary))
                json.loads(temporary.read_bytes())
            except ValueError:
                raise OSError(errno.EIO, "torch could write a part of it alone") from None
            finally:
                temporary.with_name(f"{temporary.name}.tmp").unlink(missing_ok=True)  # torch's own
    except HandfulError as error:
        live.note(f"the trace is not saved: {error}")


def write_down(run: Run, t: Training, watch: Stopwatch) -> None:
    """The end of the run in its folder. What cannot be written is said aloud: the trained model is there in memory."""
    assert t.folder is not None
    lacking = None
    try:
        t.folder.finish(run.model, run.stopped_because, run.best, run.history)
        looks = sum("valid_loss" in row for row in run.history)
        if run.stopped_because != INTERRUPTED or run.spent.get("held-out rows", 0.0) <= PATIENCE * looks:
            lacking = extras.write(t.folder.path, t)
        if run.unsaved:
            run.exit_status = UNSAVED
            print(
                f"handful: the model is saved, but not the last state of the run: {shown(run.unsaved)}", file=sys.stderr
            )
    except HandfulError as error:
        run.unsaved, run.exit_status = str(error), UNSAVED
        print(f"handful: what the run learned is not saved: {shown(run.unsaved)}", file=sys.stderr)
    try:
        run.spent = watch.so_far()
        files.write_json(t.folder.path / SPENT, run.spent)
        run.report()
    except HandfulError as error:
        if not run.unsaved:
            again = f"handful report {files.said(t.folder.path)}"
            print(f"handful: the run is saved, but for its page: {error}; {again} writes it", file=sys.stderr)
    if lacking:
        t.live.note(lacking)
