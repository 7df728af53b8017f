"""take(rows) equals reading row by row, for every adapter and any list of rows."""

import io
import itertools
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import handful
from handful.data.gather import gather
from handful.data.open import Ragged, Source, gather_ragged
from handful.data.open import open as open_source
from handful.transform.language import LanguageSource

N = 7
RNG = np.random.default_rng(0)


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PIXELS = RNG.integers(0, 256, (N, 5, 6, 3), dtype=np.uint8)
FRAME = pd.DataFrame(
    {
        **{f"f{j}": RNG.normal(size=N) for j in range(6)},
        "i": range(N),
        "word": list("abcabca"),
        "y": [0, 1, 0, 1, 0, 1, 1],
    }
)


class Rows(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return {"x": torch.full((2,), i), "n": np.float32(i), "s": f"row {i}", "r": np.arange(i)}


class Many(Rows):
    def __getitems__(self, rows: list[int]) -> list[Any]:
        return [super(Many, self).__getitem__(i) for i in rows]


def npy(folder: Path) -> Path:
    np.save(folder / "a.npy", np.asfortranarray(RNG.normal(size=(N, 4))))
    return folder / "a.npy"


def npz(folder: Path) -> Path:
    np.savez(folder / "a.npz", a=np.arange(N), y=np.arange(N) * 2.5)
    return folder / "a.npz"


def parquet(folder: Path) -> Path:
    images = [{"bytes": png(p), "path": "x"} for p in PIXELS]
    table = pa.table({"image": images, "tokens": [list(range(i)) for i in range(N)], "label": list(range(N))})
    pq.write_table(table, folder / "a.parquet", row_group_size=2)
    return folder / "a.parquet"


def wav(folder: Path) -> Path:
    for i in range(N):
        (folder / "s" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        with wave.open(str(folder / "s" / "ab"[i % 2] / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", "NONE"))
            file.writeframes(RNG.integers(-999, 999, 40 + 90 * i, dtype=np.int16).tobytes())
    return folder / "s"


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for i, pixels in enumerate(PIXELS):
            archive.writestr(f"top/{'ab'[i % 2]}/{i}.png", png(pixels))
    return folder / "a.zip"


ADAPTERS: dict[str, Callable[[Path], Source]] = {
    "pair": lambda f: open_source((RNG.normal(size=(N, 3)), np.arange(N))),
    "strided": lambda f: open_source(RNG.normal(size=(N, 2, 8))[:, :, ::2]),
    "bfloat16": lambda f: open_source(torch.randn(N, 3, generator=torch.manual_seed(0)).bfloat16()),
    "lists": lambda f: open_source({"tokens": [[1] * (i + 1) for i in range(N)], "text": list("abcdefg")}),
    "frame": lambda f: open_source(FRAME),
    "npy": lambda f: open_source(npy(f)),
    "npz": lambda f: open_source(npz(f)),
    "parquet": lambda f: open_source(parquet(f)),
    "parquet encoded": lambda f: open_source(parquet(f), memory=0),
    "zip encoded": lambda f: open_source(zipped(f), memory=0),
    "audio": lambda f: open_source(wav(f)),
    "items": lambda f: open_source(Rows()),
    "many items": lambda f: open_source(Many()),
    "tensors": lambda f: open_source(torch.utils.data.TensorDataset(torch.arange(N), torch.arange(N) % 2)),
    "torch subset": lambda f: open_source(torch.utils.data.Subset(Many(), [5, 3, 1, 1, 0])),
    "subset": lambda f: open_source(FRAME).subset(np.array([6, 2, 2, 4])),
    "digits": lambda f: open_source("digits").subset(np.arange(0, 1797, 200)),
    "windows": lambda f: LanguageSource(np.arange(40, dtype=np.uint16), 5),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    return {name: make(tmp_path_factory.mktemp("source")) for name, make in ADAPTERS.items()}


def items(value: Any) -> list[Any]:
    """A column's values, one by one."""
    if isinstance(value, Ragged):
        ends = value.offsets.tolist()
        return [value.values[a:b] for a, b in itertools.pairwise(ends)]
    return list(value)


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else bool(a == b)


@pytest.mark.parametrize("name", ADAPTERS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_take_equals_one_by_one(name: str, sources: dict[str, Source], data: st.DataObject) -> None:
    source = sources[name]
    rows = data.draw(st.lists(st.integers(0, len(source) - 1), max_size=12))
    batch = source.take(rows)
    assert list(batch.columns) == list(source.columns)
    assert len(batch) == len(rows)
    for key, column in source.columns.items():
        got = items(batch[key])
        singles = [items(source.take([row])[key])[0] for row in rows]
        assert len(got) == len(rows)
        assert all(same(a, b) for a, b in zip(got, singles))
        alone = items(source.read_column(key, np.array(rows, dtype=np.int64)))
        assert len(alone) == len(rows)
        assert all(same(a, b) for a, b in zip(got, alone))
        value = batch[key]
        if isinstance(value, torch.Tensor):
            assert str(value.dtype) == f"torch.{column.dtype}"
            if rows:
                assert tuple(value.shape[1:]) == column.shape


@settings(deadline=None)
@given(
    st.sampled_from([np.float64, np.uint8, np.bool_, np.float16, np.int16]),
    st.lists(st.integers(0, 8), max_size=20),
    st.sampled_from([(), (3,), (2, 3)]),
)
def test_gather_is_indexing(dtype: Any, rows: list[int], shape: tuple[int, ...]) -> None:
    data = RNG.integers(0, 99, (9, *shape)).astype(dtype)
    ids = np.array(rows, dtype=np.int64)
    assert np.array_equal(gather(data, ids).numpy(), data[ids])
    out = torch.zeros((len(rows), *shape), dtype=gather(data, ids).dtype)
    assert gather(data, ids, out=out) is out
    assert np.array_equal(out.numpy(), data[ids])
    assert torch.equal(gather(torch.from_numpy(data), ids), gather(data, ids))


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=9), st.data())
def test_gather_ragged_is_slicing(lengths: list[int], data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=9)), dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.arange(offsets[-1])
    expected = [values[offsets[r] : offsets[r + 1]] for r in rows]
    for stored in (values, torch.from_numpy(values)):
        got = gather_ragged(stored, offsets, rows)
        assert [v.tolist() for v in items(got)] == [v.tolist() for v in expected]


def test_what_is_read_is_a_copy() -> None:
    x = np.zeros((3, 2))
    source = open_source(x)
    source.take([0, 1]).tensor("x")[:] = 7
    assert not x.any()


def test_mapped_npy_is_not_loaded_nor_written(tmp_path: Path) -> None:
    path = tmp_path / "big.npy"
    np.save(path, np.arange(12.0).reshape(6, 2))
    source = open_source(path)
    assert not source.in_memory
    source.take([0]).tensor("x")[:] = 9
    assert np.load(path)[0].tolist() == [0.0, 1.0]


def test_a_list_of_pairs_is_inputs_and_targets():
    rows = [(np.full(3, k, np.float32), k % 2) for k in range(6)]
    source = handful.open(rows)
    assert source.target == "y"
    batch = source.take([4, 1])
    assert batch["x"].tolist() == [[4, 4, 4], [1, 1, 1]]
    assert batch["y"].tolist() == [0, 1]
    texts = handful.open([("good", "yes"), ("bad", "no")] * 3)
    assert (list(texts.columns), texts.target) == (["x", "y"], "y")
    assert list(handful.open([(1.0, 2.0), (3.0, 4.0)]).columns) == ["x"]  # rows of two numbers
