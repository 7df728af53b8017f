"""A file of one row or a few is read as the whole file was: whether it has a header, what stands between its values."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_iris

import handful
from handful.base.errors import HandfulError

QUICK = {"quiet": True, "until": "steps(3)", "batch": 32, "lr": 0.01}
ROWS = [[0], [5], [1, 1], [7, 8, 9]]


def lines(n=80, decimal=".", last=None):
    """Three numbers and a class a row, as texts; `last`: the numbers or words that are classes."""
    rng = np.random.default_rng(0)
    return [[f"{v:.2f}".replace(".", decimal) for v in rng.normal(size=3)] + [last[i % len(last)]] for i in range(n)]


def written(path, rows, separator, header=None):
    path.write_text("".join(separator.join(row) + "\n" for row in [*([header] if header else []), *rows]))
    return path


@pytest.mark.parametrize("header", [None, ["u", "v", "w", "y"], ["1", "2", "3", "4"]], ids=["none", "names", "numbers"])
@pytest.mark.parametrize(
    ("separator", "decimal"), [(",", "."), (";", ","), (";", "."), ("\t", ","), (" ", "."), ("|", ".")]
)
def test_some_rows_of_a_file_are_the_rows_of_the_file(separator, decimal, header, tmp_path):
    rows = lines(decimal=decimal, last="012" if separator in ",\t|" else "ab")
    path = written(tmp_path / "t.csv", rows, separator, header)
    run = handful.fit("linear", path, target=header[-1] if header else "column_3", **QUICK)
    whole = run.outputs(path)
    for some in ROWS:
        few = written(tmp_path / "few.csv", [rows[i] for i in some], separator, header)
        assert torch.equal(run.outputs(few), whole[some]), some
        right = [str(p) == rows[i][-1] for p, i in zip(run.predict(few), some, strict=True)]
        assert run.evaluate(few)["accuracy"] == pytest.approx(np.mean(right))
        inputs = written(tmp_path / "few.csv", [rows[i][:-1] for i in some], separator, header and header[:-1])
        assert torch.equal(run.outputs(inputs), whole[some]), some


@pytest.mark.parametrize(("separator", "decimal"), [(",", "."), (";", ","), ("\t", ",")])
def test_rows_of_a_file_for_a_run_on_a_frame(separator, decimal, tmp_path):
    rows = lines(decimal=decimal, last="ab")
    names = [f"column_{i}" for i in range(4)]
    frame = pd.DataFrame([[float(v.replace(",", ".")) for v in row[:3]] + row[3:] for row in rows], columns=names)
    run = handful.fit("linear", frame, target="column_3", **QUICK)
    for some in ROWS:
        few = written(tmp_path / "few.csv", [rows[i] for i in some], separator)
        assert torch.equal(run.outputs(few), run.outputs(frame)[some]), some


def test_words_alone_and_a_row_of_the_files_of_scikit_learn(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[["red", "blue"][a], ["x", "y"][b], ["p", "q"][a]] for a, b in rng.integers(0, 2, (60, 2))]
    path = written(tmp_path / "t.csv", rows, ",")
    run = handful.fit("linear", path, target="column_2", **QUICK)
    for some in ROWS:
        few = written(tmp_path / "few.csv", [rows[i] for i in some], ",")
        assert torch.equal(run.outputs(few), run.outputs(path)[some]), some
    iris = load_iris()
    text = [[*map(str, x), str(y)] for x, y in zip(iris.data, iris.target, strict=True)]
    path = written(tmp_path / "iris.csv", [["150", "4", *iris.target_names], *text], ",")
    run = handful.fit("linear", path, **QUICK)
    for some in ([0], [149], [70, 3]):
        few = written(tmp_path / "few.csv", [text[i] for i in some], ",")
        assert torch.equal(run.outputs(few), run.outputs(path)[some])
        assert run.evaluate(few)["accuracy"] == np.mean(run.predict(few) == iris.target_names[iris.target[some]])


def test_a_header_alone_and_a_file_without_the_names_are_refused(tmp_path):
    path = written(tmp_path / "t.csv", lines(last="ab"), ",", ["u", "v", "w", "y"])
    run = handful.fit("linear", path, target="y", **QUICK)
    with pytest.raises(HandfulError, match="has column names but 0 rows"):
        run.predict(written(tmp_path / "none.csv", [], ",", ["u", "v", "w"]))
    with pytest.raises(HandfulError, match="has no column 'u'"):
        run.predict(written(tmp_path / "none.csv", lines(2, last="ab"), ","))


def test_decimals_with_commas_are_told_from_values_apart(tmp_path):
    """1,5;2,5;3,5 has as many commas in each row as semicolons and more."""
    path = written(tmp_path / "t.csv", lines(decimal=",", last="ab"), ";")
    assert list(handful.open(path).columns) == [f"column_{i}" for i in range(4)]
    assert {handful.open(path).columns[f"column_{i}"].kind for i in range(3)} == {"number"}
