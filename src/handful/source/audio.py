"""Encoded sounds -> float32 samples, one channel, one sample rate."""

import io
import math
from collections import Counter
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..errors import HandfulError
from .arrays import RaggedValues, Stored
from .base import Column, Rows
from .media import Items, in_parallel
from .options import Options


def from_items(items: Items, o: Options, notes: list[str]) -> Stored:
    """Decode every sound to float32 in -1..1, channels averaged, all at one rate: `o.rate`, or the commonest.

    Raises HandfulError, naming file or row, for a sound that cannot be decoded or is empty.
    """
    if o.budget == 0:
        from .sounds import Sounds

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
