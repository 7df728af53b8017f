"""The command line. Signals are heard before anything heavy is loaded: torch takes seconds. Help must not wait for it,
so each command imports what it runs."""

import signal
import sys

from handful.base.errors import HandfulError
from handful.training.process.interrupts import heard, interrupt


def main() -> None:
    """The entry point of the command: it ends with an exit status (see `program.run`), that of a signal included."""
    heard.clear()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a scheduler's stop, a closed terminal, too
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
        print(f"handful: {stopped}", file=sys.stderr)
        exec("")  # CPython ends by the signal, not by the status, where the last exec of a text was interrupted
    heard.append(0)  # what was done is done: from here on a signal ends the process at once
    sys.exit(status)
