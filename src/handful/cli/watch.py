"""Look at a run while it goes on: in the terminal, or as a page that this machine alone can open."""

import math
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handful.base.errors import HandfulError
from handful.cli.flags import RunPath, command

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

    from handful.training.watch.folder import RunFolder

EVERY = 0.5  # seconds between two looks at the folder
LOOPBACK = "127.0.0.1"


@command
def watch(
    run: RunPath,
    serve: Annotated[bool, typer.Option("--serve", help="as a page, on this machine alone, until Ctrl-C")] = False,
    port: Annotated[int, typer.Option(help="of the page; 0: any that is free")] = 8421,
) -> object:
    """Follow a run that another process trains, in the terminal or, with --serve, as a page."""
    from handful.training.watch.folder import RunFolder

    folder = RunFolder(run)
    folder.plan()  # or the mistake is said
    if serve:
        with server_of(folder, port) as server:
            print(f"http://{LOOPBACK}:{server.server_port}/ (this machine alone; Ctrl-C ends it)", flush=True)
            server.serve_forever()
    return follow(folder)


def follow(folder: "RunFolder") -> dict[str, object]:
    """Show each new row of the history, until the run has ended."""
    from handful.report.live import Live

    shown = 0
    with Live(None, unit=folder.unit()) as live:
        while True:
            history, scores, why = folder.so_far()
            for before, row in list(pairwise([{}, *history]))[shown:]:
                show = live.evaluation if "valid_loss" in row else live.update
                show({**row, "examples_per_second": speed(before, row)})
            shown = len(history)
            if why:
                live.close(why)
                return {"scores": scores, "stopped_because": why, "folder": folder.path}
            time.sleep(EVERY)


def speed(before: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """Examples per second of the run, not of the look at it, between two rows of its history; NaN where no time did.

    >>> speed({"position": 32, "seconds": 1.0}, {"position": 96, "seconds": 1.5})
    128.0
    """
    seconds = row.get("seconds", 0.0) - before.get("seconds", 0.0)
    return (row.get("position", 0) - before.get("position", 0)) / seconds if seconds > 0 else math.nan


def server_of(folder: "RunFolder", port: int) -> "ThreadingHTTPServer":
    """A server of one page, for this machine alone: the run as it is now or, when it has ended, its report."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # a quarter of the time of `handful --help`

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0]
            if self.path != "/" or host not in (LOOPBACK, "localhost"):  # nor under a name that some site has given us
                self.send_error(404)
                return
            try:
                body = page_of(folder)
            except HandfulError as error:  # the folder is being written anew
                self.send_error(503, str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: the terminal is the user's."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except (OSError, OverflowError) as problem:
        why = getattr(problem, "strerror", "ports are 0 to 65535")
        raise HandfulError(f"port {port} cannot be had ({why}); give --port another, or 0") from None


def page_of(folder: "RunFolder") -> bytes:
    """The page of the run as it is now, which loads itself again; of one that has ended its report."""
    from handful.report.page import file_name, run_page

    (history, scores, why), report = folder.so_far(), folder.path / "report.html"
    if why and report.is_file():
        return report.read_bytes()
    plan = folder.plan()
    return (
        run_page(
            title=f"{plan.model} on {file_name(plan.data)}", plan=plan.choices, history=history, scores=scores,
            stopped_because=why, notes=plan.notes, command=plan.command, reload=not why, unit=folder.unit(),
        ).html().encode("utf-8")
    )  # fmt: skip
