"""The pictures of README.md and what its six lines print, made by running them.

    make readme-pictures      # needs chromium; half a minute

Writes docs/img/report.png (the report of the six lines), docs/img/terminal.svg (`handful train digits`), and the
printed block into README.md and README.zh-CN.md. The six lines run after torch.manual_seed(0) and with
deterministic=True, so that no clock decides; tests/test_docs.py runs them so again and holds the block against them.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from handful.report.tables import Grid
from handful.report.words import say_value_of

ROOT = Path(__file__).resolve().parents[1]
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
IMAGES = ROOT / "docs" / "img"
BLOCK = re.compile(r"```\nchoice  value.*?```\n", re.DOTALL)
SHOWN = ("batch", "lr", "until")
WIDTH, LINES = 128, 21  # of the terminal


def six_lines() -> str:
    """Run the six lines where we are; what they print, three of the choices in place of all."""
    code = re.findall(r"```python\n(.*?)```", READMES[0].read_text(encoding="utf-8"), re.DOTALL)[0]
    torch.manual_seed(0)
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        exec(code.replace("verbose=True", "verbose=True, deterministic=True"), names)
    choices = names["run"].plan.choices  # type: ignore[attr-defined]
    rows = [[n, say_value_of(choices[n].value), choices[n].status, choices[n].reason] for n in SHOWN]
    table = Grid(["choice", "value", "status", "reason"], rows).text(width=120)
    printed = out.getvalue().splitlines()
    end = next(k for k, line in enumerate(printed) if line.startswith("stopped: "))
    return "\n".join([table, "...", *printed[end:]])


def picture_of(page: Path, to: Path) -> None:
    """The top of a page as headless Chromium shows it."""
    flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1100,1000", "--virtual-time-budget=9000"]
    command = ["chromium", *flags, f"--screenshot={to}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=180)


def terminal(command: list[str], to: Path) -> None:
    """What a command prints, as SVG whose fonts are the reader's own: the first lines and the last."""
    environment = {**os.environ, "COLUMNS": str(WIDTH)}
    ran = subprocess.run([sys.executable, "-m", "handful.cli", *command], env=environment, check=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    lines = ran.stdout.splitlines()
    if len(lines) > LINES:
        lines = [*lines[: LINES - 6], "...", *lines[-5:]]
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for line in [f"$ handful {' '.join(command)}", *lines]:
        console.print(Text(line), soft_wrap=False)
    drawn = console.export_svg(title="handful", unique_id="handful")
    to.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    if shutil.which("chromium") is None:
        raise SystemExit("chromium is needed for the picture of the report")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        block = f"```\n{six_lines()}\n```\n"
        picture_of(Path(folder) / "runs" / "digits" / "report.html", IMAGES / "report.png")
        terminal(["train", "digits"], IMAGES / "terminal.svg")
    for readme in READMES:
        readme.write_text(BLOCK.sub(lambda _: block, readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
