"""Cnn and resnet: for pictures of any size from 4 x 4 and any number of channels."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from handful.model.base import Model, Shape, fixed


class Cnn(Model):
    """A small network that is fast on two CPU cores: a strided stem and two or three 3 x 3 convolutions.

    x: float [m, channels, H, W] (or [m, H, W]). Returns [m, outputs]. Widths are width, 2, 4 and (if depth is 3) 4
    times width. Pooling stands before normalisation and activation, which costs them a quarter (as in airbench).
    The stem steps over `stride` pixels, so that about 16 x 16 places are left of any picture. Memory is channels-last.
    Parameters for 3 x 32 x 32 and 10 classes: 54,298 (width 24); 1 x 8 x 8 and 10 classes: 53,362.

    >>> Cnn(channels=1, outputs=10, stride=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    name = "cnn"
    kinds = ("image",)

    def __init__(
        self, channels: int, outputs: int, stride: int = 2, width: int = 24, depth: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__(channels=channels, outputs=outputs, stride=stride, width=width, depth=depth, dropout=dropout)
        self.stem = _stem(channels, width, stride)
        widths = [width, 2 * width] + [4 * width] * max(0, depth - 1)
        self.stages = nn.ModuleList(Stage(a, b, pool=k < 2) for k, (a, b) in enumerate(pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(widths[-1], outputs)

    @classmethod
    def arguments(cls, kind: str, shape: Shape, outputs: int, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return _picture(cls.name, shape, outputs, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(_channels_last(x))
        for stage in self.stages:
            x = stage(x)
        return self.out(self.dropout(x.amax((2, 3))))  # type: ignore[no-any-return]


class Resnet(Model):
    """A residual network for small pictures, after Page 2018 ("How to train your ResNet", DAWNBench's ResNet-9).

    x: float [m, channels, H, W] (or [m, H, W]). Returns [m, outputs]. A stem, then for each further width a
    convolution with pooling and `depth` residual blocks of two convolutions. drop_path: the probability to skip a
    residual block, for each row, rising linearly to this value at the last (stochastic depth, Huang et al. 2016,
    arXiv:1603.09382). Parameters for 3 x 32 x 32, 10 classes: 3,620,938.

    >>> Resnet(channels=3, outputs=10, widths=[8, 16])(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    name = "resnet"
    kinds = ("image",)

    def __init__(
        self,
        channels: int,
        outputs: int,
        stride: int = 1,
        widths: Sequence[int] = (64, 128, 256, 256),
        depth: int = 1,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(
            channels=channels, outputs=outputs, stride=stride, widths=list(widths), depth=depth, dropout=dropout,
            drop_path=drop_path,
        )  # fmt: skip
        self.stem = _stem(channels, widths[0], stride)
        layers: list[nn.Module] = []
        blocks = depth * (len(widths) - 1)
        for before, width in pairwise(widths):
            layers.append(Stage(before, width, pool=True))
            for _ in range(depth):
                k = sum(isinstance(layer, Residual) for layer in layers) + 1
                layers.append(Residual(width, drop_path * k / blocks))
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(widths[-1], outputs)

    @classmethod
    def arguments(cls, kind: str, shape: Shape, outputs: int, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return _picture(cls.name, shape, outputs, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.stem(_channels_last(x)))
        return self.out(self.dropout(x.amax((2, 3))))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """Convolution 3 x 3, 2 x 2 max-pooling where at least 4 x 4 places are there, BatchNorm, ReLU."""

    def __init__(self, before: int, width: int, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2) if pool else None
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.pool is not None and min(x.shape[2:]) >= 4:
            x = self.pool(x)
        out: Tensor = torch.relu_(self.norm(x))
        return out


class Residual(nn.Module):
    """x + ReLU(norm(conv(ReLU(norm(conv(x)))))), skipped for a row with probability `drop` while training."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.first, self.second = Stage(width, width, pool=False), Stage(width, width, pool=False)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        change = self.second(self.first(x))
        if self.training and self.drop > 0:
            keep = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
            change = change * keep / (1 - self.drop)
        out: Tensor = x + change
        return out


def _stem(channels: int, width: int, stride: int) -> nn.Sequential:
    """The first convolution: 3 x 3, or windows of twice the stride that overlap by half."""
    kernel, padding = (3, 1) if stride == 1 else (2 * stride, stride // 2)
    conv = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def _channels_last(x: Tensor) -> Tensor:
    """[m, H, W] or [m, C, H, W] as [m, C, H, W] with channels innermost: about 1.3 times faster convolutions."""
    return (x[:, None] if x.dim() == 3 else x).contiguous(memory_format=torch.channels_last)


def _picture(name: str, shape: Shape, outputs: int, places: int) -> dict[str, Any]:
    """Arguments for pictures; the stride, a power of two, leaves at least `places` places on the shorter side."""
    sides = fixed(name, shape, (2, 3), "pictures [channels, height, width] of one size")
    side = min(sides[-2:])
    stride = 2 ** max(0, int(math.log2(side / places)))
    return {"channels": sides[0] if len(sides) == 3 else 1, "outputs": outputs, "stride": stride}
