"""What a model gives for some rows: a Tensor, or several in the tuples, lists and dicts that it is made of."""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence

import torch
from torch import Tensor


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
    return output


def named_parts(output: object) -> Iterator[tuple[str, object]]:
    """The parts of a dict by name, `logits` first, or of a tuple or list by number; of a Tensor itself, called "".

    >>> [name for name, _ in named_parts({"hidden": 1, "logits": 2})], [name for name, _ in named_parts((1, 2))]
    (['logits', 'hidden'], ['0', '1'])
    """
    match output:
        case Mapping():
            yield from sorted(((str(k), v) for k, v in output.items()), key=lambda pair: pair[0] != "logits")
        case tuple() | list():
            yield from ((str(k), v) for k, v in enumerate(output))
        case _:
            yield "", output


def part_of(output: object, part: str) -> object:
    """The part of that name; the output itself for ""."""
    return dict(named_parts(output))[part] if part else output


def joined(outputs: Sequence[object]) -> object:
    """The outputs of several batches as one: each Tensor [n, ...]."""
    each: list[list[Tensor]] = []
    for output in outputs:
        found: list[Tensor] = []
        mapped(output, lambda o, keep=found: keep.append(o) or o)  # type: ignore[misc]
        each.append(found)
    whole = iter([torch.cat(column) if column[0].ndim else column[0] for column in zip(*each, strict=True)])
    return mapped(outputs[0], lambda o: next(whole))
