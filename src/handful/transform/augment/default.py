"""Which augmentation to start from for which data, and a picture of what it does."""

from collections.abc import Sequence

import torch
from torch import Tensor

from handful.base.errors import HandfulError
from handful.data.base import Batch
from handful.transform.augment.base import Augment
from handful.transform.augment.mirror import Mirrored


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
    return None, "for plain numbers no change is known that keeps the target"


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
