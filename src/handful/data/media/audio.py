"""Encoded sounds -> float32 samples, one channel, one sample rate."""

import io
import math
from collections import Counter

import numpy as np
import soundfile
from numpy.typing import NDArray

from handful.base.errors import HandfulError
from handful.data.arrays import RaggedValues, Stored
from handful.data.base import Column, Ragged, Rows
from handful.data.gather import offsets_of, ragged_of
from handful.data.media.items import Items, in_parallel
from handful.data.options import Options

Samples = NDArray[np.float32]


def from_items(items: Items, o: Options, notes: list[str]) -> Stored:
    """Decode every sound to float32 in -1..1, channels averaged, all at one rate: `o.rate`, or the commonest.

    Raises HandfulError, naming file or row, for a sound that cannot be decoded or is empty.
    """
    wanted = o.schema.get(items.key)
    if o.budget == 0:
        heads = Counter(header(items, i) for i in range(len(items)))
        return Sounds(items, choose_rate(items.key, heads, o.rate, wanted, notes))
    found = in_parallel(lambda i: _decode(items, i), len(items), small=False)
    rate = choose_rate(items.key, Counter(head for _, head in found), o.rate, wanted, notes)
    sounds = in_parallel(lambda i: _resample(found[i][0], found[i][1][0], rate), len(found), small=False)
    offsets = offsets_of([len(s) for s in sounds])
    return RaggedValues(np.concatenate(sounds), offsets, Column("audio", "float32", (None,), rate=rate))


class Sounds:
    """Sounds that stay encoded; a read decodes its rows to float32 samples, one channel, at one rate in Hz."""

    in_memory = False

    def __init__(self, items: Items, rate: int) -> None:
        self.items, self.rate, self.column = items, rate, Column("audio", "float32", (None,), rate=rate)

    def __len__(self) -> int:
        return len(self.items)

    def read(self, rows: Rows) -> Ragged:
        return ragged_of(decode(self.items, rows, self.rate), (), np.dtype(np.float32))


def decode(items: Items, rows: Rows, rate: int) -> list[Samples]:
    """The samples of some sounds, of one channel, at `rate` Hz."""

    def work(place: int) -> Samples:
        samples, (own, _) = _decode(items, int(rows[place]))
        return _resample(samples, own, rate)

    return in_parallel(work, len(rows), small=False)


def choose_rate(
    key: str, heads: Counter[tuple[int, int]], rate: int | None, wanted: Column | None, notes: list[str]
) -> int:
    """The rate asked for, or the commonest; what is averaged or resampled is noted. heads: (Hz, channels) -> sounds."""
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


def header(items: Items, i: int) -> tuple[int, int]:
    """(rate in Hz, channels) without decoding. HandfulError, naming file or row, for one that is not readable."""
    try:
        info = soundfile.info(io.BytesIO(items[i]))
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise _unreadable(items, i, error) from error
    return int(info.samplerate), int(info.channels)


def _unreadable(items: Items, i: int, error: Exception) -> HandfulError:
    """With what libsndfile reports, without the Python object that the bytes came in."""
    reason = str(getattr(error, "error_string", error)).rstrip(".").lower()
    return HandfulError(f"{items.describe(i)} is not a readable sound ({reason}): repair or remove it")


def _decode(items: Items, i: int) -> tuple[Samples, tuple[int, int]]:
    """The samples, channels averaged; and (rate in Hz, channels)."""
    data = items[i]
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise _unreadable(items, i, error) from error
    if not len(samples):
        raise HandfulError(f"{items.describe(i)} has no samples: remove it")
    channels = samples.shape[1]
    return samples.mean(axis=1, dtype=np.float32) if channels > 1 else samples[:, 0], (int(rate), channels)


def _resample(samples: Samples, rate: int, to: int) -> Samples:
    """Polyphase resampling (scipy.signal.resample_poly, its default Kaiser window)."""
    from scipy.signal import resample_poly

    if rate == to:
        return samples
    common = math.gcd(rate, to)
    result: Samples = resample_poly(samples, to // common, rate // common).astype(np.float32)
    return result
