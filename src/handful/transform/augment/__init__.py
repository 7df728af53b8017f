"""Augmentation steps by name: `augment.flip() | augment.shift(2)`, or the text "flip | shift(2)".

>>> str(flip() | shift(2))
'flip | shift(2)'
"""

from collections.abc import Callable, Iterable

from handful.base.errors import HandfulError
from handful.base.expression import parse as parse_expression
from handful.transform.augment.base import Augment, Augmentation
from handful.transform.augment.default import picture, suggest
from handful.transform.augment.geometry import Affine as affine
from handful.transform.augment.geometry import Flip as flip
from handful.transform.augment.geometry import Rotate as rotate
from handful.transform.augment.geometry import Scale as scale
from handful.transform.augment.geometry import Shift as shift
from handful.transform.augment.mix import Cutmix as cutmix
from handful.transform.augment.mix import Mixup as mixup
from handful.transform.augment.value import Colour as colour
from handful.transform.augment.value import Cutout as cutout
from handful.transform.augment.value import FrequencyMask as frequency_mask
from handful.transform.augment.value import Gain as gain
from handful.transform.augment.value import Noise as noise
from handful.transform.augment.value import TimeMask as time_mask
from handful.transform.augment.value import TimeShift as time_shift
from handful.transform.augment.value import TokenDropout as token_dropout

__all__ = [
    "Augment",
    "Augmentation",
    "affine",
    "as_augment",
    "colour",
    "cutmix",
    "cutout",
    "flip",
    "frequency_mask",
    "gain",
    "mixup",
    "noise",
    "parse",
    "picture",
    "rotate",
    "scale",
    "shift",
    "suggest",
    "time_mask",
    "time_shift",
    "token_dropout",
]

STEPS: dict[str, type[Augmentation]] = {
    step.name: step
    for step in (
        *(flip, shift, rotate, scale, affine, colour, cutout, noise, mixup, cutmix),
        *(time_mask, frequency_mask, time_shift, gain, token_dropout),
    )
}
Given = str | Augmentation | Augment | Callable[[], Augmentation] | None


def parse(text: str) -> Augment:
    """Read the text form: names, arguments, and `|` between steps; nothing is evaluated.

    Raises HandfulError for a name or argument that is not known.

    >>> str(parse("flip | shift(0.1) | cutout(size=6)"))
    'flip | shift(0.1) | cutout(6)'
    """
    return as_augment(parse_expression(text, STEPS, "augmentation"))


def as_augment(given: Given | Iterable[Given]) -> Augment:
    """An Augment from what a user may give: text, a step or its class, a list of these, an Augment, None (no steps)."""
    match given:
        case None:
            return Augment()
        case Augment():
            return given
        case Augmentation():
            return Augment((given,))
        case str():
            return parse(given) if given.strip() not in ("", "none") else Augment()
        case type() if issubclass(given, Augmentation):
            return Augment((given(),))
        case Iterable():
            return Augment(tuple(step for part in given for step in as_augment(part).steps))
    raise HandfulError(f"augment takes text such as 'flip | shift(2)', steps or a list of them, not {given!r}")
