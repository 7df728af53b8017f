"""What `handful doctor` prints: this machine, the packages that are installed, and what handful does with them."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import torch

from handful.base.machine import cores, memory_left
from handful.base.version import __version__
from handful.plan.data import CACHED_BYTES
from handful.report.words import say_bytes
from handful.training.process.device import bfloat16_on_cpu, choose_device

# Packages that are not asked for but used where they are installed: what for.
OPTIONAL = {
    "pandas": "DataFrames in, `history.to_pandas()` out",
    "polars": "DataFrames in",
    "datasets": "Hugging Face datasets in",
    "transformers": "Hugging Face models",
    "torchvision": "its datasets in",
    "mlflow": "runs tracked by `callbacks=`",
    "tensorboard": "runs tracked by `callbacks=`",
}


def examine_machine() -> list[dict[str, object]]:
    """One row per thing that matters to a run: what, what is here, and what handful does with it.

    >>> [row["what"] for row in examine_machine()][:2]
    ['handful', 'torch']
    """
    rows: list[tuple[str, object, str]] = [
        ("handful", __version__, f"on Python {platform.python_version()}, {platform.system()} {platform.machine()}"),
        ("torch", torch.__version__, f"CPU kernels for {torch.backends.cpu.get_cpu_capability()}"),
        _device(),
        ("cores", cores(), f"threads of torch: {torch.get_num_threads()}; each run measures how many its steps need"),
        _low_precision(),
        ("memory", say_bytes(memory_left()), f"preprocessed rows are kept in memory up to {say_bytes(CACHED_BYTES)}"),
        ("disk", say_bytes(shutil.disk_usage(".").free), "free here, where `runs/` goes"),
    ]
    rows += [(name, _version(name), use) for name, use in OPTIONAL.items()]
    return [{"what": what, "here": here, "so": so} for what, here, so in rows]


def _device() -> tuple[str, object, str]:
    found = choose_device("auto")
    if found.value != "cuda":
        return "device", found.value, found.reason
    memory = say_bytes(torch.cuda.get_device_properties(0).total_memory)
    cards = torch.cuda.device_count()
    return "device", f"cuda, {memory}", f"{found.reason}; {cards} of it, of which a run uses one (torchrun: one a rank)"


def _low_precision() -> tuple[str, object, str]:
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        return "bfloat16", "yes", "autocast by default; precision='float32' turns it off"
    if not bfloat16_on_cpu():
        return "bfloat16", "no", "neither a GPU nor instructions of the processor for it: float32"
    return "bfloat16", "no GPU for it", "on a CPU it is used where a run measures that it is faster"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
