"""What `handful inspect` prints: the columns and classes of data, the quality of its shuffle, or the plan of a run."""

from pathlib import Path

import numpy as np
from torch import Tensor

import handful.source as sources
from handful.order import Order
from handful.report.tables import print_choices, print_table
from handful.report.words import say_count, say_score
from handful.run import RunFolder
from handful.source.base import Source


def show_data(where: str, batch: int) -> None:
    """Rows, columns, class balance, and the quality of the exact shuffle."""
    source = sources.open(where)
    print(f"{source.name}: {say_count(len(source))} rows")
    print_table(
        [
            {
                "column": name + (" (target)" if name == source.target else ""),
                "kind": c.kind,
                "dtype": c.dtype,
                "shape of a row": "x".join("varies" if s is None else str(s) for s in c.shape) or "one value",
            }
            for name, c in source.columns.items()
        ]
    )
    for note in source.notes:
        print(f"- {note}")
    _show_classes(source)
    if len(source) > 1:
        print(f"\nshuffle, batches of {min(batch, len(source))}:")
        print(Order(len(source)).quality(min(batch, len(source))))


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
