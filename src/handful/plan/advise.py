"""`handful.advise`: what batch, micro-batch and learning rate suit a model, its data and this machine, and why."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handful.base.plan import Choice
from handful.plan.probe.decide import decide
from handful.plan.probe.decision import Decision
from handful.plan.probe.memory import Memory
from handful.plan.probe.noise_scale import NoiseScale
from handful.plan.probe.step_time import Throughput

SHARE = 0.25  # of the planned examples, at most: advice is asked for on its own, and is no part of a run
REGRET = 1.10


@dataclass
class Advice:
    """What was measured and what it advises.

    batch, micro_batch (None: the whole batch at once), lr: the advised values; reasons: name -> Choice with status
    and reason of each; noise_scale: None where it has no meaning or the run is too short; table: a dict per batch
    size with batch, seconds, examples_per_second, memory (bytes), relative_time (predicted time to a target over the
    best one's; None without a noise scale) and verdict; notes: what else there is to know.
    """

    batch: int
    micro_batch: int | None
    lr: float
    noise_scale: NoiseScale | None
    throughput: Throughput
    memory: Memory | None
    reasons: dict[str, Choice]
    table: list[dict[str, Any]]
    notes: list[str]
    decision: Decision

    def __str__(self) -> str:
        from handful.report.tables import text_table
        from handful.report.words import say_bytes, say_count, say_number, say_seconds

        rows = [
            {
                "batch": row["batch"],
                "a step": say_seconds(row["seconds"]),
                "examples/s": say_count(row["examples_per_second"]),
                "memory": "" if row["memory"] is None else say_bytes(row["memory"]),
                "time to target": "" if row["relative_time"] is None else f"{row['relative_time']:.2f}",
                "verdict": row["verdict"],
            }
            for row in self.table
        ]
        chosen = [
            f"{name.replace('_', ' ')} {say_number(c.value) if c.value is not None else 'whole batch'} "
            f"({c.status}): {c.reason}"
            for name, c in self.reasons.items()
            if name != "batch_growth"
        ]
        scale = self.noise_scale
        noise = [f"noise scale: {scale}"] if scale is not None else []
        return "\n".join([text_table(rows), "", *chosen, *noise, *(f"note: {n}" for n in self.notes)])

    def report(self, path: str | Path = "advice.html") -> Path:
        """Write the page with the curves, one file that opens offline. Returns its path."""
        from handful.plan.advice_page import advice_page

        return advice_page(self).write(path)


def advise(model: Any, train: Any, **options: Any) -> Advice:
    """Measure, on this machine, which batch, micro-batch and learning rate suit `model` on `train`; trains nothing.

    model, train and options are those of `fit` (loss=, optimizer=, until=, valid=, ...). `until` says how long the
    run is to be, which matters: the longer, the more can be measured. At most a quarter of its examples go through
    the model. The model is left as it was, to the bit. Raises HandfulError as `fit` does.

    >>> import handful, torch
    >>> advice = handful.advise(torch.nn.Linear(4, 3), "iris", until="epochs(20)")
    >>> advice.batch in (4, 8, 16), advice.reasons["batch"].status in ("measured", "bounded")
    (True, True)
    """
    from handful.plan.build import assemble

    given = {k: v for k, v in options.items() if k not in ("batch", "lr", "micro_batch")}
    t = assemble(model, train, given | {"quiet": True}, measure=False)
    d = decide(t, share=SHARE, measure_all=True)
    if d.throughput is None or d.batch is None or d.lr is None:
        from handful.base.errors import HandfulError

        raise HandfulError("; ".join(d.notes) or "nothing could be measured")
    reasons = {"batch": d.batch, "lr": d.lr}
    whole = Choice(None, "measured", f"{d.batch.value} rows fit in memory at once")
    reasons["micro_batch"] = d.micro_batch or whole
    if d.growth is not None:
        reasons["batch_growth"] = d.growth
    micro = reasons["micro_batch"].value
    return Advice(d.batch.value, micro, d.lr.value, d.noise, d.throughput, d.memory, reasons, table_of(d), d.notes, d)


def predicted(d: Decision, sizes: Any, phi: float) -> Any:
    """Predicted time to a target at each size, T(B) (B + phi) / B, over the least among the tested sizes."""
    assert d.throughput is not None
    tested = np.array([d.throughput(n) * (n + phi) / n for n in d.throughput.sizes])
    return np.array([d.throughput(n) * (n + phi) / n for n in sizes]) / tested.min()


def table_of(d: Decision) -> list[dict[str, Any]]:
    """A row a tested batch size, and one a size that failed."""
    tp = d.throughput
    assert tp is not None
    assert d.batch is not None
    relative: list[float | None] = [None] * len(tp.sizes)
    if d.noise is not None and d.noise.value is not None:
        relative = [float(v) for v in predicted(d, tp.sizes, d.noise.value)]
    rows = []
    for n, seconds, time in zip(tp.sizes, tp.seconds, relative, strict=True):
        micro = tp.micro_batches.get(n)
        if n == d.batch.value:
            verdict = "advised"
        elif time is None:
            verdict = ""
        else:
            verdict = "as good" if time <= REGRET else f"{time:.1f} times as long"
        if micro:
            verdict += f"; {micro} rows at a time"
        rows.append(
            {
                "batch": n,
                "seconds": seconds,
                "examples_per_second": n / seconds,
                "memory": None if d.memory is None else d.memory.at(micro or n),
                "relative_time": time,
                "verdict": verdict.strip("; "),
            }
        )
    for n, why in tp.failed:
        rows.append({"batch": n, "seconds": float("nan"), "examples_per_second": float("nan"), "memory": None,
                     "relative_time": None, "verdict": f"failed: {why}"})  # fmt: skip
    return rows
