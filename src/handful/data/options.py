"""What the caller of `open` asked for, as every adapter needs it."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

from torch.utils.data import DataLoader

from handful.base.errors import HandfulError, whole, without_secrets
from handful.base.machine import memory_budget
from handful.data.base import Column, Rows

Size = int | tuple[int, int] | None
Names = Sequence[str] | Mapping[str, Column] | None
Collate = Callable[[list[Any]], object]


@dataclass(frozen=True)
class Options:
    """The arguments of `open`.

    name: for messages; columns: names to keep, or None for all; schema: what those columns must be (when the
    caller gave a mapping); image_size: (height, width); rate: Hz; budget: bytes that decoded images may use; bad_rows:
    "stop", "skip" or the most that may be skipped; outside: whether a table may name files outside its folder; rows:
    which rows of the whole these are, for messages, where some were skipped; decimal: the sign before decimals in the
    text that is read; untyped: whether all columns are text, as cells of a file are, and one is plainly amounts; words:
    how the target's values are written there; collate: puts samples together.
    """

    name: str
    target: str | None = None
    columns: tuple[str, ...] | None = None
    schema: Mapping[str, Column] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    rate: int | None = None
    budget: int = field(default_factory=memory_budget)
    where: str | None = None
    bad_rows: int | str = "stop"
    outside: bool = False
    rows: Rows | None = None
    decimal: str | None = None
    words: tuple[str, ...] | None = None
    untyped: bool = False
    collate: Collate | None = None

    def choosing(self, columns: Names) -> "Options":
        """The same with other columns to keep, as `open` takes them."""
        schema = columns if isinstance(columns, Mapping) else {}
        return replace(self, columns=None if columns is None else tuple(columns), schema=schema)


def checked(
    where: object,
    target: str | None = None,
    *,
    name: str | None = None,
    columns: Names = None,
    image_size: Size = None,
    rate: int | None = None,
    memory: int | None = None,
    bad_rows: int | str = "stop",
    outside: bool = False,
    collate: Collate | None = None,
) -> Options:
    """The arguments of `open`; HandfulError for one that cannot be."""
    if isinstance(columns, str):
        raise HandfulError(f"columns must be a list of names, not one string: columns=['{columns}']")
    sides = (image_size, image_size) if isinstance(image_size, Integral) else image_size
    size = tuple(sides) if isinstance(sides, Sequence) else ()
    if sides is not None and (len(size) != 2 or not all(isinstance(side, Integral) and side > 0 for side in size)):
        raise HandfulError(f"image_size must be a side or (height, width) in pixels, at least 1, not {image_size!r}")
    if rate is not None and not (isinstance(rate, Integral) and rate > 0):
        raise HandfulError(f"rate must be a whole number of Hz, at least 1 Hz, not {rate!r}")
    if bad_rows not in ("stop", "skip"):
        bad_rows = whole("bad_rows, if not 'stop' or 'skip',", bad_rows, least=0)
    if not (collate is None or callable(collate)):
        raise HandfulError(f"collate must be a function of a list of samples, not {collate!r}")
    path = str(os.fspath(where)) if isinstance(where, str | os.PathLike) else None
    of = type(where.dataset if isinstance(where, DataLoader) else where)
    held = "arrays" if of.__module__.split(".")[0] in ("builtins", "numpy", "torch") else of.__name__
    return Options(
        name=name or (path and without_secrets(path)) or held,
        target=target,
        image_size=None if sides is None else (size[0], size[1]),
        rate=rate,
        budget=memory_budget() if memory is None else whole("memory, in bytes,", memory, least=0),
        where=path,
        bad_rows=bad_rows,
        outside=outside,
        collate=collate,
    ).choosing(columns)
