"""Whether it helps to mirror pictures, found on training pictures before any is flipped."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 800  # half of them teach, half are asked
FEWEST = 100  # rows to tell by
SIDE = 16  # pixels that are looked at
RIDGES = (0.01, 0.1, 1.0, 3.0)


class Mirrored(NamedTuple):
    """What a small model explains of the targets of pictures that it has not seen, taught on pictures as they are and
    with their mirror images: R^2 (of the classes as zeros and ones), at most 1; whether mirror images do
    harm: it is less with them, by more than the standard error; of how many pictures."""

    straight: float
    mirrored: float
    harms: bool
    rows: int


def mirrored(x: Tensor, y: Tensor, classes: int | None) -> Mirrored | None:
    """Teach kernel ridge regression on half of the pictures, then on these and their mirror images, and ask the others.

    x: float [m, C, H, W]; y: int64 [m] with the number of classes, or float [m] or [m, k]. The kernel is Gaussian, at
    the median distance (Hastie, Tibshirani and Friedman 2009, section 5.8), on pictures of 16 x 16 with mean 0 and
    deviation 1, the ridge the best of four for each. None where too few rows, or targets of another form, can tell
    nothing.

    >>> y = torch.arange(200) % 2
    >>> x = torch.arange(8.0) + torch.rand(200, 1, 8, 8)  # brighter to the right, or to the left
    >>> x[y == 1] = x[y == 1].flip(-1)
    >>> mirrored(x, y, 2).harms
    True
    """
    if y.dim() not in (1, 2) or x.dim() != 4 or not x.is_floating_point():
        return None
    known = (y >= 0 if classes and y.dim() == 1 else torch.isfinite(y)).reshape(len(y), -1).all(1)
    x, y = x[known].cpu().double(), y[known].cpu()
    if len(x) < max(FEWEST, 2 * (classes or 0)):  # or a class has no row on each side
        return None
    target = torch.nn.functional.one_hot(y.long(), classes) if classes and y.dim() == 1 else y.reshape(len(y), -1)
    half = len(x) // 2
    target = target.double() - target[:half].double().mean(0)
    small = torch.nn.functional.adaptive_avg_pool2d(x, SIDE) if min(x.shape[-2:]) > SIDE else x
    small = small - small.mean((1, 2, 3), keepdim=True)
    small = small / small.std((1, 2, 3), keepdim=True).clamp_min(1e-6)
    taught, asked = small[:half], small[half:].flatten(1)
    width = torch.cdist(taught.flatten(1), taught.flatten(1)).square().median().clamp_min(1e-12)

    def errors(pictures: Tensor, means: Tensor) -> Tensor:
        pictures = pictures.flatten(1)
        values, vectors = torch.linalg.eigh(torch.exp(-torch.cdist(pictures, pictures).square() / width))
        near = torch.exp(-torch.cdist(asked, pictures).square() / width) @ vectors
        answers = [near @ ((vectors.T @ means) / (values + ridge).unsqueeze(1)) for ridge in RIDGES]
        wrong = torch.stack([(a - target[half:]).square().sum(1) for a in answers])
        return wrong[int(wrong.sum(1).argmin())]

    straight = errors(taught, target[:half])
    both = errors(torch.cat([taught, taught.flip(-1)]), target[:half].repeat(2, 1))
    whole = target[half:].square().sum(1)
    harms = _surely(whole - straight, 2.0) and _surely(both - straight, 1.0)
    explained = [float(1 - e.sum() / whole.sum().clamp_min(1e-12)) for e in (straight, both)]
    return Mirrored(explained[0], explained[1], harms, len(x))


def _surely(differences: Tensor, errors: float) -> bool:
    """Whether differences are above 0 in the mean, by so many standard errors."""
    return float(differences.mean()) > errors * float(differences.std()) / math.sqrt(len(differences))
