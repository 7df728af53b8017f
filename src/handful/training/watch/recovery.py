"""The way on where a step went wrong: in smaller parts, past a mini-batch, back to a checkpoint."""

from collections.abc import Callable, Iterable

from handful.base.errors import StepError
from handful.base.keys import position
from handful.data.base import Batch
from handful.training.loop import StepByStep, descend
from handful.training.process.interrupts import Interrupts
from handful.training.special.coupling import training_mode
from handful.training.special.exact import OverRanks
from handful.training.special.own_step import ByHand
from handful.training.step import NOTHING
from handful.training.training import Training
from handful.training.watch.folder import Held
from handful.training.watch.guards import NonFiniteLoss, in_parts_that_fit
from handful.training.watch.record import fit_in, rose_at, save, say
from handful.training.watch.saved import restore
from handful.training.watch.weights import as_now, changed

SKIPS, RETURNS = 10, 5  # at most: mini-batches passed over in a row; times that a run goes back

DRAWN = "the model draws random numbers in training, as dropout does, and each rank draws its own"


class StepOfRun(StepByStep):
    """The steps of a run. What the model and its loss keep beside weights and buffers is put back with these, if the
    first step changed some of it."""

    def __init__(self, t: Training, interrupts: Interrupts) -> None:
        super().__init__(t, interrupts)
        self.back: Callable[[], None] | None = None
        self.choose = self.remember  # type: ignore[method-assign]

    def remember(self) -> Batch:
        if self.back is not None and not self.changed():
            self.back = None
            del self.choose
        else:
            self.back = as_now(self.objective.model, self.t.state.loss)
        return super().choose()

    def changed(self) -> bool:
        return bool(changed(self.objective.model, self.t.state.beside, self.t.state.loss)[0])

    def undone(self, error: BaseException) -> None:
        """Where that was not kept, the checkpoint before stays."""
        if self.back is not None:
            self.back()
        else:
            self.t.state.torn = self.changed()
        super().undone(error)


class StepOfRanks(OverRanks, StepOfRun):
    """The steps of a run of several ranks."""

    looked = False  # whether the model draws random numbers

    def parts(self, batch: Batch) -> Iterable[Batch]:
        found = super().parts(batch)  # from here on dropout has its key
        self.before = None if self.looked or not len(batch) else position()
        return found

    def update(self) -> None:
        """Say so after the first pass, if it does."""
        if self.before is not None:
            self.looked = True
            if self.before != position():
                say(self.t, DRAWN)
        super().update()


def train(t: Training, moment: Callable[[], None], interrupts: Interrupts) -> str:
    """`descend`, which goes on at the same step in parts of half as many rows where memory runs out, and as
    `on_nonfinite` says after a loss that is not finite; from before its rate rose where that was open."""

    def from_here(micro_batch: int | None) -> str:
        fit_in(t, micro_batch)
        training_mode(t.objective.model)
        return descend(t, kind(t, interrupts), moment, interrupts)

    own, ranks = t.training_step is not None, t.ranks.size > 1
    kind = ByHand if own else StepOfRanks if ranks else StepOfRun
    if t.folder is None and t.on_nonfinite == "rollback" and t.held is None:
        t.held = Held()
        save(t, due=True)
    while True:
        try:
            return in_parts_that_fit(t.state.micro_batch, from_here)[0]
        except NonFiniteLoss as error:
            lost = error
        match t.on_nonfinite:
            case "skip":
                skip(t, lost)
                moment()
            case "rollback":
                go_back(t, lost)
            case _ if t.folder and rose_at(t) >= 0:  # nobody asked for that rate
                go_back(t, lost)
            case _:
                raise lost


def skip(t: Training, lost: NonFiniteLoss) -> None:
    """Pass over a mini-batch: a step without an update. Raises where that leads nowhere."""
    state = t.state
    many = state.skipped[0] + 1 if state.skipped[1] == state.step else 1
    if lost.in_weights:
        raise lost
    if many > SKIPS:
        raise StepError(f"{SKIPS} mini-batches in a row had to be skipped, and the next: {lost}")
    state.position, state.step = state.position + state.batch, state.step + 1
    state.skipped = [many, state.step]
    say(t, f"the mini-batch of step {state.step:,} was skipped: {lost}")
    state.window.added.append(NOTHING)


def go_back(t: Training, lost: NonFiniteLoss) -> None:
    """To the newest checkpoint; from there the same rows come in the same order, at half the learning rate. Raises
    where that leads nowhere."""
    state, times = t.state, len(t.state.went_back) + 1
    said = [int(number) for text in t.ranks.gather(f"{lost.in_rows:d} {state.back}") for number in text.split()]
    if any(said[::2]):  # on whichever rank
        raise lost
    if times > RETURNS:
        raise StepError(f"the run went back {RETURNS} times, at half the learning rate each, and again: {lost}")
    to, vault = min(said[1::2]), t.folder or t.held
    assert vault is not None
    seconds, went_back = state.seconds, [*state.went_back, to]
    restore(state, *vault.checkpoint(to))
    state.seconds, state.went_back, t.next_moment = seconds, went_back, 0
    if t.folder is not None:
        t.folder.behind = True  # the rows after that checkpoint are of a past that is given up
    say(
        t,
        f"{lost}; the run went back to step {to:,} and goes on at half the learning rate ({times} of at most {RETURNS} "
        "times)",
    )
    save(t, due=True)
