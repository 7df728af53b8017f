"""The pieces of a page that need no script: escaped text, tables, pictures."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from handful.base.errors import HandfulError
from handful.report.words import is_number, say_value_of


class Html(str):
    """Markup that is safe to put on a page as it is. Any other string is escaped."""

    __slots__ = ()


def escape(text: Any) -> Html:
    """The text as markup that shows it.

    >>> escape("<b>")
    '&lt;b&gt;'
    """
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def table_html(
    rows: Sequence[Mapping[str, Any] | Sequence[Any]], columns: Sequence[str] | None = None, caption: str = ""
) -> Html:
    """A table: rows as dicts (columns by default in order of appearance) or sequences in the columns' order.

    Numbers are aligned and shortened to four digits, with the full value as a tooltip; a cell that is absent
    is empty; strings are escaped unless they are Html.

    >>> "<td class=\\"n\\"" in table_html([{"batch": 32}], caption="Tried")
    True
    """
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows if isinstance(row, Mapping) for key in row))
    numeric = [_numeric(_cell(row, i, name) for row in rows) for i, name in enumerate(columns)]
    out = ["<div class='scroll'><table>"]
    if caption:
        out.append(f"<caption>{escape(caption)}</caption>")
    heads = (f'<th scope="col"{" class=n" if n else ""}>{escape(c)}</th>' for c, n in zip(columns, numeric))
    out.append(f"<thead><tr>{''.join(heads)}</tr></thead><tbody>")
    for row in rows:
        cells = (_td(_cell(row, i, name)) for i, name in enumerate(columns))
        out.append(f"<tr>{''.join(cells)}</tr>")
    out.append("</tbody></table></div>")
    return Html("".join(out))


def _cell(row: Mapping[str, Any] | Sequence[Any], i: int, name: str) -> Any:
    if isinstance(row, Mapping):
        return row.get(name)
    return row[i] if i < len(row) else None


def _numeric(values: Any) -> bool:
    present = [v for v in values if v is not None]
    return bool(present) and all(is_number(v) for v in present)


def _td(value: Any) -> str:
    if value is None:
        return "<td></td>"
    text = escape(value if isinstance(value, Html) else say_value_of(value))
    if not is_number(value):
        return f"<td>{text}</td>"
    full = html.escape(str(value))
    title = f' title="{full}"' if full != text.replace(",", "") else ""
    return f'<td class="n"{title}>{text}</td>'


def picture_grid(images: Any, captions: Sequence[str] = (), *, title: str = "") -> Html:
    """A grid of pictures inside the page: images uint8 [n, c, h, w], c 1 (grey), 3 (colour) or 4 (and
    opacity).

    Raises HandfulError when the shape or dtype is another, or the captions are not as many as the images.

    >>> picture_grid(np.zeros((1, 1, 2, 2), np.uint8), ["a 7"]).count("data:image/png")
    1
    """
    from PIL import Image

    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3, 4):
        raise HandfulError(
            "Pictures must be uint8 of shape [n, c, h, w] with c 1, 3 or 4, "
            f"not {pixels.dtype} of shape {list(pixels.shape)}."
        )
    if captions and len(captions) != len(pixels):
        raise HandfulError(f"{len(pixels)} pictures need as many captions, not {len(captions)}.")
    cells = []
    for i, image in enumerate(pixels):
        packed = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(packed, "PNG", optimize=True)
        caption = captions[i] if captions else ""
        uri = base64.b64encode(packed.getvalue()).decode("ascii")
        height, width = image.shape[1:]
        small = ' class="small"' if max(height, width) < 128 else ""
        alt = html.escape(caption or f"picture {i + 1}")
        cells.append(
            f'<figure><img src="data:image/png;base64,{uri}" alt="{alt}" '
            f'width="{width}" height="{height}"{small}>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    head = f"<h3>{escape(title)}</h3>" if title else ""
    return Html(f"{head}<div class='pictures'>{''.join(cells)}</div>")


def bullet_list(items: Sequence[str]) -> Html:
    """An unordered list of escaped sentences.

    >>> bullet_list(["a & b"])
    '<ul><li>a &amp; b</li></ul>'
    """
    return Html(f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>")


def tiles(pairs: Sequence[tuple[str, str]]) -> Html:
    """A row of large values with a small name each.

    >>> tiles([("accuracy", "97.8%")])
    '<dl class="tiles"><div><dt>accuracy</dt><dd>97.8%</dd></div></dl>'
    """
    cells = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return Html(f'<dl class="tiles">{"".join(cells)}</dl>')
