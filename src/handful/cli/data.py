"""Commands on data and on this machine: prepare, inspect, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from handful.base.errors import HandfulError
from handful.cli.flags import as_bad_rows, command


@command
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
) -> object:
    """Write data of any size as a store, which reads fastest; go on where an earlier call was cut off."""
    from handful.data.store.prepare import prepare as write
    from handful.runs.inspect import show_columns

    written = write(
        where, store, target=target, image_size=image_size, rate=rate, images=images, shards=shards, workers=workers,
        overwrite=overwrite, bad_rows=as_bad_rows(bad_rows), outside=outside,
    )  # fmt: skip
    return show_columns(written)


@command
def inspect(
    what: Annotated[str, typer.Argument(help="data, a store or a run folder")],
    batch: Annotated[int, typer.Option(help="batch size for the shuffle's quality")] = 64,
    verify: Annotated[bool, typer.Option("--verify", help="read every byte of a store and check it")] = False,
    full: Annotated[bool, typer.Option("--full", help="the quality of the shuffle too; of a run every choice")] = False,
    out: Annotated[Path | None, typer.Option(help="write a page with example rows and pictures here")] = None,
) -> object:
    """Show what DATA holds (rows, columns, classes) or what a run chose and reached."""
    from handful.runs.inspect import check_store, show_data, show_run

    if verify:
        check_store(what)
        return {"whole": True}
    if not (Path(what) / "plan.toml").exists():
        return show_data(what, batch, out, full=full)
    if out is not None:
        raise HandfulError(f"{what} is a run, and --out is for data: handful report {what} writes its page")
    return show_run(Path(what), full=full)


@command
def doctor() -> object:
    """Show what this machine has (cores, GPU, memory, packages) and what handful does with it."""
    from handful.cli.doctor import examine_machine
    from handful.report.tables import print_table

    found = examine_machine()
    print_table(found)
    return found
