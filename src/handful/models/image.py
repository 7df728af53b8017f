"""Cnn and resnet: for pictures of any size from 4 x 4 and any number of channels."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.models.base import Dropout, Inputs, Model, fixed

STEM = 24  # channels after the first convolution
PATCHES = 100_000  # that the covariance of a whitening is taken from, about


class Pictures(Model):
    """What cnn and resnet share. views: how many views of a picture an output in evaluation mode is a mean over
    (test-time augmentation), for models that were trained on such views: 1, the picture alone; 2, also its mirror
    image; 6, also both moved by a pixel up and left, and down and right, half the weight on the two that were not moved
    (Jordan 2024, arXiv:2404.00498, section 3.5)."""

    kinds = ("image",)
    low_precision = True
    positions: ClassVar[int]  # that the stem leaves on the shorter side, at least

    def __init__(self, views: int, given: Mapping[str, object]) -> None:
        super().__init__(given)
        if views not in (1, 2, 6):
            raise HandfulError(f"views must be 1, 2 or 6, not {views!r}")
        self.views = views

    @classmethod
    def arguments(cls, inputs: Inputs, outputs: int, rows: int | None) -> dict[str, object]:
        """Channels, outputs, and a stride, a power of two, after which `positions` are left on the shorter side."""
        sides = fixed(cls.name, inputs.shape, (2, 3), "pictures [channels, height, width] of one size")
        stride = 2 ** max(0, int(math.log2(min(sides[-2:]) / cls.positions)))
        return {"channels": sides[0] if len(sides) == 3 else 1, "outputs": outputs, "stride": stride}

    def forward(self, x: Tensor) -> Tensor:
        x = _channels_last(x)
        if self.training or self.views == 1:
            return self.scores(x)
        if self.views == 2:
            return self._both(x)
        wide = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
        moved = self._both(_channels_last(wide[..., :-2, :-2])) + self._both(_channels_last(wide[..., 2:, 2:]))
        return self._both(x) / 2 + moved / 4

    def _both(self, x: Tensor) -> Tensor:
        """The mean score of the pictures and their mirror images."""
        return (self.scores(x) + self.scores(x.flip(-1))) / 2

    def scores(self, x: Tensor) -> Tensor:
        """[m, channels, H, W], channels-last in memory -> [m, outputs]."""
        raise NotImplementedError


class Cnn(Pictures):
    """A small network for small or few pictures: a strided stem and two or three 3 x 3 convolutions.

    x: float [m, channels, H, W] (or [m, H, W]). Returns [m, outputs]. Widths are width, 2, 4 and (if depth is 3) 4
    times width. Pooling stands before normalisation and activation, which costs them a quarter (as in airbench).
    The stem steps over `stride` pixels, so about 16 x 16 positions are left of any picture. Memory is channels-last.
    Parameters for 3 x 32 x 32 and 10 classes: 54,298 (width 24); 1 x 8 x 8 and 10 classes: 53,362.

    >>> Cnn(channels=1, outputs=10, stride=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    name = "cnn"
    positions = 16

    def __init__(
        self,
        channels: int,
        outputs: int,
        stride: int = 2,
        width: int = 24,
        depth: int = 2,
        dropout: float = 0.0,
        views: int = 1,
    ) -> None:
        super().__init__(views, locals())
        self.stem = _stem(channels, width, stride)
        widths = [width, 2 * width] + [4 * width] * max(0, depth - 1)
        self.stages = nn.ModuleList(
            PooledConv(a, b, nn.ReLU(), pool=k < 2) for k, (a, b) in enumerate(pairwise(widths))
        )
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(widths[-1], outputs)

    def scores(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.out(self.dropout(x.amax((2, 3))))  # type: ignore[no-any-return]


class Resnet(Pictures):
    """A residual network for pictures: airbench's widths, pooling and partial identity at the start (Jordan 2024,
    arXiv:2404.00498), with residual blocks (He et al. 2016).

    x: float [m, channels, H, W] (or [m, H, W]). Returns [m, outputs]. A stem, then for each width a convolution with
    pooling and `depth` residual blocks of one convolution. The stem steps over `stride` pixels, so about 32 x 32
    positions are left; with `whiten` it is a fixed whitening of the patches under it (see `Whitening`), set by `begin`.
    drop_path: the probability to skip a residual block, for each row, rising linearly to this value at the last
    (stochastic depth, Huang et al. 2016, arXiv:1603.09382). Parameters for 3 x 32 x 32, 10 classes: 1,973,186; with
    widths 32, 128, 128: 498,498.

    >>> Resnet(channels=3, outputs=10, widths=[8, 16])(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    name = "resnet"
    positions = 32
    # Of a convolution before a BatchNorm only the direction counts; decay keeps its length down, so that steps still
    # turn it (van Laarhoven 2017, arXiv:1706.05350).
    adamw_l2 = 0.3
    adamw_l2_reason = "before a BatchNorm, decay only keeps the steps large relative to the weights"

    def __init__(
        self,
        channels: int,
        outputs: int,
        stride: int = 1,
        widths: Sequence[int] = (64, 256, 256),
        depth: int = 1,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        views: int = 1,
        whiten: bool = False,
    ) -> None:
        super().__init__(views, locals())
        whitening = Whitening(channels, stride) if whiten else None
        self.stem = whitening or _stem(channels, STEM, stride)
        layers: list[nn.Module] = []
        blocks = depth * len(widths)
        for k, (before, width) in enumerate(pairwise([whitening.width if whitening else STEM, *widths])):
            stage = PooledConv(before, width, nn.GELU(), pool=True)
            nn.init.dirac_(stage.conv.weight.data[:before])  # what there is passes through at first; the rest is new
            layers.append(stage)
            layers += [ResidualConv(width, drop_path * (k * depth + d + 1) / blocks) for d in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(widths[-1], outputs)

    def begin(self, x: Tensor) -> None:
        if isinstance(self.stem, Whitening):
            self.stem.fit(_channels_last(x))

    def scores(self, x: Tensor) -> Tensor:
        x = self.layers(self.stem(x))
        return self.out(self.dropout(x.amax((2, 3))))  # type: ignore[no-any-return]


class Whitening(nn.Module):
    """Patches of 2 x 2 pixels (of twice the stride) along the directions in which they vary most, each scaled to
    variance 1 and taken with both signs, then GELU: a first convolution that is computed from the training rows and not
    trained, but for its bias. A network after it needs fewer than half of the steps (Jordan 2024, arXiv:2404.00498,
    section 3.2). width: the output channels, at most 24.

    >>> Whitening(3, 1)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 24, 31, 31])
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        kernel = 2 * stride
        self.width = 2 * min(STEM // 2, channels * kernel**2)
        self.conv = nn.Conv2d(channels, self.width, kernel, stride)
        self.conv.weight.requires_grad_(False)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.conv(x))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set the weights from pictures [m, channels, H, W]; patches that are not finite do not count, and where there
        are no others the weights stay: the first step names the rows."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        places = ((x.shape[2] - kernel) // stride + 1) * ((x.shape[3] - kernel) // stride + 1)
        some = x[: max(1, PATCHES // places)].float()
        patches = nn.functional.unfold(some, kernel, stride=stride).transpose(1, 2).flatten(0, 1).cpu().double()
        patches = patches[patches.isfinite().all(1)]
        if not len(patches):
            return
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))  # in rising order
        half = self.width // 2
        scaled = vectors[:, -half:] / torch.sqrt(values[-half:].clamp_min(0) + 5e-4)  # as there: noise stays small
        weight = torch.cat([scaled, -scaled], dim=1).T.reshape(self.conv.weight.shape)
        self.conv.weight.copy_(weight)


class PooledConv(nn.Module):
    """Convolution 3 x 3, 2 x 2 max-pooling where at least 4 x 4 positions are there, BatchNorm, an activation."""

    def __init__(self, before: int, width: int, activation: nn.Module, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2) if pool else None
        self.norm = nn.BatchNorm2d(width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.pool is not None and min(x.shape[2:]) >= 4:
            x = self.pool(x)
        out: Tensor = self.activation(self.norm(x))
        return out


class ResidualConv(nn.Module):
    """x + GELU(norm(conv(x))), the change skipped for a row with probability `drop` while training."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.change = PooledConv(width, width, nn.GELU(), pool=False)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        change = self.change(x)
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
