"""One name, other arithmetic: what the same option does in other libraries, measured on them with their versions.

    pip install keras jax scikit-learn lightning transformers; KERAS_BACKEND=jax python benchmarks/same_names.py

writes results/same_names.md. A figure is what a weight of 1 (or a rate, or a count) is after the steps that are said.
"""

import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from sklearn.neural_network import MLPRegressor
from torch import nn
from transformers.trainer_pt_utils import LabelSmoother

import handful
from handful.base.plan import Progress

LINES: list[tuple[str, str, str]] = []


def add(name: str, case: str, **values: object) -> None:
    shown = "; ".join(f"{who.replace('_', ' ')} {value}" for who, value in values.items())
    LINES.append((name, case, shown))
    print(LINES[-1], flush=True)


def ours(gradients, **options) -> float:
    """A weight of 1 after a step with each of the gradients."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    rows = {"x": torch.tensor(gradients)[:, None], "y": torch.zeros(len(gradients))}
    given = {"batch": 1, "lr": 0.1, "l2": 0.0, "schedule": "constant", "shuffle": "none", "valid": None, "quiet": True}
    given |= {
        "until": f"steps({len(gradients)})",
        "loss": lambda output, target: output.squeeze(1),
        "task": "regression",
    }
    run = handful.fit(model, rows, target="y", **given | options)
    return float(run.model.weight)


def theirs(optimizer, gradients, rates=()) -> float:
    weight = keras.Variable(np.array([1.0], dtype="float32"))
    for k, gradient in enumerate(gradients):
        if rates:
            optimizer.learning_rate = rates[k]
        optimizer.apply([keras.ops.array([gradient])], [weight])
    return float(np.asarray(weight.value)[0])


def optimizers() -> None:
    case = "1 - weight after a step of 0.1 with gradient 1e-7"
    adam = theirs(keras.optimizers.Adam(0.1), [1e-7])
    add("adam, epsilon", case, Keras=f"{1 - adam:.4f}", handful=f"{1 - ours([1e-7], optimizer='adam'):.4f}")
    rms = theirs(keras.optimizers.RMSprop(0.1), [1e-4])
    case = "1 - weight after a step of 0.1 with gradient 1e-4"
    mine = ours([1e-4], optimizer="rmsprop")
    add("rmsprop, epsilon and rho", case, Keras=f"{1 - rms:.4f}", handful=f"{1 - mine:.4f}")
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    moved = ours([1.0, 1.0], optimizer="momentum", schedule="step(every=0.5, factor=0.1)")
    case = "weight after two steps with gradient 1, rates 0.1 and 0.01, momentum 0.9"
    add("momentum and its rate", case, Keras=f"{theirs(sgd, [1.0, 1.0], [0.1, 0.01]):.4f}", handful=f"{moved:.4f}")
    decayed = theirs(keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1), [0.0, 0.0])
    mine = ours([0.0, 0.0], optimizer="momentum", l2=0.1)
    case = "weight after two steps with gradient 0, decay 0.1, momentum 0.9"
    add("decay of SGD", case, Keras=f"{decayed:.4f}", handful=f"{mine:.4f}")
    mean = theirs(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), [1.0, 3.0])
    exact = ours([1.0, 1.0, 1.0, 3.0], optimizer="sgd", batch=4, micro_batch=3, until="steps(1)")
    case = "weight after a step on micro-batches of 3 rows with gradient 1 and 1 row with gradient 3"
    add("accumulation", case, Keras=f"{mean:.3f}", handful=f"{exact:.3f}")
    x = np.zeros((10, 1))
    given = {"solver": "sgd", "momentum": 0, "nesterovs_momentum": False, "learning_rate_init": 0.1, "max_iter": 1}
    one, two = (
        MLPRegressor(hidden_layer_sizes=(1,), alpha=a, batch_size=10, random_state=0, shuffle=False, **given)
        for a in (0.0, 1.0)
    )
    ratio = float(two.fit(x, x[:, 0]).coefs_[0][0, 0] / one.fit(x, x[:, 0]).coefs_[0][0, 0])
    case = "share of a weight left after a step of 0.1 on 10 rows of zeros, penalty 1"
    mine = ours([0.0] * 10, optimizer="sgd", l2=1.0, batch=10, until="steps(1)")
    add("alpha and l2", case, scikit_learn=f"{ratio:.3f}", handful=f"{mine:.3f}")


def patience() -> None:
    """How many evaluations without improvement there are before something happens, for a patience of 2."""
    scores = [1.0, *[2.0] * 9]

    class Dummy:
        stop_training = False
        optimizer = keras.optimizers.SGD(1.0)

        def get_weights(self):
            return []

    model = Dummy()
    stop = keras.callbacks.EarlyStopping("loss", patience=2)
    stop.set_model(model)
    stop.on_train_begin()
    reduce = keras.callbacks.ReduceLROnPlateau("loss", patience=2)
    reduce.set_model(model)
    reduce.on_train_begin()
    stopped = lowered = None
    for epoch, value in enumerate(scores):
        stop.on_epoch_end(epoch, {"loss": value})
        reduce.on_epoch_end(epoch, {"loss": value})
        stopped = epoch if stopped is None and model.stop_training else stopped
        lowered = epoch if lowered is None and float(model.optimizer.learning_rate) < 0.5 else lowered
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], 1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    torchs = next(e for e, v in enumerate(scores) if plateau.step(v) or optimizer.param_groups[0]["lr"] < 0.5)
    lightning = EarlyStopping("loss", patience=2)
    light = next(e for e, v in enumerate(scores) if lightning._evaluate_stopping_criteria(torch.tensor(v))[0])
    x, y = np.random.default_rng(0).normal(size=(2, 40))
    mlp = MLPRegressor(hidden_layer_sizes=(2,), tol=1e9, n_iter_no_change=2, max_iter=50, random_state=0).fit(
        x[:, None], y
    )
    rows = [{"epoch": float(e), "valid_loss": v} for e, v in enumerate(scores)]
    rule = handful.stop.plateau(2)
    mine = next(e for e in range(10) if rule(Progress(0, 0, 10, history=rows[: e + 1])))
    case = "evaluations without improvement until a run ends, for a patience of 2"
    add("patience of early stopping", case, Keras=stopped, Lightning=light, scikit_learn=mlp.n_iter_ - 1, handful=mine)
    slow = handful.schedule.on_plateau(patience=2)
    down = next(e for e in range(10) if slow(Progress(0, 0, 10, history=rows[: e + 1])) < 0.9)
    case = "evaluations without improvement until the rate falls, for a patience of 2"
    add("patience of a rate", case, Keras=lowered, torch=torchs, handful=down)


def others() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    smooth = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    keras_value = float(smooth(np.eye(3)[[0]], logits.numpy()))
    hf = float(LabelSmoother(epsilon=0.1)({"logits": logits}, labels))
    mine = float(handful.loss.cross_entropy(label_smoothing=0.1)(logits, labels)[0])
    case = "loss of logits 2, 0, -1 for the first class, smoothing 0.1"
    add("label smoothing", case, Keras=f"{keras_value:.5f}", HF_Trainer=f"{hf:.5f}", handful=f"{mine:.5f}")
    x = np.array([[0.0], [2.0]], dtype="float32")
    theirs, layer = keras.layers.BatchNormalization(), nn.BatchNorm1d(1)
    theirs(x, training=True)
    layer(torch.from_numpy(x))
    k_mean, k_var = (float(np.asarray(v.value)[0]) for v in (theirs.moving_mean, theirs.moving_variance))
    case = "running mean and variance after a batch of 0 and 2, defaults"
    mean, variance = float(layer.running_mean), float(layer.running_var)
    add("BatchNorm", case, Keras=f"{k_mean:.3f}, {k_var:.3f}", handful=f"{mean:.3f}, {variance:.3f}")
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], 1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=101)
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step() if len(rates) < 101 else None
    mine = [handful.schedule.one_cycle()(Progress(k, k, 100, planned=100)) for k in (0, 30, 100)]
    case = "share of the largest rate at the start, after 30% and at the end"
    add("one-cycle", case, torch=[f"{rates[k]:.2g}" for k in (0, 30, 100)], handful=[f"{rate:.2g}" for rate in mine])


def main() -> None:
    optimizers()
    patience()
    others()
    names = ("keras", "scikit-learn", "lightning", "transformers", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    table = "\n".join(f"| {name} | {case} | {shown} |" for name, case, shown in LINES)
    head = f"# The same name, other arithmetic\n\n`python benchmarks/same_names.py` with {versions}.\n\n"
    text = f"{head}| name | case | measured |\n|---|---|---|\n{table}\n"
    (Path(__file__).parent / "results" / "same_names.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
