"""Time of an evaluation shared by the ranks of a run beside that of the same rows on one of them.

    torchrun --nproc-per-node 2 benchmarks/ranks_evaluation.py [--rounds 7]

A network of 5 million parameters is scored on 12,000 rows, by all ranks together and then by rank 0 alone, while the
others wait; which comes first changes from round to round. Writes benchmarks/results/ranks_evaluation.md.
"""

import argparse
import os
import statistics
from pathlib import Path

import torch
import torch.distributed as dist
from bench_ranks import mlp, now

import handful


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    data = torch.randn(12_000, 784), torch.randint(0, 10, (12_000,))
    how = {"batch": 64, "lr": 1e-3, "until": "steps(2)", "valid": None, "preprocess": None, "quiet": True}
    run = handful.fit(mlp(784, 2048, 1600, 10), data, join=False, **how)  # type: ignore[arg-type]
    ratios: list[list[float]] = []
    for k in range(rounds):
        took, scores = {}, {}
        for together in (True, False) if k % 2 else (False, True):
            dist.barrier()
            begun = now()
            if together:
                with run.shared() as all_of_us:
                    scores[together] = all_of_us.evaluate(data)
            elif dist.get_rank() == 0:
                scores[together] = run.evaluate(data)
            took[together] = [b - a for a, b in zip(begun, now(), strict=True)]
        if dist.get_rank() == 0:
            assert abs(scores[True]["loss"] / scores[False]["loss"] - 1) < 1e-6, scores
            ratios.append([a / b for a, b in zip(took[True], took[False], strict=True)])
    if dist.get_rank() == 0:
        cells = [
            f"{statistics.median(kind):.2f} ({min(kind):.2f}-{max(kind):.2f})" for kind in zip(*ratios, strict=True)
        ]
        lines = [
            "# An evaluation shared by the ranks", "", (__doc__ or "").split("\n\n")[2].replace("\n", " "), "",
            f"{os.cpu_count()} cores at a load of {os.getloadavg()[0]:.0f}, torch {torch.__version__}; medians of "
            f"{rounds} rounds (smallest to largest), of the time on one rank.", "",
            "| ranks | by the clock | of the processor, a rank |", "|---|---|---|",
            f"| {dist.get_world_size()} | {' | '.join(cells)} |",
        ]  # fmt: skip
        print("\n".join(lines[-3:]))
        (Path(__file__).parent / "results" / "ranks_evaluation.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
