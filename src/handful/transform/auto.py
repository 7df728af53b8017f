"""Which inputs a source's columns become, by their kinds; the steps are not fitted yet."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from handful.base.errors import HandfulError, did_you_mean, some
from handful.data.arrays import SPARSE
from handful.data.base import Batch, Column, Source
from handful.data.tables.cells.dates import DURATION
from handful.data.tables.cells.strings import UNSPACED
from handful.models.text import NGrams
from handful.transform.inputs import Input, Layout, NamedInputs, SingleInput, TableInput
from handful.transform.steps.audio import LogMel
from handful.transform.steps.features import CyclicTime, RobustAsinh, ScaleNonzero, in_proportion
from handful.transform.steps.numbers import Impute, MinMax, Normalize, PadRows, ScaleImage, Standardize
from handful.transform.steps.statistics import leave_one_out
from handful.transform.steps.step import AnyStep, Step
from handful.transform.steps.text import Lengths, PadTokens, Tokenize

Steps = str | AnyStep | Sequence[AnyStep] | None
_NAMES = ("auto", "none", "standardize", "minmax", "normalize")
_LOOK = 10_000  # training rows looked at to tell identifiers and free text apart
_LEFT_OUT = 1000  # rows by which it is measured whether the text or the table beside it tells more of the target,
_BETTER = 0.9  # times the error of what the words per row say: below it, the other is learned from
FEW_VALUES = 20  # of a target of numbers: it may be classes
_HASHED = 1 << 13  # features that words have there, and pairs of words
_WORDS = 8  # mean words per row from which a text column counts as the input, not as a label of the row
_ROW = r"row[._ ]?(id|names?|no|nr|num|number)?|no|nr|obs|#"
_ID = re.compile(rf"^(id|index|idx|uid|uuid|guid|key|{_ROW})$|[_ ](id|idx|index|uuid|guid)$", re.I)
_INDEX = re.compile(r"^(|unnamed: ?\d+|__index_level_\d+__)$", re.I)  # as pandas and R write an index
_ID_CAMEL = re.compile(r"[a-z](Id|ID|Index)$")
_TABLE = {"number", "category"}


@dataclass(frozen=True)
class Arguments:
    """Those of the forward of a model of the caller's own.

    named: by name, and whether it has to be given: where it needs several, and there are columns of their names, these
    are what it is given; first: the name of the first; of_lengths: those for the lengths of rows that differ in length,
    or for a mask of them (True).
    """

    named: Mapping[str, bool] = field(default_factory=dict)
    first: str = "x"
    of_lengths: Mapping[str, bool] = field(default_factory=dict)


NO_ARGUMENTS = Arguments()


@dataclass
class InputChooser:
    """Chooses the input of a model.

    name: of the preprocessing ("given" where steps are), given: the steps; own_model: the model is the user's; layout:
    of a table; text: for text columns; pictures: a block of numbers is a picture, whatever its shape and type say;
    arguments: of the user's model; named: the caller named the columns, and means those that number the rows, too;
    single: the model is a single layer. notes: what was chosen or dropped.
    """

    source: Source
    steps: Steps
    own_model: bool
    layout: Layout
    text: Tokenize
    pictures: bool
    arguments: Arguments = NO_ARGUMENTS
    named: bool = False
    single: bool = False
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, self.given = "given", tuple[AnyStep, ...]()
        match self.steps:
            case str() | None:
                self.name = self.steps or "none"
                if self.name not in _NAMES:
                    raise HandfulError(
                        f"there is no preprocessing '{self.name}'.{did_you_mean(self.name, _NAMES, 'preprocessing')}"
                    )
            case Step():
                self.given = (self.steps,)
            case Iterable():
                self.given = tuple(self.steps)
            case other:
                self.given = (other,)
        for step in self.given:
            if not isinstance(step, Step):
                names = ", ".join(_NAMES)
                raise HandfulError(f"preprocess takes a name ({names}) or steps of handful.preprocess, not {step!r}")

    def choose(self, names: list[str]) -> Input:
        """The unfitted input of the given columns; with the lengths of its rows, where the model takes them."""
        found, first = self._choose(names), self.arguments.first
        parts = {first if name == "x" else name: part for name, part in found.parts.items()}
        open_ones = {name: mask for name, mask in self.arguments.of_lengths.items() if name not in parts}
        varying = [name for name, part in parts.items() if part.kind in ("tokens", "ragged") and part.steps]
        of = first if first in varying else varying[0] if len(varying) == 1 else None
        if of is None or not open_ones:
            return found
        for name, mask in open_ones.items():
            steps = (Lengths(mask, cut=parts[of].kind == "tokens"),)
            parts[name] = SingleInput(parts[of].uses, "number", steps, as_is=True)
        self.notes.append(
            f"The model gets {some(list(open_ones))} of the lengths of the rows of '{parts[of].uses[0]}'."
        )
        return NamedInputs(parts)

    def _choose(self, names: list[str]) -> Input:
        source, columns = self.source, self.source.columns
        arguments = self.arguments
        needed = {n for n, must in arguments.named.items() if must and (n not in arguments.of_lengths or n in names)}
        by_name = len(needed) > 1 and needed <= set(names)
        if by_name:
            left = [name for name in names if name not in arguments.named]
            self.notes += [f"Left out, as the model's forward does not take them: {some(left)}."] if left else []
            names = [name for name in arguments.named if name in names]
        elif len(names) > 1:
            names = self._without_labels(names if self.named else self._without_ids(names))
        if not names:
            raise HandfulError(f"{source.name} has no input columns: all are the target, weights or identifiers")
        kinds = {"number" if columns[name].labels else columns[name].kind for name in names}
        if "collated" in kinds and self.own_model:
            made = {name: SingleInput((name,), "collated", (), as_is=True) for name in names}
            return made["x"] if names == ["x"] else NamedInputs(made)
        if kinds == {"text"} and not by_name:
            if len(names) > 1:
                self.notes.append(f"The text columns {', '.join(names)} are joined, in this order.")
            return self._single(tuple(names))
        in_memory_x = names == ["x"] and source.where is None and self.own_model
        if len(names) == 1 and (in_memory_x or not kinds & _TABLE):
            return self._single((names[0],))
        if (kinds <= _TABLE and not by_name) or (kinds <= {*_TABLE, "tensor"} and not self.own_model):
            return self._table(names)
        if not self.own_model:
            raise HandfulError(
                f"{source.name} mixes {', '.join(sorted(kinds))} columns ({', '.join(names)}), which no ready-made "
                "model takes; keep one kind of input, or bring a model with these names as keyword arguments"
            )
        for name, what in (("y", "target"), ("weight", "row weights")):
            if name in names:
                raise HandfulError(
                    f"a model of your own gets its inputs by name, and '{name}' is the name of the {what} there: "
                    "rename the column"
                )
        plain = {name: SingleInput((name,), "number", (), as_is=True) for name in names}
        return NamedInputs({n: plain[n] if columns[n].kind in _TABLE else self._single((n,)) for n in names})

    def _without_ids(self, names: list[str]) -> list[str]:
        """The columns without those that only number the rows."""
        ids = {name: None for name in names if looks_like_id(name, self._look, self.source.columns[name])}
        if not ids or len(ids) == len(names):
            return names
        shown = ", ".join(name or "the one without a name" for name in ids)
        self.notes.append(f"Left out, as it numbers the rows: {shown}.")
        return [name for name in names if name not in ids]

    def _without_labels(self, names: list[str]) -> list[str]:
        """The columns without those next to a picture or sound, and without either labels or the table next to text."""
        kinds = {name: self.source.columns[name].kind for name in names}
        media = [name for name in names if kinds[name] in ("image", "audio")]
        texts, way = [name for name in names if kinds[name] == "text"], ""
        others = {kind for kind in kinds.values() if kind != "text"}
        if len(media) == 1 and len(names) > 1 and not self.own_model:
            kept, why = media, f"the {'picture' if kinds[media[0]] == 'image' else 'sound'} is the input"
        elif not texts or not others or (self.own_model and not others <= _TABLE):
            return names
        else:
            there = [name for name in texts if 2 * sum(map(bool, self._look.strings(name))) >= len(self._look)]
            long = [name for name in there if words_per_row(self._look.strings(name)) >= _WORDS]
            rest = [name for name in names if kinds[name] != "text"]
            short = "short texts, " + ("different in most rows" if there == texts else "or such as most rows lack")
            kept, why = (long, "the text is the input") if long else (rest, short)
            other = rest if long else texts
            columns = [self.source.columns[name] for name in rest]
            plain = all(c.kind in {*_TABLE, "tensor"} and not c.varies and c.type != SPARSE for c in columns)
            if not self.own_model and plain and (told := self._missed(texts, rest)):
                now, least = told if long else told[::-1]
                if least < now * _BETTER:
                    missed = f"rows that were left out are missed by {now:.0%} of the target's variance with"
                    kept, why = other, f"{missed} these, by {least:.0%} with {some(other, 3)}"
            way = f"; model='{'text' if kept == rest else 'table'}' learns from these instead"
        stay = set(kept)
        self.notes.append(f"Left out ({why}): {', '.join(name for name in names if name not in stay)}{way}.")
        return kept

    def _missed(self, texts: list[str], rest: list[str]) -> tuple[float, float] | None:
        """By which share of the target's variance rows are missed by what ridge regression makes of the words and pairs
        of words in the texts, and of the rest of a table, learned from all other rows; None where that is not known."""
        goal, columns = self.source.target, self.source.columns
        if goal not in columns or columns[goal].kind not in {*_TABLE, "tensor"} or len(columns[goal].shape) > 1:
            return None
        n = len(self.source)
        batch = self.source.take(np.linspace(0, n - 1, min(n, _LEFT_OUT)).astype(np.int64))
        y = batch.tensor(goal).to(torch.float64)
        there = torch.isfinite(y).reshape(len(y), -1).all(1)
        there &= ~((y < 0) & (columns[goal].kind == "category")).reshape(len(y), -1).any(1)
        names = torch.unique(y[there])
        if columns[goal].kind == "category":
            y = (y[:, None] == names).to(torch.float64)
        if len(names) < 2 or int(there.sum()) < 20:
            return None
        words, table = self._single(tuple(texts)), replace(self._table(rest), layout="matrix")
        fitted = {"words": words.fit(lambda: iter([batch]), columns, batch).run(batch, columns)}
        found = Batch(fitted | table.fit(lambda: iter([batch]), columns, batch)(batch, columns), batch.rows)
        ids = NGrams(_HASHED, 1, 2, _HASHED).ids(found.tensor("words") % _HASHED)
        hashed = F.normalize(torch.zeros(len(batch), 2 * _HASHED).scatter_(1, ids, 1.0)[:, 1:])
        y = y.reshape(len(batch), -1)[there]
        return leave_one_out(hashed[there], y)[1], leave_one_out(found.tensor("x")[there], y)[1]

    @cached_property
    def _look(self) -> Batch:
        return self.source.take(range(min(len(self.source), _LOOK)))

    def _table(self, names: list[str]) -> TableInput:
        columns = self.source.columns
        mixed = next((name for name in names if columns[name].type == SPARSE), None)
        if mixed is not None:
            raise HandfulError(
                f"'{mixed}' of {self.source.name} is sparse and stands beside other columns: put all of them into one "
                "matrix, with scipy.sparse.hstack or sklearn.compose.ColumnTransformer"
            )
        ragged = next((name for name in names if columns[name].varies), None)
        if ragged is not None:
            raise HandfulError(
                f"'{ragged}' of {self.source.name} has rows of different lengths and stands beside other columns: pad "
                "them to one, or name the columns to learn from in columns=..."
            )
        numbers = tuple(name for name in names if columns[name].kind != "category")
        categories = tuple(name for name in names if columns[name].kind == "category")
        times = CyclicTime(known=_times(columns, numbers))
        tails = RobustAsinh(beside=self.single, kept=self._in_proportion(numbers))
        long: tuple[AnyStep, ...] = () if self.own_model else (times, tails)
        imputes = [step for step in self.given if isinstance(step, Impute)]
        chosen: dict[str, tuple[AnyStep, ...]] = {
            "auto": (*long, Standardize(clip=10.0)),
            "standardize": (Standardize(),),
            "minmax": (MinMax(),),
            "normalize": (Normalize(),),
            "none": (),
            "given": tuple(step for step in self.given if step not in imputes),
        }
        layout = self.layout if self.layout != "auto" else "matrix" if self.own_model else "split"
        return TableInput(numbers, categories, layout, chosen[self.name], (imputes or [Impute()])[0])

    def _in_proportion(self, numbers: tuple[str, ...]) -> tuple[int, ...]:
        """The features of a long tail that the target, a number, is in proportion to; a single layer has both forms."""
        goal = self.source.target
        if self.own_model or self.single or not numbers or goal is None or self.source.columns[goal].kind != "number":
            return ()
        y = self._look.tensor(goal).double().numpy()
        if y.ndim > 1 or len(np.unique(y)) <= FEW_VALUES:
            return ()
        return in_proportion(TableInput(numbers, (), "matrix").matrix(self._look).numpy(), y)

    def _single(self, names: tuple[str, ...]) -> SingleInput:
        """One input: the given steps, or those for the column's kind."""
        column = self.source.columns[names[0]]
        kind = self._kind(column)
        as_it_is = self.own_model and (self.name == "none" or (self.name == "auto" and kind == "ragged"))
        if kind == "ragged" and not as_it_is:
            raise HandfulError(
                f"column '{names[0]}' has rows of different lengths; pad them to one, or bring a model of your own "
                "without preprocess, which gets every batch padded with 0 to its longest row"
            )
        if kind == "ragged" or (as_it_is and kind in ("tokens", "audio")):
            self.notes.append(f"Rows of '{names[0]}' differ in length: a batch is padded with 0 to its longest row.")
            return SingleInput(names, kind, (PadRows(),), as_is=True)
        if kind in ("text", "audio", "tokens"):
            return SingleInput(names, kind, () if as_it_is else self._sequence_steps(names[0], kind), as_is=as_it_is)
        if self.name == "auto" and self.own_model and not (kind == "image" and "int" in column.dtype):
            self.notes.append("Your own model gets x as it is.")
            return SingleInput(names, kind, (), as_is=True)
        return SingleInput(names, kind, self._number_steps(kind, column), as_is=self.own_model)

    def _sequence_steps(self, name: str, kind: str) -> tuple[AnyStep, ...]:
        """Of text, sound or tokens: what turns them into numbers, given or usual, and the given steps after it."""
        if self.name not in ("auto", "given"):
            raise HandfulError(f"preprocess='{self.name}' is for numbers and pictures; '{name}' is {kind}")
        usual: dict[str, AnyStep] = {
            "text": self.text,
            "audio": LogMel(max_length=self.text.max_length),
            "tokens": PadTokens(shift=0 if self.own_model else 2, max_length=self.text.max_length),
        }
        steps = list(self.given)
        if not (steps and isinstance(steps[0], Tokenize | LogMel | PadTokens)):
            steps.insert(0, usual[kind])
        if isinstance(steps[0], LogMel) and not steps[0].rate:
            steps[0] = replace(steps[0], rate=self.source.columns[name].rate)
        return tuple(steps)

    def _number_steps(self, kind: str, column: Column) -> tuple[AnyStep, ...]:
        scale: tuple[AnyStep, ...] = (ScaleImage(standardize=False),) if kind == "image" else ()
        of_whole = scale if column.dtype == "uint8" or (column.kind == "image" and "int" in column.dtype) else ()
        match self.name:
            case "auto" if column.type == SPARSE:
                return (ScaleNonzero(),)
            case "auto" | "standardize":
                return (ScaleImage(),) if scale else (Standardize(fill=self.name == "auto"),)
            case "minmax":
                return of_whole or (MinMax(),)
            case "normalize":
                return (*scale, Normalize())
            case "given":
                return (*of_whole, *self.given)
        return ()

    def _kind(self, column: Column) -> str:
        """The column's kind, with blocks of numbers that are pictures told apart for the ready-made models."""
        shape = column.shape
        if column.kind == "tensor" and None in shape:
            return "ragged"
        if column.kind == "audio" and shape == () and column.rate is None:
            return "tensor"
        if column.kind != "tensor" or self.own_model:
            return column.kind
        sides = [side for side in shape if side]
        colour = len(sides) == 3 and sides[0] in (1, 3, 4) and min(sides[1:]) > 1
        grey = len(sides) == 2 and column.dtype == "uint8" and min(sides) >= 8
        return "image" if colour or grey or (self.pictures and len(sides) in (2, 3)) else "tensor"


def _times(columns: Mapping[str, Column], numbers: Sequence[str]) -> tuple[tuple[int, str], ...]:
    """The places, in a matrix of these columns, of the dates and times of day, and what they are."""
    places = np.cumsum([0, *(prod(side or 0 for side in columns[name].shape) for name in numbers)]).tolist()
    found = ((place, columns[name].dates) for place, name in zip(places, numbers))
    return tuple((place, dates) for place, dates in found if dates and dates != DURATION)


def looks_like_id(name: str, look: Batch, column: Column) -> bool:
    """Whether a column only numbers the rows: of the name that an index gets when it is written, and of more than a few
    values, all whole, or names that differ in most rows; or named so and different in every row looked at."""
    index, n = bool(_INDEX.search(name)), len(look)
    if not index and (n < 2 or not (_ID.search(name) or _ID_CAMEL.search(name))):
        return False
    if column.kind not in _TABLE:
        return index or (column.kind == "text" and len(set(look.strings(name))) == n)
    value, few = look.tensor(name), FEW_VALUES if column.kind == "number" else n // 2
    fewest = min(n, few + 1) if index else n
    whole = not value.is_floating_point() or bool((value == value.round()).all())
    return whole and len(torch.unique(value)) >= fewest


def words_per_row(texts: Sequence[str]) -> float:
    """Mean words; a letter of scripts without blanks between words is half a word."""
    found = sum(len(re.findall(r"\w+", text)) + len(re.findall(UNSPACED, text)) / 2 for text in texts)
    return found / max(1, len(texts))


def unscaled(source: Source, name: str) -> str | None:
    """A sentence on a column [m, ...] whose scale makes learning slow, or None: as its first rows show."""
    rows = np.arange(min(len(source), 4096), dtype=np.int64)
    total = squares = count = 0.0  # in their own precision
    parts = -(-len(rows) // 256) if source.in_memory else 1  # they stay in the processor's cache
    for part in np.array_split(rows, parts):
        value = source.read_column(name, part)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return None
        size = float(torch.linalg.vector_norm(value))
        total, squares, count = total + float(value.sum()), squares + size * size, count + value.numel()
    mean = total / max(1, count)
    if abs(mean) < 4 and 0.1 < math.sqrt(max(0.0, squares / max(1, count) - mean * mean)) < 19:
        return None
    value = value if parts == 1 else source.read_column(name, rows)
    assert isinstance(value, Tensor)
    numbers = value.to(torch.float64, copy=True)
    mean = float(numbers.mean())
    # torch.std_mean takes four times as long
    std = float(torch.linalg.vector_norm(numbers.sub_(mean))) / math.sqrt(numbers.numel())
    if not math.isfinite(std) and not torch.isfinite(value).all():
        return "x holds missing or infinite values; your own model gets them as they are."
    if abs(mean) < 5 and (std == 0 or 0.05 < std < 20):
        return None
    scale = f"mean {mean:.3g}, standard deviation {std:.3g}"
    return f"The scale of x is unusual ({scale}); preprocess='standardize' helps."
