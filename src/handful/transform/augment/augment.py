"""Augmentation by name: text such as "flip | shift(2)" to steps, and whatever else a user may give."""

from collections.abc import Callable, Iterable

from handful.base.errors import HandfulError
from handful.base.expression import parse as parse_expression
from handful.transform.augment.base import Augment, Augmentation
from handful.transform.augment.geometry import Affine, Flip, Rotate, Scale, Shift
from handful.transform.augment.mix import Cutmix, Mixup
from handful.transform.augment.sequence import FrequencyMask, TimeMask, TimeShift, TokenDropout
from handful.transform.augment.value import Colour, Cutout, Gain, Noise

STEPS: dict[str, type[Augmentation]] = {
    step.name: step
    for step in (
        *(Flip, Shift, Rotate, Scale, Affine, Colour, Cutout, Noise, Mixup, Cutmix),
        *(TimeMask, FrequencyMask, TimeShift, Gain, TokenDropout),
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
