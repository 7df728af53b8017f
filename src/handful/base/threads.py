"""Work done ahead by threads, its results in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

R = TypeVar("R")
T = TypeVar("T")


def in_order(
    work: Callable[[R], T],
    inputs: Iterable[R],
    workers: int,
    ahead: int,
    *,
    name: str,
    start: Callable[[], None] | None = None,
    wait: bool = True,
) -> Generator[T, None, None]:
    """`work` done on each of `inputs` by threads, its results in the same order; with 0 workers by the caller itself.

    ahead: inputs begun besides the one whose result is waited for; start: called in each new thread; wait: whether a
    loop that is left early waits for the work begun. Raises what `work` raises, when its result is due.
    """
    if workers == 0:
        yield from map(work, inputs)
        return
    pool = ThreadPoolExecutor(workers, name, start)
    begun: deque[Future[T]] = deque()
    try:
        for one in inputs:
            begun.append(pool.submit(work, one))
            del one
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait, cancel_futures=True)
