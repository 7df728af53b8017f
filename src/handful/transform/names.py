"""What training rows say of columns: whole numbers that are names (users, items, shops), which the column's name may
tell, too; numbers that stand for missing ones; a column that alone tells the target."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import some
from handful.data.base import Column, Rows, Source, Value, View
from handful.data.series import spread_rows
from handful.data.tables.cells.reading import ID_NAME, TIME_NAME
from handful.data.tables.types import TEXT, named
from handful.data.tables.values import ROWS_OF_EACH
from handful.transform.rows import chunks_of

LOOK = 10_000  # training rows that are looked at
TWICE = 2  # rows of each on average where the column's name says that they are names
FEWEST = 10  # values from which it is asked
MOST = 1 << 16  # values that may be names
_SURE = 4.0  # standard deviations by which values must differ
_SCATTER = 0.5  # of the variance between values, how much must lie between neighbours: none on a line, all by chance
_MAYBE = re.compile(
    r"(id|code|no|nr|num|number)$|(^|[_. -])(store|shop|branch|dep(t|artment)|county|state|region|district|city|"
    r"country|firm|company|school|subject|patient|person|user|customer|client|item|product|article|brand|team|player|seller|"
    r"vendor|group|cluster|site|station|sensor|device|machine|meter|zone|route|event|filiale|kunde|artikel|category|type)"
    r"s?([_. -]|$)|[店户品]$",
    re.I,
)
_MISSING = {sign * (10**k - 1) for k in range(2, 10) for sign in (-1, 1)}  # 99, -999, ...: what often stands for it
_FEW, _SOME = 50, 2_000  # rows from which on something is said of columns; rows that are looked at for it
_TELLS = 1e-3  # of the target's variance, what a column leaves open that tells it
Floats = NDArray[np.float64]


class Named(View):
    """A source in which some columns of whole numbers are categories: a number's class is the text that it is.

    >>> import handful
    >>> rows = Named(handful.open({"shop": [7, 3, 7], "y": [0.5, 1.5, 0.25]}, target="y"), {"shop": np.array([3, 7])})
    >>> rows.columns["shop"].classes, rows.take([0, 1])["shop"].tolist()
    (('3', '7'), [1, 0])
    """

    def __init__(self, base: Source, values: Mapping[str, NDArray[np.int64]]) -> None:
        ordered = {name: sorted(map(str, known.tolist())) for name, known in values.items()}
        found = {name: Column("category", "int64", (), tuple(names), type=str(TEXT)) for name, names in ordered.items()}
        super().__init__(base, {name: found.get(name, column) for name, column in base.columns.items()})
        self.known = values
        self.places = {n: np.argsort(np.argsort([str(v) for v in known.tolist()])) for n, known in values.items()}

    def read(self, rows: Rows) -> dict[str, Value]:
        return {name: self._coded(name, value) for name, value in self.base.read(rows).items()}

    def read_column(self, name: str, rows: Rows) -> Value:
        return self._coded(name, self.base.read_column(name, rows))

    def _coded(self, name: str, value: Value) -> Value:
        if name not in self.known or not isinstance(value, Tensor):
            return value
        numbers, known = value.numpy(), self.known[name]
        at = np.searchsorted(known, np.nan_to_num(numbers)).clip(max=len(known) - 1)
        return torch.from_numpy(np.where(known[at] == numbers, self.places[name][at], -1))


def names_in(source: Source, keep: Sequence[str | None] = ()) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """The values of the columns of whole numbers that are names, of training rows, and a sentence on each. keep:
    columns that are needed as they are.

    A column is names where it is called so (user_id), or where it may be (store) and values of the target differ from
    one number to another, and from one to the next as much as between any two: they have no order that says anything.
    Ranks of a target of numbers are compared, 0 and 1 for each class of others. Of real tables' other columns, a weight
    that each of some patients has in many rows looks the same.
    """
    maybe = (name for name in source.inputs if name not in keep and (ID_NAME.search(name) or _MAYBE.search(name)))
    asked = [name for name in maybe if _whole(name, source.columns[name])]
    goal = source.columns[source.target] if source.target else None
    if not asked or goal is None or goal.varies or goal.kind not in ("number", "category", "tensor"):
        return {}, []
    rows = spread_rows(len(source), LOOK)
    look = source.take(rows, [*asked, source.target or ""])
    y = _outputs(look.tensor(source.target or "").numpy(), goal)
    found, notes = dict[str, NDArray[np.int64]](), list[str]()
    for name in asked:
        x = look.tensor(name).numpy()
        kept = np.isfinite(x) & np.isfinite(y).all(1)
        different, called = len(np.unique(x[kept])), ID_NAME.search(name) is not None
        fewest = TWICE if called else ROWS_OF_EACH
        if not kept.any() or (x[kept] % 1 != 0).any() or different * fewest > kept.sum() or different <= 2 * called:
            continue
        if not called and not scattered(x[kept], y[kept]):
            continue
        parts = [np.unique(batch.tensor(name).numpy()) for batch in chunks_of(source, [name])]
        values = np.unique(np.concatenate(parts))
        values = values[np.isfinite(values)]
        if len(values) > MOST or (values % 1 != 0).any():
            continue
        values = values.astype(np.int64)
        why = "as its name says" if called else "those next to one another differ as much as any two"
        notes.append(
            f"'{name}' holds whole numbers that stand for names ({why}): a category with {len(values):,} values."
        )
        found[name] = values
    return found, notes


def _whole(name: str, column: Column) -> bool:
    kind = named(column.type or column.dtype)
    plain = kind != TEXT or (column.type == str(TEXT) and not column.unit)  # floats, too, as gaps make of whole numbers
    return (
        column.kind == "number" and plain and kind != pa.bool_() and column.dates is None and not TIME_NAME.search(name)
    )


def _outputs(y: NDArray[np.generic], column: Column) -> Floats:
    """The target as columns [m, k] whose means may be compared."""
    flat = y.reshape(len(y), -1).astype(np.float64)
    values = np.unique(flat[np.isfinite(flat)])
    if flat.shape[1] > 1:
        return flat
    if column.classes is not None or len(values) <= 20:
        return (flat == values[None, :]).astype(np.float64) if len(values) <= 300 else flat
    ranks = np.argsort(np.argsort(flat, axis=0), axis=0) / len(flat)
    return np.where(np.isfinite(flat), ranks, np.nan)


def scattered(x: NDArray[np.generic], y: Floats) -> bool:
    """Whether y [m, k] differs between the values of x [m] (by F), and between neighbours as much as between any two
    (by the mean square of successive differences, von Neumann 1941, less the noise within a value).

    >>> draw = np.random.default_rng(0)
    >>> x = draw.integers(0, 40, 4000)
    >>> noise, of_value = draw.normal(size=(4000, 1)), draw.normal(size=(40, 1))
    >>> scattered(x, noise), scattered(x, noise + x[:, None] / 10), scattered(x, noise + of_value[x])
    (False, False, True)
    """
    values, group, counts = np.unique(x, return_inverse=True, return_counts=True)
    m, g = len(x), len(values)
    if g < FEWEST or m <= 2 * g:
        return False
    means = np.stack([np.bincount(group, y[:, k]) for k in range(y.shape[1])], 1) / counts[:, None]
    within = ((y - means[group]) ** 2).sum() / (m - g)
    between = (counts[:, None] * (means - y.mean(0)) ** 2).sum() / (g - 1)
    if between <= within * (1 + _SURE * np.sqrt(2 / (g - 1) + 2 / (m - g))):
        return False
    variance = (between - within) * (g - 1) / (m - (counts**2).sum() / m)
    pairs = counts[:-1] * counts[1:] / (counts[:-1] + counts[1:])  # how sure the difference of two neighbours is
    apart = (pairs * ((means[:-1] - means[1:]) ** 2).sum(1)).sum() - within * (g - 1)
    return bool(apart / pairs.sum() / 2 > _SCATTER * variance)


def doubtful(source: Source, names: Sequence[str]) -> list[str]:
    """Sentences on what may be wrong with a table that can be learned from: numbers far from all others that often
    stand for a missing one, in the inputs `names` or the target; one of several inputs that tells the target alone.

    >>> import handful
    >>> table = {"x": [*range(1, 80), -999] * 2, "paid": [1, 3] * 80, "y": ["no", "yes"] * 80}
    >>> for note in doubtful(handful.open(table, target="y"), ["x", "paid"]):
    ...     print(note)
    'x' is -999 in 2 of 160 rows, far from all others (1 to 79): if it stands for a missing value, leave it empty.
    'y' is told by 'paid' alone: if that is not known where predictions are made, leave it out: columns='-paid'.
    """
    goal = source.target
    single = [name for name in names if source.columns[name].kind in ("number", "category")]
    if len(source) < _FEW or goal is None or not single or source.columns[goal].kind not in ("number", "category"):
        return []
    look = source.take(spread_rows(len(source), _SOME), [*single, goal])
    numbers = [name for name in (*single, goal) if source.columns[name].kind == "number"]
    plain = {name: look.tensor(name).double().numpy() for name in numbers}
    found = [_stands_for_missing(name, x) for name, x in plain.items() if source.columns[name].dates is None]
    y = look.tensor(goal).double().numpy()
    classes = source.columns[goal].classes is not None or len(np.unique(y)) <= 20
    telling = [name for name in single if tells(look.tensor(name).double().numpy(), y, classes)]
    if 0 < len(telling) < len(names):
        out = ", ".join(f"-{name}" for name in telling)
        found.append(f"'{goal}' is told by {some([repr(name) for name in telling])} alone: if that is not known where "
                     f"predictions are made, leave it out: columns='{out}'.")  # fmt: skip
    return [note for note in found if note]


def _stands_for_missing(name: str, x: Floats) -> str:
    """Where the least or greatest of x [m] is of nines alone, in two rows or more, and as far from the others as half
    of what lies between these, or below zero where no other is."""
    x = x[np.isfinite(x)]
    for value in {x.min(), x.max()} & _MISSING if len(x) else ():
        others, count = x[x != value], int((x == value).sum())
        if count < 2 or len(others) < _FEW // 2:
            continue
        low, high = others.min(), others.max()
        if TIME_NAME.search(name) and 2 * low > value > 0:  # the year 99 after 92 and 95
            continue
        if max(low - value, value - high) > (high - low) / 2 or value < 0 <= low:
            return (f"'{name}' is {value:.0f} in {count:,} of {len(x):,} rows, far from all others ({low:.6g} to "
                    f"{high:.6g}): if it stands for a missing value, leave it empty.")  # fmt: skip
    return ""


def tells(x: Floats, y: Floats, classes: bool) -> bool:
    """Whether x [m] alone tells y [m]: a class for each of a few values, or between two bounds; or, where y is numbers,
    so that each second y lies on a line between its neighbours by x but for a thousandth of the
    variance, one in fifty aside.

    >>> x = np.linspace(0, 1, 100)
    >>> tells(x, np.floor(2.9 * x), True), tells(x, np.sin(3 * x), False), tells(x, x + np.arange(100) % 2, False)
    (True, True, False)
    """
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = x[kept], y[kept]
    if len(y) < _FEW or y.min() == y.max():
        return False
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    values, starts, counts = np.unique(x, return_index=True, return_counts=True)
    if not classes:
        off = np.sort((y[1::2] - np.interp(x[1::2], x[::2], y[::2])) ** 2)
        return len(values) > _FEW // 2 and float(off[: -len(off) // 50].sum()) < _TELLS * len(off) * float(y.var())
    ends = starts + counts - 1
    pure = bool((y[starts] == y[ends]).all())
    return pure and bool(10 * len(values) <= len(y) or np.count_nonzero(np.diff(y)) < len(np.unique(y)))
