"""Tables in text as R, NumPy, data bases and spreadsheets write them, against pandas."""

import numpy as np
import pandas as pd
import pytest
import torch

import handful
from handful.base.errors import HandfulError

ROWS = [(f"r{k}", round(np.sin(k), 3), ["red", "dark blue"][k % 2], k % 3) for k in range(40)]
FRAME = pd.DataFrame([row[1:] for row in ROWS], columns=["x", "colour", "y"])
R_TABLE = '"x" "colour" "y"\n' + "".join(f'"{a}" {b} "{c}" {d}\n' for a, b, c, d in ROWS)
NUMBERED = '"x" "colour" "y"\n' + "".join(f'"{k}" {b} "{c}" {d}\n' for k, (_, b, c, d) in enumerate(ROWS, 1))
PLAIN = "x,colour,y\n" + "".join(f"{b},{c},{d}\n" for _, b, c, d in ROWS)
LINES = PLAIN.splitlines(keepends=True)
TEXTS = {
    "write.table": ("t.csv", R_TABLE),
    "write.table, a .txt": ("t.txt", R_TABLE),
    "write.table, numbered": ("t.csv", NUMBERED),
    "write.table by commas": ("t.csv", R_TABLE.replace('" "', '","').replace('" ', '",').replace(' "', ',"')
                              .replace("dark,", "dark ")),
    "write.table by tabs": ("t.tsv", "x\tcolour\ty\n" + "".join("\t".join(map(str, row)) + "\n" for row in ROWS)),
    "comments above": ("t.csv", "# made by\n# a tool, 1.2\n" * 8 + PLAIN),
    "comments between": ("t.csv", "".join([*LINES[:20], "# a block\n", *LINES[20:]])),
    "padded": ("t.csv", "".join(f'{b},   "{c}" ,  {d}\n' for _, b, c, d in [("", "x", "colour", "y"), *ROWS])),
    "a separator at the end of rows": ("t.csv", LINES[0] + "".join(line.replace("\n", ",\n") for line in LINES[1:])),
    "a separator at the end of the header": ("t.csv", PLAIN.replace("y\n", "y,\n", 1)),
    "a spreadsheet's blank cells": ("t.csv", "".join(line.replace("\n", ",,,\n") for line in LINES)),
    "Macintosh": ("t.csv", PLAIN.replace("\n", "\r")),
    "Hive": ("t.csv", PLAIN.replace(",", "\x01")),
    "UCI": ("t.data", PLAIN),
    "a .txt": ("t.txt", PLAIN),
    "a .dat of blanks": ("t.dat", PLAIN.replace("dark blue", '"dark blue"').replace(",", "   ")),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_a_table_is_what_was_written(kind, tmp_path):
    name, text = TEXTS[kind]
    (tmp_path / name).write_text(text)
    source = handful.open(str(tmp_path / name), target="y")
    assert list(source.columns) == ["x", "colour", "y"]
    assert len(source) == len(FRAME)
    read = source.take(range(len(FRAME)))
    np.testing.assert_array_equal(read["x"], FRAME["x"])
    assert [source.columns["colour"].classes[code] for code in read["colour"]] == FRAME["colour"].tolist()
    store = handful.prepare(str(tmp_path / name), tmp_path / "store", target="y")
    np.testing.assert_array_equal(store.take(range(len(FRAME)))["x"], FRAME["x"])


def test_a_run_reads_a_row_alone_as_in_the_file(tmp_path):
    (tmp_path / "t.csv").write_text(R_TABLE)
    (tmp_path / "one.csv").write_text("".join(R_TABLE.splitlines(keepends=True)[:2]))
    run = handful.fit("linear", str(tmp_path / "t.csv"), until="steps(3)", quiet=True)
    whole = run.predict(str(tmp_path / "t.csv"))
    np.testing.assert_array_equal(run.predict(str(tmp_path / "one.csv")), whole[:1])
    np.testing.assert_array_equal(run.predict(FRAME), whole)


def test_numpy_names_columns_in_a_comment(tmp_path):
    values = np.random.default_rng(0).random((30, 3)).round(6)
    np.savetxt(tmp_path / "t.csv", values, header="t a b")
    source = handful.open(str(tmp_path / "t.csv"))
    assert list(source.columns) == ["t", "a", "b"]
    np.testing.assert_array_equal(source.take(range(30))["b"], values[:, 2])


def test_an_arff_table_under_another_name(tmp_path):
    text = "@relation r\n@attribute x real\n@attribute c {a,b}\n@data\n" + "".join(
        f"{k / 4},{'ab'[k % 2]}\n" for k in range(20)
    )
    (tmp_path / "t.dat").write_text(text)
    source = handful.open(str(tmp_path / "t.dat"), target="c")
    assert source.columns["c"].classes == ("a", "b")
    assert source.take([3])["x"].tolist() == [0.75]


@pytest.mark.parametrize(
    "text",
    ["one, two\nthree, four\n" * 9, "Twelve o'clock.\nAll is well, 3 of 5 said.\nGood night\n" * 5, "#a 1\n#b 2\n"],
)
def test_prose_in_a_txt_stays_one_document(text, tmp_path):
    (tmp_path / "t.txt").write_text(text)
    assert list(handful.open(str(tmp_path / "t.txt")).columns) == ["text"]


def test_rows_that_begin_with_a_hash_are_rows(tmp_path):
    (tmp_path / "t.csv").write_text("colour,y\n" + "".join(f"#ff{k % 3},{k}\n" for k in range(30)))
    assert len(handful.open(str(tmp_path / "t.csv"))) == 30


def test_a_comma_too_many_in_every_row_is_still_refused(tmp_path):
    (tmp_path / "t.csv").write_text("name,pay\n" + "".join(f"Smith, John,{k}\n" for k in range(30)))
    with pytest.raises(HandfulError, match="bad_rows='skip' leaves out the others"):
        handful.open(str(tmp_path / "t.csv"))


class Samples(torch.utils.data.Dataset):
    def __init__(self, target):
        self.target = target

    def __len__(self):
        return 30

    def __getitem__(self, k):
        return torch.tensor([float(k), k % 2]), self.target(k)


@pytest.mark.parametrize("kind", ["Dataset", "list"])
def test_targets_by_name_in_samples_are_the_target(kind):
    data = Samples(lambda k: {"age": float(k), "sex": k % 2})
    data = data if kind == "Dataset" else [data[k] for k in range(30)]
    source = handful.open(data)
    assert source.target == "age,sex"
    assert source.inputs == ["x"]
    assert source.take([3])["age,sex"].tolist() == [[3.0, 1.0]]
    assert handful.open(data, "sex").target == "sex"


def test_one_target_by_name_and_boxes():
    assert handful.open(Samples(lambda k: {"mask": torch.zeros(2, 2, dtype=torch.int64)})).target == "mask"
    boxes = Samples(lambda k: {"boxes": torch.zeros(k % 3, 4), "labels": torch.zeros(k % 3, dtype=torch.int64)})
    with pytest.raises(HandfulError, match=r"boxes, labels, and 'boxes' is neither a number nor a class: pass collate"):
        handful.open(boxes)


def test_a_frame_of_a_padded_file_is_read_as_the_file(tmp_path):
    (tmp_path / "t.csv").write_text(TEXTS["padded"][1].replace('"', ""))
    run = handful.fit("linear", handful.open(str(tmp_path / "t.csv"), "y"), until="steps(3)", quiet=True)
    whole = run.predict(str(tmp_path / "t.csv"))
    for frame in (pd.read_csv(tmp_path / "t.csv"), pd.read_csv(tmp_path / "t.csv", skipinitialspace=True)):
        np.testing.assert_array_equal(run.predict(frame), whole)
        np.testing.assert_array_equal(run.predict(frame[3:4]), whole[3:4])
