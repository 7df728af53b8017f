"""Lines, bands and markers as Plotly traces: thinned, with their gaps marked, each with a colour and a dash."""

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.base.errors import HandfulError
from handful.report.words import say_number, say_share

PALETTE = [
    ("#0072b2", "#56b4e9"),
    ("#c44e00", "#ff9a4d"),
    ("#007a5a", "#2fc79c"),
    ("#a84a86", "#e59bc6"),
    ("#7a5c00", "#e3c04b"),
    ("#5b6470", "#a9b3c0"),
]
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]
LINE_POINTS = 2000  # a line never has more points than this on a page
X = ArrayLike | Mapping[str, ArrayLike]


@dataclass(frozen=True)
class Line:
    """One line: y [n] over x [n], or over several x to choose from (name -> [n]; the first is shown at
    first).

    points: mark every point; steps: hold each value until the next (for batch sizes). Where y is not finite
    the line has a gap, marked by a cross.
    """

    name: str
    x: X
    y: ArrayLike
    points: bool = False
    steps: bool = False


@dataclass(frozen=True)
class Band:
    """An interval low [n] .. high [n] over x [n], shaded in the colour of line number `line`."""

    name: str
    x: ArrayLike
    low: ArrayLike
    high: ArrayLike
    line: int = 0


@dataclass(frozen=True)
class Marker:
    """One point with a word beside it, such as "best"; x as in Line, with one value each."""

    text: str
    x: float | Mapping[str, float]
    y: float


def thin(y: ArrayLike, limit: int = LINE_POINTS) -> NDArray[np.int64]:
    """Indices of at most `limit` + 2 points of y [n] that keep its look: the first, the last, and of every
    stretch the lowest, the highest and the first that is not finite.

    >>> kept = thin(np.r_[np.zeros(50_000), 9.0, np.zeros(50_000)])
    >>> len(kept) <= 2002, 50_000 in kept
    (True, True)
    """
    values = np.asarray(y, dtype=np.float64)
    n = len(values)
    if n <= limit:
        return np.arange(n, dtype=np.int64)
    bad = ~np.isfinite(values)
    width = math.ceil(n / max(1, limit // (3 if bad.any() else 2)))
    pad = -n % width
    starts = np.arange(0, n, width)
    low = np.pad(np.where(bad, np.inf, values), (0, pad), constant_values=np.inf).reshape(-1, width)
    high = np.pad(np.where(bad, -np.inf, values), (0, pad), constant_values=-np.inf).reshape(-1, width)
    first_bad = np.pad(bad, (0, pad)).reshape(-1, width)
    kept = [starts + low.argmin(1), starts + high.argmax(1), (starts + first_bad.argmax(1))[first_bad.any(1)]]
    chosen = np.unique(np.concatenate([*kept, [0, n - 1]]))
    return chosen[chosen < n].astype(np.int64)


@dataclass
class Thinned:
    """A line as drawn: the kept points only."""

    name: str
    xs: dict[str, NDArray[np.float64]]
    y: NDArray[np.float64]
    shown: NDArray[np.bool_]

    def words(self, percent: bool) -> str:
        y = self.y[self.shown]
        if not len(y):
            return f"{self.name}: no finite value."
        say = say_share if percent else say_number
        return f"{self.name} from {say(y[0])} to {say(y[-1])}, lowest {say(y.min())}, highest {say(y.max())}."


def numbers(values: ArrayLike) -> NDArray[np.float64]:
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def thinned_line(line: Line, x_label: str, log_y: bool, notes: list[str]) -> Thinned:
    y = numbers(line.y)
    named = line.x if isinstance(line.x, Mapping) else {x_label: line.x}
    xs = {name: numbers(values) for name, values in named.items()}
    for name, values in xs.items():
        if len(values) != len(y):
            raise HandfulError(
                f"Line '{line.name}' has {len(y)} values but {len(values)} positions on the x axis '{name}': "
                "give one for each."
            )
    bad = ~np.isfinite(y)
    if bad.any():
        first = int(bad.argmax())
        name, values = next(iter(xs.items()))
        where = f"{say_number(values[first])} {name}"
        notes.append(
            f"{line.name}: not finite at {int(bad.sum()):,} of {len(y):,} points, first "
            f"{say_number(y[first])} at {where}; crosses mark them."
        )
    if log_y and (y <= 0).any():
        count = int((y <= 0).sum())
        notes.append(f"{line.name}: {count:,} values of zero or less are not shown on the log axis.")
    kept = thin(y)
    if len(kept) < len(y):
        notes.append(f"{line.name}: {len(kept):,} of {len(y):,} points are drawn, extremes kept.")
    y = y[kept]
    shown = np.isfinite(y) & ((y > 0) | (not log_y))
    return Thinned(line.name, {name: values[kept] for name, values in xs.items()}, y, shown)


def _json(values: NDArray[np.float64]) -> list[float | None]:
    """Six significant digits, None for what is not finite: a page stays small and its JSON valid."""
    return [float(f"{v:.7g}") if math.isfinite(v) else None for v in values.tolist()]


def _hover(percent: bool) -> str:
    return "%{y:.2%}" if percent else "%{y:.4~g}"


def line_traces(
    line: Line, data: Thinned, i: int, percent: bool
) -> list[tuple[dict[str, Any], dict[str, list[float | None]]]]:
    """The line itself and, where values are not finite, crosses at the height of the value before."""
    colour, dash = PALETTE[i % len(PALETTE)][0], DASHES[i % len(DASHES)]
    name = html.escape(line.name)
    xs = {label: _json(values) for label, values in data.xs.items()}
    y = np.where(data.shown, data.y, np.nan)
    lonely = data.shown & ~np.r_[data.shown[1:], False] & ~np.r_[False, data.shown[:-1]]
    points = line.points and len(y) <= 200
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers" if points or lonely.any() else "lines",
        "name": name,
        "x": next(iter(xs.values())),
        "y": _json(y),
        "line": {"color": colour, "dash": dash, "width": 2 if len(y) <= 400 else 1.3}
        | ({"shape": "hv"} if line.steps else {}),
        "marker": {
            "color": colour,
            "size": 6 if points else [6 if alone else 0 for alone in lonely.tolist()],
        },
        "connectgaps": False,
        "hovertemplate": f"{_hover(percent)}<extra>{name}</extra>",
    }
    out: list[tuple[dict[str, Any], dict[str, list[float | None]]]] = [(trace, xs)]
    bad = np.flatnonzero(~np.isfinite(data.y))
    if len(bad):
        finite = np.flatnonzero(data.shown)
        if len(finite):
            before = finite[np.clip(np.searchsorted(finite, bad) - 1, 0, None)]
            heights = data.y[before]
        else:
            heights = np.ones(len(bad))
        cross = {
            "type": "scatter",
            "mode": "markers",
            "name": f"{name}: not finite",
            "x": [next(iter(xs.values()))[j] for j in bad.tolist()],
            "y": _json(heights),
            "text": [say_number(v) for v in data.y[bad].tolist()],
            "marker": {"color": colour, "symbol": "x", "size": 7},
            "hovertemplate": f"%{{text}}<extra>{name}</extra>",
        }
        out.append((cross, {label: [v[j] for j in bad.tolist()] for label, v in xs.items()}))
    return out


def band_traces(band: Band) -> list[dict[str, Any]]:
    x, low, high = numbers(band.x), numbers(band.low), numbers(band.high)
    if not len(x) == len(low) == len(high):
        raise HandfulError(
            f"Band '{band.name}' has {len(x)} positions, {len(low)} lows and {len(high)} highs: "
            "give one of each at every position."
        )
    kept = np.union1d(thin(low), thin(high))
    colour = PALETTE[band.line % len(PALETTE)][0]
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    shared = {
        "type": "scatter",
        "mode": "lines",
        "x": _json(x[kept]),
        "hoverinfo": "skip",
        "line": {"width": 0},
    }
    fill = {
        "fill": "tonexty",
        "fillcolor": f"rgba({red},{green},{blue},0.2)",
        "name": html.escape(band.name),
        "legendrank": 1001,
    }
    return [shared | {"y": _json(low[kept]), "showlegend": False}, shared | {"y": _json(high[kept])} | fill]


def marker_trace(marker: Marker, percent: bool) -> tuple[dict[str, Any], dict[str, list[float | None]]]:
    named = marker.x if isinstance(marker.x, Mapping) else {"": marker.x}
    xs = {label: _json(numbers(value)) for label, value in named.items()}
    text = html.escape(marker.text)
    trace = {
        "type": "scatter",
        "mode": "markers+text",
        "x": next(iter(xs.values())),
        "y": _json(numbers(marker.y)),
        "text": [text],
        "textposition": "top center",
        "cliponaxis": False,
        "showlegend": False,
        "marker": {"symbol": "circle-open", "size": 13, "color": PALETTE[5][0], "line": {"width": 2}},
        "hovertemplate": f"{_hover(percent)}<extra>{text}</extra>",
    }
    return trace, xs if isinstance(marker.x, Mapping) else {}
