"""Ctrl-C, SIGTERM and SIGHUP, so that they end a run between two steps."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

INTERRUPTED = "it was interrupted"
Handler = Callable[[int, FrameType | None], object] | int | None


heard: list[int] = []  # the signals by which a command ends, or what it runs; 0: that is said, or it is done


def interrupt(number: int, _frame: object) -> None:
    """What a signal does to a command: the first ends it in order, another one at once. So does the first while torch
    is loaded, which aborts where something is raised in it; nothing is done yet then."""
    if heard or getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False):
        if 0 not in heard or len(heard) == 1:  # else it is said
            with suppress(OSError):
                os.write(2, b"handful: interrupted\n")
        os._exit(128 + number)
    end_by(number)


def end_by(number: int) -> NoReturn:
    """Have the command end as the signal asks."""
    heard.append(number)
    raise KeyboardInterrupt


@dataclass(eq=False)
class Interrupts:
    """Inside the block, Ctrl-C (a scheduler's SIGTERM, a closed terminal) asks the run to stop between two steps, so
    that no update is left half made; a second one raises KeyboardInterrupt at once, in the middle of an update when
    that is made; a third one there too. held: an update is being made, or was left half made."""

    asked: int = 0
    again: bool = False
    held: bool = False
    before: dict[int, Handler] = field(default_factory=dict)

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self.ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt and self.asked:
            heard.append(self.asked)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number: int, _frame: object) -> None:
        if self.asked and (self.again or not self.held):
            raise KeyboardInterrupt
        self.again = bool(self.asked)
        self.asked = number

    @contextmanager
    def one_update(self) -> Iterator[None]:
        """What happens inside is done whole."""
        self.held = True
        yield
        self.done()

    def done(self) -> None:
        """The update is made: what has waited for it happens."""
        self.held = False
        if self.again:
            raise KeyboardInterrupt

    @property
    def exit_status(self) -> int:
        """As of a process that the signal ended: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + (self.asked or signal.SIGINT)

    def pass_on(self) -> None:
        """Let a signal do what it would have done without a run, now that this is written down: end the process, call
        the caller's own handler, stop the run in whose callback this one was. An interruption has done its work."""
        if self.before.get(self.asked, interrupt) not in (interrupt, signal.default_int_handler):
            signal.raise_signal(self.asked)
