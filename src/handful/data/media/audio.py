"""Encoded sounds -> float32 samples, one channel, one sample rate."""

import io
import math
from collections import Counter
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from handful.data.arrays import RaggedValues, Stored
from handful.data.base import Column, Ragged, Rows
from handful.data.gather import offsets_of, ragged_of
from handful.data.media.bad_rows import BadItem
from handful.data.media.items import Items, in_parallel
from handful.data.options import Options

Samples = NDArray[np.float32]
_RATES = (50, 10_000_000)  # Hz: from geophones to radio
_FURTHEST = 100  # times another rate: beyond, resampling would take memory without end
_UNKNOWN = 0x7FFF0000  # a size from which on it stands for one that was not known
_SAMPLES: dict[bytes, tuple[bytes, Literal["little", "big"]]]  # by the file's first bytes: the chunk that holds them
_SAMPLES = {b"RIFF": (b"data", "little"), b"RIFX": (b"data", "big"), b"FORM": (b"SSND", "big")}


def from_items(items: Items, o: Options, notes: list[str]) -> Stored:
    """Decode every sound to float32 in -1..1, channels averaged, all at one rate: `o.rate`, or the commonest.

    Raises HandfulError, naming file or row, for a sound that cannot be decoded or is empty.
    """
    if o.budget == 0:
        heads = Counter(in_parallel(lambda i: header(items, i), len(items), small=True))
        if o.bad_rows != "stop":
            in_parallel(lambda i: len(_decode(items, i)[0]), len(items), small=False)
        return Sounds(items, choose_rate(items.key, heads, o, notes))
    found = in_parallel(lambda i: _decode(items, i), len(items), small=False)
    rate = choose_rate(items.key, Counter(head for _, head in found), o, notes)
    sounds = in_parallel(lambda i: _resample(items, i, *found[i], rate), len(found), small=False)
    offsets = offsets_of([len(s) for s in sounds])
    return RaggedValues(np.concatenate(sounds), offsets, Column("audio", "float32", (None,), rate=rate))


class Sounds(Stored):
    """Sounds that stay encoded; a read decodes its rows to float32 samples, one channel, at one rate in Hz."""

    in_memory = False

    def __init__(self, items: Items, rate: int) -> None:
        super().__init__(Column("audio", "float32", (None,), rate=rate), len(items))
        self.items, self.rate = items, rate

    def read(self, rows: Rows) -> Ragged:
        return ragged_of(decode(self.items, rows, self.rate), (), np.dtype(np.float32))


def decode(items: Items, rows: Rows, rate: int) -> list[Samples]:
    """The samples of some sounds, of one channel, at `rate` Hz."""

    def work(place: int) -> Samples:
        row = int(rows[place])
        return _resample(items, row, *_decode(items, row), rate)

    return in_parallel(work, len(rows), small=False)


def choose_rate(key: str, heads: Counter[tuple[int, int]], o: Options, notes: list[str]) -> int:
    """The rate asked for, or the commonest; what is averaged or resampled is noted. heads: (Hz, channels) -> sounds."""
    rates, wanted = Counter[int](), o.schema.get(key)
    for (hz, _), count in heads.items():
        rates[hz] += count
    chosen = o.rate or (wanted.rate if wanted else None) or rates.most_common(1)[0][0]
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
    return _possible(items, i, int(info.samplerate)), int(info.channels)


def _unreadable(items: Items, i: int, error: Exception) -> BadItem:
    """With what libsndfile reports, without the Python object that the bytes came in."""
    reason = str(getattr(error, "error_string", error)).rstrip(".").lower()
    return BadItem("unreadable sound", items.describe(i), f"is not a readable sound ({reason}): repair or remove it")


def _possible(items: Items, i: int, rate: int) -> int:
    if not _RATES[0] <= rate <= _RATES[1]:
        due = f"{_RATES[0]:,} to {_RATES[1]:,}"
        what = f"has a rate of {rate:,} Hz, which cannot be ({due} can): repair or remove it"
        raise BadItem("impossible rate", items.describe(i), what)
    return rate


def _decode(items: Items, i: int) -> tuple[Samples, tuple[int, int]]:
    """The samples, channels averaged; and (rate in Hz, channels)."""
    data = items[i]
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            exact = file.format != "MP3" or b"Xing" in bytes(data[:4096]) or b"Info" in bytes(data[:4096])
            rate, due = file.samplerate, file.frames if exact else 0
            count = -1 if file.seekable() else file.frames  # GSM in a WAV has to be read from its start on
            samples = file.read(count, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise _unreadable(items, i, error) from error
    if not len(samples):
        raise BadItem("empty sound", items.describe(i), "has no samples: remove it")
    if len(samples) < 0.99 * due or _is_cut(data):
        what = "is cut short, as it has fewer samples than it says: copy it again, or remove it"
        raise BadItem("cut sound", items.describe(i), what)
    channels = samples.shape[1]
    head = _possible(items, i, int(rate)), channels
    return samples.mean(axis=1, dtype=np.float32) if channels > 1 else samples[:, 0], head


def _is_cut(data: bytes | memoryview) -> bool:
    """Whether a WAV, AIFF or Ogg file ends before its samples do: libsndfile then gives those that are there, without a
    word. Programs that write to a pipe leave a size that is none, of 2 GiB and more."""
    if bytes(data[:4]) == b"OggS":  # RFC 3533: a page has its parts' sizes at byte 27, and how many they are before it
        page = bytes(data[bytes(data).rfind(b"OggS") :])
        parts = page[26] if len(page) > 26 else 0
        return len(page) < 27 + parts + sum(page[27 : 27 + parts])
    samples, order = _SAMPLES.get(bytes(data[:4]), (b"", "big"))
    at = 12
    while samples and at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], order)
        if bytes(data[at : at + 4]) == samples:
            return size < _UNKNOWN and at + 8 + size > len(data)
        at += 8 + size + size % 2
    return False


def _resample(items: Items, i: int, samples: Samples, head: tuple[int, int], to: int) -> Samples:
    """Polyphase resampling (scipy.signal.resample_poly, its default Kaiser window)."""
    rate = head[0]
    if rate == to:
        return samples
    from scipy.signal import resample_poly  # a second of imports

    if max(rate, to) > _FURTHEST * min(rate, to):
        what = f"has a rate of {rate:,} Hz, too far from the {to:,} Hz of the others: resample or remove it"
        raise BadItem("far rate", items.describe(i), what)
    common = math.gcd(rate, to)
    result: Samples = resample_poly(samples, to // common, rate // common).astype(np.float32)
    return result
