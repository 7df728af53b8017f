"""Runs on the device of device.cpp beside the same runs on the CPU: the same losses, scores and predictions.

    python tests/accelerator/runs.py FOLDER [NAME ...]     FOLDER: for what is compiled; NAME: of the cases, or all

Prints a line of JSON for each case: its name, and what went wrong, or null.
"""

import json
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.cpp_extension import load

import handful
from handful.base import machine
from handful.training.process import device as devices
from handful.training.process import static
from handful.training.special import adapted, adapters

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 8)).astype(np.float32)
LABELS = (X[:, 0] + 0.3 * X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 1)
NUMBERS = X[:, :1] * 3 + 100
TABLE = pd.DataFrame(X, columns=list("abcdefgh")).assign(
    city=RNG.choice(["x", "y", "z"], 400), sold=np.where(LABELS > 0, "yes", "no"), w=RNG.uniform(0.5, 2, 400)
)
PICTURES = RNG.integers(0, 255, (96, 3, 16, 16), dtype=np.uint8)
KINDS, MASKS = RNG.integers(0, 3, 96), RNG.integers(0, 3, (96, 16, 16))
TEXTS = {"text": [" ".join(RNG.choice(["good", "bad", "fine"], 8)) for _ in range(96)], "y": RNG.choice(["a", "b"], 96)}
SOUNDS = {"audio": [RNG.normal(size=4000).astype(np.float32) for _ in range(32)], "y": RNG.choice(["ab", "ba"], 32)}


def net(outputs=3, norm=False):
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Linear(8, 16, bias=not norm), *middle, nn.ReLU(), nn.Linear(16, outputs))


def classifier():
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 3, padding=1)


def whole(model, data, **options):
    """A run, and what it says afterwards."""

    def run(device):
        given = {"batch": 32, "lr": 0.01, "until": "epochs(2)", "quiet": True, "valid": 0.2, "augment": None}
        given["precision"] = "float32"  # which the CPU chooses by its clock
        made = model() if callable(model) else model
        found = handful.fit(made, data, device=device, **given | options)
        again = (data() if callable(data) else data) if not isinstance(data, tuple) else data
        outputs = torch.as_tensor(found.outputs(again)) if found.pipeline.several is None else torch.zeros(1)
        found.evaluation(again)
        return found, [found.history[-1]["train_loss"], *found.evaluate(again).values(), *outputs.flatten().tolist()]

    return run


def resumed(device):
    out = mkdtemp() + "/run"
    given = {"optimizer": "adamw", "ema": 0.9, "batch": 32, "lr": 0.01, "quiet": True, "device": device}
    handful.fit(net(), (X, LABELS), until="steps(20)", out=out, **given)
    run = handful.resume(out, model=net(), train=(X, LABELS), until="steps(40)", quiet=True, device=device)
    return run, [run.history[-1]["train_loss"], run.history[-1]["valid_loss"]]


def float64(device):
    """Where the device has none, on the CPU, if the device is not named."""
    out = mkdtemp() + "/run"
    narrow = device == "far" and "FAR_NARROW" in os.environ
    given = {"batch": 32, "lr": 0.01, "until": "steps(9)", "quiet": True, "device": device, "out": out}
    if narrow:
        with suppress(handful.HandfulError):
            handful.fit(net().double(), (X, LABELS), **given)
            return None, ["was not refused"]
        given["device"] = "cpu"
    handful.fit(net().double(), (X, LABELS), **given)
    run = handful.load(out, model=net().double(), device="cpu" if narrow else device)
    return run, [run.evaluate((X, LABELS))["loss"]]


def own_step(device):
    def take(model, batch, step):
        def loss(part):
            step.log("noise", step.normal(part, 3).mean())
            return nn.functional.cross_entropy(model(part["x"]), part["y"], reduction="none")

        step.minimise(loss)

    run = handful.fit(net(), (X, LABELS), training_step=take, until="steps(9)", batch=32, lr=0.01, quiet=True,
                      device=device)  # fmt: skip
    return run, [run.history[-1]["train_loss"], run.history[-1]["train_noise"]]


def compared(device):
    found = handful.compare("linear", (X, LABELS), [8, "full"], epochs=1, lrs=0.1, seeds=1, quiet=True, device=device)
    return found.runs[0].run, [row["valid_loss"] for row in found.table]


def chosen(device):
    run = handful.fit(net(), (X, LABELS), until="epochs(20)", quiet=True, device=device)
    return run, []  # by the clock, so not the same ones


CASES = {
    "classes": whole(net, (X, LABELS), metrics="accuracy, f1, auroc"),
    "numbers": whole("linear", (X, NUMBERS), metrics="r2, mae, rmse"),
    "two numbers": whole("linear", (X, X[:, :2] * 2)),
    "labels": whole(net, (X, (X[:, :3] > 0).astype(np.float32))),
    "table": whole("mlp", TABLE, target="sold", weight="w"),
    "class weights": whole("mlp", TABLE, target="sold", class_weight="balanced"),
    "targets": whole("table(dropout=0)", TABLE, target="sold, a"),
    "pictures": whole("cnn", (PICTURES, KINDS), augment="flip | shift(1) | mixup"),
    "masks": whole(classifier, (PICTURES, MASKS), metrics="accuracy, iou"),
    "texts": whole("text(dropout=0)", TEXTS, target="y"),
    "own loss": whole(net, (X, LABELS), loss=lambda o, t: nn.functional.cross_entropy(o, t)),
    "quantile": whole("linear", (X, NUMBERS), loss="quantile(0.9)"),
    "momentum, penalties": whole(net, (X, LABELS), optimizer="momentum", l1=1e-4, l2=1e-3, clip_norm=0.5, ema=0.9),
    "muon": whole(net, (X, LABELS), optimizer="muon"),
    "by pattern": whole(net, (X, LABELS), optimizer={"0": "sgd", "*": "adamw"}),
    "parts": whole(lambda: net(norm=True), (X, LABELS), micro_batch=16),
    "growth": whole(net, (X, LABELS), batch_growth="grow_batch(every=1)", until="epochs(3)"),
    "not finite": whole(net, (np.where(np.arange(400)[:, None] == 7, np.inf, X)[8:], LABELS[8:]), on_nonfinite="skip"),
    "sequences": whole("audio(dropout=0)", handful.open(SOUNDS, target="y", rate=8000), task="sequence", batch=16),
    "resume": resumed,
    "float64": float64,
    "own step": own_step,
    "compare": compared,
    "all chosen": chosen,
}


def prepare(folder):
    """The device, which then is known to torch as "far"."""
    where = Path(__file__).parent / "device.cpp"
    Path(folder).mkdir(parents=True, exist_ok=True)
    compiled = load("far_device", [str(where)], build_directory=str(folder), extra_cflags=["-O1"])
    torch.utils.rename_privateuse1_backend("far")
    module = type("far", (), {
        "is_available": staticmethod(lambda: True), "device_count": staticmethod(lambda: 1),
        "current_device": staticmethod(lambda: 0), "is_initialized": staticmethod(lambda: True),
        "_is_in_bad_fork": staticmethod(lambda: False), "manual_seed_all": staticmethod(lambda seed: None),
        "manual_seed": staticmethod(lambda seed: None), "synchronize": staticmethod(lambda device=None: None),
        "get_rng_state": staticmethod(lambda device=None: torch.default_generator.get_state()),
        "set_rng_state": staticmethod(lambda state, device=None: None),
        "get_amp_supported_dtype": staticmethod(lambda: [torch.bfloat16]),
    })  # fmt: skip
    torch._register_device_module("far", module)
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters stay the same objects, as on a GPU
    if "FAR_NARROW" in os.environ:
        for part in (machine, devices, adapters, adapted):
            part.NARROW = ("mps", "far")
    else:
        static.DEVICES = ("cuda", "far")  # the steps are those of a graph, taken one by one
    return compiled


def main():
    warnings.simplefilter("ignore")
    prepare(sys.argv[1])
    for name in sys.argv[2:] or CASES:
        wrong = None
        try:
            run, there = CASES[name]("far")
            _, here = CASES[name]("cpu")
            if name != "float64" and {p.device.type for p in run.model.parameters()} != {"far"}:
                wrong = "the model was not there"
            with suppress(AssertionError):
                np.testing.assert_allclose(there, here, rtol=2e-4, atol=2e-5)
                print(json.dumps([name, wrong]), flush=True)
                continue
            wrong = f"{there[:6]} for {here[:6]}"
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        print(json.dumps([name, wrong]), flush=True)


if __name__ == "__main__":
    main()
