"""Encoded sounds, decoded when read: for a store that is written from more of them than memory holds."""

import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from ..errors import HandfulError
from .audio import _decode, _resample, reason
from .base import Column, Ragged, Rows
from .media import Items, in_parallel
from .options import Options


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
