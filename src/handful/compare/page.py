"""The page of a comparison: what the batch size changed, in sentences, pictures and numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.compare.experiment import Experiment
from handful.compare.findings import AXES, Finding, Results, called, group, headline
from handful.compare.gradient_variance import GradientVariance, grid
from handful.report.document import Page, Part, Section
from handful.report.figure import Figure, figure_lines
from handful.report.markup import Html, escape, table_html
from handful.report.page import choices_html
from handful.report.traces import Band, Line, Marker
from handful.report.words import is_share, say_bytes, say_count, say_name, say_number, say_seconds, say_value

_STYLE = """<style>
.findings { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1.5rem 2rem; }
.findings > div { border-top: 2px solid var(--text); padding-top: .7rem; }
.findings > div.open { border-top-color: var(--rule); }
.findings h3 { display: flex; flex-wrap: wrap; justify-content: space-between; align-items: baseline; gap: .25rem; }
.findings p { margin: .35rem 0 0; max-width: none; font-size: .9375rem; line-height: 1.5; }
.dial td, .dial th { white-space: nowrap; }
.dial td:not(:first-child), .dial th:not(:first-child) { text-align: right; }
.dial td:first-child { color: var(--quiet); white-space: normal; min-width: 7.5rem; }
.dial td .note { display: block; margin: 0; }
.dial .best { font-weight: 650; }
.ends { display: flex; align-items: center; gap: .9rem; margin: 0 0 1.25rem; color: var(--quiet); font-size: .875rem; }
.ends i { flex: 1; height: 2px; background: linear-gradient(90deg, var(--rule), var(--text), var(--rule)); }
.note.after { margin-bottom: 1.75rem; }
ol.seven { padding-left: 1.3rem; margin: 0; max-width: 46rem; }
ol.seven li { margin-bottom: .7rem; }
ol.seven b { font-weight: 650; }
</style>"""


def compare_page(c: Results) -> Page:
    """The page; `Page.write` writes it."""
    rows = sorted(c.table, key=lambda row: row["batch"])
    sections = [
        Section("What the batch size changed", [Html(_STYLE + _cards(c.findings))]),
        Section(
            "The dial from one row to all of them", [*_dial_words(rows, c.rows), _dial(c, rows), *_dial_figures(c)]
        ),
        Section("Learning, against examples, steps and seconds", [_curve_words(c), *_curves(c)]),
    ]
    if c.variance:
        parts: list[Part] = [*_variance_words(c.variance), variance_figure(c.variance), _slopes(c.variance)]
        sections.append(Section("Why larger batches are steadier", parts))
    sections.append(Section("The seven steps, with the numbers of these runs", [_seven(c, rows)]))
    if c.tried:
        sections.append(Section("The learning rates that were tried", [_tuning_figure(c)]))
    sections.append(Section("Every number", [_numbers(c)]))
    sections.append(Section("What was compared, and how", [choices_html(c.choices), *_fine_print(c)]))
    return Page(f"{c.title}: batch sizes compared", sections, headline=headline(c.table, c.target))


def _cards(found: Sequence[Finding]) -> str:
    cards = []
    for f in found:
        status = "measured" if f.told else "could not tell"
        chip = f'<span class="status {"measured" if f.told else ""}">{status}</span>'
        kind = "" if f.told else ' class="open"'
        cards.append(f"<div{kind}><h3><span>{escape(f.question)}</span>{chip}</h3><p>{escape(f.answer)}</p></div>")
    return f'<div class="findings">{"".join(cards)}</div>'


def _dial_words(rows: Sequence[dict[str, Any]], n: int) -> list[str]:
    return [
        "Gradient descent walks downhill on the loss. The batch size says how many of the "
        f"{n:,} training rows it looks at before each step. With one row (stochastic gradient descent) steps are cheap "
        "and there are many of them, but each follows a single row's opinion. With all rows (batch gradient descent) "
        "every step goes straight down, but it has to read everything first. A mini-batch is a handful in between: "
        "steady enough to trust, cheap enough to repeat, and wide enough to keep the processor busy.",
        "All methods below saw the same examples from the same starting weights, each with the learning rate that "
        "suited it best.",
    ]


def _dial(c: Results, rows: Sequence[dict[str, Any]]) -> Html:
    """Quantities down, methods across."""

    def least(name: str, high: bool = False) -> Any:
        present = [row[name] for row in rows if name in row]
        return (max if high else min)(present) if present else None

    def line(title: str, name: str, say: Any, high: bool = False, empty: str = "") -> list[Any]:
        best = least(name, high)
        cells: list[Any] = [title]
        for row in rows:
            text = str(escape(say(row[name]))) if name in row else empty
            cells.append(Html(f'<span class="best">{text}</span>' if row.get(name) == best else text))
        return cells

    lines = [
        line("examples a step", "batch", lambda v: f"{v:,}"),
        line("steps in the same examples", "steps", say_count, True),
        line("time a step", "step_seconds", say_seconds),
        line("examples a second", "examples_per_second", say_count, True),
        line("share of the rows a step reads", "work", lambda v: f"1/{round(1 / v):,}" if v < 1 else "all"),
        line("memory that grows with it", "saved_bytes", say_bytes),
    ]
    if c.variance:
        lines.append(
            line("gradient strays, one row = 1", "gradient_deviation", lambda v: say_number(v, 2) if v else "0")
        )
    missed = "not reached"
    lines += [
        line("seconds to the target", "target_seconds", say_seconds, empty=missed),
        line("steps to the target", "target_steps", say_count, empty=missed),
        line("examples to the target", "target_examples", say_count, empty=missed),
    ]
    for cells in lines[:1]:  # no batch size is the best one by itself
        cells[1:] = [f"{row['batch']:,}" for row in rows]
    heads = ["", *(row["method"] for row in rows)]
    ends = '<div class="ends"><span>many, cheap, noisy</span><i></i><span>few, dear, steady</span></div>'
    caption = f"The best of each line is bold. The target is {c.target.words}, {c.target.why}."
    note = f"<p class='note after'>{escape(caption)}</p>"
    return Html(f"{ends}<div class='dial'>{table_html(lines, heads)}</div>{note}")


def _dial_figures(c: Results) -> list[Figure]:
    """Four quantities against the batch size, both axes logarithmic; auto is a point beside the line."""
    rows = sorted((r for r in c.table if r["method"] != "auto"), key=lambda r: r["batch"])
    auto = [r for r in c.table if r["method"] == "auto"]
    figures = []
    for title, name, label in (
        ("Time to the target", "target_seconds", "seconds"),
        ("Time a step", "step_seconds", "seconds"),
        ("How far a gradient strays", "gradient_deviation", "relative to one row"),
        ("Memory that grows with the batch", "saved_bytes", "bytes"),
    ):
        kept = [r for r in rows if r.get(name)]
        if len(kept) < 2:
            continue
        x, y = [r["batch"] for r in kept], [r[name] for r in kept]
        bands = []
        if f"{name}_low" in kept[0]:
            low, high = [r[f"{name}_low"] for r in kept], [r[f"{name}_high"] for r in kept]
            bands = [Band("lowest to highest seed", x, low, high)]
        line = Line("batches of a fixed size", x, y, points=True)
        markers = [Marker("auto", float(r["batch"]), float(r[name])) for r in auto if r.get(name)]
        axes = ("examples a step", label)
        figures.append(figure_lines(title, *axes, [line], log_x=True, log_y=True, bands=bands, markers=markers))
    return figures


def _curve_words(c: Results) -> str:
    return (
        "The same runs against three measures of effort. Lines are medians over the seeds, shades reach from the "
        "lowest seed to the highest. Against examples, the data used is the same; against steps, what a step achieves "
        "shows; seconds are what you pay."
    )


def _curves(c: Results) -> list[Figure]:
    names = [n for n in ("valid_loss", c.score) if n in c.runs[0].last and n.startswith("valid_")]
    drawn = [(name, axis) for name in dict.fromkeys(names) for axis in AXES]
    drawn += [("train_loss", axis) for axis in (("examples", "steps") if drawn else AXES)]
    return [curve_figure(c, name, axis) for name, axis in drawn]


def curve_figure(c: Results, score: str, axis: str) -> Figure:
    """A score of every method against examples, steps or seconds, with its spread over seeds."""
    lines, bands = [], []
    for k, (method, runs) in enumerate(group(c.runs).items()):
        x, y = spread_curve(runs, score, AXES[axis])
        lines.append(Line(method.name, x, np.median(y, axis=0), points=len(x) < 12))
        if len(runs) > 1:
            bands.append(Band(method.name, x, y.min(axis=0), y.max(axis=0), k))
    where = "Held-out " if score.startswith("valid_") else ""
    words = say_name(score)
    title = f"{where or words[0].upper()}{words if where else words[1:]} against {axis}"
    log_y = not is_share(score) and all((np.asarray(line.y) > 0).all() for line in lines)
    figure = figure_lines(
        title, axis, words, lines, log_x=True, log_y=log_y, bands=bands, percent=is_share(score), wide=axis == "seconds"
    )
    for trace in figure.spec["data"]:
        if "fill" in trace:
            trace["showlegend"] = False  # the shade of a line needs no entry of its own
    return figure


def spread_curve(runs: Sequence[Experiment], score: str, axis: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x [m], score [seeds, m]) of the runs of a method at the moments of the first: x is the median over seeds."""
    at = np.array(runs[0].column("position"))[1:]
    xs, ys = [], []
    for run in runs:
        position = run.column("position")
        xs.append(np.interp(at, position, run.column(axis)))
        ys.append(np.interp(at, position, run.column(score)))
    return np.median(xs, axis=0), np.array(ys)


def variance_figure(variance: Sequence[GradientVariance]) -> Figure:
    """Measured variance against batch size, with the law through the variance of single rows."""
    lines = [Line(f"measured {v.state}", [p.batch for p in v.points], [p.variance for p in v.points]) for v in variance]
    for v in variance:
        dense = grid(v.points, v.rows)
        lines.append(Line(f"1/B, no repeats, {v.state.split(' (')[0]}", dense, [v.predicted(b) for b in dense]))
    dense = grid(variance[-1].points, variance[-1].rows)
    lines.append(Line("1/B alone", dense, [variance[-1].predicted(b, corrected=False) for b in dense]))
    figure = figure_lines(
        "Variance of a mini-batch's gradient",
        "examples in the mini-batch (B)",
        "squared distance from the full gradient",
        lines,
        log_x=True,
        log_y=True,
        wide=True,
    )
    for trace in figure.spec["data"][: len(variance)]:
        trace["mode"] = "markers"
        trace["marker"] = {"color": trace["marker"]["color"], "size": 9}
    return figure


def _variance_words(variance: Sequence[GradientVariance]) -> list[str]:
    v = variance[-1]
    return [
        "Average B opinions, and chance cancels: the variance of a mini-batch's gradient is that of a single row's "
        "divided by B, so its typical error falls with the square root of B. Four times the rows, half the error: each "
        "further improvement costs more. Because a mini-batch never holds a row twice, the error reaches exactly zero "
        f"when it holds all {v.rows:,} rows, a factor 1 − (B−1)/(N−1).",
        f"The points are measured: {sum(p.draws for p in v.points):,} mini-batches drawn as training draws them, each "
        "one's gradient compared with the gradient of all rows. The lines are no fit: they follow from the single rows "
        "alone.",
    ]


def _slopes(variance: Sequence[GradientVariance]) -> Html:
    rows = []
    for v in variance:
        agrees = "inside the interval" if v.low <= -1 <= v.high else "outside it"
        chip = Html('<span class="status measured">measured</span>')
        interval = f"{v.low:.3f} to {v.high:.3f}".replace("-", "−")
        rows.append([v.state, f"{v.slope:.3f}".replace("-", "−"), interval, agrees, chip])
    heads = ["weights", "slope of log variance", "95% interval", "the law's −1 is", "status"]
    return table_html(rows, heads, caption="The fitted slope, after the correction for draws without repeats")


def _seven(c: Results, rows: Sequence[dict[str, Any]]) -> Html:
    reached = [r for r in rows if "target_seconds" in r]
    row = min(reached, key=lambda r: r["target_seconds"]) if reached else rows[len(rows) // 2]
    trial = next(t for t in c.runs if t.method.name == row["method"])
    plan, size = trial.run.plan, row["batch"]
    count = sum(p.numel() for p in trial.run.model.parameters())
    first = trial.records[0]
    steps = ", ".join(f"{say_count(r['steps'])} with {r['method']}" for r in rows if r is not row)
    strays = ""
    if row.get("gradient_deviation"):
        strays = f" It strays {say_number(1 / row['gradient_deviation'], 2)} times less than a single row's would."
    items = [
        ("Initialise the parameters.", f"{count:,} of them, the same for every method (fingerprint {trial.initial})."),
        (
            "Choose a random mini-batch.",
            f"{size:,} of {c.rows:,} rows, none twice in an epoch: {max(1, c.rows // size):,} mini-batches an epoch.",
        ),
        ("Forward pass.", f"The model's outputs for the {size:,} rows at once."),
        (
            "Compute the loss.",
            f"The mean {str(plan.loss).replace('_', ' ')} of the mini-batch; over the training rows it was "
            f"{say_number(first['train_loss'])} at the start.",
        ),
        (
            "Backward pass.",
            f"One gradient of {count:,} numbers. The step keeps {say_bytes(row.get('saved_bytes', 0))} for it.{strays}",
        ),
        (
            "Update the parameters.",
            f"By {plan.optimizer} at learning rate {say_number(row['lr'], 2)}. Steps 2 to 6 together take "
            f"{say_seconds(row['step_seconds'])}.",
        ),
        (
            "Repeat until it should stop.",
            f"{say_count(row['steps'])} steps for {say_count(row['examples'])} examples"
            + (f" ({steps})" if steps else "")
            + f". The training loss ended at {say_number(row['train_loss'])}.",
        ),
    ]
    intro = f"<p>{escape(f'These are the numbers of {called(row)}, seed {trial.seed}.')}</p>"
    lis = "".join(f"<li><b>{escape(head)}</b> {escape(text)}</li>" for head, text in items)
    return Html(f'{intro}<ol class="seven">{lis}</ol>')


def _tuning_figure(c: Results) -> Figure:
    lines = [Line(name, [lr for lr, _ in p], [loss for _, loss in p], points=True) for name, p in c.tried.items()]
    figure = figure_lines(
        "Final training loss against learning rate", "learning rate", "training loss", lines, log_x=True, log_y=True,
        wide=True,
    )  # fmt: skip
    return figure


_LABELS = {
    "lr": "learning rate",
    "work": "share of the rows a step reads",
    "step_seconds": "time a step",
    "seconds": "time",
    "probe_seconds": "time auto spent on measuring first",
    "saved_bytes": "memory that grows with the batch",
    "fixed_bytes": "memory that does not",
    "gradient_deviation": "gradient strays, one row = 1",
    "gap": "held-out minus training loss",
    "reached": "seeds that reached the target",
    "target_examples": "examples to the target",
    "target_steps": "steps to the target",
    "target_seconds": "time to the target",
}


def _numbers(c: Results) -> Html:
    def say(name: str, value: Any) -> str:
        if name.startswith(("train_", "valid_")):
            return say_value(name, value)
        if name.endswith("seconds"):
            return say_seconds(value)
        return say_bytes(value) if name.endswith("bytes") else say_number(value)

    kept = [n for n in dict.fromkeys(k for row in c.table for k in row) if not n.endswith(("_low", "_high"))]
    lines = []
    for name in kept:
        if name == "method":
            continue
        plain = name.replace("train_", "training ").replace("valid_", "held-out ").replace("_", " ")
        cells: list[Any] = [_LABELS.get(name, plain)]
        for row in c.table:
            if name not in row:
                cells.append("")
                continue
            text = str(escape(say(name, row[name])))
            low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
            if low is not None and low != high:
                text += f'<span class="note">{escape(say(name, low))} to {escape(say(name, high))}</span>'
            cells.append(Html(text))
        lines.append(cells)
    table = table_html(lines, ["median, lowest to highest seed", *(str(r["method"]) for r in c.table)])
    return Html(f'<div class="dial">{table}</div>')


def _fine_print(c: Results) -> list[str]:
    return [
        "Time is wall time of the whole loop on this machine, fetching and updating included, without the scoring that "
        "the comparison adds; where auto measured before it began, that is charged to it. Memory counts the batch and "
        "the tensors kept for the backward pass exactly. Training scores are those of the weights at that moment, in "
        "evaluation mode. The variance is that of the rows alone: augmentation and dropout are off."
    ]
