"""Page: sections of text, tables and figures in one HTML file that opens offline, for good.

Plotly's own script (4.8 MB) travels inside the page, gzip-compressed to 2 MB of text, and is unpacked by the
browser. The page's Content-Security-Policy forbids every network request. Without a script the tables under
the figures hold the same numbers.
"""

import base64
import functools
import gzip
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from handful.base.errors import HandfulError, shown
from handful.base.files import made, write_text
from handful.report.figure import Figure, figure_lines
from handful.report.markup import environment
from handful.report.traces import Line

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
def _packed_plotly() -> str:
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), 6, mtime=0)).decode("ascii")
