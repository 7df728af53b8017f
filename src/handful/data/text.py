"""Plain text: one document for language models, in pieces where it is large; or many, each in a file of its own."""

import mmap
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from handful.base.errors import TO_UTF8, HandfulError
from handful.data.arrays import Arrays, Stored, Strings
from handful.data.base import Column, Rows
from handful.data.media.bad_rows import BadItem
from handful.data.media.items import Items, in_parallel
from handful.data.options import Options

LARGE = 64 << 20  # a file up to this many bytes is one row, in memory
_PIECE = 256 << 10


def open_text(path: Path, o: Options) -> Arrays:
    """A .txt file as one row of one column, `text`.

    Above LARGE bytes it is read in rows of about _PIECE bytes, which end where lines do: joined by newlines they are
    the document again. Raises HandfulError for a file that is empty or not UTF-8, naming the byte.
    """
    if o.target is not None:
        raise HandfulError(f"{path} is plain text: it has no columns, so no target '{o.target}'; leave target out")
    if o.columns is not None and o.columns != ("text",):
        raise HandfulError(f"{path} is plain text: its only column is 'text', not '{o.columns[0]}'")
    stored: Pieces | Strings
    if path.stat().st_size > LARGE:
        stored = Pieces(path)
        characters, more = stored.characters, [f"It is read in {len(stored):,} rows that end where lines do."]
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise HandfulError(f"{path} {not_utf8(error)}") from error
        if not text:
            raise HandfulError(f"{path} is empty: there is nothing to learn from")
        stored, characters, more = Strings([text], Column("text", "str")), len(text), []
    notes = [f"{o.name} is one document of {characters:,} characters, for language modelling.", *more]
    return Arrays({"text": stored}, None, name=o.name, where=o.where, notes=notes)


class Pieces(Stored):
    """The rows of a large text file, mapped: read from the disk, and decoded, when they are asked for."""

    in_memory = False

    def __init__(self, path: Path) -> None:
        self.characters, self._path = 0, path
        self._bytes = _map(path)
        spans: list[tuple[int, int]] = []
        for start, stop in _lines(self._bytes):
            spans.append((start, stop))
            self.characters += len(self._text(start, stop)) + 1
        self.characters -= 1  # a newline between two rows, none after the last
        self._spans = np.array(spans, np.int64)
        super().__init__(Column("text", "str"), len(spans))

    def read(self, rows: Rows) -> list[str]:
        return [self._text(start, stop) for start, stop in self._spans[rows].tolist()]

    def _text(self, start: int, stop: int) -> str:
        try:
            text = self._bytes[start:stop].decode("utf-8")
        except UnicodeDecodeError as error:
            raise HandfulError(f"{self._path} {not_utf8(error, start)}") from error
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_bytes"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._bytes = _map(self._path)


def _map(path: Path) -> mmap.mmap:
    with open(path, "rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _lines(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Pieces between newlines; the newline that ends a piece, but for the last one, belongs to none.

    Best between two lines that are neither empty nor indented: there every tokenizer begins a new word anyway.
    """
    start = 3 if data[:3] == b"\xef\xbb\xbf" else 0
    while start < len(data):
        first = cut = data.find(b"\n", start + _PIECE)
        while 0 <= cut < first + 4 * _PIECE and _blank(data[cut - 5 : cut], data[cut + 1 : cut + 5]):
            cut = data.find(b"\n", cut + 1)
        cut = cut if 0 <= cut < first + 4 * _PIECE else first
        if cut < 0 or cut == len(data) - 1:
            yield start, len(data)
            return
        yield start, cut - (data[cut - 1 : cut] == b"\r")
        start = cut + 1


def _blank(before: bytes, after: bytes) -> bool:
    """Whether the lines that meet there do not both have a visible character where they do."""
    last, first = before.decode("utf-8", "ignore").rstrip("\r")[-1:], after.decode("utf-8", "ignore")[:1]
    return not last or last.isspace() or not first or first.isspace()


def from_items(items: Items, o: Options, notes: list[str]) -> Strings:
    """The texts, in memory. Raises BadRows for those that cannot be read, or are not UTF-8, naming the byte."""
    texts = in_parallel(partial(text_of, items), len(items), items.small)
    if blank := sum(not text.strip() for text in texts):
        notes.append(f"{blank:,} files of {o.name} hold no text.")
    return Strings(texts, Column("text", "str"))


def text_of(items: Items, i: int) -> str:
    """One of them."""
    try:
        return bytes(items[i]).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadItem("non-UTF-8 text", items.describe(i), not_utf8(error)) from error


def not_utf8(error: UnicodeDecodeError, start: int = 0) -> str:
    """What is said of bytes, of which byte `start` is the first, that are no text."""
    return f"is not UTF-8 (byte {error.object[error.start]:#04x} at {start + error.start:,}): {TO_UTF8}"
