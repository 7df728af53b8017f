"""Exported models on ONNX Runtime against `predict`: the largest difference on 1,000 raw rows for each model.

Needs onnx, onnxscript and onnxruntime: pip install 'handful[onnx]'. `python benchmarks/export_parity.py` writes
results/export_parity.md. The models are trained for a few steps on drawn rows: parity does not ask for more.
"""

import json
import platform
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import pandas as pd
import torch

import handful

ROWS = 1000
BOTH = "a class and a number"
# float32: where bfloat16 is faster, predictions are made in it, and an exported model is float32
HOW = {"batch": 64, "lr": 3e-3, "until": "steps(60)", "precision": "float32", "quiet": True, "seed": 0}
rng = np.random.default_rng(0)
LABELS = rng.choice(["one", "two", "three"], ROWS)


def table():
    rows = pd.DataFrame(
        {
            "age": rng.integers(18, 90, ROWS).astype(float),
            "income": np.exp(rng.normal(10, 2, ROWS)),
            "when": (np.datetime64("2019-01-01", "h") + rng.integers(0, 30_000, ROWS).astype("timedelta64[h]")).astype(
                "datetime64[s]"
            ),
            "town": pd.Series(rng.choice(["Ulm", "Bonn", "Kiel", "Jena"], ROWS), dtype=object),
            "job": pd.Series(rng.choice([f"job {k}" for k in range(40)], ROWS), dtype=object),
        }
    )
    rows.loc[::7, "age"], rows.loc[::9, "town"] = np.nan, None
    given = {name: rows[name].to_numpy(dtype="float64") for name in ("age", "income")}
    given["when"] = rows["when"].to_numpy().astype("datetime64[s]").astype("float64")
    given |= {n: np.array([v if isinstance(v, str) else "" for v in rows[n]], dtype=object) for n in ("town", "job")}
    return rows, given


def pictures():
    x = rng.integers(0, 255, (ROWS, 3, 32, 32), dtype=np.uint8)
    return {"x": x}, {"x": x}


def texts():
    words = np.array([f"word{k}" for k in range(500)])
    rows = [" ".join(words[rng.integers(0, 500, rng.integers(3, 60))]) for _ in range(ROWS)]
    return {"text": rows}, None


def sounds():
    rows = [rng.normal(size=n).astype("float32") for n in rng.integers(4000, 8000, ROWS)]
    return {"sound": rows}, None


def differences(model, rows, given, target, folder):
    """(largest difference, largest value, seconds of the export, bytes of the file)."""
    y = {"class": LABELS, "number": rng.normal(100, 5, ROWS)}
    goal = {BOTH: y}.get(target) or {target: y[target]}
    data = rows.assign(**goal) if isinstance(rows, pd.DataFrame) else rows | goal
    more = {"rate": 8000} if "sound" in rows else {}
    source = handful.open(data, target=",".join(goal), **more)
    run = handful.fit(model, source, **HOW)
    start = time.perf_counter()
    path = run.export(folder / "m.onnx")
    seconds = time.perf_counter() - start
    asked = handful.open(rows, columns=run.pipeline.schema, **more)
    if given is None:  # the step that stays outside, as the package does it
        (name,), step = run.pipeline.uses, run.pipeline.input.steps[0]
        given = {name: step(asked.take(range(ROWS))[name]).numpy()}
    session = onnxruntime.InferenceSession(str(path))
    found = session.run(None, given)[0]
    right = run.predict(asked) if target == "number" else run.predict(asked, probabilities=True).numpy()
    if len(goal) > 1:
        right = np.c_[right, run.predict(asked)["number"]]
    left = ", ".join(s["step"] for s in json.loads(session.get_modelmeta().custom_metadata_map["outside"]).values())
    return np.abs(found - right).max(), np.abs(right).max(), seconds, path.stat().st_size, left or "nothing"


def main():
    kinds = {"table": table(), "pictures": pictures(), "texts": texts(), "sounds": sounds()}
    models = [
        ("table", "linear", "class"), ("table", "linear", "number"), ("table", "mlp", "class"),
        ("table", "mlp", "number"), ("table", "table", "class"), ("table", "table", "number"),
        ("table", "linear", BOTH), ("table", "mlp", BOTH), ("table", "table", BOTH),
        ("pictures", "linear", "class"), ("pictures", "mlp", "class"), ("pictures", "cnn", "class"),
        ("pictures", "resnet", "class"), ("texts", "text", "class"), ("texts", "text(encoder='convolution')", "class"),
        ("texts", "text(encoder='transformer')", "class"), ("sounds", "audio", "class"),
    ]  # fmt: skip
    lines = [
        "# Exported models on ONNX Runtime\n",
        f"`python benchmarks/export_parity.py`: {ROWS:,} raw rows each, handful {handful.__version__}, torch "
        f"{torch.__version__}, onnxruntime {onnxruntime.__version__}, {platform.machine()}. "
        "Probabilities, or numbers in the target's units, held against `predict` on the same rows.\n",
        "| rows | model | target | largest difference | of a largest value of | left outside | export | file |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with TemporaryDirectory() as folder:
        for kind, model, target in models:
            worst, size, seconds, held, left = differences(model, *kinds[kind], target, Path(folder))
            mega = held / 1e6
            lines.append(
                f"| {kind} | {model} | {target} | {worst:.1e} | {size:.3g} | {left} | {seconds:.1f} s | {mega:.2g} MB |"
            )
            print(lines[-1], flush=True)
    (Path(__file__).parent / "results" / "export_parity.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
