"""What kind of data a run learns from: found from the columns, or asked for and checked; the same at every reading."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from handful.base.errors import HandfulError, did_you_mean
from handful.data.base import Column, Ragged, Source, Value, View, Windows
from handful.data.gather import offsets_of
from handful.data.open import open as open_source
from handful.data.options import Options
from handful.data.tables.cells.dates import DIGITS, as_digits
from handful.data.tables.cells.strings import count_words
from handful.data.tables.types import TEXT, is_moment, named
from handful.data.tables.values import apply
from handful.data.targets import names_of
from handful.transform.language import is_ids
from handful.transform.steps.categories import strings
from handful.transform.steps.step import stored

# recipe -> the kinds of columns that are its input
KINDS: dict[str, tuple[str, ...]] = {
    "image": ("image",),
    "text": ("text",),
    "language": ("text",),
    "audio": ("audio",),
    "table": ("number", "category"),
}
OTHER = "arrays"  # blocks of numbers, tokens, several named inputs: what only a caller in Python has


@stored
@dataclass(frozen=True)
class Cut:
    """How windows of a time series are cut from a table: see `handful.data.base.Windows`. table: its columns as they
    were in training.

    >>> Cut.asked("24, horizon=3, by=shop")
    Cut(length=24, horizon=3, order=None, by='shop', target=None, table={})
    """

    length: int
    horizon: int = 1
    order: str | None = None
    by: str | None = None
    target: str | None = None
    table: dict[str, Column] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str | None, ...]:
        """Those that order the rows and tell series apart."""
        return self.order, self.by

    @classmethod
    def asked(cls, windows: object) -> "Cut":
        """What `windows=` says: a length; words; a mapping of the same names. Raises HandfulError for anything else."""
        given: dict[str, object] = {}
        match windows:
            case Mapping():
                given = {str(name): value for name, value in windows.items()}
            case _:
                for name, part in zip(("length", "horizon"), str(windows).split(","), strict=False):
                    given |= {} if "=" in part else {name: part.strip()}
                named = [part.partition("=") for part in str(windows).split(",")[len(given) :]]
                given |= {name.strip(): value.strip() for name, _, value in named}
        numbers = {name: str(given.get(name, 1)) for name in ("length", "horizon")}
        if not {"length"} <= set(given) <= {"length", "horizon", "order", "by"} or not all(
            number.isdecimal() and int(number) for number in numbers.values()
        ):
            raise HandfulError(
                "windows says how many rows the model gets, and may say horizon, order and by: 24, or "
                f"'24, horizon=3, order=time, by=shop'; not {windows!r}"
            )
        order, by = (None if given.get(name) is None else str(given[name]) for name in ("order", "by"))
        return cls(int(numbers["length"]), int(numbers["horizon"]), order, by)

    @classmethod
    def of(cls, source: Source) -> "Cut | None":
        """How the windows that `source` is, or is a view of, were cut; None where it is of other rows."""
        if (w := windows_of(source)) is None or not w.horizon:
            return None
        table = {name: w.base.columns[name] for name in (*w.names, w.order, w.by) if name is not None}
        table |= {name: replace(table[name], open=True) for name in table if name == w.by}  # other series may follow
        return cls(w.length, w.horizon, w.order, w.by, w.target, table)

    def windows(self, source: Source, ahead: bool = False) -> Source:
        """The windows of a table; a source that has windows is as it is. ahead: up to the last row, without what comes
        after it."""
        if windows_of(source):
            return source
        horizon = 0 if ahead else self.horizon
        found = source.windows(self.length, horizon, order=self.order, by=self.by, target=self.target)
        found.where = source.where
        return found


def windows_of(source: Source) -> Windows | None:
    """The windows that the source is or is a view of; None where it is of other rows."""
    while isinstance(source, View) and not isinstance(source, Windows):
        source = source.base
    return source if isinstance(source, Windows) else None


def of_model(source: Source, kinds: tuple[str, ...]) -> str | None:
    """The recipe of a model that is for one kind of data only, where the source has a column of that kind; float arrays
    of pictures, which cannot be told from other blocks of numbers, count as pictures then. Of one for tables: "table",
    where texts stand beside numbers or categories.

    >>> of_model(open_source({"x": [[[0.5, 0.2], [0.1, 0.9]]] * 4, "y": [0, 1, 0, 1]}, target="y"), ("image",))
    'image'
    """
    columns = [source.columns[name] for name in source.inputs]
    rest = {c.kind for c in columns if not _in_table(c)}
    if "table" in kinds and rest == {"text"} != {c.kind for c in columns}:
        return "table"
    if len(kinds) != 1 or kinds[0] not in KINDS:
        return None
    fits = any(c.kind in KINDS[kinds[0]] or (kinds[0] == "image" and _picture(c)) for c in columns)
    fits = fits or (kinds[0] == "language" and source.target is None and any(map(is_ids, columns)))
    fits = fits or (kinds[0] == "text" and {c.kind for c in columns} == {"category"})  # texts that repeat
    return kinds[0] if fits else None


def short_texts(source: Source) -> bool:
    """Whether all there is to learn from is one column of strings that are different in most rows and of two words or
    so: as categories they would tell nothing of other rows.

    >>> rows = [f"{what} {place}" for what in ("flights", "hotel") for place in "abcdefghijk"] + ["hotel a"]
    >>> short_texts(open_source({"query": rows, "is": [0, 1] * 11 + [0]}, target="is"))
    True
    """
    match [source.columns[name] for name in source.inputs]:
        case [Column(kind="category", classes=(str(), *_) as texts)] if 20 <= len(source) < 2 * len(texts):
            return float(pc.mean(count_words(pa.array(texts, TEXT))).as_py()) >= 1.5
    return False


def asked_for(columns: object, beside: Iterable[str | None]) -> tuple[list[str] | None, list[str]]:
    """What `columns=` says: (the names to learn from, with those that are needed `beside` them, or None for all; those
    to leave out, which have a minus in front).

    >>> asked_for("rooms, area", ["price", None]), asked_for(["-id"], ["price"])
    ((['rooms', 'area', 'price'], []), (None, ['id']))
    """
    listed = columns.split(",") if isinstance(columns, str) else columns
    if not isinstance(listed, Sequence) or not listed or not all(isinstance(name, str) for name in listed):
        raise HandfulError(f"columns must be names of columns, 'rooms, area' or '-id', not {columns!r}")
    names = [name.strip() for name in listed]
    out = [name[1:] for name in names if name.startswith("-")]
    if "" in (*names, *out) or 0 < len(out) < len(names):
        raise HandfulError(
            "columns names all columns to learn from, or, with a minus in front of each, all to leave out, "
            f"not {', '.join(map(repr, names))}"
        )
    needed = [name for one in beside if one for name in names_of(one) or [one]]
    return (None, out) if out else (list(dict.fromkeys([*names, *needed])), [])


def without(source: Source, out: Sequence[str]) -> Source:
    """The source without these columns. HandfulError for one that it has not and had not, or that is the target."""
    for name in out:
        if name == source.target:
            raise HandfulError(f"'{name}' is the target, so it cannot be left out; is target=... another column?")
        if name not in source.columns and not any(f"'{name}'" in note for note in source.notes):
            raise HandfulError(f"{source.name} has no column '{name}'.{did_you_mean(name, source.columns)}")
    kept = View(source, {name: column for name, column in source.columns.items() if name not in out})
    if not kept.inputs:
        raise HandfulError(f"columns leaves nothing of {source.name} to learn from")
    kept.notes = [*source.notes, f"Left out, as asked: {', '.join(out)}."]
    return kept


def known_recipe(recipe: str) -> None:
    """HandfulError for a recipe that there is not."""
    if recipe not in (*KINDS, OTHER):
        raise HandfulError(f"there is no recipe '{recipe}'.{did_you_mean(recipe, [*KINDS])}")


def select(source: Source, recipe: str, keep: Iterable[str | None] = (), where: object = None) -> Source:
    """The source with the columns that the recipe learns from, the target (but not for language) and those in `keep`;
    where: what it was opened from, to be read again.

    Raises HandfulError where no column fits the recipe, and for one that is not known.
    """
    known_recipe(recipe)
    kinds = KINDS[recipe]
    fits = [
        name for name in source.inputs if name not in set(keep)
        and (source.columns[name].kind in kinds or (recipe == "table" and _in_table(source.columns[name])))
    ]  # fmt: skip
    if not fits and recipe in ("text", "language"):
        source, fits = _categories_as_text(source, keep, source.where or where)
    if recipe == "language":
        fits = fits or [name for name in source.inputs if is_ids(source.columns[name])]
    if recipe == "image":
        fits = fits or [name for name in source.inputs if _picture(source.columns[name])]
    if not fits:
        found = ", ".join(f"{name} ({c.kind})" for name, c in source.columns.items() if name != source.target)
        raise HandfulError(
            f"recipe '{recipe}' needs a column of {' or '.join(kinds)}; {source.name} has {found or 'no input'}"
        )
    extra = [name for name in (None if recipe == "language" else source.target, *keep) if name]
    view = View(source, {name: column for name, column in source.columns.items() if name in {*fits, *extra}})
    texts = [name for name in source.inputs if name not in view.columns and source.columns[name].kind == "text"]
    if recipe == "table" and texts:
        view.notes = [
            *source.notes,
            f"Left out, because a table takes no free text: {', '.join(texts)}; model='text' does.",
        ]
    return view


def _in_table(column: Column) -> bool:
    """Whether a table has it beside others: also labels, and as many numbers in each row."""
    return column.kind in KINDS["table"] or (column.kind == "tensor" and not column.varies)


def _picture(column: Column) -> bool:
    return column.kind == "tensor" and len(column.shape) in (2, 3) and None not in column.shape


def _categories_as_text(source: Source, keep: Iterable[str | None], where: object) -> tuple[Source, list[str]]:
    """Columns of strings that were taken for categories, read as texts; where: what is read again."""
    names = [n for n in source.inputs if source.columns[n].kind == "category" and n not in set(keep)]
    if not names or where is None or where is source:
        return source, []
    columns = dict(source.columns) | {name: Column("text", "str") for name in names}
    return open_source(where, target=source.target, columns=columns), names


def found(kind: str) -> str:
    """The recipe of what a pipeline's input turned out to be (`Inputs.kind`).

    >>> found("vector"), found("audio")
    ('arrays', 'audio')
    """
    return kind if kind in KINDS else OTHER


_WRITABLE = {"number", "category", "text"}  # kinds whose values can be written as text


def foreign(now: Column, trained: Column) -> bool:
    """Whether values that were read without knowing the training data mean something else: "007" was a number there."""
    digits = now.kind == trained.kind == "number" and (now.dates == DIGITS) != (trained.dates == DIGITS)
    other = now.kind != trained.kind and {now.kind, trained.kind} <= _WRITABLE and "number" in (now.kind, trained.kind)
    cells = trained.separator is not None and now.kind in _WRITABLE
    numbers = _other_numbers(now, trained) or of_one_length(now, trained)
    return other or cells or numbers or (digits and not is_moment(named(now.type)))


def of_one_length(now: Column, trained: Column) -> bool:
    """Whether rows that differed in length in training are all of one here, as a single row is."""
    whole = trained.kind != "tokens" or now.dtype.startswith(("int", "uint"))
    alike = trained.shape[:1] == (None,) and now.shape[1:] == trained.shape[1:]
    return now.kind == "tensor" and trained.kind in ("tokens", "tensor") and not now.varies and alike and whole


def _other_numbers(now: Column, trained: Column) -> bool:
    """Whether decimals, whole numbers or truth values stand where training had another kind of these."""
    if now.dtype == trained.dtype or now.kind not in ("number", "tensor"):
        return False
    return (now.kind, now.dates) == (trained.kind, trained.dates) and _sort(now.dtype) != _sort(trained.dtype)


def _sort(dtype: str) -> str:
    return "float" if "float" in dtype else "bool" if dtype == "bool" else "int"


def as_trained(
    name: str, value: Value, now: Column, trained: Column, where: str, target: str | None = None
) -> tuple[Value, Column]:
    """Values of a `foreign` column as training had them, and what they are; HandfulError where they are not."""
    if torch.is_tensor(value) and _other_numbers(now, trained):
        turned = value.to(getattr(torch, trained.dtype))
        if "float" not in trained.dtype and not bool((turned == value).all()):
            return value, now  # 1.5 years, where training had whole ones
        if not of_one_length(now, trained):
            return turned, trained
        value = turned
    if isinstance(value, Tensor) and of_one_length(now, trained):
        lengths = [value.shape[1]] * len(value)
        return Ragged(value.flatten(0, 1), torch.from_numpy(offsets_of(lengths))), trained
    o = Options(where, target, schema={name: trained})
    if isinstance(value, Tensor) and now.classes is None:
        written = pa.array(as_digits(value.numpy()) if now.dates == DIGITS else value.numpy(), from_pandas=True)
        if is_moment(kind := named(now.type)):
            written = pc.multiply(written, 1e6).cast(pa.int64(), safe=False).cast(pa.timestamp("us"))
        elif kind == pa.bool_():
            written = written.cast(kind)
    else:
        written = pa.array([text or None for text in strings(value, now)], TEXT)
    found = apply(name, pa.chunked_array([written]), trained, o, [])
    return found.read(np.arange(len(found), dtype=np.int64)), found.column


def check_same(name: str, trained: Column, source: Source) -> None:
    """Raise HandfulError if the column is of another kind, shape or rate than in training."""
    now, where = source.columns[name], f"column '{name}' of {source.name}"
    if now.kind != trained.kind and not {now.kind, trained.kind} <= _WRITABLE and not foreign(now, trained):
        if trained.kind == "collated":
            raise HandfulError(f"{where} is to be put together as in training: handful.open(data, collate=...)")
        example = f" ('{now.classes[0]}')" if now.classes else f" {list(now.shape)}" if now.shape else ""
        way = _turned(now, trained, len(source))
        raise HandfulError(f"{where} is {now.kind}{example}, but was {trained.kind} in training{way}")
    if trained.kind == "image" and (now.dtype == "uint8") != (trained.dtype == "uint8"):
        raise HandfulError(f"{where} holds pictures of {now.dtype}, but of {trained.dtype} in training")
    read = now.kind in _WRITABLE and foreign(now, trained)
    if None not in trained.shape and not read and now.shape != trained.shape:
        said = f"{where} has rows of shape {now.shape}, but of {trained.shape} in training"
        raise HandfulError(f"{said}{_turned(now, trained, len(source))}")
    if now.rate != trained.rate:
        raise HandfulError(
            f"{where} is sound at {now.rate} Hz, but was at {trained.rate} Hz in training; resample it first"
        )


def _turned(now: Column, trained: Column, rows: int) -> str:
    """The way on where pictures have their channels last, or none, and had them first; where one row is given alone."""
    if trained.kind == "image" and now.kind == "tensor" and now.shape == trained.shape:
        return f": give pixels as {trained.dtype}, as they were then"
    match now.shape, trained.shape:
        case (h, w, n), (k, height, width) if n == k and {(h, w), (height, width)} <= {(h, w), (None, None)}:
            return ": channels come first, as of numpy.moveaxis(a, -1, 1)"
        case (h, w), (1, height, width) if {(h, w), (height, width)} <= {(h, w), (None, None)}:
            return ": a channel comes first, as of a[:, None]"
        case (h, w), (_, height, width) if {(h, w), (height, width)} <= {(h, w), (None, None)}:
            return ": one alone is a[None]"
        case (w, n), (k, height, width) if n == k and {(rows, w), (height, width)} <= {(rows, w), (None, None)}:
            return ": one alone is numpy.moveaxis(a, -1, 0)[None]"
        case (), (n,) if n == rows:
            return ": one row alone is a[None]"
    return ""
