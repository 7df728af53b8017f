"""Steps for numbers, categories and pictures. All statistics are float64 and of the training rows only."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Ragged
from handful.data.gather import Array
from handful.transform.steps.statistics import Moments, Scaling, inverse, known_values
from handful.transform.steps.step import Names, Step, listed


@dataclass(frozen=True, eq=False)
class Standardize(Step[Tensor]):
    """(x - mean) / std per feature; population std (divided by n); a constant feature becomes 0.

    clip: results are cut to -clip..clip. fill: NaN becomes 0, the mean; else it stays NaN. Values are [m,
    features...]; float64 stays float64, all else gives float32.

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> Standardize().fit([x])(x).tolist()
    [[-1.0], [1.0]]
    """

    clip: float | None = None
    fill: bool = False
    mean: Tensor | None = None
    std: Tensor | None = None
    gaps: int = 0  # missing values in the training rows

    def learn(self, chunks: Iterator[Tensor]) -> Self:
        return self.of(Moments(chunks))

    def of(self, moments: Moments) -> Self:
        """Fitted with moments that were already summed."""
        if moments.gaps and not moments.count.any():
            raise HandfulError(
                "every value of the inputs is missing in the training rows: there is nothing to learn from"
            )
        return replace(self, mean=moments.mean, std=moments.std, gaps=moments.gaps)

    @functools.cached_property
    def _affine(self) -> Scaling:
        return Scaling(self.fitted(self.mean), inverse(self.fitted(self.std)))

    def __call__(self, value: Tensor) -> Tensor:
        x = self._affine(value)
        if self.fill:
            x = x.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        return x if self.clip is None else x.clamp_(-self.clip, self.clip)

    def notes(self, names: Names = None) -> list[str]:
        constant = (self.fitted(self.std).flatten() == 0).nonzero().flatten().tolist()
        clip = f", cut to {self.clip:g} standard deviations" if self.clip else ""
        found = [f"Numbers are standardised with the training mean and standard deviation{clip}."]
        if self.gaps and self.fill:
            found.append(f"{self.gaps:,} missing values are replaced by the feature's training mean.")
        if constant:
            what = "feature" if len(constant) == 1 else f"{len(constant)} features"
            found.append(f"Constant in the training rows, so set to 0: {what} {listed(constant, names)}.")
        return found


@dataclass(frozen=True, eq=False)
class MinMax(Step[Tensor]):
    """Scaled per feature so that the training rows span low..high; a constant feature becomes `low`.

    Rows outside the training range land outside low..high.

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> MinMax().fit([x])(torch.tensor([[2.0]])).item()
    0.5
    """

    low: float = 0.0
    high: float = 1.0
    minimum: Tensor | None = None
    maximum: Tensor | None = None

    def learn(self, chunks: Iterator[Tensor]) -> Self:
        if not self.low < self.high:
            raise HandfulError(f"MinMax needs low < high, not low={self.low}, high={self.high}")
        moments = Moments(chunks)
        seen = moments.count > 0
        return replace(self, minimum=torch.where(seen, moments.low, 0.0), maximum=torch.where(seen, moments.high, 0.0))

    @functools.cached_property
    def _affine(self) -> Scaling:
        minimum, maximum = self.fitted(self.minimum), self.fitted(self.maximum)
        return Scaling(minimum, (self.high - self.low) * inverse(maximum - minimum))

    def __call__(self, value: Tensor) -> Tensor:
        return self._affine(value) + self.low


@dataclass(frozen=True, eq=False)
class Normalize(Step[Tensor]):
    """Each row divided by its norm ("l2", "l1" or "max") over all its features; a row of zeros stays zeros.

    >>> Normalize()(torch.tensor([[3.0, 4.0]])).tolist()
    [[0.6..., 0.8...]]
    """

    norm: str = "l2"

    def __call__(self, value: Tensor) -> Tensor:
        orders = {"l2": 2.0, "l1": 1.0, "max": float("inf")}
        if self.norm not in orders:
            raise HandfulError(f"Normalize knows the norms l2, l1 and max, not {self.norm!r}")
        x = value if value.is_floating_point() else value.float()
        length = torch.linalg.vector_norm(x.flatten(1), orders[self.norm], dim=1).view(-1, *[1] * (x.dim() - 1))
        return x / torch.where(length > 0, length, 1)


@dataclass(frozen=True, eq=False)
class Impute(Step[Tensor]):
    """NaN replaced by the feature's median over the training rows.

    Rows [m, features] also get one more feature (0 or 1) for each feature that had missing values in
    training.

    The median is exact up to 20 million values (rows x features), of a uniform keyed sample of rows beyond.

    >>> x = torch.tensor([[1.0], [3.0], [float("nan")]])
    >>> Impute().fit([x])(x).tolist()
    [[1.0, 0.0], [3.0, 0.0], [2.0, 1.0]]
    """

    indicator: bool = True
    median: Tensor | None = None
    missing: Tensor | None = None  # int64: the flat features that had missing values

    def learn(self, chunks: Iterator[Tensor]) -> Self:
        first = next(chunks, None)
        if first is None:
            raise HandfulError("Impute cannot be fitted on no rows")
        known, missing = known_values(chunk[:, None].flatten(1) for chunk in itertools.chain([first], chunks))
        medians = torch.tensor([float(np.median(c)) if len(c) else 0.0 for c in known], dtype=torch.float64)
        return replace(
            self, median=medians.view(first.shape[1:]), missing=torch.from_numpy(missing).nonzero().flatten()
        )

    def fill(self, value: Tensor) -> Tensor:
        """NaN replaced by medians, without the added features."""
        if not value.is_floating_point():
            return value
        return torch.where(torch.isnan(value), self.fitted(self.median).to(value), value)

    def flags(self, value: Tensor) -> Tensor:
        """The added features of value [m, features]: 1 where missing, float32 [m, how many]."""
        return torch.isnan(value[:, self.fitted(self.missing).to(value.device)]).to(torch.float32)

    def __call__(self, value: Tensor) -> Tensor:
        filled = self.fill(value)
        if not self.indicator or value.dim() != 2 or not len(self.fitted(self.missing)):
            return filled
        return torch.cat([filled, self.flags(value).to(filled.dtype)], dim=1)

    def notes(self, names: Names = None) -> list[str]:
        which = listed(self.fitted(self.missing).tolist(), names)
        return [f"Missing values are replaced by the training median, and flagged: {which}."] if which else []


@dataclass(frozen=True, eq=False)
class Whiten(Step[Tensor]):
    """Principal components, each scaled to variance 1: (x - mean) @ V / sqrt(eigenvalue).

    components: how many to keep (all by default). Values [m, features...] are flattened; the result is
    [m, components]. The covariance is divided by n - 1; each component's largest weight is positive, both as
    scikit-learn's PCA(whiten=True). Directions without variance become 0.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> torch.cov(Whiten().fit([x])(x).T).allclose(torch.eye(3).double())
    True
    """

    components: int | None = None
    mean: Tensor | None = None
    matrix: Tensor | None = None

    def learn(self, chunks: Iterator[Tensor]) -> Self:
        count, mean, scatter = 0, torch.zeros(()), torch.zeros(())
        for chunk in chunks:
            x = chunk.to(torch.float64).flatten(1)
            if not len(x):
                continue
            total, delta = count + len(x), x.mean(0) - mean
            centred = x - x.mean(0)
            scatter = scatter + centred.T @ centred + torch.outer(delta, delta) * (count * len(x) / total)
            mean, count = mean + delta * (len(x) / total), total
        if count < 2 or not torch.isfinite(scatter).all():
            raise HandfulError("Whiten needs at least two rows, without missing or infinite values")
        values, vectors = torch.linalg.eigh(scatter / (count - 1))
        values, vectors = values.flip(0), vectors.flip(1)
        keep = len(values) if self.components is None else self.components
        if not 1 <= keep <= len(values):
            raise HandfulError(f"Whiten can keep 1 to {len(values)} components, not {keep}")
        largest = vectors.abs().argmax(0)
        vectors = vectors * vectors[largest, torch.arange(len(values))].sign()
        flat = values <= values[0] * len(values) * torch.finfo(torch.float64).eps
        matrix = vectors * inverse(torch.where(flat, 0.0, values).sqrt())
        return replace(self, mean=mean, matrix=matrix[:, :keep].contiguous())

    def __call__(self, value: Tensor) -> Tensor:
        matrix, mean = self.fitted(self.matrix).to(value.device), self.fitted(self.mean).to(value.device)
        result = torch.float64 if value.dtype == torch.float64 else torch.float32
        whitened: Tensor = (value.flatten(1).to(torch.float64) - mean) @ matrix
        return whitened.to(result)


@dataclass(frozen=True, eq=False)
class ScaleImage(Step[Tensor]):
    """Pictures [m, channels, height, width] to float32: (x / 255 - mean) / std, mean and std per channel.

    uint8 is divided by 255, other whole numbers by `most`, the largest in the training rows, without its sign; pictures
    of floats are not. standardize=False only divides. Sums over bytes are made in integers, so that they are exact.
    Missing values (NaN) become 0, the mean, where the training rows lack some, which is noted; elsewhere they stay.

    >>> deep = torch.tensor([0, 1000, 3000, 4000], dtype=torch.int32).view(1, 1, 2, 2)
    >>> ScaleImage(standardize=False).fit([deep])(deep // 2).flatten().tolist()
    [0.0, 0.125, 0.375, 0.5]
    """

    standardize: bool = True
    mean: Tensor | None = None  # of x / divisor, float64 [channels]
    std: Tensor | None = None
    most: float = 1.0
    gaps: int = 0  # missing values in the training rows

    def learn(self, chunks: Iterator[Tensor]) -> Self:
        moments, most, values = Moments(), 1.0, 0
        for chunk in filter(len, chunks):
            channels = chunk.transpose(0, 1).flatten(1)
            values += channels.numel()
            if chunk.dtype == torch.uint8:
                count = torch.full((len(channels),), float(channels.shape[1]), dtype=torch.float64)
                wide = channels.to(torch.int32)
                total, squares = wide.sum(1).double(), (wide * wide).sum(1).double()
                deviations = (squares - total * total / count) / 255**2
                moments.join(count, total / count / 255, deviations, wide.amin(1) / 255.0, wide.amax(1) / 255.0)
            else:
                moments.update(channels.T)
                if not chunk.is_floating_point():
                    most = float(torch.maximum(moments.high.abs(), moments.low.abs()).max()) or 1.0
        gaps = values - int(moments.count.sum())
        if values and not moments.count.all():
            raise HandfulError("a channel of the pictures holds NaN alone in all training rows; leave it out")
        return replace(self, mean=moments.mean, std=moments.std, most=most, gaps=gaps)

    @functools.cached_property
    def _affine(self) -> dict[bool, Scaling]:
        """By whether they are bytes."""
        mean, scale = self.fitted(self.mean).view(-1, 1, 1), inverse(self.fitted(self.std)).view(-1, 1, 1)
        return {False: Scaling(mean, scale), True: Scaling(mean * 255, scale / 255)}

    def __call__(self, value: Tensor) -> Tensor:
        if value.dtype in (torch.int8, torch.int16):  # so that the same numbers in a wider type give the same bits
            value = value.to(torch.int32)
        if not self.standardize:
            most = 255.0 if value.dtype == torch.uint8 else self.most
            wide = torch.float64 if value.dtype in (torch.int32, torch.int64) else torch.float32
            return value.to(wide).div(most).to(torch.float32) if most != 1 else value.to(torch.float32)
        x = self._affine[value.dtype == torch.uint8](value).to(torch.float32)
        return x.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf) if value.is_floating_point() else x

    def notes(self, names: Names = None) -> list[str]:
        if not self.standardize:
            return [f"Pictures are scaled from 0..{255 if self.most == 1 else self.most:g} to 0..1."]
        mean, std = (", ".join(f"{v:.3f}" for v in t.tolist()) for t in (self.fitted(self.mean), self.fitted(self.std)))
        found = [f"Pictures are standardised per channel (training mean {mean}; standard deviation {std})."]
        return found + ([f"{self.gaps:,} missing values become the channel's training mean."] if self.gaps else [])


def index_of(values: Array, known: Array) -> NDArray[np.int64]:
    """Where each value stands in `known`, which is sorted; -1 where it does not.

    >>> index_of(np.array([3, 1, 2]), np.array([1, 3]))
    array([ 1,  0, -1])
    """
    if not len(known):
        return np.full(len(values), -1, dtype=np.int64)
    at = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[at] == values, at, -1)


def padded(values: Tensor, lengths: Tensor, fill: int = 0) -> Tensor:
    """Rows of these lengths, joined in `values` [total, ...], as one block [m, T, ...], with `fill` behind the end of a
    row; T: the longest, at least 1."""
    longest = max(1, int(lengths.max())) if len(lengths) else 1
    out = values.new_full((len(lengths), longest, *values.shape[1:]), fill)
    out[torch.arange(longest) < lengths[:, None]] = values
    return out


@dataclass(frozen=True, eq=False)
class PadRows(Step[Ragged | Tensor]):
    """Rows of different lengths (a Ragged [T, ...]) as one block [m, T, ...], with 0 behind the end of a row, to the
    longest of the batch.

    >>> PadRows()(Ragged(torch.ones(3, 2), torch.tensor([0, 1, 3])))[:, :, 0]
    tensor([[1., 0.],
            [1., 1.]])
    """

    @property
    def varies(self) -> bool:
        return True

    def __call__(self, value: Ragged | Tensor) -> Tensor:
        if isinstance(value, Tensor):  # rows of other data that happen to be of one length
            return value
        return padded(value.values, value.offsets.diff())
