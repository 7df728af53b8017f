"""Augmentation steps by name: `augment.flip() | augment.shift(2)`, or the text "flip | shift(2)".

>>> str(flip() | shift(2))
'flip | shift(2)'
"""

from handful.transform.augment.augment import as_augment, parse
from handful.transform.augment.base import Augment, Augmentation
from handful.transform.augment.default import picture, suggest
from handful.transform.augment.geometry import Affine as affine
from handful.transform.augment.geometry import Flip as flip
from handful.transform.augment.geometry import Rotate as rotate
from handful.transform.augment.geometry import Scale as scale
from handful.transform.augment.geometry import Shift as shift
from handful.transform.augment.mix import Cutmix as cutmix
from handful.transform.augment.mix import Mixup as mixup
from handful.transform.augment.sequence import FrequencyMask as frequency_mask
from handful.transform.augment.sequence import TimeMask as time_mask
from handful.transform.augment.sequence import TimeShift as time_shift
from handful.transform.augment.sequence import TokenDropout as token_dropout
from handful.transform.augment.value import Colour as colour
from handful.transform.augment.value import Cutout as cutout
from handful.transform.augment.value import Gain as gain
from handful.transform.augment.value import Noise as noise

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
