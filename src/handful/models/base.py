"""What the ready-made models share: a config that rebuilds them, and weights that come from a seed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError, did_you_mean
from handful.base.keys import IN_TURN

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class InputFacts:
    """What models want to know of their input (see `handful.transform.inputs.Inputs`), and the rows to train on."""

    n_numbers: int = 0
    cardinalities: Sequence[int] = ()
    counts: Sequence[Sequence[int]] = ()
    vocabulary: int = 0
    mels: int = 0
    rows: int | None = None

    @classmethod
    def of(cls, inputs: object, rows: int | None = None) -> "InputFacts":
        """Those of an `Inputs`, or of a mapping with the same keys."""
        found = inputs if isinstance(inputs, Mapping) else vars(inputs) if inputs is not None else {}
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in found.items() if key in known} | {"rows": rows})


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

    def __init__(self, **arguments: object) -> None:
        super().__init__()
        self.config = {"model": self.name, **arguments}

    def begin(self, x: Any) -> None:
        """Look at some training rows, as the model gets them, before the first step; most models need not."""

    @classmethod
    def arguments(cls, kind: str, shape: Shape, outputs: int, facts: InputFacts) -> dict[str, object]:
        """The constructor's arguments that the data decide. Raises HandfulError if the model is not for such data."""
        raise NotImplementedError


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


def activation(name: str) -> nn.Module:
    """The module of an activation function: relu, gelu, silu, tanh, logistic or identity."""
    known: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid,
        "identity": nn.Identity,
    }  # fmt: skip
    if name not in known:
        raise HandfulError(f"there is no activation '{name}'.{did_you_mean(name, known)}")
    return known[name]()
