"""Steps 3 to 5 as the operations of torch that they come to, called one after the other, without autograd and the
model's Python in between: recorded in two steps, held to the bit against a third, then taken in their place.

Not where operations depend on the numbers in the data, or where the model does more than to call them, as far as that
can be seen; every 1,024 steps it is looked again.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from handful.base.errors import MISTAKES
from handful.base.machine import in_bytes
from handful.base.plan import Plan
from handful.data.base import Batch
from handful.training.objective import LossSums
from handful.training.special.side_effects import Evaluations, in_python, may_be_recorded, why_unsure
from handful.training.step import ExactGradient
from handful.training.training import Training
from handful.training.watch.guards import non_finite
from handful.training.watch.record import say

FROM, SHAPES, AGAIN, SPARE = 64, 4, 1024, 16  # steps before one is recorded; shapes; steps from check to check;
# of which so many may go another way
SHORT = 0.005  # seconds: longer steps would gain less than it costs to record them
DONE = "from step {:,} on torch's operations are called as recorded, without autograd and Python in between: same bits"
NOT = "operations are not called as recorded: "
UNSURE = "steps {:,} to {:,} were taken as recorded, and may not be the model's own: {}"
_HOST = {"numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "storage", "untyped_storage", "__reduce_ex__",
         "get_rng_state", "set_rng_state", "tensor_split"}  # fmt: skip
_SEES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_MASKS = (torch.bool, torch.uint8)  # what is indexed by them has as many rows as they say
_aten = torch.ops.aten
_READ = _aten._local_scalar_dense.default
Program = Callable[..., list[Tensor] | None]


class At(NamedTuple):
    """A Tensor of a recording, by its number."""

    number: int


class Operation(NamedTuple):
    """A call of torch: what it is given, with `At` for Tensors; the numbers of what it gives, and whether as a list;
    whether gradients were on, which some look at, as an LSTM's."""

    call: Any
    given: list[Any]
    named: dict[str, Any]
    out: list[int]
    listed: bool
    grad: bool

    @property
    def is_view(self) -> bool:
        """Whether all that it does is to see a Tensor in another way."""
        schema = self.call._schema
        return bool(schema.returns) and not schema.is_mutable and all(r.alias_info for r in schema.returns)


class Looks(TorchFunctionMode):
    """Whether numbers are taken out of Tensors past torch's operations."""

    taken = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        self.taken |= getattr(func, "__name__", "") in _HOST or func == torch.Tensor.data.__get__  # type: ignore[attr-defined]
        return func(*args, **(kwargs or {}))


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations of a block. Tensors have numbers: first those that are `known` before it.

    read: numbers of those whose value was asked for; others: those that neither were known nor come from an operation;
    fresh: numbers of those with memory of their own. What was asked if it is true is an operation, with the answer."""

    supports_higher_order_operators = True  # or they would fail

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it, torch imports it: 2 s

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.read, self.sees = list[Operation](), list[int](), False
        self.others, self.numbers, self.count = dict[int, Tensor](), dict[int, tuple[int, ref[Tensor]]](), 0
        self.versions, self.fresh = list[int](), set[int]()  # of the others, when they came
        for tensor in known:
            self.add(tensor)

    def add(self, given: object) -> int:
        """The next number, of a Tensor; -1 of anything else."""
        match given:
            case Tensor():
                self.numbers[id(given)] = self.count, ref(given)
                self.count += 1
                return self.count - 1
        return -1

    def noted(self, value: Any) -> Any:
        """An argument, with `At` for each Tensor."""
        match value:
            case list() | tuple():
                return [self.noted(one) for one in value]
            case Tensor():
                number, found = self.numbers.get(id(value), (-1, None))
                if found is None or found() is not value:
                    self.others[number := self.add(value)] = value
                    self.versions.append(0 if value.is_inference() else value._version)
                return At(number)
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        given, named = self.noted(args), {name: self.noted(value) for name, value in (kwargs or {}).items()}
        out = func(*args, **(kwargs or {}))
        if func is _READ:
            asked = Operation(func, given, {"is": out}, [], False, torch.is_grad_enabled())
            self.operations.append(asked) if type(out) is bool else self.read.append(given[0].number)
            return out
        by_number = func is _aten.index.Tensor and not any(i is not None and i.dtype in _MASKS for i in args[1])
        tags = {*getattr(func, "tags", _SEES)}
        turned = torch.Tag.inplace_view in tags  # as what a GRU gives
        self.sees |= (not by_number and bool(_SEES & tags)) or (turned and given[0].number not in self.fresh)
        many = type(out) in (list, tuple)
        numbers = [*map(self.add, out if many else [out])]
        self.operations.append(last := Operation(func, given, named, numbers, many, torch.is_grad_enabled()))
        if turned or not (last.is_view or func._schema.is_mutable):
            self.fresh.update(last.out)
        return out

    def same(self, other: "Recording") -> bool:
        """Whether these are the same operations, on the same Tensors or on ones made of the same numbers."""
        if self.operations != other.operations or self.others.keys() != other.others.keys():
            return False
        made = {o.given[0].number for o in self.operations if o.call is _aten.lift_fresh.default}  # by torch.tensor
        pairs = [(a, other.others[n], bits(a) if n in made else None) for n, a in self.others.items()]
        return all(a is b or (known is not None and known == bits(b)) for a, b, known in pairs)

    def changes_others(self) -> bool:
        now = [0 if value.is_inference() else value._version for value in self.others.values()]
        return now != self.versions


def bits(*tensors: Tensor) -> list[object] | None:
    """What Tensors of the same numbers have in common; None where they have no plain numbers."""
    with suppress(*MISTAKES):
        return [(tensor.dtype, tensor.shape, in_bytes(tensor)) for tensor in tensors]
    return None


def each(value: Any, change: Callable[[int], Any]) -> Any:
    """The value, with what stands for the number of each `At` in it."""
    match value:
        case At():
            return change(value.number)
        case list():
            return [each(one, change) for one in value]
    return value


def simplified(r: Recording, held: Sequence[Tensor]) -> tuple[list[Operation], dict[int, Tensor], dict[int, int]]:
    """The operations without those that come to nothing, as to transpose twice; what is the same in every step, by
    number, as views of the Tensors `held`, which stay where they are; and numbers that are another one's Tensor."""
    same, turned = dict[int, int](), dict[int, int]()
    fixed = dict(enumerate(p.detach() for p in held)) | {n: other.detach() for n, other in r.others.items()}
    kept = list[Operation]()
    for o in r.operations:
        given, named = (each(v, lambda n: At(same.get(n, n))) for v in (o.given, list(o.named.values())))
        o = o._replace(given=given, named=dict(zip(o.named, named)))
        first = next((v.number for v in given[:1] if type(v) is At), -1)
        if o.call in (_aten.detach.default, _aten.lift_fresh.default):
            same[o.out[0]] = first
        elif o.call is _aten.t.default and first in turned:
            same[o.out[0]] = turned[first]
        else:
            turned |= {o.out[0]: first} if o.call is _aten.t.default else {}
            if o.is_view and first in fixed and not o.listed:
                fixed[o.out[0]] = o.call(fixed[first], *given[1:], **o.named)
            else:
                kept.append(o)
    return kept, fixed, same


def program(r: Recording, held: Sequence[Tensor], inputs: int, wanted: Sequence[int]) -> Program:
    """The operations as one function of the inputs, whose numbers come behind those of the Tensors `held`: it gives
    those wanted, and lets go what is not needed any more; None as soon as something is true that was not, or the other
    way round."""
    (kept, fixed, same), lines, grad = simplified(r, held), list[str](), False
    scope: dict[str, Any] = {"gradients": torch._C._set_grad_enabled}

    def name(value: Any) -> str:
        scope[found := f"c{len(scope)}"] = value
        return found

    def written(value: Any) -> str:
        match value:
            case list():
                return f"[{', '.join(map(written, value))}]"
            case At(number):
                return name(fixed[number]) if number in fixed else f"t{number}"
        return name(value)

    results = [At(same.get(n, n)) for n in wanted]
    needed = {at.number for at in results}
    for o in reversed(kept):
        if o.is_view and not needed & {*o.out}:
            continue
        used = set[int]()
        each([o.given, *o.named.values()], used.add)
        gone = [n for n in {*used, *o.out} - needed - fixed.keys() if n >= len(held) + inputs]
        needed |= used
        call = [*map(written, o.given), *(f"{key}={written(value)}" for key, value in o.named.items())]
        out = ", ".join(f"t{n}" if n >= 0 else "_" for n in o.out) + "," * o.listed
        line = f" {out} = {name(o.call._op)}({', '.join(call)})"
        if o.call is _READ:
            line = f" if bool({call[0]}) is not {o.named['is']}: return None"
        if o.grad is not grad:
            lines.append(f" gradients({grad})")
        lines.append(line + "".join(f"\n del t{n}" for n in gone))
        grad = o.grad
    head = f"def run({', '.join(f't{len(held) + k}' for k in range(inputs))}):\n gradients({grad})"
    exec("\n".join([head, *reversed(lines), f" return {written(results)}"]), scope)
    found: Program = scope["run"]
    return found


@dataclass
class Body:
    """What is known of the steps of one shape: how one was recorded, it as a function, the last step that was held
    against it, how often it may still be seen to go another way; of which metrics it gives sums, of which what they
    see; which parameters have a gradient, where the weights lie."""

    first: Recording | None = None
    run: Program | None = None
    checked: int = 0
    spare: int = SPARE
    known: list[str] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    moved: list[nn.Parameter] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class Recorded:
    """Takes steps 3 to 5 of a run as they were recorded, from some step on."""

    def __init__(self, t: Training) -> None:
        self.t, self.open, self.bodies = t, True, dict[object, Body]()
        self.held = [*t.objective.parameters, *t.objective.buffers]
        self.evaluations = Evaluations(t, [])

    def parts(self, step: ExactGradient) -> Iterator[Batch]:
        """The rows that are to go through the model: none where the step is known and was taken."""
        part, tensors = step.part, step.part.tensors()
        if self.evaluations.changed():
            self.bodies.clear()  # to be recorded anew
        key = (len(part.rows), *((v.shape, v.dtype, v.is_contiguous()) for v in tensors.values()))
        body, new = self.bodies.get(key), self.open and step.step >= FROM and len(tensors) == len(part.columns)
        if body is None and new and len(self.bodies) < SHAPES and self.t.state.seconds < SHORT * step.step:
            body = self.bodies[key] = Body()
        if body is None:
            yield part
        elif body.run is None:
            yield from self.record(step, body)
        elif body.places != self.places():
            self.give_up("weights are put elsewhere")
            yield part
        elif body.checked and step.step % AGAIN and step.step & (step.step - 1):  # or a power of two
            yield from () if self.take(step, body) else self.as_it_is(step, body)
        else:
            yield from self.check(step, body)

    def as_it_is(self, step: ExactGradient, body: Body) -> Iterator[Batch]:
        """Take a step in which something is true that was not when one was recorded, or the other way round."""
        step.put_back()
        step.objective.seed_dropout(step.dropout)
        body.spare -= 1
        if body.spare <= 0:
            self.give_up("what they depend on differs from step to step")
        yield step.part

    def places(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.held]

    def give_up(self, why: str, body: Body | None = None) -> None:
        """For good. body: of a step that was held against it; those since it was last are not sure."""
        self.open = False
        self.bodies.clear()
        self.write(NOT + why)
        if body is not None and body.checked:
            say(self.t, UNSURE.format(body.checked + 2, self.t.state.step, why))

    def write(self, reason: str) -> None:
        """In the plan."""
        t = self.t
        t.plan = Plan({**t.plan.choices, "compile": replace(t.plan.choices["compile"], reason=reason)}, t.plan.notes)
        if t.folder:
            t.folder.save_plan(t.plan)

    def record(self, step: ExactGradient, body: Body) -> Iterator[Batch]:
        """Take the step, and write down its operations; make them a function once two steps had the same."""
        given = [*step.objective.parameters, *step.part.tensors().values()]
        versions = [tensor._version for tensor in given]
        before, looks, recording = in_python(self.t), Looks(), Recording([*self.held, *step.part.tensors().values()])
        with looks, recording:
            yield step.part
        body.moved = [p for p in step.objective.parameters if p.grad is not None]
        wanted = [at.number for at in recording.noted(left(step, body))]
        same = body.first is not None and recording.same(body.first)
        body.spare -= 1 if any(o.call is _READ for o in recording.operations) else body.spare
        unsure = why_unsure(self.t, before)
        whys = {
            "the model or its loss takes numbers out of Tensors": looks.taken or len(recording.read) != 2,  # our own
            "what some of them give depends on the numbers in the data": recording.sees,
            unsure or "": unsure,
            "the model changes weights or its input": versions != [tensor._version for tensor in given],
            "the model does more than to call them": in_python(self.t) != before or recording.changes_others(),
            "parameters share a gradient": len({*wanted[len(wanted) - len(body.moved) :]}) < len(body.moved),
            "they differ from step to step": body.first is not None and not (same or body.spare > 0),
        }
        if why := next((why for why, holds in whys.items() if holds), None):
            self.give_up(why)
        elif body.first is None or not same:
            body.first = recording
        else:
            body.run = program(recording, self.held, len(step.part.columns), [recording.read[1], *wanted])
            body.known, body.seen = [*step.total.known], [one[0] for one in step.total.seen]
            body.first, body.places = None, self.places()

    def check(self, step: ExactGradient, body: Body) -> Iterator[Batch]:
        """Take the step as it is, and hold what it comes to against what was recorded, to the bit."""
        assert body.run is not None
        before, found, buffers = in_python(self.t), None, step.objective.buffers
        outputs: list[Tensor] | None = []
        with suppress(*MISTAKES, MemoryError), torch.no_grad():
            outputs = body.run(*step.part.tensors().values())
            found = outputs and bits(*outputs[1:], *buffers, torch.default_generator.get_state())
        if outputs is None:
            yield from self.as_it_is(step, body)
            return
        step.put_back()
        step.objective.seed_dropout(step.dropout)
        yield step.part
        body.spare = SPARE
        if found is None or found != bits(*left(step, body), *buffers, torch.default_generator.get_state()):
            self.give_up("they do not give the bits of the step itself", body)
        elif (now := in_python(self.t)) != before:
            self.give_up("the model does more than to call them", body)
        else:
            if not body.checked and not self.evaluations.kept:
                self.write(DONE.format(step.step + 2))
            self.evaluations.kept = self.evaluations.kept if body.checked else now.values
            body.checked = step.step

    def take(self, step: ExactGradient, body: Body) -> bool:
        """Steps 3 to 5 as they were recorded, if all that was true in it is."""
        assert body.run is not None
        with torch.no_grad():
            if (found := body.run(*step.part.tensors().values())) is None:
                return False
        share, loss, weight, *more = found
        if not math.isfinite(loss.item()):
            raise non_finite(step.objective, step.part, step.step)
        k = len(body.known)
        seen = zip(body.seen, more[k::2], more[k + 1 :: 2])
        step.total = LossSums(loss, weight, dict(zip(body.known, more)), tuple(seen))
        if math.isfinite(share.item()):  # else nothing counts
            for parameter, gradient in zip(body.moved, more[k + 2 * len(body.seen) :], strict=True):
                parameter.grad = gradient
        step.passing = False
        return True


def left(step: ExactGradient, body: Body) -> list[Tensor]:
    """What steps 3 to 5 came to."""
    total = step.total
    found = [total.loss, total.weight, *total.known.values(), *chain(*(one[1:] for one in total.seen))]
    return [*found, *(p.grad for p in body.moved if p.grad is not None)]


def as_recorded(t: Training) -> Callable[[ExactGradient], Iterator[Batch]] | None:
    """What takes steps 3 to 5 of a run where they may be recorded."""
    return Recorded(t).parts if may_be_recorded(t) else None
