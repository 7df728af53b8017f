"""The peers of bench_data.py: what each writes of the same rows, and how it reads them in mini-batches, shuffled.

A reader gets only the folder, so that it can run in a process of its own, under a bound (large.py). Each uses
its own format and its own default shuffle, which the column VIF of the page judges.
"""

import contextlib
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import handful

WIDTH, BATCH = 3072, 256
Endless = Callable[[], Iterator[Any]]  # a fresh endless iterator of (x, y, rows of it)


@dataclass(frozen=True)
class Peer:
    """write: (x uint8 [n, WIDTH], y int64 [n], folder); read: folder -> mini-batches."""

    write: Callable[[np.ndarray, np.ndarray, Path], None]
    read: Callable[[Path], Endless]


def pairs(batches: Iterable[Any]) -> Iterator[Any]:
    """(x, y) of each. A loop that yields would keep one mini-batch alive while the next is made, which costs whoever
    makes it into memory of its own a tenth."""
    return map(_pair, batches)


def _pair(batch: Any) -> Any:
    return batch["x"], batch["y"]


def forever(loader: Iterable[Any], named: bool = False) -> Endless:
    """Epoch after epoch; named: its mini-batches are dicts."""

    def start() -> Iterator[Any]:
        while True:
            yield from pairs(loader) if named else loader

    return start


class Items(torch.utils.data.Dataset):
    """The textbook's data set: one row at a time."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i], self.y[i]


class ManyItems(Items):
    def __getitems__(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.tensor(rows)
        return self.x[index], self.y[index]


def identity(batch: Any) -> Any:
    return batch


def torch_loaders(x: torch.Tensor, y: torch.Tensor) -> dict[str, Endless]:
    loader = torch.utils.data.DataLoader
    workers = {"num_workers": 2, "persistent_workers": True}
    return {
        "DataLoader over items": forever(loader(Items(x, y), BATCH, shuffle=True)),
        "DataLoader over items, 2 workers": forever(loader(Items(x, y), BATCH, shuffle=True, **workers)),
        "DataLoader, __getitems__": forever(loader(ManyItems(x, y), BATCH, shuffle=True, collate_fn=identity)),
    }


def write_arrays(x: np.ndarray, y: np.ndarray, folder: Path) -> None:
    if not (folder / "y.npy").exists():
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)


def _mapped(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Shared and read-only, so that a bound on private memory does not count it."""
    return np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")


class MappedItems(torch.utils.data.Dataset):
    def __init__(self, folder: Path) -> None:
        self.x, self.y = _mapped(folder)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(np.array(self.x[i])), int(self.y[i])


def read_memmap(folder: Path, workers: int = 0) -> Endless:
    more: dict[str, Any] = {"num_workers": workers, "persistent_workers": True} if workers else {}
    return forever(torch.utils.data.DataLoader(MappedItems(folder), BATCH, shuffle=True, **more))


def read_memmap_workers(folder: Path) -> Endless:
    return read_memmap(folder, workers=2)


def write_hf(x: np.ndarray, y: np.ndarray, folder: Path) -> None:
    import datasets
    import pyarrow as pa

    datasets.disable_progress_bars()
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), WIDTH)
    datasets.Dataset(pa.table({"x": flat, "y": y})).save_to_disk(str(folder / "hf"))


def read_hf(folder: Path) -> Endless:
    import datasets

    data = datasets.load_from_disk(str(folder / "hf")).with_format("torch").shuffle(seed=0)

    def start() -> Iterator[Any]:
        while True:
            yield from pairs(data.iter(BATCH))

    return start


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Empty modules for what MosaicML Streaming imports and neither MDSWriter nor StreamingDataset uses.

    torchvision ties the user to one build of torch, and the transformers it asks for is two major versions old. The
    empty modules are gone again as soon as `streaming` has been imported.
    """
    made = {
        "torchvision": {},
        "torchvision.datasets": {"VisionDataset": type("VisionDataset", (), {})},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {"to_tensor": None},
        "transformers": {},
        "transformers.models": {},
        "transformers.models.auto": {},
        "transformers.models.auto.tokenization_auto": {"AutoTokenizer": None},
        "transformers.feature_extraction_utils": {"BatchFeature": type("BatchFeature", (), {})},
        "transformers.tokenization_utils_base": {"BatchEncoding": type("BatchEncoding", (), {})},
    }
    absent = {name: what for name, what in made.items() if not _there(name.split(".")[0])}
    for name, what in absent.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
        vars(sys.modules[name]).update(what)
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def _there(package: str) -> bool:
    return any((Path(folder) / package).is_dir() for folder in sys.path)


def _streaming() -> Any:
    if "streaming" not in sys.modules:
        with stand_ins():
            import streaming
    import streaming

    return streaming


def write_streaming(x: np.ndarray, y: np.ndarray, folder: Path) -> None:
    columns = {"x": f"ndarray:uint8:{WIDTH}", "y": "int"}
    with _streaming().MDSWriter(out=str(folder / "mds"), columns=columns) as out:
        for i in range(len(y)):
            out.write({"x": x[i], "y": int(y[i])})


def read_streaming(folder: Path) -> Endless:
    streaming = _streaming()
    streaming.base.util.clean_stale_shared_memory()
    data = streaming.StreamingDataset(local=str(folder / "mds"), shuffle=True, batch_size=BATCH)
    return forever(torch.utils.data.DataLoader(data, BATCH), named=True)


def write_litdata(x: np.ndarray, y: np.ndarray, folder: Path) -> None:
    import litdata

    writer = litdata.streaming.writer.BinaryWriter(str(folder / "lit"), chunk_bytes="64MB")
    for i in range(len(y)):
        writer[i] = {"x": torch.from_numpy(x[i]), "y": int(y[i])}
    writer.done()
    writer.merge()


def read_litdata(folder: Path) -> Endless:
    import litdata

    data = litdata.StreamingDataset(str(folder / "lit"), shuffle=True, drop_last=True)
    return forever(litdata.StreamingDataLoader(data, batch_size=BATCH), named=True)


class MappedRows:
    def __init__(self, folder: Path) -> None:
        self.x, self.y = _mapped(folder)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> Any:
        return {"x": self.x[i], "y": self.y[i]}


def read_grain(folder: Path) -> Endless:
    import grain.python as grain

    def start() -> Iterator[Any]:
        data = grain.MapDataset.source(MappedRows(folder)).shuffle(seed=0).repeat()
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)  # its best here
        return pairs(data.to_iter_dataset(options).batch(BATCH))

    return start


def write_webdataset(x: np.ndarray, y: np.ndarray, folder: Path) -> None:
    import webdataset

    (folder / "wds").mkdir()
    with webdataset.ShardWriter(str(folder / "wds" / "%04d.tar"), maxcount=2000, verbose=0) as out:
        for i in range(len(y)):
            out.write({"__key__": f"{i:08d}", "bin": x[i].tobytes(), "cls": str(int(y[i]))})


def read_webdataset(folder: Path) -> Endless:
    import webdataset

    shards = sorted(map(str, (folder / "wds").glob("*.tar")))

    def decode(item: Any) -> Any:
        return np.frombuffer(item["bin"], np.uint8), int(item["cls"])

    def start() -> Iterator[Any]:
        while True:
            data = webdataset.WebDataset(shards, shardshuffle=100, seed=0).shuffle(2000).map(decode).batched(BATCH)
            for batch in data:
                yield np.stack(batch[0]) if isinstance(batch[0], list) else batch[0], batch[1]

    return start


PEERS = {
    "DataLoader over a memory-mapped array": Peer(write_arrays, read_memmap),
    "the same, 2 workers": Peer(write_arrays, read_memmap_workers),
    "Hugging Face datasets": Peer(write_hf, read_hf),
    "MosaicML Streaming": Peer(write_streaming, read_streaming),
    "LitData": Peer(write_litdata, read_litdata),
    "Grain": Peer(write_arrays, read_grain),
    "WebDataset": Peer(write_webdataset, read_webdataset),
}


def handful_stream(source: Any, **order: Any) -> Endless:
    def start() -> Iterator[Any]:
        batches = handful.Batches(source, handful.Order(len(source), seed=1, **order))
        return pairs(batches.stream(0, BATCH))

    return start


def rate(start: Endless, seconds: float) -> float:
    """Rows a second, after a warm-up of four mini-batches."""
    iterator = start()
    for _ in range(4):
        next(iterator)
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        count += len(next(iterator)[1])
    passed = time.perf_counter() - begun
    del iterator
    return count / passed


def vif(start: Endless, n: int, seconds: float = 6.0) -> str:
    """Variance of per-batch counts from each tenth of storage over its hypergeometric expectation.

    Over the first epoch, and more of them while there is time; with the standard error that chance alone gives.
    """
    found: list[np.ndarray] = []
    iterator, begun = start(), time.perf_counter()
    while len(found) < n // BATCH or (time.perf_counter() - begun < seconds and len(found) < 8 * (n // BATCH)):
        rows = np.asarray(next(iterator)[1])
        if len(rows) == BATCH:
            found.append(np.bincount(rows * 10 // n, minlength=10))
    expected = BATCH * 0.1 * 0.9 * (n - BATCH) / (n - 1)
    value = float(((np.stack(found) - BATCH / 10) ** 2).mean() / expected)
    return f"{value:.2f} +- {(2 / (9 * len(found))) ** 0.5:.2f}"
