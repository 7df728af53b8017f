"""The seconds that a comparison may take, shared out among its runs, and how far it has come."""

import math
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from handful.base.plan import Choice
from handful.compare.experiment import SCORING
from handful.report.words import say_seconds

if TYPE_CHECKING:
    from rich.progress import Progress

RUNS, AFTER = 0.7, 0.05  # of what is left: planned for all runs; for each of what follows them
KEPT = 0.2  # of it, which no further run may take
PAGE = 0.4  # seconds, at least kept for the page: 0.2 to 0.3 were measured, and 0.5 to load what draws it
FEW = 3  # learning rates tried where time is short


class Clock:
    """How much is left of `budget` seconds that count from now, but for those kept for the page; no end where there is
    no budget.

    >>> Clock(None).left, Clock(0.3, page=0.4).left
    (inf, 0.0)
    """

    def __init__(self, budget: float | None, page: float = 0.0) -> None:
        self.budget = math.inf if budget is None else budget - page
        self._began = time.perf_counter()
        self.slowest = 0.0  # seconds, of the runs that `fits` was told of

    @property
    def passed(self) -> float:
        """Seconds."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self.budget - self.passed)

    def fits(self, seconds: float, keep: float) -> bool:
        """Whether what took so long may be done once more, where `keep` seconds are wanted for what follows it."""
        self.slowest = max(self.slowest, seconds)
        return self.left - seconds >= keep


@dataclass(frozen=True)
class Share:
    """seconds: the limit of each run, None for no limit; tries: learning rates of each batch size; seeds: runs of each,
    and more of those asked for where there is time; left: what all of them and what follows were given; setup: what a
    run takes besides its training; longest: a step of the largest batch."""

    seconds: float | None
    tries: int
    seeds: int
    left: float = math.inf
    setup: float = 0.0
    longest: float = 0.0

    def after_rates(self, part: float) -> float:
        """The seconds to be left once such a part of the learning rates has been tried."""
        return self.left * (1 - RUNS * part * self.tries / max(1, self.tries + self.seeds))

    @property
    def after_runs(self) -> float:
        """The seconds to be left when the last run ends."""
        return KEPT * self.left

    def limit(self, left: float, methods: int, slowest: float) -> float | None:
        """The limit of the compared runs, where so many seconds are left: one run of each fits, if it takes no longer
        than the `slowest` of those that tried rates."""
        if self.seconds is None:
            return None
        each = (left - self.after_runs) / methods
        return min(self.seconds, training(each, self.setup), max(0.02, self.seconds * each / max(slowest, 1e-9)))

    def following(self, left: float, more: int) -> float:
        """The seconds for the next of `more` measurements that follow the runs."""
        return math.inf if math.isinf(left) else min(AFTER * self.left, left / more)

    def said(
        self, budget: float, limit: float, rates: tuple[int, int], seeds: tuple[int, int], without: list[str],
        passed: float,
    ) -> Choice:  # fmt: skip
        """The budget and what it was enough for: of the learning rates and seeds, how many of how many; where it was
        not kept, the seconds that had `passed` before the page was drawn."""
        counted = {"learning rates tried": rates, "seeds": seeds}
        fewer = [f"{new} of {old} {name}" for name, (new, old) in counted.items() if new < old]
        late = ["no time was left for them when the data were read"] if not self.left else []
        over = [f"not kept: the least that can be compared was done after {say_seconds(passed)}"] * (passed > budget)
        each = f"at most {say_seconds(limit)} of training for each run"
        why = [*over, "counted from the opening of the data", each, *late, *fewer, *without]
        return Choice(say_seconds(budget), "given", "; ".join(why))


def share_out(
    left: float, setup: float, methods: int, tries: int, seeds: int, *, fixed: bool = False, longest: float = 0.0
) -> Share:
    """What each run of the comparison gets of the seconds that are left; to set up one and score its beginning and its
    end takes `setup`, a step of the largest batch, which is taken whole, `longest`: all limits together leave room.

    Where setting up would take more than a third of what there is, fewer rates are tried (unless they are fixed), then
    none but the usual one, then fewer seeds are run: one run of each method always is.

    >>> share_out(100.0, 0.1, methods=4, tries=7, seeds=3).seconds
    1.2692307692307692
    >>> share_out(2.0, 0.2, methods=4, tries=7, seeds=3).seeds
    1
    """
    if math.isinf(left):
        return Share(None, tries, seeds)
    ways = [(tries, seeds)] + ([] if fixed else [(t, seeds) for t in (FEW, 0) if t < tries])
    ways += [(ways[-1][0], n) for n in range(seeds - 1, 0, -1)]
    each = [RUNS * left / (methods * (t + n)) - longest / methods for t, n in ways]
    k = next((k for k, seconds in enumerate(each) if seconds >= 3 * setup), len(ways) - 1)
    return Share(training(each[k], setup), *ways[k], left, setup, longest)


def training(each: float, setup: float) -> float:
    """The seconds of training of a run that takes `each` with its setting up and scoring."""
    return max(0.02, (each - setup) / (1 + SCORING))


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
