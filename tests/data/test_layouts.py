"""Where rows stand in a file: headers of two lines, sheets, JSON with other things beside the rows, xarray."""

import csv
import datetime as dt
import json

import numpy as np
import pandas as pd
import pytest
import torch

import handful
from handful.base.errors import HandfulError

RNG = np.random.default_rng(0)
ROWS = [(k % 7, round(float(v), 3), "ab"[k % 2], "hot" if v > 0 else "cold") for k, v in enumerate(RNG.normal(size=40))]
HEADS = {  # what stands above the rows -> the names of the columns
    "groups named once": ([["bench", "oven", "", "state"], ["", "temp", "kind", ""]], ["oven temp", "oven kind"]),
    "groups repeated": ([["id", "oven", "oven", "id"], ["bench", "temp", "kind", "state"]], ["oven temp", "id state"]),
    "units": ([["bench", "temp", "kind", "state"], ["", "[°C]", "", ""]], ["bench", "temp", "kind", "state"]),
    "plain units": ([["bench", "temp", "kind", "state"], ["-", "mm", "-", "-"]], ["bench", "temp", "kind", "state"]),
    "types": ([["bench", "temp", "kind", "state"], ["int", "float", "string", "str"]], ["bench", "state"]),
    "types and parts, as of Orange": ([["bench", "temp", "kind", "state"], ["d", "continuous", "a b", "d"],
                                       ["", "", "meta", "class"]], ["bench", "state"]),
    "a title above": ([["Ovens 2026", "", "", ""], ["no", "oven", "", "no"], ["bench", "temp", "kind", "state"]],
                      ["no bench", "oven temp", "oven kind", "no state"]),
}  # fmt: skip


def written(path, lines, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize("head", HEADS)
def test_a_header_of_two_lines(head, delimiter, tmp_path):
    lines, names = HEADS[head]
    path = written(tmp_path / "t.csv", [*lines, *ROWS], delimiter)
    source = handful.open(path)
    assert set(names) <= set(source.columns)
    assert len(source.columns) == 4
    assert len(source) == len(ROWS)
    assert [column.kind for column in source.columns.values()] == ["number", "number", "category", "category"]
    assert any(f"header has {'three' if 'parts' in head else 'two'} lines" in note for note in source.notes)
    goal = list(source.columns)[3]
    run = handful.fit("table", path, target=goal, until="steps(3)", batch=8, lr=0.01, quiet=True)
    whole = run.outputs(path)
    few = written(tmp_path / "few.csv", [*lines, ROWS[5], ROWS[2]], delimiter)
    named = pd.DataFrame([ROWS[5], ROWS[2]], columns=list(source.columns))
    for given in (few, named, named.to_dict("records")):
        assert torch.equal(run.outputs(given), whole[[5, 2]])


@pytest.mark.parametrize(("text", "names", "rows"), [
    (",0\n1821,269\n1822,321\n1823,585\n1824,871\n", ["", "0"], 4),  # pandas.Series.to_csv
    ("# Regions\n# of the sea\n 1; north\n 2; south\n 3; south\n 4; north\n 5; north\n", ["column_0", "column_1"], 5),
    ("# by hand, and by eye\na,b,c\n1,x,2.5\n2,y,2.5\n3,x,9.5\n", ["a", "b", "c"], 3),
])  # fmt: skip
@pytest.mark.parametrize("prepared", [False, True])
def test_lines_above_rows(text, names, rows, prepared, tmp_path):
    """An index of a series was a title, the first of numbered rows a header, a title with a comma in it a record."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    source = handful.prepare(path, tmp_path / "s") if prepared else handful.open(path)
    assert (list(source.columns), len(source)) == (names, rows)


@pytest.mark.parametrize("columns", [2, 3, 5])
def test_columns_that_pandas_named_by_numbers_have_these_names(columns, tmp_path):
    frame = pd.DataFrame(np.c_[np.arange(1, 9), np.arange(8 * (columns - 1)).reshape(8, -1) % 5])
    frame.to_csv(tmp_path / "t.csv", index=False)
    source = handful.open(tmp_path / "t.csv")
    assert (list(source.columns), len(source)) == ([str(i) for i in range(columns)], 8)
    frame.to_csv(tmp_path / "u.csv", index=False, header=False)
    assert len(handful.open(tmp_path / "u.csv")) == 8


def test_rows_that_look_like_types_are_rows(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,y\nc,d,s\n" + "d,c,n\nn,d,s\n" * 5)
    assert len(handful.open(tmp_path / "t.csv")) == 11


@pytest.mark.parametrize("text", [
    "name,age,size\nann,unknown,n/a\nben,3,4\ncy,4,5\n", ",age,size\nann,old,big\nben,3,4\n",
    "word,kind\nx,y\nz,w\nx,y\n", "a,b\nx,1\ny,2\n",
])  # fmt: skip
def test_a_first_row_of_words_is_a_row(text, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    source = handful.open(tmp_path / "t.csv")
    assert len(source) == text.count("\n") - 1
    assert not any("two lines" in note for note in source.notes)


class Book:
    """A workbook as pandas opens it, for readers of such files are not among what handful needs."""

    cells, sheet_names = (), ("one", "other")

    def __init__(self, path):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def parse(self, *_, **__):
        return pd.DataFrame(list(self.cells), dtype=object).map(lambda cell: np.nan if cell in ("", None) else cell)


@pytest.mark.parametrize("head", HEADS)
def test_a_sheet_is_read_as_the_file_of_it(head, tmp_path, monkeypatch):
    lines, _ = HEADS[head]
    day = [dt.datetime(2020, 1, 1) + dt.timedelta(k) for k in range(40)]
    rows = [(*row, f"{k % 9:03d}", day[k], k % 3 == 0) for k, row in enumerate(ROWS)]
    more, named = [["", "", ""] for _ in lines], 0 if "unit" in head or "types" in head else len(lines) - 1
    more[named] = ["code", "day", "flag"]
    if "types" in head:
        more[1] = ["str", "date", "bool"]
    wide = [[*line, *two] for line, two in zip(lines, more, strict=True)]
    monkeypatch.setattr(pd, "ExcelFile", Book)
    monkeypatch.setattr(Book, "cells", [*wide, *rows])
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    path = written(tmp_path / "t.csv", [*wide, *rows])
    sheet, file = handful.open(tmp_path / "t.xlsx"), handful.open(path)
    assert list(sheet.columns) == list(file.columns)
    for name in file.columns:
        assert sheet.columns[name].classes == file.columns[name].classes
        assert sheet.columns[name].dtype == file.columns[name].dtype
        assert torch.equal(sheet.take(range(40))[name], file.take(range(40))[name])
    assert "the sheet 'one' is read, and no other: other." in sheet.notes


FRAME = pd.DataFrame({"height": [1.5, 2.0, 3.5, 1.0] * 6, "word": ["a", "b", "a", "c"] * 6, "y": [0, 1, 0, 1] * 6})
POINT = {"type": "Point", "coordinates": [1.0, 2.0]}
JSONS = {
    **{f"pandas, {way}": FRAME.to_json(orient=way) for way in ("records", "split", "table", "columns", "index")},
    "named rows": FRAME.set_axis([f"row {k}" for k in range(24)]).to_json(orient="index"),
    "lines": FRAME.to_json(orient="records", lines=True),
    "beside other things": json.dumps({"meta": {"of": [1, 2]}, "data": FRAME.to_dict("records"), "count": 24}),
    "far down": json.dumps({"ok": True, "result": {"rows": FRAME.to_dict("records"), "page": 1}}),
}  # fmt: skip


@pytest.mark.parametrize("kind", JSONS)
def test_rows_in_json(kind, tmp_path):
    (tmp_path / "t.json").write_text(JSONS[kind])
    source = handful.open(tmp_path / "t.json", target="y")
    assert source.take(range(24))["height"].tolist() == FRAME["height"].tolist()
    assert [source.columns["word"].classes[c] for c in source.take(range(24))["word"]] == FRAME["word"].tolist()
    said = [note for note in source.notes if "the rows are in" in note]
    assert [note.partition("; ")[2] for note in said] == {
        "beside other things": ["what is beside it is left out: meta, count."],
        "far down": ["what is beside it is left out: ok."],
        "pandas, table": ["what is beside it is left out: schema."],
    }.get(kind, [])


def test_features_of_geojson_and_one_object(tmp_path):
    where = tmp_path / "t.json"
    features = [{"type": "Feature", "properties": {"people": k}, "geometry": POINT} for k in range(9)]
    where.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    source = handful.open(where)
    assert source.take(range(9))["properties.people"].tolist() == list(range(9))
    assert source.columns["geometry.coordinates"].shape == (2,)
    run = handful.fit("linear", FRAME, target="y", until="steps(2)", batch=8, lr=0.1, quiet=True)
    where.write_text(json.dumps({"height": 2.0, "word": "b"}))
    assert torch.equal(run.outputs(where), run.outputs(FRAME[1:2]))


@pytest.mark.parametrize(
    "given", [{"a": [{"x": 1}], "b": [{"x": 1}, {"x": 2}]}, [1, 2], {"a": [1, 2], "b": [1]}, 3, {}]
)
def test_json_without_rows_is_refused(given, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(given))
    with pytest.raises(HandfulError, match=r"several lists of objects: a, b; write|neither a list of objects"):
        handful.open(tmp_path / "t.json")


def test_coordinates_of_xarray():
    xarray = pytest.importorskip("xarray")
    variables = {"temp": (("time", "lat"), RNG.normal(size=(30, 3))), "y": ("time", np.arange(30) % 2), "c": ((), 1.0)}
    days = pd.date_range("2020-01-01", periods=30)
    data = xarray.Dataset(variables, {"time": days, "lat": [1.0, 2.0, 3.0], "station": ("time", ["a", "b"] * 15)})
    for given in (data, (data.drop_vars("y"), data.y)):
        source = handful.open(given, target="y")
        assert set(source.columns) == {"time", "station", "temp", "y"}
        assert source.columns["temp"].shape == (3,)
        assert "a row is a place along 'time'; left out, as they have none: lat, c." in source.notes
    turned = handful.open(data.transpose("lat", "time")[["y", "temp"]], target="y")
    assert torch.equal(turned.take([4])["temp"], source.take([4])["temp"])
    notes = handful.open((data.temp, data.y)).notes
    assert "the coordinates of 'temp' are no columns: time, lat, station; to_dataset() makes them such." in notes
