"""The header of a table in text: of one line or two, in a comment, of another length than the rows, or none."""

import csv
import itertools
import math
import re
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

from handful.data.tables.cells.written import is_unit

BLANKS = " "  # between values: one or more of them
NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*")
_DIGIT = re.compile(r"\d")
NOTHING = {"", "?", "na", "n/a", "nan", "null", "<null>", "-", "none"}

# how programs name the types of columns in a line below the names, Orange by a letter, with their part in a third line
_TYPE = re.compile(
    r"bool(ean)?|categor(y|ical)|char|continuous|date|(date)?time|timestamp|discrete|double|enum|factor|float(32|64)?|"
    r"int(32|64|eger)?|logical|num(ber|eric)|object|real|str(ing)?|text|varchar|[cdnst]|"
)
_PARTS = {"class", "c", "meta", "m", "i", "ignore", "weight", "w", "target", "feature", ""}


def typed(records: list[list[str]]) -> int:
    """How many lines a header has of which the second names the types of columns, and a third, with blanks, their
    part; 0 where it has none such.

    >>> typed([["size", "kind"], ["c", "d"], ["", "class"], ["5.1", "a"]]), typed([["x", "y"], ["c", "d"], ["d", "c"]])
    (3, 0)
    """
    names, kinds, third = [[cell.strip().lower() for cell in record] for record in [*records, [], [], []][:3]]
    if len(names) < 2 or len(kinds) != len(names) or not any(kinds) or {*kinds} >= {*names}:
        return 0
    listed = [kind for kind in kinds if not _TYPE.fullmatch(kind)]  # Orange may list the values of a column
    if listed and ("" in kinds or 2 * len(listed) > len(kinds) or not all(" " in values for values in listed)):
        return 0
    parts = any(third) and (len(third) < len(names) or "" in third) and {*third} <= _PARTS
    below = zip(*(record for record in records[2:] if len(record) == len(names)), strict=True)
    return 3 if parts else 2 * any(kind and is_numeric(values) for kind, values in zip(kinds, below, strict=False))


def two_lines(records: list[list[str]]) -> tuple[tuple[str, ...], str] | None:
    """(the names of columns, what is said of it) where two records of words stand over numbers: names in groups, of
    which the first record names each once, or in each column; or names and their units.

    >>> two_lines([["id", "size", "", "kind"], ["", "w", "h", ""], ["1", "2", "3", "a"]])[0]
    ('id', 'size w', 'size h', 'kind')
    >>> two_lines([["size", "kind"], ["[cm]", ""], ["2", "a"]])
    (('size', 'kind'), "its second holds units and is left out: '[cm]'")
    """
    if len(records) < 3 or not agree(records):
        return None
    first, second = ([cell.strip() for cell in record] for record in records[:2])
    told = [[value for value in values if value.strip().lower() not in NOTHING] for values in zip(*records[2:])]
    words = [cell for cell in second if cell.lower() not in NOTHING]
    over = [cell for cell, values in zip(second, told) if cell in words and values and all(map(_DIGIT.search, values))]
    if not over or any(map(NUMBER.fullmatch, second)):
        return None
    groups = [next(filter(None, reversed(first[: k + 1])), "") for k in range(len(first))]
    names = tuple(f"{group} {below}" if below else name for name, group, below in zip(first, groups, second))
    grouped = ("" in first[1:] or len(set(first)) < len(first)) and all(map(any, zip(first, second, strict=True)))
    grouped = grouped and not any(cell in values for cell, values in zip(second, told))
    if grouped and len(set(names)) == len(names) and len(words) >= 2:
        return names, f"'{first[-1] or groups[-1]}' over '{second[-1]}' is the column '{names[-1]}'"
    sure = len(over) > 1 or words == over or all(word[0] in "([" for word in words)
    if sure and len(set(first)) == len(first) and all(first) and all(map(is_unit, over)):
        return tuple(first), f"its second holds units and is left out: {', '.join(map(repr, words[:5]))}"
    return None


def names_in(named: list[str], records: list[list[str]]) -> tuple[str, ...]:
    """The names that a comment above values holds, as numpy.savetxt writes them."""
    fits = records and len(named) == len(records[0]) == len({*named} - {""}) and not any(map(NUMBER.fullmatch, named))
    return tuple(named) if fits and any(map(NUMBER.fullmatch, records[0])) else ()


def shifted(records: list[list[str]], separator: str, text: str) -> tuple[tuple[str, ...], str] | None:
    """(names, what is said of it) of a header with a name less than all rows have values, or with a blank one more. R
    writes the first, with all words in quotes unless tabs or blanks set them apart; rows may also hold a comma.

    >>> shifted([["x", "kind"], ["1", "0.5", "red"], ["2", "0.7", "blue"]], "\\t", "")[0]
    ('', 'x', 'kind')
    >>> shifted([["x", "kind"], ["0.5", "red", ""]], ",", "")[0]
    ('x', 'kind', '')
    """
    first, rest = tuple(records[0]), records[1:]
    if len(first) < 2 or not rest or len(rest[0]) == len(first):
        return None
    widths = {len(record) for record in rest}
    if len(widths) != 1 or any(map(NUMBER.fullmatch, first)):
        return None
    more = widths.pop() - len(first)
    if more == -1 and not first[-1]:
        return first[:-1], "the header ends with a separator, and rows do not"
    if more == 1 and not any(record[-1].strip() for record in rest):
        return (*first, ""), "each row ends with a separator, and the header does not"
    if more == 1 and (separator in ("\t", BLANKS) or text.startswith('"')):
        return ("", *first), "rows have a value more than the header, first, which is their name, as R writes it"
    return None


def is_values(records: list[list[str]]) -> bool:
    """Whether the first record holds values as those below it do, and not names.

    It does not where a word stands over numbers, where the first value is blank (as pandas writes its index), or where
    its numbers rise by even steps, as years, places and wavelengths do. Else it does where numbers stand over numbers,
    or where, of words alone, each occurs below in its column.
    """
    first, below = records[0], list(zip(*records[1:], strict=True))
    if not first[0].strip() or (below and len(below) != len(first)):
        return False
    if not below:  # a row alone
        return all(map(NUMBER.fullmatch, first)) and len(set(first)) < len(first)
    numeric = [is_numeric(values) for values in below]
    words = [i for i, value in enumerate(first) if value.strip().lower() not in NOTHING and not NUMBER.fullmatch(value)]
    if any(map(_counts_on, first, below)) and first != [str(i) for i in range(len(first))]:  # as pandas names columns
        return True
    numbers = [i for i in range(len(first)) if NUMBER.fullmatch(first[i])]
    if any(numeric[i] for i in words) or not all(numeric[i] or first[i] in below[i] for i in numbers):
        return False
    seen = [first[i] in below[i] for i in words]
    if not numbers:
        return len(words) > 1 and len(records) > 3 and all(seen)
    amounts = [float(first[i].replace(",", ".")) for i in numbers]
    steps = [b - a for a, b in itertools.pairwise(amounts)]
    rises = amounts[0] >= 0 and all(step > 0 for step in steps)
    even = rises and all(math.isclose(step, steps[0], rel_tol=1e-3) for step in steps)
    whole = rises and all(first[i].strip().isdecimal() for i in numbers)
    return any(seen) or not ((even and (whole or len(numbers) > 2)) or (whole and (words or len(numbers) > 4)))


def _counts_on(first: str, below: tuple[str, ...]) -> bool:
    """Whether whole numbers count on from the first, one by one, as the numbers of rows do."""
    counted = [int(value) if value.strip().isdecimal() else -1 for value in (first, *below)]
    return len(counted) > 4 and counted[0] in (0, 1) and all(b - a == 1 for a, b in itertools.pairwise(counted))


@lru_cache(512)
def is_numeric(values: tuple[str, ...]) -> bool:
    """Whether all values are numbers, but for marks for missing ones."""
    told = [value for value in values if value.strip().lower() not in NOTHING]
    return bool(told) and all(map(NUMBER.fullmatch, told))


def agree(records: list[list[str]]) -> bool:
    return bool(records) and len(records[0]) > 1 and all(len(r) == len(records[0]) for r in records)


def are_letters(text: str, separators: Sequence[str], cut: bool) -> bool:
    """Whether quotes are letters of the texts: no others close them, though all lines hold as many values, more than
    one. cut: the last line is not whole.

    >>> are_letters('text\\ty\\n"Good one\\t1\\nbad "one\\t0\\n', ["\\t"], False)
    True
    >>> are_letters('text\\ty\\n"Good\\none"\\t1\\n5" long\\t0\\n', ["\\t"], False)
    False
    """
    lines = [line for line in text.split("\n") if line.strip()][: -1 if cut else None]
    if any(line.count('"') % 2 for line in lines):
        for separator in separators:
            if separator in lines[0] and len({line.count(separator) for line in lines}) == 1:
                try:
                    deque(csv.reader(lines, delimiter=separator, strict=True), maxlen=0)
                except csv.Error as error:
                    return not cut or "end of data" not in str(error)
    return False
