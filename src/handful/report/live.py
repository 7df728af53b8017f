"""The progress of a run as it happens: one live line on a terminal, plain lines elsewhere, nothing when
quiet."""

import atexit
import math
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from handful.report.words import as_float, plain, say_count, say_number, say_score, say_seconds, split_score

if TYPE_CHECKING:
    from rich.live import Live as RichLive
    from rich.text import Text

EVERY = 0.1  # seconds between two drawings on a terminal
EVERY_PLAIN = 30.0  # seconds between two plain lines where there is no terminal
WINDOW = 10.0  # seconds over which speed is measured


class Live:
    """What the run is doing now: how far, loss, validation score, examples a second, time left, batch, rate.

    total_examples: what the run will use at most, None if unknown; file: standard error unless given. On a
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

    def __init__(self, total_examples: int | None, *, quiet: bool = False, file: TextIO | None = None) -> None:
        self.total = total_examples or None
        self._file = sys.stderr if file is None else file
        self._quiet = quiet
        self._terminal = not quiet and _is_terminal(self._file)
        self._rich: RichLive | None = None
        self._scores: dict[str, Any] = {}
        self._seen: deque[tuple[float, float]] = deque(maxlen=200)
        self._closed = False
        self._next = math.inf if quiet else 0.0 if self._terminal else time.perf_counter() + EVERY_PLAIN

    def start(self, plan: Any, notes: Sequence[str] = (), total_examples: int | None = None) -> None:
        """Print every choice of the plan and the notes, and learn how many examples the run will use at
        most."""
        from handful.report.tables import choices_of, print_choices

        self.total = total_examples or self.total
        if self._quiet:
            return
        try:
            print_choices(choices_of(plan), file=self._file)
        except (OSError, ValueError):
            self._fall_silent()
        for text in notes:
            self.note(f"note: {text}")

    def update(self, progress_row: Mapping[str, Any]) -> None:
        """Tell where the run is: a history row (position, step, epoch, batch, lr, train_loss, ...)."""
        now = time.perf_counter()
        if now < self._next:
            return
        self._next = now + (EVERY if self._terminal else EVERY_PLAIN)
        self._show(progress_row, now)

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """Tell the outcome of an evaluation: the scores named valid_*; shown at once."""
        if self._next == math.inf:
            return
        scores = {k: v for k, v in row.items() if split_score(k)[0] == "valid" and not k.endswith("_rows")}
        self._scores = scores or self._scores
        now = time.perf_counter()
        self._next = now + (EVERY if self._terminal else EVERY_PLAIN)
        self._show(row, now)

    def note(self, text: str) -> None:
        """Print a line above the live one."""
        if not self._quiet:
            self._print(plain(text))

    def close(self, reason: str = "") -> None:
        """Remove the live line, give the terminal back as it was, say why the run stopped. May be
        repeated."""
        if self._closed:
            return
        self._closed, self._next = True, math.inf
        self._stop()
        if reason and not self._quiet:
            self._print(f"stopped: {plain(reason)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close("interrupted" if interrupted else "")

    def _show(self, row: Mapping[str, Any], now: float) -> None:
        position = as_float(row.get("position"))
        if math.isfinite(position):
            if self._seen and position < self._seen[-1][1]:
                self._seen.clear()  # the run went back: a resume, or another run
            self._seen.append((now, position))
            while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW:
                self._seen.popleft()
        if self._terminal:
            self._draw(row)
        else:
            self._print("  ".join(self._words(row)))

    def _share(self) -> float | None:
        """The share of the planned examples that is used; None when unknown."""
        return min(1.0, self._seen[-1][1] / self.total) if self.total and self._seen else None

    def _rate(self, row: Mapping[str, Any]) -> float:
        """Examples a second over the last ten seconds; NaN when unknown."""
        logged = as_float(row.get("examples_per_second"))
        if math.isfinite(logged) or len(self._seen) < 2:
            return logged
        (t0, p0), (t1, p1) = self._seen[0], self._seen[-1]
        return (p1 - p0) / (t1 - t0) if t1 > t0 and p1 > p0 else math.nan

    def _words(self, row: Mapping[str, Any]) -> list[str]:
        """What to say, most important first."""
        share, rate = self._share(), self._rate(row)
        out = []
        if share is not None:
            # rounded down: 100% only when all is done
            out.append(f"{math.floor(share * 100):.0f}%")
        elif self._seen:
            out.append(f"{say_count(self._seen[-1][1])} examples")
        if "train_loss" in row:
            out.append(f"loss {say_number(row['train_loss'])}")
        named = sorted(self._scores, key=lambda name: split_score(name)[1] == "loss")[:2]
        for name in named:
            held_out = "held-out " if name == "valid_loss" else ""  # beside the training loss
            out.append(held_out + say_score(name, self._scores[name]))
        if self.total and math.isfinite(rate) and self._seen:
            left = max(0.0, self.total - self._seen[-1][1]) / rate
            out.append(f"{say_seconds(left if left < 10 else round(left))} left")
        if math.isfinite(rate):
            out.append(f"{say_count(rate)} examples/s")
        if "epoch" in row:
            out.append(f"epoch {say_number(math.floor(as_float(row['epoch']) * 100) / 100)}")
        if "batch" in row:
            out.append(f"batch {say_number(row['batch'])}")
        if "lr" in row:
            out.append(f"lr {say_number(row['lr'], 2)}")
        return out

    def _draw(self, row: Mapping[str, Any]) -> None:
        try:
            if self._rich is None:
                self._start()
            if self._rich is not None:
                self._rich.update(self._line(row, self._rich.console.width), refresh=True)
        except (OSError, ValueError):
            self._fall_silent()

    def _line(self, row: Mapping[str, Any], width: int) -> "Text":
        """One line that fits: words are left out from the end; the bar has up to 24 columns of what is
        left."""
        from rich.text import Text

        words = self._words(row)
        share = self._share()
        bar = 12 if share is not None else 0
        kept: list[str] = []
        used = 1
        for word in words:
            if used + len(word) + 2 + bar > width and kept:
                break
            kept.append(word)
            used += len(word) + 2
        line = Text(no_wrap=True, overflow="crop", end="")
        for i, word in enumerate(kept):
            if i:
                line.append("  ")
            line.append(word.rjust(4) if i == 0 and share is not None else word, style="bold" if i == 0 else "")
            cells = min(24, width - used - 2)
            if i == 0 and share is not None and cells >= 6:
                assert self._rich is not None
                full, rest = ("#", "-") if self._rich.console.options.ascii_only else ("━", "━")
                done = math.floor(share * cells)
                line.append("  ").append(full * done, style="cyan").append(rest * (cells - done), style="bright_black")
        return line

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        # Transient: the line goes when the run ends. No refresh thread: it would compete with the run.
        console = Console(file=self._file, highlight=False)
        self._rich = RichLive(console=console, auto_refresh=False, transient=True)
        self._rich.start()
        atexit.register(self._stop)  # the cursor comes back even if nobody calls close

    def _stop(self) -> None:
        rich, self._rich = self._rich, None
        if rich is not None:
            atexit.unregister(self._stop)
            with suppress(OSError, ValueError):
                rich.stop()

    def _print(self, text: str) -> None:
        try:
            if self._rich is not None:
                self._rich.console.print(text, markup=False, soft_wrap=True)
                return
            encoding = getattr(self._file, "encoding", None) or "utf-8"
            self._file.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            self._file.flush()
        except (OSError, ValueError):
            self._fall_silent()

    def _fall_silent(self) -> None:
        """The reader has gone (a closed pipe or file): say nothing more, and let the run go on."""
        self._quiet, self._terminal, self._next = True, False, math.inf
        self._stop()


def _is_terminal(file: TextIO) -> bool:
    import os

    try:
        return file.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):
        return False
