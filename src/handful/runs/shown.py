"""The rows of a mini-batch as a page shows them: where they stand, what they hold, and what the model saw of them."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handful.base.plan import Row
from handful.data.base import Batch, Source
from handful.runs.judge.examples import contents, pictures_of, shorten, sounds_of
from handful.runs.places import places
from handful.transform.pipeline import Pipeline
from handful.transform.steps.text import PAD, Tokenize

SEEN = "as the model saw it"
HEARD, _SHOWN = 12, {"most": 8, "length": 300}  # sounds; columns and characters of a row


@dataclass
class Shown:
    """holds: of each row where it stands, its target and what it holds; pictures, seen: uint8 [m, C, H, W], in the
    data and as the model saw them (of sounds their spectrograms, low notes below); sounds: WAV files of some rows."""

    holds: list[Row]
    pictures: NDArray[np.uint8] | None = None
    seen: NDArray[np.uint8] | None = None
    sounds: list[bytes] = field(default_factory=list)


def shown(source: Source, pipeline: Pipeline, batch: Batch, first: NDArray[np.int64]) -> Shown:
    """batch: the mini-batch as the model saw it, of rows of `source`; first: places in it of the rows to be heard."""
    raw = source.take(batch.rows)
    inputs = {} if pipeline.tokenizer else dict(pipeline.input.parts)
    names = [] if pipeline.tokenizer else [*([source.target] if source.target else []), *pipeline.uses]
    held = contents(source, raw, names, **_SHOWN)
    found = Shown(
        [where | {n: values[i] for n, values in held.items()} for i, where in enumerate(places(source, batch.rows))]
    )
    tokenizers = {"x": pipeline.tokenizer} if pipeline.tokenizer else {}
    for name, part in inputs.items():
        column, value = source.columns[part.uses[0]], batch.columns.get(name)
        if part.kind == "text" and part.steps and isinstance(step := part.steps[-1], Tokenize):
            tokenizers[name] = step
        elif part.kind == "audio" and isinstance(value, Tensor) and found.seen is None:
            found.sounds = sounds_of(source.take(batch.rows[first[:HEARD]]), part.uses[0], column, HEARD)
            heard = pictures_of(batch, name)
            found.seen = None if heard is None else heard[:, :, ::-1]
        elif isinstance(value, Tensor) and value.ndim == 4 and found.seen is None:
            found.pictures, found.seen = pictures_of(raw, part.uses[0]), pictures_of(batch, name)
    for name, step in tokenizers.items():
        said = SEEN if len(tokenizers) == 1 else f"{name} {SEEN}"
        for row, ids in zip(found.holds, batch.tensor(name), strict=True):
            row[said] = shorten(_written(step, ids.tolist()), _SHOWN["length"])
    return found


def _written(step: Tokenize, ids: list[int]) -> str:
    """The text of tokens; a point for each that was dropped on the way, of which padding is left."""
    while ids and ids[-1] == PAD:
        ids.pop()
    dropped = [i for i, token in enumerate(ids) if token == PAD]
    pieces = [step.text(ids[a + 1 : b]) for a, b in pairwise([-1, *dropped, len(ids)])]
    return " · ".join(pieces)
