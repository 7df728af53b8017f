"""WebDataset tar shards, as the webdataset library reads them."""

import contextlib
import io
import json
import re
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import handful
from handful.base.errors import HandfulError

RNG = np.random.default_rng(0)


def picture(kind="PNG"):
    """Some pixels, uint8 [3, 4, 5], and the file that holds them."""
    pixels, out = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return pixels.transpose(2, 0, 1), out.getvalue()


def tar_of(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def prepared(tmp_path, members, **options):
    return handful.prepare(tar_of(tmp_path / "a.tar", members), tmp_path / "store", overwrite=True, **options)


def test_two_pictures_and_a_class(tmp_path):
    left, right = ([picture() for _ in range(6)] for _ in range(2))
    members = {}
    for i in range(6):
        members |= {f"{i}.left.png": left[i][1], f"{i}.right.png": right[i][1], f"{i}.cls": str(i % 2).encode()}
    store = prepared(tmp_path, members)
    assert {name: column.kind for name, column in store.columns.items()} == {
        "left": "image", "right": "image", "label": "category",
    }  # fmt: skip
    batch = store.take([4, 1])
    for name, pictures in (("left", left), ("right", right)):
        np.testing.assert_array_equal(batch.tensor(name).numpy(), np.stack([pictures[4][0], pictures[1][0]]))
    assert batch.tensor("label").tolist() == [0, 1]

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(2 * 60, 2)

        def forward(self, left, right):
            return self.out(torch.cat([left.flatten(1), right.flatten(1)], 1))

    run = handful.fit(Both(), store, until="steps(2)", batch=2, lr=0.01, valid=0, quiet=True)
    assert len(run.predict(store)) == 6


# what webdataset 1.0.2 makes of these names: the key of the row, and the field
NAMES = {
    "0.left.PNG": ("0", "left.png"),
    "0.cls": ("0", "cls"),
    "README": None,
    "__meta__/shard.json": None,
    "__index__": None,
    "sub.d/1.left.png": ("sub.d/1", "left.png"),
    "sub.d/1.cls": ("sub.d/1", "cls"),
    "sub.d/notes": None,
    "./2.left.png": ("./2", "left.png"),
    "./2.cls": ("./2", "cls"),
    "x/__y__/3.left.png": ("x/__y__/3", "left.png"),
    "x/__y__/3.cls": ("x/__y__/3", "cls"),
}


def test_what_belongs_to_no_row_is_passed_over_as_webdataset_does(tmp_path):
    pictures = {name: picture() for name in NAMES}
    members = {n: b"1" if n.endswith("cls") else b"{}" if n.startswith("__") else pictures[n][1] for n in NAMES}
    with contextlib.suppress(ImportError):
        from webdataset.tariterators import group_by_keys, tar_file_expander  # in the extra "bench"

        with open(tar_of(tmp_path / "a.tar", members), "rb") as stream:
            found = list(group_by_keys(tar_file_expander([{"url": "a.tar", "stream": stream}])))
        fields = [(row["__key__"], field) for row in found for field in row if not field.startswith("__")]
        assert fields == [pair for pair in NAMES.values() if pair]
    store = prepared(tmp_path, members, target="label", columns=["left", "label"])
    expected = [pictures[name][0] for name, pair in NAMES.items() if pair and pair[1] == "left.png"]
    np.testing.assert_array_equal(store.take(range(4)).tensor("left").numpy(), np.stack(expected))
    assert any("README, __meta__/shard.json, __index__ and 1 more" in note for note in store.notes)


def test_one_column_where_formats_differ_from_row_to_row_and_two_where_a_row_has_both(tmp_path):
    pictures = [picture("PNG" if i % 2 else "BMP") for i in range(4)]
    members = {}
    for i, (_, data) in enumerate(pictures):
        members |= {f"{i}.{'png' if i % 2 else 'bmp'}": data, f"{i}.cls": str(i % 2).encode()}
    store = prepared(tmp_path, members)
    assert set(store.columns) == {"image", "label"}
    np.testing.assert_array_equal(store.take([0, 1]).tensor("image").numpy(), np.stack([p for p, _ in pictures[:2]]))
    masks = [picture() for _ in range(4)]
    for i, (_, data) in enumerate(masks):
        members[f"{i}.{'tif' if i % 2 else 'png'}"] = data
    both = {name: members[name] for name in sorted(members) if not name.endswith(("tif", "bmp")) or name[0] in "02"}
    both |= {f"{i}.bmp": pictures[0][1] for i in (1, 3)}
    store = prepared(tmp_path, {name: both[name] for name in sorted(both)})
    assert set(store.columns) == {"bmp", "png", "label"}


def test_fields_that_only_later_rows_have_and_names_that_clash(tmp_path):
    members = {}
    for i in range(4):
        found = {"width": i / 2, "label": f"w{i % 2}"} | ({"late": 10 * i} if i else {})
        members |= {f"{i}.json": json.dumps(found).encode(), f"{i}.cls": b"%d" % (i % 2), f"{i}.a.b.txt": b"x y z"}
        members |= {f"{i}.meta.json": b'{"age": %d}' % i, f"{i}.txt": b"\xef\xbb\xbfa b c %d" % i}  # a mark of UTF-8
    columns = ["width", "label", "late", "json.label", "meta.age", "text"]
    store = prepared(tmp_path, members, target="label", columns=columns)
    batch = store.take(range(4))
    assert batch["text"] == [f"a b c {i}" for i in range(4)]
    np.testing.assert_array_equal(batch.tensor("late").numpy(), [np.nan, 10, 20, 30])
    assert batch.tensor("label").tolist() == [0, 1, 0, 1]
    assert store.columns["json.label"].classes == ("w0", "w1")
    assert batch.tensor("meta.age").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"0.PNG": b"x", "0.png": b"y"}, "the row of 0.png has two members .png"),
        ({"0.a.txt": b"x", "0.b.txt": b"y", "1.a.txt": b"z"}, "the row of 1.a.txt has no .b.txt"),
        ({"README": b"x"}, "holds no files of rows"),
        ({"0.json": b'{"a": 1}', "1.json": b'{"a": "x"}'}, "'a' cannot be one column"),
    ],
)
def test_what_is_refused(tmp_path, members, said):
    with pytest.raises(HandfulError, match=re.escape(said)):
        prepared(tmp_path, members)


@pytest.mark.parametrize("where", ["x-000000.tar", "*.tar", ""])
def test_tars_that_are_opened_are_told_the_way_on(tmp_path, where):
    for k in range(2):
        with tarfile.open(tmp_path / f"x-{k:06}.tar", "w") as tar:
            for name, value in ((f"{k}.txt", b"a text"), (f"{k}.cls", b"1")):
                info = tarfile.TarInfo(name)
                info.size = len(value)
                tar.addfile(info, io.BytesIO(value))
    place = str(tmp_path / where)
    with pytest.raises(
        HandfulError, match=r"tar files?: write their rows as a store first, as in handful prepare '"
    ) as said:
        handful.open(place)
    asked = str(said.value).split("'")[-2]
    assert len(handful.prepare(asked, tmp_path / "store")) == (1 if where.startswith("x") else 2)
