"""Texts, each in a file of its own."""

from functools import partial

from handful.base.errors import TO_UTF8
from handful.data.arrays import Strings
from handful.data.base import Column
from handful.data.media.bad_rows import BadItem
from handful.data.media.items import Items, in_parallel
from handful.data.options import Options


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
