"""What the ready-made models share: a config that rebuilds them, and weights that come from a seed."""

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError, did_you_mean
from handful.base.keys import IN_TURN

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Inputs:
    """What a model is called with.

    kind: image, vector, table, text, audio, language or tensor; or "named" for several. names: the batch
    columns, ("x",) or the model's keyword arguments. shape: of one row, None where it varies from batch to
    batch. n_numbers, cardinalities: of a table; counts: training rows of each id of a category; vocabulary: number of
    ids; max_length: of a row of ids or frames; channels, size: of pictures; mels, rate: of sound.
    """

    kind: str
    names: tuple[str, ...] = ("x",)
    shape: Shape = ()
    n_numbers: int = 0
    cardinalities: tuple[int, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()
    vocabulary: int = 0
    max_length: int = 0
    channels: int = 0
    size: tuple[int, int] = (0, 0)
    mels: int = 0
    rate: int = 0

    @classmethod
    def of(cls, kind: str, shape: Shape, known: "Inputs | Mapping[str, Any] | None") -> "Inputs":
        """Those of this kind and shape, of which more is known."""
        if isinstance(known, Inputs):
            return replace(known, kind=kind, shape=tuple(shape))
        return cls(kind, shape=tuple(shape), **(known or {}))


class Dropout(nn.Dropout):
    """nn.Dropout, but on a CPU a byte is drawn for each number, not more: that was two fifths of a step of the table
    model. p is met within 1/512, the mean exactly: what is kept, in so many of 256 cases, is divided by that share.

    >>> Dropout(0.1)(torch.ones(100_000)).mean().round(decimals=1)
    tensor(1.)
    """

    def forward(self, x: Tensor) -> Tensor:
        kept = round(256 * (1 - self.p))
        if not self.training or x.device.type != "cpu" or not 0 < kept < 256 or torch.compiler.is_compiling():
            return super().forward(x)
        drawn = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None).view(torch.uint8)
        mask = torch.lt(drawn[: x.numel()].view(x.shape), kept, out=torch.empty_like(x))
        return x * mask.mul_(256 / kept)


class Model(nn.Module):
    """A plain nn.Module whose constructor takes JSON-able keyword arguments and keeps them in `config`.

    name: as in `build`. kinds: the kinds of input it is for, as `Inputs.kind`. low_precision:
    whether it trains as well in bfloat16 (torch.autocast), so that speed may decide. adamw_l2: AdamW's weight decay
    where the user leaves it open (None: the optimizer's default), and the reason. ema: the decay of averaged weights
    where the user leaves it open (None: no average). members: how many outputs a row has while training, one after the
    other, each to be right by itself; the loss of a row is their mean. In evaluation mode a row has one output.
    fills_up: whether it sees to `sixteens` by itself, as it makes many rows of one.
    """

    name: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ()
    low_precision: ClassVar[bool] = False
    adamw_l2: ClassVar[float | None] = None
    adamw_l2_reason: ClassVar[str] = ""
    ema: ClassVar[float | None] = None
    fills_up: ClassVar[bool] = False
    members: int = 1
    config: dict[str, Any]

    def __init__(self, given: Mapping[str, object]) -> None:
        """given: the local names of the constructor, its arguments among them."""
        super().__init__()
        arguments = {name: given[name] for name in inspect.signature(type(self).__init__).parameters if name != "self"}
        self.config = {"model": self.name, **{name: _plain(value) for name, value in arguments.items()}}

    def begin(self, x: Any) -> None:
        """Look at some training rows, as the model gets them, before the first step; most models need not."""

    @classmethod
    def arguments(cls, inputs: Inputs, outputs: int, rows: int | None) -> dict[str, object]:
        """The constructor's arguments that the data decide. Raises HandfulError if the model is not for such data."""
        raise NotImplementedError


def is_ours(module: nn.Module) -> bool:
    """Whether its class is handful's own, which holds nothing aside and hides nothing: not a subclass of one."""
    return type(module).__module__.startswith("handful.")


def ready_made(model: nn.Module) -> bool:
    """Whether it is handful's own with nothing of the caller's in it: all its layers are handful's or torch's."""
    parts = model.modules()
    return is_ours(model) and all(is_ours(part) or type(part).__module__.startswith("torch.") for part in parts)


def _plain(value: object) -> object:
    """As JSON gives it back."""
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def sixteens(x: Tensor) -> Tensor:
    """The rows of x [m, ...], the last one repeated up to a multiple of 16: among so many a row has the same bits as
    among all. Products of matrices have kernels of their own for few rows, and what is left over from whole vector
    registers is computed apart (torch 2.13 on x86).

    >>> sixteens(torch.zeros(5, 3)).shape
    torch.Size([16, 3])
    """
    more = -len(x) % 16
    return torch.cat([x, x[-1:].expand(more, *x.shape[1:])]) if more else x


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's CPU random numbers from `seed` inside; outside they go on as if nothing had happened.

    >>> with seeded(0):
    ...     a = torch.rand(1)
    >>> with seeded(0):
    ...     b = torch.rand(1)
    >>> bool(a == b)
    True
    """
    with IN_TURN, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach other devices too
        yield


def fixed(name: str, shape: Shape, dims: tuple[int, ...], of: str) -> tuple[int, ...]:
    """The shape of a row, checked to have no varying side and one of `dims` dimensions (none: any)."""
    known = tuple(s for s in shape if s is not None)
    if len(known) < len(shape) or (dims and len(shape) not in dims):
        sides = " x ".join("any" if s is None else str(s) for s in shape) or "a single number"
        raise HandfulError(f"model {name} needs rows of {of}; these have shape {sides}")
    return known


def numbers_per_row(name: str, inputs: Inputs) -> int:
    """The `features` of a model of whole rows."""
    return inputs.n_numbers if inputs.kind == "table" else math.prod(fixed(name, inputs.shape, (), "one fixed shape"))


def activation(name: str) -> nn.Module:
    """The module of an activation function: relu, gelu, silu, tanh, logistic or identity."""
    known: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid,
        "identity": nn.Identity,
    }  # fmt: skip
    if name not in known:
        raise HandfulError(f"there is no activation '{name}'.{did_you_mean(name, known)}")
    return known[name]()
