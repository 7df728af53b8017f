"""handful: mini-batch gradient descent for PyTorch, done properly."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module it lives in. Nothing is imported before it is asked for: torch takes seconds to load.
_NAMES = {
    "fit": "handful.fit",
    "resume": "handful.fit",
    "advise": "handful.advise",
    "compare": "handful.compare",
    "load": "handful.run",
    "Run": "handful.run",
    "open": "handful.source",
    "prepare": "handful.source.prepare",
    "Source": "handful.source.base",
    "Batch": "handful.source.base",
    "Order": "handful.order",
    "Batches": "handful.batches",
    "Grouped": "handful.grouping",
    "Loader": "handful.loader",
    "HandfulError": "handful.errors",
}
_MODULES = ("stop", "schedule", "augment", "preprocess", "model", "loss", "metric", "sklearn")

__all__ = [*_NAMES, *_MODULES]

if TYPE_CHECKING:  # what the lazy names below are, for type checkers
    from handful import augment, loss, metric, model, preprocess, schedule, sklearn, stop
    from handful.advise import advise
    from handful.batches import Batches
    from handful.compare import compare
    from handful.errors import HandfulError
    from handful.fit import fit, resume
    from handful.grouping import Grouped
    from handful.loader import Loader
    from handful.order import Order
    from handful.run import Run, load
    from handful.source import open
    from handful.source.base import Batch, Source
    from handful.source.prepare import prepare


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = import_module(f"handful.{name}")
    else:
        raise AttributeError(f"module 'handful' has no attribute '{name}'")
    globals()[name] = value
    return value


class _Package(ModuleType):
    """`handful.fit` is the function although it lives in a module of that name, whichever is imported first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _NAMES:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
