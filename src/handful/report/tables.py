"""Tables on the terminal, drawn by rich; plain aligned text where the output is no terminal."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from handful.base.plan import Choice
from handful.report.words import is_number, plain, say_name, say_value, say_value_of, split_score

Row = Mapping[str, Any] | Sequence[Any]
MIN_LAST = 24  # a last column is wrapped to no fewer columns than this


def print_table(
    rows: Sequence[Row],
    columns: Sequence[str] | None = None,
    title: str = "",
    *,
    file: TextIO | None = None,
    width: int | None = None,
) -> None:
    """Print rows (dicts, or sequences in the order of `columns`) as a table to `file` (standard output).

    On a terminal the table fits its width; elsewhere lines are as long as they need, unless `width` is given.

    >>> print_table([{"batch": 32, "speed": 1234.6}, {"batch": 256, "speed": 9876.6}])
    batch  speed
       32  1,235
      256  9,877
    """
    out = sys.stdout if file is None else file
    names, cells, right = _cells(rows, columns)
    if not names:
        return
    if out.isatty():
        _rich(names, cells, right, title, out, width)
        return
    text = text_table(rows, columns, width=width)
    print(f"{plain(title)}\n{text}" if title else text, file=out)


def choices_of(plan: Any) -> dict[str, Choice]:
    """The choices in a plan: a mapping, an object's `choices`, or those of its attributes that are
    Choices."""
    found = plan if isinstance(plan, Mapping) else getattr(plan, "choices", None)
    if callable(found):
        found = found()
    if found is None:
        found = getattr(plan, "__dict__", {})
    return {str(name): choice for name, choice in found.items() if isinstance(choice, Choice)}


def print_choices(
    choices: Mapping[str, Choice], *, title: str = "", file: TextIO | None = None, width: int | None = None
) -> None:
    """Print every choice with its value, its status and the reason.

    >>> print_choices({"batch": Choice(64, "measured", "90% of peak throughput")})
    choice  value  status    reason
    batch   64     measured  90% of peak throughput
    """
    rows = [[name.replace("_", " "), say_value_of(c.value), c.status, c.reason] for name, c in choices.items()]
    print_table(rows, ["choice", "value", "status", "reason"], title, file=file, width=width)


def print_scores(
    scores: Mapping[str, Any], *, title: str = "", file: TextIO | None = None, width: int | None = None
) -> None:
    """Print scores in words, one a line.

    >>> print_scores({"valid_accuracy": 0.978, "train_loss": 0.0831, "valid_rows": 180})
    score           value
    accuracy        97.8%
    training loss  0.0831
    held-out rows     180
    """
    rows = []
    for name, value in scores.items():
        words = "held-out rows" if name == "valid_rows" else say_name(name)
        rows.append([words, say_value(name, value) if split_score(name)[1] != "rows" else say_value_of(value)])
    _, cells, _ = _cells(rows, ["score", "value"])
    out = sys.stdout if file is None else file
    if out.isatty():
        _rich(["score", "value"], cells, [False, True], title, out, width)
    elif cells:
        text = _text(["score", "value"], cells, [False, True], width)
        print(f"{plain(title)}\n{text}" if title else text, file=out)


def text_table(rows: Sequence[Row], columns: Sequence[str] | None = None, *, width: int | None = None) -> str:
    """The table as plain text: columns two spaces apart, numbers to the right, the last one wrapped to
    `width`.

    >>> print(text_table([["a", "one two three four five six seven"]], ["x", "y"], width=30))
    x  y
    a  one two three four five six
       seven
    """
    names, cells, right = _cells(rows, columns)
    return _text(names, cells, right, width) if names else ""


def _cells(rows: Sequence[Row], columns: Sequence[str] | None) -> tuple[list[str], list[list[str]], list[bool]]:
    """(column names, the cells as text without control characters, which columns are numbers)."""
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows if isinstance(row, Mapping) for key in row))
    values = [
        [
            row.get(name) if isinstance(row, Mapping) else row[i] if i < len(row) else None
            for i, name in enumerate(columns)
        ]
        for row in rows
    ]
    right = []
    for i in range(len(columns)):
        present = [row[i] for row in values if row[i] is not None]
        right.append(bool(present) and all(is_number(v) for v in present))
    cells = [["" if v is None else plain(say_value_of(v)) for v in row] for row in values]
    return [plain(name) for name in columns], cells, right


def _text(names: list[str], cells: list[list[str]], right: list[bool], width: int | None) -> str:
    from rich.cells import cell_len

    table = [names, *cells]
    widths = [max(cell_len(row[i]) for row in table) for i in range(len(names))]
    before = sum(widths[:-1]) + 2 * (len(names) - 1)
    last = max(MIN_LAST, width - before) if width else widths[-1]
    lines = []
    for row in table:
        wrapped = _wrap(row[-1], last)
        for k, tail in enumerate(wrapped):
            parts = [*(row[:-1] if k == 0 else [""] * (len(row) - 1)), tail]
            padded = []
            for text, size, numeric in zip(parts, [*widths[:-1], min(widths[-1], last)], right, strict=True):
                space = " " * max(0, size - cell_len(text))
                padded.append(space + text if numeric else text + space)
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` terminal columns, cut between words where there are any."""
    from rich.cells import cell_len, chop_cells

    if cell_len(text) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split():
        if line and cell_len(line) + 1 + cell_len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
        if cell_len(line) > width:
            *whole, line = chop_cells(line, width)
            lines += whole
    return [*lines, line] if line else lines


def _rich(
    names: list[str], cells: list[list[str]], right: list[bool], title: str, out: TextIO, width: int | None
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, width=width or shutil.get_terminal_size().columns, highlight=False)
    table = Table(box=SIMPLE_HEAD, title=Text(plain(title)) if title else None, title_justify="left", pad_edge=False)
    for i, (name, numeric) in enumerate(zip(names, right, strict=True)):
        # Text, not str: a user's "[red]" is shown, not obeyed
        folds = i == len(names) - 1
        table.add_column(
            Text(name),
            justify="right" if numeric else "left",
            no_wrap=numeric,
            overflow="fold",
            ratio=None,
            min_width=min(MIN_LAST, max((len(row[i]) for row in cells), default=0)) if folds else None,
        )
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
