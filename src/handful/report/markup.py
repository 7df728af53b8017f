"""The pieces of a page that need no script: tables, pictures, lists; filled in by Jinja2, which escapes text."""

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike

from handful.base.errors import HandfulError
from handful.base.plan import Choice
from handful.report.tables import Grid
from handful.report.words import is_number, say_bytes, say_count, say_number, say_seconds, say_value_of

if TYPE_CHECKING:
    from jinja2 import Environment


@functools.cache
def environment() -> "Environment":
    """Jinja2 with the templates of handful; whatever is not Markup is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("handful.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {f.__name__: f for f in (say_value_of, say_number, say_count, say_seconds, say_bytes)}
    found.tests["a_number"] = is_number
    found.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return found


def fill(template: str, macro: str, *values: object) -> Markup:
    """What a macro of a template makes of the values."""
    text: Markup = getattr(environment().get_template(template).module, macro)(*values)
    return text


def table_html(table: Grid, caption: str = "") -> Markup:
    """A table. Numbers are aligned and shortened to four digits, with the full value as a tooltip; a cell that is
    absent is empty; strings are escaped unless they are Markup.

    >>> "<td class=\\"n\\"" in table_html(Grid(["batch"], [[32]]), caption="Tried")
    True
    """
    return fill("parts.html", "table", table, caption)


def choices_html(choices: Mapping[str, Choice]) -> Markup:
    return fill("parts.html", "choices", choices)


def picture_grid(images: ArrayLike, captions: Sequence[str] = (), *, title: str = "") -> Markup:
    """A grid of pictures inside the page: images uint8 [n, c, h, w], c 1 (grey), 3 (colour) or 4 (and opacity).

    Raises HandfulError when the shape or dtype is another, or the captions are not as many as the images.

    >>> picture_grid(np.zeros((1, 1, 2, 2), np.uint8), ["a 7"]).count("data:image/png")
    1
    """
    from PIL import Image

    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3, 4):
        raise HandfulError(
            "pictures must be uint8 of shape [n, c, h, w] with c 1, 3 or 4, "
            f"not {pixels.dtype} of shape {list(pixels.shape)}"
        )
    if captions and len(captions) != len(pixels):
        raise HandfulError(f"{len(pixels)} pictures need as many captions, not {len(captions)}")
    cells = []
    for image, caption in zip(pixels, captions or [""] * len(pixels), strict=True):
        packed = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(packed, "PNG", optimize=True)
        png = base64.b64encode(packed.getvalue()).decode("ascii")
        cells.append({"png": png, "caption": caption, "width": image.shape[2], "height": image.shape[1]})
    return fill("parts.html", "pictures", cells, title)


def preformatted(text: str, title: str = "") -> Markup:
    """Text whose lines and spaces are kept, under a title."""
    return fill("parts.html", "preformatted", title, text)


def folded(title: str, part: Markup) -> Markup:
    """A part that is shown when its title is chosen."""
    return fill("parts.html", "folded", title, part)


def sound_list(sounds: Sequence[bytes], captions: Sequence[str]) -> Markup:
    """WAV files that can be heard inside the page, each with its caption."""
    packed = [base64.b64encode(sound).decode("ascii") for sound in sounds]
    return fill("parts.html", "sounds", list(zip(packed, captions, strict=True)))


def bullet_list(items: Sequence[str]) -> Markup:
    """An unordered list of escaped sentences.

    >>> print(bullet_list(["a & b"]))
    <ul><li>a &amp; b</li></ul>
    """
    return fill("parts.html", "bullets", items)


def tiles(pairs: Sequence[tuple[str, str]]) -> Markup:
    """Large values side by side with a small name each.

    >>> print(tiles([("accuracy", "97.8%")]))
    <dl class="tiles"><div><dt>accuracy</dt><dd>97.8%</dd></div></dl>
    """
    return fill("parts.html", "tiles", pairs)
