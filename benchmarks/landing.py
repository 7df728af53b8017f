"""Would a run that stops on a plateau do better if its rate were brought down first? `python benchmarks/landing.py`.

The cosine ends with the planned run; where a plateau stops it sooner, the rate is still high. Here such a run goes on
from where it stopped, its rate falling in a straight line from where it was to 0, without a jump, over 15% of its
length, at least half an epoch; four looks at the held-out rows on the way. Weights are kept by the held-out loss, those
of the run itself among them. Two kinds of run: everything open (weights are averaged), and Adam's usual 1e-3 with
until="epochs(60) | plateau(5)" (they are not). Each cell: loss on test rows after over before, at two seeds; in
brackets the epochs of the run and the factor of the rate there.
"""

import argparse
import sys
from typing import Any

import torch
from never_worse import fresh, parts, score
from never_worse_data import SETS, Set

from handful.fit import run_training
from handful.plan.build import assemble
from handful.plan.probe.steps import step
from handful.training.watch.evaluation import evaluated
from handful.training.watch.observe import restore_best
from handful.training.watch.weights import Weights, copy_weights, load_weights

KINDS: dict[str, dict[str, object]] = {"open": {}, "given": {"lr": 1e-3, "until": "epochs(60) | plateau(5)"}}
LENGTH, LOOKS = 0.15, 4


def landed(s: Set, seed: int, options: dict[str, object]) -> str:
    """A cell of the table."""
    train, valid, test = parts(s, seed)
    t = assemble(fresh(s, seed), train, {"valid": valid, "seed": seed, "quiet": True} | options)
    ends: list[Weights] = []

    def remember(training: Any) -> None:
        ends.append(copy_weights(training.objective.model))
        restore_best(training)

    module = sys.modules["handful.fit"]
    module.restore_best = remember  # type: ignore[attr-defined]
    try:
        run = run_training(t, [])
    finally:
        module.restore_best = restore_best  # type: ignore[attr-defined]
    model, state = t.objective.model, t.state
    before = score(model, test)["loss"]
    best = (run.best["valid_loss"] if run.best else 0.0, before)
    position, factor = state.position, t.schedule(t.progress())
    load_weights(model, ends[0])
    steps = max(LOOKS, max(t.examples // 2, int(LENGTH * position)) // state.batch)
    model.train()
    for k in range(steps):
        step(t, t.batches.at(state.position, state.batch), factor * (1 - k / steps))
        if (k + 1) % (steps // LOOKS) == 0:
            with evaluated(state):
                best = min(best, (score(model, valid)["loss"], score(model, test)["loss"]), key=lambda pair: pair[0])
            model.train()
    return f"{best[1] / before:.3f} ({position / t.examples:.3g} epochs, {factor:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    few = ["few-patients", "wrong-labels", "deep", "uneven", "heavy", "friedman"]
    parser.add_argument("--only", type=lambda s: s.split(","), default=few)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| data | {' | '.join(KINDS)} |\n|---|---|---|")
    for name in args.only:
        cells = ["; ".join(landed(SETS[name], seed, options) for seed in (0, 1)) for options in KINDS.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
