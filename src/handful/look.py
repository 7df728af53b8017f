"""What `handful inspect` prints: the columns and classes of data, the quality of its shuffle, or the plan of a run."""

from pathlib import Path

import numpy as np
from torch import Tensor

import handful.source as sources
from handful.errors import HandfulError
from handful.order import Order
from handful.report.tables import print_choices, print_table
from handful.report.words import say_count, say_score
from handful.run import RunFolder
from handful.source.base import Source
from handful.source.store import Store, verify


def show_data(where: str, batch: int) -> None:
    """Rows, columns, sizes, class balance, and the quality of the shuffle."""
    source = sources.open(where)
    show_columns(source)
    _show_classes(source)
    if len(source) > 1:
        size = min(batch, len(source))
        print(f"\nshuffle, batches of {size}:")
        print(Order(len(source)).quality(size))
        if isinstance(source, Store):
            _show_reads(source, size)


def show_columns(source: Source) -> None:
    """What there is: rows, columns, and on disk their sizes."""
    print(f"{source.name}: {say_count(len(source))} rows")
    sizes = source.column_bytes() if isinstance(source, Store) else {}
    print_table(
        [
            {
                "column": name + (" (target)" if name == source.target else ""),
                "kind": c.kind,
                "dtype": c.dtype,
                "shape of a row": "x".join("varies" if s is None else str(s) for s in c.shape) or "one value",
                **({"MB": f"{sizes[name] / 1e6:,.2f}"} if sizes else {}),
            }
            for name, c in source.columns.items()
        ]
    )
    for note in source.notes:
        print(f"- {note}")
    if isinstance(source, Store):
        m = source.manifest
        shards = "1 shard" if len(m.shards) == 1 else f"{len(m.shards):,} shards"
        print(f"- {m.bytes / 1e6:,.2f} MB in {shards}, {m.bytes / m.rows:,.0f} bytes a row.")


def _show_reads(source: Store, batch: int) -> None:
    """Bytes that have to come from a cold disk for each byte that a mini-batch uses."""
    n = len(source)
    print("\nbytes read over bytes used, from a cold disk:")
    exact = source.reads(Order(n)[0:batch])
    print(f"  exact, mini-batches of {batch}: {exact:.2f}")
    order = Order(n, shuffle="block")
    window = min(order.window or n, n)
    print(f"  block, blocks of {order.block} rows, windows of {window:,}: {source.reads(order[0:window]):.2f}")


def check_store(where: str) -> None:
    """Every byte compared with its digest; one line for each damage, and HandfulError at the end if there is any."""
    damage = verify(where)
    for problem in damage:
        print(problem)
    if damage:
        raise HandfulError(f"{where} is damaged in {len(damage)} places.")
    print(f"{where}: every file is whole.")


def _show_classes(source: Source) -> None:
    if source.target is None:
        return
    column = source.columns[source.target]
    values = np.concatenate(
        [
            _values(source.take(range(s, min(s + 65536, len(source)))).columns[source.target])
            for s in range(0, len(source), 65536)
        ]
    )
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) <= 100 and (column.classes or values.dtype.kind in "iub"):
        names = [(column.classes[k] if k >= 0 else "missing") if column.classes else str(k) for k in kinds.tolist()]
        print_table(
            [
                {"class": n, "rows": int(c), "share": f"{100 * c / len(values):.1f}%"}
                for n, c in zip(names, counts, strict=True)
            ]
        )
    elif values.dtype.kind in "iuf":
        print(f"target {source.target}: from {values.min():.6g} to {values.max():.6g}, mean {values.mean():.6g}")


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
