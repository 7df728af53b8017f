"""What `handful inspect` prints: the columns and classes of data, the quality of its shuffle, or the plan of a run."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from handful.base.errors import HandfulError
from handful.batches.order import Order
from handful.data.base import Batch, Source
from handful.data.open import open as open_source
from handful.data.store.read import Store, verify
from handful.report.document import Page, Section
from handful.report.markup import Html, bullet_list, escape, picture_grid, table_html
from handful.report.tables import print_choices, print_table
from handful.report.words import say_count, say_score
from handful.runs.evaluate import pictures_of
from handful.runs.folder import RunFolder

Table = list[dict[str, Any]]
Labels = np.ndarray
_SPAN = 65536
_EXAMPLES, _COLUMNS, _SIDE, _TEXT = 24, 12, 256, 200  # of a page: rows, columns of values, pixels, characters


def show_data(where: str, batch: int, out: Path | None = None) -> None:
    """Rows, columns, sizes, class balance, and the quality of the shuffle; with `out`, a page with examples as well."""
    source = open_source(where)
    show_columns(source)
    labels = _labels(source)
    classes, sentence = _balance(source, labels)
    if classes:
        print_table(classes)
    if sentence:
        print(sentence)
    shuffle, reads = "", []
    if len(source) > 1:
        size = min(batch, len(source))
        shuffle = str(Order(len(source)).quality(size, labels=labels if classes else None))
        print(f"\nshuffle, batches of {size}:\n{shuffle}")
        if isinstance(source, Store):
            reads = _reads(source, size)
            print("\n" + "\n".join(reads))
    if out is not None:
        print(_page(source, labels if classes else None, classes, sentence, shuffle, reads).write(out))


def _page(source: Source, labels: Labels | None, classes: Table, sentence: str, shuffle: str, reads: list[str]) -> Page:
    """The same as a page, with examples: pictures where a column holds them, else the values of a few rows."""
    parts: list[Section] = [Section("Columns", [table_html(_columns(source)), bullet_list(_notes(source))])]
    if classes or sentence:
        parts.append(Section("Target", [table_html(classes) if classes else sentence]))
    parts.append(Section("Examples", _examples(source, labels)))
    if shuffle:
        lines = [Html(f"<pre>{escape(shuffle)}</pre>"), *reads]
        parts.append(Section("Shuffle", lines))
    return Page(f"handful inspect {source.name}", parts, f"{say_count(len(source))} rows.")


def _examples(source: Source, labels: Labels | None) -> list[Html]:
    """Up to _EXAMPLES rows, as many of each class as there is room for, else evenly spread over storage."""
    rows = np.unique(np.linspace(0, len(source) - 1, _EXAMPLES).astype(np.int64))
    if labels is not None:
        kinds, where = np.unique(labels, return_inverse=True)
        each = max(1, _EXAMPLES // len(kinds))
        rows = np.concatenate([np.flatnonzero(where == k)[:each] for k in range(min(len(kinds), _EXAMPLES))])
    batch = source.take(rows)
    names = [f"row {row}" for row in rows.tolist()]
    if labels is not None:
        names = [f"{_class_name(source, labels[row])}, {name}" for row, name in zip(rows.tolist(), names)]
    found = []
    for name, column in source.columns.items():
        pixels = pictures_of(batch, (name,), column.kind)
        if pixels is not None:
            found.append(picture_grid(_seen(pixels), names, title=name))
    plain = [n for n, c in source.columns.items() if c.kind in ("number", "category", "text")][:_COLUMNS]
    if plain:
        shown = [{"row": int(row), **{n: _cell(source, batch, n, i) for n in plain}} for i, row in enumerate(rows)]
        found.append(table_html(shown))
    return found


def _seen(pixels: np.ndarray) -> np.ndarray:
    """Pictures no larger than a page wants: every k-th pixel of large ones."""
    step = -(-max(pixels.shape[2:]) // _SIDE)
    return pixels[:, :, ::step, ::step]


def _cell(source: Source, batch: Batch, name: str, i: int) -> object:
    value = batch[name][i]
    if isinstance(value, Tensor):
        return _class_name(source, value.item(), name) if source.columns[name].classes else value.item()
    return value if len(value) <= _TEXT else f"{value[:_TEXT]!s}..."


def show_columns(source: Source) -> None:
    """What there is: rows, columns, and on disk their sizes."""
    print(f"{source.name}: {say_count(len(source))} rows")
    print_table(_columns(source))
    for note in _notes(source):
        print(f"- {note}")


def _columns(source: Source) -> Table:
    sizes = source.column_bytes() if isinstance(source, Store) else {}
    return [
        {
            "column": name + (" (target)" if name == source.target else ""),
            "kind": c.kind,
            "dtype": c.dtype,
            "shape of a row": "x".join("varies" if s is None else str(s) for s in c.shape) or "one value",
            **({"MB": f"{sizes[name] / 1e6:,.2f}"} if sizes else {}),
        }
        for name, c in source.columns.items()
    ]


def _notes(source: Source) -> list[str]:
    if not isinstance(source, Store):
        return source.notes
    m = source.manifest
    shards = "1 shard" if len(m.shards) == 1 else f"{len(m.shards):,} shards"
    return [*source.notes, f"{m.bytes / 1e6:,.2f} MB in {shards}, {m.bytes / m.rows:,.0f} bytes a row."]


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
    """Every byte compared with its digest; one line for each damage, and HandfulError at the end if there is any."""
    damage = verify(where)
    for problem in damage:
        print(problem)
    if damage:
        raise HandfulError(f"{where} is damaged in {len(damage)} places.")
    print(f"{where}: every file is whole.")


def _labels(source: Source) -> Labels | None:
    """Every row's target, where that is one value a row."""
    if source.target is None or source.columns[source.target].shape:
        return None
    spans = [np.arange(a, min(a + _SPAN, len(source))) for a in range(0, len(source), _SPAN)]
    return np.concatenate([_values(source.read_column(source.target, rows)) for rows in spans])


def _balance(source: Source, labels: Labels | None) -> tuple[Table, str]:
    """(rows of each class, ""), or ([], what the target's values are)."""
    if labels is None or source.target is None:
        return [], ""
    kinds, counts = np.unique(labels, return_counts=True)
    if len(kinds) <= 100 and (source.columns[source.target].classes or labels.dtype.kind in "iub"):
        shares = [f"{100 * c / len(labels):.1f}%" for c in counts.tolist()]
        return [
            {"class": _class_name(source, k), "rows": int(c), "share": share}
            for k, c, share in zip(kinds.tolist(), counts, shares)
        ], ""
    if labels.dtype.kind in "iuf":
        low, high, mean = labels.min(), labels.max(), labels.mean()
        return [], f"target {source.target}: from {low:.6g} to {high:.6g}, mean {mean:.6g}"
    return [], f"target {source.target}: {len(kinds):,} different values"


def _class_name(source: Source, code: object, column: str | None = None) -> str:
    classes = source.columns[column or source.target or ""].classes
    if classes is None or not isinstance(code, int | np.integer):
        return str(code)
    return classes[int(code)] if code >= 0 else "missing"


def _values(value: object) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.cpu().numpy()
    return np.array(value, dtype=object).astype(str)


def show_run(path: Path) -> None:
    """Every choice with its reason, and the scores reached."""
    folder = RunFolder(path)
    plan, history = folder.plan(), folder.history()
    print_choices(plan.choices)
    for note in plan.notes:
        print(f"- {note}")
    if history:
        row = history[-1]
        scores = ", ".join(say_score(k, v) for k, v in row.items() if k.startswith(("train_", "valid_")))
        print(f"\nstep {row['step']:,}, epoch {row['epoch']:.4g}: {scores}")
