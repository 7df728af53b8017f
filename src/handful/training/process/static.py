"""The step as a function of buffers that stay where they are: on a GPU captured once as one graph, and replayed.

The ids and rates of many steps ahead lie on the device, as all training rows do; where these do not fit, or the host
augments them, the mini-batches of a few steps ahead, copied there while others are computed. A step takes the next of
them and changes weights, optimizer state, averages and sums in place; Python costs it a call. The host looks where
something is due. A loss that was not finite has turned off all updates since: the run then goes back to that step and
takes it by itself, which names the rows.
"""

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from handful.base.errors import MISTAKES, HandfulError
from handful.batches.prefetch import EpochPrefetcher, pinned
from handful.data.base import Batch
from handful.optim.fused import in_place
from handful.optim.parts import needs_closure, parts_of
from handful.optim.rates import add_l1, clip
from handful.training.objective import LossSums
from handful.training.process import graphs
from handful.training.process.interrupts import Interrupts
from handful.training.special.adapted import each_of
from handful.training.special.ahead import AHEAD, coming
from handful.training.special.side_effects import Evaluations, in_python, why_unsure
from handful.training.step import OneStep, differentiate
from handful.training.training import Training
from handful.training.watch.guards import all_finite
from handful.training.watch.history import Window
from handful.training.watch.record import say
from handful.training.watch.weights import as_now, average_weight, update_average
from handful.transform.augment.base import Augment
from handful.transform.rows import blocks

DEVICES = ("cuda",)  # where steps are captured; the tests add the CPU, where they are called as they are
IDS, SOON = 1 << 18, 0.1  # at most: rows of the steps that are sent at once; seconds they take
FED = 4  # mini-batches that the device holds, where it does not hold all rows
WARM = 3  # times that a step is taken to warm up, without a trace
SAME = 0.01  # of the distance that a step moves the weights: what a replayed one may differ by


def why_not(t: Training) -> str | None:
    """Why the steps of a run cannot be graphs, as far as can be told before the first one; else None."""
    objective, optimizer, micro = t.objective, t.state.optimizer, t.state.micro_batch
    names = " and ".join(sorted({type(part).__name__ for part in parts_of(optimizer)}))
    off = torch.zeros((), device=objective.device)
    reasons = {
        "there is no CUDA device": objective.device.type not in DEVICES,
        "the step is the caller's own": t.training_step is not None,
        "the ranks exchange gradients in each step": t.ranks.size > 1,
        f"{names} evaluates the loss several times in a step": needs_closure(optimizer),
        "parts of the model have schedules of their own": bool(t.schedule.patterns),
        "the parts of each step are timed": "profile" in t.plan.choices,
        "mini-batches go through the model in parts": micro is not None and micro < t.state.batch,
        "rows without a class are looked for in each step": objective.gaps,
    }
    found = next((reason for reason, holds in reasons.items() if holds), None)
    if found is None and in_place(optimizer, [off] * len(optimizer.param_groups), off) is None:
        found = f"{names} has no fused step that reads its rate on the device, as sgd, momentum, adam and adamw have"
    return found


class Graph:
    """Takes the steps of a run, many at a time, where they can be captured."""

    def __init__(self, t: Training) -> None:
        self.t, self.most = t, 1
        choice = t.plan.choices.get("graph")
        self.open = not t.one_by_one and (choice is None or bool(choice.value)) and why_not(t) is None
        self.step: StaticStep | None = None
        self.waited = False  # a step, as what the model keeps changed

    def __enter__(self) -> "Graph":
        return self

    def __exit__(self, *_: object) -> None:
        if self.step is not None:
            self.step.look()

    def steps(self, interrupts: Interrupts) -> bool:
        """Take the next steps, up to where something is due at most. False: the next one is to be taken by itself."""
        t, s = self.t, self.t.state
        if not begun(s.optimizer):
            return False
        if self.step is not None and not self.step.holds():
            self.step = None  # its memory is free before there is another
        self.step = self.step or self.made()
        if self.step is None:
            return False
        numbers = self.ahead(self.step, 1 if s.callbacks.all else self.most)  # none: the batch has another size
        if not (numbers and self.step.draws(len(numbers))):
            self.step.look()
            if numbers:
                self.given_up("its mini-batches are of several shapes")
            return False
        with interrupts.one_update():
            if self.step.take_all(numbers) < SOON:
                self.most = min(2 * self.most, self.step.most)
            s.position, s.step = s.position + len(numbers) * s.batch, s.step + len(numbers)
        due = s.position >= t.next_moment or (s.position >= t.asked_from and t.rule(t.progress()) is not None)
        return not (due and self.step.look())  # or the run stands before a step whose loss is not finite

    def made(self) -> "StaticStep | None":
        """The step as it is now; None, and it is said why, where it cannot be captured."""
        try:
            return StaticStep(self.t)
        except graphs.Changed as error:
            if self.waited:  # what is made once, as a table of angles, was made in the step since
                self.given_up(str(error))
            self.waited = True
        except (RuntimeError, MemoryError, HandfulError, *MISTAKES) as error:
            self.given_up(str(error).splitlines()[0])
        return None

    def given_up(self, why: str) -> None:
        """Take all steps one by one from here on, and say why."""
        self.open = False
        say(self.t, f"steps are not captured as a graph but taken one by one: {why}")

    def ahead(self, step: "StaticStep", most: int) -> list[list[float]]:
        """The rate of each group in the next steps, and what the weights count for in their average."""
        t, s, numbers = self.t, self.t.state, list[list[float]]()
        if not step.unseen:
            step.rates = [float(group["lr"]) for group in s.optimizer.param_groups]
        for number, rates, _ in coming(t, most):
            assert rates is not None  # or there is a reason not to
            numbers.append([*rates, average_weight(t.ema, number)])
            for group, rate in zip(s.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        return numbers


def begun(optimizer: Optimizer) -> bool:
    """Whether the optimizer has the state that it keeps; its first step, which makes it, is taken by itself."""
    return bool(optimizer.state) or not any(g.get("momentum") or "betas" in g for g in optimizer.param_groups)


class StaticStep(OneStep):
    """Steps 2 to 6 of the algorithm on buffers. To make one warms up and captures it, and leaves no trace in the run.

    Raises HandfulError, or what torch raises, where that cannot be done.
    """

    def __init__(self, t: Training) -> None:
        self.t, self.size, self.objective, device = t, t.state.batch, t.objective, t.objective.device
        self.drawn: list[Batch] = []  # mini-batches that are to be copied, where rows do not lie on the device
        self.stream: Iterator[Batch] | None = None
        self.reached = 0  # the position of the stream
        self.lane = graphs.Lane(device)
        if t.resident is None:
            by_host = t.batches.source.serial or any(isinstance(f, Augment) for f in t.batches.transforms)
            t.resident = {} if by_host else resident(t)
        self.most = max(1, min(AHEAD, IDS // self.size)) if t.resident else FED
        self.columns = t.resident or self.ring()
        real = torch.float64 if device.type == "cpu" else torch.float32  # as the kernels take rates
        groups = len(t.state.optimizer.param_groups)
        self.start = FED  # in the ring: mini-batches go to its halves by turns
        self.ids = torch.zeros(self.most, self.size, dtype=torch.int64, device=device)
        self.numbers = torch.zeros(max(self.most, 2 * FED), groups + 1, dtype=real, device=device)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)  # which of them come next
        self.now = torch.zeros(1, groups + 1, dtype=real, device=device)  # the numbers of this step
        self.off = torch.zeros((), device=device)  # 1: this step changes nothing
        self.going = torch.ones((), dtype=torch.bool, device=device)  # whether all losses so far were finite
        self.good = torch.zeros((), dtype=torch.int64, device=device)  # steps of such losses, since the host looked
        self.totals = torch.zeros(2, dtype=torch.float64, device=device)  # loss and weight since the last row logged
        self.metrics: dict[str, Tensor] = {}
        move = in_place(t.state.optimizer, list(self.now[0, :-1].unbind()), self.off)
        assert move is not None  # or there is a reason not to
        self.move, self.run = move, self.take
        self.seeded = True
        self.unseen: list[Sequence[float]] = []  # the numbers of each step since the host looked
        self.rates: Sequence[float] = ()  # those of the step before
        self.before: torch.cuda.Event | None = None
        self.epochs = EpochPrefetcher(t.batches.order)
        self.capture()
        self.made_for, self.evaluations = self.signature(), Evaluations(t, in_python(t).values)

    def choose(self) -> Batch:
        """The next of the mini-batches that were sent. Nothing in a step depends on the host, nor is anything read
        there; each operation costs a graph about a microsecond."""
        torch.index_select(self.numbers, 0, self.at, out=self.now)
        ids = self.ids.index_select(0, self.at)[0] if self.t.resident else self.at
        columns = {name: column.index_select(0, ids) for name, column in self.columns.items()}
        if not self.t.resident:
            columns = {name: column[0] for name, column in columns.items()}
        return Batch(dict(columns), np.empty(self.size, dtype=np.int64))

    def parts(self, batch: Batch) -> tuple[Batch]:
        self.kept = [buffer.detach().clone() for buffer in self.objective.buffers]
        for parameter in self.objective.parameters:
            parameter.grad = None
        return (batch,)

    def backward(self, sums: LossSums) -> None:
        """The gradient of the mean, finite or not."""
        differentiate((sums.loss,), (sums.weight.to(sums.loss.dtype).reciprocal(),))
        self.sums = sums.detached()

    def update(self) -> None:
        """The update, and the sums. A loss that is not finite turns off its own update and all those after it; buffers
        are then as they were kept."""
        t, objective, sums, kept = self.t, self.objective, self.sums, self.kept
        with torch.no_grad():
            self.going &= (sums.loss - sums.loss) == 0  # of NaN or infinity it is NaN
            if objective.guarded:
                self.going &= all_finite([p.grad for p in t.parameters if p.grad is not None])
            self.good += self.going
            torch.logical_not(self.going & (sums.weight > 0), out=self.off)  # of no weight: nothing counts
            for buffer, before in zip(objective.buffers, kept, strict=True):
                buffer.copy_(torch.where(self.going, buffer, before))
            if t.l1:
                add_l1(t.decayed, t.l1)
            if t.clip_norm is not None or t.clip_value is not None:
                clip(t.parameters, norm=t.clip_norm, value=t.clip_value)
            self.move()  # 6. update by the learning rate
            if t.state.average is not None:
                update_average(t.state.average, t.weights(), self.now[0, -1] * self.going, t.as_last)
            self.totals += torch.where(self.going, torch.stack([sums.loss, sums.weight]), 0.0)
            for name, rows in each_of(sums.known, sums.seen).items():
                total = self.metrics.setdefault(name, torch.zeros_like(rows[0], dtype=torch.float64))
                total.copy_(torch.where(self.going, torch.cat([total[None], rows]).cumsum(0)[-1], total))
            self.at += 1

    def capture(self) -> None:
        """Warm up, capture, and hold one replay against the step that was not captured."""
        t, device, optimizer = self.t, self.t.objective.device, self.t.state.optimizer
        known, places, back = set(optimizer.state), self.places(), as_now(t.objective.model, t.state.loss)
        before = [place.clone() for place in places]
        rates = [*(float(group["lr"]) for group in optimizer.param_groups), 0.5]
        assert self.draws(1)
        self.send([rates])
        try:
            t.seed_dropout()
            before_it, on_host = in_python(t), graphs.on_host(device)
            if why := why_unsure(t, before_it):
                raise HandfulError(why)
            with graphs.aside(device):
                first = self.once()
                self.seeded = graphs.drew(device)
                for _ in range(1, WARM):
                    self.once()
            if on_host != graphs.on_host(device) or in_python(t) != before_it:
                raise graphs.Changed("the model draws random numbers, or counts, on the host, which a graph cannot do")
            if set(optimizer.state) != known:
                raise HandfulError("some parameters get their first gradient later than others")
            self.back_to(places, before)
            self.run = graphs.captured(self.take, device)
            if not squares(first, self.once()) <= SAME**2 * squares(first, before):
                raise HandfulError("a replayed step is not the step that was captured")
        except BaseException:
            back()  # in Python; else nothing has changed there
            raise
        finally:
            self.back_to(places, before)
            for parameter in set(optimizer.state) - known:
                del optimizer.state[parameter]
            for parameter in t.objective.parameters:
                parameter.grad = None

    def once(self) -> list[Tensor]:
        """The weights after one step with the first of the rows that were sent."""
        t = self.t
        t.seed_dropout()
        self.at.fill_(self.start)
        self.run()
        return [p.detach().clone() for p in t.parameters]

    def back_to(self, places: list[Tensor], values: list[Tensor]) -> None:
        """As if no step had been taken."""
        for place, value in zip(places, values, strict=True):
            place.copy_(value)
        for own in (self.at, self.good, self.totals, *self.metrics.values()):
            own.zero_()
        self.going.fill_(True)

    def places(self) -> list[Tensor]:
        """Where the weights, buffers, averages and the optimizer's state lie; the parameters that are trained first."""
        t = self.t
        state = [v for entry in t.state.optimizer.state.values() for v in entry.values() if isinstance(v, Tensor)]
        weights = [*(p.detach() for p in t.parameters), *(b.detach() for b in t.objective.buffers)]
        return [*weights, *(t.state.average or {}).values(), *state]

    def signature(self) -> list[object]:
        """What a graph holds for good."""
        t = self.t
        groups = [{k: v for k, v in g.items() if k not in ("params", "lr")} for g in t.state.optimizer.param_groups]
        return [[place.data_ptr() for place in self.places()], repr(groups), t.state.batch, t.objective.forward]

    def holds(self) -> bool:
        """Whether this is still the step of the run, which may move its weights, or grow its batch, where it looks."""
        return bool(self.unseen) or (self.signature() == self.made_for and not self.evaluations.changed())

    def draws(self, n: int) -> bool:
        """Have the next mini-batches drawn by the host, where rows do not lie on the device. Whether all are of the
        shapes that the graph is made for."""
        s = self.t.state
        if self.t.resident:
            return True
        if self.stream is None or self.reached != s.position:
            self.stream, self.reached, self.drawn = self.t.batches.stream(s.position, self.size), s.position, []
        while len(self.drawn) < n:
            self.drawn.append(next(self.stream))
        return all(same_shapes(batch, self.columns) for batch in self.drawn)

    def ring(self) -> dict[str, Tensor]:
        """Room for some mini-batches on the device. HandfulError where they are not numbers."""
        batch = self.t.objective.to_device(self.t.batches.at(self.t.state.position, self.size))
        if len(batch.tensors()) < len(batch.columns):
            raise HandfulError("its rows are not all numbers of one shape")
        return {name: value.new_empty((2 * FED, *value.shape)) for name, value in batch.tensors().items()}

    def send(self, numbers: Sequence[Sequence[float]]) -> None:
        """Put the row ids, or the rows, and the numbers of the next steps on the device, to be taken from there one
        after the other."""
        n, device, at = len(numbers), self.t.objective.device, self.t.state.position
        self.start = 0 if self.t.resident else FED - self.start
        if self.t.resident:
            rows = torch.from_numpy(self.t.batches.order[at : at + n * self.size])
            self.ids[:n].copy_(graphs.sendable(rows.view(n, -1), device), non_blocking=True)
        with self.lane.copying(self.start):
            for k, batch in enumerate(self.drawn[:n], start=self.start):
                for name, value in batch.tensors().items():
                    self.columns[name][k].copy_(value, non_blocking=True)
        values = torch.tensor(numbers, dtype=self.numbers.dtype)
        self.numbers[self.start :][:n].copy_(graphs.sendable(values, device), non_blocking=True)
        self.at.fill_(self.start)

    def take_all(self, numbers: Sequence[Sequence[float]]) -> float:
        """Take as many steps; the host runs ahead of the device by as many at most. Returns the seconds."""
        t, s, began = self.t, self.t.state, time.perf_counter()
        if not self.unseen:  # go on adding to what the window has
            window = s.window.whole()
            for place, value in zip(self.totals, (window.loss, window.weight), strict=True):
                place.fill_(value)
            for name, total in self.metrics.items():
                for place, value in zip(total, window.metrics.get(name, np.zeros(len(total))), strict=True):
                    place.fill_(float(value))
        self.epochs.reached(s.position)
        self.send(numbers)
        self.drawn, self.reached = self.drawn[len(numbers) :], s.position + len(numbers) * self.size
        for k in range(len(numbers)):
            if self.seeded:
                t.seed_dropout(k)
            self.run()
        self.lane.reads(self.start)
        self.unseen += numbers
        self.before = graphs.wait_for(self.before, t.objective.device)
        return time.perf_counter() - began

    def look(self) -> bool:
        """Wait for the device, and take the sums from it. Whether a loss was not finite: then the run stands before
        that step, which has changed nothing, nor has any since."""
        s = self.t.state
        if not self.unseen:
            return False
        good, steps = int(self.good), len(self.unseen)
        self.going.fill_(True)
        self.good.zero_()
        loss, weight = self.totals.tolist()
        s.window = Window(loss, weight, {name: total.cpu().numpy().copy() for name, total in self.metrics.items()})
        if good < steps:
            s.position, s.step = s.position - (steps - good) * self.size, s.step - (steps - good)
            for group, rate in zip(s.optimizer.param_groups, [self.rates, *self.unseen][good], strict=False):
                group["lr"] = rate
        self.unseen = []
        return good < steps


def squares(these: Sequence[Tensor], those: Sequence[Tensor]) -> float:
    return sum(float((a - b).double().square().sum()) for a, b in zip(these, those, strict=False))


def same_shapes(batch: Batch, columns: Mapping[str, Tensor]) -> bool:
    """Whether a mini-batch is as those that there is room for."""
    shapes = {name: value.shape for name, value in batch.tensors().items()}
    return shapes == {name: column.shape[1:] for name, column in columns.items()}


def resident(t: Training) -> dict[str, Tensor]:
    """All training rows as the model takes them, on its device; none where they are not numbers of one shape for every
    row, or too many."""
    n = t.examples
    kept: dict[str, Tensor] = {}
    changes = [f for f in t.batches.transforms if f is not pinned]
    for rows in blocks(n, 4096):
        batch = Batch(t.batches.source.read(rows), rows)
        for change in changes:
            batch = change(batch)
        batch = t.objective.to_device(batch)
        tensors = batch.tensors()
        kept = kept or {name: v.new_empty((n, *v.shape[1:])) for name, v in tensors.items() if graphs.room(v, n)}
        if len(kept) < len(batch.columns) or any(v.shape[1:] != kept[name].shape[1:] for name, v in tensors.items()):
            return {}
        for name, value in tensors.items():
            kept[name][rows[0] : rows[0] + len(rows)] = value
    return kept
