"""What happens to one of two ranks, again and again: whether both end, with a sentence, in time.

    python benchmarks/ranks_faults.py [--times 10] [--kills 20] [--torchrun 20]

Each fault of tests/training/ranks.py so many times, and a cut link: the ranks in two network namespaces (as root, on
Linux), the link between which goes down while they train. A rank that was stopped goes on when the other has ended,
and ends, too. Then SIGKILL of a rank at a random moment: of 2 ranks one, of 3 ranks one, then one process ends the
run; started by hand, and by torchrun. The end must be that of a run that nothing happened to, to 1e-9. Writes
benchmarks/results/ranks_faults.md.
"""

import argparse
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "training"))
import ranks  # noqa: E402

LIMIT = 8.0  # seconds that the ranks wait for one another
SPARE = 30.0  # to start, and to end, on a busy machine
FAULTS = {  # of rank 1 -> what it says itself; rank 0 names it
    "SIGSTOP": "",
    "link": r"rank 0 of 2 .*(did not answer|gone)",
    "exception": "the cable is loose",
    "no memory": "one row at a time does not fit in memory",
    "data": "rank 1 has other data than rank 0",
    "file": "missing.csv",
    "SIGKILL": "",
}


def joined(rank: int, what: str, folder: Path, place: int) -> int:
    """`ranks.suffer`, of rank 1 in the network namespace of another process."""
    if rank == 1:
        with open(f"/proc/{place}/ns/net") as other:
            if ctypes.CDLL(None, use_errno=True).setns(other.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
    os.environ["GLOO_SOCKET_IFNAME"] = f"v{rank}"
    return ranks.suffer(rank, what, folder, LIMIT)


def linked() -> tuple[subprocess.Popen, int]:
    """Another network namespace, held by a process, and a link to it: 10.9.0.1 here, 10.9.0.2 there."""
    holder = subprocess.Popen(["unshare", "-n", "sleep", "3000"])
    time.sleep(0.5)
    there = ["nsenter", "-t", str(holder.pid), "-n"]
    for command in (
        ["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", str(holder.pid)],
        ["ip", "addr", "add", "10.9.0.1/24", "dev", "v0"], ["ip", "link", "set", "v0", "up"],
        [*there, "ip", "addr", "add", "10.9.0.2/24", "dev", "v1"], [*there, "ip", "link", "set", "v1", "up"],
        [*there, "ip", "link", "set", "lo", "up"], ["ip", "link", "set", "lo", "up"],
    ):  # fmt: skip
        subprocess.run(command, check=True)
    return holder, holder.pid


def happens(what: str, seed: int) -> str:
    """What went otherwise than it should, or ""."""
    folder = Path(tempfile.mkdtemp())
    holder = None
    if what == "link":
        holder, place = linked()
        jobs = ranks.launch(2, joined, what, folder, place, folder=folder, MASTER_ADDR="10.9.0.1")
        time.sleep(6 + np.random.default_rng(seed).uniform(0, 3))
        subprocess.run(["ip", "link", "set", "v0", "down"], check=True)
    else:
        jobs = ranks.launch(2, ranks.suffer, what, folder, LIMIT, folder=folder)
    if what == "SIGSTOP":
        jobs[0].join(LIMIT + SPARE)
        os.kill(jobs[1].pid, signal.SIGCONT)
    statuses, said = ranks.ends(jobs, folder, LIMIT + SPARE)
    if holder is not None:
        subprocess.run(["ip", "link", "del", "v0"], check=True)
        holder.kill()
        holder.wait()
    right = all(isinstance(status, int) and status != 0 for status in statuses)
    right &= bool(re.search("rank 1|one row", said[0]) and re.search(FAULTS[what], said[1]))
    return "" if right and "Traceback" not in said[0] else f"{statuses} {said}"


def end_of(folder: Path) -> np.ndarray:
    return np.load(folder / "end.npy")


def killed(seed: int, torchrun: bool) -> tuple[str, int]:
    """What is wrong with the end of a run of which ranks were killed, or ""; and how many kills hit a run at work."""
    rng, folder, alone = np.random.default_rng(seed), Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    (job,) = ranks.launch(1, ranks.go_on, alone, (-1, 0), "end", folder=alone)
    job.join(100)
    hits = 0
    for size in (2, 3, 1):
        kill = (int(rng.integers(size)), float(rng.uniform(0.05, 0.35))) if size > 1 else (-1, 0)
        if torchrun:
            command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), __file__]
            ended = subprocess.run([*command, "--go-on", f"{folder},{kill[0]},{kill[1]}"], capture_output=True)
            statuses: list[object] = [ended.returncode]
        else:
            jobs = ranks.launch(size, ranks.go_on, folder, kill, "end", folder=folder)
            statuses, _ = ranks.ends(jobs, folder)
        hits += any(statuses)
    if statuses != [0]:
        return f"the last one ended with {statuses}", hits
    same = np.allclose(end_of(folder), end_of(alone), rtol=1e-9, atol=1e-12)
    return "" if same else "other weights", hits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--torchrun", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first time")
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--go-on", help="a rank that torchrun started: folder, rank to kill, seconds")
    parser.add_argument("--inside", action="store_true", help="the network is our own")
    args = parser.parse_args()
    if args.go_on:
        folder, rank, seconds = args.go_on.split(",")
        sys.exit(ranks.go_on(int(os.environ["RANK"]), Path(folder), (int(rank), float(seconds)), "end"))
    if not args.inside:
        sys.exit(subprocess.run(["unshare", "-n", sys.executable, *sys.argv, "--inside"]).returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    lines = ["# What happens to one rank", "", __doc__.split("\n\n")[2].replace("\n", " "), "",
             "| what happened | times | ended as they should |", "|---|---|---|"]  # fmt: skip

    def tell(name: str, wrong: list[str]) -> None:
        lines[row:] = [f"| {name} | {len(wrong)} | {wrong.count('')} |"]
        print(lines[-1], wrong[-1], flush=True)
        (ROOT / "benchmarks" / "results" / "ranks_faults.md").write_text("\n".join(lines) + "\n")

    times = range(args.seed, args.seed + args.times)
    for what in filter(None, args.faults.split(",")):
        row, wrong = len(lines), list[str]()
        for seed in times:
            wrong.append(happens(what, seed))
            tell(f"{what} on rank 1", wrong)
    for how, many in (("by hand", args.kills), ("by torchrun", args.torchrun)):
        row, wrong, hits = len(lines), [], 0
        for seed in range(args.seed, args.seed + many):
            said, hit = killed(seed, how == "by torchrun")
            wrong, hits = [*wrong, said], hits + hit
            kills = f"{hits} of {2 * len(wrong)} kills hit a run"
            tell(f"SIGKILL of 1 of 2 ranks, of 1 of 3, then one process, {how} ({kills})", wrong)


if __name__ == "__main__":
    main()
