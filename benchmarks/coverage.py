"""How often the 90% interval of the noise scale holds the full data's value: `python benchmarks/coverage.py`.

For the workloads of choice.py, after 2% and after 30% of a run at batch 32 and three times the usual rate: the value is
that of all training rows in parts of 8. The probes are those of a decision: parts of 32 rows, at most 16, drawn without
replacement, under the step times T = 128 + B, stopped after 4, 8 or 12 parts where the batch is clear. Beside it the
same without stopping. Writes benchmarks/results/coverage.md.
"""

import platform
from functools import partial
from typing import Any

import numpy as np
import torch
from choice import fresh
from choice_workloads import HERE, WORKLOADS, Workload

from handful.data.base import Batch
from handful.plan.build import assemble
from handful.plan.probe.decide import batch_cap, tells_enough, tested_sizes
from handful.plan.probe.noise_scale import gradient_in_parts, pool
from handful.plan.probe.step_time import Throughput, powers_of_two
from handful.plan.probe.steps import train

PROBES = 200
ROWS, PARTS = 32, 16
STOPPED, NEVER = 0, 1


def probes(t: Any, whole: Batch, phi: float, cap: int) -> np.ndarray:
    """Of each probe, stopped and never stopped: (covered, no upper end, parts), float64 [2, PROBES, 3]."""
    tp = Throughput.law(128, 1, powers_of_two(cap, 4))
    stop = partial(tells_enough, throughput=tp, sizes=tested_sizes(tp, cap))
    generator = np.random.default_rng(1)
    found = np.zeros((2, PROBES, 3))
    for k in range(PROBES):
        at = generator.choice(len(whole), ROWS * PARTS, replace=False)
        batch = Batch({name: whole.tensor(name)[at] for name in whole.columns}, whole.rows[at])
        for which, enough in ((STOPPED, stop), (NEVER, None)):
            measured = gradient_in_parts(t.objective, batch, PARTS, seed=k, enough=enough)[1]
            scale = pool([measured])
            found[which, k] = scale.low <= phi <= scale.high, not np.isfinite(scale.high), measured.parts
    return found


def rows_of(w: Workload) -> list[tuple[str, np.ndarray]]:
    """A line of the table for each moment of the run, and the means over probes, [2, 3]."""
    data = w.data()
    n = len(data[0][0])
    t = assemble(fresh(w, 0), data[0], {"valid": data[1], "loss": w.loss, "optimizer": w.optimizer, "batch": 32,
                 "lr": 3 * w.lr, "metrics": None, "quiet": True, "threads": 1, "until": f"epochs({w.epochs})",
                 "schedule": "constant"})  # fmt: skip
    lines = []
    for share in (0.02, 0.3):
        train(t, 32, max(1, round((share * n * w.epochs - t.state.position) / 32)))
        t.objective.model.train()
        whole = t.batches.at(0, n - n % 8)
        phi = pool([gradient_in_parts(t.objective, whole, len(whole) // 8)[1]]).value
        assert phi is not None
        mean = probes(t, whole, phi, batch_cap(n)).mean(1)
        (stopped, open_, parts), (never, never_open, _) = mean
        said = [f"{share:.0%}", f"{phi:.3g}", f"{stopped:.1%}", f"{open_:.0%}", f"{parts:.1f}", f"{never:.1%}"]
        lines.append((f"| {' | '.join([w.name, *said, f'{never_open:.0%}'])} |", mean))
        print(lines[-1][0], flush=True)
    return lines


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for w in WORKLOADS.values() if w.there for row in rows_of(w)]
    stopped, never = np.mean([mean for _, mean in rows], axis=0)[:, 0]
    text = [
        "# Whether the interval of the noise scale covers",
        "",
        f"{platform.machine()}, {platform.system()}, torch {torch.__version__}, one thread; {PROBES} probes a row. "
        "`python benchmarks/coverage.py`; its first page says what is compared with what. `no upper end`: the share of "
        "probes whose interval is open above.",
        "",
        "| workload | of the run | phi of all rows | covered | no upper end | parts, mean | covered, never stopped | "
        "no upper end |",
        "|---|---|---|---|---|---|---|---|",
        *(line for line, _ in rows),
        "",
        f"Mean over the rows: {stopped:.1%} (never stopped: {never:.1%}) of intervals that claim 90%.",
    ]
    print(text[-1])
    (HERE / "results" / "coverage.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
