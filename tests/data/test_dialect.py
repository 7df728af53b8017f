"""Separators and decimals of CSV files, as Excel writes them where decimals have a comma, and as UCI publishes them."""

import numpy as np
import pytest

import handful
from handful.data.tables.cells.dialect import Dialect, find

ROWS = [("12,5", "red", "0"), ("8,25", "green; dark", "1"), ("-3,0", "red", "1"), ("4,75", "blue", "0")]


def write(path, separator, header=("size", "colour", "y"), rows=ROWS):
    lines = [header, *(tuple(f'"{v}"' if separator in v else v for v in row) for row in rows)]
    path.write_text("\n".join(separator.join(line) for line in lines) + "\n")
    return path


def test_semicolons_and_decimal_commas_are_read_and_said(tmp_path):
    source = handful.open(write(tmp_path / "a.csv", ";"))
    assert [(k, c.kind) for k, c in source.columns.items()] == [
        ("size", "number"),
        ("colour", "category"),
        ("y", "number"),
    ]
    assert source.take(range(4))["size"].tolist() == [12.5, 8.25, -3.0, 4.75]
    assert any("separated by ';', and decimals are written with ','" in note for note in source.notes)


@pytest.mark.parametrize("separator", ["\t", "|", ";"])
def test_other_separators(separator, tmp_path):
    rows = [(v.replace(",", "."), *rest) for v, *rest in ROWS]
    source = handful.open(write(tmp_path / "a.csv", separator, rows=rows))
    assert source.take(range(4))["size"].tolist() == [12.5, 8.25, -3.0, 4.75]


def test_a_store_is_prepared_from_them(tmp_path):
    path = write(tmp_path / "a.csv", ";", rows=ROWS * 50)
    store = handful.prepare(str(path), tmp_path / "store")
    np.testing.assert_array_equal(store.take(range(200))["size"], np.tile([12.5, 8.25, -3.0, 4.75], 50))


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("text,label\nfine; really; so,1\nbad; very; bad,0\n", ","),  # as many semicolons in every row, but no names
        ("a;b\nx, y;1\nz, w;2\n", ";"),
        ("text\none, two\nthree\n", ","),  # one column, whose values nothing separates
        ("a,b\n1;2,3\n", ","),
        ('a;b\n"x;y";1\n"line\nbreak";2\n', ";"),
        ("a,b\n1,2\n1,2,3\n", ","),  # a row too long: the parser says which
        ("", ","),
    ],
)
def test_the_separator_is_that_on_which_names_and_rows_agree(text, separator):
    assert find(text.encode(), ".csv").separator == separator


def test_a_cut_sample_and_points_beside_commas():
    long = "a;b\n" + "".join(f'{i};"{"x; y, " * 300}"\n' for i in range(200))
    assert find(long.encode(), ".csv") == Dialect(";", ".")
    assert find(b"a;b\n1,5;2.5\n", ".csv").decimal == "."  # both signs: no number is read as another one
    assert find(b"a\tb\n", ".tsv.gz") == Dialect("\t")


def test_predictions_from_such_a_file(tmp_path):
    data = write(tmp_path / "a.csv", ";", rows=ROWS * 20)
    run = handful.fit("linear", str(data), batch=8, lr=0.01, until="steps(3)", quiet=True)
    plain = {"size": [12.5, 8.25], "colour": ["red", "green; dark"]}
    new = write(tmp_path / "new.csv", ";", rows=ROWS[:2])
    np.testing.assert_array_equal(run.predict(str(new)), run.predict(plain))


@pytest.mark.parametrize("prepared", [False, True])
def test_dates_with_dots_are_times(prepared, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("day;at;y\n03.02.2021;03.02.2021 10:30;1\n28.12.2019;28.12.2019 00:05;0\n")
    source = handful.prepare(str(path), tmp_path / "s") if prepared else handful.open(str(path))
    days = source.take(range(2))["day"]
    assert (days.double() / 86400).tolist() == [18661.0, 18258.0]  # since 1970-01-01
    assert (source.take(range(2))["at"].double() - days.double()).tolist() == [37800.0, 300.0]


def test_a_table_of_astropy(tmp_path):
    """Its types stand in comments, of which each has several parts: Table.write("t.ecsv") of astropy 8."""
    types = "".join(
        f"# - {{name: {name}, datatype: {kind}}}\n" for name, kind in {"a": "float64", "c": "string"}.items()
    )
    rows = '1.5 "x y"\n"" z\n2.5 w\n' * 9
    (tmp_path / "t.ecsv").write_text(f"# %ECSV 1.0\n# ---\n# datatype:\n{types}# schema: astropy-2.0\na c\n{rows}")
    source = handful.open(tmp_path / "t.ecsv")
    assert [*source.columns] == ["a", "c"]
    assert np.array_equal(source.take([0, 1, 2])["a"], [1.5, np.nan, 2.5], equal_nan=True)
    assert source.columns["c"].classes == ("w", "x y", "z")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("before", [0, 20_000])
def test_quotes_that_no_other_closes_are_letters(tmp_path, whole, before):
    texts = ['"Good film', 'bad "film', '5" long', '"quoted" word', 'end"', "plain, and more"] * 50
    lines = [f"{text} number {k}\t{k % 2}" for k, text in enumerate(texts)]
    for name in ("a.tsv", "a.csv"):
        (tmp_path / name).write_text("sentence\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
        source = handful.open(tmp_path / name, target="label")
        source = source if whole else handful.prepare(tmp_path / name, tmp_path / f"{name}-store", target="label")
        assert source.take(range(len(lines))).strings("sentence") == [line.split("\t")[0] for line in lines]
        assert not whole or any("quotes are letters" in note for note in source.notes)
    proper = "".join(f'"Good ""film"",\nnumber {k}",{k % 2}\n' for k in range(300))
    (tmp_path / "b.csv").write_text("sentence,label\n" + proper, encoding="utf-8")
    found = handful.open(tmp_path / "b.csv", target="label").take(range(300)).strings("sentence")
    assert found == [f'Good "film",\nnumber {k}' for k in range(300)]
