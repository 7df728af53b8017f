"""The progress of a run as it happens: one live line on a terminal, plain lines elsewhere, nothing when quiet."""

import atexit
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from handful.base.plan import Choice
from handful.report.tables import print_choices
from handful.report.words import as_float, plain, say_count, say_number, say_score, say_seconds, split_score

if TYPE_CHECKING:
    from rich.progress import Progress, Task

EVERY = 0.1  # seconds between two drawings on a terminal
EVERY_PLAIN = 30.0  # seconds between two plain lines where there is no terminal
WINDOW = 10.0  # seconds over which speed is measured on a terminal; three plain lines elsewhere


class Live:
    """What the run is doing now: how far, loss, validation score, examples per second, time left, batch, rate.

    total_examples: what the run will use at most, None if unknown; file: standard error unless given; unit: of the
    target. On a
    terminal, one line redrawn at most ten times a second; elsewhere a plain line at each evaluation and every
    30 seconds in between. `update` may be called at every step: between two drawings it only reads the clock,
    and it looks into the row (which may hold Tensors) only to draw. A file that can no longer be written to
    silences the display; it never ends the run.

    >>> with Live(1000, file=sys.stdout) as live:
    ...     live.evaluation({"position": 500, "epoch": 0.5, "valid_accuracy": 0.9})
    ...     live.close("plateau")
    50%  accuracy 90.0%  epoch 0.5
    stopped: plateau
    """

    def __init__(
        self, total_examples: int | None, *, quiet: bool = False, verbose: bool = False, file: TextIO | None = None,
        unit: str = "",
    ) -> None:  # fmt: skip
        self.total = total_examples or None
        self._file = sys.stderr if file is None else file
        quiet = quiet or self._file is None  # as in a service that has no streams
        self._quiet, self._verbose, self._closed = quiet, verbose, False
        self._terminal = not quiet and _is_terminal(self._file)
        self._every = EVERY if self._terminal else EVERY_PLAIN
        self._next = math.inf if quiet else 0.0 if self._terminal else time.perf_counter() + EVERY_PLAIN
        self._progress: Progress | None = None
        self._scores: dict[str, object] = {}
        self._unit = unit

    def start(
        self, plan: Mapping[str, Choice], notes: Sequence[str] = (), total_examples: int | None = None, unit: str = ""
    ) -> None:
        """Print the plan in four lines (every choice if verbose) and the notes; learn how many examples there will
        be at most, and the unit of the target."""
        self.total, self._unit = total_examples or self.total, unit
        if self._quiet:
            return
        try:
            print_choices(plan, file=self._file, full=self._verbose)
        except (OSError, ValueError):
            self._fall_silent()
        for text in notes:
            self.note(f"note: {text}")

    def update(self, progress_row: Mapping[str, object]) -> None:
        """Show where the run is: a history row (position, step, epoch, batch, lr, train_loss, ...)."""
        if time.perf_counter() >= self._next:
            self._show(progress_row)

    def evaluation(self, row: Mapping[str, object]) -> None:
        """Show the outcome of an evaluation, the scores named valid_*, at once."""
        if self._next != math.inf:
            scores = {k: v for k, v in row.items() if split_score(k)[0] == "valid" and not k.endswith("_rows")}
            self._scores = scores or self._scores
            self._show(row)

    def note(self, text: str) -> None:
        """Print a line above the live one."""
        if not self._quiet:
            self._print(plain(text))

    def close(self, reason: str = "") -> None:
        """Remove the live line, give the terminal back as it was, print why the run stopped. May be repeated."""
        if self._closed:
            return
        self._closed, self._next = True, math.inf
        self._stop()
        if reason:
            self.note(f"stopped: {reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close("interrupted" if interrupted else "")

    def _show(self, row: Mapping[str, object]) -> None:
        self._next = time.perf_counter() + self._every
        try:
            progress = self._progress = self._progress or self._start()
            task = progress.tasks[0]
            position = as_float(row.get("position"))
            if position < task.completed:
                progress.reset(task.id)  # the run went back: a resume, or another run
            if math.isfinite(position):
                progress.update(task.id, completed=position)
            first, *words = self._words(row, task) or [""]
            if self._terminal:
                progress.update(task.id, description=first, words="  ".join(words), refresh=True)
            else:
                self._print("  ".join([first, *words]))
        except (OSError, ValueError):
            self._fall_silent()

    def _words(self, row: Mapping[str, object], task: "Task") -> list[str]:
        """What to show, most important first."""
        speed = as_float(row.get("examples_per_second", task.speed))
        out = []
        if task.total:
            out.append(f"{math.floor(task.percentage + 1e-9)}%")  # rounded down: 100% only when all is done
        elif task.completed:
            out.append(f"{say_count(task.completed)} examples")
        if "train_loss" in row:
            out.append(f"loss {say_number(row['train_loss'])}")
        for name in sorted(self._scores, key=lambda name: split_score(name)[1] == "loss")[:2]:
            held_out = "held-out " if name == "valid_loss" else ""  # next to the training loss
            out.append(held_out + say_score(name, self._scores[name], self._unit))
        if math.isfinite(speed) and speed > 0:  # a last look is no step
            if task.remaining is not None:
                left = max(0.0, task.remaining) / speed
                out.append(f"{say_seconds(left if left < 10 else round(left))} left")
            out.append(f"{say_count(speed)} examples/s")
        if "epoch" in row:
            out.append(f"epoch {say_number(math.floor(as_float(row['epoch']) * 100) / 100)}")
        if "batch" in row:
            out.append(f"batch {say_number(row['batch'])}")
        if "lr" in row:
            out.append(f"lr {say_number(row['lr'], 2)}")
        return out

    def _start(self) -> "Progress":
        """On a terminal, a line that goes when the run ends. No refresh thread: it would compete with the run."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(file=self._file, highlight=False)
        cut = Column(no_wrap=True, overflow="crop" if console.options.ascii_only else "ellipsis")
        columns = [
            TextColumn("{task.description:>4}", style="bold", markup=False),
            BarColumn(24 if console.width >= 80 else 12, complete_style="cyan", finished_style="cyan"),
            TextColumn("{task.fields[words]}", markup=False, table_column=cut),
        ]
        if not self.total:
            del columns[1]
        progress = Progress(
            *columns, console=console, auto_refresh=False, transient=True, disable=not self._terminal,
            get_time=time.perf_counter, speed_estimate_period=WINDOW if self._terminal else 3 * EVERY_PLAIN,
        )  # fmt: skip
        progress.add_task("", total=self.total, words="")
        if self._terminal:
            progress.start()
            atexit.register(self._stop)  # the cursor comes back even if nobody calls close
        return progress

    def _stop(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None and self._terminal:
            atexit.unregister(self._stop)
            with suppress(OSError, ValueError):
                progress.stop()

    def _print(self, text: str) -> None:
        try:
            if self._progress is not None and self._terminal:
                self._progress.console.print(text, markup=False, soft_wrap=True)
                return
            encoding = self._file.encoding or "utf-8"
            self._file.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            self._file.flush()
        except (OSError, ValueError):
            self._fall_silent()

    def _fall_silent(self) -> None:
        """The reader has gone (a closed pipe or file): show nothing more, and let the run go on."""
        self._stop()
        self._quiet, self._terminal, self._next = True, False, math.inf


def _is_terminal(file: TextIO) -> bool:
    try:
        return file.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):
        return False
