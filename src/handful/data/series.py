"""Which rows: ids as a caller may give them; where windows of time series begin, of one or of several in a table."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError

Rows = NDArray[np.int64]
RowsLike = Rows | range | slice | list[int] | Tensor
_REPEATED = 0.01  # share of moments that come twice in one series, as an hour does when clocks are put back


def in_series(
    when: NDArray[np.generic] | None, series: Rows, length: int, horizon: int, order: str | None, by: str | None
) -> tuple[Rows, Rows, list[str]]:
    """(the rows, series after series, each in the order of time; the places there at which windows of `length` rows and
    the next `horizon` begin, in the order of the time that each predicts; what is to be said).

    when: [n] of each row, None: each series as it stands; series: [n] codes; order, by: the columns that these come
    from, for messages. Raises HandfulError for moments that come again and again, and where no window fits.

    >>> rows, starts, _ = in_series(np.array([0, 1, 2, 0, 1]), np.array([0, 0, 0, 1, 1]), 1, 1, "day", "shop")
    >>> rows.tolist(), starts.tolist()
    ([0, 1, 2, 3, 4], [0, 3, 1])
    """
    rows = np.argsort(series, kind="stable") if when is None else np.lexsort((when, series))
    code, said = series[rows], list[str]()
    begins = np.flatnonzero(np.diff(code, prepend=-1))
    sizes = np.diff(begins, append=len(rows))
    within = np.diff(code) == 0
    time = np.arange(len(rows)) - np.repeat(begins, sizes) if when is None else when[rows]
    steps = np.diff(time.astype(np.float64))[within]
    if order is not None and len(steps):
        again = int((steps == 0).sum())
        if again > max(1, _REPEATED * len(steps)):
            way = "rows of several series are told apart by by=COLUMN" if by is None else f"also within one '{by}'"
            raise HandfulError(f"'{order}' has the same value in {again:,} pairs of neighbouring rows: {way}")
        usual = float(np.median(steps))
        longer = int((steps > 1.5 * usual).sum())
        said += [f"'{order}' has the same value in neighbouring rows, {again:,} times."] if again else []
        said += [f"{longer:,} of {len(steps):,} steps of '{order}' are longer than the usual one; windows go on over "
                 "them."] if longer else []  # fmt: skip
    many = np.maximum(sizes - length - horizon + 1, 0)
    if not many.sum():
        longest = "" if by is None else f" in the longest series of '{by}'"
        raise HandfulError(f"{sizes.max(initial=0):,} rows{longest}, too few for {length} and the next {horizon}")
    if short := int((many == 0).sum()):
        said.append(f"{short:,} of {len(sizes):,} series of '{by}' have fewer than {length + horizon} rows: no window.")
    starts = np.repeat(begins - np.cumsum(many) + many, many) + np.arange(many.sum())
    if by is not None:
        starts = starts[np.argsort(time[starts + length - (0 if horizon else 1)], kind="stable")]
    return rows, starts, said


def as_rows(rows: RowsLike, n: int) -> Rows:
    """Row ids as int64 [m]. Raises IndexError for one outside 0..n-1, TypeError for anything but a list of integers."""
    match rows:
        case slice():
            ids = np.arange(*rows.indices(n), dtype=np.int64)
        case range():
            ids = np.arange(rows.start, rows.stop, rows.step, dtype=np.int64)
        case Tensor():
            ids = rows.cpu().numpy()
        case _:
            ids = np.asarray(rows)
    if ids.size == 0:
        ids = ids.astype(np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise TypeError(f"rows must be a one-dimensional list of integers, not {ids.dtype} of shape {ids.shape}")
    ids = ids.astype(np.int64, copy=False)
    if len(ids) and (ids.min() < 0 or ids.max() >= n):
        raise IndexError(f"row {ids[(ids < 0) | (ids >= n)][0]} is outside 0..{n - 1}")
    return ids


def spread_rows(n: int, count: int) -> Rows:
    """Rows spread evenly over n, from the first to the last: `count`, or all where there are fewer.

    >>> spread_rows(8, 3).tolist(), spread_rows(2, 3).tolist()
    ([0, 3, 7], [0, 1])
    """
    return np.linspace(0, n - 1, min(n, count)).astype(np.int64)
