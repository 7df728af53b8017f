"""What `handful inspect` prints: the columns and classes of data, the quality of its shuffle, or the plan of a run."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor

from handful.base import files
from handful.base.errors import HandfulError, shown
from handful.batches.order import Order
from handful.data.base import Rows, Source
from handful.data.open import open as open_source
from handful.data.series import spread_rows
from handful.data.store.read import Store, verify
from handful.report import spent
from handful.report.document import Page, Section, bullet_list, picture_grid, preformatted, table_html
from handful.report.tables import Grid, print_choices, print_table
from handful.report.words import say_count, say_score, say_seconds
from handful.runs.judge.examples import class_name, contents, pictures_of, titled, units_of
from handful.runs.run import Run
from handful.training.process.interrupts import INTERRUPTED
from handful.training.watch.folder import RunFolder
from handful.transform.rows import blocks

Labels = NDArray[np.generic]
Row = dict[str, object]
_SPAN = 65536
_EXAMPLES, _COLUMNS, _SIDE, _TEXT = 24, 12, 256, 200  # of a page: rows, columns of values, pixels, characters


@dataclass
class DataSummary:
    """What there is to show of data besides its columns; empty where there is nothing.

    labels: the target of every row, where it has classes; classes: rows of each; values: what a target without classes
    holds; shuffle: the quality of the order; reads: what mini-batches cost on a cold disk.
    """

    labels: Labels | None = None
    classes: list[dict[str, object]] = field(default_factory=list)
    values: str = ""
    shuffle: str = ""
    reads: list[str] = field(default_factory=list)


def show_data(where: str, batch: int, out: Path | None = None, *, full: bool = False) -> Row:
    """Rows, columns, sizes and class balance; in full the quality of the shuffle; with `out`, a page with examples."""
    source = open_source(where)
    described = show_columns(source)
    found = _balance(source)
    if found.classes:
        print_table(found.classes)
    if found.values:
        print(found.values)
    if len(source) > 1 and (full or out):
        size = min(batch, len(source))
        found.shuffle = str(Order(len(source)).quality(size, labels=found.labels))
        print(f"\nshuffle, batches of {size}:\n{found.shuffle}")
        if isinstance(source, Store):
            found.reads = _reads(source, size)
            print("\n" + "\n".join(found.reads))
    if out is not None:
        print(shown(_page(source, found).write(out)))
    return described | {"classes": found.classes, "values": found.values, "shuffle": found.shuffle, "report": out}


def _page(source: Source, found: DataSummary) -> Page:
    """The same as a page, with examples: pictures where a column holds them, else the values of a few rows."""
    columns, notes = _describe(source)
    target = [table_html(Grid.of(found.classes))] if found.classes else [found.values] if found.values else []
    parts = [
        Section("Columns", [table_html(Grid.of(columns)), bullet_list(notes)]),
        Section("Target", target),
        Section("Examples", _examples(source, found.labels)),
        Section("Shuffle", [preformatted(found.shuffle), *found.reads] if found.shuffle else []),
    ]
    return Page(f"handful inspect {source.name}", parts, f"{say_count(len(source))} rows.")


def _examples(source: Source, labels: Labels | None) -> list[Markup]:
    """Some rows as pictures, one grid per column that holds them, and as a table of values."""
    rows = _choose_rows(len(source), labels)
    batch = source.take(rows)
    captions = [f"row {row}" for row in rows.tolist()]
    if labels is not None:
        names = [_class_of(source, code) for code in labels[rows].tolist()]
        captions = [f"{name}, {caption}" for name, caption in zip(names, captions, strict=True)]
    found = []
    for name, column in source.columns.items():
        pixels = pictures_of(batch, name) if column.kind == "image" else None
        if pixels is not None:
            step = -(-max(pixels.shape[2:]) // _SIDE)  # every k-th pixel of large ones
            found.append(picture_grid(pixels[:, :, ::step, ::step], captions, title=name))
    values = contents(source, batch, source.columns, most=_COLUMNS, length=_TEXT)
    if values:
        shown = [{"row": row, **{n: v[i] for n, v in values.items()}} for i, row in enumerate(rows.tolist())]
        found.append(table_html(Grid.of(titled(shown, units_of(source, values)))))
    return found


def _choose_rows(n: int, labels: Labels | None) -> Rows:
    """Up to _EXAMPLES rows, as many of each class as there is room for, else evenly spread over storage."""
    if labels is None:
        return spread_rows(n, _EXAMPLES)
    kinds, where = np.unique(labels, return_inverse=True)
    each = max(1, _EXAMPLES // len(kinds))
    return np.concatenate([np.flatnonzero(where == k)[:each] for k in range(min(len(kinds), _EXAMPLES))])


def show_columns(source: Source) -> Row:
    """What there is: rows, columns, and on disk their sizes."""
    print(f"{shown(source.name)}: {say_count(len(source))} rows")
    columns, notes = _describe(source)
    print_table(columns)
    for note in notes:
        print(f"- {shown(note)}")
    return {"name": source.name, "rows": len(source), "columns": columns, "notes": notes}


def _describe(source: Source) -> tuple[list[dict[str, object]], list[str]]:
    """(one row per column, notes), with sizes where the data are a store."""
    columns: list[dict[str, object]] = [
        {
            "column": name + (" (target)" if name == source.target else ""),
            "kind": c.kind,
            "dtype": c.dtype,
            "shape of a row": "x".join("varies" if s is None else str(s) for s in c.shape) or "one value",
        }
        for name, c in source.columns.items()
    ]
    if not isinstance(source, Store):
        return columns, source.notes
    sizes, m = source.column_bytes(), source.manifest
    for row, name in zip(columns, source.columns, strict=True):
        row["MB"] = f"{sizes[name] / 1e6:,.2f}"
    shards = "1 shard" if len(m.shards) == 1 else f"{len(m.shards):,} shards"
    return columns, [*source.notes, f"{m.bytes / 1e6:,.2f} MB in {shards}, {m.bytes / m.rows:,.0f} bytes per row."]


def _reads(source: Store, batch: int) -> list[str]:
    """Bytes that have to come from a cold disk for each byte that a mini-batch uses."""
    n = len(source)
    order = Order(n, shuffle="block")
    window = min(order.window or n, n)
    return [
        "bytes read over bytes used, from a cold disk:",
        f"  exact, mini-batches of {batch}: {source.reads(Order(n)[0:batch]):.2f}",
        f"  block, blocks of {order.block} rows, windows of {window:,}: {source.reads(order[0:window]):.2f}",
    ]


def check_store(where: str) -> None:
    """Compare every byte with its digest. HandfulError where there is damage; of several one line each before."""
    damage = verify(where)
    if len(damage) == 1:
        raise HandfulError(damage[0])
    for problem in damage:
        print(shown(problem))
    if damage:
        raise HandfulError(f"{where} is damaged in {len(damage)} places")
    print(f"{shown(where)}: every file is whole.")


def _balance(source: Source) -> DataSummary:
    """Rows of each class, or what the target's values are; nothing where there is not one value per row."""
    name = source.target
    if name is None or source.columns[name].shape:
        return DataSummary()
    read = [source.read_column(name, rows) for rows in blocks(len(source), _SPAN)]
    labels: Labels = np.concatenate([v.cpu().numpy() if isinstance(v, Tensor) else np.array(v, str) for v in read])
    kinds, counts = np.unique(labels, return_counts=True)
    if len(kinds) <= 100 and (source.columns[name].classes or labels.dtype.kind in "iub"):
        pairs = zip(kinds.tolist(), counts.tolist(), strict=True)
        share = 100 / len(labels)
        return DataSummary(
            labels, [{"class": _class_of(source, k), "rows": n, "share": f"{share * n:.1f}%"} for k, n in pairs]
        )
    if labels.dtype.kind in "iuf":
        low, high, mean = labels.min(), labels.max(), labels.mean()
        return DataSummary(values=f"target {name}: from {low:.6g} to {high:.6g}, mean {mean:.6g}")
    return DataSummary(values=f"target {name}: {len(kinds):,} different values")


def _class_of(source: Source, code: float | str) -> str:
    return class_name(source.columns[source.target or ""], code)


def show_run(path: Path, *, full: bool = False) -> Row:
    """What was chosen and the scores reached; in full every choice with its reason."""
    folder = RunFolder(path)
    plan, history = folder.plan(), folder.history()
    print_choices(plan.choices, full=full)
    for note in plan.notes:
        print(f"- {shown(note)}")
    if history:
        row = history[-1]
        scores = ", ".join(say_score(k, v) for k, v in row.items() if k.startswith(("train_", "valid_")))
        print(f"\nstep {row['step']:,}, epoch {row['epoch']:.4g}: {scores}")
    choices = {name: vars(choice) for name, choice in plan.choices.items()}
    return {"choices": choices, "notes": plan.notes, "last": history[-1] if history else None}


def show_result(run: Run, *, why: bool = True) -> None:
    """How a run ended: scores, time, why it stopped (unless its course said so), where its time went if that was asked
    for, where the report is."""
    seconds = run.history[-1]["seconds"] if run.history else 0.0
    scores = [say_score(name, value, run.pipeline.unit) for name, value in run.scores.items()]
    scores.sort(key=lambda words: "loss" in words)
    because = f"; stopped because {shown(run.stopped_because)}" if why else ""
    print(f"{', '.join(scores) or 'no scores'} after {say_seconds(seconds)}{because}")
    if run.pipeline.task == "language" and run.pipeline.tokenizer is not None:
        print(f"it writes: {shown(run.sample(length=200))}")
    if run.state and "profile" in run.plan.choices:
        spent.show(run.spent, run.state.step)
    if run.path:
        if (page := run.path / "report.html").is_file():  # the disk may have been full
            print(f"report: {files.said(page)}")
        if run.stopped_because == INTERRUPTED:
            print(f"go on with: handful resume {files.said(run.path)}")
