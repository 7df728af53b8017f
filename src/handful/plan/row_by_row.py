"""Whether a model treats the rows of a batch one by one, and keeps nothing from one call to the next, found by trying
it on a few rows before step 1: what does not is said."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from handful.base import stopwatch
from handful.base.errors import MISTAKES, HandfulError, some
from handful.base.keys import drawing, drawn, seed_all
from handful.base.machine import wide
from handful.data.base import Batch
from handful.data.series import spread_rows
from handful.losses.outputs import part_of, scores_in, tensors_in
from handful.plan.config import Config
from handful.plan.data import Data
from handful.plan.defaults import Chooser
from handful.plan.dry_run import quietly
from handful.training.objective import Objective
from handful.training.special.coupling import mode_coupling, rows, training_mode
from handful.training.special.side_effects import may_change_rows
from handful.training.training import Training
from handful.training.watch.weights import buffers_kept, left_as_it_was, marks

TRIED = "trying the model on a few rows"
MOST = 1 << 23  # weights whose gradients are looked at
_OF_ANY_LENGTH = ("text", "audio", "tokens", "collated")


def read_again(data: Data, callbacks: Sequence[object], chooser: Chooser) -> None:
    """Have rows read in every step where callbacks may change what a data set of the caller's gives."""
    for source in {id(part): part for part in (data.train, data.held_out) if part is not None}.values():
        if callbacks and not source.in_memory and may_change_rows(callbacks, source):
            source.serial = True
            chooser.notes.append(f"{source.name} is read again in every step: callbacks may change it.")


@stopwatch.part(TRIED)
def put_together(data: Data, chooser: Chooser) -> None:
    """Say where what a collate function gives for a row depends on the rows beside it. HandfulError where it puts them
    in an order of its own: predictions would be those of other rows."""
    n = min(4, len(data.train)) if data.train.collate is not None and data.train.whole is None else 0
    places = [0, n - 1, *range(1, n - 1)]  # the others beside the first

    def given(order: Sequence[int]) -> tuple[list[Tensor], bool]:
        found, draws = drawn(lambda: data.train.take(spread_rows(len(data.train), n)[[*order]]))
        return [t for t in found.tensors().values() if t.ndim and len(t) == n], draws

    def alike(some: Sequence[Tensor], others: Sequence[Tensor], rows: slice, at: Sequence[int] = range(n)) -> bool:
        pairs = zip(some, others, strict=True)
        return all(a.shape == b.shape and torch.equal(a[[*at]][rows], b[rows]) for a, b in pairs)

    if n < 3:
        return
    (first, draws), (again, _), (moved, _) = given(range(n)), given(range(n)), given(places)
    if not alike(first, again, slice(None)) or alike(first, moved, slice(1 if draws else n), places):
        return
    if not draws and alike(first, moved, slice(None)):
        raise HandfulError(
            f"the collate function of {data.train.name} puts rows in an order of its own, so that predictions would be "
            "those of other rows: let it leave them as they are (pack_padded_sequence has enforce_sorted=False)"
        )
    chooser.notes.append(
        "what the collate function gives for a row depends on the rows beside it, as with MixUp and CutMix; held-out "
        "rows, scores and predictions are of such rows, too: augment='mixup' or 'cutmix' mixes rows in training alone"
    )


@stopwatch.part(TRIED)
def called_again(objective: Objective, sample: Batch, output: object) -> list[str]:
    """What it means where the model, called on the same rows again in evaluation mode, gives anything but `output`, in
    words."""

    objective.model.eval()
    with torch.no_grad():
        again, draws = drawn(lambda: objective.forward(sample.on_tensors(torch.clone)))
    if draws:
        return [
            "the model draws random numbers in evaluation mode, too: scores are of one draw, a prediction of a new one"
        ]
    pairs = zip(tensors_in(output), tensors_in(again), strict=True)
    if all(torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in pairs):
        return []
    return ["called twice on the same rows, in evaluation mode, the model gives other outputs: it keeps something "
            "between calls that is no buffer, and scores, micro-batches and loaded runs depend on it"]  # fmt: skip


def _changed_by_a_call(objective: Objective, batch: Batch) -> str | None:
    """What the model changes when it is called in training mode, of its weights and buffers, and of its attributes
    where the next call depends on them, in words; None where nothing. Weights are left as they were."""
    model = training_mode(objective.model)
    moved = _looked_at(model)

    def unlike(name: str, value: Tensor) -> bool:
        return name not in kept or not torch.equal(value, kept[name] + 0.01 if name in moved else kept[name])

    def held() -> Iterator[tuple[str, Tensor]]:
        return chain(model.named_parameters(), model.named_buffers())

    def given() -> list[Tensor]:
        seed_all(0)
        return tensors_in(objective.forward(objective.to_device(batch)))

    with torch.no_grad(), drawing("try"):
        kept, first = {name: value.detach().clone() for name, value in held()}, marks(model)
        try:
            for weight in moved.values():
                weight.add_(0.01)  # else what follows the weights, as an average does, is at first what it will be
            output = given()
            names, now = [name for name, value in held() if unlike(name, value)], marks(model)
            if now != first and not all(map(torch.equal, output, given())):
                names += [name for name, mark in now.items() if mark != first.get(name)]
        finally:  # also after Ctrl-C
            for name, weight in model.named_parameters():
                weight.copy_(kept[name])
    return f"the model changes {some(list(dict.fromkeys(names)))} at each call in training mode" if names else None


def rows_at_once(options: Config, objective: Objective, chooser: Chooser) -> int | None:
    """Rows of a mini-batch whose loss is computed at once; None for all of them."""
    if objective.coupling:
        why = "a mini-batch is kept whole: its loss cannot be computed in parts"
        chooser.set("micro_batch", None, "found", why)
    elif options.micro_batch not in (None, "auto"):
        chooser.set("micro_batch", int(options.micro_batch), "given")
    else:
        chooser.set("micro_batch", None, "default", "the whole batch; halved when memory runs out")
    micro: int | None = chooser.choices["micro_batch"].value
    return micro


@stopwatch.part(TRIED)
def beside(objective: Objective, data: Data, count: int) -> list[str]:
    """That what the model gives for a row depends on the rows beside it, in evaluation mode, in words; nothing where it
    does not, or where that cannot be told, as of one that draws random numbers. count: of the rows that are tried."""
    model, ids = objective.model, spread_rows(len(data.train), count)
    m, varies = len(ids), any(c.varies or c.kind in _OF_ANY_LENGTH for c in data.train.columns.values())

    def take(places: Sequence[int]) -> Batch:
        return objective.to_device(data.pipeline(data.train.take(ids[places])))

    def length(place: int) -> int:
        return sum(t.numel() for t in tensors_in(list(take([place]).columns.values()))) if varies else 0

    few = sorted(sorted(range(m), key=lambda i: (length(i), abs(i - m / 2)))[: max(1, min(4, m // 2))])
    every = take(range(m))  # the shortest; else in the middle, with rows before and behind; which may be drawn
    alone = take(few) if varies else Batch({k: v[few] for k, v in every.tensors().items()}, ids[few])

    def given(some: Batch, seed: int = 0) -> list[Tensor]:
        seed_all(seed)
        with buffers_kept(model):
            output = objective.forward(some)
        found = tensors_in(part_of(output, scores_in(output)) if objective.of_model else output)  # and not its state
        return [t for t in found if t.is_floating_point() and t.ndim and len(t) == len(some)]

    def differ(whole: Sequence[Tensor], apart: Sequence[Tensor]) -> bool:
        found, again = zip(*(_common(a[few], b) for a, b in zip(whole, apart, strict=True)), strict=True)
        return _apart(found, again, objective)

    def look() -> bool:
        whole, read = given(every), [list(some.tensors().values()) for some in (every, alone)]
        drawn_anew = varies and differ(*read)  # the rows are others when they are read again
        return not drawn_anew and differ(whole, given(alone)) and all(map(torch.equal, whole, given(every, 1)))

    with contextlib.suppress(*MISTAKES):
        if m > 1 and quietly(model, look):
            why = "as with attention or softmax over the first axis, or where it observes ranges"
            if _padded(every, alone):
                why = "as it takes padding for values: let its forward take lengths or attention_mask"
            return [
                f"what the model ({type(model).__name__}) gives for a row depends on the rows beside it, in evaluation "
                f"mode, too, and so do predictions and scores, {why}"
            ]
    return []


def _padded(every: Batch, few: Batch) -> bool:
    """Whether rows are padded to another length when fewer are read together."""
    shapes = ([t.shape[1:] for t in tensors_in(list(batch.columns.values()))] for batch in (every, few))
    return any(a != b for a, b in zip(*shapes, strict=True))


def _common(some: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The places that both have, float64."""
    places = tuple(slice(min(sizes)) for sizes in zip(some.shape, others.shape, strict=True))
    return wide(some[places]), wide(others[places])


def tried_of(batch: int, part: int) -> int:
    """How many rows `uneven` is tried on: at most twice a part, and as much work as a step of the batch.

    >>> tried_of(64, 32), tried_of(8, 4), tried_of(32, 1)
    (16, 4, 2)
    """
    return max(2, min(16, batch // 2, 2 * part))


def of_pairs(t: Training) -> None:
    """HandfulError where ranks are to compare rows together, and the model gives numbers of pairs of rows: each rank
    would have those of its own share alone."""
    batch, found = t.objective.to_device(t.batches.at(0, min(3, t.examples))), list[list[torch.Size]]()
    with contextlib.suppress(*MISTAKES):
        for some_rows in (batch, rows(batch, slice(0, 2))):
            output = quietly(t.objective.model, partial(t.objective.forward, some_rows))
            found.append([part.shape[1:] for part in tensors_in(output)])
    if found[:1] != found[1:]:
        raise HandfulError(
            f"the model ({type(t.objective.model).__name__}) compares the rows of a mini-batch itself, and on "
            f"{t.ranks.size} ranks would compare those of each rank's share: let it give something for each row, as an "
            "embedding, and the loss compare them; or train on one rank, with join=False"
        )


@stopwatch.part(TRIED)
def uneven(t: Training, part: int) -> str | None:
    """Why the gradient of a mini-batch is not the sum of that of parts of so many rows, as its layers tell, or as the
    first rows show; None where it is."""
    model, objective = training_mode(t.objective.model), t.objective
    if why := mode_coupling(model) or (not objective.over_ranks and objective.coupling):
        return why
    if t.ranks.sharding or t.training_step is not None:
        return None
    for name, layer in model.named_modules():
        if getattr(layer, "scale_grad_by_freq", False):
            return f"layer '{name}' ({type(layer).__name__}) divides its gradient by how often a word is in the batch"
    batch = t.batches.at(0, tried_of(min(t.examples, t.state.batch), part))
    with left_as_it_was(model), contextlib.suppress(*MISTAKES, MemoryError):  # said at the first step, or in parts
        few = rows(batch, slice(0, 2))
        return _changed_by_a_call(objective, few) or _uneven_backward(objective, objective.to_device(batch))
    return None


def _looked_at(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained weights by name; of a large model the smallest, as biases, which each layer has, and those with hooks
    of their own."""
    found: dict[str, nn.Parameter] = {}
    numbers = 0
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    for name, weight in sorted(weights, key=lambda pair: pair[1].numel()):
        numbers += weight.numel()
        if numbers <= MOST or not found or weight._backward_hooks:
            found[name] = weight
    return found


def _uneven_backward(objective: Objective, batch: Batch) -> str | None:
    """That gradients of parts of a batch, in training mode, do not add up to that of the batch, in words; None where
    they do, or where that cannot be told."""
    weights, m = list(_looked_at(objective.model).values()), len(batch)

    def given(*parts: slice) -> list[Tensor]:
        total, weight = [torch.zeros_like(w) for w in weights], 0.0
        for part in parts:
            some_rows = rows(batch, part).on_tensors(torch.clone)
            sums = objective.sums_of(objective.forward(some_rows), some_rows, metrics=False)
            found = torch.autograd.grad(sums.loss, weights, materialize_grads=True)
            total = [a + b for a, b in zip(total, found, strict=True)]
            weight += float(sums.weight)
        return [g.div_(weight) for g in total]

    def look() -> str | None:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as of the variance of one row
            training_mode(objective.model)
            whole, draws = drawn(lambda: given(slice(0, m)))
            if draws:
                return "the model draws random numbers in training, as dropout does, and parts of a batch draw others"
            least = 0.01 * max(float(g.abs().amax()) for g in whole if g.numel())
            if _apart(whole, given(slice(0, m // 2), slice(m // 2, m)), objective, least):
                return "gradients of parts do not add up to that of the batch (a hook, or a layer that sees all rows?)"
            return None

    return quietly(objective.model, look) if m > 1 else None


def _apart(some: Sequence[Tensor], others: Sequence[Tensor], objective: Objective, least: float = 0.0) -> bool:
    """Whether they differ by more than rounding does. least: a size below which a Tensor may be rounding alone, as the
    gradient of a bias before a normalisation is."""
    close = max(1e-3, 8 * torch.finfo(objective.autocast or objective.dtype).eps)
    pairs = ((a, b) for a, b in zip(some, others, strict=True) if a.numel())
    return any(float((a - b).abs().amax()) > close * max(float(a.abs().amax()), least) for a, b in pairs)
