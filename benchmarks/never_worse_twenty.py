"""Twenty sets named before anything was trained on them, everything open, against the best of four loops.

    HANDFUL_PACKAGES=FOLDER nice python benchmarks/never_worse_twenty.py [--only delays,hiv] [--seeds 0,1,2]

The sets and their packages: never_worse_twenty_data.py. A third of the rows tests, 15% of the rest pick the weights.
The loops: Adam at 1e-3 (where momentum is given, SGD at 0.01) in batches of 32 and 128, patience 3, of 15 and of 60
epochs at most; that with the lowest mean loss on the *test* rows counts. Each run is kept in
benchmarks/.cache/never_worse_twenty; give another label when handful has changed.
"""

import argparse
import copy
import json
import math
import statistics
import time

import never_worse as nw
import numpy as np
import torch
from choice_workloads import HERE
from never_worse_twenty_data import SETS

from handful.fit import run_training
from handful.plan.build import assemble
from handful.training.watch.evaluation import evaluate

CACHE = HERE / ".cache" / "never_worse_twenty"


def parts(name, seed):
    """Training, held-out and test rows; columns of numbers standardized by the first."""
    x, y = SETS[name][0]()
    order = np.random.default_rng(100 + seed).permutation(len(y))
    test, rest = np.split(order, [len(y) // 3])
    valid, train = np.split(rest, [round(0.15 * len(rest))])
    if x.ndim == 2 and x.dtype == np.float32:
        m, s = x[train].mean(0), x[train].std(0)
        x = np.clip((x - m) / np.where(s > 0, s, 1), -10, 10)
    return (x[train], y[train]), (x[valid], y[valid]), (x[test], y[test])


def plain(name, seed, batch):
    """Test scores of a loop's best weights of 15 and of 60 epochs."""
    train, valid, test = parts(name, seed)
    torch.manual_seed(seed)
    model = SETS[name][1]()
    ready = isinstance(model, str)
    if ready:
        t = assemble(
            model,
            train,
            {"valid": valid, "seed": seed, "batch": batch, "lr": 1e-3, "quiet": True, "threads": 1},
            measure=False,
        )
        model = t.objective.model
        held = t.valid
    else:
        x, y = (torch.as_tensor(v) for v in train)
    opt = (
        torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        if "momentum" in name
        else torch.optim.Adam(model.parameters(), lr=1e-3)
    )
    best, stale, kept15, curve = math.inf, 0, None, []
    began = time.process_time()
    for e in range(1, 61):
        model.train()
        if ready:
            for p in range(-(-(e - 1) * t.examples // batch) * batch, e * t.examples, batch):
                opt.zero_grad()
                s = t.objective.sums(t.objective.to_device(t.batches.at(p, batch)))
                (s.loss / s.weight).backward()
                opt.step()
            v = evaluate(t.objective, held.epoch(512))["loss"]
        else:
            for rows in torch.randperm(len(y)).split(batch):
                opt.zero_grad()
                nw.loss_of(model(x[rows]), y[rows]).backward()
                opt.step()
            v = nw.score(model, valid)["loss"]
        curve.append(v)
        stale += 1
        if v < best:
            best, kept, stale, at = v, copy.deepcopy(model.state_dict()), 0, e
        if e == 15 or (stale >= 3 and e < 15):
            kept15, s15 = kept, time.process_time() - began
        if stale >= 3:
            break

    def sc():
        return nw.score_ready(t, test) if ready else nw.score(model, test)

    model.load_state_dict(kept15)
    a = sc() | {"seconds": s15}
    model.load_state_dict(kept)
    b = sc() | {"seconds": time.process_time() - began}
    return {"15": a, "60": b, "curve": curve, "at": at}


def mine(name, seed, options):
    """Test scores of handful with everything open but `options`."""
    train, valid, test = parts(name, seed)
    torch.manual_seed(seed)
    model = SETS[name][1]()
    given = (
        {"valid": valid, "seed": seed, "quiet": True}
        | ({"optimizer": "momentum"} if "momentum" in name else {})
        | options
    )
    began = time.process_time()
    run = run_training(assemble(model, train, given), [])
    sec = time.process_time() - began
    f = nw.of_run(run, test) if isinstance(model, str) else nw.score(model, test)
    return f | {
        "seconds": sec,
        "curve": [[r["epoch"], r["valid_loss"], r.get("train_loss")] for r in run.history if "valid_loss" in r],
        "best": run.best["epoch"] if run.best else None,
        "plan": {
            k: [c.value if isinstance(c.value, (int, float, str)) else str(c.value), c.status, c.reason]
            for k, c in run.plan.choices.items()
            if k in ("batch", "lr", "until", "l2")
        },
        "notes": [*run.plan.notes, *(r["note"] for r in run.history if "note" in r)],
        "stopped": run.stopped_because,
    }


def cached(name, seed, label, options):
    p = CACHE / name.replace("/", "-") / f"{label}-{seed}.json"
    if not p.exists():
        p.parent.mkdir(exist_ok=True, parents=True)
        f = plain(name, seed, int(label[6:])) if label.startswith("plain-") else mine(name, seed, options)
        p.write_text(json.dumps(f))
    return json.loads(p.read_text())


def row(name, seeds, label, options):
    """Print a set's row; its ratio to the best of four loops, and to the better one of 15 epochs."""
    P = {b: [cached(name, s, f"plain-{b}", {}) for s in seeds] for b in (32, 128)}
    M = [cached(name, s, label, options) for s in seeds]
    loops = {(b, e): [r[e] for r in P[b]] for b in P for e in ("15", "60")}
    key = min(loops, key=lambda k: statistics.mean(r["loss"] for r in loops[k]))
    best = loops[key]

    def mean(rs):
        return statistics.mean(r["loss"] for r in rs)

    ratio = mean(M) / mean(best)
    each = [m["loss"] / b["loss"] for m, b in zip(M, best)]
    k15 = min(mean(loops[b, "15"]) for b in P)
    acc = ""
    if M[0]["right"]:
        d = np.concatenate([np.subtract(m["right"], b["right"]) for m, b in zip(M, best)])
        err = d.std() / math.sqrt(len(d)) or 1
        acc = f"{100 * d.mean():+.1f} ({d.mean() / err:+.1f})"
    seconds = [statistics.mean(r["seconds"] for r in runs) for runs in (M, best)]
    shown = [
        name,
        f"{mean(best):.4f} ({key[0]}, {key[1]})",
        f"{mean(M):.4f}",
        f"**{ratio:.3f}**",
        f"{min(each):.2f} to {max(each):.2f}",
        f"{mean(M) / k15:.3f}",
        acc,
        f"{seconds[0]:.1f} ({seconds[1]:.1f})",
    ]
    print(f"| {' | '.join(shown)} |", flush=True)
    return ratio, mean(M) / k15


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda s: s.split(","), default=list(SETS))
    parser.add_argument("--seeds", type=lambda s: [int(k) for k in s.split(",")], default=[0, 1, 2])
    parser.add_argument("--label", default="handful")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| data | plain (batch, epochs) | handful | ratio | of seeds | over 15 epochs | accuracy (errors) | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    ratios, over = zip(*(row(name, given.seeds, given.label, {}) for name in given.only), strict=True)
    print(
        f"geometric mean {nw.geometric(ratios):.3f}, worst {max(ratios):.3f}; over 15 epochs {nw.geometric(over):.3f}"
    )
