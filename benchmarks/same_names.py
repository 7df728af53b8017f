"""One name, other arithmetic: what the same option does in other libraries, measured on them with their versions.

    pip install keras jax scikit-learn lightning transformers accelerate skorch fastai; python benchmarks/same_names.py

writes results/same_names.md; fastai needs torchvision, and its build of torch. A figure is what a weight of 1 (or a
rate, or a count) is after the steps that are said.
"""

import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("KERAS_BACKEND", "jax")

import fastai.callback.training
import fastai.layers
import fastai.learner
import fastai.losses
import fastai.optimizer
import keras
import lightning
import numpy as np
import skorch
import torch
import transformers
from fastai.callback.schedule import combined_cos
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau
from lightning.pytorch.callbacks import EarlyStopping
from sklearn.neural_network import MLPRegressor
from skorch.callbacks import EarlyStopping as SkorchStopping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
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


class Weight(lightning.LightningModule):
    """A weight of 1 whose gradient is the mean of the rows; Lightning, HF Trainer and fastai take their step of 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x, labels=None):
        return x * self.weight if labels is None else {"loss": (x * self.weight).mean()}

    def training_step(self, batch, step):
        return self(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class InOrder(transformers.Trainer):
    def _get_train_sampler(self, *given):
        return None

    def get_train_dataloader(self):
        return DataLoader([{"x": x, "labels": x} for x in self.train_dataset], self.args.train_batch_size)


def of_lightning(gradients, size: int, **options) -> float:
    model, rows = Weight(), DataLoader(TensorDataset(torch.tensor(gradients)[:, None]), size)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    lightning.Trainer(max_epochs=1, enable_model_summary=False, **quiet, **options).fit(model, rows)
    return float(model.weight)


def of_hf(gradients, size: int, **options) -> float:
    model = Weight()
    with tempfile.TemporaryDirectory() as folder:
        asked = transformers.TrainingArguments(
            folder, per_device_train_batch_size=size, num_train_epochs=1, learning_rate=0.1, optim="sgd", use_cpu=True,
            lr_scheduler_type="constant", save_strategy="no", report_to=[], disable_tqdm=True, **options,
        )  # fmt: skip
        InOrder(model, asked, train_dataset=torch.tensor(gradients)[:, None]).train()
    return float(model.weight)


def of_fastai(gradients, size: int, callbacks=()) -> float:
    model, x = Weight(), torch.tensor(gradients)[:, None]
    rows = DataLoader(TensorDataset(x, x), size)
    data = fastai.learner.DataLoaders(rows, rows)
    learner = fastai.learner.Learner(
        data, model, lambda output, target: output.mean(), opt_func=fastai.optimizer.SGD, cbs=list(callbacks)
    )
    with tempfile.TemporaryDirectory() as folder, learner.no_bar(), learner.no_logging():
        learner.path = Path(folder)
        learner.fit(1, lr=0.1, wd=0.0)
    return float(model.weight)


def fastais(make, gradients, rates=(), **options) -> float:
    weight = nn.Parameter(torch.ones(1))
    optimizer = make([weight], lr=0.1, **options)
    for k, gradient in enumerate(gradients):
        if rates:
            optimizer.set_hyper("lr", rates[k])
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    return float(weight)


def optimizers() -> None:
    fast = fastai.optimizer
    case = "1 - weight after a step of 0.1 with gradient 1e-7"
    adam = theirs(keras.optimizers.Adam(0.1), [1e-7])
    mine, fasts = ours([1e-7], optimizer="adam"), fastais(fast.Adam, [1e-7], wd=0.0)
    add("adam, epsilon", case, Keras=f"{1 - adam:.4f}", fastai=f"{1 - fasts:.4f}", handful=f"{1 - mine:.4f}")
    rms = theirs(keras.optimizers.RMSprop(0.1), [1e-4])
    case = "1 - weight after a step of 0.1 with gradient 1e-4"
    mine = ours([1e-4], optimizer="rmsprop")
    fasts = fastais(fast.RMSProp, [1e-4])
    add("rmsprop, epsilon and rho", case, Keras=f"{1 - rms:.4f}", fastai=f"{1 - fasts:.4f}", handful=f"{1 - mine:.4f}")
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    moved = ours([1.0, 1.0], optimizer="momentum", schedule="step(every=0.5, factor=0.1)")
    case = "weight after two steps with gradient 1, rates 0.1 and 0.01, momentum 0.9"
    kept, fasts = theirs(sgd, [1.0, 1.0], [0.1, 0.01]), fastais(fast.SGD, [1.0, 1.0], [0.1, 0.01], mom=0.9)
    add("momentum and its rate", case, Keras=f"{kept:.4f}", fastai=f"{fasts:.4f}", handful=f"{moved:.4f}")
    decayed = theirs(keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1), [0.0, 0.0])
    mine = ours([0.0, 0.0], optimizer="momentum", l2=0.1)
    case = "weight after two steps with gradient 0, decay 0.1, momentum 0.9"
    fasts = fastais(fast.SGD, [0.0, 0.0], mom=0.9, wd=0.1)
    add("decay of SGD", case, Keras=f"{decayed:.4f}", fastai=f"{fasts:.4f}", handful=f"{mine:.4f}")
    mean = theirs(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), [1.0, 3.0])
    rows = [1.0, 1.0, 1.0, 3.0]
    exact = ours(rows, optimizer="sgd", batch=4, micro_batch=3, until="steps(1)")
    light = of_lightning(rows, 3, accumulate_grad_batches=2)
    face = of_hf(rows, 3, gradient_accumulation_steps=2, max_grad_norm=0)
    fasts = of_fastai(rows, 3, [fastai.callback.training.GradientAccumulation(4)])
    case = "weight after a step on micro-batches of 3 rows with gradient 1 and 1 row with gradient 3"
    means = {"Keras": mean, "Lightning": light, "HF_Trainer": face, "fastai": fasts, "handful": exact}
    add("accumulation", case, **{who: f"{value:.3f}" for who, value in means.items()})
    case = "weight after a step of 0.1 with gradient 8, defaults"
    steps = {"Lightning": of_lightning([8.0], 1), "HF_Trainer": of_hf([8.0], 1), "fastai": of_fastai([8.0], 1)}
    steps["handful"] = ours([8.0], optimizer="sgd")
    add("clipping of the gradient", case, **{who: f"{value:.1f}" for who, value in steps.items()})
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


def of_skorch(scores) -> int:
    net, stop = SimpleNamespace(history=skorch.history.History(), verbose=0), SkorchStopping(patience=2)
    stop.on_train_begin(net)
    for epoch, value in enumerate(scores):
        net.history.new_epoch()
        net.history.record("epoch", epoch)
        net.history.record("valid_loss", value)
        try:
            stop.on_epoch_end(net)
        except KeyboardInterrupt:
            return epoch
    raise AssertionError("it did not stop")


def of_stopping(scores) -> int:
    """Of HF Trainer, which keeps the best value between two calls of its callback."""
    stop, control = transformers.EarlyStoppingCallback(early_stopping_patience=2), transformers.TrainerControl()
    asked = SimpleNamespace(metric_for_best_model="eval_loss", greater_is_better=False)
    state = transformers.TrainerState()
    for epoch, value in enumerate(scores):
        stop.on_evaluate(asked, state, control, {"eval_loss": value})
        state.best_metric = min(value, state.best_metric or value)
        if control.should_training_stop:
            return epoch
    raise AssertionError("it did not stop")


def of_tracker(scores) -> tuple[int, int]:
    """Of fastai: when a run ends, and when its rate falls."""
    stop, reduce = EarlyStoppingCallback(patience=2), ReduceLROnPlateau(patience=2)
    optimizer = fastai.optimizer.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    recorder = SimpleNamespace(metric_names=["epoch", "train_loss", "valid_loss"], values=[])
    stop.learn = reduce.learn = SimpleNamespace(recorder=recorder, opt=optimizer, epoch=0)
    stop.before_fit()
    reduce.before_fit()
    stopped = lowered = -1
    for epoch, value in enumerate(scores):
        recorder.values.append([value, value])
        try:
            stop.after_epoch()
        except fastai.learner.CancelFitException:
            stopped = epoch if stopped < 0 else stopped
        reduce.after_epoch()
        lowered = epoch if lowered < 0 and optimizer.hypers[0]["lr"] < 0.5 else lowered
    return stopped, lowered


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
    more = {"skorch": of_skorch(scores), "HF_Trainer": of_stopping(scores), "fastai": of_tracker(scores)[0]}
    add("patience of early stopping", case, Keras=stopped, Lightning=light, **more, scikit_learn=mlp.n_iter_ - 1,
        handful=mine)  # fmt: skip
    slow = handful.schedule.on_plateau(patience=2)
    down = next(e for e in range(10) if slow(Progress(0, 0, 10, history=rows[: e + 1])) < 0.9)
    case = "evaluations without improvement until the rate falls, for a patience of 2"
    add("patience of a rate", case, Keras=lowered, fastai=of_tracker(scores)[1], torch=torchs, handful=down)


def others() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    smooth = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    keras_value = float(smooth(np.eye(3)[[0]], logits.numpy()))
    hf = float(LabelSmoother(epsilon=0.1)({"logits": logits}, labels))
    mine = float(handful.loss.cross_entropy(label_smoothing=0.1)(logits, labels)[0])
    case = "loss of logits 2, 0, -1 for the first class, smoothing 0.1"
    fast = float(fastai.losses.LabelSmoothingCrossEntropy(eps=0.1)(logits, labels))
    values = {"Keras": keras_value, "HF_Trainer": hf, "fastai": fast, "handful": mine}
    add("label smoothing", case, **{who: f"{value:.5f}" for who, value in values.items()})
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
    theirs = combined_cos(0.25, 1 / 25, 1.0, 1e-5)  # the defaults of fit_one_cycle
    three = {"torch": [rates[k] for k in (0, 30, 100)], "fastai": [float(theirs(p)) for p in (0.0, 0.3, 1.0)]}
    three["handful"] = mine
    add("one-cycle", case, **{who: ", ".join(f"{rate:.2g}" for rate in found) for who, found in three.items()})
    rates = fastai.layers.even_mults(1e-5, 1e-3, 3)
    parts = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    mine = handful.optim.parts.by_depth(parts, 1e-3, 0.1).values()
    case = "rates of three parts, slice(1e-5, 1e-3) or by_depth(model, 1e-3, 0.1)"
    add("rates by depth", case, fastai=", ".join(f"{rate:.0e}" for rate in rates),
        handful=", ".join(f"{rate:.0e}" for rate in mine))  # fmt: skip


def of_classifiers() -> None:
    """What skorch's NeuralNetClassifier does unless told otherwise."""
    x, y = torch.arange(60.0)[:, None], np.arange(60) % 3
    net = skorch.NeuralNetClassifier(nn.Linear(1, 3), batch_size=10, verbose=0).initialize()
    first = next(iter(net.get_iterator(net.get_dataset(x, y), training=True)))[0][:4, 0].tolist()
    order = handful.Order(60, seed=0)[:4].tolist()
    shown = {who: ", ".join(f"{row:.0f}" for row in rows) for who, rows in (("skorch", first), ("handful", order))}
    add("order of the rows", "the first rows of the first epoch, of 60", **shown)
    output, label = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([0])
    value, mine = float(net.get_loss(output, label)), float(handful.loss.cross_entropy()(output, label)[0])
    case = "loss of outputs 0.7, 0.2, 0.1 for the first class, defaults"
    add("what a classifier gives", case, skorch=f"{value:.4f} (probabilities)", handful=f"{mine:.4f} (logits)")


def main() -> None:
    optimizers()
    patience()
    others()
    of_classifiers()
    names = ("keras", "scikit-learn", "lightning", "transformers", "skorch", "fastai", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    table = "\n".join(f"| {name} | {case} | {shown} |" for name, case, shown in LINES)
    head = f"# The same name, other arithmetic\n\n`python benchmarks/same_names.py` with {versions}.\n\n"
    text = f"{head}| name | case | measured |\n|---|---|---|\n{table}\n"
    (Path(__file__).parent / "results" / "same_names.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
