"""Who is there: what the ranks say of themselves beside their messages, in torch's own store."""

import atexit
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch.distributed as dist

from handful.base.errors import HandfulError, some

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")
TICK = 0.1
NEWS = 3.0  # seconds in which the others are heard of, if they live


class Roll:
    """Which ranks wait, which have left and why; read and written by a thread, for the store itself may be silent.

    hosts: whether the store lives in rank 0 (and not in torchrun's agent); left: why another rank has left, or "".
    """

    def __init__(self, store: "Store", rank: int, size: int, *, hosts: bool) -> None:
        self.store, self.rank, self.size, self.hosts = store, rank, size, hosts
        self.left = ""
        self.count = 0  # messages that are over
        self.missing: list[int] | None = None  # the ranks that do not wait for the same message; None: not known
        self.waiting = threading.Event()
        self.thread: threading.Thread | None = None
        store.set(f"here{rank}", process())

    def wait(self) -> None:
        """Say, from now on, that this rank waits for a message, and look what became of the others."""
        self.waiting.set()
        if self.thread is None:
            self.thread = threading.Thread(target=self._watch, name="handful-roll", daemon=True)
            self.thread.start()

    def rest(self) -> None:
        self.waiting.clear()
        self.missing = None

    def _watch(self) -> None:
        try:
            while True:
                self.waiting.wait()
                self.store.set(f"waits{self.rank}", str(self.count))
                if self.store.check(["left"]):
                    self.left = self.store.get("left").decode()
                    self.store.set(f"knows{self.rank}", "")
                self.missing = [r for r in range(self.size) if r != self.rank and not self._waits(r)]
                time.sleep(5 * TICK)
        except RuntimeError:  # the store is gone, and with it the rank that it lives in
            self.missing = [0]

    def _waits(self, rank: int) -> bool:
        return self.store.check([f"waits{rank}"]) and int(self.store.get(f"waits{rank}")) >= self.count

    def account(self, waited: float | None, limit: float, error: str) -> str:
        """Who has left, or is silent after so many seconds, or (None) is gone, in a sentence."""
        self.wait()
        deadline = time.monotonic() + NEWS
        while not self.left and time.monotonic() < deadline and (waited is None or self.missing is None):
            time.sleep(TICK)
        if self.left:
            return self.left
        lost = self.missing if self.missing is not None else [0] * self.hosts
        names = some([self.name(r) for r in lost]) if lost else "a rank"
        if waited is None and not lost:
            return f"a message between the ranks failed: {error}"
        if waited is None:
            return f"{names} is gone: its connection was closed without a word"
        return f"{names} did not answer for {waited:.0f} seconds (timeout={limit:g})"

    def name(self, rank: int) -> str:
        """A rank, with its process and its machine where they are known."""
        with suppress(HandfulError, RuntimeError):
            said = patiently(lambda: self.store.get(f"here{rank}").decode(), 1.0, lambda: "")
            return f"rank {rank} of {self.size} ({said})"
        return f"rank {rank} of {self.size}"

    def leave(self, why: str) -> None:
        """Let the others know why this rank takes no part any more."""

        def say() -> None:
            if not self.store.check(["left"]):
                self.store.set("left", why)
            while (
                self.hosts and self.rank == 0 and not self.store.check([f"knows{r}" for r in range(1, self.size)])
            ):  # the store goes with this process
                time.sleep(TICK)

        with suppress(HandfulError, RuntimeError):
            patiently(say, NEWS, lambda: "")


def prefixed(name: str, store: "Store") -> "Store":
    """The part of a store whose keys begin with a name."""
    part: Store = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
    return part


def process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def patiently(work: Callable[[], T], limit: float, why: Callable[[], str]) -> T:
    """What `work` returns, which may hang in torch: it is done by a thread, so that signals act meanwhile. Raises
    HandfulError(why()) where that takes longer than so many seconds, and what `work` raises."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="handful-ranks", daemon=True)
    thread.start()
    deadline = time.monotonic() + limit
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(TICK)
    if failure:
        raise failure[0]
    if not result:
        raise HandfulError(why())
    return result[0]


def meet(rank: int, size: int, limit: float) -> "Store":
    """The store in which all ranks have met. Raises HandfulError, naming those who have
    not come in so many seconds."""
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError):
        raise HandfulError(
            "ranks meet at MASTER_ADDR and MASTER_PORT, the host of rank 0 and a free port of it: set both in the "
            "environment of each rank, or start them with torchrun"
        ) from None
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    missing = [0] if rank else []

    def come() -> "Store":
        wait = timedelta(seconds=limit)
        tcp = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, is_master=rank == 0 and not agent, timeout=wait, wait_for_workers=False
        )
        store = prefixed(f"handful{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", tcp)
        store.set(f"here{rank}", process())
        while True:
            missing[:] = [r for r in range(size) if not store.check([f"here{r}"])]
            if not missing:
                return store
            time.sleep(TICK)

    def who() -> str:
        names = some([f"rank {r}" for r in missing])
        return f"{names} of {size} did not come to {host}:{port} in {limit:g} seconds (timeout={limit:g})"

    try:
        return patiently(come, limit, who)
    except RuntimeError as error:
        raise HandfulError(
            f"rank {rank} cannot meet the others at {host}:{port}: {str(error).splitlines()[0]}"
        ) from None


def end_at_once() -> None:
    """Let this process, when it ends by an error, not wait for torch's threads, which wait for ranks that are gone."""
    atexit.unregister(_end)
    atexit.register(_end)


def _end() -> None:
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if error is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_status", 1))
