"""Encoded sounds -> float32 samples, one channel, one sample rate."""

import io
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from handful.base.errors import HandfulError
from handful.data.arrays import RaggedValues, Stored
from handful.data.base import Column, Ragged, Rows
from handful.data.media.items import Items, in_parallel
from handful.data.options import Options


def from_items(items: Items, o: Options, notes: list[str]) -> Stored:
    """Decode every sound to float32 in -1..1, channels averaged, all at one rate: `o.rate`, or the commonest.

    Raises HandfulError, naming file or row, for a sound that cannot be decoded or is empty.
    """
    if o.budget == 0:
        return Sounds(items, o, notes)
    sounds: list[Any] = [None] * len(items)
    rates = np.zeros(len(items), np.int64)
    many = np.zeros(len(items), bool)

    def work(places: Rows) -> None:
        for i in places.tolist():
            samples, rates[i] = _decode(items, i)
            many[i] = samples.shape[1] > 1
            sounds[i] = samples.mean(axis=1, dtype=np.float32) if many[i] else samples[:, 0]

    in_parallel(work, np.arange(len(items)), small=False)
    wanted = o.schema.get(items.key)
    rate = o.rate or (wanted.rate if wanted else None) or Counter(rates.tolist()).most_common(1)[0][0]
    if many.any():
        notes.append(f"{int(many.sum()):,} sounds of '{items.key}' have several channels: averaged into one.")
    other = np.flatnonzero(rates != rate)
    if len(other):
        found = ", ".join(f"{r:,}" for r in sorted(set(rates[other].tolist())))
        notes.append(
            f"{len(other):,} sounds of '{items.key}' have another rate ({found} Hz): resampled to {rate:,} Hz."
        )

        def resample(places: Rows) -> None:
            for i in places.tolist():
                sounds[i] = _resample(sounds[i], int(rates[i]), rate)

        in_parallel(resample, other, small=False)
    offsets = np.zeros(len(items) + 1, np.int64)
    np.cumsum([len(s) for s in sounds], out=offsets[1:])
    return RaggedValues(np.concatenate(sounds), offsets, Column("audio", "float32", (None,), rate=rate))


def reason(error: Exception) -> str:
    """What libsndfile says, without the Python object that the bytes came in."""
    return str(getattr(error, "error_string", error)).rstrip(".").lower()


def _decode(items: Items, i: int) -> tuple[NDArray[np.float32], int]:
    data = items[i]
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        said = f"{items.describe(i)} is not a readable sound ({reason(error)}): repair or remove it."
        raise HandfulError(said) from error
    if not len(samples):
        raise HandfulError(f"{items.describe(i)} has no samples: remove it.")
    return samples, int(rate)


def _resample(samples: NDArray[np.float32], rate: int, to: int) -> NDArray[np.float32]:
    """Polyphase resampling (scipy.signal.resample_poly, its default Kaiser window)."""
    from scipy.signal import resample_poly

    common = math.gcd(rate, to)
    result: NDArray[np.float32] = resample_poly(samples, to // common, rate // common).astype(np.float32)
    return result


class Sounds:
    """Sounds that stay encoded; a read decodes its rows to float32 samples, one channel, at one rate."""

    in_memory = False

    def __init__(self, items: Items, o: Options, notes: list[str]) -> None:
        heads = Counter(header(items, i) for i in range(len(items)))
        wanted = o.schema.get(items.key)
        self.items = items
        self.column = Column("audio", "float32", (None,), rate=choose_rate(items.key, heads, o.rate, wanted, notes))

    def __len__(self) -> int:
        return len(self.items)

    def read(self, rows: Rows) -> Ragged:
        assert self.column.rate is not None
        sounds = decode(self.items, rows, self.column.rate)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(s) for s in sounds], out=offsets[1:])
        values = np.concatenate(sounds) if sounds else np.empty(0, np.float32)
        return Ragged(torch.from_numpy(values), torch.from_numpy(offsets))


def header(items: Items, i: int) -> tuple[int, int]:
    """(rate in Hz, channels) without decoding."""
    try:
        info = soundfile.info(io.BytesIO(items[i]))
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        said = f"{items.describe(i)} is not a readable sound ({reason(error)}): repair or remove it."
        raise HandfulError(said) from error
    return int(info.samplerate), int(info.channels)


def choose_rate(
    key: str, heads: Counter[tuple[int, int]], rate: int | None, wanted: Column | None, notes: list[str]
) -> int:
    """The rate asked for, or the commonest; what is averaged or resampled is said."""
    rates: Counter[int] = Counter()
    for (hz, _), count in heads.items():
        rates[hz] += count
    chosen = rate or (wanted.rate if wanted else None) or rates.most_common(1)[0][0]
    several = sum(count for (_, channels), count in heads.items() if channels > 1)
    if several:
        notes.append(f"{several:,} sounds of '{key}' have several channels: averaged into one.")
    others = sum(count for hz, count in rates.items() if hz != chosen)
    if others:
        found = ", ".join(f"{hz:,}" for hz in sorted(rates) if hz != chosen)
        notes.append(f"{others:,} sounds of '{key}' have another rate ({found} Hz): resampled to {chosen:,} Hz.")
    return chosen


def decode(items: Items, rows: Rows, rate: int) -> Sequence[NDArray[np.float32]]:
    """The samples of some sounds."""
    sounds: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(rows)

    def work(places: Rows) -> None:
        for place in places.tolist():
            samples, own = _decode(items, int(rows[place]))
            one = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
            sounds[place] = one if own == rate else _resample(one, own, rate)

    in_parallel(work, np.arange(len(rows)), small=False)
    return sounds
