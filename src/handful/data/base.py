"""What every source of rows is: named columns, a length, and one vectorised read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError, did_you_mean, shown, whole
from handful.data.series import RowsLike, as_rows, in_series

Rows = NDArray[np.int64]
Kind = Literal["number", "category", "text", "image", "audio", "tokens", "tensor", "several", "collated"]
T = TypeVar("T")
NO_MOMENT = (None, "time of day", "duration")  # `Column.dates` of what is no moment in time


class Ragged(NamedTuple):
    """Rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`.

    values: [total, ...]; offsets: int64 [m + 1].
    """

    values: Tensor
    offsets: Tensor


# What m rows of one column are: of fixed shape, a Tensor [m, ...]; of different lengths; or m strings. Which of them is
# known from the column: `Column.varies`, `Column.kind`; `Batch.tensor`, `.ragged` and `.strings` give it its type.
Value = Tensor | Ragged | list[str]


@dataclass(frozen=True)
class Column:
    """What a column holds.

    kind:    number    one number per row (integers and booleans too)
             category  one of a few strings per row; values are int64 codes into `classes`, -1 where missing
             text      one string per row
             image     [channels, height, width] per row: uint8, or int32 or float32 where pictures are deeper
             audio     samples, float32, of varying length: a Ragged; `rate` in Hz
             tokens    integers of varying length: a Ragged
             tensor    any other fixed-shape block of numbers
             several   [k] per row of a target of k columns: codes of classes and numbers side by side, float64
             collated  whatever a collate function of the caller's makes of some rows
    dtype:   NumPy's name ("float32", "uint8"), "bfloat16" or "str"; shape: of one row, None where it varies
    labels:  what the zeros and ones of a tensor [k] stand for, where they came from lists of strings
    dates:   how a number, seconds since 1970 (UTC), or since midnight for "time of day", is written as a date in text:
             one of DATES in tables/cells/dates.py; set for dates of typed columns, too
    type:    Arrow's name of the type that the values were of: whether a number stands for a date, a time or a truth
             value, whether a category came as whole numbers, its codes; None where that is not known
    decimal: the sign before the decimals of a number, where it was read from text
    words:   how the values of a target are written in the text they were read from, where Python writes them otherwise
    unit:    what a number in text has before or behind it ("€", "%", "kg"), or ""
    missing: what stands in text for a number that is missing, other than the usual marks; ("",): all that is none
    open:    whether strings of a category that are not among `classes` are classes, too, behind the known ones, when
             data are read as those of training; else they are missing
    separator: what stands between the values of a tensor [k] in the cells of a text: numbers, or labels
    parts:   of a target of several columns: what each of them holds
    """

    kind: Kind
    dtype: str
    shape: tuple[int | None, ...] = ()
    classes: tuple[str, ...] | None = None
    rate: int | None = None
    labels: tuple[str, ...] | None = None
    dates: str | None = None
    open: bool = False
    decimal: str | None = None
    unit: str = ""
    missing: tuple[str, ...] = ()
    type: str | None = None
    words: tuple[str, ...] | None = None
    separator: str | None = None
    parts: tuple["Column", ...] = ()

    @property
    def varies(self) -> bool:
        """Whether rows differ in length, so that a read gives a Ragged."""
        return None in self.shape


@dataclass
class Batch:
    """Some rows: one value per column, and where each row came from.

    rows:    int64 [m], row ids in the source
    columns: name -> Tensor [m, ...], Ragged, or list of m strings
    After the pipeline of transforms a training batch has the columns `x` (or several named inputs), `y` and,
    if rows are weighted, `weight`.
    """

    columns: dict[str, Value]
    rows: Rows
    drawn_in: Rows | None = None
    position: int = 0

    @property
    def epochs(self) -> Rows:
        """The epoch each row was drawn in, int64 [m]; 0 when it was not drawn by an Order."""
        return np.zeros(len(self.rows), dtype=np.int64) if self.drawn_in is None else self.drawn_in

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Value:
        return self.columns[name]

    @property
    def weight(self) -> Tensor | None:
        """The weights of the rows [m], or None where all count the same."""
        return self.tensor("weight") if "weight" in self.columns else None

    def replace(self, columns: Mapping[str, Value]) -> "Batch":
        """The same rows with other columns."""
        return Batch(dict(columns), self.rows, self.drawn_in, self.position)

    def on_tensors(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with `change` done to each column that is a Tensor."""
        return self.replace(self.columns | {name: change(value) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The columns that are Tensors."""
        return {name: value for name, value in self.columns.items() if isinstance(value, Tensor)}

    def tensor(self, name: str) -> Tensor:
        """The column as a Tensor; a TypeError if it is ragged or text."""
        return self._typed(name, Tensor)

    def ragged(self, name: str) -> Ragged:
        """The column of rows of different lengths; a TypeError if it is none."""
        return self._typed(name, Ragged)

    def strings(self, name: str) -> list[str]:
        """The column of text; a TypeError if it holds anything else."""
        return self._typed(name, list)

    def _typed(self, name: str, kind: type[T]) -> T:
        value = self.columns[name]
        if not isinstance(value, kind):
            raise TypeError(f"column '{name}' is {type(value).__name__}, not {kind.__name__}")
        return value


class Source(ABC):
    """Rows that can be read by id.

    name:      for messages: the path or "arrays"
    columns:   name -> Column, in order
    target:    name of the target column, or None
    notes:     sentences on what was guessed, dropped or converted, to be printed for the user
    in_memory: True if a read costs no more than a copy (then no prefetch thread is used)
    where:     what handful.open would need to open it again (a str), or None if only the caller has it
    horizon:   of windows of a time series, how many steps ahead a row predicts; 0 of other rows
    starts:    of windows, int64 [n], where each begins: those less than `horizon` apart predict some of the same values
    serial:    whether it is read by code of the caller's that draws random numbers, or puts rows together: one batch
               after the other, with what it draws keyed by the batch
    whole:     why the rows of a batch cannot be told apart in what is read, or None where they can
    collate:   the caller's function that puts rows together, if one does
    left_out:  (rows that cannot be read and are not counted here, `bad_rows` as it was given); None with "stop"
    """

    name: str = "data"
    columns: dict[str, Column]
    target: str | None = None
    notes: list[str]
    in_memory: bool = True
    where: str | None = None
    horizon: int = 0
    starts: Rows | None = None
    serial: bool = False
    whole: str | None = None
    collate: Callable[[list[Any]], object] | None = None
    left_out: tuple[Rows, int | str] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    def __repr__(self) -> str:
        what = f"{self.name}: {len(self):,} rows, {len(self.columns)} columns, target {self.target}"
        return shown(f"<{type(self).__name__} {what}>")

    @abstractmethod
    def read(self, rows: Rows) -> dict[str, Value]:
        """The values of `rows` (int64 [m], checked to be in range), in that order; one vectorised read."""

    def read_column(self, name: str, rows: Rows) -> Value:
        """One column of `rows`, without reading the others where the source can avoid it."""
        return self.read(rows)[name]

    def cheap(self, name: str) -> bool:
        """Whether reading this whole column costs no more than a copy (then a split may look at it)."""
        return self.in_memory

    def prefetcher(self) -> Callable[[Rows], int] | None:
        """What asks for rows before they are read, and returns how many bytes it asked for; None where nothing does, as
        where all rows are read ahead, from now on."""
        return None

    def check_window(self, rows: int) -> None:
        """Raise HandfulError if a shuffle window of so many rows would be fetched again and again."""
        return

    def take(self, rows: RowsLike, columns: Iterable[str] | None = None) -> Batch:
        """The given rows, in the given order, repeats allowed; of all columns or of those named.

        Raises IndexError when a row id is outside 0..len-1.
        """
        ids = as_rows(rows, len(self))
        if columns is None:
            return Batch(self.read(ids), ids)
        return Batch({name: self.read_column(name, ids) for name in columns}, ids)

    def column(self, name: str) -> Column:
        """What a column holds; HandfulError if there is none of that name."""
        if name not in self.columns:
            raise HandfulError(f"{self.name} has no column '{name}'.{did_you_mean(name, self.columns)}")
        return self.columns[name]

    @property
    def inputs(self) -> list[str]:
        """The names of all columns but the target."""
        return [name for name in self.columns if name != self.target]

    def subset(self, rows: Rows) -> "Source":
        """A view of some rows: row i of the view is row `rows[i]` of this source."""
        return Subset(self, np.asarray(rows, dtype=np.int64))

    def samples(self, rows: Rows) -> Sequence[object]:
        """The rows one by one, as a collate function takes them: x, a pair (x, y), or a dict of names."""
        read = self.read(rows)
        parts = {name: _one_by_one(value, self.columns[name]) for name, value in read.items()}
        if list(parts) == ["x"]:
            return parts["x"]
        if list(parts) == ["x", "y"]:
            return list(zip(parts["x"], parts["y"], strict=True))
        return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]

    def windows(
        self,
        length: int,
        horizon: int = 1,
        *,
        order: str | None = None,
        by: str | None = None,
        target: str | None = None,
    ) -> "Windows":
        """Windows of the rows, of one time series or, told apart `by` a column, several: see `Windows`."""
        return Windows(self, length, horizon, order, by, target or self.target)


def _one_by_one(value: Value, column: Column) -> list[object]:
    match value:
        case Tensor() if column.classes is not None:
            return [column.classes[code] if code >= 0 else None for code in value.tolist()]
        case Ragged(values, offsets):
            return list(torch.split(values, offsets.diff().tolist()))
    return list(value)


class View(Source):
    """Another source, seen differently: what a subclass does not change is as in `base`.

    columns: those of the view, each with the values of its namesake in `base`; all by default. A view of other rows
    names them by `ids` and its length; one of other values overrides `read_column`, or `read` where that is faster.
    """

    def __init__(self, base: Source, columns: Mapping[str, Column] | None = None) -> None:
        self.base, self.columns = base, base.columns if columns is None else dict(columns)
        self.name, self.where, self.notes, self.in_memory = base.name, base.where, base.notes, base.in_memory
        self.horizon, self.starts, self.serial = base.horizon, base.starts, base.serial
        self.whole, self.collate, self.left_out = base.whole, base.collate, base.left_out
        self.target = base.target if base.target in self.columns else None

    def __len__(self) -> int:
        return len(self.base)

    def ids(self, rows: Rows) -> Rows:
        """The rows of `base` that `rows` of the view are."""
        return rows

    def read(self, rows: Rows) -> dict[str, Value]:
        return {name: self.read_column(name, rows) for name in self.columns}

    def read_column(self, name: str, rows: Rows) -> Value:
        return self.base.read_column(name, self.ids(rows))

    def cheap(self, name: str) -> bool:
        return self.base.cheap(name)

    def prefetcher(self) -> Callable[[Rows], int] | None:
        ask = self.base.prefetcher()
        return None if ask is None else lambda rows: ask(self.ids(rows))

    def check_window(self, rows: int) -> None:
        self.base.check_window(rows)


class Subset(View):
    """Some rows of another source, without a copy."""

    def __init__(self, base: Source, rows: Rows) -> None:
        super().__init__(base)
        self.rows = as_rows(rows, len(base))
        self.starts = None if base.starts is None else base.starts[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def ids(self, rows: Rows) -> Rows:
        return self.rows[rows]

    def read(self, rows: Rows) -> dict[str, Value]:
        return self.base.read(self.rows[rows])


class Windows(View):
    """Row i: `x`, float32 [length, columns], the numbers of `length` rows of a time series, one after another, and the
    target in the next `horizon` rows, float32 [] or [horizon].

    order: a column of numbers or dates by which the rows are sorted, and which is not in x; the one column of dates
    where there is just one; else they stand in order.
    by: a column that tells several series apart, and is not in x: no window has rows of two. Windows stand in the order
    of time. The past of the target is in x. A run holds out the last windows, and leaves out those before that predict
    some of the same values. horizon=0: x alone, up to the last row, for `predict`. last: int64 [n], where each ends.

    >>> import handful
    >>> rows = handful.open({"t": [3, 1, 2, 4], "sold": [30.0, 10.0, 20.0, 40.0]}, target="sold").windows(2, order="t")
    >>> rows.take(range(len(rows)))["x"].squeeze(2).tolist(), rows.take([0, 1])["sold"].tolist()
    ([[10.0, 20.0], [20.0, 30.0]], [30.0, 40.0])
    """

    starts: Rows

    def __init__(
        self, base: Source, length: int, horizon: int, order: str | None, by: str | None, target: str | None
    ) -> None:
        length, horizon = whole("length", length, least=1), whole("horizon", horizon, least=0)
        if target is None or target == "x" or base.column(target).kind != "number":
            raise HandfulError(f"windows of {base.name} need target=, a column of numbers that is not called x")
        dated = [n for n, c in base.columns.items() if c.dates not in NO_MOMENT and n not in (by, target)]
        self.order, self.by = dated[0] if order is None and len(dated) == 1 else order, by
        names = [name for name in base.columns if name not in (self.order, by)]
        other = next((name for name in names if base.columns[name].kind != "number"), None)
        if other is not None:
            raise HandfulError(
                f"column '{other}' of {base.name} is {base.columns[other].kind}, and windows hold numbers: leave it "
                "out with columns=..., write it as numbers, or, if it tells several series apart, name it in by=..."
            )
        goal = Column("tensor", "float32", (horizon,)) if horizon > 1 else Column("number", "float32")
        future = {target: goal} if horizon else {}
        super().__init__(base, {"x": Column("tensor", "float32", (length, len(names)))} | future)
        self.length, self.horizon, self.names, self.where = length, horizon, names, None
        self.target = target if horizon else None
        when = None if self.order is None else _told(base, self.order, ("number",), "the rows cannot be ordered by it")
        told = None if by is None else _told(base, by, ("number", "category", "text"), "series cannot be told by it")
        self.series: Rows = np.zeros(len(base), np.int64) if told is None else np.unique(told, return_inverse=True)[1]
        self.sorted, self.starts, said = in_series(when, self.series, length, horizon, self.order, by)
        self.last: Rows = self.sorted[self.starts + length - 1]
        said = ([f"The rows are a series in the order of '{self.order}', the one column of dates."]
                if order != self.order else []) + said  # fmt: skip
        said = [f"Each row is a window: {', '.join(names)} of {length} rows; it predicts '{target}' in "
                f"{'the next row' if horizon == 1 else f'each of the next {horizon} rows'}.", *said]  # fmt: skip
        self.notes = [*base.notes, *said]

    def ids(self, rows: Rows) -> Rows:
        return self.last[rows]

    def __len__(self) -> int:
        return len(self.starts)

    def read_column(self, name: str, rows: Rows) -> Value:
        first, many = (0, self.length) if name == "x" else (self.length, self.horizon)
        at = self.sorted[self.starts[rows][:, None] + np.arange(first, first + many)].reshape(-1)
        names = self.names if name == "x" else [name]
        taken = self.base.take(at, names)
        values = torch.stack([taken.tensor(name).to(torch.float32) for name in names], 1)
        return values.view(len(rows), many, -1) if name == "x" else values.view(len(rows), -1).squeeze(1)


def _told(base: Source, name: str, kinds: tuple[str, ...], why: str) -> NDArray[Any]:
    """The values of a column, one of each row. Raises HandfulError for other kinds, and for a row that lacks one."""
    column = base.column(name)
    if column.kind not in kinds or column.shape:
        raise HandfulError(f"column '{name}' of {base.name} is {column.kind}, so {why}")
    values = np.asarray(base.take(range(len(base)), [name]).columns[name])
    for row in np.flatnonzero(values < 0 if column.kind == "category" else values != values)[:1]:
        raise HandfulError(f"column '{name}' of {base.name} lacks a value in row {row}, so {why}")
    return values
