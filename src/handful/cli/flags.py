"""What all commands share: a flag for each option of `fit`, files of options, and answers as JSON."""

import functools
import io
import json
import math
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from inspect import Parameter, Signature, signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, BinaryIO, TypeVar

import typer
from typer.core import TyperGroup

from handful.base.errors import HandfulError, no_option
from handful.base.files import a_file, written_down
from handful.plan.config import OPTIONS, Option

F = TypeVar("F", bound=Callable[..., object])


class Commands(TyperGroup):
    """Their list, printed without rich, which takes longer to load than all else that it needs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"rich_markup_mode": None})
        for command in self.commands.values():
            command.short_help = command.help  # whole, not cut at the edge


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Mini-batch gradient descent for PyTorch, done properly.",
)

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="a file, a folder, or a name: digits, wine, iris, breast_cancer, diabetes; - for standard input",
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder, as `handful train` printed it")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print only the result")]
Json = Annotated[bool, typer.Option("--json", help="print the result as one JSON value, and nothing else")]
ConfigFile = Annotated[Path | None, typer.Option(help="a TOML file of options; flags have precedence over it")]


def command(function: F) -> F:
    """A command whose answer is what it prints or, with --json, what it returns."""

    @functools.wraps(function)
    def run(json: bool = False, **given: object) -> object:  # the flag's name
        with redirect_stdout(io.StringIO()) if json else nullcontext():
            answer = function(**given)
        if json:
            print(as_json(answer))
        match answer:
            case {"exit_status": int(status)} if status:
                raise typer.Exit(status)
        return None

    parameters = [*signature(function).parameters.values()]
    parameters.append(Parameter("json", Parameter.KEYWORD_ONLY, default=False, annotation=Json))
    _sign(run, parameters)
    app.command()(run)
    return function


def with_options(*names: str, **defaults: str) -> Callable[[F], F]:
    """A command with a flag for each of these options of `fit`, in place of its `**options`, and --config.

    Help, defaults and how text is read come from Config; defaults: others than Config's. The command gets what was
    given, by flag or in the file, and these defaults.
    """

    def decorate(function: F) -> F:
        own = [p for p in signature(function).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        flags = [_flag(OPTIONS[name], defaults.get(name, OPTIONS[name].default)) for name in names]

        @functools.wraps(function)
        def run(ctx: typer.Context, config: Path | None = None, **given: object) -> object:
            sources = {name: ctx.get_parameter_source(name) for name in given}
            typed = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
            listed = {p.name for p in own if p.default is not Parameter.empty} | set(names)
            found = {} if config is None else options_of(config, listed)
            found = {name: value for name, value in found.items() if name not in typed}
            kept = {n: v for n, v in given.items() if n in typed or n not in names or n in defaults}
            return function(**{**kept, **found})

        asked = Parameter("config", Parameter.KEYWORD_ONLY, default=None, annotation=ConfigFile)
        context = Parameter("ctx", Parameter.KEYWORD_ONLY, annotation=typer.Context)
        _sign(run, [context, *own, *flags, asked])
        return run  # type: ignore[return-value]

    return decorate


def rank_0_speaks(rank: int, status: int = 0) -> None:
    """End the command here on the other ranks."""
    if rank > 0:
        raise typer.Exit(status)


def standard_input() -> BinaryIO:
    """Standard input; HandfulError where several processes would each get some of it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise HandfulError("several ranks cannot share standard input: name a file")
    return sys.stdin.buffer


@contextmanager
def named(data: str, beside: Path | None = None) -> Iterator[str]:
    """DATA by name; what is piped in, for -, as a file beside that folder or, without one, until the command's end."""
    if data != "-":
        yield data
        return
    with TemporaryDirectory() as folder:
        yield str(written_down(standard_input(), beside or Path(folder) / "stdin"))


def as_bad_rows(text: str | None) -> Any:
    """The rows that may be skipped as `fit` reads its own option from text; None where nothing was given.

    >>> as_bad_rows("60"), as_bad_rows("skip"), as_bad_rows(None)
    (60, 'skip', None)
    """
    return None if text is None else OPTIONS["bad_rows"].kind.read(text)


def options_of(path: Path, known: set[str]) -> dict[str, object]:
    """The options in a TOML file, spelled as flags or as in Python. HandfulError for one that the command lacks."""
    try:
        read = tomllib.loads(a_file(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise HandfulError(f"{path} is not TOML: {problem}") from None
    except OSError as problem:
        raise HandfulError(f"{path} cannot be read: {problem.strerror}") from None
    found = {name.replace("-", "_"): value for name, value in read.items()}
    for name in found:
        if name not in known:
            raise HandfulError(f"{path}: {no_option(name, known)}")
    return {name: Path(str(value)) if name == "out" else value for name, value in found.items()}


def as_json(value: object) -> str:
    """One line of JSON; what is not finite is null, and what JSON does not know is text.

    >>> as_json({"loss": float("nan"), "path": Path("runs/a")})
    '{"loss": null, "path": "runs/a"}'
    """

    def plain(value: object) -> object:
        match value:
            case Mapping():
                return {str(name): plain(item) for name, item in value.items()}
            case None | bool() | int() | str():
                return value
            case float():
                return value if math.isfinite(value) else None
            case Sequence():
                return [plain(item) for item in value]
        return str(value)

    return json.dumps(plain(value), ensure_ascii=False)


def _sign(function: Callable[..., object], parameters: Sequence[Parameter]) -> None:
    """Have typer see these parameters, those without a default first."""
    ordered = sorted(parameters, key=lambda p: p.default is not Parameter.empty)
    keyword = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in ordered]
    vars(function)["__signature__"] = Signature(keyword)
    function.__annotations__ = {p.name: p.annotation for p in keyword}


def _flag(option: Option, default: str | float | None) -> Parameter:
    """The flag of an option as typer wants it: its default is text, which is read as the option's kind says."""
    if isinstance(default, bool):
        hint: object = (
            Quiet if option.name == "quiet" else Annotated[bool, typer.Option(f"--{option.name}", help=option.help)]
        )
    else:
        parsed = typer.Option(parser=option.kind.read, metavar=option.kind.metavar, help=option.help)
        hint, default = Annotated[object, parsed], None if default is None else str(default)
    return Parameter(option.name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)
