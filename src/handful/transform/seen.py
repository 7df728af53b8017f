"""Which rows have a class that training knows; and which were trained on, told by a hash of what the pipeline makes of
each row, input and target, 8 bytes a row.

What the pipeline makes of a row is the same to the bit in whatever container it comes, so rows of a CSV file are known
again in a frame. Kept for data that are small enough to be in memory after preprocessing, up to MOST rows.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base import keys
from handful.base.errors import some
from handful.data.base import Batch, Column, Rows, Source
from handful.data.series import spread_rows
from handful.data.tables.cells.dates import DATES, DURATION, TIME_OF_DAY
from handful.data.tables.cells.strings import NEW
from handful.transform.columns import of_one_length
from handful.transform.inputs import TableInput
from handful.transform.pipeline import Pipeline
from handful.transform.rows import chunks_of, original_rows
from handful.transform.steps.categories import strings

_LOOKED, _FAR = 1000, 4.0  # rows, and standard deviations from the mean within which at least 15 of 16 of training are
ODD_ROWS = 0.1  # the largest share of rows whose labels may be of no class that training had
MOST = 1 << 20  # rows whose hashes are kept
_PAIRS = 64  # rows that are held against those after them, to find windows that overlap
_WHO = re.compile(
    r"(?i:(^|[_. -])(id|subject|patient|person|participant|animal|user|customer|client|household|firm)s?"
    r"([_. -]?(id|no|nr|num|number|code))?$)|[a-z](Id|ID)$"
)
_OFTEN = 50  # rows of each up to which a column so called tells whose rows they are, not of which kind
_ODD = np.uint64(0x9E3779B97F4A7C15)
Hashes = NDArray[np.int64]


def row_hashes(batch: Batch) -> Hashes:
    """A hash of each row's tensors but its weight, int64 [m]: a sum over words of 8 bytes, each mixed and times a
    number keyed by its place (multilinear hashing: Carter and Wegman 1979). Zeros add nothing: padding does not count.

    >>> a, b = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[3, 4, 0]])
    >>> bool(row_hashes(Batch({"x": a}, np.arange(2)))[1] == row_hashes(Batch({"x": b}, np.arange(1)))[0])
    True
    """
    total = np.zeros(len(batch), dtype=np.uint64)
    for name, value in batch.tensors().items():
        if name == "weight" or not value.numel():
            continue
        raw = value.detach().cpu().reshape(len(batch), -1).contiguous().view(torch.uint8).numpy()
        whole = np.pad(raw, ((0, 0), (0, -raw.shape[1] % 8))) if raw.shape[1] % 8 else raw
        words = whole.view(np.uint64) * _ODD
        words ^= words >> np.uint64(32)
        total += np.einsum("ij,j->i", words, _factors(name, words.shape[1]))
    return total.view(np.int64)


@lru_cache(32)
def _factors(name: str, count: int) -> NDArray[np.uint64]:
    first = np.zeros(1, dtype=np.int64)
    factors: NDArray[np.uint64] = keys.words(f"seen {name}", 0, first, first, count)[0] | np.uint64(1)
    return factors


def seen(source: Source) -> Tensor | None:
    """The hashes of all rows of a preprocessed source, sorted, int64 [at most MOST]; None for more rows, and for rows
    of frames, whose sounds the pipeline makes alike but for rounding."""
    if len(source) > MOST or any(column.varies and len(column.shape) > 1 for column in source.columns.values()):
        return None
    parts = [row_hashes(batch) for batch in chunks_of(source, list(source.columns), 1 << 20)]
    found = np.sort(np.concatenate(parts))  # NumPy 2.4's unique takes 65 times as long where few are alike
    return torch.from_numpy(found[np.append(True, found[1:] != found[:-1])])


class Repeated:
    """Looks for rows that were trained on among those that pass through; `ids`: the rows found."""

    def __init__(self, trained: Tensor | None) -> None:
        self.trained = None if trained is None or not len(trained) else trained.numpy()
        self.ids: Rows = np.zeros(0, dtype=np.int64)

    def among(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same preprocessed batches."""
        for batch in batches:
            if self.trained is not None:
                hashes = row_hashes(batch)
                at = np.searchsorted(self.trained, hashes).clip(max=len(self.trained) - 1)
                self.ids = np.concatenate([self.ids, batch.rows[self.trained[at] == hashes]])
            yield batch

    def of(self, source: Source, what: str, gather: Callable[[bytes], list[bytes]] | None = None) -> list[str]:
        """A sentence on the rows of `source` that were found, if any. what: they are called; gather: gives the bytes of
        all ranks that shared the rows."""
        if gather is not None:
            self.ids = np.frombuffer(b"".join(gather(self.ids.tobytes())), np.int64)
        if not len(self.ids):
            return []
        named = some(original_rows(source, self.ids).tolist(), 3)
        count = "all" if len(self.ids) == len(source) else f"{len(self.ids):,} of the"
        known = f"{count} {len(source):,} {what} of {source.name} are, input and target, rows that were trained on"
        if len(source) == 1:
            known = f"the one row of {source.name} is, input and target, a row that was trained on"
        at = f"row{'s' * (len(self.ids) > 1)} {named}, counted from 0"
        return [f"{known} ({at}): scores on these say nothing of new rows"]


def overlapping(source: Source) -> list[str]:
    """A sentence where consecutive rows are windows of one series (of an axis of a block of numbers, or of columns of
    numbers in their order), as some of them show, so that rows that are drawn from them are not new.

    >>> from handful.data.open import open
    >>> windows = np.lib.stride_tricks.sliding_window_view(np.arange(100.0) ** 2, 8)
    >>> overlapping(open({"x": windows, "y": windows[:, 0]}, target="y"))[0][:66]
    'consecutive rows of arrays share 7 of 8 steps, as windows of one s'
    """
    n, names = len(source), source.inputs
    numbers = [name for name in names if source.columns[name].kind == "number"]
    blocks = (
        names if [source.columns[name].kind for name in names] == ["tensor"] else numbers if len(numbers) > 2 else []
    )
    if n < _PAIRS or any(source.columns[name].varies for name in blocks) or not blocks:
        return []
    first = spread_rows(n - 1, _PAIRS)
    one, two = (_block(source.take(rows, blocks), blocks) for rows in (first, first + 1))
    for axis in range(1, one.dim()):
        size = one.shape[axis]
        a, b = (part.movedim(axis, 1).reshape(len(first), size, -1) for part in (one, two))
        for x, y in ((a, b), (b, a)):
            alike = _alike(x, y)
            for step in ((alike.sum(0) >= 0.9 * len(first)).nonzero().flatten() + 1).tolist():
                shared = x[:, step:]
                same = alike[:, step - 1] & (shared != shared[:, :1]).any(1).any(1)
                if same.sum() >= 0.9 * len(first):
                    return [
                        f"consecutive rows of {source.name} share {size - step} of {size} steps, as windows of one "
                        "series do: what is held out at random is known from its neighbours, and its score says little "
                        "of later times; valid='last 0.1' holds out the end of the series"
                    ]
    return []


def of_the_same(train: Source, valid: Source) -> list[str]:
    """A sentence where one column alone says whose rows they are (`id`, `patient`), each has several, and most of those
    held out at random are of one that training rows are of, too.

    >>> from handful.data.open import open
    >>> visits = open({"patient": [f"p{k // 4}" for k in range(400)], "x": np.arange(400.0) ** 2, "y": [0.5] * 400})
    >>> from handful.data.split import split
    >>> of_the_same(*split(visits, 0.1))[0][:59]
    "each 'patient' has 3.6 rows on average, and 100% of the hel"
    """
    names = [n for n in train.inputs if _WHO.search(n) and train.columns[n].kind in ("number", "category")]
    if len(names) != 1 or not train.in_memory or train.columns[names[0]].shape:
        return []
    here, held = (of.read_column(names[0], np.arange(len(of))) for of in (train, valid))
    known, counts = np.unique(np.asarray(here), return_counts=True)
    share, each = float(np.isin(np.asarray(held), known).mean()), counts.mean()
    if len(known) < 10 or not 2 <= each <= _OFTEN or share < 0.5:
        return []
    return [
        f"each '{names[0]}' has {each:.2g} rows on average, and {share:.0%} of the held-out rows are of one that "
        f"training knows: scores are for such; for new ones, hold out whole ones: valid='0.1 by {names[0]}'"
    ]


def _alike(x: Tensor, y: Tensor) -> Tensor:
    """Whether y begins as x goes on after 1, 2, ... size - 2 steps, bool [m, size - 2], of blocks [m, size, ...]: place
    after place, until that can hold for no more than a few of the rows, which are then not looked at to the end."""
    m, size = x.shape[:2]
    alike = torch.ones(m, max(0, size - 2), dtype=torch.bool)
    for place in range(size - 1):
        longer = min(size - 2, size - 1 - place)  # so many steps share such a place
        alike[:, :longer] &= (x[:, 1 + place : 1 + place + longer] == y[:, place : place + 1]).all(2)
        if not (alike[:, :longer].sum(0) >= 0.9 * m).any():
            break
    return alike


def _block(batch: Batch, names: Sequence[str]) -> Tensor:
    """A single block of numbers [m, ...], or the columns side by side [m, k]."""
    parts = [batch.tensor(name).to(torch.float64) for name in names]
    return parts[0] if len(parts) == 1 else torch.stack(parts, 1)


def of_known_classes(source: Source, pipeline: Pipeline) -> tuple[Source, list[str]]:
    """The rows of other data than the training rows that can be scored, and what is to be said of those left out: at
    most ODD_ROWS of them, of classes that training did not have. More are an error in the labels, which
    `Target.encode` names."""
    target = pipeline.target
    if target is None or not target.classes or target.column not in source.columns or not source.cheap(target.column):
        return source, []
    reader, parts, names = pipeline.on(source, target=True), [np.zeros(0, dtype=bool)], dict[str, None]()
    for chunk in chunks_of(source, [target.column]):
        batch, columns = reader.translated(chunk)
        value, column = batch[target.column], columns[target.column]
        parts.append(target.known(value, column))
        if not parts[-1].all():
            labels: list[object] = []
            match value:
                case Tensor() if column.classes is None:
                    labels += value.tolist()
                case _:
                    labels += strings(value, column)
            names |= dict.fromkeys(repr(labels[row]) for row in np.flatnonzero(~parts[-1]).tolist())
    known = np.concatenate(parts)
    unseen = len(known) - int(known.sum())
    if not 0 < unseen <= ODD_ROWS * len(known):
        return source, []
    return source.subset(np.flatnonzero(known)), [
        f"{unseen:,} of the {len(known):,} rows of {source.name} have a '{target.column}' that no training row has "
        f"({some([*names])}) and are left out of the scores; an accuracy that counts them as wrong "
        f"is {1 - unseen / len(known):.4g} times as high"
    ]


def unlike(source: Source, pipeline: Pipeline) -> list[str]:
    """Sentences on columns of a table that are not as training had them: names that it had not, and numbers of which
    the middle, in at most _LOOKED rows, is _FAR from those of training, as in another unit or at another time; and on
    rows that are all of one length, where they were not."""
    found, trained_on = [note.rstrip(".") for note in source.notes if NEW in note], pipeline.trained_on
    same = [k for k, now in source.columns.items() if k in trained_on and of_one_length(now, trained_on[k])]
    if same and len(source) > 1:
        found.append(f"rows of {some(same)} are all of one length here: nothing in them is taken for padding")
    table = pipeline.input
    if not isinstance(table, TableInput) or len(source) < 2 or not table.numbers or pipeline.cut:
        return found
    rows = spread_rows(len(source), _LOOKED)
    x = table.matrix(pipeline.on(source, target=False).translated(source.take(rows, pipeline.uses))[0])
    scaled, median = table.shaped(x)[:, : x.shape[1]], table.impute.fitted(table.impute.median)
    for k, name in enumerate(table.features):
        there = scaled[:, k][~torch.isnan(x[:, k])]
        if len(there) > 1 and abs(float(there.median())) > _FAR:
            column = trained_on.get(name)
            here, trained = float(x[:, k].nanmedian()), float(median.flatten()[k])
            both = f"{_value(here, column)} in the middle here, {_value(trained, column)} there"
            found.append(f"'{name}' is far from what it was in training ({both}): is it the same, in the same unit?")
    return found


def _value(value: float, column: Column | None) -> str:
    if column is not None and column.dates in DATES and column.dates not in (TIME_OF_DAY, DURATION):
        return str(np.datetime64(int(value), "s").astype("datetime64[D]"))
    return f"{value:.4g}"
