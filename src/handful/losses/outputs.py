"""What a model gives for some rows: a Tensor, or several in the tuples, lists and dicts that it is made of."""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass, replace

import torch
from torch import Tensor

from handful.base.errors import HandfulError, some

# What makes numbers like the target's of what a loss takes: a rate of its logarithm, a probability of its logit.
LINKS: dict[str, Callable[[Tensor], Tensor]] = {"exp": torch.exp, "sigmoid": torch.sigmoid, "itself": lambda x: x}


def mapped(output: object, change: Callable[[Tensor], Tensor]) -> object:
    """A model's output with each of its Tensors changed.

    >>> mapped({"a": torch.ones(2), "b": (torch.zeros(1), None)}, lambda t: t + 1)
    {'a': tensor([2., 2.]), 'b': (tensor([1.]), None)}
    """
    match output:
        case Tensor():
            return change(output)
        case tuple() if hasattr(output, "_fields"):
            return type(output)(*[mapped(o, change) for o in output])  # type: ignore[arg-type]
        case tuple() | list():
            return type(output)([mapped(o, change) for o in output])
        case MutableMapping():
            changed = copy.copy(output)  # of its own kind
            for name, value in output.items():
                changed[name] = mapped(value, change)
            return changed
        case type():
            return output
        case _ if is_dataclass(output):
            changes = {f.name: mapped(getattr(output, f.name), change) for f in fields(output)}
            return replace(output, **changes)  # type: ignore[type-var]
    return output


def named_parts(output: object) -> Iterator[tuple[str, object]]:
    """The parts of a dict or dataclass by name, `logits` first, or of a tuple or list by number; of a Tensor itself,
    called "".

    >>> [name for name, _ in named_parts({"hidden": 1, "logits": 2})], [name for name, _ in named_parts((1, 2))]
    (['logits', 'hidden'], ['0', '1'])
    """
    match output:
        case Mapping():
            yield from sorted(((str(k), v) for k, v in output.items()), key=lambda pair: pair[0] != "logits")
        case tuple() | list():
            yield from ((str(k), v) for k, v in enumerate(output))
        case _ if is_dataclass(output):
            yield from named_parts({f.name: getattr(output, f.name) for f in fields(output)})
        case _:
            yield "", output


def scores_in(output: object) -> str:
    """The name of the part of a model's output that is taken for its scores, `logits` or the only Tensor; "" for the
    output itself, which is a Tensor or leaves several to choose from.

    >>> scores_in({"hidden": torch.ones(1), "logits": torch.ones(1)}), scores_in((torch.ones(1), None))
    ('logits', '0')
    >>> scores_in((torch.ones(1), torch.ones(1))), scores_in(torch.ones(1))
    ('', '')
    """
    found = [name for name, part in named_parts(output) if name and torch.is_tensor(part)]
    return found[0] if found and (found[0] == "logits" or len(found) == 1) else ""


def loss_in(output: object) -> Tensor:
    """The loss that a model returned: itself, its part called `loss`, the only single number of a dict or the sum of
    one that holds nothing else (as those of models that find objects), or of a tuple the first.

    >>> float(loss_in((torch.ones(2, 3), torch.tensor(0.5)))), float(loss_in({"loss": torch.tensor(0.25)}))
    (0.5, 0.25)
    >>> float(loss_in({"loss_box": torch.tensor(0.25), "loss_class": torch.tensor(0.5)}))
    0.75
    """
    parts = {name: part for name, part in named_parts(output) if torch.is_tensor(part)}
    single = [part for part in parts.values() if part.ndim == 0]
    found = parts.get("loss", parts.get(""))
    if found is None and single:
        found = single[0]
        if isinstance(output, Mapping) and len(single) > 1:
            if len(single) < len(output):
                raise HandfulError(
                    f"the model returns {', '.join(n for n, p in parts.items() if p.ndim == 0)} and more: call the "
                    "number that is its loss 'loss'"
                )
            found = torch.stack(single).sum()
    if found is None:
        raise HandfulError(
            f"the model returns {type(output).__name__} without a loss in it: let it return its loss, a dict with "
            "'loss', or a tuple with one number"
        )
    return found


def losses_in(output: object) -> tuple[list[str], list[str]]:
    """The names of the losses that `loss_in` adds up, of a dict that holds several and nothing else; else of the single
    numbers beside the one that it takes.

    >>> losses_in({"box": torch.tensor(0.25), "kind": torch.tensor(0.5)}), losses_in((torch.tensor(1), torch.tensor(2)))
    ((['box', 'kind'], []), ([], ['1']))
    """
    single = [name for name, part in named_parts(output) if torch.is_tensor(part) and part.ndim == 0]
    if isinstance(output, Mapping) and "loss" not in output and len(single) == len(output) > 1:
        return single, []
    taken = loss_in(output) if len(single) > 1 else None
    return [], [
        name for name, part in named_parts(output) if name in single and part is not taken and taken is not None
    ]


CLASSES_FIRST = ".T"  # behind the name of a part: scores [m, C, T] of places, to be taken as [m, T, C]


def part_of(output: object, part: str) -> object:
    """The part of that name, of a tuple also by its place from the end; the output itself for "", and where it is one
    Tensor, as of a model that gives a loss with it only where it is called with the target.

    >>> part_of((1, 2, 3), "-2"), part_of({"a": 1}, "a"), part_of(torch.ones(1), "logits")
    (2, 1, tensor([1.]))
    >>> part_of({"a": torch.ones(2, 3, 7)}, "a.T").shape
    torch.Size([2, 7, 3])
    """
    if part.endswith(CLASSES_FIRST):
        found = part_of(output, part.removesuffix(CLASSES_FIRST))
        return found.movedim(1, -1) if torch.is_tensor(found) else found
    match output:
        case tuple() | list() if part.startswith("-") and len(output) >= -int(part):
            return output[int(part)]
        case _ if part and not torch.is_tensor(output):
            parts = dict(named_parts(output))
            if part not in parts:
                raise HandfulError(f"the model gives no '{part}' here, which it gave with the target: {some([*parts])}")
            return parts[part]
    return output


def exact(output: Tensor) -> Tensor:
    """The numbers as they are, float64 on the CPU, for what is computed of them after the model."""
    return output.detach().cpu().double()


def joined(outputs: Sequence[object]) -> object:
    """The outputs of several batches as one: each Tensor [n, ...]; where batches were padded to lengths of their own,
    with 0 behind the shorter ones. A part of a dict that is neither Tensors nor a plain value is None."""
    each = [tensors_in(output) for output in outputs]
    if len(each) > 1 and not any(each):
        raise HandfulError(
            f"the model gives a {type(outputs[0]).__name__}, and those of several batches cannot be put together: ask "
            "for fewer rows at a time"
        )
    whole = [_one(column) if column[0].ndim else column[0] for column in zip(*each, strict=True)]
    return _known(put_back(outputs[0], whole))


def _known(output: object) -> object:
    """Without objects that belong to one batch, as a cache."""
    if not isinstance(output, MutableMapping):
        return output
    for name, value in output.items():
        if not (tensors_in(value) or isinstance(value, str | int | float | None)):
            output[name] = None
    return output


def tensors_in(output: object) -> list[Tensor]:
    """The Tensors that an output is made of, in the order of `mapped`."""
    found: list[Tensor] = []
    mapped(output, lambda o: found.append(o) or o)  # type: ignore[func-returns-value]
    return found


def put_back(like: object, tensors: Sequence[Tensor]) -> object:
    """An output made as another one is, of other Tensors. HandfulError where they are not as many."""
    if len(tensors) != len(tensors_in(like)):
        raise HandfulError(
            f"the model returns {len(tensors)} Tensors for some rows and {len(tensors_in(like))} for others, which "
            "cannot be put together"
        )
    values = iter(tensors)
    return mapped(like, lambda o: next(values))


def _one(parts: Sequence[Tensor]) -> Tensor:
    if len({part.ndim for part in parts}) > 1 or len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(list(parts))
    sides = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    rows = [row for part in parts for row in part]
    out = parts[0].new_zeros(len(rows), *sides)
    for into, row in zip(out, rows, strict=True):
        into[tuple(map(slice, row.shape))] = row
    return out
