"""Training and validation rows, as a pure function of the seed; and what `valid` means."""

import re
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handful.base import keys
from handful.base.errors import HandfulError, whole
from handful.data.base import Column, Rows, Source, View, Windows

Groups = str | NDArray[np.generic] | list[int] | list[str] | None
Stratify = bool | str


# Unasked, no more rows are held out than tell scores well enough: predicting 200,000 takes as long as learning them.
SHARE, MOST = 0.1, 20_000


@dataclass(frozen=True)
class HeldOut:
    """How many rows `valid=` holds out, and which: at random; `by` a column, in whole groups, which are not learned
    from; or the `last` ones, as they come or in the order of a column.

    >>> HeldOut.of("20 by patient"), HeldOut.of("last 0.2"), HeldOut.of("last 0.2 by date").by, HeldOut.of("test.csv")
    (HeldOut(share=20, by='patient', last=False), HeldOut(share=0.2, by=None, last=True), 'date', None)
    """

    share: float
    by: str | None = None
    last: bool = False

    @classmethod
    def of(cls, valid: object, rows: int = 0) -> "HeldOut | None":
        """What `valid=` says, of so many rows: a fraction (a float) or a count (an int), or such words; None where it
        is data."""
        match valid:
            case None:
                return cls(0)
            case str() if valid == "auto":
                return cls(SHARE if rows * SHARE <= MOST else MOST)
            case Real():
                return cls(valid)  # type: ignore[arg-type]
            case str() if words := re.fullmatch(r"(last +)?(\d+|\d*\.\d+)( +by +(.+?))?", valid.strip()):
                share = float(words[2]) if "." in words[2] else int(words[2])
                return cls(share, words[4], bool(words[1]))
        return None


def held_out(source: Source, rows: HeldOut, seed: int = 0, classes: bool = False) -> tuple[Source, Source | None]:
    """Training and validation rows. Windows of a time series are never drawn at random: the last are held out.
    classes: whether the target is known to be such, however many whole numbers it holds.

    >>> from handful.data.open import open
    >>> train, valid = held_out(open("iris"), HeldOut(30, last=True))
    >>> len(train), len(valid), valid.take([0]).tensor("target").tolist()
    (120, 30, [2])
    """
    if not rows.share:
        return source, None
    if isinstance(source, Windows) and rows.by is not None:
        if not rows.last and rows.by == source.by:
            return split(source, rows.share, seed, groups=source.series[source.last])
        if not rows.last or rows.by != source.order:
            raise HandfulError(
                f"of windows the last are held out, or whole series by their column in windows, not by '{rows.by}'"
            )
        rows = HeldOut(rows.share, last=True)
    if rows.last or source.horizon:
        return _latest(source, rows)
    train, held = split(source, rows.share, seed, groups=rows.by, classes=classes)
    if rows.by is None:
        return train, held
    kept = {name: column for name, column in source.columns.items() if name != rows.by}
    left = View(held, kept)
    left.notes = [*held.notes, f"'{rows.by}' says which rows belong together, and is not learned from."]
    return View(train, kept), left


def _latest(source: Source, rows: HeldOut) -> tuple[Source, Source]:
    """The last rows, those of one moment together, are held out; of windows, those before that predict the same values
    as the first of them are left out altogether."""
    n, count = len(source), rows_held_out(len(source), rows.share, source.name)
    order, first = np.arange(n), n - count
    if rows.by is not None:
        source.column(rows.by)
        when = _values(source, rows.by)
        if when is None or when.dtype.kind not in "iufb" or source.columns[rows.by].kind != "number":
            raise HandfulError(f"column '{rows.by}' holds no numbers or dates, so it cannot order the rows")
        for row in np.flatnonzero(np.isnan(when))[:1]:
            raise HandfulError(f"column '{rows.by}' lacks a value in row {row}, so that row has no place in time")
        order = np.argsort(when, kind="stable")
        first = int(np.searchsorted(when[order], when[order[first]]))
    before = order[:first]
    if source.starts is not None and source.horizon > 1:
        held_at, at = np.sort(source.starts[order[first:]]), source.starts[before]
        near = np.minimum(np.searchsorted(held_at, at - source.horizon + 1), len(held_at) - 1)
        before = before[np.abs(held_at[near] - at) >= source.horizon]
    if not len(before):
        raise HandfulError(f"the last {count:,} of {n:,} rows of {source.name} leave no earlier ones to train on")
    train, held = (source.subset(np.sort(ids)) for ids in (before, order[first:]))
    lost = first - len(before)
    gap = f"; {lost} before them, which predict some of the same values, are left out" if lost else ""
    by = f" by '{rows.by}'" if rows.by else ""
    held.notes = [*held.notes, f"The last {len(held):,} of {n:,} rows{by} are held out for validation{gap}."]
    return train, held


def split(
    source: Source,
    valid: float | int | Source = 0.1,
    seed: int = 0,
    *,
    stratify: Stratify = "auto",
    groups: Groups = None,
    classes: bool = False,
) -> tuple[Source, Source]:
    """Two views of `source`, (train, valid), that share no row; the same for the same seed.

    valid: a fraction of the rows in (0, 1), a count of rows, or a Source that is taken as it is.
    stratify: "auto": by class when the target is a category or a few whole numbers; every class is then in
    training, and every class with 2 rows or more in both parts, if so many are held out. True demands it, False
    forbids it, a string names another column. classes: whether the target is known to be such.
    groups: a column or one value per row; rows of one group all go to one part. The size is then approximate.
    The order of rows inside each part is that of the source; how it was split is added to `valid.notes`.

    Raises HandfulError when either part would be empty, or what is demanded cannot be met.

    >>> from handful.data.open import open
    >>> train, valid = split(open("iris"), 0.2)
    >>> len(train), len(valid), valid.read_column("target", np.arange(30)).bincount().tolist()
    (120, 30, [10, 10, 10])
    """
    if isinstance(valid, Source):
        _same_columns(source, valid)
        return source, valid
    n, count = len(source), rows_held_out(len(source), valid, source.name)
    keyed = _keys(n, seed)
    if groups is not None:
        codes, how = _group_codes(source, groups, stratify), "whole groups, drawn at random"
        chosen = _by_group(codes, count, seed)
    else:
        of_class = _classes(source, stratify, count, classes)
        chosen = np.argsort(keyed, kind="stable")[:count] if of_class is None else _by_class(of_class, keyed, count)
        how = "drawn at random" if of_class is None else "drawn at random from each class"
    mask = np.zeros(n, dtype=bool)
    mask[chosen] = True
    train, held = source.subset(np.flatnonzero(~mask)), source.subset(np.flatnonzero(mask))
    held.notes = [*held.notes, f"{len(held):,} of {n:,} rows are held out for validation, {how} (seed {seed})."]
    return train, held


def k_fold(
    source: Source, k: int, seed: int = 0, *, stratify: Stratify = "auto", groups: Groups = None
) -> list[tuple[Source, Source]]:
    """k pairs (train, valid); every row is in exactly one valid part, and parts differ by at most one row
    (by more with groups, which stay whole). Arguments are those of `split`.
    """
    n = len(source)
    if not 2 <= whole("k", k) <= n:
        raise HandfulError(f"k must be 2 to {n:,}, the number of rows, not {k}")
    if groups is not None:
        fold = _fold_groups(_group_codes(source, groups, stratify), k, seed)
    else:
        classes = _classes(source, stratify, n // k)
        keyed = _keys(n, seed)
        # dealt like cards: class by class, each class in a random order
        order = np.lexsort((keyed, classes)) if classes is not None else np.argsort(keyed, kind="stable")
        fold = np.empty(n, dtype=np.int64)
        fold[order] = np.arange(n) % k
    return [(source.subset(np.flatnonzero(fold != i)), source.subset(np.flatnonzero(fold == i))) for i in range(k)]


def _keys(n: int, seed: int) -> NDArray[np.uint64]:
    return keys.words("split", seed, np.zeros(n, np.int64), np.arange(n), 1)[:, 0]


def rows_held_out(n: int, valid: float, name: str = "the data") -> int:
    """How many of `n` rows a fraction or a count holds out. HandfulError where none would be left on either side.

    >>> rows_held_out(150, 0.1), rows_held_out(150, 20)
    (15, 20)
    """
    if n < 2:
        raise HandfulError(f"{name} has {n} row, too few to hold one out: give validation data as valid=...")
    match valid:
        case bool():
            pass
        case Integral():
            if not 1 <= valid < n:
                raise HandfulError(f"cannot hold out valid={valid} of {n:,} rows: give 1 to {n - 1:,}, or a fraction")
            return int(valid)
        case Real():
            if not 0.0 < valid < 1.0:
                raise HandfulError(f"valid as a fraction must be between 0 and 1, or else a count of rows, not {valid}")
            return min(n - 1, max(1, round(float(valid) * n)))
    raise HandfulError(f"valid must be a fraction, a count of rows or data, not {valid!r}")


def _same_columns(source: Source, valid: Source) -> None:
    needed = [*source.inputs, *([source.target] if source.target else [])]
    for name in needed:
        ours, theirs = source.columns[name], valid.column(name)
        if ours.kind != theirs.kind or ours.classes != theirs.classes:
            kinds = f"a {_described(ours)} in {source.name} but a {_described(theirs)} in {valid.name}"
            raise HandfulError(f"column '{name}' is {kinds}: open the latter with columns=train.columns")


def _described(column: Column) -> str:
    known = column.classes
    return column.kind + (f" of {len(known)} classes ({', '.join(known[:3])}, ...)" if known is not None else "")


def _values(source: Source, name: str) -> NDArray[np.generic] | None:
    """One value per row of a whole column, or None when it holds something else."""
    match source.read_column(name, np.arange(len(source))):
        case Tensor() as value if value.ndim == 1:
            return value.cpu().numpy()
        case list() as words:
            return np.asarray(words)
    return None


def _classes(source: Source, stratify: Stratify, count: int, known: bool = False) -> NDArray[np.int64] | None:
    """The class of every row, 0.., or None to draw from all rows alike."""
    automatic = stratify == "auto"
    name = source.target if automatic or stratify is True else str(stratify)
    if stratify is False or (automatic and name is None):
        return None
    if name is None:
        raise HandfulError("stratify=True needs a target: pass target=... to open, or the name of a column")
    column = source.column(name)
    if automatic and not source.cheap(name):
        return None
    values = _values(source, name)
    if values is None or values.dtype.kind not in ("iubOUSf" if known else "iubOUS"):
        if automatic:
            return None
        raise HandfulError(f"column '{name}' has no classes to stratify by: it holds {column.kind}s")
    codes: NDArray[np.int64] = np.unique(values, return_inverse=True)[1].astype(np.int64)
    shared = int((np.bincount(codes) >= 2).sum())
    few = known or column.kind == "category" or codes.max() < max(2, len(codes) // 4)
    fits = 1 <= shared <= min(count, len(source) - count)
    enough = len(codes) - codes.max() > count  # where no class may lose its last row
    if (few and (enough or fits or (known and shared))) if automatic else fits:
        return codes
    if automatic:
        return None
    what = f"{shared:,} classes of '{name}' with 2 rows or more"
    raise HandfulError(f"{count:,} rows cannot hold each of the {what}: hold out more, or pass stratify=False")


def _by_class(classes: NDArray[np.int64], keyed: NDArray[np.uint64], count: int) -> Rows:
    """`count` rows, of each class in proportion (largest remainders), at least 1 and at most all but 1.

    A class of a single row stays in training: it can be learned there, and not be scored without.
    """
    sizes = np.bincount(classes)
    ideal = sizes * (count / len(classes))
    least, most = np.where(sizes >= 2, 1, 0), np.maximum(sizes - 1, 0)
    if least.sum() > count:  # too few rows for all classes: a row of some of them
        least[:] = 0
    take = np.clip(np.floor(ideal).astype(np.int64), least, most)
    while take.sum() != count:
        more = take.sum() < count
        room = (take < most) if more else (take > least)
        if not room.any():
            break
        lack = np.where(room, (ideal - take) if more else (take - ideal), -np.inf)
        take[int(np.argmax(lack))] += 1 if more else -1
    order = np.lexsort((keyed, classes))
    rank = np.arange(len(classes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows: Rows = order[rank < take[classes[order]]]
    return rows


def _group_codes(source: Source, groups: Groups, stratify: Stratify) -> NDArray[np.int64]:
    if stratify not in ("auto", False):
        raise HandfulError("a split is either by groups or stratified: leave one of the two out")
    if isinstance(groups, str):
        source.column(groups)
        values = _values(source, groups)
        if values is None:
            raise HandfulError(f"column '{groups}' does not hold one value per row, so it cannot name groups")
    else:
        values = np.asarray(groups)
    if values.shape != (len(source),):
        raise HandfulError(f"groups must have one value for each of {len(source):,} rows, not shape {values.shape}")
    codes: NDArray[np.int64] = np.unique(values, return_inverse=True)[1].astype(np.int64)
    if codes.max() == 0:
        raise HandfulError("all rows are in one group, which cannot be split")
    return codes


def _by_group(codes: NDArray[np.int64], count: int, seed: int) -> Rows:
    """Whole groups in a random order, each taken if it brings the number of rows nearer to `count`."""
    sizes = np.bincount(codes)
    order = np.argsort(_keys(len(sizes), seed), kind="stable")
    taken, total = np.zeros(len(sizes), dtype=bool), 0
    for group in order.tolist():
        if abs(total + sizes[group] - count) < abs(total - count) and taken.sum() < len(sizes) - 1:
            taken[group], total = True, total + int(sizes[group])
    if not total:  # every group is more than twice as large as asked for: the smallest
        taken[order[int(np.argmin(sizes[order]))]] = True
    rows: Rows = np.flatnonzero(taken[codes])
    return rows


def _fold_groups(codes: NDArray[np.int64], k: int, seed: int) -> NDArray[np.int64]:
    """The largest group first, each to the fold with the fewest rows so far; ties in a random order."""
    sizes = np.bincount(codes)
    if len(sizes) < k:
        raise HandfulError(f"{len(sizes)} groups cannot fill {k} folds: use at most {len(sizes)}")
    load, fold = np.zeros(k, np.int64), np.empty(len(sizes), np.int64)
    for group in np.lexsort((_keys(len(sizes), seed), -sizes)).tolist():
        fold[group] = int(np.argmin(load))
        load[fold[group]] += sizes[group]
    result: NDArray[np.int64] = fold[codes]
    return result
