"""What tests/training/test_ranks.py does on several ranks."""

import functools
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import handful
from handful.losses.asked import as_metrics
from handful.plan.probe import decide
from handful.plan.probe.noise_scale import gradient_in_parts
from handful.runs.predict import write_predictions
from handful.training.objective import Objective
from handful.training.process.parallel import joined
from handful.training.special import one_copy

N = 203
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 6)), RNG.integers(0, 3, N)
WEIGHTS = RNG.uniform(0.1, 3, N)


def mlp(rank):
    """Another seed on every rank: rank 0's weights count."""
    torch.manual_seed(rank)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


class Unused(nn.Module):
    """`never` has no gradient anywhere; `some` only where a row's first number is large."""

    def __init__(self):
        super().__init__()
        self.never, self.some, self.out = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        large = x[:, 0] > 1.5
        out = self.out(x)
        return out + large[:, None] * self.some(x) if large.any() else out


class Ids(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(50, 4, sparse=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.table((x[:, :2].abs() * 10).long().clamp(max=49)).mean(1))


class Tied(nn.Module):
    """One layer twice."""

    def __init__(self):
        super().__init__()
        self.inside, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.inside(torch.tanh(self.inside(x))))


def of(make):
    def model(rank):
        torch.manual_seed(rank)
        return make().double()

    return model


def in_ddp(rank):
    return nn.parallel.DistributedDataParallel(mlp(rank)) if torch.distributed.is_initialized() else mlp(rank)


def cliff(output, target):
    """Squares, infinite beyond a bound: a large rate falls over it, half of it does not."""
    square = (output - target).square()
    return torch.where(square > 4000.0, torch.inf, square)


PLAIN = {"lr": 0.1, "optimizer": "sgd", "batch": 33, "until": "steps(9)", "valid": 0.2, "schedule": "constant"}
TABLE = {"x": X, "y": Y, "w": WEIGHTS}
ZERO = {"x": X, "y": Y, "w": (RNG.random(N) < 0.2) * WEIGHTS}
CASES = {  # name -> model of a rank, data, options
    "sgd": (mlp, (X, Y), {}),
    "momentum": (mlp, (X, Y), {"optimizer": "momentum", "clip_norm": 0.5, "ema": 0.9}),
    "adamw": (mlp, (X, Y), {"optimizer": "adamw", "lr": 0.01, "l1": 1e-3}),
    "micro-batches": (mlp, (X, Y), {"micro_batch": 4}),
    "ragged": (mlp, (X, Y), {"batch": 7, "micro_batch": 2}),
    "weights": (mlp, TABLE, {"weight": "w", "target": "y"}),
    "zero weights": (mlp, ZERO, {"weight": "w", "target": "y", "batch": 5, "valid": None}),
    "fewer rows than ranks": (mlp, (X, Y), {"batch": 1}),
    "two rows": (mlp, (X, Y), {"batch": 2, "optimizer": "adamw", "lr": 0.01}),
    "unused parameters": (of(Unused), (X, Y), {"optimizer": "adamw", "lr": 0.01, "batch": 6}),
    "sparse gradients": (of(Ids), (X, Y), {"batch": 11}),
    "one layer twice": (of(Tied), (X, Y), {"metrics": "accuracy, auroc"}),
    "in DDP": (in_ddp, (X, Y), {}),
    "muon": (mlp, (X, Y), {"optimizer": "muon", "lr": 0.01, "l1": 1e-3, "batch": 20}),
    "rollback": (
        of(lambda: nn.Linear(6, 1)),
        (X, X @ np.arange(6.0)[:, None]),
        {
            "lr": 1.3,
            "on_nonfinite": "rollback",
            "loss": cliff,
            "batch": 20,
            "save_every": 2,
            "preprocess": None,
            "metrics": None,
        },
    ),
    "regression": (of(lambda: nn.Linear(6, 1)), (X, X @ np.arange(6.0) + 1e6), {"lr": 0.01}),
}


@functools.cache
def train(name, rank=0, **more):
    """What a run leaves: weights, and the losses and scores of its history."""
    make, data, options = CASES[name]
    run = handful.fit(make(rank), data, **{**PLAIN, **options, **more}, evaluate_every=0.1, quiet=True)
    scores = [v for row in run.history for k, v in sorted(row.items()) if k.startswith(("train_", "valid_"))]
    weights = [p.detach().numpy() for p in run.model.parameters()]
    return {"weights": weights, "scores": scores, "best": run.best, "back": run.state.went_back}


def launch(size, work, *arguments, folder, **env):
    """Start so many ranks, forked from a process that has imported all: work(rank, *arguments) with torchrun's
    variables. What they print goes to RANK.log in the folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["handful.fit", "handful.plan.build", "sklearn.metrics", "torch.distributed.fsdp"])
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    place = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **env}
    jobs = [context.Process(target=_rank, args=(r, place, folder, work, arguments)) for r in range(size)]
    for job in jobs:
        job.start()
    return jobs


def _rank(rank, place, folder, work, arguments):
    os.environ.update(
        {name: str(value) for name, value in place.items()} | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    )
    log = os.open(folder / f"{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    try:
        status = work(rank, *arguments)
    except handful.HandfulError as error:
        print(f"handful: {error}", file=sys.stderr, flush=True)
        status = error.exit_status
    sys.exit(status or 0)


def ends(jobs, folder, limit=150):
    """Exit statuses of ranks that were launched, and what they printed."""
    until = time.monotonic() + limit
    for job in jobs:
        job.join(max(0, until - time.monotonic()))
    late = [job.exitcode is None for job in jobs]
    for job in jobs:
        job.kill()
        job.join()
    said = [(folder / f"{r}.log").read_text() for r in range(len(jobs))]
    return ["late" if slow else job.exitcode for slow, job in zip(late, jobs, strict=True)], said


def take_all(rank, names, folder, more=None):
    torch.save({name: train(name, rank, **(more or {})) for name in names}, folder / f"{rank}.pt")


def hold(rank, folder, **more):
    """Bytes of parameters, gradients and optimizer state that a rank holds after a step."""
    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.Tanh())], nn.Linear(64, 3))
    x, held = np.zeros((64, 64), np.float32), []

    def count(event, info):
        if event == "start":
            hold.state = info["training"].state
        if event == "step":
            kept = list(hold.state.model.parameters())
            kept += [p.grad for p in kept] + [v for s in hold.state.optimizer.state.values() for v in s.values()]
            held.append(sum(getattr(t, "_local_tensor", t).nbytes for t in kept))

    options = {**PLAIN, "optimizer": "adamw", "lr": 0.01, "valid": 0.4, "until": "steps(3)", **more}
    run = handful.fit(model, (x, np.arange(64) % 3), callbacks=[count], quiet=True, **options)
    np.save(folder / f"held{rank}.npy", held)
    assert not any(hasattr(p, "_local_tensor") for p in run.model.parameters())
    assert run.model is model
    assert len(run.predict(x)) == 64


def step_by(rank, names, **more):
    """What fit says of optimizers of torch's, by name, where the weights are shared out."""
    for name in names:
        options = {**PLAIN, "optimizer": getattr(torch.optim, name), "lr": 0.01, "until": "steps(2)", **more}
        try:
            handful.fit(nn.Linear(4, 3), (np.zeros((64, 4), np.float32), np.arange(64) % 3), quiet=True, **options)
            print(name, "ends well", flush=True)
        except handful.HandfulError as error:
            print(name, error, flush=True)


def part_way(rank, folder, steps, out, **more):
    """A run with all that a checkpoint holds, to a step; it goes on where the folder holds one."""
    options = {**PLAIN, "optimizer": "adamw", "lr": 0.01, "ema": 0.9, "clip_norm": 0.3, "evaluate_every": 0.3}
    options |= {"until": f"steps({steps})", "save_every": 3, "resume": "auto", **more}
    run = handful.fit(mlp(rank), (X, Y), out=folder / "run", quiet=True, **options)
    np.save(folder / f"{out}.npy", np.concatenate([p.detach().numpy().ravel() for p in run.model.parameters()]))


# --- faults -----------------------------------------------------------------------------------------------------------


class Faulty(nn.Module):
    """Something happens on rank 1 at its seventh mini-batch."""

    happened = False  # in the class, where a run that goes back does not go back with it

    def __init__(self, what):
        super().__init__()
        self.out, self.what, self.calls = nn.Linear(6, 3), what, 0

    def forward(self, x):
        self.calls += self.training and torch.is_grad_enabled()  # a call that learns nothing counts for none
        if os.environ["RANK"] == "1" and self.training:
            if self.what == "memory" and len(x) > 4:
                raise torch.OutOfMemoryError("out of memory")
            if self.what == "no memory" and self.calls > 6:
                raise torch.OutOfMemoryError("out of memory")
            if self.what == "back" and self.calls == 8 and not Faulty.happened:
                Faulty.happened = True
                return self.out(x) * torch.inf
            if self.calls > 6:
                self.happens()
        return self.out(x)

    def happens(self):
        match self.what:
            case "exception":
                raise RuntimeError("the cable is loose")
            case "SIGSTOP" | "SIGKILL" | "SIGTERM" | "SIGINT":
                os.kill(os.getpid(), getattr(signal, self.what))


def suffer(rank, what, folder, limit, more=None):
    x, y = X.copy(), Y
    options = {"lr": 0.1, "optimizer": "sgd", "batch": 20, "until": "steps(12)", "save_every": 3, "valid": None}
    if what in ("SIGTERM", "SIGINT", "link"):
        options["until"] = "steps(1000000)"
    if what == "back":
        options |= {"on_nonfinite": "rollback"}
    if what == "NaN":
        x[17] = np.nan
    data = (x, y)
    if rank == 1:
        match what:
            case "late":
                return 0
            case "data":
                data = (x + 1, y)
            case "rate":
                options["lr"] = 0.2
            case "file":
                data = str(folder / "missing.csv")
            case "batch":
                data = (x[:, :5], y)
    torch.manual_seed(0)
    run = handful.fit(
        Faulty(what).double(),
        data,
        out=folder / "run" if what in ("SIGKILL", "back") else None,
        preprocess=None,
        quiet=True,
        timeout=limit,
        **options,
        **(more or {}),
    )
    print(run.stopped_because, run.state.step, run.state.micro_batch, run.state.went_back, flush=True)
    return run.exit_status


# --- killed and started again -----------------------------------------------------------------------------------------


def go_on(rank, folder, kill, out):
    """A run of 60 steps that is saved often, of which one rank may be killed at some moment: kill = (rank, seconds)."""
    model = mlp(rank)

    def slowly(event, info):
        time.sleep(0.01)
        if event == "start" and rank == kill[0]:
            threading.Timer(kill[1], os.kill, (os.getpid(), signal.SIGKILL)).start()

    options = {**PLAIN, "optimizer": "momentum", "until": "steps(60)", "save_every": 3}
    run = handful.fit(model, (X, Y), out=folder / "run", resume="auto", callbacks=[slowly], quiet=True, **options)
    np.save(folder / f"{out}.npy", np.concatenate([p.detach().numpy().ravel() for p in run.model.parameters()]))
    return run.exit_status


# --- rows that are shared ---------------------------------------------------------------------------------------------


class Twofold(nn.Module):
    """An output of several Tensors."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return {"logits": self.out(x), "hidden": x[:, :2]}


def of_logits(output, target):
    return nn.functional.cross_entropy(output["logits"], target, reduction="none")


SERIES = RNG.normal(size=1201)
TOGETHER = {  # name -> data to train on, of which all is looked at again; options
    "classes": ({"x": X.repeat(6, 0), "y": Y.repeat(6)}, {"target": "y"}),
    "numbers": ({"a": SERIES, "b": SERIES**2, "y": 3 * SERIES}, {"target": "y", "metrics": "mae, r2"}),
    "labels": ({"x": X.repeat(3, 0), "y": (X.repeat(3, 0)[:, :3] > 0).astype(np.int64)}, {"target": "y"}),
    "few rows": ({"x": X[:40], "y": Y[:40]}, {"target": "y"}),
}


def found_in(run, data, folder):
    """All that a run says of data."""
    said = run.evaluation(data)
    kept = {name: np.asarray(getattr(said, name)) for name in ("confusion", "calibration", "residuals")}
    kept |= {"worst": [row["row"] for row in said.worst], "notes": said.notes, "classes": said.classes}
    kept |= {"scores": run.evaluate(data), "outputs": run.outputs(data).numpy()}
    write_predictions(run, data, folder / "said.csv")
    kept["csv"] = (folder / "said.csv").read_text() if run.rank == 0 else None
    return kept | {"predict": run.predict(data)}


def share(rank, folder):
    for name, (data, options) in TOGETHER.items():
        run = handful.fit("mlp", data, **PLAIN | options | {"batch": 20}, quiet=True, join=False)
        with run.shared() as together:
            torch.save(found_in(together, data, folder), folder / f"{name}{rank}.pt")
        assert len(run.predict(data)) == len(data["y"])  # alone again
    torch.manual_seed(0)
    how = {**PLAIN, "loss": of_logits, "metrics": None}
    two = handful.fit(Twofold().double(), (X, Y), **how, quiet=True, join=False)
    alone = two.outputs((X, Y), batch=20)
    with two.shared() as together:
        again = together.outputs((X, Y), batch=20)
    for part, values in alone.items():
        assert torch.equal(again[part], values), part


def differ(rank, what):
    """Ranks that do not have the same rows, or not the same run."""
    torch.manual_seed(rank if what == "model" else 0)
    run = handful.fit(mlp(rank if what == "model" else 0), (X, Y), **PLAIN, quiet=True, join=False)
    x = {"rows": X[: len(X) - rank], "values": X + rank}.get(what, X)
    with run.shared(20) as together:
        together.predict(x)


# --- measured together ------------------------------------------------------------------------------------------------


def measure(rank, folder, name):
    """What the ranks measure and choose together, and where the run ends that begins so."""
    make, options = MEASURED[name]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6000, 6))
    data = (x, (x @ rng.normal(size=(6, 3)) + rng.normal(size=(6000, 3))).argmax(1))
    decide.SHORT = 0.0  # or no run of a test is long enough to measure anything
    run = handful.fit(make(rank), data, **{"until": "epochs(3)", "quiet": True, **options})
    found = {k: (c.value, c.status, c.reason) for k, c in run.plan.choices.items() if k not in ("threads", "data")}
    found |= {"notes": run.plan.notes, "steps": [row["step"] for row in run.history], "position": run.state.position}
    found |= {"weights": [p.detach().numpy() for p in run.model.parameters()]}
    torch.save(found, folder / f"{name}{rank}.pt")


def normed(rank):
    torch.manual_seed(rank)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()


MEASURED = {  # name -> model, options
    "all": (mlp, {}),
    "batch": (normed, {"lr": 0.05, "optimizer": "sgd"}),
    "rate": (of(Unused), {"batch": 30, "micro_batch": 4}),
    "stated": (mlp, {"deterministic": True}),
}


def begin(rank, folder):
    """The look before the first step, of a run whose rate is open, and where it ends."""
    run = handful.fit(mlp(rank), (X, Y), batch=20, until="epochs(3)", quiet=True)
    weights = np.concatenate([p.detach().numpy().ravel() for p in run.model.parameters()])
    np.savez(folder / f"begun{rank}.npz", looks=[row["valid_loss"] for row in run.history if row["step"] == 0],
             weights=weights)  # fmt: skip


def out_of_one(rank, folder):
    """A folder and resume= that only one rank gives; a run of a folder is gone on with."""
    for giver, steps in ((0, 6), (0, 12), (1, 12)):
        given = {"out": folder / f"run{giver}", "resume": "auto"} if rank == giver else {}
        try:
            run = handful.fit(mlp(rank), (X, Y), **{**PLAIN, "until": f"steps({steps})"}, **given, quiet=True)
            print(run.stopped_because, len(run.history), float(run.model[0].bias[0].detach()), flush=True)
        except handful.HandfulError as error:
            print(error, flush=True)


class Noisy(nn.Module):
    """It draws from NumPy's generator in training."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, 3).double()

    def forward(self, x):
        return self.out(x + (torch.from_numpy(np.random.normal(size=tuple(x.shape))) if self.training else 0))


def try_again(rank):
    """A run whose model draws; two of which one rank leaves the first."""
    run = handful.fit(Noisy(), (X, Y), **PLAIN, quiet=True)
    print([note for note in run.plan.notes if "random" in note], flush=True)
    for _ in range(2):
        try:
            suffer(rank, "exception", None, 60.0)
        except Exception as error:
            print(f"{rank}: {error}", flush=True)


def moments_of(rank, folder):
    """The noise scale of one mini-batch, by this rank's parts of it; and the gradient that is left."""
    with joined("cpu", 30.0) as here:
        objective = Objective(of(Unused)(0), nn.CrossEntropyLoss(reduction="none"), as_metrics("accuracy", "logits"))
        source = handful.open({"x": X, "y": Y, "weight": WEIGHTS}, target="y")
        batch = handful.Batches(source, handful.Order(N, seed=3)).at(0, 96, here.share)
        sums, found = gradient_in_parts(objective, batch, 12 // here.size, here)
        grads = {name: p.grad.numpy() for name, p in objective.model.named_parameters() if p.grad is not None}
        torch.save([found.as_list(), float(sums.loss), float(sums.weight), grads], folder / f"{rank}.pt")


# --- memory -----------------------------------------------------------------------------------------------------------


def hold_data(rank, path, folder, worth):
    """How much memory a rank takes up while it trains on data in memory, in bytes, and where the run ends."""
    one_copy.WORTH, held = worth, []

    def count(event, info):
        if event == "step":
            rollup = Path("/proc/self/smaps_rollup").read_text()
            held.append(
                1024 * sum(map(int, re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", rollup, re.M)))
            )  # not libraries

    torch.manual_seed(0)
    how = {**PLAIN, "until": "steps(3)", "preprocess": None, "target": "y"}
    run = handful.fit(nn.Linear(512, 3), path, callbacks=[count], quiet=True, **how)
    np.savez(folder / f"held{rank}.npz", held=held[-1], weights=run.model.weight.detach().numpy())
