"""Charts as SVG for the pages of `docs`: lines, bands, points, and a surface under paths, in English and in Chinese.

A chart follows the reader's light or dark mode, its text is the browser's own, and it is a few kilobytes.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

Words = tuple[str, str]  # English, Chinese
COLOURS = [  # by day, by night (Okabe and Ito 2008, as in handful's own pages)
    ("#0072b2", "#56b4e9"), ("#c44e00", "#ff9a4d"), ("#007a5a", "#2fc79c"),
    ("#a84a86", "#e59bc6"), ("#7a5c00", "#e3c04b"), ("#5b6470", "#a9b3c0"),
]  # fmt: skip
DASHES = ["", "7 4", "2 3", "8 3 2 3", "12 4", "12 3 2 3"]
WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, BOTTOM, LINE = 70, 18, 50, 20  # margins; the height of a line of the legend


@dataclass
class Series:
    """A line y over x, with the spread low .. high where there is one; points: markers without a line."""

    name: Words
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    points: bool = False


@dataclass
class Surface:
    """Heights z [rows][columns] over the rectangle x0 .. x1, y0 .. y1."""

    x: tuple[float, float]
    y: tuple[float, float]
    z: list[list[float]]


@dataclass
class Chart:
    """What is drawn; the words in both languages."""

    title: Words
    x: Words
    y: Words
    series: list[Series]
    log_x: bool = False
    log_y: bool = False
    surface: Surface | None = None
    ticks: dict[str, float] = field(default_factory=dict)  # names on the x axis, at their places
    square: bool = False  # one unit of x is as long as one of y


@dataclass
class Axis:
    """Values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        """The pixel of a value."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values, about six."""
        if self.log:
            decades = math.log10(self.high / self.low)
            steps = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
            every = max(1, round(decades / 6))
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            found = [s * 10.0**k for k in range(first, last + 1) if k % every == 0 for s in steps]
        else:
            step = 10 ** math.floor(math.log10((self.high - self.low) / 3))
            step *= next(k for k in (1, 2, 5, 10) if (self.high - self.low) / (step * k) <= 7)
            found = [round(k * step, 12) for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [t for t in found if self.low * (1 - 1e-9) - 1e-12 <= t <= self.high * (1 + 1e-9)]


def axis(values: Sequence[float], start: float, end: float, log: bool) -> Axis:
    """The axis that holds the values, with a little room."""
    kept = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = min(kept), max(kept)
    if log:
        room = (high / low) ** 0.04 if high > low else 1.2
        return Axis(low / room, high * room, start, end, True)
    room = 0.04 * (high - low) or 1.0
    return Axis(low - room, high + room, start, end, False)


def say(value: float) -> str:
    """A tick: 1e-5, 0.003, 20, 1,000, 2e6."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:,.6g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def svg(chart: Chart, language: int) -> str:
    """The picture as the text of an SVG file; language: 0 English, 1 Chinese."""
    named = [(i, s) for i, s in enumerate(chart.series) if s.name[language]]
    columns = 2 if any(len(s.name[language]) > 24 for _, s in named) else 3
    top = 44 + LINE * -(-len(named) // columns)
    every_x = [v for s in chart.series for v in s.x] + list(chart.surface.x if chart.surface else ())
    every_y = [v for s in chart.series for v in (*s.y, *s.low, *s.high)] + list(
        chart.surface.y if chart.surface else ()
    )
    height = HEIGHT + max(0, top - 64) + (120 if chart.surface or chart.square else 0)
    xs, ys = axis(every_x, LEFT, WIDTH - RIGHT, chart.log_x), axis(every_y, height - BOTTOM, top, chart.log_y)
    if chart.surface:
        xs, ys = Axis(*chart.surface.x, xs.start, xs.end, False), Axis(*chart.surface.y, ys.start, ys.end, False)
    if chart.square:
        unit = max((xs.high - xs.low) / (xs.end - xs.start), (ys.high - ys.low) / (ys.start - ys.end))
        for a in (xs, ys):
            centre, half = (a.low + a.high) / 2, unit * abs(a.end - a.start) / 2
            a.low, a.high = centre - half, centre + half
    parts = [*_frame(chart, xs, ys, height, language)]
    parts += _surface(chart.surface, xs, ys) if chart.surface else []
    for k, (i, s) in enumerate(named):
        x, y = LEFT + (k % columns) * (WIDTH - LEFT - RIGHT) / columns, 50 + LINE * (k // columns)
        key = (
            f'<circle class="f{i % 6}" cx="{x + 11}" cy="{y}" r="4"/>'
            if s.points
            else _stroke([(x, y), (x + 22, y)], i)
        )
        parts.append(f'{key}<text x="{x + 28}" y="{y + 4}">{html.escape(s.name[language])}</text>')
    for i, s in enumerate(chart.series):
        parts += _series(s, i, xs, ys)
    day = "".join(f".s{i}{{stroke:{c[0]}}}.f{i}{{fill:{c[0]}}}" for i, c in enumerate(COLOURS))
    night = "".join(f".s{i}{{stroke:{c[1]}}}.f{i}{{fill:{c[1]}}}" for i, c in enumerate(COLOURS))
    style = (
        "text{font:13px system-ui,sans-serif;fill:#1b2026}.t{font-weight:600;font-size:15px}.q{fill:#56606c}"
        ".r{stroke:#dfe3e8}path{fill:none;stroke-width:2}.b{fill-opacity:.18}.o{fill-opacity:.35}.bg{fill:#fff}" + day
        + "@media(prefers-color-scheme:dark){text{fill:#e7eaee}.q{fill:#a3adb9}.r{stroke:#343b44}.bg{fill:#14171b}"
        + night + "}"
    )  # fmt: skip
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    title = html.escape(chart.title[language])
    back = f'<rect class="bg" width="{WIDTH}" height="{height}"/>'
    return "\n".join([head, f"<title>{title}</title><style>{style}</style>{back}", *parts, "</svg>", ""])


def _frame(chart: Chart, xs: Axis, ys: Axis, height: int, language: int) -> list[str]:
    """Title, grid, ticks and names of the axes."""
    parts = [f'<text class="t" x="{LEFT}" y="24">{html.escape(chart.title[language])}</text>']
    for t in ys.ticks():
        y = ys.at(t)
        parts.append(f'<line class="r" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="q" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{say(t)}</text>')
    names = chart.ticks or {say(t): t for t in xs.ticks()}
    for name, t in names.items():
        anchor = f'<text class="q" x="{xs.at(t):.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">'
        parts.append(f"{anchor}{html.escape(name)}</text>")
    middle = (xs.start + xs.end) / 2
    parts.append(
        f'<text class="q" x="{middle}" y="{height - 10}" text-anchor="middle">{html.escape(chart.x[language])}</text>'
    )
    up = (ys.start + ys.end) / 2
    turn = f'transform="rotate(-90 14 {up})" text-anchor="middle"'
    parts.append(f'<text class="q" x="14" y="{up + 4}" {turn}>{html.escape(chart.y[language])}</text>')
    return parts


def _surface(surface: Surface, xs: Axis, ys: Axis) -> list[str]:
    """Twelve shades of the logarithm of the height, one path of cells each: low is light."""
    flat = sorted(v for row in surface.z for v in row)
    low, high = math.log(flat[0]), math.log(flat[int(0.97 * len(flat))])
    shades: dict[int, list[str]] = {}
    rows, columns = len(surface.z), len(surface.z[0])
    wide, tall = (xs.end - xs.start) / columns, (ys.start - ys.end) / rows
    for r, row in enumerate(surface.z):
        for c, v in enumerate(row):
            k = min(11, max(0, int(12 * (math.log(v) - low) / (high - low))))
            x, y = xs.start + c * wide, ys.start - (r + 1) * tall
            shades.setdefault(k, []).append(f"M{x:.1f} {y:.1f}h{wide:.1f}v{tall:.1f}h{-wide:.1f}z")
    return [
        f'<path style="fill:#5b6470;fill-opacity:{0.03 + 0.045 * k:.3f};stroke:none" d="{"".join(cells)}"/>'
        for k, cells in sorted(shades.items())
    ]


def _stroke(points: Sequence[tuple[float, float]], i: int) -> str:
    dash = f' stroke-dasharray="{DASHES[i % 6]}"' if DASHES[i % 6] else ""
    return f'<path class="s{i % 6}"{dash} d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'


def _series(s: Series, i: int, xs: Axis, ys: Axis) -> list[str]:
    """The band, then the line or the points, of what can be drawn."""

    def pixels(y: Sequence[float]) -> list[tuple[float, float]]:
        drawn = [(a, b) for a, b in zip(s.x, y) if math.isfinite(b) and (b > 0 or not ys.log) and (a > 0 or not xs.log)]
        return [(xs.at(a), ys.at(b)) for a, b in drawn]

    parts = []
    if s.low:
        edge = [*pixels(s.high), *reversed(pixels(s.low))]
        parts.append(f'<polygon class="f{i % 6} b" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in edge)}"/>')
    line = pixels(s.y)
    if s.points:
        radius = 4 if len(line) < 40 else 2.2
        faint = " o" if len(line) >= 40 else ""
        parts += [f'<circle class="f{i % 6}{faint}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>' for x, y in line]
    elif line:
        parts.append(_stroke(line, i))
        if len(line) <= 15:
            parts += [f'<circle class="f{i % 6}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in line]
    return parts
