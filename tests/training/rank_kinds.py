"""Runs of many kinds of data, models and losses, for test_ranks_kinds.py: on several ranks they end where one process
does, or all say why not."""

import functools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import handful

sys.path.insert(0, str(Path(__file__).parent))
from ranks import of

RNG = np.random.default_rng(5)
N = 72
X, Y = RNG.normal(size=(N, 6)), RNG.integers(0, 3, N)
PICTURES = RNG.normal(size=(N, 3, 6, 6))


@functools.cache
def written(kind):
    """A file or folder of rows, the same whoever writes it."""
    folder = Path(tempfile.mkdtemp())
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(2, N)).round(3).tolist()
    rows = [[*pair, 2 * pair[0], ["red", "green", "blue"][i % 3], pair[0] - pair[1], f"s{i % 4}", i // 4, 0.5 + i % 5]
            for i, pair in enumerate(zip(a, b, strict=True))]  # fmt: skip
    if kind in ("csv", "bad csv"):
        lines = ["a,b,leak,kind,size,shop,day,w", *(",".join(map(str, row)) for row in rows)]
        if kind == "bad csv":
            lines[17], lines[60] = "1,2", ",".join("123456789")
        (folder / "rows.csv").write_text("\n".join(lines) + "\n")
        return str(folder / "rows.csv")
    if kind == "text":
        words = [" ".join(rng.choice(["good", "bad", "fine", "poor", "day"], 5)) for _ in rows]
        lines = [json.dumps({"words": w, "y": i % 2}) for i, w in enumerate(words)]
        (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
        return str(folder / "rows.jsonl")
    handful.prepare(written("csv"), str(folder / "store"))
    return str(folder / "store")


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.conv(x)).mean((2, 3)))


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.kind, self.size = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x):
        inside = torch.tanh(self.inside(x))
        return {"kind": self.kind(inside), "size": self.size(inside)}


class Last(nn.Module):
    """Of rows of different lengths the last step."""

    def __init__(self):
        super().__init__()
        self.steps, self.out = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x, lengths):
        return self.out(self.steps(x)[0][torch.arange(len(x)), lengths - 1])


class Spelling(nn.Module):
    """A letter, or none, for each step."""

    def __init__(self):
        super().__init__()
        self.steps, self.out = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x, lengths):
        return self.out(self.steps(x)[0]), lengths


class Noisy(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y + torch.randn_like(y) if self.training else y


class Normed(nn.Module):
    """Of one loss with itself in it."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, 4)

    def forward(self, x, y=None):
        z = self.out(x)
        return {"logits": z} if y is None else {"logits": z, "loss": contrastive(z, y)}


class Pairs(nn.Linear):
    """The similarity of all pairs of rows."""

    def __init__(self):
        super().__init__(6, 4)

    def forward(self, x):
        z = super().forward(x)
        return z @ z.T


class Thaws:
    """Freezes and thaws layers as a run goes on."""

    def __call__(self, event, info):
        if event == "start":
            self.model = info["training"].objective.model
        if event in ("start", "step"):
            step = info.get("step", 0)
            self.model[0].requires_grad_(step >= 3)
            self.model[2].requires_grad_(not 3 <= step < 5)


def contrastive(output, target):
    """Rows of one class are to be near one another (Khosla et al. 2020)."""
    z = nn.functional.normalize(output, dim=1)
    same = (target[:, None] == target).to(z.dtype) - torch.eye(len(z), dtype=z.dtype)
    likeness = (3 * z @ z.T - 1e9 * torch.eye(len(z), dtype=z.dtype)).log_softmax(1)
    return -((likeness * same).sum(1) / same.sum(1).clamp(min=1)).mean()


def of_parts(output, target):
    return contrastive(output["kind"], target) + output["size"].square().mean()


def among_others(output, target):
    """A value for each row, which depends on the others."""
    z = nn.functional.normalize(output, dim=1)
    return nn.functional.cross_entropy(3 * z @ z.T, torch.arange(len(z)), reduction="none")


def of_pairs(output, target):
    """Each row beside itself alone; of some of the pairs another loss, and no error."""
    return nn.functional.binary_cross_entropy_with_logits(output, torch.eye(*output.shape, dtype=output.dtype))


def over_places(output, target):
    """One mean over the places that count: rows weigh by how many they have."""
    return nn.functional.cross_entropy(output.transpose(1, 2), target, ignore_index=-100)


def net(outputs=3):
    return of(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs)))


def sparse():
    import scipy.sparse

    return scipy.sparse.random(N, 40, 0.2, random_state=0, format="csr"), Y


def ragged():
    rng = np.random.default_rng(3)
    return [rng.normal(size=(int(rng.integers(2, 7)), 2)) for _ in range(N)], Y


def spoken():
    return {"x": [np.pad(steps, ((4, 0), (0, 0))) for steps in ragged()[0]], "y": ["a", "ab", "cb"] * (N // 3)}


def windows():
    source = handful.open(written("csv"), columns=["a", "size", "shop", "day"])
    return source.windows(3, order="day", by="shop", target="size")


def places():
    return {"x": X.reshape(N, 3, 2), "y": np.where(X[:, :3] > 0.7, -100, Y[:, None])}


TWO = {"target": "kind,size", "columns": "-leak"}
KINDS = {  # name -> model of a rank or by name, data (or what gives them), options
    "a class and a number": ("mlp", "csv", TWO),
    "two heads": (of(Heads), {"x": X, "kind": Y, "size": X[:, 0]}, {"target": "kind,size", "micro_batch": 2}),
    "sparse inputs": ("linear", sparse, {}),
    "text": ("text(dropout=0)", "text", {"target": "y", "augment": "token_dropout"}),
    "bad rows": ("mlp", "bad csv", {"target": "kind", "bad_rows": "skip", "columns": "-leak", "weight": "w"}),
    "members": ("table(dropout=0, members=2)", "csv", {"target": "size", "columns": "a, b"}),
    "a store": ("mlp", "store", {"target": "kind", "shuffle": "weighted by w"}),
    "windows of several series": ("mlp", windows, {}),
    "pictures": (of(Conv), (PICTURES, Y), {"augment": "flip | shift(0.2) | noise", "batch": 10}),
    "mixed pictures": (of(Conv), (PICTURES, Y), {"augment": "mixup", "micro_batch": 3}),
    "class weights": (net(), (X, Y), {"class_weight": [1.0, 3.0, 0.2], "micro_batch": 3}),
    "balanced": (net(), (X, Y), {"shuffle": "balanced", "class_weight": None}),
    "layers frozen and thawed": (net(), (X, Y), {"callbacks": [Thaws()], "clip_norm": 0.1, "l1": 0.01}),
    "labels": (net(), {"x": X, "y": (X[:, :3] > 0).astype(np.int64)}, {"target": "y"}),
    "rows of different lengths": (of(Last), ragged, {}),
    "spelled out by CTC": (of(Spelling), spoken, {"target": "y", "task": "sequence"}),
    "groups held out": ("mlp", "csv", {"target": "kind", "columns": "a, b, shop", "valid": "0.25 by shop"}),
    "rows compared": (net(), (X, Y), {"loss": contrastive, "clip_norm": 0.1, "ema": 0.9}),
    "values of rows compared": (net(), {"x": X, "y": Y}, {"target": "y", "loss": among_others, "batch": 7}),
    "parts compared": (of(Heads), (X, Y), {"loss": of_parts}),
    "places that count": (of(lambda: nn.Linear(2, 3)), places, {"target": "y", "loss": over_places}),
    "NaN where rows are compared": (
        net(), (np.where(np.arange(N)[:, None] == 37, np.nan, X), Y), {"loss": contrastive, "preprocess": None},
    ),
}  # fmt: skip
SAID = {  # what is not the same: how it is said
    "a model's own noise": (of(lambda: Noisy(6, 3)), (X, Y), {}, "each rank draws its own"),
    "rare categories": ("table(dropout=0)", "csv", {"target": "size"}, "each rank draws its own"),
    "a model that compares rows": (of(Normed), (X, Y), {"loss": "model"}, "is not that of the whole batch"),
    "a model of all pairs": (of(Pairs), (X, Y), {"loss": of_pairs}, "compares the rows of a mini-batch itself"),
    "too few rows to compare": (net(), (X, Y), {"loss": contrastive, "batch": 1}, "a loss that compares rows needs"),
}
PLAIN = {"lr": 0.03, "optimizer": "adamw", "batch": 14, "until": "steps(8)", "valid": 0.2, "schedule": "constant"}


def take(name, rank, **more):
    """What a run of a kind leaves, or its sentence."""
    model, data, options = (KINDS | SAID)[name][:3]
    data = written(data) if isinstance(data, str) else data() if callable(data) else data
    try:
        run = handful.fit(
            model(rank) if callable(model) else model, data, precision="float64", evaluate_every=0.2, quiet=True,
            **{**PLAIN, **options, **more},
        )  # fmt: skip
    except handful.HandfulError as error:
        return {"said": str(error)}
    scores = [(k, v) for row in run.history for k, v in sorted(row.items()) if k.startswith(("train_", "valid_"))]
    return {
        "weights": [p.detach().numpy() for p in run.model.parameters()], "scores": scores,
        "said": " ".join(run.plan.notes), "stopped": run.stopped_because,
    }  # fmt: skip


def take_all(rank, names, folder, more=None):
    torch.save({name: take(name, rank, **(more or {})) for name in names}, folder / f"{rank}.pt")
