"""Which augmentation to start from for which data: whether it helps to mirror pictures is found on training pictures
before any is flipped; and a picture of what an augmentation does."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Batch
from handful.transform.augment.base import Augment

# Of the pictures that are asked whether to mirror them.
ROWS = 800  # half of them teach, half are asked
FEWEST = 100  # rows to tell by
SIDE = 16  # pixels that are looked at
OF_NUMBERS = "for plain numbers no change is known that keeps the target"
RIDGES = (0.01, 0.1, 1.0, 3.0)


class Mirrored(NamedTuple):
    """What a small model explains of the targets of pictures that it has not seen, taught on pictures as they are and
    with their mirror images: R^2 (of the classes as zeros and ones), at most 1; whether mirror images do
    harm: it is less with them, by more than the standard error; of how many pictures."""

    straight: float
    mirrored: float
    harms: bool
    rows: int


def suggest(
    kind: str, shape: tuple[int | None, ...], task: str | None, n: int, seen: Mirrored | None = None
) -> tuple[str | None, str]:
    """The text of a usual augmentation for some data, or None, and the reason in a sentence.

    kind: "image", "audio", "text", "language", "table", ...; shape: of one row of x after preprocessing, [C,
    H, W] for pictures; task: as `Pipeline.task`; n: training rows; seen: what training pictures say of mirror
    images, where they were looked at.

    >>> suggest("image", (3, 32, 32), "classification", 50_000)[0]
    'flip | shift(2)'
    """
    match kind:
        case "image" if len(shape) in (2, 3) and None not in shape:
            return _suggest_image([side or 0 for side in shape], seen)
        case "audio" if task == "sequence":
            return "time_mask(0.05, 2) | frequency_mask(0.2, 2)", (
                "masks over time and frequency (SpecAugment), short in time, so that no label of the sequence is hidden"
            )
        case "audio":
            return "time_shift(0.1) | time_mask(0.2) | frequency_mask(0.2)", (
                "a sound stays what it is if it starts earlier or lacks a stretch or a band (SpecAugment)"
            )
        case "text" if task != "language":
            return "token_dropout(0.1)", "the label should not hang on a single word"
        case "text" | "language" | "tokens":
            return None, "each token is a target of a language model; other tokens would be another task"
    return None, OF_NUMBERS


def flips(shape: Sequence[int]) -> bool:
    """Whether pictures of a shape, [C, H, W], are usually flipped: they may be photographs."""
    return len(shape) == 3 and shape[0] >= 3 and min(shape[-2:]) >= 28


def _suggest_image(shape: Sequence[int], seen: Mirrored | None) -> tuple[str | None, str]:
    height, width = shape[-2:]
    side = min(shape[-2:])
    no_flip = "no flip, since mirrored digits and letters are other characters or none"
    if flips(shape) and seen is not None and seen.harms:
        return f"shift({round(side / 16)})", (
            f"a slightly moved picture shows the same thing; no flip, which does harm here: {_explained(seen)}"
        )
    if flips(shape):
        return f"flip | shift({round(side / 16)})", (
            "a mirrored or slightly moved photograph shows the same thing"
            + (f": {_explained(seen)}" if seen else "")
            + "; take flip out where left and right differ (text, signs, medical pictures)"
        )
    if side >= 16:
        why = "small turns and moves keep what a small or grey picture shows"
        return f"rotate(10) | shift({round(side / 16)})", f"{why}; {no_flip}"
    if side >= 8:
        why = f"at {height} x {width} pixels a move of one pixel is already large, so only small turns"
        return "rotate(10)", f"{why}; {no_flip}"
    return None, f"at {height} x {width} pixels every change is large"


def _explained(seen: Mirrored) -> str:
    straight, mirrored = (f"{max(r2, 0):.1%}" for r2 in seen[:2])
    return (
        f"a small model, taught on half of {seen.rows:,} training pictures, explains {straight} of the others' target, "
        f"{mirrored} when taught on mirror images, too"
    )


def picture(
    augment: Augment,
    batch: Batch,
    examples: int = 8,
    epochs: int = 4,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """A grid of pictures: the first row as they are, then one row for each of `epochs` epochs, augmented.

    batch: preprocessed, x float [m, C, H, W] or [m, H, W] (a spectrogram counts as a grey picture); at most
    the first `examples` rows are shown. mean, std: of the standardisation, [C] in units of 0..255, to restore
    true colours; without them the originals' range is stretched to 0..255. Returns uint8 [C', height, width]
    with C' = 1 or 3 and white lines of one pixel between.
    """
    x = batch.tensor("x")
    if x.dim() not in (3, 4) or not x.is_floating_point() or not len(x):
        raise HandfulError(f"a picture of augmentation needs pictures [m, C, H, W], not {x.dtype} {list(x.shape)}.")
    m = min(examples, len(x))
    part = Batch({name: value[:m] for name, value in batch.tensors().items()}, batch.rows[:m], batch.epochs[:m])
    tiles = [part.tensor("x")]
    for epoch in range(epochs):
        again = Batch(part.columns, part.rows, part.epochs * 0 + epoch)
        tiles.append(augment(again).tensor("x"))
    grid = torch.stack(tiles).float().cpu()  # [1 + epochs, m, ...]
    grid = grid[:, :, None] if x.dim() == 3 else grid
    if mean is not None and std is not None:
        grid = grid * std.float().cpu().view(-1, 1, 1) + mean.float().cpu().view(-1, 1, 1)
    else:
        low, high = grid[0].min(), grid[0].max()
        grid = (grid - low) * (255 / (high - low).clamp_min(1e-12))
    grid = grid if grid.shape[2] == 3 else grid[:, :, :1]
    framed = torch.nn.functional.pad(grid.round().clamp(0, 255), (1, 0, 1, 0), value=255.0)
    flat = framed.permute(2, 0, 3, 1, 4).reshape(framed.shape[2], framed.shape[0] * framed.shape[3], -1)
    return torch.nn.functional.pad(flat, (0, 1, 0, 1), value=255.0).to(torch.uint8)


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
