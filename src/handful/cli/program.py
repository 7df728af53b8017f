"""The command with all its parts. A user's mistake is one sentence on standard error and exit status 2, never a
traceback."""

import os
import re
import sys
from inspect import Parameter, signature
from typing import Annotated

import typer

from handful.base.errors import HandfulError, no_option, shown
from handful.base.plan import IN_PYTHON
from handful.base.version import __version__
from handful.cli import data, results, training, watch
from handful.cli.flags import app
from handful.plan.config import OPTIONS

COMMANDS = [module.__name__ for module in (training, results, watch, data)]  # in the order in which help lists them
app.registered_commands.sort(key=lambda known: COMMANDS.index(known.callback.__module__))
FLAGS = {  # of all commands
    p.name for known in app.registered_commands for p in signature(known.callback).parameters.values()  # type: ignore[arg-type]
    if p.default is not Parameter.empty
}  # fmt: skip
USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, wherever this typer has click


def _version(value: bool) -> None:
    if value:
        print(f"handful {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def in_flags(text: str) -> str:
    """The sentence about options of `fit` in the words of their flags.

    >>> in_flags("bad_rows must be 'stop' or a number, not -1"), in_flags("no target; name it with target=...")
    ("--bad-rows must be 'stop' or a number, not -1", 'no target; name it with --target ...')
    >>> in_flags("batch.csv is no run; 'adam(lr=' is cut off"), in_flags("give it a folder with out=")
    ("batch.csv is no run; 'adam(lr=' is cut off", 'give it a folder with --out')
    """
    name, rest = re.match(r"(\w*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    flag = rest[:1] in (" ", ",", ":") and (name in OPTIONS or (name in FLAGS and rest[:5] == " must"))
    text = f"--{name.replace('_', '-')}{rest}" if flag else text
    named = rf"(?<![\w-])(?<!\w\()({'|'.join((*OPTIONS, 'out'))})=('[^']*'|\"[^\"]*\"|\.\.\.|[\w.]*\w|)"
    return re.sub(named, lambda m: f"--{m[1].replace('_', '-')} {m[2]}".removesuffix(" True").rstrip(), text)


def asked_wrongly(problem: Exception) -> str:
    """A usage error as one sentence, with the right name where another tool's was given."""
    name = getattr(problem, "option_name", None)
    alike = getattr(problem, "possibilities", None) or ()
    if isinstance(name, str):
        if (option := name.lstrip("-").replace("-", "_")) in OPTIONS:
            there = f"handful.fit(..., {option}=...), in Python," if option in IN_PYTHON else "`handful train`"
            return f"this command has no {name}; {there} has"
        if "; here it is " in (said := no_option(name, alike)) or alike:
            return in_flags(said)
    text = re.sub(r"\s+", " ", str(problem.format_message() if hasattr(problem, "format_message") else problem))
    return text[:1].lower() + text[1:].rstrip(".")


def run() -> int:
    """Run the command that was asked for; its exit status.

    0; 1 for a pipe that was closed; 2 for a mistake, a file that cannot be read or written; those of a run that did not
    end as it should (3, 4, 129, 130, 143): see `Run.exit_status`.
    """
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
        return status if type(status) is int else 0
    except USAGE as problem:
        if type(problem).__name__ != "NoArgsIsHelpError":  # whose text is the help
            print(f"handful: {asked_wrongly(problem)}", file=sys.stderr)
        elif text := str(problem):
            print(text)
        return 2
    except HandfulError as error:
        print(f"handful: {in_flags(str(error))}", file=sys.stderr)
        sys.last_value = error
        return error.exit_status
    except BrokenPipeError:  # `handful predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, MemoryError) as error:  # a full disk under standard output, a folder that is gone
        print(f"handful: {shown(error) or 'memory ran out; give it fewer rows'}", file=sys.stderr)
        return 2
