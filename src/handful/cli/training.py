"""Commands that train: train, resume, compare, tune."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from handful.base.errors import HandfulError, shown
from handful.base.expression import positive_integer
from handful.base.files import free_folder
from handful.base.plan import CHANGEABLE, IN_PYTHON
from handful.cli.flags import Data, RunPath, command, named, rank_0_speaks, with_options
from handful.plan.config import OPTIONS, ConfigOptions

if TYPE_CHECKING:
    from handful.runs.run import Run


@command
@with_options(*(name for name in OPTIONS if name not in IN_PYTHON))
def train(
    data: Data,
    model: Annotated[
        str, typer.Option(help="auto, or a ready-made model: linear, mlp, cnn, resnet(dropout=0.1), ...")
    ] = "auto",
    out: Annotated[Path | None, typer.Option(help="the run folder; runs/NAME-K by default")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print every choice with its reason; train nothing")
    ] = False,
    **options: Unpack[ConfigOptions],
) -> object:
    """Train a model on DATA by mini-batch gradient descent; write a run folder and a report."""
    from handful.fit import fit
    from handful.plan.build import assemble
    from handful.report.tables import print_choices

    if options.get("resume") and out is None:
        raise HandfulError("--resume goes on with the run in a folder: name it by --out")
    if dry_run:
        with named(data) as where:
            plan = assemble(model, where, {**options, "quiet": True}).plan
        print_choices(plan.choices)
        for note in plan.notes:
            print(f"note: {shown(note)}")
        return {"choices": {name: vars(choice) for name, choice in plan.choices.items()}, "notes": plan.notes}
    out = out or free_folder(data)
    with named(data, out) as where:
        return _show(fit(model, where, out=out, **options), options)


@command
@with_options(*(name for name in OPTIONS if name not in {*IN_PYTHON, "until", "profile", "resume", "overwrite"}))
def profile(
    data: Data,
    model: Annotated[str, typer.Option(help="auto, or a ready-made model, as in `handful train`")] = "auto",
    steps: Annotated[int, typer.Option(help="steps to take")] = 200,
    out: Annotated[Path | None, typer.Option(help="the run folder; runs/NAME-profile-K by default")] = None,
    **options: Unpack[ConfigOptions],
) -> object:
    """Show where the time of a training step on DATA goes, and of all that comes before; writes trace.json, too."""
    from handful.fit import fit

    given: ConfigOptions = {**options, "until": f"steps({steps})", "profile": True}
    out = out or free_folder(data, "-profile")
    with named(data, out) as where:
        return _show(fit(model, where, out=out, **given), given)


@command
@with_options("target", "columns", "windows", "valid", "optimizer", "schedule", "device", "seed", "quiet",
              optimizer="sgd", schedule="constant")  # fmt: skip
def compare(
    data: Data,
    model: Annotated[str, typer.Option(help="auto, or a ready-made model, as in `handful train`")] = "auto",
    batches: Annotated[
        str, typer.Option(help="examples per update, with commas: numbers, auto, full")
    ] = "1,32,auto,full",
    epochs: Annotated[float, typer.Option(help="of every run: equal examples for all")] = 6,
    budget: Annotated[float, typer.Option(help="seconds from the opening of DATA to the page, tuning included")] = 300,
    seconds: Annotated[float | None, typer.Option(help="a limit of time for every run besides")] = None,
    lrs: Annotated[str, typer.Option(help="tune: a grid for each batch size; auto; or numbers with commas")] = "tune",
    seeds: Annotated[int, typer.Option(help="runs of each batch size; naming a winner takes 3")] = 3,
    reach: Annotated[str | None, typer.Option(help="what time is measured to, as 'valid_accuracy=0.95'")] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for the page and the numbers; runs/NAME-compare by default")
    ] = None,
    **options: Unpack[ConfigOptions],
) -> object:
    """Compare batch sizes on DATA: one row, mini-batches, auto, all rows. Writes a page."""
    from handful.compare.compare import compare as measure

    goal: tuple[str, float] | None = None
    if reach is not None:
        name, _, value = reach.partition("=")
        if len(values := numbers(value, "--reach")) != 1:
            raise HandfulError(f"--reach must be a score and its value, as 'valid_accuracy=0.95', not '{reach}'")
        goal = (name.strip(), values[0])
    rates = lrs if lrs in ("tune", "auto") else numbers(lrs, "--lrs")
    out = out or free_folder(data, "-compare")
    sizes = [part.strip() for part in batches.split(",")]
    with named(data) as where:
        found = measure(model, where, sizes, epochs=epochs, budget=budget, seconds=seconds, lrs=rates, seeds=seeds,
                        reach=goal, out=out, **options)  # fmt: skip
    print(f"{found}\nreport: {shown(out / 'report.html')}")
    answers = [vars(finding) for finding in found.findings]
    return {"table": found.table, "target": vars(found.target), "findings": answers, "report": out / "report.html"}


@command
@with_options("target", "columns", "windows", "valid", "optimizer", "until", "device", "seed", "quiet")
def tune(
    data: Data,
    model: Annotated[str, typer.Option(help="auto, or a ready-made model")] = "auto",
    out: Annotated[Path | None, typer.Option(help="where to write the page with the curves")] = None,
    ranks: Annotated[str, typer.Option(help="numbers of ranks to predict batch and efficiency for: 8,64")] = "",
    link: Annotated[
        str, typer.Option(help="between ranks: seconds of an empty message and bytes per second, as 2e-5,1e10")
    ] = "",
    **options: Unpack[ConfigOptions],
) -> object:
    """Measure throughput, memory, noise scale and learning rate on DATA, and advise on batch and learning rate."""
    from handful.plan.advise import advise

    counts, between = numbers(ranks, "--ranks"), numbers(link, "--link")
    if link and len(between) != 2:
        raise HandfulError(f"--link takes two numbers, as 2e-5,1e10, not {link!r}")
    pair = (between[0], between[1]) if link else None
    with named(data) as where:
        found = advise(model, where, ranks=[positive_integer(n, "ranks") for n in counts], link=pair, **options)
    print(found)
    page = found.report(out) if out else None
    if page:
        print(f"report: {shown(page)}")
    reasons = {name: vars(choice) for name, choice in found.reasons.items()}
    return {"batch": found.batch, "micro_batch": found.micro_batch, "lr": found.lr, "reasons": reasons,
            "table": found.table, "ranks": found.ranks, "notes": found.notes, "report": page}  # fmt: skip


def numbers(text: str, flag: str) -> list[float]:
    """Numbers with commas between them; HandfulError for other text, naming the flag."""
    try:
        return [float(part) for part in text.split(",") if text]
    except ValueError:
        raise HandfulError(f"{flag} takes numbers with commas between them, not {text!r}") from None


@command
@with_options("quiet", *(name for name in OPTIONS if name in CHANGEABLE - IN_PYTHON))
def resume(run: RunPath, **options: Unpack[ConfigOptions]) -> object:
    """Go on with a run that was cut off, from its newest whole checkpoint; with one that ended, to a later --until."""
    from handful.fit import resume as go_on

    return _show(go_on(run, **options), options)


def _show(run: "Run", options: ConfigOptions) -> dict[str, object]:
    from handful.runs.inspect import show_result

    rank_0_speaks(run.rank, run.exit_status)
    show_result(run, why=bool(options.get("quiet")))
    seconds = run.history[-1]["seconds"] if run.history else 0.0
    return {"scores": run.scores, "seconds": seconds, "stopped_because": run.stopped_because, "folder": run.path,
            "report": run.path / "report.html" if run.path else None, "exit_status": run.exit_status}  # fmt: skip
