"""The ways in which strings stand for numbers, dates and times: what each reads, a whole array at a time."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

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
    "#n/a n/a", "<na>", "<null>", "nan", "-nan", "nat", "none", "null", "nil", "\\n", "missing", "unknown",
    "not available", "#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!",
)  # fmt: skip
_LONGEST = 64  # bytes of a number or a date; longer strings are none
_SPACES = "\u00a0\u2009\u202f"
BLANK = rf"[\s{_SPACES}]"  # \s is of ASCII alone
# Full-width signs of Chinese and Japanese (８５％, ￥１，２００), and digits of Arabic, Persian and Hindi.
_WIDE = {0xFF01 + k: 0x21 + k for k in range(94)} | {0x3000: " ", 0xFFE0: "¢", 0xFFE1: "£", 0xFFE5: "¥", 0xFFE6: "₩"}
_WIDE |= {zero + k: str(k) for zero in (0x660, 0x6F0, 0x966) for k in range(10)} | {0x66A: "%", 0x66B: "."}
_HAS_WIDE = f"^.*[{''.join(map(chr, _WIDE))}]"
SMALL = 500  # strings up to which Python is quicker, as it keeps the patterns that it compiled
_CODES = "USD|EUR|GBP|JPY|CHF|CNY|INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|BRL|MXN|ZAR|KRW|SGD|HKD"
_CURRENCY = rf"(?:US|CA|AU|NZ|HK|R|S|A|C)?\$|[€£¥₹₽₩₺₪₫฿₴₦₱₿¢]|{_CODES}|Rs\.?|kr\.?|Fr\.?|zł|人民币|RMB|[元圆円원]"
_ORDINAL = ("st", "nd", "rd", "th")  # behind numbers that are plain ones
# What may stand right behind a number; after a blank any short word may.
_GLUED = (
    rf"{_CURRENCY}|%|‰|°[CFNSEW]?|[kMGT]?(?:Hz|W|Wh|V|A|Pa|B|J)|[nµmck]?m|[mk]?g|[mµcd]?[lL]|ms|s|sec|min|h|hrs?|lbs?|oz|ft|in|"
    rf"mi|mph|{'|'.join(_ORDINAL)}|km/h|m/s|km2|km²|m2|m²|m3|m³|kcal|cal|px|pt|ha|ppm|bpm|rpm|x|[kKMBNSEW]|[mb]n|[㎡㎞㎏℃]|"
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
    {"KB": 1.0, "kB": 1.0, "MB": 1024.0, "GB": 1024.0**2, "TB": 1024.0**3},
    {"m/s": 1.0, "km/h": 1 / 3.6, "mph": 0.44704}, {"%": 1.0, "‰": 0.1}, {"cal": 1.0, "kcal": 1e3},
    {"N": 1.0, "°N": 1.0, "S": -1.0, "°S": -1.0}, {"E": 1.0, "°E": 1.0, "W": -1.0, "°W": -1.0},
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
    signs: where there is more than a plain number; grouped: where thousands are parted; bounds: < or >
    where it is only known to be less or more, ~ where about, as in <0.01, 90+ and ~5."""

    values: Floats
    units: NDArray[np.object_]
    signs: Mask
    grouped: Mask
    bounds: NDArray[np.object_]


def is_missing(texts: pa.Array, bare: pa.Array | None = None) -> Mask:
    """Which strings (large_string) are blank, or a usual mark for a missing value. bare: as `trimmed` gives them."""
    lower = pc.utf8_lower(trimmed(texts) if bare is None else bare)
    return is_blank(texts) | mask(pc.is_in(lower, pa.array(_NONE, TEXT)))


def is_blank(texts: pa.Array) -> Mask:
    """Which strings are empty, or of blanks alone."""
    return mask(pc.or_(pc.equal(pc.binary_length(texts), 0), pc.utf8_is_space(texts)))


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
def form(decimal: str) -> str:
    """Digits: thousands are groups of three, or, with points for decimals, two as in India."""
    between, point = (",", r"\.") if decimal == "." else (r"\.", ",")
    two = r"\d{2,3}" if decimal == "." else r"\d{3}"
    parted = rf"\d{{1,3}}(?:{between}{two})*{between}\d{{3}}|\d{{1,3}}(?:{BLANK}\d{{3}})+|\d{{1,3}}(?:['’]\d{{3}})+"
    return rf"^(?:(?:{parted}|\d+)(?:{point}\d*)?|{point}\d+)$"


PLAIN = r"^[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|(?i:inf|infinity))$"
# Before and behind the digits, taken apart by Python: different ones are few.
NUMBER = rf"^(?P<before>[^\d.,]*)(?P<digits>\d(?:[\d.,'’\s{_SPACES}]*\d)?[.,]?|[.,]\d+)"
NUMBER += r"(?P<power>(?:[eE][-+]?\d+)?)(?P<behind>.*)$"
_BEFORE = re.compile(rf"((?:[<>]=?|[≤≥~≈]\s*)?)\s*(\(?)([-+\u2212]?)((?:{_CURRENCY})?)\s*([-+\u2212]?)")
_MARKS = re.compile(r"(?:\*{1,3}|[†‡§]|\[[a-z\d]{1,3}\])$|(?<=°) (?=[NSEW]$)")  # footnotes; 48.1° N
_BEHIND = re.compile(rf"(?:\s+({_WORD})|({_GLUED}))?(-?)(\)?)(\+?)")


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
    bounds = np.full(n, "", object)
    simple = _matching(texts, PLAIN.replace(r"\.", rf"\{decimal}"))
    plain = texts.filter(simple)
    values[mask(simple)] = pc.replace_substring(plain, ",", ".").cast(pa.float64()).to_numpy()
    signs[mask(simple)] = mask(pc.match_substring(plain, ","))
    rest = np.flatnonzero(~mask(simple))
    at, found = parts_of(texts.take(pa.array(rest)), NUMBER)
    formed = _matching(found["digits"], form(decimal)) if len(at) else pa.array([], pa.bool_())
    at, found = rest[at[mask(formed)]], {name: part.filter(formed) for name, part in found.items()}
    if len(at):
        digits = pc.replace_substring_regex(found["digits"], rf"[^\d{decimal}]", "")
        grouped[at] = mask(pc.not_equal(digits, found["digits"]))
        plain = pc.binary_join_element_wise(pc.replace_substring(digits, ",", "."), found["power"], pa.scalar("", TEXT))
        sides = pc.binary_join_element_wise(found["before"], found["behind"], pa.scalar("0", TEXT)).dictionary_encode()
        told = [around(*side.partition("0")[::2]) for side in sides.dictionary.to_pylist()]
        which = sides.indices.to_numpy()
        units[at] = np.array([one.unit for one in told], object)[which]
        bounds[at] = np.array([one.bound for one in told], object)[which]
        labels = mask(pc.ends_with(found["digits"], decimal)) & (units[at] != "")  # 2. Married
        values[at] = plain.cast(pa.float64()).to_numpy() * np.array([one.times for one in told])[which]
        values[at[labels]] = np.nan
        ordinal = np.isin(units[at].astype(str), _ORDINAL)
        units[at[ordinal]], signs[at] = "", ~ordinal
    return Numbers(values, units, signs, grouped, bounds)


class Around(NamedTuple):
    """What stands around digits. times: 1, -1 for a minus, a thousand for K and so on, NaN where no number is written
    so; bound: <, > or ~, where less, more or about is meant."""

    times: float
    unit: str = ""
    bound: str = ""


_BOUND = {"<": "<", "≤": "<", ">": ">", "≥": ">", "~": "~", "≈": "~"}


@lru_cache(1024)
def around(before: str, behind: str) -> Around:
    """What is meant by what stands before and behind digits."""
    left, right = _BEFORE.fullmatch(before), _BEHIND.fullmatch(_MARKS.sub("", behind))
    if left is None or right is None:
        return Around(np.nan)
    (bound, bracket, sign, first, second), (word, glued, last, closed, more) = left.groups(""), right.groups("")
    times = _BY_WORD.get(word, 0.0) or _BY_GLUED.get(glued, 0.0)
    if han := _TIMES_HAN.fullmatch(word or glued):
        times, word, glued = float(np.prod([_HAN[sign] for sign in han[1]])), "", ""
        first = first or han[2]
    unit = first or ("" if times else word or glued)
    minuses = [part for part in (sign, second, last, bracket) if part]
    if bool(bracket) != bool(closed) or len(minuses) > 1 or (first and (word or glued) and not times):
        return Around(np.nan)
    return Around(
        (-1.0 if minuses and minuses != ["+"] else 1.0) * (times or 1.0),
        unit,
        _BOUND.get(bound[:1], ">" if more else ""),
    )


def parts_of(texts: pa.Array, pattern: str) -> tuple[Days, Mapping[str, pa.Array]]:
    """(which strings match; the named groups of those, "" where there is none)."""
    if len(texts) <= SMALL:
        matches = [(i, m) for i, text in enumerate(texts.to_pylist()) if (m := compiled(pattern).match(text))]
        names = compiled(pattern).groupindex
        groups = {name: pa.array([m[name] or "" for _, m in matches], TEXT) for name in names} if matches else {}
        return np.array([i for i, _ in matches], np.int64), groups
    found = pc.extract_regex(texts, pattern)
    matched = found.is_valid()
    kept = found.filter(matched)
    return np.flatnonzero(mask(matched)), {field.name: kept.field(i) for i, field in enumerate(kept.type)}


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def _matching(texts: pa.Array, pattern: str) -> pa.Array:
    if len(texts) <= SMALL:
        return pa.array([compiled(pattern).match(text) is not None for text in texts.to_pylist()], pa.bool_())
    return pc.match_substring_regex(texts, pattern)


def trimmed(texts: pa.Array) -> pa.Array:
    """Strings without the blanks around them, as they are read here, signs in full width as those of ASCII; those too
    long for a number or a date as "x".

    >>> trimmed(pa.array([" 8.5 ", "￥１，２００"], pa.large_string())).to_pylist()
    ['8.5', '¥1,200']
    """
    short = pc.if_else(pc.less_equal(pc.binary_length(texts), _LONGEST), texts, "x")
    if pc.all(pc.string_is_ascii(short)).as_py() is False and pc.any(wide := _matching(short, _HAS_WIDE)).as_py():
        plain = [text.translate(_WIDE) for text in short.filter(wide).to_pylist()]
        short = pc.replace_with_mask(short, wide, pa.array(plain, short.type))
    return pc.utf8_trim_whitespace(short)


def mask(values: pa.Array) -> Mask:
    found: Mask = values.to_numpy(zero_copy_only=False)
    return found
