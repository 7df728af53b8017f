"""How long a step takes on more ranks, and the batch for them, from parts that were measured on few.

A step of B rows on n ranks takes T = a + b B / n, as on one, and then the gradients are summed: a ring passes 2 (n - 1)
messages on, each of an n-th of the bytes (Patarasuk and Yuan 2009). What is hidden behind the backward pass is left
out, so the times are upper bounds. Progress per second is in proportion to B / (T (B + phi)): it is greatest where B is
the square root of phi n (a + the sum's time) / b.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import TypedDict

import torch

from handful.base.expression import number
from handful.report.tables import text_table
from handful.report.words import say_count, say_seconds
from handful.training.process.messages import Messages

SMALL, TIMES = 1 << 12, 7  # bytes of the message that tells the delay; messages of each size
LEAST = 1e-12  # seconds a row: times that do not rise with the batch tell no more
FULL = 0.9  # of the best throughput: the batch to use where there is no noise scale


class RankRow(TypedDict):
    """What is predicted for so many ranks. efficiency: progress per second, over that of one rank times their number
    (examples per second where there is no noise scale)."""

    ranks: int
    batch: int
    seconds: float
    examples_per_second: float
    efficiency: float


@dataclass(frozen=True)
class Link:
    """What lies between two ranks. delay: seconds of an empty message; speed: bytes per second."""

    delay: float
    speed: float

    def __post_init__(self) -> None:
        number(self.delay, "the delay of a link", least=0)
        number(self.speed, "the speed of a link", above=0)

    def sum(self, size: float, ranks: int) -> float:
        """Seconds to sum so many bytes over the ranks.

        >>> Link(1e-5, 1e9).sum(1e6, 2), Link(1e-5, 1e9).sum(1e6, 1)
        (0.00102, 0.0)
        """
        return 2 * (ranks - 1) * (self.delay + size / (ranks * self.speed))


def measure_link(messages: Messages, size: int, device: torch.device) -> Link:
    """The link between these ranks, from the times of a small message and of one of so many bytes. All take part."""
    n, seconds = messages.size, []
    for each in (SMALL, max(size, 4 * SMALL)):
        values, times = torch.zeros(each // 4, device=device), []
        for _ in range(TIMES):
            begun = time.perf_counter()
            messages.finish(messages.sum(values), values)
            float(values[0])
            times.append(time.perf_counter() - begun)
        seconds.append(float(messages.told(str(median(times)))))
    passed = max(size, 4 * SMALL) - SMALL
    per_byte = max(seconds[1] - seconds[0], 1e-9) / (2 * (n - 1) * passed / n)
    return Link(max(0.0, seconds[0] / (2 * (n - 1)) - SMALL / n * per_byte), 1 / per_byte)


def predict(
    a: float, b: float, size: float, link: Link, phi: float | None, ranks: Iterable[int], most: int
) -> list[RankRow]:
    """A row for each number of ranks. a, b: of a step on one, a + b B seconds; size: bytes of the gradients; phi: the
    noise scale, in rows; most: the largest batch to consider.

    >>> for row in predict(1e-3, 1e-4, 4e6, Link(1e-5, 1e9), 1000.0, (1, 8, 64), 10**6):
    ...     print(row["ranks"], row["batch"], round(row["efficiency"], 2))
    1 100 1.0
    8 807 0.37
    64 2547 0.1
    """

    def at(n: int) -> RankRow:
        fixed, each = a + link.sum(size, n), max(b, LEAST) / n
        best = math.sqrt(phi * fixed / each) if phi else FULL / (1 - FULL) * fixed / each
        batch = int(min(max(n, round(best)), max(n, most)))
        seconds = fixed + each * batch
        progress = batch / (seconds * (batch + phi)) if phi else batch / seconds
        return RankRow(ranks=n, batch=batch, seconds=seconds, examples_per_second=batch / seconds, efficiency=progress)

    one = at(1)["efficiency"]
    return [row | {"efficiency": row["efficiency"] / (one * row["ranks"])} for row in map(at, ranks)]


def as_text(rows: Iterable[RankRow]) -> str:
    return text_table(
        [
            {
                "ranks": row["ranks"],
                "batch": row["batch"],
                "step": say_seconds(row["seconds"]),
                "examples/s": say_count(row["examples_per_second"]),
                "efficiency": f"{row['efficiency']:.0%}",
            }
            for row in rows
        ]
    )
