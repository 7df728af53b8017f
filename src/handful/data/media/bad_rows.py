"""Rows that cannot be read: all of them named at once, or left out and counted, as the caller asked."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow.csv import InvalidRow

from handful.base.errors import HandfulError, some
from handful.data.arrays import Arrays, NoTarget
from handful.data.base import Rows
from handful.data.options import Options

NAMED = 20  # of many rows that cannot be read
WHOLE_ROWS = "rows need as many values as the header, quoted where needed; bad_rows='skip' leaves out the others"
LEFT_OUT = "left out"  # how the note on rows that are not there begins


class Bad(NamedTuple):
    """A row that cannot be read. kind: as it is counted; place: its file, or where it stands; said: a sentence."""

    row: int
    kind: str
    place: str
    said: str


class BadItem(HandfulError):
    """A picture or sound that cannot be read."""

    def __init__(self, kind: str, place: str, what: str) -> None:
        super().__init__(f"{place} {what}")
        self.kind, self.place = kind, place

    def at(self, row: int) -> Bad:
        """The row that holds it."""
        return Bad(row, self.kind, self.place, str(self))


class BadRows(HandfulError):
    """Rows that cannot be read, at least one: says what is wrong with the first of them, and names the others."""

    def __init__(self, bad: Sequence[Bad]) -> None:
        self.bad = sorted(bad)
        first, *others = self.bad
        more = some([b.place for b in others], NAMED - 1)
        super().__init__(first.said + (f"; nor can be read: {more}" if others else ""))


def ragged(where: str, bad: list[Bad], row: InvalidRow) -> str:
    """For pyarrow's reader of CSV: a line of too many or too few values is added to `bad` and skipped."""
    counts = f"Row #{row.number}: Expected {row.expected_columns} columns, got {row.actual_columns}"
    said = f"{where} is not a CSV file that can be read ({counts}: {row.text[:100]})"
    bad.append(Bad(row.number, "ragged line", f"Row #{row.number}", f"{said}: {WHOLE_ROWS}"))
    return "skip"


def of_whole_lines(text: bytes, where: str, skipped: list[Bad] | None, read: Callable[[bytes], pa.Table]) -> pa.Table:
    """What `read` makes of JSON lines: without those that are no objects, which are added to `skipped`."""
    try:
        return read(text)
    except pa.ArrowInvalid as error:
        bad, whole = list[Bad](), list[bytes]()
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            if is_object(line) or not line.strip():
                whole.append(line)
                continue
            start = line[:100].decode(errors="replace").strip()
            said = f"{where} is not a JSON-lines file that can be read (line {number}: {start})"
            bad.append(Bad(number, "broken line", f"line {number}", f"{said}: each line must be one object"))
        if not bad:
            raise
        if skipped is None:
            raise BadRows(bad) from error
    skipped += bad
    return read(b"".join(whole))


def is_object(line: bytes) -> bool:
    """Whether it is one object as JSON writes them."""
    try:
        return type(json.loads(line)) is dict
    except ValueError:
        return False


def without_bad(count: int, o: Options, read: Callable[[Rows, Options], Arrays]) -> Arrays:
    """What `read` makes of `count` rows, or of those that can be read, where `o.bad_rows` allows to skip the others:
    "skip" one in ten at most, a number so many. How many were left out, by kind, and where, is noted.

    Raises HandfulError, naming the first 20, where there are more.
    """
    rows, gone = np.arange(count, dtype=np.int64), list[Bad]()
    while True:
        try:
            found = read(rows, replace(o, rows=rows) if gone else o)
        except BadRows as error:
            if o.bad_rows == "stop":
                raise
            bad = error.bad
        except NoTarget as error:
            if o.bad_rows == "stop":
                asked = "'skip'" if len(error.rows) <= count // 10 else len(error.rows)
                raise HandfulError(f"{error}, or leave them out with bad_rows={asked}") from error
            bad = [Bad(row, "missing target", f"row {rows[row]}", str(error)) for row in error.rows.tolist()]
        else:
            found.notes += left_out(gone, len(rows), o) if gone else []
            skipped = (np.array(sorted(b.row for b in gone), np.int64), o.bad_rows)
            found.left_out = None if o.bad_rows == "stop" else skipped
            return found
        gone += [b._replace(row=int(rows[b.row])) for b in bad]
        rows = np.delete(rows, [b.row for b in bad])
        left_out(gone, len(rows), o)


def left_out(bad: Sequence[Bad], kept: int, o: Options) -> list[str]:
    """A note on rows that are left out, beside those that are kept; HandfulError where they are more than allowed."""
    count = kept + len(bad)
    most = count // 10 if o.bad_rows == "skip" else int(o.bad_rows)
    kinds = Counter(b.kind for b in bad).most_common()
    counted = ", ".join(f"{n:,} {kind}{'s' * (n > 1)}" for kind, n in kinds) + f" of {count:,} rows"
    places = some([b.place for b in sorted(bad)], NAMED)
    if len(bad) > most or not kept:
        raise HandfulError(
            f"{o.name}: {counted} cannot be read, more than the {most:,} that may be skipped: {places}; "
            f"bad_rows={len(bad)} allows so many"
        )
    return [f"{LEFT_OUT}, as they cannot be read: {counted} ({places})."]
