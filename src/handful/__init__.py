"""handful: mini-batch gradient descent for PyTorch, exact, resumable and explained."""

import sys
from importlib import abc, import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

from handful.base.version import __version__

# Public name -> the module it lives in. Nothing is imported before it is asked for: torch takes seconds to load.
_NAMES = {
    "fit": "handful.fit",
    "resume": "handful.fit",
    "replay": "handful.fit",
    "advise": "handful.plan.advise",
    "compare": "handful.compare.compare",
    "load": "handful.fit",
    "Run": "handful.runs.run",
    "open": "handful.data.open",
    "prepare": "handful.data.store.prepare",
    "Source": "handful.data.base",
    "Batch": "handful.data.base",
    "Order": "handful.batches.order",
    "Batches": "handful.batches.batches",
    "Grouped": "handful.batches.grouped",
    "Loader": "handful.batches.loader",
    "HandfulError": "handful.base.errors",
}
_MODULES = {
    "stop": "handful.training.watch.stop",
    "schedule": "handful.optim.schedule",
    "augment": "handful.transform.augment",
    "preprocess": "handful.transform",
    "model": "handful.models",
    "loss": "handful.losses.loss",
    "metric": "handful.losses.metric",
    "callback": "handful.report.tracking",
    "sklearn": "handful.sklearn",
}

__all__ = ["__version__", *_NAMES, *_MODULES]

if TYPE_CHECKING:  # what the lazy names below are, for type checkers
    from handful import models as model
    from handful import sklearn
    from handful import transform as preprocess
    from handful.base.errors import HandfulError
    from handful.batches.batches import Batches
    from handful.batches.grouped import Grouped
    from handful.batches.loader import Loader
    from handful.batches.order import Order
    from handful.compare.compare import compare
    from handful.data.base import Batch, Source
    from handful.data.open import open
    from handful.data.store.prepare import prepare
    from handful.fit import fit, load, replay, resume
    from handful.losses import loss, metric
    from handful.optim import schedule
    from handful.plan.advise import advise
    from handful.report import tracking as callback
    from handful.runs.run import Run
    from handful.training.watch import stop
    from handful.transform import augment


def __getattr__(name: str) -> object:
    if name in _NAMES:
        value = getattr(import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'handful' has no attribute '{name}'")
    globals()[name] = value
    return value


class _Package(ModuleType):
    """`handful.fit` and `handful.compare` are the functions although modules of those names hold them, whichever is
    imported first."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and name in _NAMES:
            return  # the name stays free for the function: see `__getattr__`
        super().__setattr__(name, value)


class _Modules(abc.MetaPathFinder, abc.Loader):
    """`from handful.schedule import cosine` is of the module that `handful.schedule` is."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        package, _, public = name.rpartition(".")
        return ModuleSpec(name, self) if package == __name__ and _MODULES.get(public, name) != name else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_MODULES[spec.name.rpartition(".")[2]])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # its own


sys.modules[__name__].__class__ = _Package
sys.meta_path.append(_Modules())


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
