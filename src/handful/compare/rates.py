"""The learning rate of each batch size that is compared: given, or the best of some that are tried."""

import math
import time
from collections.abc import Callable, Sequence

from handful.base.errors import HandfulError, some
from handful.compare.budget import Counter
from handful.compare.experiment import Method, Task, run_experiment
from handful.report.words import say_number

GRID = 3.0  # the factor between two learning rates that are tried
TRIES, MORE = 5, 2  # learning rates tried for every method; further ones where the best is at the end of the grid
REFERENCE = 32  # the batch that an optimizer's usual learning rate is taken to be for

Rates = str | float | Sequence[float]
Tuned = tuple[float | str, list[tuple[float, float]]]  # the rate of a method; the rates tried, with the training loss


def most_tries(lrs: Rates) -> int:
    """How many learning rates are tried for each batch size, at most."""
    match lrs:
        case "tune":
            return TRIES + MORE
        case str() | int() | float():
            return 0
    return len(lrs)


def tune(
    task: Task, method: Method, lrs: Rates, usual: float, seed: int, tries: int, fits: Callable[[float], bool],
    counter: Counter,
) -> Tuned:  # fmt: skip
    """The learning rate of a method: given, or the best of runs as long as the compared ones; and the (rate, training
    loss) of each. usual: the optimizer's usual rate, for a batch of REFERENCE rows, which is tried first; tries: rates
    at most; fits: whether there is time for one more that takes so many seconds."""
    match lrs:
        case "auto":
            return "auto", []
        case "tune":
            centre = usual * math.sqrt((method.size or 2 * REFERENCE) / REFERENCE)
            away = sorted((k - min(tries, TRIES) // 2 for k in range(min(tries, TRIES))), key=abs)
            waiting = [_round(centre * GRID**k) for k in away]
            if not waiting:
                return _round(centre), []
        case bool() | str() | []:
            raise HandfulError(f"lrs must be 'tune', 'auto', a learning rate or a list of them, not {lrs!r}")
        case int() | float():
            return float(lrs), []
        case _:
            waiting = [float(v) for v in lrs]
    losses: dict[float, float] = {}
    best, slowest = waiting[0], 0.0
    while waiting and (fits(slowest) or not any(map(math.isfinite, losses.values()))):
        lr, began = waiting.pop(0), time.perf_counter()
        final = run_experiment(task, method, seed, lr, moments=0).last["train_loss"]
        losses[lr] = final if math.isfinite(final) else math.inf
        counter.done()
        slowest = max(slowest, time.perf_counter() - began)
        best = min(losses, key=lambda lr: losses[lr])
        if lrs == "tune" and not waiting and len(losses) < tries and best in (min(losses), max(losses)):
            waiting = [_round(best / GRID if best == min(losses) else best * GRID)]
    tried = sorted(losses.items())
    low, high = tried[0][0], tried[-1][0]
    if not math.isfinite(losses[best]):
        raise HandfulError(f"with {method.name} every rate diverged ({some(sorted(losses), 9)}); give lower lrs")
    counter.done(tries - len(losses))
    counter.say(
        f"{method.name}: learning rate {say_number(best)}, best of {len(tried)} from {say_number(low)} to "
        f"{say_number(high)} (training loss {say_number(losses[best])})"
    )
    return best, tried


def _round(value: float) -> float:
    return float(f"{value:.2g}")
