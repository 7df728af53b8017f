"""The command line. A user's mistake is one sentence on standard error and exit status 2, never a traceback."""

import os
import signal
import sys
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Unpack, cast

import typer
from typer.core import TyperGroup

from handful.base.errors import HandfulError, shown
from handful.base.files import free_folder
from handful.base.version import __version__
from handful.plan.config import OPTIONS, ConfigOptions, Option

if TYPE_CHECKING:
    from handful.runs.run import Run

F = TypeVar("F", bound=Callable[..., None])


class Commands(TyperGroup):
    """Their list, printed without rich, which takes longer to load than all else that it needs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"rich_markup_mode": None})
        for command in self.commands.values():
            command.short_help = command.help  # whole, not cut at the edge


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Mini-batch gradient descent for PyTorch, done properly.",
)

Data = Annotated[str, typer.Argument(help="a file, a folder, or a name: digits, wine, iris, breast_cancer, diabetes")]
RunPath = Annotated[Path, typer.Argument(help="a run folder, as `handful train` printed it")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print only the result")]

# Options of `fit` that `handful train` leaves as they are.
IN_PYTHON = {"clip_value", "compile", "shuffle", "evaluate_every", "save_every", "batch_growth", "step_times", "join"}


def _version(value: bool) -> None:
    if value:
        print(f"handful {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    pass


def _with_options(*names: str, **defaults: str) -> Callable[[F], F]:
    """A command with a flag for each of these options of `fit`, in place of its `**options`.

    Help, defaults and how text is read come from Config; defaults: others than Config's.
    """

    def decorate(command: F) -> F:
        own = [p for p in signature(command).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        flags = [_flag(OPTIONS[name], defaults.get(name, OPTIONS[name].default)) for name in names]
        vars(command)["__signature__"] = Signature([*own, *flags])
        command.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
        return command

    return decorate


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


@app.command()
@_with_options(*(name for name in OPTIONS if name not in IN_PYTHON))
def train(
    data: Data,
    model: Annotated[
        str, typer.Option(help="auto, or a ready-made model: linear, mlp, cnn, resnet(dropout=0.1), ...")
    ] = "auto",
    out: Annotated[Path | None, typer.Option(help="the run folder; runs/NAME-K by default")] = None,
    **options: Unpack[ConfigOptions],
) -> None:
    """Train a model on DATA by mini-batch gradient descent; write a run folder and a report."""
    from handful.fit import fit

    if options.get("resume") and out is None:
        raise HandfulError("--resume goes on with the run in a folder: name it by --out")
    given = {name: value for name, value in options.items() if value != OPTIONS[name].default}  # the rest is fit's own
    _show(fit(model, data, out=out or free_folder(data), **cast(ConfigOptions, given)))


@app.command()
@_with_options(*(name for name in OPTIONS if name not in {*IN_PYTHON, "until", "profile", "resume", "overwrite"}))
def profile(
    data: Data,
    model: Annotated[str, typer.Option(help="auto, or a ready-made model, as in `handful train`")] = "auto",
    steps: Annotated[int, typer.Option(help="steps to take")] = 200,
    out: Annotated[Path | None, typer.Option(help="the run folder; runs/NAME-profile-K by default")] = None,
    **options: Unpack[ConfigOptions],
) -> None:
    """Show where the time of a training step on DATA goes, and of all that comes before; writes trace.json, too."""
    given: ConfigOptions = {**options, "until": f"steps({steps})", "profile": True}
    train(data, model, out or free_folder(data, "-profile"), **given)


@app.command()
@_with_options(
    "target", "valid", "optimizer", "schedule", "device", "seed", "quiet", optimizer="sgd", schedule="constant"
)
def compare(
    data: Data,
    model: Annotated[str, typer.Option(help="auto, or a ready-made model, as in `handful train`")] = "auto",
    batches: Annotated[
        str, typer.Option(help="examples per update, with commas: numbers, auto, full")
    ] = "1,32,auto,full",
    epochs: Annotated[float, typer.Option(help="of every run: equal examples for all")] = 6,
    budget: Annotated[float, typer.Option(help="seconds for the whole comparison, tuning included")] = 300,
    seconds: Annotated[float | None, typer.Option(help="a limit of time for every run besides")] = None,
    lrs: Annotated[str, typer.Option(help="tune: a grid for each batch size; auto; or numbers with commas")] = "tune",
    seeds: Annotated[int, typer.Option(help="runs of each batch size; naming a winner takes 3")] = 3,
    reach: Annotated[str | None, typer.Option(help="what time is measured to, as 'valid_accuracy=0.95'")] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for the page and the numbers; runs/NAME-compare by default")
    ] = None,
    **options: Unpack[ConfigOptions],
) -> None:
    """Compare batch sizes on DATA: one row, mini-batches, auto, all rows. Writes a page."""
    from handful.compare.compare import compare as measure

    goal: tuple[str, float] | None = None
    if reach is not None:
        name, equals, value = reach.partition("=")
        if not equals:
            raise HandfulError(f"--reach must be a score and its value, as 'valid_accuracy=0.95', not '{reach}'")
        goal = (name.strip(), _number(value, "reach"))
    rates = lrs if lrs in ("tune", "auto") else [_number(part, "lrs") for part in lrs.split(",")]
    where = out or free_folder(data + "-compare")
    sizes = [part.strip() for part in batches.split(",")]
    print(measure(model, data, sizes, epochs=epochs, budget=budget, seconds=seconds, lrs=rates, seeds=seeds,
                  reach=goal, out=where, **options))  # fmt: skip
    print(f"report: {where / 'report.html'}")


@app.command()
@_with_options("target", "optimizer", "until", "device", "seed")
def tune(
    data: Data,
    model: Annotated[str, typer.Option(help="auto, or a ready-made model")] = "auto",
    out: Annotated[Path | None, typer.Option(help="where to write the page with the curves")] = None,
    **options: Unpack[ConfigOptions],
) -> None:
    """Measure throughput, memory, noise scale and learning rate on DATA, and advise on batch and learning rate."""
    from handful.plan.advise import advise

    found = advise(model, data, **options)
    print(found)
    if out:
        print(f"report: {found.report(out)}")


@app.command()
def resume(
    run: RunPath,
    until: Annotated[str | None, typer.Option(help="a later stop, for a run that had ended")] = None,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was cut off, from its newest whole checkpoint."""
    from handful.fit import resume as go_on

    _show(go_on(run, quiet=quiet, until=until) if until else go_on(run, quiet=quiet))


@app.command()
def replay(
    run: RunPath,
    step: Annotated[int | None, typer.Option(help="the step, counted from 1")] = None,
    worst: Annotated[bool, typer.Option("--worst", help="the logged step of the highest training loss")] = False,
    spike: Annotated[bool, typer.Option("--spike", help="the logged step of the steepest rise")] = False,
    out: Annotated[Path | None, typer.Option(help="where to write the page; replay-STEP.html of the run")] = None,
) -> None:
    """Take a step of RUN again: its rows, what the model saw, the loss of each row, gradients and update by layer."""
    from handful.fit import replay as again

    if (step is not None) + worst + spike != 1:
        raise HandfulError("name one step: --step K, --worst or --spike")
    found = again(run, step if step is not None else "worst" if worst else "spike")
    found.show()
    print(f"\nreport: {found.write(out or run / f'replay-{found.step}.html')}")


@app.command()
def diff(run: RunPath, other: RunPath) -> None:
    """Show what differs between two runs, and the first step at which their histories part."""
    from handful.runs.diff import diff as compare_runs

    compare_runs(run, other).show()


@app.command()
def evaluate(
    run: RunPath,
    data: Data,
    metrics: Annotated[
        str | None, typer.Option(help="names: 'accuracy, f1, auroc'; those of the run by default")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="where to write the page; evaluation.html of the run")] = None,
) -> None:
    """Score a trained run on DATA: scores, classes or residuals, and the rows it is most wrong about."""
    from handful.fit import load

    trained = load(run)
    found = trained.evaluation(data, metrics)
    found.show()
    page = found.write(out or run / "evaluation.html", f"{trained.plan.model}: evaluation")
    print(f"\nreport: {page}")


@app.command()
def predict(
    run: RunPath,
    data: Annotated[
        str,
        typer.Argument(
            help="a file or folder of raw input, as the run was trained on; - reads CSV from standard input"
        ),
    ],
    out: Annotated[Path | None, typer.Option(help=".csv, .jsonl or .parquet; printed as CSV by default")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="one column a class too")] = False,
    beams: Annotated[int, typer.Option(help="of sequences: above 1, the likeliest labels by prefix search")] = 1,
) -> None:
    """Predict the target of every row of DATA."""
    from handful.fit import load
    from handful.runs.predict import write_predictions

    where = sys.stdin.buffer if data == "-" else data
    write_predictions(load(run), where, out, probabilities=probabilities, beams=beams)


@app.command()
def prepare(
    where: Annotated[str, typer.Argument(help="a file, a folder, a glob in quotes ('data/*.parquet'), tar shards")],
    store: Annotated[Path, typer.Argument(help="the folder to write")],
    target: Annotated[str | None, typer.Option(help="the column to predict, where it is not clear")] = None,
    image_size: Annotated[int | None, typer.Option(help="side in pixels to which images are resized")] = None,
    rate: Annotated[int | None, typer.Option(help="Hz to which sounds are resampled")] = None,
    images: Annotated[str, typer.Option(help="auto, decoded (fast) or encoded (small)")] = "auto",
    shards: Annotated[int, typer.Option(help="parts, for many machines")] = 1,
    workers: Annotated[int | None, typer.Option(help="threads; all cores by default")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the store that is there")] = False,
    bad_rows: Annotated[
        str, typer.Option(help="rows that cannot be read: stop, skip (one in ten), or a number")
    ] = "stop",
    outside: Annotated[
        bool, typer.Option("--outside", help="read files that a table names outside its folder")
    ] = False,
) -> None:
    """Write data of any size as a store, which reads fastest; go on where an earlier call was cut off."""
    from handful.data.store.prepare import prepare as write
    from handful.runs.inspect import show_columns

    written = write(
        where, store, target=target, image_size=image_size, rate=rate, images=images, shards=shards, workers=workers,
        overwrite=overwrite, bad_rows=int(bad_rows) if bad_rows.isdigit() else bad_rows, outside=outside,
    )  # fmt: skip
    show_columns(written)


@app.command()
def sample(
    run: RunPath,
    prompt: Annotated[str, typer.Option(help="the text to go on from")] = "\n",
    length: Annotated[int, typer.Option(help="tokens to write")] = 500,
    temperature: Annotated[float, typer.Option(help="0: the likeliest; 1: as the model believes")] = 0.8,
    seed: Annotated[int, typer.Option(help="another seed, another text")] = 0,
) -> None:
    """Let a language model go on with a text."""
    from handful.fit import load

    print(prompt.lstrip("\n") + load(run).sample(prompt, length, temperature, seed=seed))


@app.command()
def inspect(
    what: Annotated[str, typer.Argument(help="data, a store or a run folder")],
    batch: Annotated[int, typer.Option(help="batch size for the shuffle's quality")] = 64,
    verify: Annotated[bool, typer.Option("--verify", help="read every byte of a store and check it")] = False,
    out: Annotated[Path | None, typer.Option(help="write a page with example rows and pictures here")] = None,
) -> None:
    """Show what DATA holds (rows, columns, classes) or what a run chose and reached."""
    from handful.runs.inspect import check_store, show_data, show_run

    if verify:
        check_store(what)
        return
    if not (Path(what) / "plan.toml").exists():
        show_data(what, batch, out)
    elif out is not None:
        raise HandfulError(f"{what} is a run, and --out is for data: handful report {what} writes its page")
    else:
        show_run(Path(what))


@app.command()
def report(run: RunPath, out: Annotated[Path | None, typer.Option(help="where to write the page")] = None) -> None:
    """Write the page of a run again."""
    from handful.fit import load

    print(load(run, device="cpu").report(out))


@app.command()
def export(run: RunPath, path: Annotated[Path, typer.Argument(help=".safetensors or .pt2")]) -> None:
    """Write the trained model for use elsewhere."""
    from handful.fit import load

    print(load(run, device="cpu").export(path))


@app.command()
def doctor() -> None:
    """Show what this machine has (cores, GPU, memory, packages) and what handful does with it."""
    from handful.plan.doctor import examine_machine
    from handful.report.tables import print_table

    print_table(examine_machine())


def _show(run: "Run") -> None:
    """The result in words; the exit status says where it is none."""
    from handful.runs.inspect import show_result

    if run.rank == 0:  # which speaks for all
        show_result(run)
    if run.exit_status:
        raise typer.Exit(run.exit_status)


def _number(text: str, flag: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise HandfulError(f"--{flag} must hold numbers, not {text.strip()!r}") from None


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(128 + number)


def main() -> None:
    """The entry point of the command.

    Exit statuses: 0; 1 for a pipe that was closed; 2 for a mistake, a file that cannot be read or written; those of a
    run that did not end as it should (3, 4, 129, 130, 143): see `Run.exit_status`.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # a scheduler's stop, a closed terminal: the best weights are kept
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        app()
    except HandfulError as error:
        print(f"handful: {error}", file=sys.stderr)
        sys.last_value = error
        sys.exit(error.exit_status)
    except KeyboardInterrupt as stop:
        print("handful: interrupted", file=sys.stderr)
        sys.exit(stop.args[0] if stop.args else 130)
    except BrokenPipeError:  # `handful predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (OSError, MemoryError) as error:  # a full disk under standard output, a folder that is gone
        print(f"handful: {shown(error) or 'memory ran out; give it fewer rows'}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
