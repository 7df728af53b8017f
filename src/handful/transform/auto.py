"""Which inputs a source's columns become, by their kinds; the steps are not fitted yet."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from handful.base.errors import HandfulError, did_you_mean
from handful.data.base import Batch, Column, Ragged, Source
from handful.data.tables.strings import UNSPACED
from handful.transform.audio import LogMel
from handful.transform.features import Clock, Untail
from handful.transform.inputs import Input, Layout, Named, Single, Table, looks_like_id
from handful.transform.numbers import Impute, MinMax, Normalize, PadRows, ScaleImage, Standardize
from handful.transform.step import Step
from handful.transform.text import PadTokens, Tokenize

Steps = str | Step | Sequence[Step] | None
_NAMES = ("auto", "none", "standardize", "minmax", "normalize")
_LOOK = 10_000  # training rows looked at to tell identifiers and free text apart
_WORDS = 8  # mean words a row from which a text column counts as the input, not as a label of the row


def choose(
    source: Source,
    names: list[str],
    steps: Steps,
    own_model: bool,
    layout: Layout,
    text: Tokenize,
    notes: list[str],
    pictures: bool = False,
) -> Input:
    """The unfitted input of the given columns; what was chosen or dropped is added to `notes`. pictures: a block of
    numbers is a picture, whatever its shape and type say."""
    if steps is None:
        steps = "none"
    if isinstance(steps, Step) or not isinstance(steps, Sequence):
        steps = [steps]
    if isinstance(steps, str) and steps not in _NAMES:
        raise HandfulError(f"There is no preprocessing '{steps}'.{did_you_mean(steps, _NAMES)}")
    if len(names) > 1:
        names = _drop(source, names, own_model, notes)
    columns = source.columns
    if not names:
        raise HandfulError(f"{source.name} has no input columns: all are the target, weights or identifiers.")
    kinds = {columns[name].kind for name in names}
    if kinds == {"text"}:
        if len(names) > 1:
            notes.append(f"The text columns {', '.join(names)} are joined, in this order.")
        return _single(tuple(names), columns[names[0]], steps, own_model, text, notes)
    in_memory_x = names == ["x"] and source.where is None and own_model
    if len(names) == 1 and (in_memory_x or not kinds & {"number", "category"}):
        return _single((names[0],), columns[names[0]], steps, own_model, text, notes, pictures)
    if kinds <= {"number", "category"} or (kinds <= {"number", "category", "tensor"} and not own_model):
        return _table(columns, names, steps, own_model, layout)
    if own_model:
        taken = [name for name in names if name in ("y", "weight")]
        if taken:
            raise HandfulError(
                f"A model of your own gets its inputs by name, and '{taken[0]}' is the name of the "
                f"{'target' if taken[0] == 'y' else 'weights of rows'} there: rename the column."
            )
        return Named({name: _part(name, columns[name], steps, text, notes) for name in names})
    raise HandfulError(
        f"{source.name} mixes {', '.join(sorted(kinds))} columns ({', '.join(names)}), which no ready-made "
        "model takes; "
        "keep one kind of input, or bring a model with these names as keyword arguments."
    )


def _drop(source: Source, names: list[str], own_model: bool, notes: list[str]) -> list[str]:
    """The columns without identifiers, and without either the labels or the table around a free text."""
    look = source.take(range(min(len(source), _LOOK)))
    ids = [name for name in names if looks_like_id(name, look[name], source.columns[name])]
    if ids and len(ids) < len(names):
        notes.append(
            f"Left out, because every row has another value: {', '.join(n or 'the one without a name' for n in ids)}."
        )
        names = [name for name in names if name not in ids]
    media = [name for name in names if source.columns[name].kind in ("image", "audio")]
    if len(media) == 1 and len(names) > 1 and not own_model:
        what = "picture" if source.columns[media[0]].kind == "image" else "sound"
        left = [name for name in names if name not in media]
        notes.append(f"Left out (the {what} is the input): {', '.join(left)}.")
        return media
    texts = [name for name in names if source.columns[name].kind == "text"]
    others = [name for name in names if source.columns[name].kind != "text"]
    if not texts or not others or (own_model and not _all_table(source, others)):
        return names
    long = [name for name in texts if _words(look, name) >= _WORDS]
    left, why = (texts, "short texts, different in most rows") if not long else (others, "the text is the input")
    left = left if not long else [name for name in names if name not in long]
    notes.append(f"Left out ({why}): {', '.join(left)}.")
    return [name for name in names if name not in left]


def _all_table(source: Source, names: list[str]) -> bool:
    return all(source.columns[name].kind in ("number", "category") for name in names)


def _words(look: Batch, name: str) -> float:
    texts = [text for text in look[name] if isinstance(text, str)]
    found = sum(len(re.findall(r"\w+", text)) + len(re.findall(UNSPACED, text)) / 2 for text in texts)
    return found / max(1, len(texts))


def _table(columns: dict[str, Column], names: list[str], steps: Steps, own_model: bool, layout: Layout) -> Table:
    numbers = tuple(name for name in names if columns[name].kind != "category")
    categories = tuple(name for name in names if columns[name].kind == "category")
    chosen: dict[str, tuple[Step, ...]] = {
        "auto": (Standardize(clip=10.0),) if own_model else (Clock(), Untail(), Standardize(clip=10.0)),
        "standardize": (Standardize(),),
        "minmax": (MinMax(),),
        "normalize": (Normalize(),),
        "none": (),
    }
    given = chosen[steps] if isinstance(steps, str) else tuple(_ready(steps))  # type: ignore[arg-type]
    impute = next((step for step in given if isinstance(step, Impute)), Impute())
    if layout == "auto":
        layout = "matrix" if own_model else "split"
    return Table(numbers, categories, layout, tuple(s for s in given if not isinstance(s, Impute)), impute)


def _ready(steps: Sequence[Step]) -> list[Step]:
    for step in steps:
        if not isinstance(step, Step):
            raise HandfulError(
                f"preprocess takes a name ({', '.join(_NAMES)}) or steps of handful.preprocess, not {step!r}."
            )
    return list(steps)


def _single(
    names: tuple[str, ...],
    column: Column,
    steps: Steps,
    own_model: bool,
    text: Tokenize,
    notes: list[str],
    pictures: bool = False,
) -> Single:
    """One input: `steps` if they are given, else by the column's kind."""
    kind = _kind(column, own_model, pictures)
    named = isinstance(steps, str)
    if kind == "ragged tensor":
        if own_model and steps in ("auto", "none"):
            notes.append(f"Rows of '{names[0]}' differ in length: a batch is padded with 0 to its longest row.")
            return Single(names, "tensor", (PadRows(),), as_is=True)
        raise HandfulError(
            f"Column '{names[0]}' has rows of different lengths; pad them to one, or bring a model of your own without "
            "preprocess, which gets every batch padded with 0 to its longest row."
        )
    if kind in ("text", "audio", "tokens"):
        if steps == "none" and own_model:
            return Single(names, kind, (), as_is=True)
        if named and steps != "auto":
            raise HandfulError(f"preprocess='{steps}' is for numbers and pictures; '{names[0]}' is {kind}.")
        first = _first(kind, column, own_model, text)
        given: list[Step] = [] if named else _ready(steps)  # type: ignore[arg-type]
        if given and isinstance(given[0], Tokenize | LogMel | PadTokens):
            first = given.pop(0)
            if isinstance(first, LogMel) and not first.rate:
                first = _with_rate(first, column.rate)
        return Single(names, kind, (first, *given))
    if not named:
        given = _ready(steps)  # type: ignore[arg-type]
        if kind == "image" and column.dtype == "uint8":
            given.insert(0, ScaleImage(standardize=False))
        return Single(names, kind, tuple(given), as_is=own_model)
    if steps == "auto" and own_model and not (kind == "image" and column.dtype == "uint8"):
        notes.append("Your own model gets x as it is.")
        return Single(names, kind, (), as_is=True)
    if steps == "none":
        return Single(names, kind, (), as_is=own_model)
    return Single(names, kind, _number_steps(str(steps), kind, column), as_is=own_model)


def _number_steps(steps: str, kind: str, column: Column) -> tuple[Step, ...]:
    picture = kind == "image"
    if steps in ("auto", "standardize"):
        return (ScaleImage(),) if picture else (Standardize(fill=steps == "auto"),)
    scale: tuple[Step, ...] = (ScaleImage(standardize=False),) if picture else ()
    if steps == "normalize":
        return (*scale, Normalize())
    return scale if picture and column.dtype == "uint8" else (MinMax(),)


def _kind(column: Column, own_model: bool, pictures: bool) -> str:
    """The column's kind, with blocks of numbers that are pictures told apart for the ready-made models."""
    shape = column.shape
    if column.kind == "tensor" and None in shape:
        return "ragged tensor"
    if column.kind == "audio" and None not in shape and len(shape) == 0 and column.rate is None:
        return "tensor"
    if column.kind != "tensor" or own_model:
        return column.kind
    sides = [s for s in shape if s]
    if pictures and len(sides) in (2, 3):
        return "image"
    picture = len(sides) == 3 and sides[0] in (1, 3, 4) and min(sides[1:]) > 1
    grey = len(sides) == 2 and column.dtype == "uint8" and min(sides) >= 8
    return "image" if picture or grey else "tensor"


def _first(kind: str, column: Column, own_model: bool, text: Tokenize) -> Step:
    if kind == "text":
        return text
    if kind == "audio":
        return _with_rate(LogMel(max_length=text.max_length), column.rate)
    return PadTokens(shift=0 if own_model else 2, max_length=text.max_length)


def _with_rate(step: LogMel, rate: int | None) -> LogMel:
    return LogMel(rate, step.mels, step.window, step.hop, step.floor, step.max_length)


def _part(name: str, column: Column, steps: Steps, text: Tokenize, notes: list[str]) -> Single:
    """One of several named inputs of an own model."""
    if column.kind in ("number", "category"):
        return Single((name,), "number", (), as_is=True)
    return _single((name,), column, steps, True, text, notes)


def wild(value: object) -> str | None:
    """A sentence on x [m, ...] whose scale makes learning slow, or None: seen on the given rows."""
    if isinstance(value, Ragged) or not isinstance(value, Tensor) or not value.is_floating_point() or not len(value):
        return None
    known = value[torch.isfinite(value)].to(torch.float64)
    if len(known) < value.numel():
        return "x holds missing or infinite values; your own model gets them as they are."
    mean, std = float(known.mean()), float(known.std(correction=0))
    if abs(mean) < 5 and (std == 0 or 0.05 < std < 20):
        return None
    scale = f"mean {mean:.3g}, standard deviation {std:.3g}"
    return f"The scale of x is unusual ({scale}); preprocess='standardize' helps."
