"""The ways in which strings stand for dates and times: what each reads, a whole array at a time."""

import re
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handful.data.tables.cells.written import (
    BLANK,
    NUMBER,
    PLAIN,
    SMALL,
    Days,
    Floats,
    Mask,
    around,
    compiled,
    form,
    mask,
    parts_of,
)
from handful.data.tables.types import TEXT

_COUNT, _AND = r"\d{1,7}", rf"(?:,|{BLANK}and)?{BLANK}*"
# Hours east of UTC by the usual names of zones; others, such as IST, are those of several.
_EAST = {
    "Z": 0, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3, "MSK": 3, "JST": 9,
    "KST": 9, "AEST": 10, "AEDT": 11, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8,
    "PDT": -7,
}  # fmt: skip
_HALF = rf"{BLANK}*(?P<half>(?i:[ap]\.?m\.?)?)"
_CLOCK = rf"(?P<H>\d{{1,2}}):(?P<M>\d{{2}})(?::(?P<S>\d{{2}}(?:[.,]\d{{1,9}})?))?{_HALF}"
_ZONE = rf"(?P<zone>(?:{'|'.join(_EAST)}|[-+]\d{{2}}(?::?\d{{2}})?)?)"
_TIME = rf"(?:(?:,?{BLANK}+|[T:]){_CLOCK}{BLANK}*{_ZONE}(?:\[[\w/+-]+\])?)?"
_DAY, _MONTH, _YEAR = r"(?P<d>\d{1,2})", r"(?P<m>\d{1,2})", r"(?P<y>\d{4}|\d{2})"
_WEEKDAY = rf"(?:(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]{{0,6}}\.?,?{BLANK}+)?"
_NAME = r"(?P<name>(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))(?P<rest>[a-z]{0,6})\.?"
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
           "november", "december")  # fmt: skip
# Months in German, French, Spanish, Italian, Portuguese, Dutch, Scandinavian, Polish and Russian, from January on.
_ABROAD = (
    "januar jänner januari janvier janv enero ene gennaio gen janeiro stycznia января янв",
    "februar februari février févr fevrier fevr febrero febbraio fevereiro fev lutego февраля фев",
    "märz mär mrz mars marzo março maart mrt marts marca марта мар",
    "avril avr abril abr aprile kwietnia апреля апр",
    "mai mayo maggio mag maio mei maj maja мая май",
    "juni juin junio giugno giu junho czerwca июня июн",
    "juli juillet juil julio luglio lug julho lipca июля июл",
    "août aout agosto ago augustus augusti sierpnia августа авг",
    "septembre septiembre setiembre settembre sett setembro set września сентября сент сен",
    "oktober okt octobre octubre ottobre ott outubro out października октября окт",
    "novembre noviembre novembro listopada ноября нояб ноя",
    "dezember dez décembre déc decembre diciembre dic dicembre dezembro desember des grudnia декабря дек",
)
_FOREIGN = {word: month for month, words in zip(_MONTHS, _ABROAD, strict=True) for word in words.split()}
_WORD = re.compile(r"([^\W\d_]{3,})\.?")
_OF = re.compile(
    r"(?<=[ \d])(?:de|del|di) |(?<=^1)er(?= )|(?<=\d)[.º](?= [^\W\d])"
)  # 7 de octubre, 1er mai, 7. Oktober
_HAS_FOREIGN = rf"(?i)(?:{'|'.join(sorted(_FOREIGN, key=len, reverse=True))}|\d[.º] [^\W\d])"
ANY = ("",)  # with which `Column.missing` begins where all that cannot be read is missing
TIME_OF_DAY, DURATION, DIGITS = "time of day", "duration", "yyyymmdd"
# Ways to write dates, which all begin as `_DATED` does. Where dots stand between them, days come before months.
DATES = {
    "year-month-day": rf"^(?P<y>\d{{4}})(?P<a>[-/.]){_MONTH}(?P<b>[-/.]){_DAY}{_TIME}$",
    "day/month/year": rf"^{_DAY}(?P<a>[-/.]){_MONTH}(?P<b>[-/.]){_YEAR}{_TIME}$",
    "month/day/year": rf"^{_MONTH}(?P<a>[-/]){_DAY}(?P<b>[-/]){_YEAR}{_TIME}$",
    "day month year": rf"^{_WEEKDAY}{_DAY}(?:st|nd|rd|th)?(?P<a>[-\s/]){_NAME},?(?P<b>[-\s/]){_YEAR}{_TIME}$",
    "ddMonyyyy": rf"^(?P<d>\d{{2}}){_NAME}(?P<y>\d{{4}}){_TIME}$",
    "month day year": rf"^{_WEEKDAY}{_NAME}[-\s]{_DAY}(?:st|nd|rd|th)?(?:,?\s+|-)(?P<y>\d{{4}}){_TIME}$",
    "year年month月day日": rf"^(?P<y>\d{{4}})(?:年|년 ?){_MONTH}(?:月|월 ?){_DAY}[日号일]?{_TIME}$",
    "year年month月": r"^(?P<y>\d{4})(?:年|년 ?)(?P<m>\d{1,2})[月월]$",
    "weekday month day time year": rf"^{_WEEKDAY}{_NAME}{BLANK}+{_DAY}{BLANK}+{_CLOCK}{BLANK}{_ZONE}{BLANK}*"
    r"(?P<y>\d{4})$",
    "year-month": r"^(?P<y>\d{4})(?:[-/]|-?[mM])(?P<m>\d{1,2})$",
    "month/year": r"^(?P<m>\d{1,2})[-/](?P<y>(?:1[5-9]|20)\d{2})$",
    "month year": rf"^{_NAME},?(?P<part>[-\s/]?'?)(?P<y>\d{{4}}|\d{{2}})$",
    "year month": rf"^(?P<y>\d{{4}})[-\s/]?{_NAME}$",
    "year-week": r"^(?P<y>\d{4})-?W(?P<w>\d{2})(?:-?(?P<weekday>[1-7]))?$",
    "year quarter": r"^(?P<y>\d{4})[-\s/]?[qQ](?P<q>[1-4])$",
    "quarter year": r"^(?P<a>[qQ]?)(?P<q>[1-4])(?P<b>[qQ]?)[-\s/]?'?(?P<y>\d{4}|\d{2})$",
    "yyyymmddThhmm": r"^(?P<y>(?:19|20)\d{2})(?P<m>\d{2})(?P<d>\d{2})[T_](?P<H>\d{2})(?P<M>\d{2})(?P<S>(?:\d{2})?)"
    rf"(?P<half>){_ZONE}$",
    DIGITS: r"^(?P<y>(?:19|20)\d{2})(?P<m>\d{2})(?P<d>\d{2})$",
    TIME_OF_DAY: rf"^{_CLOCK}$",
    DURATION: rf"^(?:(?:(?P<D>-?\d{{1,6}}) days?(?:,?{BLANK}\+?|$))?(?P<sign>-?)"
    r"(?:(?P<H>\d{1,6})(?::|h ?)(?P<M>\d{2})(?::(?P<S>\d{2}(?:\.\d{1,9})?))?)?"
    rf"|(?P<minus>-?)(?:(?:(?P<Dw>{_COUNT}) ?(?:d|[Dd]ays?){_AND})?(?:(?P<Hw>{_COUNT}) ?(?:h|[Hh](?:ou)?rs?){_AND})?"
    rf"(?:(?P<Mw>{_COUNT}) ?(?:m|[Mm]in(?:ute)?s?){_AND})?(?:(?P<Sw>{_COUNT}(?:\.\d{{1,9}})?) ?(?:s|[Ss]ec(?:ond)?s?))?"
    rf"|P(?:(?P<Di>{_COUNT})D)?(?:T(?:(?P<Hi>{_COUNT})H)?(?:(?P<Mi>{_COUNT})M)?"
    rf"(?:(?P<Si>{_COUNT}(?:\.\d{{1,9}})?)S)?)?))$",
}
_SECONDS = 86_400
_DATED = r"^(?:-?\d|-|P|Q|q|(?i:mon|tue|wed|thu|fri|sat|sun|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))"


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
    at, found = parts_of(_in_english(texts) if "<name>" in DATES[way] else texts, DATES[way])
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


def _in_english(texts: pa.Array) -> pa.Array:
    """Strings with the names of months in other languages as the English ones.

    >>> _in_english(pa.array(["7. Oktober 2019", "3 de febrero de 2022", "red"], pa.large_string())).to_pylist()
    ['7 october 2019', '3 february 2022', 'red']
    """
    if not (found := pc.match_substring_regex(texts, _HAS_FOREIGN)).true_count:
        return texts
    return pc.replace_with_mask(texts, found, pa.array(map(_english, texts.filter(found).to_pylist()), texts.type))


def is_one_word(texts: pa.Array, way: str) -> bool:
    """Whether what would be a month in another language is one word in all of several strings, without a day: no month.

    >>> [is_one_word(pa.array(["Set 10", two]), "month year") for two in ("Set 11", "Ott 10")]
    [True, False]
    """
    if way not in ("month year", "year month") or len(texts) < 2:
        return False
    words = {word.lower() for text in texts.to_pylist() for word in _WORD.findall(text)}
    return len(words) == 1 and words <= _FOREIGN.keys()


def _english(text: str) -> str:
    return _WORD.sub(lambda word: _FOREIGN.get(word[1].lower(), word[0]), _OF.sub("", text))


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
    days = months.astype("datetime64[M]").astype("datetime64[D]") + (day - 1).astype("timedelta64[D]")
    there = (month >= 1) & (month <= 12) & (day >= 1) & (days.astype("datetime64[M]").astype(np.int64) == months)
    return days.astype(np.int64), there


def _clock(found: Mapping[str, pa.Array]) -> tuple[Days, Floats, Mask]:
    """(seconds since midnight to the minute, the seconds of the minute, whether a clock shows such a time)."""
    if found["H"].unique().to_pylist() == [""]:  # days alone
        nothing = np.zeros(len(found["H"]))
        return nothing.astype(np.int64), nothing, nothing == 0
    hour, valid = _whole(found["H"]), np.ones(len(found["H"]), np.bool_)
    if mask(pc.not_equal(found["half"], "")).any():
        half = pc.utf8_lower(pc.utf8_slice_codeunits(found["half"], 0, 1)).to_numpy(zero_copy_only=False)
        valid &= (half == "") | ((hour >= 1) & (hour <= 12))
        hour = np.where(half == "", hour, hour % 12 + 12 * (half == "p"))
    minute = _whole(found["M"])
    second = pc.replace_substring(_filled(found["S"]), ",", ".").cast(pa.float64()).to_numpy()
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    return hour * 3600 + minute * 60, second, valid


def _lasting(found: Mapping[str, pa.Array]) -> tuple[Days, Floats, Mask]:
    """(seconds that it lasts to the minute, the seconds of the minute, whether smaller units are below the larger)."""
    day, hour, minute = (_whole(found[of]) + _whole(found[f"{of}w"]) + _whole(found[f"{of}i"]) for of in "DHM")
    second = sum(_filled(found[of]).cast(pa.float64()).to_numpy() for of in ("S", "Sw", "Si"))
    sign, minus = (np.where(mask(pc.equal(found[of], "-")), -1, 1) for of in ("sign", "minus"))
    told = np.any([mask(pc.not_equal(found[of], "")) for of in found if len(of) < 3], axis=0)
    no_more = (hour == 0) & mask(pc.equal(found["H"], ""))
    valid = told & ((minute < 60) | no_more) & ((second < 60) | (minute == 0))
    return minus * (day * _SECONDS + sign * (hour * 3600 + minute * 60)), minus * sign * second, valid


def _filled(field: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(field, ""), "0", field)


def _whole(field: pa.Array) -> Days:
    if len(field) <= SMALL:
        return np.array([int(digits or 0) for digits in field.to_pylist()], np.int64)
    found: Days = _filled(field).cast(pa.int64()).to_numpy()
    return found


def _day(found: Mapping[str, pa.Array]) -> tuple[Days, Mask]:
    """(days since 1970-01-01, whether the calendar has the day and it is written in one way)."""
    year = _whole(found["y"])
    day = _whole(found["d"]) if "d" in found else np.ones(len(year), np.int64)
    short = mask(pc.equal(pc.binary_length(found["y"]), 2))
    year = np.where(short, np.where(year < 69, 2000 + year, 1900 + year), year)
    valid = np.ones(len(day), np.bool_)
    if "q" in found and "a" in found:  # one Q
        valid &= mask(pc.not_equal(pc.equal(found["a"], ""), pc.equal(found["b"], "")))
    elif "a" in found:
        valid &= mask(pc.equal(found["a"], found["b"]))
    if "part" in found:
        valid &= ~(short & mask(pc.equal(found["part"], "")))  # Mar15 may be a day
    if "w" in found:
        return _of_week(year, _whole(found["w"]), _whole(found["weekday"]))
    if "name" in found:
        short_names = pa.array([name[:3] for name in _MONTHS], TEXT)
        name = pc.utf8_lower(found["name"])
        month = pc.index_in(name, short_names).to_numpy().astype(np.int64) + 1
        whole = pc.binary_join_element_wise(name, pc.utf8_lower(found["rest"]), pa.scalar("", TEXT))
        known = pa.array([*_MONTHS, *(name[:3] for name in _MONTHS), "sept"], TEXT)
        valid &= mask(pc.is_in(whole, known))
    elif "q" in found:
        month = 3 * _whole(found["q"]) - 2
    else:
        month = _whole(found["m"])
    if "a" in found and "d" in found and "name" not in found:
        dotted = mask(pc.equal(found["a"], "."))
        brief = pc.less(pc.add(pc.binary_length(found["d"]), pc.binary_length(found["m"])), 4)
        valid &= ~(dotted & short & mask(brief))  # 1.2.13 is a version
    days, there = _in_calendar(year, month, day)
    return days, valid & there


def _of_week(year: Days, week: Days, weekday: Days) -> tuple[Days, Mask]:
    """The same of weeks as ISO 8601 counts them, of which the first holds January 4th; their Mondays, or a weekday."""
    fourth, _ = _in_calendar(year, np.ones_like(year), np.full_like(year, 4))
    begins = fourth - (fourth + 3) % 7  # 1970-01-01 was a Thursday
    later, _ = _in_calendar(year + 1, np.ones_like(year), np.full_like(year, 4))
    days = begins + 7 * (week - 1)
    return days + np.maximum(weekday, 1) - 1, (week >= 1) & (days < later - (later + 3) % 7)


def _zone(zone: pa.Array) -> Days:
    """Seconds east of UTC."""
    encoded = zone.dictionary_encode()
    east = []
    for name in encoded.dictionary.to_pylist():
        digits = name.replace(":", "")[1:].ljust(4, "0")
        minutes = 60 * _EAST[name] if name in _EAST else int(digits[:2]) * 60 + int(digits[2:]) if name else 0
        east.append(-60 * minutes if name[:1] == "-" else 60 * minutes)
    found: Days = np.array(east, np.int64)[encoded.indices.to_numpy()]
    return found


def may_read(text: str, way: str) -> bool:
    """Whether a string (as `trimmed` gives it) is written so: a number, by the sign before its decimals, or one of
    DATES, if the calendar has it. "": whether it begins as dates do.

    >>> may_read("5 kg", "."), may_read("2026-01-31", "."), may_read("2026-01-31", "year-month-day")
    (True, False, True)
    """
    if way in DATES or not way:
        return compiled(DATES.get(way, _DATED)).match(_english(text)) is not None
    if compiled(PLAIN.replace(r"\.", rf"\{way}")).match(text):
        return True
    found = compiled(NUMBER).match(text)
    if found is None or compiled(form(way)).match(found["digits"]) is None:
        return False
    return not np.isnan(around(found["before"], found["behind"]).times)
