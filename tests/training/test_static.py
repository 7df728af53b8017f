"""The step that a GPU replays as a graph, here taken by the CPU without one: the same bits as the plain step."""

import gc
import math
import time
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import handful
from handful.optim.fused import in_place
from handful.training.process import graphs, static
from handful.training.process.static import StaticStep
from handful.training.watch.saved import tensors_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(700, 12)).astype(np.float32)
Y = (X[:, 0] + 0.3 * X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 1)
WEIGHT = RNG.uniform(0.5, 2, 700).astype(np.float32)


class Net(nn.Module):
    def __init__(self, norm=False):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(12, 16), nn.BatchNorm1d(16) if norm else nn.LayerNorm(16), nn.ReLU(), nn.Dropout(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(16, 3))

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def taken(monkeypatch):
    """The steps taken as graphs are, on a CPU; the number of steps that were, of each call."""
    counts = []
    take = StaticStep.take_all

    def counted(self, numbers):
        counts.append(len(numbers))
        return take(self, numbers)

    monkeypatch.setattr(static, "DEVICES", ("cuda", "cpu"))
    monkeypatch.setattr(StaticStep, "take_all", counted)
    return counts


def fit(model=None, data=(X, Y), **options):
    given = {"batch": 32, "lr": 0.01, "until": "steps(90)", "quiet": True, "device": "cpu"}
    return handful.fit(model or Net(), data, **(given | options))


def plain(*args, **options):
    return fit(*args, **options, graph=False)


def timeless(run):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]


def assert_same(a, b):
    for name, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[name]), name
    for name, value in tensors_of(a.state).items():
        assert torch.equal(value, tensors_of(b.state)[name]), name
    assert timeless(a) == timeless(b)
    assert a.stopped_because == b.stopped_because


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd"},
        {"optimizer": "momentum"},
        {"optimizer": "adam"},
        {"optimizer": "adamw", "ema": 0.9},
        {"optimizer": "adamw", "clip_norm": 0.1, "l1": 1e-4, "l2": 0.1},
        {"clip_value": 0.01, "schedule": "cosine(warmup=0.2)", "on_nonfinite": "skip"},
        {"batch": 1, "until": "steps(40)"},
        {"batch": "full", "until": "steps(30)"},
        {"until": "epochs(3) | plateau(2)", "evaluate_every": 0.3},
        {"until": "steps(77) & epochs(1)", "valid": None},
        {"batch": 16, "batch_growth": "grow_batch(every=1)", "until": "epochs(4)"},
        {"batch": 16, "batch_growth": "grow_batch(every=7)", "until": "epochs(29)", "valid": None, "optimizer": "sgd"},
        {"loss": nn.functional.cross_entropy, "metrics": "accuracy, f1"},
        {"class_weight": "balanced"},
        {"save_every": 7},
        {"optimizer": {"layers.0": "sgd", "*": "adamw"}},
        {"shuffle": "replacement"},
    ],
)
def test_its_steps_have_the_bits_of_the_plain_ones(taken, options):
    model = {"model": "mlp(hidden=[8])"} if options.get("class_weight") else {}
    assert_same(fit(**model, **options), plain(**model, **options))
    assert sum(taken) > 25


def test_so_it_is_with_running_statistics_rows_that_are_weighted_and_numbers_to_predict(taken):
    assert_same(fit(Net(norm=True), ema=0.99), plain(Net(norm=True), ema=0.99))
    data = {"x": X, "y": Y, "w": WEIGHT}
    assert_same(fit(data=data, target="y", weight="w"), plain(data=data, target="y", weight="w"))
    data = (X, X[:, :1] * 3 + 1e3)
    assert_same(fit("mlp", data, metrics="r2, mae"), plain("mlp", data, metrics="r2, mae"))
    assert sum(taken) == 3 * 89


@pytest.mark.parametrize(
    "options",
    [
        {"model": "mlp(hidden=[8])", "augment": "noise(0.3)"},
        {"model": "mlp(hidden=[8], dropout=0.2)", "augment": "noise(0.3) | mixup", "ema": 0.9, "on_nonfinite": "skip"},
        {"batch": 16, "batch_growth": "grow_batch(every=1)", "until": "epochs(4)"},
        {"model": "mlp(hidden=[8])", "data": {"x": X, "y": Y, "w": WEIGHT}, "target": "y", "weight": "w"},
        {
            "model": "cnn",
            "data": (X[:, :9].reshape(-1, 1, 3, 3), Y),
            "augment": "shift(1) | noise",
            "until": "steps(9)",
        },
    ],
)
def test_so_it_is_where_the_host_draws_or_augments_the_rows(taken, monkeypatch, options):
    monkeypatch.setattr(graphs, "room", lambda column, rows: False)
    assert_same(fit(**options), plain(**options))
    assert sum(taken) > 7
    assert max(taken) <= static.FED


def test_a_row_that_is_not_finite_is_named_where_the_host_draws_the_rows(taken, monkeypatch):
    monkeypatch.setattr(graphs, "room", lambda column, rows: False)
    x = X.copy()
    x[411, 3] = math.nan
    options = {"valid": None, "batch": 8, "preprocess": None, "ema": 0.9}
    a, b = fit(data=(x, Y), **options), plain(data=(x, Y), **options)
    assert "row 411" in a.stopped_because
    assert_same(a, b)


def test_mini_batches_of_several_shapes_are_taken_one_by_one_and_it_is_said(taken):
    words = [" ".join(["good" if y else "bad"] * (1 + k % 9)) for k, y in enumerate(Y)]
    options = {"model": "text", "data": {"x": words, "y": Y}, "target": "y", "until": "steps(20)", "batch": 2}
    a, b = fit(**options), plain(**options)
    for name, value in tensors_of(b.state).items():
        assert torch.equal(value, tensors_of(a.state)[name]), name
    assert any("several shapes" in note for note in a.plan.notes)


def test_many_are_taken_between_two_looks_and_one_at_a_time_where_callbacks_count(taken):
    fit(valid=None, until="epochs(40)", batch=4)
    assert max(taken) > 8
    taken.clear()
    told = []
    fit(callbacks=[lambda event, info: told.append(event)], until="steps(20)")
    assert told.count("step") == 20
    assert set(taken) == {1}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_a_loss_that_is_not_finite_turns_updates_off_and_is_named(taken, norm, optimizer):
    x = X.copy()
    x[411, 3] = math.nan
    options = {"valid": None, "batch": 8, "preprocess": None, "optimizer": optimizer, "ema": 0.9}
    a, b = fit(Net(norm), (x, Y), **options), plain(Net(norm), (x, Y), **options)
    assert "row 411" in a.stopped_because
    assert 5 < a.state.step < 88
    assert_same(a, b)


@pytest.mark.parametrize("what", ["skip", "rollback"])
def test_what_is_done_about_it_is_the_same(taken, what):
    class Far(Net):
        def forward(self, x):
            out = super().forward(x)
            return out / (out.detach().abs().amax() < 3.0).float() if self.training else out

    a, b = (run(Far(), on_nonfinite=what, lr=0.5, until="epochs(5)") for run in (fit, plain))
    assert_same(a, b)
    assert any("note" in row for row in a.history)


def test_a_run_that_is_broken_off_ends_with_the_same_bits(taken, tmp_path):
    def kill(event, info):
        if event == "checkpoint" and info["step"] == 54:
            raise KeyboardInterrupt

    options = {"save_every": 9, "ema": 0.9, "out": tmp_path / "run"}
    whole = fit(**{**options, "out": tmp_path / "whole"})
    fit(**options, callbacks=[kill])
    resumed = handful.resume(tmp_path / "run", model=Net(), train=(X, Y), quiet=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
    assert [row["train_loss"] for row in whole.history if "train_loss" in row] == [
        row["train_loss"] for row in resumed.history if "train_loss" in row
    ]


def test_a_graph_is_let_go_before_another_is_made(taken, monkeypatch):
    alive, begin, before = weakref.WeakSet(), StaticStep.__init__, []

    def made(self, t):
        gc.collect()  # without a graph, a step holds itself
        before.append(len(alive))
        alive.add(self)
        begin(self, t)

    monkeypatch.setattr(StaticStep, "__init__", made)
    fit(batch=16, batch_growth="grow_batch(every=1)", until="epochs(3)")
    assert before == [0, 0, 0]


class Random(Net):
    def forward(self, x):
        return super().forward(x) * (1 + np.random.rand())


class Counting(Net):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Listing(Net):
    """Counts in an object, and what it gives depends on it."""

    def __init__(self):
        super().__init__()
        self.seen = {"calls": [0]}

    def forward(self, x):
        self.seen["calls"][0] += self.training
        return super().forward(x) / self.seen["calls"][0]


class Clock(Net):
    def forward(self, x):
        return super().forward(x) * (1 + 0 * time.time())


class OwnRate(Net):
    def __init__(self):
        super().__init__()
        self.optimizers = [torch.optim.AdamW(self.parameters(), lr=0.01, fused=True)]

    def forward(self, x):
        return super().forward(x) * (1 + self.optimizers[0].param_groups[0]["lr"])


def test_a_model_that_counts_in_an_object_is_taken_as_it_is_and_no_trial_is_counted(taken):
    run, as_it_is = fit(Listing(), valid=None), plain(Listing(), valid=None)
    assert taken == []
    assert any("on the host" in note for note in run.plan.notes)
    assert run.model.seen == as_it_is.model.seen
    for name, value in as_it_is.model.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[name]), name


def test_a_model_that_may_look_at_something_else_in_each_step_is_taken_as_it_is(taken):
    clock, model = fit(Clock(), valid=None), OwnRate()
    assert any("it is not known what 'time' does" in note for note in clock.plan.notes)
    notes = fit(model, optimizer=model.optimizers[0], lr="auto", schedule="step(every=0.4)", valid=None).plan.notes
    assert any("what is called between steps may change the model" in note for note in notes)
    told = Net()
    notes = fit(told, valid=None, callbacks=[lambda event, info: told.layers[3].__setattr__("p", 0.1)]).plan.notes
    assert any("what is called between steps may change the model" in note for note in notes)
    assert taken == []


class Table(Net):
    """Makes once what it needs of the sizes, and begins with the first rows that it sees."""

    scale = shift = None

    def forward(self, x):
        if self.scale is None:
            self.scale, self.shift = torch.linspace(0.5, 1.5, 12), x.mean()
        return super().forward(x * self.scale - self.shift)


class Drawing(torch.utils.data.Dataset):
    """Its rows are others in every epoch."""

    level = 1.0

    def __init__(self, noise=1.0):
        self.noise = noise

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        noise = self.noise * torch.randn(12) if self.noise else 0.0
        return self.level * torch.as_tensor(X[row]) + noise, int(Y[row])


def test_rows_that_are_drawn_anew_are_not_kept_on_the_device(taken):
    run = fit(data=Drawing(), valid=None)
    assert sum(taken) == 89
    assert_same(run, plain(data=Drawing(), valid=None))


def test_rows_that_a_callback_changes_are_not_kept_on_the_device(taken):
    def run(**options):
        data = Drawing(0.0)

        def easier(event, info):
            data.level = 0.5 ** (info.get("step", 0) // 20)

        return fit(data=data, valid=None, callbacks=[easier], **options)

    assert_same(run(), run(graph=False))
    assert sum(taken) == 89


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_is_made_once_is_made_by_a_step_that_counts(taken, optimizer):
    run = fit(Table(), valid=None, optimizer=optimizer)
    assert sum(taken) >= 88
    assert_same(run, plain(Table(), valid=None, optimizer=optimizer))


class Evaluated(Net):
    evaluations = 0

    def forward(self, x):
        self.evaluations += not self.training
        return super().forward(x) / (1 + self.evaluations)


def test_what_an_evaluation_changes_is_captured_anew(taken, monkeypatch):
    made, begin = [], StaticStep.__init__
    monkeypatch.setattr(StaticStep, "__init__", lambda self, t: (made.append(t.state.step), begin(self, t))[1])
    given = {"valid": 0.1, "evaluate_every": 1}
    fit(**given)
    assert len(made) == 1
    run = fit(Evaluated(), **given)
    assert len(made) > 2
    assert made[-1] > made[1]
    assert_same(run, plain(Evaluated(), **given))


@pytest.mark.parametrize("model", [Random, Counting])
def test_a_model_that_draws_or_counts_on_the_host_is_found_out_and_said(taken, model):
    np.random.seed(0)
    run = fit(model(), valid=None)
    assert taken == []
    assert any("on the host" in note for note in run.plan.notes)
    assert run.state.step == 90


def test_warming_up_leaves_no_trace_where_a_model_cannot_be_captured(taken, monkeypatch):
    def fails(body, device):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "captured", fails)
    a = fit(Net(norm=True), ema=0.9)
    assert any(note.endswith("when stream is capturing") for note in a.plan.notes)
    b = plain(Net(norm=True), ema=0.9)
    for name, value in tensors_of(b.state).items():
        assert torch.equal(value, tensors_of(a.state)[name]), name


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"optimizer": "muon", "model": "mlp(hidden=[8, 8])"}, "fused step"),
        ({"optimizer": "lbfgs", "batch": "full"}, "several times"),
        ({"micro_batch": 8}, "in parts"),
        ({"schedule": {"layers.0": "frozen(until=1)", "*": "cosine"}}, "schedules of their own"),
        ({"profile": True}, "timed"),
    ],
)
def test_the_plan_says_why_where_steps_are_taken_one_by_one(taken, options, why):
    run = fit(**options, until="steps(3)")
    assert taken == []
    assert run.plan.graph is False
    assert why in run.plan.choices["graph"].reason


def test_on_a_cpu_nothing_is_said_of_it():
    assert "graph" not in fit(until="steps(3)").plan.choices
    assert plain(until="steps(3)").plan.graph is False


def test_a_model_that_draws_nothing_is_not_taken_for_one_that_does(taken, monkeypatch):
    seen = graphs.on_host
    monkeypatch.setattr(graphs, "on_host", lambda device: seen(torch.device("cuda")))
    run = fit(nn.Linear(12, 3), valid=None, until="steps(9)")
    assert sum(taken) == 8
    assert not any("not captured" in note for note in run.plan.notes)


class NeverWaits(TorchDispatchMode):
    """Fails where an operation would have the host wait for the device, or copy to it."""

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "lift_fresh")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.waiting, f"the host waits: {func}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("model", "data", "options"),
    [
        (None, (X, Y), {"clip_norm": 0.1, "ema": 0.9, "on_nonfinite": "skip", "l1": 1e-4}),
        ("mlp(hidden=[8])", (X, Y), {"class_weight": "balanced"}),
        ("mlp", (X, X[:, :1] * 3 + 1e3), {"metrics": "r2, mae", "loss": "huber"}),
        (None, {"x": X, "y": Y, "w": WEIGHT}, {"target": "y", "weight": "w", "metrics": "accuracy, f1"}),
        ("table", (X, Y), {}),
        ("cnn", (X[:, :9].reshape(-1, 3, 3), Y), {"augment": None}),
        (None, (X, Y), {"loss": nn.CrossEntropyLoss(reduction="sum")}),
    ],
)
def test_nothing_in_a_step_waits_for_the_device(taken, monkeypatch, model, data, options):
    def captured(body, device):
        def watched():
            with NeverWaits():
                body()

        return watched

    monkeypatch.setattr(graphs, "captured", captured)
    monkeypatch.setattr(
        static, "in_place", lambda *args: in_place(*args) and nothing
    )  # a CPU's kernels read their rate
    run = fit(model, data, until="steps(4)", **options)
    assert sum(taken) == 3
    assert not any("not captured" in note for note in run.plan.notes)


def nothing():
    """No update."""
