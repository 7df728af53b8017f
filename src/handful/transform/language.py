"""Running text larger than memory: joined, cut and turned into one long array of tokens piece by piece."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch

from handful.base.errors import HandfulError, some, whole
from handful.data.base import Column, Rows, Source, Value
from handful.data.gather import Array
from handful.data.tables.cells.strings import composed
from handful.transform.steps.categories import strings
from handful.transform.steps.text import Tokenize

LARGE = 64 << 20  # bytes of tokens that are kept in memory; more of them go to a file
_CHARACTERS = 1 << 20  # read at a time, where rows are short
_PIECE = 1 << 20  # characters that a tokenizer gets at once, rather than one string of gigabytes


def joined(source: Source, name: str) -> Iterator[str]:
    """The texts of a column, a newline between two: one long text of composed letters, in pieces that end where rows
    do."""
    size, start = 1, 0
    while start < len(source):
        rows = np.arange(start, min(start + size, len(source)), dtype=np.int64)
        piece = composed("\n".join(strings(source.read_column(name, rows), source.columns[name])))
        start += len(rows)
        yield piece + "\n" if start < len(source) else piece
        if len(piece) < _CHARACTERS // 2:
            size *= 2
        elif len(piece) > _CHARACTERS:
            size = max(1, size // 2)


def between(parts: Iterable[str], first: int, last: int) -> Iterator[str]:
    """Characters first..last-1 of the text that `parts` make up.

    >>> list(between(["abc", "def", "gh"], 1, 4))
    ['bc', 'd']
    """
    at = 0
    for part in parts:
        piece = part[max(0, first - at) : max(0, last - at)]
        at += len(part)
        if piece:
            yield piece
        if at >= last:
            return


def evenly(parts: Iterable[str], size: int) -> Iterator[str]:
    """The same text in pieces of `size` characters, the last one shorter.

    >>> list(evenly(["abc", "d", "efg"], 2))
    ['ab', 'cd', 'ef', 'g']
    """
    rest = ""
    for part in parts:
        rest += part
        whole = len(rest) // size * size
        yield from (rest[i : i + size] for i in range(0, whole, size))
        rest = rest[whole:]
    if rest:
        yield rest


def array_of(parts: Iterable[Array], dtype: np.dtype[np.generic]) -> Array:
    """The parts end to end; above LARGE bytes mapped from a temporary file, which goes with the array."""
    with tempfile.SpooledTemporaryFile(LARGE, prefix="handful-tokens-") as stream:
        for part in parts:
            stream.write(part.astype(dtype).tobytes())
        if stream.tell() > LARGE:  # then it has become a file
            return np.memmap(stream, dtype, mode="r")
        stream.seek(0)
        return np.frombuffer(stream.read(), dtype)


def is_ids(column: Column) -> bool:
    """Whether it may hold token ids: whole numbers, one in each row or as many in each.

    >>> is_ids(Column("number", "int64")), is_ids(Column("tensor", "int32", (64,))), is_ids(Column("number", "float64"))
    (True, True, False)
    """
    return column.kind in ("number", "tensor") and "int" in column.dtype and len(column.shape) < 2 and not column.varies


def next_token(source: Source) -> str:
    """The way on for data without a target that may be token ids, for the end of a message."""
    return ", or task='language' to predict each next token" if any(map(is_ids, source.columns.values())) else ""


class LanguageSource(Source):
    """Windows of one long row of tokens: row i is x = tokens[i*stride:][:length] and y, one later.

    tokens: integers [n]; columns `x` and `y`, int64 [m, length]; tokenizer: the fitted Tokenize (or None); vocabulary:
    the number of tokens there are. Only whole windows are rows.
    """

    def __init__(
        self,
        tokens: Array,
        length: int,
        *,
        stride: int | None = None,
        tokenizer: Tokenize | None = None,
        name: str = "text",
        vocabulary: int | None = None,
    ) -> None:
        if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise HandfulError(f"{name} must be one long array of whole numbers, the token ids, not {tokens!r:.60}")
        length = whole("length", length)
        self.stride = length if stride is None else whole("stride", stride)
        if length < 1 or self.stride < 1:
            raise HandfulError(f"a window needs length and stride of 1 or more, not {length} and {self.stride}")
        if len(tokens) <= length:
            raise HandfulError(
                f"{name} has {len(tokens)} tokens, too few for one window of {length} and its next token"
            )
        self.tokens, self.length, self.tokenizer, self.name = tokens, length, tokenizer, name
        self.in_memory = not isinstance(tokens, np.memmap)
        column = Column("tensor", "int64", (length,))
        self.columns, self.target, self.notes = {"x": column, "y": column}, "y", []
        self.vocabulary = vocabulary or (tokenizer.vocabulary if tokenizer else int(tokens.max()) + 1)

    def __len__(self) -> int:
        return (len(self.tokens) - self.length - 1) // self.stride + 1

    def read(self, rows: Rows) -> dict[str, Value]:
        at = (rows * self.stride)[:, None] + np.arange(self.length + 1)
        window = torch.from_numpy(self.tokens[at].astype(np.int64))
        return {"x": window[:, :-1].contiguous(), "y": window[:, 1:].contiguous()}


def language_source(
    source: Source,
    length: int = 128,
    *,
    tokenize: Tokenize | None = None,
    valid: float = 0.1,
    stride: int | None = None,
) -> tuple[LanguageSource, LanguageSource | None]:
    """The training and the validation windows of a source with one column of text, or of token ids.

    The texts (joined by a newline) are split once: the last `valid` share of the characters is for
    validation, so that no window of it was trained on. tokenize: unfitted, it is fitted on the training part
    only; fitted, it is used as it is; by default characters. length: T, tokens seen by the model at once;
    stride: from the start of one training window to the next (default T: every token is predicted once an
    epoch). Validation windows never overlap. Raises HandfulError without exactly one such column, or when a
    part is too short for one window.
    """
    names = [name for name, column in source.columns.items() if column.kind == "text"]
    names = names or [name for name, column in source.columns.items() if is_ids(column)]
    if len(names) != 1 or names == [source.target]:
        raise HandfulError(
            f"a language model learns from one column of text or token ids; {source.name} has {some(names) or 'none'}"
        )
    if not 0 <= valid < 1:
        raise HandfulError(f"the validation share must be from 0 up to, but not including, 1, not {valid}")
    if is_ids(source.columns[names[0]]):
        return of_ids(source, names[0], length, valid, stride)
    total = sum(map(len, joined(source, names[0])))
    end = total - round(valid * total)
    tokenize = tokenize or Tokenize("character")
    if tokenize.model is None:
        training = evenly(between(joined(source, names[0]), 0, end), _PIECE)
        tokenize = replace(tokenize, lowercase=False).fit([piece] for piece in training)
        tokenize = replace(tokenize, max_length=length)
    parts, dtype = [], np.min_scalar_type(tokenize.vocabulary - 1)
    for first, last in ((0, end), (end, total)):
        texts = between(joined(source, names[0]), first, last)
        if tokenize.mode == "character":  # others are cut between rows alone
            texts = evenly(texts, _PIECE)
        parts.append(array_of(map(tokenize.ids, texts), dtype))
    train = LanguageSource(parts[0], length, stride=stride, tokenizer=tokenize, name=f"{source.name} (training part)")
    train.notes = [
        f"The text is {total:,} characters, {sum(map(len, parts)):,} tokens of {tokenize.vocabulary:,} kinds."
    ]
    if end == total:
        return train, None
    test = LanguageSource(parts[1], length, tokenizer=tokenize, name=f"{source.name} (validation part)")
    train.notes.append(f"The last {valid:.0%} of the text is for validation: {len(test)} windows of {length}.")
    return train, test


def of_ids(
    source: Source, name: str, length: int, valid: float, stride: int | None
) -> tuple[LanguageSource, LanguageSource | None]:
    """The same of token ids. One a row: they are one text, in windows of `length`. T a row: each row is a window, T - 1
    tokens and what follows each of them."""
    size = source.columns[name].shape[0] if source.columns[name].shape else None
    if size is not None:
        length, stride = size - 1, size
    starts = range(0, len(source), max(1, _PIECE // (size or 1)))
    values = (source.read_column(name, np.arange(i, min(i + starts.step, len(source)))) for i in starts)
    tokens = array_of((np.asarray(value).reshape(-1) for value in values), np.dtype(source.columns[name].dtype))
    if tokens.min() < 0:
        raise HandfulError(f"token ids are counted from 0, and '{name}' of {source.name} has {tokens.min()}")
    end, vocabulary = (len(source) - round(valid * len(source))) * (size or 1), int(tokens.max()) + 1
    train = LanguageSource(
        tokens[:end], length, stride=stride, name=f"{source.name} (training part)", vocabulary=vocabulary
    )
    train.notes = [f"The data are {len(tokens):,} token ids below {vocabulary:,}."]
    if end == len(tokens):
        return train, None
    test = LanguageSource(
        tokens[end:], length, stride=size, name=f"{source.name} (validation part)", vocabulary=vocabulary
    )
    return train, test
