"""Files without a header, of scikit-learn, of values between blanks; the index of a frame; tables in other formats."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from sklearn.datasets import dump_svmlight_file, load_iris

import handful
from handful.base.errors import HandfulError
from handful.data.tables.cells.dialect import find

SHIPPED = Path(sklearn.datasets.__file__).parent / "data"
IRIS = load_iris()


def values(source, name):
    return source.take(range(len(source)), [name]).tensor(name).numpy()


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    ("name", "load"), [("iris", "load_iris"), ("wine_data", "load_wine"), ("breast_cancer", "load_breast_cancer")]
)
def test_files_of_scikit_learn_open_as_it_reads_them(name, load, prepared, tmp_path):
    where = SHIPPED / f"{name}.csv"
    source = handful.prepare(where, tmp_path / "s") if prepared else handful.open(where)
    data = getattr(sklearn.datasets, f"load_{name.removesuffix('_data')}")()
    assert source.target == "target"
    assert source.columns["target"].classes == tuple(data.target_names)
    np.testing.assert_array_equal(values(source, "target"), data.target)
    found = np.stack([values(source, column) for column in source.inputs], 1)
    np.testing.assert_array_equal(found, data.data)
    assert any("counts rows and columns and names the classes" in note for note in source.notes)


def without_header(folder, frame, **options):
    frame.to_csv(folder / "a.csv", index=False, header=False, **options)
    return folder / "a.csv"


TABLES = {
    "iris": pd.DataFrame(IRIS.data).assign(name=IRIS.target_names[IRIS.target]),
    "repeated": pd.DataFrame({"a": [0, 1, 2, 0], "b": [0, 0, 5, 1], "c": [0.5, 0.5, 1, 2]}),
    "votes": pd.DataFrame({"party": ["r", "d", "r", "d"], "a": ["n", "y", "n", "y"], "b": ["n", "n", "y", "y"]}),
    "rising": pd.DataFrame({"a": [-0.586, 0.3, 0.1], "b": [-0.473, 0.2, 0.5], "c": [0, 1, 1]}),
    "uneven": pd.DataFrame({"a": [1, 2, 5], "b": [3, 4, 6], "c": [22, 7, 1]}),
    "people": pd.DataFrame({"name": ["Ann", "Bo", "Cy"], "age": [34, 51, 20], "height": [1.7, 1.8, 1.6]}),
}


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("table", TABLES)
def test_a_first_line_of_values_is_a_row(table, separator, prepared, tmp_path):
    frame = TABLES[table]
    where = without_header(tmp_path, frame, sep=separator)
    names = [f"column_{i}" for i in range(frame.shape[1])]
    source = handful.prepare(where, tmp_path / "s", columns=names) if prepared else handful.open(where, columns=names)
    assert len(source) == len(frame)
    assert any("the first line holds values, not names" in note for note in source.notes)
    for name, (_, column) in zip(names, frame.items(), strict=True):
        found = values(source, name)
        classes = source.columns[name].classes
        assert [classes[k] for k in found] if classes else found.tolist() == column.tolist()


@pytest.mark.parametrize(
    "text",
    [
        "name,2019,2020\na,1,2\nb,3,4\nc,1,5\n",  # years
        "0,1,2\n5,3,1\n2,2,2\n1,1,1\n",  # places
        "400.5,401.0,401.5\n.1,.2,.3\n.2,.1,.3\n",  # wavelengths
        ",a,b\n0,1,2\n1,1,2\n",  # pandas' index
        "country,1990,1995,2001\na,1,2,3\nb,2,2,1\n",
        "text,label\nfine,1\nbad,0\n",
        "a,b\nred,blue\nblue,red\nred,red\n",
        "5,text\n1,good\n0,bad\n",  # one whole number: it may be a name
    ],
)
def test_names_are_names(text):
    assert find(text.encode(), ".csv").names == ()


def test_names_that_are_there_twice_are_still_refused(tmp_path):
    (tmp_path / "a.csv").write_text("x,x,y\n1,2,0\n3,4,1\n")
    with pytest.raises(HandfulError, match="2 columns are named 'x'"):
        handful.open(tmp_path / "a.csv")


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("header", [True, False])
def test_values_between_blanks(header, prepared, tmp_path):
    frame = pd.DataFrame({"size": [1.5, 22.25, 3.0, 0.5], "name": ["a", '"b  c"', "a", "d"], "n": [1, 20, 3, 3]})
    lines = [" " + "   ".join(map(str, row)) + " " for row in frame.itertuples(index=False)]
    (tmp_path / "a.csv").write_text("\n".join([*(["size  name \tn"] if header else []), *lines]) + "\n")
    want = pd.read_csv(tmp_path / "a.csv", sep=r"\s+", header=0 if header else None)
    names = ["size", "name", "n"] if header else ["column_0", "column_1", "column_2"]
    where = tmp_path / "a.csv"
    source = handful.prepare(where, tmp_path / "s", columns=names) if prepared else handful.open(where, columns=names)
    assert any("values are separated by blanks" in note for note in source.notes)
    assert values(source, names[0]).tolist() == want.iloc[:, 0].tolist()
    assert values(source, names[2]).tolist() == want.iloc[:, 2].tolist()
    assert source.columns[names[1]].classes == ("a", "b  c", "d")


def test_lines_of_two_words_are_no_table():
    assert find(b"good film\nbad film\nso so\n", ".csv").separator == ","


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("frame", ["shuffled", "repeated", "named", "dates"])
def test_the_index_of_a_frame_is_no_input(frame, prepared, tmp_path):
    plain = pd.DataFrame(IRIS.data[:, :2], columns=["a", "b"]).assign(y=IRIS.target)
    made = {
        "shuffled": plain.sample(frac=1, random_state=0),
        "repeated": pd.concat([plain, plain]).sort_values("a"),
        "named": plain.sample(frac=1, random_state=0).rename_axis("patient"),
        "dates": plain.set_index(pd.date_range("2020-01-01", periods=150).rename("day")),
    }[frame]
    where = tmp_path / "a.parquet"
    made.to_parquet(where)
    source = handful.prepare(where, tmp_path / "s", target="y") if prepared else handful.open(where, target="y")
    assert list(source.columns) == ["a", "b", "y"]
    index = {"named": "patient", "dates": "day"}.get(frame, "__index_level_0__")
    assert any(f"'{index}' was left out: it is the index" in note for note in source.notes)
    assert index in handful.open(where, target="y", columns=["a", index]).columns


@pytest.mark.parametrize("first", [None, "Unnamed: 0"])
def test_the_index_in_a_csv_is_no_input_though_it_repeats(first, tmp_path):
    plain = pd.DataFrame(IRIS.data[:, :2], columns=["a", "b"]).assign(y=IRIS.target)
    pd.concat([plain, plain]).to_csv(tmp_path / "a.csv", index_label=first)
    run = handful.fit("linear", tmp_path / "a.csv", target="y", batch=16, lr=0.1, until="steps(2)", quiet=True)
    assert run.pipeline.uses == ("a", "b")
    assert any("Left out, as it numbers the rows" in note for note in run.plan.notes)


def test_a_column_without_a_name_that_numbers_nothing_is_learned_from(tmp_path):
    """It was left out, "as it numbers the rows": of breeds that tell the target, accuracy was that of chance."""
    breed = np.random.default_rng(0).choice(["pug", "collie", "boxer"], 200)
    frame = pd.DataFrame({"": np.arange(200), "a": np.arange(200) % 7, "Unnamed: 2": breed, "y": breed == "pug"})
    frame.to_csv(tmp_path / "a.csv", index=False)
    run = handful.fit("linear", tmp_path / "a.csv", target="y", batch=16, lr=0.1, until="epochs(5)", quiet=True)
    assert run.pipeline.uses == ("a", "Unnamed: 2")
    assert any("Left out, as it numbers the rows: the one without a name." in note for note in run.plan.notes)
    assert run.evaluate(frame)["accuracy"] == 1


def test_truth_values_of_a_column_named_as_an_id_are_learned_from(tmp_path):
    """It ended in a traceback: torch rounds no truth values."""
    frame = pd.DataFrame({"has_id": np.arange(60) % 2 == 0, "a": np.arange(60) % 7, "y": np.arange(60) % 2})
    frame.to_csv(tmp_path / "a.csv", index=False)
    run = handful.fit("linear", tmp_path / "a.csv", target="y", batch=10, lr=0.1, until="epochs(20)", quiet=True)
    assert run.pipeline.uses == ("has_id", "a")
    assert run.evaluate(frame)["accuracy"] == 1


@pytest.mark.parametrize("name", ["rownames", "row.names", "Row Number", "No", "#", "id", "repeats"])
def test_a_column_named_as_row_numbers_is_no_input_where_it_is_different_in_every_row(name, tmp_path):
    plain = pd.DataFrame(IRIS.data[:, :2], columns=["a", "b"]).assign(y=IRIS.target)
    number = np.arange(1, 151) if name != "repeats" else np.arange(150) // 2
    kept = name == "repeats"
    plain.insert(0, "no" if kept else name, number)
    plain.sample(frac=0.8, random_state=0).to_csv(tmp_path / "a.csv", index=False)
    run = handful.fit("linear", tmp_path / "a.csv", target="y", batch=16, lr=0.1, until="steps(2)", quiet=True)
    assert run.pipeline.uses == (("no", "a", "b") if kept else ("a", "b"))


ROUTES = {
    "a.dcm": "pydicom", "a.nii.gz": "nibabel", "a.mat": "scipy.io.loadmat", "a.arff": "liac-arff", "a.ts": "aeon",
    "a.dta": "pyreadstat.read_dta", "a.h5": "h5py", "a.orc": "pandas.read_orc", "a.nc": "xarray", "a.pkl": "pickle",
    "a.sas7bdat": "pyreadstat.read_sas7bdat", "a.xpt": "pyreadstat.read_xport", "a.por": "pyreadstat.read_por",
    "a.fits": "astropy.table.Table.read", "a.sav": "pyreadstat", "a.rds": "pyreadr", "a.tfrecord": "tensorflow",
    "a.xlsx": "pandas.read_excel", "a.db": "sqlite3", "a.pt": "torch.load", "a.xml": "pandas.read_xml",
}  # fmt: skip


@pytest.mark.parametrize("name", ROUTES)
def test_other_formats_are_refused_with_a_way_on(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04")
    for where in (tmp_path / name, f"s3://bucket/{name}"):
        with pytest.raises(HandfulError, match=ROUTES[name].replace(".", r"\.")) as error:
            handful.open(where)
        assert str(error.value).startswith(str(where))


@pytest.mark.parametrize("name", ["a.txt", "a.svm", "a.libsvm", "a.svmlight", "heart_scale"])
def test_libsvm_text_is_read_as_scikit_learn_reads_it(name, tmp_path):
    rng = np.random.default_rng(0)
    x = np.where(rng.random((40, 6)) < 0.5, rng.normal(size=(40, 6)).round(3), 0)
    y = rng.integers(0, 2, 40) * 2 - 1
    x[:, 0] = 1
    dump_svmlight_file(x, y, str(tmp_path / name), zero_based=False, comment="made here" if name == "a.txt" else None)
    source = handful.open(tmp_path / name)
    np.testing.assert_allclose(values(source, "x"), x, atol=1e-12)
    np.testing.assert_array_equal(values(source, "y"), y)
    assert source.target == "y"
    assert any("LIBSVM" in note for note in source.notes)
    if name == "a.txt":
        assert len(handful.open(shutil.copy(tmp_path / name, tmp_path / "b.txt"))) == 40


def test_prose_with_colons_stays_prose(tmp_path):
    (tmp_path / "a.txt").write_text("1 he said: go\n2 she said: no\n12:30 they left\n")
    assert list(handful.open(tmp_path / "a.txt").columns) == ["text"]


def test_a_libsvm_file_too_wide_for_memory_is_refused(tmp_path):
    (tmp_path / "a.libsvm").write_text("1 5:1 900000000:2\n0 1:1\n")
    with pytest.raises(HandfulError, match=r"900,000,000 columns, too many for mini-batches in memory.*TruncatedSVD"):
        handful.open(tmp_path / "a.libsvm")


TITLES = ["Sales of 2024\n\n", "Sales of 2024,,,\n", "# exported\n# by me\n", "\n\nSales of 2024\n"]


@pytest.mark.filterwarnings("ignore:The 'float_precision' argument")  # what newer versions of pandas do by themselves
@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_stands_above_the_header_is_left_out_and_said(title, separator, tmp_path):
    """pandas reads the same of it where it is told how many lines to skip."""
    rng = np.random.default_rng(0)
    shops = rng.choice(["Bern", "Ulm"], 200)
    frame = pd.DataFrame({"shop": shops, "size": rng.normal(size=200), "n": rng.integers(0, 9, 200)})
    frame["y"] = frame["size"] + frame["n"]
    title, where = title.replace(",", separator), tmp_path / "sales.csv"
    where.write_text(title + frame.to_csv(index=False, sep=separator))
    expected = pd.read_csv(where, sep=separator, skiprows=title.count("\n"), float_precision="round_trip")
    source = handful.open(where, target="y")
    assert list(source.columns) == list(expected)
    for name in ("size", "n", "y"):
        np.testing.assert_array_equal(values(source, name), expected[name])
    (said,) = [note for note in source.notes if "what stands before it is left out" in note]
    assert f"in line {title.count(chr(10)) + 1};" in said
    assert title.strip().splitlines()[0].strip(",; \t") in said
    store = handful.prepare(where, tmp_path / "store", target="y")
    np.testing.assert_array_equal(values(store, "y"), expected["y"])
    run = handful.fit("linear", source, until="steps(20)", batch=16, lr=0.01, valid=None, quiet=True)
    whole = run.predict(frame.drop(columns="y"))
    one = tmp_path / "one.csv"
    one.write_text(title + frame.drop(columns="y")[3:4].to_csv(index=False, sep=separator))
    np.testing.assert_array_equal(run.predict(one), whole[3:4])


def test_lines_of_one_value_are_no_titles(tmp_path):
    (tmp_path / "texts.csv").write_text("text\nHello there\nnine, ten\nten, nine\n")
    with pytest.raises(HandfulError, match="Expected 1 columns, got 2"):
        handful.open(tmp_path / "texts.csv")
    (tmp_path / "one.csv").write_text("n\n1\n2\n3\n")
    assert handful.open(tmp_path / "one.csv").columns.keys() == {"n"}


@pytest.mark.parametrize("kind", ["utf-16", "utf-16-le", "utf-16-be"])
def test_files_in_utf_16_as_a_spreadsheet_writes_them(kind, tmp_path):
    frame = pd.DataFrame({"größe": [1.5, 2.5, 3.5] * 9, "wo": ["Köln", "Ulm", "Zürich"] * 9})
    where = tmp_path / "t.csv"
    mark = "" if kind == "utf-16" else "\ufeff"
    where.write_bytes((mark + frame.to_csv(index=False, sep="\t")).encode(kind))
    source = handful.open(where)
    assert source.columns["wo"].classes == ("Köln", "Ulm", "Zürich")
    np.testing.assert_array_equal(values(source, "größe"), frame["größe"])


def test_a_superscript_is_a_text_among_numbers(tmp_path):
    """'¹'.isdigit(), and int('¹') fails."""
    (tmp_path / "t.csv").write_text("a,b\n" + "0,1\n" * 5 + "¹,2\n", encoding="utf-8")
    (tmp_path / "u.csv").write_text("²,¹,u,v\n" + "0,1\n" * 5, encoding="utf-8")
    assert handful.open(tmp_path / "t.csv").columns["a"].classes == ("0", "¹")
    assert len(handful.open(tmp_path / "t.csv")) == 6
    with pytest.raises(HandfulError, match="values"):
        handful.open(tmp_path / "u.csv")
