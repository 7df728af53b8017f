"""The labels of a text file as they are written there: "01" stays "01", and a date a date."""

from collections.abc import Callable, Iterable
from math import sqrt

import pyarrow as pa
import pyarrow.compute as pc

from handful.data.tables.types import TEXT, is_moment

MOST = 1 << 16  # labels whose writing is kept
_LONGEST = 2**63  # whole numbers below have their own bits
Parse = Callable[[pa.Array], pa.ChunkedArray]  # the cells of a column -> as the reader of text files types them


def typed(cells: pa.ChunkedArray, parse: Parse) -> tuple[pa.ChunkedArray, tuple[str, ...] | None]:
    """The values of a target's cells, and how each value is written, where Python would write it otherwise.

    A few whole numbers of which one is written in two ways ("1" and "01"), or too long for 64 bits, are names: text.
    """
    encoded = pc.dictionary_encode(cells.combine_chunks())
    values = parse(encoded.dictionary).combine_chunks()
    if values.type == TEXT:
        return cells, None
    found = pa.chunked_array([values.take(encoded.indices)])
    if len(values) > MOST:
        return found, None
    texts = [text.strip() for text in encoded.dictionary.to_pylist()]
    pairs = [(v, text) for v, text in zip(values.to_pylist(), texts, strict=True) if v is not None]
    words: dict[object, str] = {}
    for value, text in pairs:
        words.setdefault(value, text)
    if len(words) <= max(20, sqrt(len(cells))) and _are_names(words, pairs, values.type):
        return cells, None
    dated = is_moment(values.type) or pa.types.is_time(values.type)  # read as seconds
    return found, tuple(words.values()) if dated or any(str(v) != text for v, text in words.items()) else None


def _are_names(words: dict[object, str], pairs: Iterable[tuple[object, str]], kind: pa.DataType) -> bool:
    if pa.types.is_integer(kind):
        return any(words[value] != text for value, text in pairs)
    digits = [text for text in words.values() if text.lstrip("+-").isdecimal()]
    return pa.types.is_floating(kind) and len(digits) == len(words) and any(abs(int(t)) >= _LONGEST for t in digits)
