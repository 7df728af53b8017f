"""The seconds that a comparison may take, shared out among its runs, and how far it has come."""

import math
import sys
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from handful.base.plan import Choice
from handful.compare.experiment import SCORING
from handful.report.words import say_seconds

if TYPE_CHECKING:
    from rich.progress import Progress

RUNS, AFTER = 0.7, 0.05  # of a budget: for all runs; for each of what follows them
FEW = 3  # learning rates tried where time is short


@dataclass(frozen=True)
class Share:
    """seconds: the limit of each run, None for no limit; tries: learning rates of each batch size; seeds: runs of each;
    after: seconds for each measurement that follows the runs; choice: the same in words, with the reason."""

    seconds: float | None
    tries: int
    seeds: int
    after: float = math.inf
    choice: dict[str, Choice] = field(default_factory=dict)


def share_out(
    budget: float | None, spent: float, setup: float, methods: int, tries: int, seeds: int, *, fixed: bool = False,
    longest: float = 0.0,
) -> Share:  # fmt: skip
    """What each run of the comparison gets of `budget` seconds, of which `spent` are gone; to set up one and score its
    beginning and end takes `setup`, a step of the largest batch `longest`, for which all limits together leave room,
    as it is taken whole.

    Where setting up would take more than a third of what there is, fewer rates are tried (unless they are fixed), then
    none but the usual one, then fewer seeds are run: one run of each method always is.

    >>> share_out(100.0, 0.0, 0.1, methods=4, tries=7, seeds=3).seconds
    1.2692307692307692
    >>> share_out(2.0, 0.0, 0.2, methods=4, tries=7, seeds=3).seeds
    1
    """
    if budget is None:
        return Share(None, tries, seeds)
    left = max(0.0, budget - spent)
    ways = [(tries, seeds)] + ([] if fixed else [(t, seeds) for t in (FEW, 0) if t < tries])
    ways += [(ways[-1][0], n) for n in range(seeds - 1, 0, -1)]
    each = [RUNS * left / (methods * (t + n)) - longest / methods for t, n in ways]
    k = next((k for k, seconds in enumerate(each) if seconds >= 3 * setup), len(ways) - 1)
    limit = max(0.02, (each[k] - setup) / (1 + SCORING))
    names = ("learning rates tried", "seeds")
    fewer = [f"{new} of {old} {name}" for new, old, name in zip(ways[k], (tries, seeds), names) if new < old]
    why = "; ".join([f"at most {say_seconds(limit)} of training for each run", *fewer])
    return Share(limit, *ways[k], AFTER * left, {"time": Choice(say_seconds(budget), "given", why)})


class Counter:
    """How many of the runs are done: a bar on a terminal, and a line for each outcome on standard error."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total, self._quiet = total, quiet
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (BarColumn(24), MofNCompleteColumn(), TextColumn("runs"), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True, highlight=False), transient=True)
            self._bar.add_task("", total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def done(self, runs: int = 1) -> None:
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], runs)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, soft_wrap=True)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)
