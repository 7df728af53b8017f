"""A run that goes on reads its data by the schema of its training: in another container it is the same run."""

import shutil

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import handful
from handful.base.errors import HandfulError

DAY = np.datetime64("2019-01-01")


def table(n=160):
    rng = np.random.default_rng(0)
    return pd.DataFrame({
        "id": np.arange(n),
        "code": np.array(["007", "1e5", "1.50", "True", "NA"])[rng.integers(0, 5, n)],
        "size": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n).round(3)),
        "count": rng.integers(0, 1000, n),
        "day": [str(DAY + np.timedelta64(int(k), "D")) for k in rng.integers(0, 900, n)],
        "money": [f"${k:,}" for k in rng.integers(0, 9000, n)],
        "label": np.array(["01", "02", "other"])[np.arange(n) % 3],
    })  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """(the folder of a run of 5 steps on a CSV file, and its weights after 5 more)"""
    folder = tmp_path_factory.mktemp("begun")
    table().to_csv(folder / "t.csv", index=False)
    for name in ("run", "due"):
        handful.fit("table", folder / "t.csv", target="label", valid=40, until="steps(5)", batch=16, lr=0.01,
                    schedule="constant", quiet=True, out=folder / name)  # fmt: skip
    return folder, weights(handful.resume(folder / "due", until="steps(10)", quiet=True))


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.state.optimizer.param_groups[0]["params"]])


def typed(frame):
    return frame.assign(day=pd.to_datetime(frame.day), code=frame.code.astype("category")).astype({"count": float})


CONTAINERS = {
    "parquet": lambda folder, frame: frame.to_parquet(folder / "t.parquet") or folder / "t.parquet",
    "json": lambda folder, frame: frame.to_json(folder / "t.jsonl", orient="records", lines=True) or folder / "t.jsonl",
    "pandas": lambda folder, frame: frame,
    "typed": lambda folder, frame: typed(frame),
    "polars": lambda folder, frame: pl.DataFrame(frame),
    "dict": lambda folder, frame: frame.to_dict("list"),
    "without the id": lambda folder, frame: frame.drop(columns="id"),
    "store": lambda folder, frame: handful.prepare(folder.parent / "t.csv", folder / "store", target="label"),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_another_container_is_the_same_run(container, begun, tmp_path):
    folder, due = begun
    where = folder / container.replace(" ", "_")
    shutil.copytree(folder / "run", where / "run")
    run = handful.resume(where / "run", train=CONTAINERS[container](where, table()), until="steps(10)", quiet=True)
    assert torch.equal(weights(run), due)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.assign(size=t["size"] + 1), r"not those this run was trained on \(other values in them\)"),
        (lambda t: t.iloc[:-1], r"not those this run was trained on \(160 rows then, 159 now\)"),
        (lambda t: t.drop(columns="size"), "has no column 'size'"),
        (lambda t: t.assign(size=["x", *t["size"][1:]]), "column 'size' must be a number but is 'x' in row 0"),
        (lambda t: t.assign(label=["new", *t.label[1:]]), r"target 'label' is 'new' in row 0"),
        (lambda t: t.assign(label=["neu", "new", *t.label[2:]]), r"target 'label' is 'neu' in row 0"),
        (
            lambda t: t.assign(day=["01/02/2019", *t.day[1:]]),
            "'day' must be a date, year-month-day, but is '01/02/2019'",
        ),
    ],
)
def test_what_differs_is_said(change, said, begun, tmp_path):
    folder, _ = begun
    shutil.copytree(folder / "run", tmp_path / "run")
    change(table()).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(HandfulError, match=said):
        handful.resume(tmp_path / "run", train=tmp_path / "t.csv", until="steps(10)", quiet=True)
