"""Page: sections of text, tables, pictures and figures in one HTML file that opens offline, for good; its pieces are
filled in by Jinja2, which escapes text.

Plotly's own script (4.8 MB) travels inside the page, gzip-compressed to 2 MB of text, and is unpacked by the
browser. The page's Content-Security-Policy forbids every network request. Without a script the tables under
the figures hold the same numbers.
"""

import base64
import functools
import gzip
import io
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike

from handful.base.errors import HandfulError, shown
from handful.base.files import made, write_text
from handful.base.plan import Choice
from handful.report.figure import Figure, Line, figure_lines
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


Part = Figure | Markup | str


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it: Figures, Markup, or plain sentences (which are escaped)."""

    title: str
    parts: Sequence[Part] = ()

    @property
    def figures(self) -> list[Figure]:
        return [part for part in self.parts if isinstance(part, Figure)]

    @property
    def axes(self) -> list[str]:
        """The measures of progress that the figures can be drawn against."""
        return list(dict.fromkeys(name for figure in self.figures for name in figure.axes))

    @property
    def groups(self) -> list[tuple[bool, list[Part]]]:
        """Runs of figures (True), which stand in one grid, and of other parts (False)."""
        figures = self.figures
        return [(k, list(group)) for k, group in itertools.groupby(self.parts, lambda part: part in figures)]


@dataclass(frozen=True)
class Page:
    """A page: title, sections (those without parts are left out), a headline (the result in one sentence), and whether
    it loads itself again every few seconds, as that of a run that goes on does.

    >>> page = Page("Trial", [Section("Notes", ["a < b"])], headline="It worked.")
    >>> "a &lt; b" in page.html()
    True
    """

    title: str
    sections: Sequence[Section]
    headline: str = ""
    reload: bool = False

    def html(self) -> str:
        plotly = _packed_plotly() if any(section.figures for section in self.sections) else ""
        return environment().get_template("page.html").render(page=self, plotly=plotly)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to `path`, whole or not at all; return the path. Folders are made where needed."""
        target = Path(path)
        if target.is_file() and target.suffix not in (".html", ".htm", ""):
            raise HandfulError(f"{shown(target)} is there already and is no page: write to a name that ends in .html")
        made(target.parent)
        write_text(target, self.html())
        return target


def load() -> float:
    """Load what draws pages, by drawing one; the seconds that it took."""
    began = time.perf_counter()
    Page("", [Section("", [figure_lines("", "", "", [Line("", [0.0], [0.0])])])]).html()
    return time.perf_counter() - began


@functools.cache
def _packed_plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), 6, mtime=0)).decode("ascii"))
