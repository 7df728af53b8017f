"""The one exception that a user's mistake raises, and the sentence it carries."""

import difflib
from collections.abc import Iterable


class HandfulError(ValueError):
    """What was wrong, where (file, row, column) and what to do, in one clear sentence.

    The command line prints the sentence and exits with status 2; it never shows a traceback for it.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, or the list of names when none is near.

    >>> did_you_mean("adamm", ["sgd", "adam"])
    " Did you mean 'adam'?"
    >>> did_you_mean("zzz", ["sgd", "adam"])
    ' Known: adam, sgd.'
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(names)}."
