"""On a GPU: the same mathematics as on the CPU, the same bits again, and what only a GPU can do wrong."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import handful
from handful.optim import build as optimizer
from handful.plan.probe.memory import measure_memory
from handful.training.process import graphs
from handful.training.process.static import StaticStep

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device in sight; `make test-cuda` where there is one"
)
IMAGES, Y = load_digits(return_X_y=True)
X = (IMAGES / 16).astype(np.float32)
PICTURES = X.reshape(-1, 8, 8)


def fit(model="mlp", data=(X, Y), **options):
    given = {"device": "cuda", "batch": 64, "lr": 1e-3, "until": "epochs(3)", "quiet": True}
    return handful.fit(model, data, **(given | options))


def weights(run):
    return [value.cpu() for value in run.model.state_dict().values()]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(weights(a), weights(b), strict=True))


def test_a_gpu_takes_the_steps_that_a_cpu_takes():
    cpu, gpu = fit(device="cpu", precision="float32"), fit(precision="float32")
    assert next(gpu.model.parameters()).is_cuda
    for a, b in zip(weights(cpu), weights(gpu), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert gpu.history[-1]["valid_loss"] == pytest.approx(cpu.history[-1]["valid_loss"], rel=1e-4)


@pytest.mark.parametrize(("model", "data"), [("mlp", X), ("cnn", PICTURES)])
def test_the_same_seed_gives_the_same_bits(model, data):
    assert same(fit(model, (data, Y)), fit(model, (data, Y)))


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path):
    code = (
        "import sys, numpy as np, handful\nfrom sklearn.datasets import load_digits\n"
        "x, y = load_digits(return_X_y=True)"
        "\nhandful.fit('cnn', ((x / 16).astype(np.float32).reshape(-1, 8, 8), y), device='cuda', batch=32, lr=1e-3,"
        " until='epochs(20)', out=sys.argv[1], save_every=20, quiet=True)"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")])
    history = tmp_path / "run" / "history.jsonl"
    while run.poll() is None and not (history.exists() and len(history.read_text().splitlines()) > 60):
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    resumed = handful.resume(tmp_path / "run", train=(PICTURES, Y))
    assert same(resumed, fit("cnn", (PICTURES, Y), batch=32, until="epochs(20)"))


@pytest.mark.parametrize("name", optimizer.names)
def test_every_optimizer_takes_steps(name):
    assert fit(optimizer=name, lr="auto").history[-1]["valid_loss"] < 2.2


def test_a_batch_that_does_not_fit_is_taken_in_parts():
    free = torch.cuda.mem_get_info()[0]
    wide = int(free / 4 / 512)  # one float32 tensor of a batch of 512 would take all that is free

    class Fat(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(64, 10)

        def forward(self, x):
            big = x[:, :1].expand(-1, wide).contiguous()
            return self.out(x) + 0 * big.sin().mean(1, keepdim=True)

    run = fit(Fat(), batch=512, until="steps(2)", precision="float32")
    assert run.state.micro_batch is not None
    assert run.state.micro_batch < 512
    torch.cuda.empty_cache()


def test_memory_is_measured_and_left_as_it_was():
    from handful.plan.build import assemble

    net = nn.Sequential(nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 10))
    t = assemble(net, (X, Y), {"batch": 32, "lr": 1e-3, "quiet": True, "device": "cuda", "precision": "float32"})
    before = torch.cuda.memory_allocated()
    found = measure_memory(t, 1024)
    assert torch.cuda.memory_allocated() == before
    assert found.per_row > 4 * 4096  # the hidden activations, kept for the backward pass
    assert found.limit < torch.cuda.mem_get_info()[1]


def test_a_trained_model_predicts_on_a_cpu(tmp_path):
    run = fit("cnn", (PICTURES, Y), until="epochs(10)", out=tmp_path / "run")
    moved = handful.load(tmp_path / "run", device="cpu")
    assert not next(moved.model.parameters()).is_cuda
    assert np.mean(moved.predict(PICTURES) == run.predict(PICTURES)) > 0.99


def test_data_on_the_gpu_are_copied_and_it_is_said():
    run = fit(data=(torch.from_numpy(X).cuda(), torch.from_numpy(Y).cuda()))
    assert any("copied from cuda:0" in note for note in run.plan.notes)


def test_a_model_of_float64_stays_so():
    net = nn.Linear(64, 10).double()
    run = fit(net, until="steps(2)")
    assert (run.plan.precision, next(run.model.parameters()).dtype) == ("float64", torch.float64)


def test_the_choices_of_auto_are_made(monkeypatch):
    monkeypatch.setattr("handful.plan.probe.decide.SHORT", 0.0)  # as a longer run makes them
    run = fit(batch="auto", lr="auto", until="epochs(20)")
    assert run.plan.choices["batch"].status in ("measured", "bounded")
    assert run.history[-1]["valid_accuracy"] > 0.9


def test_a_model_is_compiled():
    if sys.platform != "linux" or os.environ.get("TORCH_COMPILE_DISABLE"):
        pytest.skip("there is no compiler")
    assert fit(compile=True).history[-1]["valid_loss"] < 1


def counted_looks(monkeypatch):
    """How many steps were replayed as graphs, call by call."""
    counts, take = [], StaticStep.take_all

    def counted(self, numbers):
        counts.append(len(numbers))
        return take(self, numbers)

    monkeypatch.setattr(StaticStep, "take_all", counted)
    return counts


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd"},
        {"optimizer": "momentum"},
        {"optimizer": "adam", "clip_norm": 0.5},
        {"optimizer": "adamw", "ema": 0.99, "l1": 1e-4, "schedule": "cosine(warmup=0.1)"},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("model", "data"), [("mlp(hidden=[32], dropout=0.2)", X), ("cnn", PICTURES)])
def test_a_replayed_step_is_the_captured_one_to_the_bit(monkeypatch, model, data, options):
    counts = counted_looks(monkeypatch)
    graph = fit(model, (data, Y), augment=None, **options)
    assert sum(counts) == graph.state.step - 1
    assert not any("not captured" in note for note in graph.plan.notes)
    monkeypatch.setattr(graphs, "captured", lambda body, device: body)  # the same code, as it is
    assert same(graph, fit(model, (data, Y), augment=None, **options))


@pytest.mark.parametrize(("model", "data"), [("mlp(hidden=[32])", X), ("cnn", PICTURES)])
def test_mini_batches_that_the_host_augments_are_replayed_to_the_bit(monkeypatch, model, data):
    counts = counted_looks(monkeypatch)
    graph = fit(model, (data, Y), augment="noise(0.1)", ema=0.99)
    assert sum(counts) == graph.state.step - 1
    monkeypatch.setattr(graphs, "captured", lambda body, device: body)  # the same code, as it is
    assert same(graph, fit(model, (data, Y), augment="noise(0.1)", ema=0.99))


def test_a_replayed_step_is_the_plain_one_but_for_rounding():
    graph, plain = fit(precision="float32"), fit(precision="float32", graph=False)
    assert graph.plan.graph is True
    for a, b in zip(weights(graph), weights(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_between_two_looks_the_host_never_waits(monkeypatch):
    take, looked = StaticStep.take_all, []

    def strict(self, numbers):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return take(self, numbers)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            looked.append(len(numbers))

    monkeypatch.setattr(StaticStep, "take_all", strict)
    run = fit("mlp(hidden=[32], dropout=0.2)", augment=None, until="epochs(10)", ema=0.99, clip_norm=1.0)
    assert sum(looked) == run.state.step - 1
    assert max(looked) > 4


def test_a_loss_that_is_not_finite_is_named_by_step_and_rows(monkeypatch):
    counts, x = counted_looks(monkeypatch), X.copy()
    x[700, 5] = np.nan
    options = {"valid": None, "preprocess": None, "augment": None, "batch": 16, "precision": "float32"}
    a, b = (fit(data=(x, Y), graph=graph, **options) for graph in ("auto", False))
    assert sum(counts) > 4
    assert a.stopped_because == b.stopped_because
    assert "row 700" in a.stopped_because
    assert all(bool(torch.isfinite(value).all()) for value in weights(a))


def test_a_run_that_is_broken_off_is_replayed_to_the_same_bits(tmp_path):
    def kill(event, info):
        if event == "checkpoint" and info["step"] == 40:
            raise KeyboardInterrupt

    options = {"augment": None, "save_every": 8, "ema": 0.99, "until": "epochs(4)"}
    model = "mlp(hidden=[32], dropout=0.2)"
    whole = fit(model, out=tmp_path / "whole", **options)
    fit(model, out=tmp_path / "run", callbacks=[kill], **options)
    assert same(whole, handful.resume(tmp_path / "run", train=(X, Y), quiet=True))


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM])
def test_what_cannot_be_captured_is_said_and_trained_all_the_same(layer):
    class Waits(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = layer(8, 16, batch_first=True), nn.Linear(16, 10)

        def forward(self, x):
            hidden, _ = self.layer(x)
            return self.out(hidden[:, -1]) * float(1 + 0 * hidden.detach().sum())  # it waits for the device

    run = fit(Waits(), (PICTURES, Y), augment=None)
    assert any("not captured" in note for note in run.plan.notes)
    assert run.history[-1]["valid_loss"] < 2.3
