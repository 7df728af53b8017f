"""Numbers in words: scores, counts, times and sizes as a person would write them."""

import math
from collections.abc import Mapping

from handful.base.errors import shown

SHARES = {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "exact_match", "error_rate"}
NAMES = {
    "mae": "mean absolute error", "mse": "mean squared error", "rmse": "root mean squared error", "r2": "R²",
    "auroc": "area under the ROC curve",
}  # fmt: skip
DATES = "days since 1970"  # the unit of dates: what they are off by is a time, and a score of it in seconds
DAY = 86400.0  # seconds
BEFORE = ("$", "£", "¥", "₹")  # units that are written before the number
OFF = ("mae", "rmse")  # scores in the target's unit
_SETS = {"valid": "", "train": "training ", "test": "test "}


def as_float(value: object) -> float:
    """The number in `value` (a Python or NumPy number, or a Tensor of one element); NaN if there is none.

    >>> as_float("two")
    nan
    """
    try:
        return float(value)  # type: ignore[arg-type]  # whatever float() takes; the rest is NaN
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan


def split_score(name: str) -> tuple[str, str]:
    """("valid", "accuracy") from "valid_accuracy"; the set is "" where the name has none.

    >>> split_score("valid_accuracy"), split_score("accuracy")
    (('valid', 'accuracy'), ('', 'accuracy'))
    """
    head, _, rest = name.partition("_")
    return (head, rest) if rest and head in _SETS else ("", name)


def is_share(name: str) -> bool:
    """True for scores that are shares of 1 and read best as per cent: accuracy, recall, top5_accuracy, ...

    >>> is_share("valid_top5_accuracy"), is_share("valid_loss")
    (True, False)
    """
    metric = split_score(name)[1]
    return metric in SHARES or metric.endswith("accuracy")


def say_name(name: str) -> str:
    """A score's name in words: "accuracy" for the held-out rows, "training loss" for the training rows.

    >>> say_name("valid_top5_accuracy"), say_name("train_mae")
    ('top5 accuracy', 'training mean absolute error')
    """
    which, metric = split_score(name)
    return _SETS.get(which, "") + NAMES.get(metric, metric.replace("_", " "))


def say_score(name: str, value: object, unit: str = "") -> str:
    """A score in words; unit: of the target, where it has one.

    >>> say_score("valid_accuracy", 0.978), say_score("train_loss", 0.08314)
    ('accuracy 97.8%', 'training loss 0.0831')
    """
    return f"{say_name(name)} {say_value(name, value, unit)}"


def say_value(name: str, value: object, unit: str = "") -> str:
    """The value alone of the score `name`: per cent for shares, in the unit of the target where it is in that.

    >>> say_value("valid_accuracy", 0.9996), say_value("valid_mae", 1.5, "€"), say_value("mae", 93600.0, DATES)
    ('99.96%', '1.5 €', '1 d 2 h')
    """
    if unit and split_score(name)[1] in OFF:
        return say_seconds(value) if unit == DATES else _in_unit(value, unit)
    return say_share(value) if is_share(name) else say_number(value)


def say_off(value: object, unit: str) -> str:
    """What values of a target are apart: of dates, whose values are days, a time.

    >>> say_off(1.25, "€"), say_off(1.25, DATES), say_off(3, ""), say_off(-12000.0, "$")
    ('1.25 €', '1 d 6 h', '3', '-$12,000')
    """
    return say_seconds(DAY * as_float(value)) if unit == DATES else _in_unit(value, unit)


def _in_unit(value: object, unit: str) -> str:
    said = say_number(value)
    if unit in BEFORE:
        return f"-{unit}{said[1:]}" if said.startswith("-") else f"{unit}{said}"
    return f"{said} {unit}".rstrip()


def say_share(value: object) -> str:
    """A share of 1 in per cent, one decimal; more where one would round to a false 0% or 100%.

    >>> say_share(1 - 1e-12), say_share(0.99996), say_share(0.5)
    ('100%', '99.996%', '50.0%')
    """
    share = as_float(value)
    if not math.isfinite(share):
        return say_number(share)
    if round(share, 8) in (0.0, 1.0):
        return f"{share:.0%}"
    for decimals in range(1, 7):
        text = f"{share:.{decimals}%}"
        if float(text[:-1]) not in (0.0, 100.0):
            break
    return text


def say_number(value: object, digits: int = 3) -> str:
    """A number with about `digits` significant digits; whole numbers whole, with thousands separated.

    >>> [say_number(v) for v in (0.08314, 12345, 1234.56, 1e-5, 3.2e12, float("nan"))]
    ['0.0831', '12,345', '1,235', '1e-5', '3.2e12', 'not a number']
    """
    number = as_float(value)
    if math.isnan(number):
        return "not a number"
    if math.isinf(number):
        return "infinite" if number > 0 else "minus infinite"
    if number.is_integer() and abs(number) < 1e9:
        return f"{int(number):,}"
    if 1e-3 <= abs(number) < 1e9:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(number))))
        text = f"{number:,.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = f"{number:.{digits - 1}e}".partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def _scaled(value: float, base: float, units: tuple[str, ...]) -> str:
    """`value` in the largest unit that leaves at least 1, one decimal below 100."""
    i = 0
    while abs(value) >= base * (1 - 0.5e-3) and i < len(units) - 1:
        value, i = value / base, i + 1
    return f"{value:.0f} {units[i]}" if abs(value) >= 99.95 else f"{value:.1f} {units[i]}"


def say_count(value: object) -> str:
    """A count: whole below 10,000, then in thousands (k), millions (M), thousand millions (G).

    >>> say_count(180), say_count(9_999), say_count(12_345), say_count(1_234_567), say_count(999_990)
    ('180', '9,999', '12.3 k', '1.2 M', '1.0 M')
    """
    count = as_float(value)
    if not math.isfinite(count) or abs(count) < 9_999.5:
        return say_number(round(count)) if math.isfinite(count) else say_number(count)
    return _scaled(count / 1e3, 1000.0, ("k", "M", "G", "T", "P"))


def say_bytes(value: object) -> str:
    """A size in bytes, in powers of 1024.

    >>> say_bytes(512), say_bytes(1536), say_bytes(139 * 2**30)
    ('512 bytes', '1.5 KiB', '139 GiB')
    """
    size = as_float(value)
    if not math.isfinite(size) or abs(size) < 1024:
        return f"{say_number(size)} bytes"
    return _scaled(size / 1024, 1024.0, ("KiB", "MiB", "GiB", "TiB", "PiB"))


def say_seconds(value: object) -> str:
    """A time in seconds, in the two largest units that matter.

    >>> [say_seconds(v) for v in (3.5e-5, 0.012, 2.34, 12, 72, 7500, 273_600)]
    ['35 µs', '12 ms', '2.3 s', '12 s', '1 min 12 s', '2 h 5 min', '3 d 4 h']
    """
    seconds = as_float(value)
    if not math.isfinite(seconds):
        return say_number(seconds)
    if seconds < 0:
        return f"minus {say_seconds(-seconds)}"
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if 0 < seconds < 999.5 * size:
            return f"{say_number(seconds / size, 2)} {unit}"
    if seconds < 9.95:
        return f"{say_number(round(seconds, 1))} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    # large unit, small unit, seconds in the small one, how many make a large one, up to how many seconds
    scales = [("min", "s", 1, 60, 3600.0), ("h", "min", 60, 60, 86400.0), ("d", "h", 3600, 24, math.inf)]
    large, small, part, size, _ = next(s for s in scales if round(seconds / s[2]) * s[2] < s[4])
    count, rest = divmod(round(seconds / part), size)
    return f"{count:,} {large} {rest} {small}" if rest else f"{count:,} {large}"


def say_value_of(value: object, short: bool = False) -> str:
    """Any value of a choice or table cell as short text: numbers shortened, lists joined, None as "none".

    short: whole numbers of four digits stand among no longer ones, and are not separated.

    >>> say_value_of((0.9, 0.999)), say_value_of(None), say_value_of("adamw"), say_value_of(1987, short=True)
    ('0.9, 0.999', 'none', 'adamw', '1987')
    """
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{key} {say_value_of(item)}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(say_value_of(item) for item in value)
    if not is_number(value):
        return str(value)
    return say_number(value, 4).replace(",", "") if short else say_number(value, 4)


def is_number(value: object) -> bool:
    """True for a Python or NumPy number or a Tensor of one element, but not for a truth value or text."""
    if isinstance(value, bool | str | bytes):
        return False
    try:
        float(value)  # type: ignore[arg-type]  # the question is whether it does
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return True


def sentence(text: str) -> str:
    """The text with a capital first letter.

    >>> sentence("accuracy 97.8%")
    'Accuracy 97.8%'
    """
    return text[:1].upper() + text[1:]


def plain(text: object) -> str:
    """`text` as one line that can be shown (`shown`), so that a user's strings cannot steer the terminal.

    >>> plain("cat\\x1b[31m\\ndog")
    'cat\\\\x1b[31m dog'
    """
    return shown(" ".join(str(text).split()))
