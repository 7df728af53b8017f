"""Texts, each in a file of its own."""

from handful.base.errors import TO_UTF8
from handful.data.arrays import Strings
from handful.data.base import Column
from handful.data.media.bad_rows import Bad, BadItem, BadRows
from handful.data.media.items import Items
from handful.data.options import Options


def from_items(items: Items, o: Options, notes: list[str]) -> Strings:
    """The texts, in memory. Raises BadRows for those that cannot be read, or are not UTF-8, naming the byte."""
    texts, bad = list[str](), list[Bad]()
    for i in range(len(items)):
        try:
            texts.append(_text(items, i))
        except BadItem as error:
            bad.append(error.at(i))
    if bad:
        raise BadRows(bad)
    if not all(texts):
        notes.append(f"{sum(not text.strip() for text in texts):,} files of {o.name} hold no text.")
    return Strings(texts, Column("text", "str"))


def _text(items: Items, i: int) -> str:
    try:
        return bytes(items[i]).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x} at {error.start:,}"
        what = f"is not UTF-8 ({byte}): {TO_UTF8}"
        raise BadItem("non-UTF-8 text", items.describe(i), what) from error
