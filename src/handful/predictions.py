"""Predictions of a run to a file or to standard output, in bounded memory."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from handful import checkpoint
from handful.errors import HandfulError
from handful.run import Run


def write_predictions(run: Run, data: Any, out: Path | None, *, probabilities: bool = False) -> None:
    """Predict every row of the data; write .csv, .jsonl or .parquet, or CSV to standard output.

    Columns: row, prediction (prediction_0, ... for several numbers), and with `probabilities` one a class.
    """
    if out is not None and out.suffix not in (".csv", ".jsonl", ".parquet"):
        raise HandfulError(f"{out.name}: predictions are written as .csv, .jsonl or .parquet")
    rows = _rows(run, _read_csv(data) if hasattr(data, "read") else data, probabilities)
    if out is None:
        _write_csv(sys.stdout, rows)
        return
    with checkpoint.atomic(out) as temporary:
        if out.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(list(rows)), temporary)
        else:
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                if out.suffix == ".csv":
                    _write_csv(file, rows)
                else:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
    print(out)


def _rows(run: Run, data: Any, probabilities: bool) -> Iterator[dict[str, Any]]:
    if probabilities and not run.pipeline.classes:
        raise HandfulError(f"this run's task is {run.pipeline.task}: it has no class probabilities")
    for batch, outputs in run.stream(data):
        predictions = np.asarray(run.pipeline.decode(outputs))
        shares = np.asarray(run.pipeline.probabilities(outputs)) if probabilities else None
        for i, row in enumerate(batch.rows.tolist()):
            record: dict[str, Any] = {"row": row}
            if predictions.ndim == 1:
                record["prediction"] = predictions[i].item() if hasattr(predictions[i], "item") else predictions[i]
            else:
                record |= {f"prediction_{k}": v.item() for k, v in enumerate(predictions[i].reshape(-1))}
            if shares is not None:
                record |= {
                    f"probability_{name}": round(float(p), 6)
                    for name, p in zip(run.pipeline.classes or (), shares[i], strict=False)
                }
            yield record


def _write_csv(file: IO[str], rows: Iterator[dict[str, Any]]) -> None:
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)


def _read_csv(stream: IO[bytes]) -> Any:
    """A table read from standard input."""
    import pyarrow as pa
    import pyarrow.csv

    data = stream.read()
    if not data.strip():
        raise HandfulError("standard input is empty; give it CSV with a header line")
    try:
        return pyarrow.csv.read_csv(io.BytesIO(data))
    except pa.ArrowInvalid as error:
        raise HandfulError(f"standard input is not CSV that can be read: {error}") from None
