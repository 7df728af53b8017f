"""How the strings of a column fare in each way of writing numbers and dates, and which of them is the column's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from handful.base.errors import HandfulError
from handful.data.base import Column, Rows
from handful.data.options import Options
from handful.data.tables.cells.dates import ANY, DATES, DIGITS, DURATION, TIME_OF_DAY, dates, is_one_word, may_read
from handful.data.tables.cells.written import Numbers, in_unit, is_money, numbers, trimmed
from handful.data.tables.types import TEXT

_MOST_CLASSES = 20  # different numbers up to which a target is rather classes than numbers
_EURO_LIKE = ("€", "EUR", "kr", "zł", "R$", "₺", "₫")  # where points part thousands
TIME_NAME = re.compile(
    r"(^|[_ ])(year|quarter|month|week|day|date|hour|minute|second|time|timestamp|datetime)s?($|[_ ])", re.I
)
ID_NAME = re.compile(r"(^|[_. -])(id|ids|code|zip|zip_?code|postcode|plz|sku)$|[a-z](Ids?|IDs?|Codes?)$|编号$|编码$")
_MOST_ODD = 100  # different strings that a way of writing does not read, beyond which it is not that of the column
_SAMPLE = 32  # strings, from first to last, of which a way reads none where it is not that of the column
_OF_NUMBERS = re.compile(r"\d|inf", re.I)  # no number or date is without a digit, but infinity
NUMBERS = (".", ",")  # the ways to write numbers, by the sign before decimals

At = tuple[str, int]  # a string, and the first row that holds it


@dataclass
class Reading:
    """How the strings of a column fare in one way of writing them. rows: that it reads; odd: strings that it does not
    read -> (rows, the first of them), None when they are too many; units: of numbers -> where the first stands; bare:
    the first number without one, but for 0; signs: the first number that is more than a plain one, or the first date;
    stray: the first that is not read; grouped: whether thousands are parted; zeros: whether some begin with a zero, as
    in 007; broken: rows of numbers that are not whole, or of dates; firsts: whether all dates are the first of a month;
    bound: the first number of which less, more or about is said."""

    rows: int = 0
    odd: dict[str, tuple[int, int]] | None = field(default_factory=dict)
    units: dict[str, At] = field(default_factory=dict)
    bare: At | None = None
    signs: At | None = None
    stray: At | None = None
    grouped: bool = False
    zeros: bool = False
    broken: int = 0
    firsts: bool = True
    bound: At | None = None

    def merge(self, other: "Reading", offset: int) -> None:
        """Add the rows of the next block, which begins at row `offset`."""
        self.rows, self.broken = self.rows + other.rows, self.broken + other.broken
        if self.odd is None or other.odd is None:
            self.odd = None
        else:
            for text, (rows, first) in other.odd.items():
                before = self.odd.get(text)
                self.odd[text] = (rows, first + offset) if before is None else (before[0] + rows, before[1])
            self.odd = self.odd if len(self.odd) <= _MOST_ODD else None
        self.units = {unit: (text, row + offset) for unit, (text, row) in other.units.items()} | self.units
        self.odd = self.odd if len(self.units) <= _MOST_ODD else None
        for name in ("bare", "signs", "stray", "bound"):
            at: At | None = getattr(other, name)
            setattr(self, name, getattr(self, name) or (at and (at[0], at[1] + offset)))
        self.grouped, self.zeros = self.grouped or other.grouped, self.zeros or other.zeros
        self.firsts = self.firsts and other.firsts


def readings(texts: pa.Array, bare: pa.Array, rows: Rows, first: Rows) -> dict[str, Reading]:
    """How different strings (large_string), none of them missing, fare in every way. bare: as `trimmed` gives them;
    rows: that hold each; first: the first of these."""
    if len(texts) <= 2 * _SAMPLE:
        return _in_each(texts, bare, rows, first)
    some = np.arange(0, len(texts), len(texts) // _SAMPLE)
    found = _in_each(texts.take(pa.array(some)), bare.take(pa.array(some)), rows[some], first[some])
    return {
        way: _reading(way, texts, bare, rows, first) if one.rows else replace(one, odd=None)
        for way, one in found.items()
    }


def _in_each(texts: pa.Array, bare: pa.Array, rows: Rows, first: Rows) -> dict[str, Reading]:
    """The same of a few strings: most ways read none of them, which is soon told."""
    listed = [text for text in bare.to_pylist() if _OF_NUMBERS.search(text)]
    none = _reading("", texts, bare, rows, first)
    dated = [text for text in listed if may_read(text, "")]
    return {
        way: _reading(way, texts, bare, rows, first)
        if any(may_read(text, way) for text in (dated if way in DATES else listed))
        else replace(none, odd=None if none.odd is None else dict(none.odd), units={})
        for way in (*NUMBERS, *DATES)
    }


def _reading(way: str, texts: pa.Array, bare: pa.Array, rows: Rows, first: Rows) -> Reading:
    """way: "" for one that reads none of them."""
    found, there, signs = Reading(), np.zeros(len(texts), np.bool_), np.ones(len(texts), np.bool_)
    if way in DATES:
        there = ~np.isnan(seconds := dates(bare, way))
        there &= not is_one_word(bare.filter(pa.array(there)), way)
        found.broken = int(rows[there].sum())
        days = seconds[there].astype("datetime64[s]").astype("datetime64[D]")
        found.firsts = bool((days == days.astype("datetime64[M]")).all())
    elif way:
        read = numbers(bare, way)
        there, signs = ~np.isnan(read.values) & ~_as_labels(read, rows), read.signs
        broken = int(rows[there & (np.trunc(read.values) != read.values)].sum())
        zeros = bool(pc.any(pc.match_substring_regex(bare, r"^[-+]?0\d")).as_py())
        found = Reading(grouped=bool((read.grouped & there).any()), zeros=zeros, broken=broken)
        found.bare = _at(texts, first, np.flatnonzero(there & (read.units == "") & (read.values != 0))[:1])
        found.bound = _at(texts, first, np.flatnonzero(there & (read.bounds != ""))[:1])
        for at in np.flatnonzero(there & (read.units != "")).tolist():
            found.units.setdefault(read.units[at], (texts[at].as_py(), int(first[at])))
    odd = np.flatnonzero(~there)
    found.rows = int(rows[there].sum())
    found.signs, found.stray = _at(texts, first, np.flatnonzero(there & signs)), _at(texts, first, odd)
    told = zip(texts.take(pa.array(odd[:_MOST_ODD])).to_pylist(), zip(rows[odd].tolist(), first[odd].tolist()))
    found.odd = None if max(len(odd), len(found.units)) > _MOST_ODD else dict(told)
    return found


def _as_labels(read: Numbers, rows: Rows) -> NDArray[np.bool_]:
    """Which bounds are names of groups: of a column with <5 beside >=5, or >3 beside 3 where few strings differ."""
    bound: NDArray[np.bool_] = np.array([sign != "" for sign in read.bounds.tolist()], np.bool_)
    if not bound.any():
        return bound
    pairs = {*zip(read.values[bound].tolist(), read.bounds[bound].tolist(), strict=True)}
    twice = len({value for value, _ in pairs}) < len(pairs)
    same = len(rows) <= _MOST_CLASSES and bool(np.isin(read.values[bound], read.values[~bound]).any())
    return bound if twice or same else np.zeros(len(rows), np.bool_)


def _at(texts: pa.Array, first: Rows, which: Rows) -> At | None:
    return (texts[int(which[0])].as_py(), int(first[which[0]])) if len(which) else None


@dataclass(frozen=True)
class StringStats:
    """What is known of the strings of a column. rows: of the column; told: those that hold a string which does not mark
    a missing value; different: such strings; marks: for missing values; readings: by way of writing."""

    rows: int
    told: int
    different: float
    marks: tuple[str, ...]
    readings: Mapping[str, Reading]


def written_as(key: str, known: StringStats, o: Options, notes: list[str]) -> Column | None:
    """The numbers or dates that a column's strings are, noted; None where they are strings.

    They are numbers, or dates, where all are; or where at least ten numbers differ, none begins with 0 as codes do, and
    at most one row in 20 holds something else, or fewer than half do beside amounts (see `_few`). Plain numbers alone
    stay strings: someone quoted them, unless they are too many for names (see `_amounts`), the column's name says that
    they are years, days or the like, or no cell of the table has a type (`Options.untyped`). HandfulError for a target
    of numbers with something else in some rows.
    """
    is_target = key == o.target
    named = TIME_NAME.search(key) is not None and not is_target
    fits = _fitting(known, named)
    best = _best(fits, known)
    if not best:
        _note_mostly(key, known, o, notes)
        return None
    way = _decimal(fits) if set(best) == set(NUMBERS) else best[0]
    one, what = fits[way], "dates" if way in DATES else "numbers"
    if len(best) > 1 and way in DATES:
        why = "but days and months cannot be told apart: written as 2026-01-31 they are read"
        notes.append(f"'{key}' holds dates such as '{one.signs[0].strip() if one.signs else ''}', {why}.")
        return None
    unit = _first_unit(one)
    if _unlike(one):
        several = f"'{key}' holds amounts in several units ({_two_units(one)})"
        if is_target and known.different > _MOST_CLASSES:
            raise HandfulError(f"{o.name}: target {several}: bring them to one")
        notes.append(f"{several}: not read as numbers.")
        return None
    plain, odd = one.signs is None, known.told - one.rows
    coded = (one.zeros and unit and one.bare) or (way == "," and ID_NAME.search(key))  # 001 and 136A; ids 9,34
    untyped = o.untyped and not (is_target or one.zeros or ID_NAME.search(key))
    if coded or (plain and not (known.marks or odd or named or untyped or _amounts(one, known))):
        return None
    counted = plain or one.bound or (unit and not is_money(unit) and unit not in "%‰")
    if is_target and counted and (known.different - len(one.odd or ()) <= _MOST_CLASSES or one.zeros):
        return None
    if is_target and (odd or one.bound):
        raise _mixed(key, one, known, o)
    _note_written(key, way, one, known, what, notes)
    _note_units(key, unit, one, way, notes)
    if plain and not known.marks and not odd:
        notes.append(f"'{key}' is numbers, {_why_numbers(named, untyped)}.")
    missing = (*(ANY if _many(one, known) else ()), *sorted(one.odd or ()))
    if way in DATES:
        return Column("number", "float64", dates=way, missing=missing)
    return Column("number", "float64", decimal=way, unit=unit, missing=missing)


def _two_units(one: Reading) -> str:
    two = sorted(one.units.values(), key=itemgetter(1))[:2]
    return " and ".join(f"'{text}' in row {row}" for text, row in two)


def _why_numbers(named: bool, untyped: bool) -> str:
    return "as its name says" if named else f"in text{', as all columns are' if untyped else ': too many for names'}"


def _best(fits: Mapping[str, Reading], known: StringStats) -> list[str]:
    """The ways that read most."""
    most = max((one.rows for one in fits.values()), default=0)
    best = [way for way, one in fits.items() if one.rows == most]
    best = [way for way in best if way != DURATION] or best  # 12:30 in all rows is a time of day
    if known.different <= 12:
        return best
    # 1/1/2020, 2/1/2020 over several years: no one sees the days of each January alone
    return [way for way in best if way in DATES and fits[way].firsts][:1] or best


def _fitting(known: StringStats, timed: bool) -> dict[str, Reading]:
    """The ways that read the strings; eight digits are days where all are and the name says so (timed)."""
    fits = {way: one for way, one in known.readings.items() if one.rows and _few(one, known)}
    if (months := fits.get("year-month")) and _many(months, known):  # 2011/12 is a season, where 2015/16 is one
        del fits["year-month"]
    if lasting := fits.get(DURATION):  # 2 h and 5 m are no amounts of one unit
        fits = {way: one for way, one in fits.items() if one.rows > lasting.rows or not _unlike(one)}
    digits = fits.pop(DIGITS, None)
    return {DIGITS: digits} if timed and digits is not None and digits.rows == known.told else fits


def _first_unit(one: Reading) -> str:
    """The unit of the first row; of degrees north and south, or east and west, that which has no minus elsewhere."""
    sides = {unit.strip("°") for unit in one.units}
    if sides in ({"N", "S"}, {"S"}, {"E", "W"}):
        return "E" if "E" in sides else "N"
    return min(one.units, key=lambda unit: one.units[unit][1], default="")


def _unlike(one: Reading) -> bool:
    """Whether some units are not of one kind."""
    return any(np.isnan(in_unit(other, _first_unit(one))) for other in one.units)


def of_dates(key: str, way: str) -> str:
    """A note on dates."""
    if way == TIME_OF_DAY:
        return f"'{key}' holds times of day: read as seconds since midnight."
    if way == DURATION:
        return f"'{key}' holds durations: read as seconds."
    if way == DIGITS:
        way += ", written as numbers"
    return f"'{key}' holds dates, {way}: read as seconds since 1970-01-01 (UTC)."


def _few(one: Reading, known: StringStats) -> bool:
    """Whether few enough strings are not read for the others to tell what the column holds: one row in 20; or fewer
    than half, where most numbers are not whole or these are dates, or ten times as many numbers differ as other strings
    do, more than classes would be."""
    if one.rows == known.told:
        return True
    different = known.different - _MOST_ODD if one.odd is None else known.different - len(one.odd)
    if different < 10 or one.zeros or one.rows * 2 <= known.told:
        return False
    if not _many(one, known):
        return one.odd is not None
    return one.broken * 2 > one.rows or (different > _MOST_CLASSES and 10 * (known.different - different) <= different)


def _amounts(one: Reading, known: StringStats) -> bool:
    """Whether plain numbers in text are amounts, not names: many, and most not whole or under three rows of each."""
    many = known.different > _MOST_CLASSES and not one.zeros
    return many and (one.broken * 2 > one.rows or 3 * known.different > known.told)


def _many(one: Reading, known: StringStats) -> bool:
    """Whether more than one row in 20 is not read: then whatever is no number is missing, in other data, too."""
    return (known.told - one.rows) * 20 > known.told


def _decimal(fits: Mapping[str, Reading]) -> str:
    """The sign before decimals where both ways read all: a comma in 5.000 €, else a point, as in 5,000 and 5.000."""
    point, comma = fits["."], fits[","]
    euros = any(unit in _EURO_LIKE for unit in comma.units)
    return "," if euros and comma.grouped and not point.grouped else "."


def _note_mostly(key: str, known: StringStats, o: Options, notes: list[str]) -> None:
    """Say what keeps a column that is numbers, or dates, in more than half of its rows from being read so."""
    way, one = max(known.readings.items(), key=lambda item: item[1].rows)
    if one.stray is None or one.rows * 2 <= known.told or known.told < 5 or _unlike(one):  # 12 Main St is no amount
        return
    text, row = one.stray
    if key == o.target and known.different > _MOST_CLASSES and known.different * 2 > known.told:
        raise _mixed(key, one, known, o)
    what = "dates" if way in DATES else "numbers"
    notes.append(f"'{key}' is mostly {what} but is read as strings, because of '{text}' in row {row}.")


def _mixed(key: str, one: Reading, known: StringStats, o: Options) -> HandfulError:
    found = f"is a number in {one.rows:,} of {known.told:,} rows but {_listed(one)}"
    if one.bound and one.rows == known.told:
        found = f"is not a number but a bound in some rows, as '{one.bound[0]}' in row {one.bound[1]}"
    return HandfulError(f"{o.name}: target '{key}' {found}: correct or remove such rows")


def _listed(one: Reading) -> str:
    """The strings that are not read, by their first rows."""
    odd = one.odd or {text: (1, row) for text, row in (one.stray and [one.stray]) or ()}
    first = sorted(odd.items(), key=lambda item: item[1][1])
    more = f" and {len(first) - 3} others" if len(first) > 3 else ""
    return ", ".join(f"'{text}' in row {row}" for text, (_, row) in first[:3]) + more


def _note_units(key: str, unit: str, one: Reading, way: str, notes: list[str]) -> None:
    """Say what numbers of other units, or of none, are taken for."""
    for other, (text, _) in one.units.items():
        if other != unit:
            value = numbers(trimmed(pa.array([text], TEXT)), way).values[0] * in_unit(other, unit)
            notes.append(f"'{key}' is in {unit}: '{text.strip()}' is read as {value:.15g}.")
    if one.bound:
        value = numbers(trimmed(pa.array([one.bound[0]], TEXT)), way).values[0]
        notes.append(f"'{key}' holds bounds, read as the number itself: '{one.bound[0].strip()}' as {value:.15g}.")
    if unit and one.bare:
        notes.append(f"'{key}' is in {unit}, and so are taken numbers without a unit, as '{one.bare[0].strip()}' in "
                     f"row {one.bare[1]}.")  # fmt: skip


def _note_written(key: str, way: str, one: Reading, known: StringStats, what: str, notes: list[str]) -> None:
    if way in DATES:
        notes.append(of_dates(key, way))
    elif one.signs not in (None, one.bound):
        read = numbers(trimmed(pa.array([one.signs[0]], TEXT)), way)
        value = read.values[0] * in_unit(read.units[0], _first_unit(one))
        notes.append(f"'{key}' is numbers: '{one.signs[0].strip()}' is read as {value:.15g}.")
    gaps = known.rows - known.told
    if gaps:
        marks = sorted({mark.strip() for mark in known.marks} - {""})
        shown = ", ".join(f"'{mark}'" for mark in marks) or "nothing"
        notes.append(f"'{key}' is {what}; {gaps:,} rows hold {shown} and are read as missing (NaN).")
    if odd := known.told - one.rows:
        rest = f"{odd:,} of {known.rows:,} rows hold something else and are read as missing (NaN)"
        other = "; so is whatever else is none" if _many(one, known) else ""
        notes.append(f"'{key}' is {what}, but {rest}: {_listed(one)}{other}.")
