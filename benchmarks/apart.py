"""Contenders of bench_data.py's part `disk`, each in a process of its own that is stopped (SIGSTOP) outside its turn.

In one process they would not be alone: MosaicML Streaming's threads go on looking for work after their last mini-batch,
and whoever is measured beside them has a tenth of its speed.

    python benchmarks/apart.py NAME FOLDER      one contender; reads `vif ROWS` and `rate SECONDS` from standard input
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from peers import PEERS, Endless, handful_stream, rate, vif

import handful

OURS: dict[str, dict[str, Any]] = {
    "handful store, exact": {},
    "handful store, block": {"shuffle": "block", "block": 16, "window": 10_240},
}


class Apart:
    """A contender in its own process. Raises RuntimeError with its last words if it cannot be measured."""

    def __init__(self, name: str, folder: Path) -> None:
        command = [sys.executable, __file__, name, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
        )

    def ask(self, what: str, number: float) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(f"{what} {number}\n")
            self.process.stdin.flush()
            said = self.process.stdout.readline()
        except BrokenPipeError:
            said = ""
        if not said:
            words = self.process.communicate()[1].strip().splitlines()
            raise RuntimeError(words[-1] if words else f"exit {self.process.returncode}")
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(said)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def contender(name: str, folder: Path) -> Endless:
    if name in OURS:
        return handful_stream(handful.open(folder / "store", target="y"), **OURS[name])
    return PEERS[name].read(folder)


def main(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    start = contender(name, folder)
    for asked in sys.stdin:
        what, number = asked.split()
        said = vif(start, int(float(number))) if what == "vif" else rate(start, float(number))
        print(json.dumps(said), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
