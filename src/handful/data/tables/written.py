"""The ways in which strings stand for numbers, dates and times: what each reads, a whole array at a time."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from handful.data.tables.types import TEXT

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Days = NDArray[np.int64]

_NONE = (
    "?", "-", "--", "---", "\u2013", "\u2014", ".", "..", "...", "*", "na", "n/a", "n.a.", "n.a", "#n/a", "#na",
    "#n/a n/a", "<na>", "nan", "-nan", "nat", "none", "null", "nil", "\\n", "missing", "unknown", "not available",
    "#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!",
)  # fmt: skip
_LONGEST = 64  # bytes of a number or a date; longer strings are none
_SPACES = "\u00a0\u2009\u202f"
_BLANK = rf"[\s{_SPACES}]"  # \s is of ASCII alone
_SMALL = 500  # strings up to which Python is quicker, as it keeps the patterns that it compiled
_CODES = "USD|EUR|GBP|JPY|CHF|CNY|INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|BRL|MXN|ZAR|KRW|SGD|HKD"
_CURRENCY = rf"(?:US|CA|AU|NZ|HK|R|S|A|C)?\$|[€£¥₹₽₩₺₪₫฿₴₦₱₿¢]|{_CODES}|Rs\.?|kr\.?|Fr\.?|zł|人民币|RMB|[元圆円원]"
# What may stand right behind a number; after a blank any short word may.
_GLUED = (
    rf"{_CURRENCY}|%|‰|°[CF]?|[kMGT]?(?:Hz|W|Wh|V|A|Pa|B|J)|[nµmck]?m|[mk]?g|[mµcd]?[lL]|ms|s|sec|min|h|hrs?|lbs?|oz|ft|in|"
    r"mi|mph|km/h|m/s|km2|km²|m2|m²|m3|m³|kcal|cal|px|pt|ha|ppm|bpm|rpm|x|[kKMB]|[mb]n|[㎡㎞㎏℃]|"
    r"[\u4e00-\u9fff\uac00-\ud7a3]{1,2}(?:[/每\u4e00-\u9fff\uac00-\ud7a3]{0,3}[㎡\u4e00-\u9fff\uac00-\ud7a3])?"
)
# What multiplies the number, right behind it or after a blank, where K alone is kelvin; T is tonnes.
_TIMES = {"k": 1e3, "M": 1e6, "mn": 1e6, "bn": 1e9}
_BY_GLUED = _TIMES | {"K": 1e3, "B": 1e9}
_BY_WORD = _TIMES | {"thousand": 1e3, "million": 1e6, "Mio": 1e6, "Mio.": 1e6, "billion": 1e9, "Mrd": 1e9, "Mrd.": 1e9}
# Chinese, Japanese and Korean have no blank there: 3.5万元, 1.2亿. 千 also begins units: 千米, 千克.
_TIMES_HAN = re.compile(r"([百千]?[万萬만]|[十百千]?[亿億억]|千(?=[元人]?$))(.*)")
_HAN = {"十": 1e1, "百": 1e2, "千": 1e3, "万": 1e4, "萬": 1e4, "만": 1e4, "亿": 1e8, "億": 1e8, "억": 1e8}
# Units of one kind -> how many of the first each is.
_PREFIXES = {"n": 1e-9, "µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_KINDS: tuple[dict[str, float], ...] = (
    {"m": 1.0, "km": 1e3, "dm": 0.1, "cm": 1e-2, "mm": 1e-3, "µm": 1e-6, "nm": 1e-9,
     "in": 0.0254, "ft": 0.3048, "mi": 1609.344, "yd": 0.9144},
    {"g": 1.0, "kg": 1e3, "mg": 1e-3, "µg": 1e-6, "lb": 453.59237, "lbs": 453.59237, "oz": 28.349523125},
    {"s": 1.0, "sec": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0, "hr": 3600.0, "hrs": 3600.0},
    {"l": 1.0, "L": 1.0, "dl": 0.1, "dL": 0.1, "cl": 1e-2, "cL": 1e-2, "ml": 1e-3, "mL": 1e-3, "µl": 1e-6, "µL": 1e-6},
    {"m2": 1.0, "m²": 1.0, "㎡": 1.0, "ha": 1e4, "km2": 1e6, "km²": 1e6}, {"m3": 1.0, "m³": 1.0},
    {"m/s": 1.0, "km/h": 1 / 3.6, "mph": 0.44704}, {"%": 1.0, "‰": 0.1}, {"cal": 1.0, "kcal": 1e3},
    *({prefix + unit: times for prefix, times in _PREFIXES.items()} for unit in ("Hz", "W", "Wh", "V", "A", "Pa", "J")),
)  # fmt: skip
_WORD = r"[^\d\s.,;:()'+\-/#_\"](?:[^\d();\"]{0,14}[^\s\d();,\"])?"


def is_unit(text: str) -> bool:
    """Whether it is a unit, or anything in brackets, as stands below the names of columns.

    >>> is_unit("kg"), is_unit("[m/s2]"), is_unit("unknown")
    (True, True, False)
    """
    return re.fullmatch(rf"(?:{_GLUED}|[(\[].*[)\]])", text.strip()) is not None


@dataclass(frozen=True)
class Numbers:
    """What some strings are as numbers. values: NaN where there is none; units: what is written before or behind each;
    signs: where there is more than a plain number; grouped: where thousands are parted."""

    values: Floats
    units: NDArray[np.object_]
    signs: Mask
    grouped: Mask


def is_missing(texts: pa.Array, bare: pa.Array | None = None) -> Mask:
    """Which strings (large_string) are blank, or a usual mark for a missing value. bare: as `trimmed` gives them."""
    lower = pc.utf8_lower(trimmed(texts) if bare is None else bare)
    return is_blank(texts) | _mask(pc.is_in(lower, pa.array(_NONE, TEXT)))


def is_blank(texts: pa.Array) -> Mask:
    """Which strings are empty, or of blanks alone."""
    return _mask(pc.or_(pc.equal(pc.binary_length(texts), 0), pc.utf8_is_space(texts)))


def is_money(unit: str) -> bool:
    """Whether it is a currency.

    >>> is_money("€"), is_money("kg")
    (True, False)
    """
    return bool(pc.match_substring_regex(pa.scalar(unit), rf"^(?:{_CURRENCY})$").as_py())


def in_unit(unit: str, wanted: str) -> float:
    """How many of the `wanted` unit one of `unit` is, or a number without a unit; NaN where it cannot be one.

    >>> in_unit("m", "km"), in_unit("", "€"), in_unit("$", "€")
    (0.001, 1.0, nan)
    """
    if unit in ("", wanted):
        return 1.0
    return next((kind[unit] / kind[wanted] for kind in _KINDS if unit in kind and wanted in kind), np.nan)


@cache
def _form(decimal: str) -> str:
    """Digits: thousands are groups of three, or, with points for decimals, two as in India."""
    between, point = (",", r"\.") if decimal == "." else (r"\.", ",")
    two = r"\d{2,3}" if decimal == "." else r"\d{3}"
    parted = rf"\d{{1,3}}(?:{between}{two})*{between}\d{{3}}|\d{{1,3}}(?:{_BLANK}\d{{3}})+|\d{{1,3}}(?:['’]\d{{3}})+"
    return rf"^(?:(?:{parted}|\d+)(?:{point}\d*)?|{point}\d+)$"


_PLAIN = r"^[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|(?i:inf|infinity))$"
# Before and behind the digits, taken apart by Python: different ones are few.
_NUMBER = rf"^(?P<before>[^\d.,]*)(?P<digits>\d(?:[\d.,'’\s{_SPACES}]*\d)?[.,]?|[.,]\d+)"
_NUMBER += r"(?P<power>(?:[eE][-+]?\d+)?)(?P<behind>.*)$"
_BEFORE = re.compile(rf"(\(?)([-+\u2212]?)((?:{_CURRENCY})?)\s*([-+\u2212]?)")
_BEHIND = re.compile(rf"(?:\s+({_WORD})|({_GLUED}))?(-?)(\)?)")


def numbers(texts: pa.Array, decimal: str) -> Numbers:
    """Strings (`trimmed`) as numbers with these decimals, and with what people write around them: currencies and
    other units, thousands, a minus behind, brackets for it, and 3.4M or $2 billion.

    >>> found = numbers(pa.array(["1e3", "$1,200.50", "(3)", "12 %", "€-5", "red"], pa.large_string()), ".")
    >>> found.values.tolist(), found.units.tolist()
    ([1000.0, 1200.5, -3.0, 12.0, -5.0, nan], ['', '$', '', '%', '€', ''])
    >>> numbers(pa.array(["5.000,50 €", "1,2 Mio", "-3k"], pa.large_string()), ",").values.tolist()
    [5000.5, 1200000.0, -3000.0]
    >>> numbers(pa.array(["3.5万元", "1.2亿", "3千米"], pa.large_string()), ".").values.tolist()
    [35000.0, 120000000.0, 3.0]
    """
    n = len(texts)
    values, units = np.full(n, np.nan), np.full(n, "", object)
    signs, grouped = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    simple = _matching(texts, _PLAIN.replace(r"\.", rf"\{decimal}"))
    plain = texts.filter(simple)
    values[_mask(simple)] = pc.replace_substring(plain, ",", ".").cast(pa.float64()).to_numpy()
    signs[_mask(simple)] = _mask(pc.match_substring(plain, ","))
    rest = np.flatnonzero(~_mask(simple))
    at, found = _parts(texts.take(pa.array(rest)), _NUMBER)
    formed = _matching(found["digits"], _form(decimal)) if len(at) else pa.array([], pa.bool_())
    at, found = rest[at[_mask(formed)]], {name: part.filter(formed) for name, part in found.items()}
    if len(at):
        digits = pc.replace_substring_regex(found["digits"], rf"[^\d{decimal}]", "")
        grouped[at] = _mask(pc.not_equal(digits, found["digits"]))
        plain = pc.binary_join_element_wise(pc.replace_substring(digits, ",", "."), found["power"], pa.scalar("", TEXT))
        sides = pc.binary_join_element_wise(found["before"], found["behind"], pa.scalar("0", TEXT)).dictionary_encode()
        around = [_around(*side.partition("0")[::2]) for side in sides.dictionary.to_pylist()]
        which = sides.indices.to_numpy()
        values[at] = plain.cast(pa.float64()).to_numpy() * np.array([sign for sign, _ in around])[which]
        units[at] = np.array([unit for _, unit in around], object)[which]
        signs[at] = True
    return Numbers(values, units, signs, grouped)


def may_read(text: str, way: str) -> bool:
    """Whether a string (as `trimmed` gives it) is written so: a number, by the sign before its decimals, or one of
    DATES, if the calendar has it. "": whether it begins as dates do.

    >>> may_read("5 kg", "."), may_read("2026-01-31", "."), may_read("2026-01-31", "year-month-day")
    (True, False, True)
    """
    if way in DATES or not way:
        return _compiled(DATES.get(way, _DATED)).match(text) is not None
    if _compiled(_PLAIN.replace(r"\.", rf"\{way}")).match(text):
        return True
    found = _compiled(_NUMBER).match(text)
    if found is None or _compiled(_form(way)).match(found["digits"]) is None:
        return False
    return not np.isnan(_around(found["before"], found["behind"])[0])


@lru_cache(1024)
def _around(before: str, behind: str) -> tuple[float, str]:
    """(1, or -1 for a minus, a thousand for K and so on, or NaN where no number is written so; the unit)."""
    left, right = _BEFORE.fullmatch(before), _BEHIND.fullmatch(behind)
    if left is None or right is None:
        return np.nan, ""
    (bracket, sign, first, second), (word, glued, last, closed) = left.groups(""), right.groups("")
    times = _BY_WORD.get(word, 0.0) or _BY_GLUED.get(glued, 0.0)
    if han := _TIMES_HAN.fullmatch(word or glued):
        times, word, glued = float(np.prod([_HAN[sign] for sign in han[1]])), "", ""
        first = first or han[2]
    unit = first or ("" if times else word or glued)
    minuses = [part for part in (sign, second, last, bracket) if part]
    if bool(bracket) != bool(closed) or len(minuses) > 1 or (first and (word or glued) and not times):
        return np.nan, ""
    return (-1.0 if minuses and minuses != ["+"] else 1.0) * (times or 1.0), unit


def _parts(texts: pa.Array, pattern: str) -> tuple[Days, Mapping[str, pa.Array]]:
    """(which strings match; the named groups of those, "" where there is none)."""
    if len(texts) <= _SMALL:
        matches = [(i, m) for i, text in enumerate(texts.to_pylist()) if (m := _compiled(pattern).match(text))]
        names = _compiled(pattern).groupindex
        groups = {name: pa.array([m[name] or "" for _, m in matches], TEXT) for name in names} if matches else {}
        return np.array([i for i, _ in matches], np.int64), groups
    found = pc.extract_regex(texts, pattern)
    matched = found.is_valid()
    kept = found.filter(matched)
    return np.flatnonzero(_mask(matched)), {field.name: kept.field(i) for i, field in enumerate(kept.type)}


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def _matching(texts: pa.Array, pattern: str) -> pa.Array:
    if len(texts) <= _SMALL:
        return pa.array([_compiled(pattern).match(text) is not None for text in texts.to_pylist()], pa.bool_())
    return pc.match_substring_regex(texts, pattern)


def trimmed(texts: pa.Array) -> pa.Array:
    """Strings without the blanks around them, as they are read here; those too long for a number or a date as "x"."""
    return pc.utf8_trim_whitespace(pc.if_else(pc.less_equal(pc.binary_length(texts), _LONGEST), texts, "x"))


def _mask(values: pa.Array) -> Mask:
    found: Mask = values.to_numpy(zero_copy_only=False)
    return found


_COUNT, _AND = r"\d{1,7}", rf"(?:,|{_BLANK}and)?{_BLANK}*"
_CLOCK = rf"(?P<H>\d{{1,2}}):(?P<M>\d{{2}})(?::(?P<S>\d{{2}}(?:\.\d{{1,9}})?))?{_BLANK}*(?P<half>(?i:[ap]\.?m\.?)?)"
_TIME = rf"(?:(?:,?{_BLANK}+|T){_CLOCK}{_BLANK}*(?P<zone>(?:Z|UTC|GMT|[-+]\d{{2}}:?\d{{2}})?))?"
_DAY, _MONTH, _YEAR = r"(?P<d>\d{1,2})", r"(?P<m>\d{1,2})", r"(?P<y>\d{4}|\d{2})"
_WEEKDAY = rf"(?:(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]{{0,6}}\.?,?{_BLANK}+)?"
_NAME = r"(?P<name>(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))(?P<rest>[a-z]{0,6})\.?"
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
           "november", "december")  # fmt: skip
ANY = ("",)  # `Column.missing` where all that cannot be read is missing
TIME_OF_DAY, DURATION, DIGITS = "time of day", "duration", "yyyymmdd"
# Ways to write dates, which all begin as `_DATED` does. Where dots stand between them, days come before months.
DATES = {
    "year-month-day": rf"^(?P<y>\d{{4}})(?P<a>[-/.]){_MONTH}(?P<b>[-/.]){_DAY}{_TIME}$",
    "day/month/year": rf"^{_DAY}(?P<a>[-/.]){_MONTH}(?P<b>[-/.]){_YEAR}{_TIME}$",
    "month/day/year": rf"^{_MONTH}(?P<a>[-/]){_DAY}(?P<b>[-/]){_YEAR}{_TIME}$",
    "day month year": rf"^{_WEEKDAY}{_DAY}(?:st|nd|rd|th)?(?P<a>[-\s/]){_NAME},?(?P<b>[-\s/]){_YEAR}{_TIME}$",
    "month day year": rf"^{_WEEKDAY}{_NAME}[-\s]{_DAY}(?:st|nd|rd|th)?(?:,?\s+|-)(?P<y>\d{{4}}){_TIME}$",
    "year年month月day日": rf"^(?P<y>\d{{4}})(?:年|년 ?){_MONTH}(?:月|월 ?){_DAY}[日号일]?{_TIME}$",
    "year年month月": r"^(?P<y>\d{4})(?:年|년 ?)(?P<m>\d{1,2})[月월]$",
    "year-month": r"^(?P<y>\d{4})[-/](?P<m>\d{1,2})$",
    "month year": rf"^{_NAME},?[-\s/](?P<y>\d{{4}}|\d{{2}})$",
    "year quarter": r"^(?P<y>\d{4})[-\s]?[qQ](?P<q>[1-4])$",
    DIGITS: r"^(?P<y>(?:19|20)\d{2})(?P<m>\d{2})(?P<d>\d{2})$",
    TIME_OF_DAY: rf"^{_CLOCK}$",
    DURATION: rf"^(?:(?:(?P<D>-?\d{{1,6}}) days?(?:,?{_BLANK}\+?|$))?(?P<sign>-?)"
    r"(?:(?P<H>\d{1,6})(?::|h ?)(?P<M>\d{2})(?::(?P<S>\d{2}(?:\.\d{1,9})?))?)?"
    rf"|(?P<minus>-?)(?:(?:(?P<Dw>{_COUNT}) ?(?:d|[Dd]ays?){_AND})?(?:(?P<Hw>{_COUNT}) ?(?:h|[Hh](?:ou)?rs?){_AND})?"
    rf"(?:(?P<Mw>{_COUNT}) ?(?:m|[Mm]in(?:ute)?s?){_AND})?(?:(?P<Sw>{_COUNT}(?:\.\d{{1,9}})?) ?(?:s|[Ss]ec(?:ond)?s?))?"
    rf"|P(?:(?P<Di>{_COUNT})D)?(?:T(?:(?P<Hi>{_COUNT})H)?(?:(?P<Mi>{_COUNT})M)?"
    rf"(?:(?P<Si>{_COUNT}(?:\.\d{{1,9}})?)S)?)?))$",
}
_SECONDS = 86_400
_DATED = r"^(?:-?\d|-|P|(?i:mon|tue|wed|thu|fri|sat|sun|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))"


def dates(texts: pa.Array, way: str) -> Floats:
    """Strings (`trimmed`) as seconds since 1970-01-01 (UTC), or since midnight, or that something lasts; NaN where one
    is not written so.

    way: one of DATES. Years of two digits are 1969 to 2068, as POSIX has it. Days that no calendar has are not read.

    >>> dates(pa.array(["01.03.2021", "1/3/21 00:01", "30.02.2021"], pa.large_string()), "day/month/year").tolist()
    [1614556800.0, 1614556860.0, nan]
    >>> dates(pa.array(["27:30", "7h05", "1 day, 0:00:02.5", "5h 12m", "PT45M"], pa.large_string()), DURATION).tolist()
    [99000.0, 25500.0, 86402.5, 18720.0, 2700.0]
    """
    if way == "year-month-day" and {*pc.min_max(pc.binary_length(texts)).as_py().values()} in ({10}, {16}, {19}):
        with suppress(pa.ArrowInvalid):  # all are as 2026-01-31, or with a time, which Arrow reads ten times as fast
            return np.asarray(texts.cast(pa.timestamp("s")).cast(pa.int64()), np.float64)
    at, found = _parts(texts, DATES[way])
    values = np.full(len(texts), np.nan)
    if not len(at):
        return values
    whole, second, valid = np.zeros(len(at), np.int64), np.zeros(len(at)), np.ones(len(at), np.bool_)
    if way == DURATION:
        whole, second, valid = _lasting(found)
    elif "H" in found:
        whole, second, valid = _clock(found)
    if way not in (TIME_OF_DAY, DURATION):
        day, there = _day(found)
        valid &= there
        whole = whole + day * _SECONDS - (_zone(found["zone"]) if "zone" in found else 0)
    values[at] = np.where(valid, whole + second, np.nan)
    return values


def of_digits(values: Floats) -> Floats:
    """Numbers such as 20240229, which stand for days from 1900 to 2099, as seconds since 1970; NaN for others.

    >>> of_digits(np.array([19700102.0, 20230229.0, 1970.0])).tolist()
    [86400.0, nan, nan]
    """
    whole = np.where((values >= 19000101) & (values < 21000000) & (values == np.floor(values)), values, 0)
    whole = whole.astype(np.int64)
    day, valid = _in_calendar(whole // 10000, whole // 100 % 100, whole % 100)
    return np.where(valid, day * float(_SECONDS), np.nan)


def as_digits(seconds: Floats) -> Floats:
    """The numbers that `of_digits` reads as these seconds."""
    days = np.where(np.isnan(seconds), 0, seconds).astype("datetime64[s]").astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    month, day = months.astype(np.int64), (days - months).astype(np.int64) + 1
    return np.where(np.isnan(seconds), np.nan, (1970 + month // 12) * 10000.0 + (month % 12 + 1) * 100 + day)


def _in_calendar(year: Days, month: Days, day: Days) -> tuple[Days, Mask]:
    """(days since 1970-01-01, whether the calendar has the day)."""
    months = (year - 1970) * 12 + month - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]") + (day - 1)
    there = (month >= 1) & (month <= 12) & (day >= 1) & (days.astype("datetime64[M]").astype(np.int64) == months)
    return days.astype(np.int64), there


def _clock(found: Mapping[str, pa.Array]) -> tuple[Days, Floats, Mask]:
    """(seconds since midnight to the minute, the seconds of the minute, whether a clock shows such a time)."""
    if found["H"].unique().to_pylist() == [""]:  # days alone
        nothing = np.zeros(len(found["H"]))
        return nothing.astype(np.int64), nothing, nothing == 0
    hour, valid = _whole(found["H"]), np.ones(len(found["H"]), np.bool_)
    if _mask(pc.not_equal(found["half"], "")).any():
        half = pc.utf8_lower(pc.utf8_slice_codeunits(found["half"], 0, 1)).to_numpy(zero_copy_only=False)
        valid &= (half == "") | ((hour >= 1) & (hour <= 12))
        hour = np.where(half == "", hour, hour % 12 + 12 * (half == "p"))
    minute, second = _whole(found["M"]), _filled(found["S"]).cast(pa.float64()).to_numpy()
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    return hour * 3600 + minute * 60, second, valid


def _lasting(found: Mapping[str, pa.Array]) -> tuple[Days, Floats, Mask]:
    """(seconds that it lasts to the minute, the seconds of the minute, whether smaller units are below the larger)."""
    day, hour, minute = (_whole(found[of]) + _whole(found[f"{of}w"]) + _whole(found[f"{of}i"]) for of in "DHM")
    second = sum(_filled(found[of]).cast(pa.float64()).to_numpy() for of in ("S", "Sw", "Si"))
    sign, minus = (np.where(_mask(pc.equal(found[of], "-")), -1, 1) for of in ("sign", "minus"))
    told = np.any([_mask(pc.not_equal(found[of], "")) for of in found if len(of) < 3], axis=0)
    no_more = (hour == 0) & _mask(pc.equal(found["H"], ""))
    valid = told & ((minute < 60) | no_more) & ((second < 60) | (minute == 0))
    return minus * (day * _SECONDS + sign * (hour * 3600 + minute * 60)), minus * sign * second, valid


def _filled(field: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(field, ""), "0", field)


def _whole(field: pa.Array) -> Days:
    if len(field) <= _SMALL:
        return np.array([int(digits or 0) for digits in field.to_pylist()], np.int64)
    found: Days = _filled(field).cast(pa.int64()).to_numpy()
    return found


def _day(found: Mapping[str, pa.Array]) -> tuple[Days, Mask]:
    """(days since 1970-01-01, whether the calendar has the day and it is written in one way)."""
    year = _whole(found["y"])
    day = _whole(found["d"]) if "d" in found else np.ones(len(year), np.int64)
    short = _mask(pc.equal(pc.binary_length(found["y"]), 2))
    year = np.where(short, np.where(year < 69, 2000 + year, 1900 + year), year)
    valid = np.ones(len(day), np.bool_)
    if "a" in found:
        valid &= _mask(pc.equal(found["a"], found["b"]))
    if "name" in found:
        short_names = pa.array([name[:3] for name in _MONTHS], TEXT)
        name = pc.utf8_lower(found["name"])
        month = pc.index_in(name, short_names).to_numpy().astype(np.int64) + 1
        whole = pc.binary_join_element_wise(name, pc.utf8_lower(found["rest"]), pa.scalar("", TEXT))
        known = pa.array([*_MONTHS, *(name[:3] for name in _MONTHS), "sept"], TEXT)
        valid &= _mask(pc.is_in(whole, known))
    elif "q" in found:
        month = 3 * _whole(found["q"]) - 2
    else:
        month = _whole(found["m"])
    if "a" in found and "d" in found and "name" not in found:
        dotted = _mask(pc.equal(found["a"], "."))
        brief = pc.less(pc.add(pc.binary_length(found["d"]), pc.binary_length(found["m"])), 4)
        valid &= ~(dotted & short & _mask(brief))  # 1.2.13 is a version
    days, there = _in_calendar(year, month, day)
    return days, valid & there


def _zone(zone: pa.Array) -> Days:
    """Seconds east of UTC."""
    if pc.all(pc.is_in(zone, pa.array(["", "Z", "UTC", "GMT"], TEXT))).as_py():
        return np.zeros(len(zone), np.int64)
    parts = pc.extract_regex(zone, r"^(?P<sign>[-+])(?P<h>\d{2}):?(?P<m>\d{2})$")
    sign, hours, minutes = (pc.fill_null(parts.field(i), "") for i in range(3))
    size = _whole(hours) * 3600 + _whole(minutes) * 60
    east: Days = np.where(_mask(pc.equal(sign, "-")), -size, size).astype(np.int64)
    return east
