"""Tables of cells, and the same on the terminal, drawn by rich: plain aligned text where there is no terminal."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from handful.base.plan import Choice
from handful.report.words import as_float, is_number, plain, say_value_of

if TYPE_CHECKING:
    from rich.box import Box
    from rich.table import Table

Rows = Sequence[Mapping[str, object]]
MIN_LAST = 24  # a last column is wrapped to no fewer columns than this
NO_LIMIT = 1_000_000
LONG = 60  # characters


@dataclass(frozen=True)
class Grid:
    """Names of the columns and, for every row, a cell for each: a number, text, Markup, or None for an empty one."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    @classmethod
    def of(cls, rows: Rows) -> "Grid":
        """The table of dictionaries, its columns in order of appearance, those that some rows lack where the others
        have them.

        >>> Grid.of([{"a": 1, "c": 2}, {"a": 3, "b": "x", "c": 4}])
        Grid(columns=['a', 'b', 'c'], rows=[[1, None, 2], [3, 'x', 4]])
        """
        columns: list[str] = []
        for row in (row for row in rows if row.keys() - set(columns)):
            at = next((columns.index(name) for name in row if name in columns), len(columns))
            for name in row:
                at = columns.index(name) if name in columns else at
                columns[at : at + (name in columns)] = [name]
                at += 1
        return cls(columns, [[row.get(name) for name in columns] for row in rows])

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether its cells are all numbers."""
        present = [[row[i] for row in self.rows if row[i] is not None] for i in range(len(self.columns))]
        return [bool(values) and all(map(is_number, values)) for values in present]

    @property
    def short(self) -> list[bool]:
        """For each column, whether its numbers are whole and below 10,000: years are written as they are, 1987."""
        numbers = [[as_float(row[i]) for row in self.rows if is_number(row[i])] for i in range(len(self.columns))]
        return [all(abs(v) < 10_000 and v.is_integer() for v in values) for values in numbers]

    @property
    def long(self) -> list[bool]:
        """For each column, whether it holds text that takes several lines: a small screen gives it lines of its own."""
        texts = [[row[i] for row in self.rows if isinstance(row[i], str)] for i in range(len(self.columns))]
        return [any(len(str(text)) > LONG for text in column) for column in texts]

    def text(self, width: int | None = None) -> str:
        """Plain text: columns two spaces apart, numbers to the right, the last one wrapped to `width`.

        >>> print(Grid(["x", "y"], [["a", "one two three four five six seven"]]).text(width=30))
        x  y
        a  one two three four five six
           seven
        """
        from rich.console import Console, Group

        console = Console(width=NO_LIMIT, color_system=None, force_terminal=False, force_jupyter=False)
        table = self._table(None)
        if width:
            full = console.measure(table).maximum
            last = console.measure(Group(*table.columns[-1].cells)).maximum
            table.columns[-1].max_width = max(MIN_LAST, width - (full - last))
        with console.capture() as captured:
            console.print(table)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def print(self, file: TextIO | None = None, width: int | None = None) -> None:
        """Print to `file` (standard output). A terminal's width is kept; elsewhere only `width`, if given, is."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Console

        out = sys.stdout if file is None else file
        if self.columns and not out.isatty():
            print(self.text(width), file=out)
        elif self.columns:
            console = Console(file=out, width=width or shutil.get_terminal_size().columns, highlight=False)
            console.print(self._table(SIMPLE_HEAD))

    def _table(self, box: "Box | None") -> "Table":
        from rich.table import Table
        from rich.text import Text

        short = self.short
        said = [["" if v is None else plain(say_value_of(v, s)) for v, s in zip(row, short)] for row in self.rows]
        cells = [[Text(cell) for cell in row] for row in said]
        table = Table(box=box, pad_edge=False, padding=(0, 1) if box else (0, 2, 0, 0))
        for name, numeric in zip(self.columns, self.numeric, strict=True):
            # Text, not str: a user's "[red]" is shown, not obeyed
            table.add_column(
                Text(plain(name)), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold"
            )
        for row in cells:
            table.add_row(*row)
        table.columns[-1].min_width = min(MIN_LAST, max((row[-1].cell_len for row in cells), default=0))
        return table


def text_table(rows: Rows) -> str:
    """Rows as a table of plain text, as wide as it needs to be."""
    return Grid.of(rows).text() if rows else ""


def print_table(rows: Rows) -> None:
    """Print rows as a table to standard output.

    >>> print_table([{"batch": 32, "speed": 1234.6}, {"batch": 256, "speed": 9876.6}])
    batch  speed
       32  1,235
      256  9,877
    """
    Grid.of(rows).print()


BRIEF = {"model": "model", "batch": "rows per step", "lr": "learning rate"}  # of a plan in a few lines


def print_choices(
    choices: Mapping[str, Choice], *, file: TextIO | None = None, width: int | None = None, full: bool = True
) -> None:
    """Print every choice with its value, its status and the reason; or, not in full, four lines.

    >>> print_choices({"batch": Choice(64, "measured", "90% of peak throughput")})
    choice  value  status    reason
    batch   64     measured  90% of peak throughput
    >>> print_choices({"batch": Choice(64, "measured", ""), "seed": Choice(0, "default")}, full=False)
    rows per step 64 (measured)
    all 2 choices with their reasons: verbose=True, --verbose, or plan.toml of the run
    """
    if full:
        rows = [[name.replace("_", " "), say_value_of(c.value), c.status, c.reason] for name, c in choices.items()]
        Grid(["choice", "value", "status", "reason"], rows).print(file, width)
        return
    said = [f"{words} {say_value_of(choices[name].value)} ({choices[name].status})"
            for name, words in BRIEF.items() if name in choices]  # fmt: skip
    if "until" in choices:
        said.append(f"until {say_value_of(choices['until'].value)} ({choices['until'].status})")
    head, *others = said or ["no choices"]
    lines = [head, ", ".join(others[:2]), *others[2:]] if len(said) == 4 else said
    lines.append(f"all {len(choices)} choices with their reasons: verbose=True, --verbose, or plan.toml of the run")
    for line in lines:
        print(plain(line), file=file)
