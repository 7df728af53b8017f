"""Commands on a run that ended: evaluate, predict, sample, replay, diff, report, export."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from handful.base.errors import HandfulError, shown
from handful.cli.flags import Data, RunPath, as_bad_rows, command, named, rank_0_speaks, standard_input


@command
def evaluate(
    run: RunPath,
    data: Data,
    metrics: Annotated[
        str | None, typer.Option(help="names: 'accuracy, f1, auroc'; those of the run by default")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="where to write the page; evaluation.html of the run")] = None,
    bad_rows: Annotated[
        str | None, typer.Option(help="rows that cannot be read: stop, skip (one in ten), or a number; as trained")
    ] = None,
) -> object:
    """Score a trained run on DATA: scores, classes or residuals, and the rows it is most wrong about."""
    from handful.fit import load

    with load(run).shared() as trained, named(data) as where:
        found = trained.evaluation(where, metrics, bad_rows=as_bad_rows(bad_rows))
    rank_0_speaks(trained.rank)
    found.show()
    page = None
    try:
        page = found.write(out or run / "evaluation.html", f"{trained.plan.model}: evaluation")
        print(f"\nreport: {shown(page)}")
    except (HandfulError, OSError) as error:
        if out is not None:  # else the scores are what was asked for
            raise
        print(f"\nno report: {error}; --out writes it elsewhere")
    return {"scores": found.scores, "rows": found.rows, "classes": found.classes, "worst": found.worst,
            "notes": found.notes, "report": page}  # fmt: skip


@command
def predict(
    ctx: typer.Context,
    run: RunPath,
    data: Annotated[
        list[str],
        typer.Argument(
            help="files or folders of raw input, as the run was trained on; - reads CSV or JSON Lines that are piped in"
        ),
    ],
    out: Annotated[Path | None, typer.Option(help=".csv, .jsonl or .parquet; printed as CSV by default")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="one column a class too")] = False,
    beams: Annotated[int, typer.Option(help="of sequences: above 1, the likeliest labels by prefix search")] = 1,
) -> object:
    """Predict the target of every row of DATA."""
    from handful.fit import load
    from handful.runs.predict import predicted_of, write_predictions

    where = standard_input() if data == ["-"] else data[0] if len(data) == 1 else data
    with load(run).shared() as trained:
        if ctx.params["json"] and out is None:
            chunks = predicted_of(trained, where, probabilities=probabilities, beams=beams)
            answer: object = [dict(zip(chunk, values)) for chunk in chunks for values in zip(*chunk.values())]
        else:
            write_predictions(trained, where, out, probabilities=probabilities, beams=beams)
            answer = {"predictions": out}
    rank_0_speaks(trained.rank)
    return answer


@command
def sample(
    run: RunPath,
    prompt: Annotated[str, typer.Option(help="the text to go on from")] = "\n",
    length: Annotated[int, typer.Option(help="tokens to write")] = 500,
    temperature: Annotated[float, typer.Option(help="0: the likeliest; 1: as the model believes")] = 0.8,
    seed: Annotated[int, typer.Option(help="another seed, another text")] = 0,
) -> object:
    """Let a language model go on with a text."""
    from handful.fit import load

    text = prompt.lstrip("\n") + load(run).sample(prompt, length, temperature, seed=seed)
    print(shown(text) if sys.stdout.isatty() else text)
    return {"text": text}


@command
def replay(
    run: RunPath,
    step: Annotated[int | None, typer.Option(help="the step, counted from 1")] = None,
    worst: Annotated[bool, typer.Option("--worst", help="the logged step of the highest training loss")] = False,
    spike: Annotated[bool, typer.Option("--spike", help="the logged step of the steepest rise")] = False,
    out: Annotated[Path | None, typer.Option(help="where to write the page; replay-STEP.html of the run")] = None,
) -> object:
    """Take a step of RUN again: its rows, what the model saw, the loss of each row, gradients and update by layer."""
    from handful.fit import replay as again

    if (step is not None) + worst + spike != 1:
        raise HandfulError("name one step: --step K, --worst or --spike")
    found = again(run, step if step is not None else "worst" if worst else "spike")
    found.show()
    page = found.write(out or run / f"replay-{found.step}.html")
    print(f"\nreport: {shown(page)}")
    return {"step": found.step, "epoch": found.epoch, "loss": found.loss, "usual": found.usual, "lr": found.rate,
            "rows": found.rows.tolist(), "layers": found.layers, "problem": found.problem, "differs": found.differs,
            "report": page}  # fmt: skip


@command
def diff(run: RunPath, other: RunPath) -> object:
    """Show what differs between two runs, and the first step at which their histories part."""
    from handful.runs.diff import diff as compare_runs

    found = compare_runs(run, other)
    found.show()
    return {"differing": found.differing, "parted": found.parted, "shared": found.shared}


@command
def report(
    runs: Annotated[list[Path], typer.Argument(help="a run folder, or several to see side by side")],
    out: Annotated[Path | None, typer.Option(help="where to write the page")] = None,
) -> object:
    """Write the page of a run again, or one page of several runs side by side."""
    from handful.fit import load
    from handful.report.page import runs_page
    from handful.training.watch.folder import RunFolder

    if len(runs) == 1:
        page = load(runs[0], device="cpu").report(out)
    else:
        alone = len({run.name for run in runs}) == len(runs)
        folders = {run.name if alone else str(run): RunFolder(run) for run in runs}
        found = {name: (folder.plan().choices, *folder.so_far()[:2], folder.unit()) for name, folder in folders.items()}
        page = runs_page(found).write(out or runs[0].parent / "side-by-side.html")
    print(shown(page))
    return {"report": page}


@command
def export(run: RunPath, path: Annotated[Path, typer.Argument(help=".onnx, .pt2 or .safetensors")]) -> object:
    """Write the trained model for use elsewhere, with its preprocessing, and a model card."""
    from handful.fit import load

    written = load(run, device="cpu").export(path)
    print(shown(written))
    return {"export": written}
