"""The page of a comparison: what the batch size changed, in sentences, pictures and numbers."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from handful.compare.experiment import Experiment
from handful.compare.findings import AXES, Results, Row, called, group, headline, number
from handful.compare.gradient_variance import GradientVariance, grid
from handful.compare.paths import Surface
from handful.report.document import Page, Part, Section, choices_html, fill
from handful.report.figure import Band, Figure, Floats, Line, Marker, add_markers, as_json, figure_lines
from handful.report.tables import Grid
from handful.report.truth import SCALE
from handful.report.words import (
    is_share,
    say_bytes,
    say_count,
    say_name,
    say_number,
    say_seconds,
    say_share,
    say_value,
    sentence,
)

TEMPLATE = "compare.html"


def compare_page(c: Results) -> Page:
    rows = sorted(c.table, key=lambda row: number(row, "batch"))
    law = c.variance
    variance: list[Part] = []
    if law:
        figures = [variance_figure(law), *([cloud_figure(law[0])] if law[0].clouds else [])]
        variance = [fill(TEMPLATE, "about_variance", law[-1]), *figures, fill(TEMPLATE, "slopes", law)]
    ways: list[Part] = [fill(TEMPLATE, "about_paths", c.surface), paths_figure(c.surface)] if c.surface else []
    dial = fill(TEMPLATE, "dial", _dial(c, rows), c.target)
    seen = [number(row, "examples") for row in rows]
    last = max((size for row in rows if (size := number(row, "batch")) < c.rows), default=0)  # it may be over the end
    about = fill(TEMPLATE, "about_dial", c.rows, max(seen) - min(seen) <= last, bool(c.tried))
    sections = [
        Section("What the batch size changed", [fill(TEMPLATE, "findings", c.findings)]),
        Section("The dial from one row to all of them", [about, dial, *_dial_figures(c)]),
        Section("The ways down", ways),
        Section("Learning, against examples, steps and seconds", [fill(TEMPLATE, "about_curves"), *_curves(c)]),
        Section("Why the gradients of larger batches are less noisy", variance),
        Section("The seven steps, with the numbers of these runs", [_seven(c, rows)]),
        Section("The learning rates that were tried", [_tuning_figure(c)] if c.tried else []),
        Section("Every number", [fill(TEMPLATE, "numbers", _numbers(c))]),
        Section("What was compared, and how", [choices_html(c.choices), fill(TEMPLATE, "fine_print")]),
    ]
    return Page(f"{c.title}: batch sizes compared", sections, headline=headline(c.table, c.target))


MISSING = "not reached"
DIAL: dict[str, tuple[str, Callable[[list[float]], float] | None]] = {  # name in the table -> title, which one is best
    "batch": ("examples per step", None),
    "examples": ("examples seen", None),
    "steps": ("steps", max),
    "step_seconds": ("time per step", min),
    "examples_per_second": ("examples per second", max),
    "work": ("share of the rows a step reads", min),
    "saved_bytes": ("memory that grows with the batch", min),
    "gradient_deviation": ("gradient noise (relative to one row)", min),
    "target_seconds": ("time to the target", min),
    "target_steps": ("steps to the target", min),
    "target_examples": ("examples to the target", min),
}
FURTHER = {
    "lr": "learning rate",
    "seconds": "time",
    "probe_seconds": "time auto spent on measuring first",
    "fixed_bytes": "memory that does not grow",
    "gap": "held-out minus training loss",
    "reached": "seeds that reached the target",
}


def _say(name: str, value: float | str, unit: str = "") -> str:
    """A value of the table's column `name`, in its unit; unit: of the task's target."""
    if name == "work":
        return f"1/{round(1 / float(value)):,}" if float(value) < 1 else "all"
    if name.startswith(("train_", "valid_")):
        return say_value(name, value, unit)
    if name.endswith("seconds"):
        return say_seconds(value)
    if name.endswith(("steps", "examples", "per_second")):
        return say_count(value)
    return say_bytes(value) if name.endswith("bytes") else say_number(value, 2 if name == "gradient_deviation" else 3)


def _dial(c: Results, rows: Sequence[Row]) -> Grid:
    """Quantities down, methods across."""
    lines: list[list[str]] = []
    for name, (title, choose) in DIAL.items():
        present = [number(row, name) for row in rows if name in row]
        best = choose(present) if choose and present else None
        cells = [_say(name, row[name]) if name in row else MISSING for row in rows]
        bold = [Markup('<span class="best">{}</span>').format(text) for text in cells]
        if present or name.startswith("target_"):
            lines.append([title, *(b if row.get(name, "") == best else t for row, t, b in zip(rows, cells, bold))])
    return Grid(["", *(str(row["method"]) for row in rows)], lines)


def _dial_figures(c: Results) -> list[Figure]:
    """Four quantities against the batch size, both axes logarithmic; auto is a point next to the line."""
    rows = sorted((r for r in c.table if r["method"] != "auto"), key=lambda r: number(r, "batch"))
    auto = [r for r in c.table if r["method"] == "auto"]
    figures = []
    for title, name, label in (
        ("Time to the target", "target_seconds", "seconds"),
        ("Time per step", "step_seconds", "seconds"),
        ("Gradient noise", "gradient_deviation", "relative to one row"),
        ("Memory that grows with the batch", "saved_bytes", "bytes"),
    ):
        kept = [r for r in rows if r.get(name)]
        if len(kept) < 2:
            continue
        x, y, low, high = (
            [number(r, key) for r in kept if key in r] for key in ("batch", name, f"{name}_low", f"{name}_high")
        )
        lines = [Line("batches of a fixed size", x, y, points=True)]
        bands = [Band("lowest to highest seed", x, low, high)] if low else []
        markers = [Marker("auto", number(r, "batch"), number(r, name)) for r in auto if r.get(name)]
        axes = ("examples per step", label)
        figures.append(figure_lines(title, *axes, lines, log_x=True, log_y=True, bands=bands, markers=markers))
    return figures


def _curves(c: Results) -> list[Figure]:
    names = [n for n in ("valid_loss", c.score) if n in c.runs[0].last and n.startswith("valid_")]
    drawn = [(name, axis) for name in dict.fromkeys(names) for axis in AXES]
    drawn += [("train_loss", axis) for axis in AXES if not names or axis != "seconds"]
    return [curve_figure(c, name, axis) for name, axis in drawn]


def curve_figure(c: Results, score: str, axis: str) -> Figure:
    """A score of every method against examples, steps or seconds, with its spread over seeds."""
    lines, bands = [], []
    for k, (method, runs) in enumerate(group(c.runs).items()):
        x, y = spread_curve(runs, score, AXES[axis])
        lines.append(Line(method.name, x, np.median(y, axis=0), points=len(x) < 12))
        if len(runs) > 1:
            bands.append(Band(method.name, x, y.min(axis=0), y.max(axis=0), k))
    held_out = "held-out " if score.startswith("valid_") else ""
    title = sentence(f"{held_out}{say_name(score)} against {axis}")
    percent = is_share(score)
    log_y = not percent and all((np.asarray(line.y) > 0).all() for line in lines)
    figure = figure_lines(
        title, axis, say_name(score), lines, log_x=True, log_y=log_y, bands=bands, percent=percent,
        wide=axis == "seconds",
    )  # fmt: skip
    figure.plot.update_traces(showlegend=False, selector={"fill": "tonexty"})  # a line's shade is no entry
    return figure


def spread_curve(runs: Sequence[Experiment], score: str, axis: str) -> tuple[Floats, Floats]:
    """(x [m], score [seeds, m]) of the runs of a method at the moments of the first: x is the median over seeds."""
    at = np.array(runs[0].column("position"))[1:]
    xs, ys = ([np.interp(at, run.column("position"), run.column(name)) for run in runs] for name in (axis, score))
    return np.median(xs, axis=0), np.array(ys)


def variance_figure(variance: Sequence[GradientVariance]) -> Figure:
    """Measured variance against batch size, with the law through the variance of single rows."""
    lines = [Line(f"measured {v.state}", [p.batch for p in v.points], [p.variance for p in v.points]) for v in variance]
    for v in variance:
        dense = grid(v.points, v.rows)
        lines.append(Line(f"1/B, no repeats, {v.state.split(' (')[0]}", dense, [v.predicted(b) for b in dense]))
    lines.append(Line("1/B alone", dense, [v.predicted(b, corrected=False) for b in dense]))
    axes = ("examples in the mini-batch (B)", "squared distance from the full gradient")
    title = "Variance of a mini-batch's gradient"
    figure = figure_lines(title, *axes, lines, log_x=True, log_y=True, wide=True)
    for trace in figure.plot.data[: len(variance)]:
        trace.update(mode="markers", marker_size=9)
    return figure


def cloud_figure(v: GradientVariance) -> Figure:
    """Gradients of single rows, of mini-batches and of larger ones around the full gradient, at (1, 0)."""
    sizes = sorted(v.clouds)
    drawn = [v.clouds[k] for k in (sizes[0], sizes[len(sizes) // 2], sizes[-1])]
    names = [f"{k:,} row{'s' if k > 1 else ''}" for k in (sizes[0], sizes[len(sizes) // 2], sizes[-1])]
    lines = [Line(name, [x for x, _ in points], [y for _, y in points]) for name, points in zip(names, drawn)]
    axes = ("along the full gradient (1: all of it)", "across it")
    figure = figure_lines(f"Gradients of mini-batches, {v.state}", *axes, lines, wide=True)
    for trace in figure.plot.data:
        trace.update(mode="markers", marker={"size": 7, "opacity": 0.6})
    figure.plot.update_layout(hovermode="closest")
    add_markers(figure.plot, [Marker("all rows", 1.0, 0.0)], False)
    return figure


def paths_figure(surface: Surface) -> Figure:
    """The paths over the loss, which is drawn as shades of its logarithm; a table of where they were when."""
    heights = np.log10(np.maximum(surface.z, np.finfo(np.float64).tiny))
    across, up = (f"direction {k} ({say_share(share)} of the way)" for k, share in zip((1, 2), surface.shares))
    lines = [Line(path.name, path.x, path.y) for path in surface.paths]
    figure = figure_lines("From the same weights", across, up, lines, wide=True)
    top = float(np.quantile(heights, 0.97))
    figure.plot.add_contour(
        x=as_json(surface.x), y=as_json(surface.y), z=np.minimum(heights, top).round(4).tolist(), ncontours=24,
        colorscale=SCALE, showscale=False, opacity=0.75, line={"width": 0.5, "color": "#5b6470"}, hoverinfo="skip",
    )  # fmt: skip
    figure.plot.data = (figure.plot.data[-1], *figure.plot.data[:-1])
    rows: list[list[object]] = []
    for trace, path in zip(figure.plot.data[1:], surface.paths):
        said = [
            f"{path.name}: loss {say_number(a)}<br>step {say_count(b)}, {say_seconds(c)}"
            for a, b, c in zip(path.loss, path.steps, path.seconds)
        ]
        trace.update(mode="lines+markers", marker_size=5, text=said, hovertemplate="%{text}<extra></extra>")
        for k in sorted({0, len(path.x) // 2, len(path.x) - 1}):
            rows.append([path.name, int(path.steps[k]), say_seconds(path.seconds[k]), float(path.loss[k])])
    start = surface.paths[0]
    add_markers(figure.plot, [Marker("start", float(start.x[0]), float(start.y[0]))], False)
    figure.plot.update_layout(hovermode="closest")
    summary = "Contours of the training loss with the path of each batch size from the common start: " + "; ".join(
        f"{p.name} from {say_number(p.loss[0])} to {say_number(p.loss[-1])} in {say_count(p.steps[-1])} steps, "
        f"{say_seconds(p.seconds[-1])}" for p in surface.paths
    )  # fmt: skip
    table = Grid(["batch", "step", "time", "training loss"], rows)
    return dataclasses.replace(figure, table=table, summary=summary, tall=True, shown="")


def _seven(c: Results, rows: Sequence[Row]) -> Markup:
    """The algorithm in the numbers of the method that reached the target first, or of a batch in the middle."""
    reached = [r for r in rows if "target_seconds" in r]
    row = min(reached, key=lambda r: number(r, "target_seconds")) if reached else rows[len(rows) // 2]
    run = next(run for run in c.runs if run.method.name == row["method"])
    parameters = sum(p.numel() for p in run.run.model.parameters())
    others = [r for r in rows if r is not row]
    return fill(TEMPLATE, "seven", row, called(row), others, run, parameters, c.rows)


def _tuning_figure(c: Results) -> Figure:
    columns = {name: np.array(pairs).T for name, pairs in c.tried.items()}
    lines = [Line(name, lr, loss, points=True) for name, (lr, loss) in columns.items()]
    title = "Final training loss against learning rate"
    return figure_lines(title, "learning rate", "training loss", lines, log_x=True, log_y=True, wide=True)


def _numbers(c: Results) -> Grid:
    """All that is in the table, methods across; the range over the seeds under each median."""
    titles = {name: title for name, (title, _) in DIAL.items()} | FURTHER
    lines: list[list[str]] = []
    for name in dict.fromkeys(name for row in c.table for name in row):
        if name != "method" and not name.endswith(("_low", "_high")):
            words = ("held-out " if name.startswith("valid_") else "") + say_name(name)
            lines.append([titles.get(name, words), *(_with_range(name, row, c.target.unit) for row in c.table)])
    return Grid(["median, lowest to highest seed", *(str(row["method"]) for row in c.table)], lines)


def _with_range(name: str, row: Row, unit: str) -> str:
    if name not in row:
        return ""
    value, low, high = (_say(name, row.get(key, row[name]), unit) for key in (name, f"{name}_low", f"{name}_high"))
    return value if low == high else Markup('{}<span class="note">{} to {}</span>').format(value, low, high)
