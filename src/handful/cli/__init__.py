"""The command line. Signals are heard before anything heavy is loaded: torch takes seconds. Help must not wait for it,
so each command imports what it runs."""

import signal
import sys

from handful.base.errors import HandfulError
from handful.training.process.interrupts import heard, interrupt


def hear_again(lost: "sys.UnraisableHookArgs") -> None:
    """A signal that came in a destructor or the like, where Python drops what is raised, is raised a moment later."""
    if not heard or lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def main() -> None:
    """The entry point of the command: it ends with an exit status (see `program.run`), that of a signal included."""
    heard.clear()
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = hear_again
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a scheduler's stop, a closed terminal, too
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    status = None
    try:
        from handful.cli.program import run

        status = run()
    except BaseException:  # whatever a library has made of it
        if not heard:
            raise
    if heard:
        sys.last_value = stopped = HandfulError("interrupted")
        stopped.exit_status = status = 128 + heard[0]
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # it is said once
        print(f"handful: {stopped}", file=sys.stderr)
        heard.append(0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        exec("")  # CPython ends by the signal, not by the status, where the last exec of a text was interrupted
    heard.append(0)  # what was done is done: from here on a signal ends the process at once
    sys.exit(status)
