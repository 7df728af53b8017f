"""Page: sections of text, tables and figures in one HTML file that opens offline, for good.

Plotly's own script (4.8 MB) travels inside the page, gzip-compressed to 2 MB of text, and is unpacked by the
browser. The page's Content-Security-Policy forbids every network request. Without a script the tables under
the figures hold the same numbers.
"""

import base64
import functools
import gzip
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from handful.report.figure import Figure
from handful.report.markup import Html, escape, table_html

Part = Figure | Html | str

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it: Figures, Html, or plain sentences (which are escaped)."""

    title: str
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Page:
    """A page: title, headline (the result in one sentence) and sections.

    >>> page = Page("Trial", [Section("Notes", ["a < b"])], headline="It worked.")
    >>> "a &lt; b" in page.html()
    True
    """

    title: str
    sections: Sequence[Section]
    headline: str = ""
    footer: str = field(default="Made by handful. This page needs no network.")

    def html(self) -> str:
        """The whole page."""
        ids = itertools.count(1)
        body = "\n".join(_section(section, ids) for section in self.sections)
        plots = any(isinstance(part, Figure) for section in self.sections for part in section.parts)
        script = ""
        if plots:
            script = (
                f'<script type="text/plain" id="plotly">{_packed_plotly()}</script>\n'
                f"<script>{_resource('page.js')}</script>"
            )
        lead = f"<p class='lead'>{escape(self.headline)}</p>" if self.headline else ""
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(self.title)}</title>
<link rel="icon" href="data:,">
<style>{_resource("page.css")}</style>
</head>
<body>
<header><h1>{escape(self.title)}</h1>{lead}</header>
<main>
{body}
</main>
<footer>{escape(self.footer)}</footer>
{script}
</body>
</html>
"""

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to `path`, whole or not at all; return the path. Folders are made where needed."""
        return write_atomically(path, self.html())


def write_atomically(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 text to a temporary file beside `path`, fsync, rename: a reader never sees half a file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())  # mkstemp made it readable by its owner alone
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


@functools.cache
def _umask() -> int:
    mask = os.umask(0o022)  # there is no way to read it without setting it
    os.umask(mask)
    return mask


@functools.cache
def _resource(name: str) -> str:
    return resources.files("handful.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _packed_plotly() -> str:
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), 9, mtime=0)).decode("ascii")


def _section(section: Section, ids: Iterator[int]) -> str:
    out = [f"<section><h2>{escape(section.title)}</h2>"]
    choices = list(
        dict.fromkeys(name for part in section.parts if isinstance(part, Figure) for trace in part.xs for name in trace)
    )
    if len(choices) > 1:
        out.append(_switch(choices, next(ids)))
    for figures, group in itertools.groupby(section.parts, key=lambda part: isinstance(part, Figure)):
        if figures:
            out.append("<div class='figures'>")
            out += [_figure(part, next(ids)) for part in group if isinstance(part, Figure)]
            out.append("</div>")
        else:
            out += [p if isinstance(p, Html) else f"<p>{escape(p)}</p>" for p in group if not isinstance(p, Figure)]
    out.append("</section>")
    return "\n".join(out)


def _switch(choices: list[str], number: int) -> str:
    """Radio buttons that set the x axis of every figure of the section."""
    buttons = "".join(
        f'<label><input type="radio" name="x{number}" value="{escape(name)}"{" checked" if i == 0 else ""}>'
        f"<span>{escape(name)}</span></label>"
        for i, name in enumerate(choices)
    )
    return f'<fieldset class="switch"><legend>Against</legend>{buttons}</fieldset>'


def _figure(figure: Figure, number: int) -> str:
    spec = {"data": figure.spec["data"], "layout": figure.spec["layout"], "xs": figure.xs}
    # "<" never stands in the JSON, so no string in it can end the script element or open a comment
    data = json.dumps(spec, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in figure.notes)
    kind = "".join(f" {k}" for k, on in (("wide", figure.wide), ("tall", figure.tall)) if on)
    return (
        f'<figure class="chart{kind}" aria-labelledby="f{number}">'
        f'<h3 id="f{number}">{escape(figure.title)}</h3>'
        f'<div class="plot" role="img" aria-label="{escape(figure.summary)}">'
        '<p class="note unplotted">Drawing… (without JavaScript, see the numbers below)</p></div>'
        f'<script type="application/json">{data}</script>{notes}'
        f"<details><summary>The numbers{escape(figure.shown)}</summary>"
        f"{table_html(figure.rows, figure.columns)}</details></figure>"
    )
