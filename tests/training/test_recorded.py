"""Steps that are taken as recorded have the bits of the steps as they are, and what cannot be recorded is not."""

import inspect
import io
import itertools
import random
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import handful
from handful.base.plan import Progress
from handful.data.base import Batch
from handful.training.special import recorded
from handful.training.step import ExactGradient

CALLS: list[int] = []
COUNTED = [0]
NEXT = itertools.count()
OF_ITS_OWN: dict[str, Callable[[], object]] = {
    "generator": lambda: torch.Generator().manual_seed(0), "own random": lambda: random.Random(0), "file": io.StringIO,
}  # fmt: skip


def counted() -> int:
    COUNTED[0] += 1
    return COUNTED[0]


class Settings:
    calls = 0
    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = 0


Make = Callable[[], nn.Module]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "FROM", 3)
    monkeypatch.setattr(recorded, "SHORT", 100.0)


class Odd(nn.Module):
    """Does something in its forward that operations do not show, or depend on the rows for."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.calls, self.kept, self.seen = what, 0, None, list[int]()
        self.first, self.last, self.total = nn.Linear(6, 8), nn.Linear(8, 3), torch.zeros(())
        self.register_buffer("mean", torch.zeros(8))
        self.settings, self.own = Settings(), OF_ITS_OWN.get(what, lambda: None)()
        self.kept_in = types.SimpleNamespace(calls=[0])

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        match self.what:
            case "counter":
                self.calls += 1
                h = h * (1 if self.calls < 15 else 2)
            case "kept":
                self.kept = h.detach()
            case "listed":
                self.seen.append(1)
            case "outside":
                CALLS.append(1)
                h = h * (1 if len(CALLS) % 20 else 2)
            case "in an object":
                self.kept_in.calls[0] += 1
            case "in slots":
                self.settings.scale += 1
            case "in a class":
                Settings.calls += 1
            case "by a function":
                counted()
            case "iterator":
                next(NEXT)
            case "clock":
                h = h * (1 if time.time() > 0 else 2)
            case "imported":
                from time import time as now

                h = h * (1 if now() > 0 else 2)
            case "printed":
                print(h.shape)
            case "generator":
                h = h + 0.1 * torch.randn(h.shape, generator=self.own)
            case "own random":
                h = h * (1 if self.own.random() < 0.95 else 2)
            case "file":
                self.own.write("called\n")
            case "weights":
                with torch.no_grad():
                    self.last.weight.mul_(0.99)
            case "input":
                h = self.first(x.mul_(0.9)).relu()
            case "split":
                h = torch.cat(torch.tensor_split(h, (h[:1, 0] > 0) + torch.tensor(3), 1)[::-1], 1)
            case "random":
                h = h * (1 if random.random() < 0.5 else 2)
            case "numpy's":
                h = h * (1 if np.random.rand() < 0.5 else 2)
            case "item":
                h = h * (1 if h.mean().item() < 0.3 else 2)
            case "array":
                h = h * (1 if x.numpy().mean() < 0.0 else 2)
            case "data":
                h = h * self.last.weight.data.mean()
            case "masked":
                h = h + h[h[:, 0] > 0].sum(0)
            case "other buffer":
                self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
                h = h - self.mean
            case "unregistered":
                self.total.add_(h.detach().mean())
                h = h * self.total
            case "constant":
                scale = torch.tensor(1.5)
                scale += 0.5
                h = h * scale
        return self.last(h)


class Own(nn.Module):
    """Dropout by function, buffers in place, weights used twice, a mask, a Tensor made of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(self.first(x[:, [1, 0, 2, 3, 4, 5]]), 0.2, self.training)
        self.mean.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        h = (h - self.mean).masked_fill(h > 1, 0.0) @ self.last.weight.t() @ self.last.weight * torch.tensor(0.5)
        return self.last(torch.where(h > 0, h, 0.1 * h))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 3))


def picture() -> nn.Module:
    layers = nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3))


def rows(n: int = 400) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def train(
    make: Make, until: str = "steps(50)", x_y: tuple[Tensor, Tensor] | None = None, **given: object
) -> handful.Run:
    CALLS.clear()
    COUNTED[0], Settings.calls = 0, 0
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    given = {"batch": 32, "lr": 1e-2, "quiet": True, "valid": None, **given}
    return handful.fit(make(), x_y or rows(), until=until, **given)


def same(one: handful.Run, other: handful.Run) -> None:
    """To the bit: weights, buffers, history."""
    for (name, a), b in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    lines = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.history] for run in (one, other)]
    assert repr(lines[0]) == repr(lines[1])


def as_it_is(monkeypatch: pytest.MonkeyPatch, make: Make, **given: object) -> handful.Run:
    with monkeypatch.context() as patch:
        patch.setattr(recorded, "FROM", 10**9)
        return train(make, **given)


GIVEN = [
    {}, {"optimizer": "sgd"}, {"optimizer": "momentum", "l1": 1e-4, "clip_norm": 0.5}, {"ema": 0.9},
    {"loss": "cross_entropy", "class_weight": "balanced"}, {"metrics": ("f1",)}, {"evaluate_every": 1, "valid": 0.1},
]  # fmt: skip


@pytest.mark.parametrize("given", GIVEN, ids=repr)
def test_the_bits_of_the_steps_as_they_are(given: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(mlp, **given)
    assert "from step 7 on" in run.plan.choices["compile"].reason  # 4 and 5 recorded, 6 checked
    same(run, as_it_is(monkeypatch, mlp, **given))


def half() -> nn.Module:
    return mlp().to(torch.bfloat16)


class Recurrent(nn.Module):
    """A GRU turns its output in place; an LSTM asks whether gradients are on."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.steps, self.last = kind(2, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.steps(x.reshape(-1, 3, 2))[0][:, -1])


def gru() -> nn.Module:
    return Recurrent(nn.GRU)


def rnn() -> nn.Module:
    return Recurrent(nn.RNN)


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM)


class Norms(nn.Module):
    """Parametrizations, functional calls and derivatives within the forward pass, complex weights, a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = parametrizations.weight_norm(nn.Linear(6, 8)), nn.Linear(8, 3)
        self.middle = parametrizations.spectral_norm(nn.Linear(8, 8))
        self.turn = nn.Parameter(torch.randn(8, 8, dtype=torch.cfloat) / 4)

    def forward(self, x: Tensor) -> Tensor:
        slope = torch.func.vmap(torch.func.grad(lambda row: self.first(row).tanh().sum()))(x)
        h = checkpoint(torch.tanh, self.first(x + 0.1 * slope), use_reentrant=False)
        h = h + (self.middle(h).to(torch.cfloat) @ self.turn).abs()
        with torch.autocast("cpu", torch.bfloat16):
            h = self.last(h)
        return torch.func.functional_call(self.last, {"weight": self.last.weight * 2}, (F.pad(h.float(), (0, 5)),))


class Asks(nn.Module):
    """Goes another way where a row is far out, after buffers have moved and random numbers are drawn."""

    def __init__(self, far: float) -> None:
        super().__init__()
        self.net, self.last, self.far, self.ready = mlp(), nn.Linear(3, 3), far, True
        self.register_buffer("on", torch.tensor(True))

    def forward(self, x: Tensor) -> Tensor:
        h = self.net(x) if self.on else x
        if (x > self.far).any():
            h = F.dropout(h.clamp(-1, 1), 0.5)
        return self.last(h)


@pytest.mark.parametrize("far", [float(rows()[0].max()) - 1e-4, -9.0], ids=["once an epoch", "always"])
def test_a_step_that_goes_another_way_is_taken_as_it_is(far: float, monkeypatch: pytest.MonkeyPatch) -> None:
    make = lambda: Asks(far)
    run = train(make, until="steps(100)")
    assert "operations are called as recorded" in run.plan.choices["compile"].reason
    same(run, as_it_is(monkeypatch, make, until="steps(100)"))


def test_ways_that_part_too_often_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "SPARE", 2)
    make = lambda: Asks(far=2.5)
    run = train(make, until="steps(100)")
    assert "depend on differs from step to step" in run.plan.choices["compile"].reason
    same(run, as_it_is(monkeypatch, make, until="steps(100)"))


def test_a_loss_that_leaves_rows_out(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows()
    given = {"x_y": (x, torch.where(y == 2, -1, y)), "loss": lambda o, t: F.cross_entropy(o, t, ignore_index=-1),
             "metrics": ()}  # fmt: skip
    run = train(mlp, **given)
    assert "from step 7 on" in run.plan.choices["compile"].reason
    same(run, as_it_is(monkeypatch, mlp, **given))


@pytest.mark.parametrize("make", [Own, picture, half, gru, rnn, lstm, Norms], ids=lambda make: make.__name__)
def test_other_networks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(make)
    assert "from step 7 on" in run.plan.choices["compile"].reason
    same(run, as_it_is(monkeypatch, make))


# what is done -> why such a model is taken as it is
KEEPS = [
    "counter", "kept", "listed", "outside", "in an object", "in slots", "in a class", "by a function", "random",
    "numpy's", "item", "array", "data", "masked", "other buffer", "unregistered", "constant", "weights", "split",
    "input",
]  # fmt: skip
UNKNOWN = {
    "iterator": "NEXT",
    "clock": "time",
    "imported": "Only.forward",
    "printed": "Only.forward",
    "generator": "own",
    "own random": "own",
    "file": "own",
}


def only(what: str) -> type[nn.Module]:
    """The class with one of its cases alone: what its code could do is looked at, and not what it does."""
    before, cases = inspect.getsource(Odd).split("        match self.what:\n")
    cases, after = cases.split("        return self.last(h)")
    case = next(c for c in cases.split("            case ") if c.startswith(f'"{what}"'))
    source = f"{before}        match self.what:\n            case {case}        return self.last(h){after}"
    scope = {**globals()}
    exec(source.replace("class Odd", "class Only"), scope)
    return scope["Only"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("what", [*KEEPS, *UNKNOWN])
def test_what_cannot_be_recorded_is_taken_as_it_is(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd() -> nn.Module:
        return only(what)(what)  # type: ignore[no-any-return, operator]

    run = train(odd)
    reason = run.plan.choices["compile"].reason
    assert reason.startswith(recorded.NOT)
    assert reason.startswith(f"{recorded.NOT}it is not known what '{UNKNOWN.get(what)}' does") == (what in UNKNOWN)
    if what not in ("random", "numpy's"):  # which no run keys
        same(run, as_it_is(monkeypatch, odd))


def test_what_may_be_changed_between_steps_is_not_recorded() -> None:
    made = mlp()

    def later(progress: Progress) -> float:
        made[3].p = 0.0 if progress.step > 20 else 0.2
        return 1.0

    reason = train(lambda: made, schedule=later).plan.choices["compile"].reason
    assert reason == f"{recorded.NOT}what is called between steps may change the model"
    assert "from step 7 on" in train(mlp, schedule=lambda progress: 1.0).plan.choices["compile"].reason


class Evaluated(Own):
    """Keeps something of evaluations that its steps depend on."""

    evaluations, warmth = 0, 1.0

    def train(self, mode: bool = True) -> "Evaluated":
        self.warmth *= 0.9 if mode else 1.0
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        self.evaluations += not self.training
        return super().forward(x) * self.warmth * (1 + self.evaluations)


def test_what_an_evaluation_changes_is_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"valid": 0.1, "evaluate_every": 1.0, "until": "steps(60)"}
    run = train(Evaluated, **given)
    assert "from step 7 on" in run.plan.choices["compile"].reason
    same(run, as_it_is(monkeypatch, Evaluated, **given))


class Freezes(nn.Module):
    """As of some evaluation, counted in a buffer, a weight is frozen, or its gradient is changed by a hook."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.last, self.how = nn.Linear(6, 8), nn.Linear(8, 3), how
        self.register_buffer("looks", torch.tensor(0))

    def train(self, mode: bool = True) -> "Freezes":
        self.looks += not mode
        weight = self.first.weight
        if mode and self.looks == 4 and self.how == "frozen":
            weight.requires_grad_(False)
        if mode and self.looks == 4 and self.how != "frozen" and not weight._backward_hooks:
            weight.register_hook(lambda gradient: gradient * 0.5)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


@pytest.mark.parametrize(
    ("how", "said"), [("frozen", "from step 7 on"), ("hook", "between steps may change the model")]
)
def test_what_an_evaluation_does_to_a_weight_is_seen(how: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"valid": 0.1, "evaluate_every": 1.0, "until": "steps(80)"}
    run = train(lambda: Freezes(how), **given)
    assert said in run.plan.choices["compile"].reason
    same(run, as_it_is(monkeypatch, lambda: Freezes(how), **given))


class OwnRate(Own):
    """Looks at its optimizer's learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizers = [torch.optim.SGD(self.parameters(), lr=1e-2)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + self.optimizers[0].param_groups[0]["lr"])


def test_a_model_that_looks_at_its_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> handful.Run:
        torch.manual_seed(0)
        made = OwnRate()
        given = {"optimizer": made.optimizers[0], "lr": "auto", "schedule": "step(every=0.4, factor=0.5)"}
        return train(lambda: made, **given)

    found = run()
    assert found.plan.choices["compile"].reason == f"{recorded.NOT}what is called between steps may change the model"
    with monkeypatch.context() as patch:
        patch.setattr(recorded, "FROM", 10**9)
        same(found, run())


class Counting(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Its rows become harder, which the model looks at."""

    def __init__(self) -> None:
        self.x, self.y = (torch.as_tensor(values) for values in rows())
        self.told = {"read": 0}

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        self.told["read"] += 1
        return self.x[row] + torch.randn(6), self.y[row]  # what draws is read again in every epoch


def test_a_model_that_looks_at_its_data_set() -> None:
    data, made = Counting(), Own()
    made.told = data.told
    run = train(lambda: made, x_y=data)
    assert run.plan.choices["compile"].reason.startswith(recorded.NOT)
    assert "from step 7 on" in train(Own, x_y=Counting()).plan.choices["compile"].reason


class Turns(torch.optim.SGD):
    """Changes what the model looks at, in its steps."""

    def __init__(self, model: Evaluated) -> None:
        super().__init__(model.parameters(), lr=0.01)
        self.model, self.steps = model, 0

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        super().step()
        self.steps += 1
        self.model.warmth = 1.0 if self.steps < 20 else 2.0


def hooked(model: Evaluated) -> torch.optim.Optimizer:
    optimizer, calls = torch.optim.SGD(model.parameters(), lr=0.01), itertools.count()
    optimizer.register_step_post_hook(lambda *_: setattr(model, "warmth", 1.0 if next(calls) < 20 else 2.0))
    return optimizer


@pytest.mark.parametrize("of", [Turns, hooked])
def test_a_model_that_its_optimizer_changes(of: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> handful.Run:
        torch.manual_seed(0)
        made = Evaluated()
        return train(lambda: made, optimizer=of(made), lr="auto", schedule="constant")

    found = run()
    assert found.plan.choices["compile"].reason == f"{recorded.NOT}what is called between steps may change the model"
    with monkeypatch.context() as patch:
        patch.setattr(recorded, "FROM", 10**9)
        same(found, run())


def test_what_changes_later_is_found_at_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "AGAIN", 16)
    holder = type("Clock", (), {"factor": 1})

    class Late(Own):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * holder.factor

    monkeypatch.setattr(recorded.Recorded, "take", _changing(recorded.Recorded.take, holder))
    run = train(Late)
    assert run.plan.choices["compile"].reason == f"{recorded.NOT}they do not give the bits of the step itself"
    assert recorded.UNSURE.format(7, 8, "they do not give the bits of the step itself") in run.plan.notes


def _changing(take: Callable[..., None], holder: type) -> Callable[..., None]:
    def changed(self: object, step: object, body: object) -> None:
        take(self, step, body)
        holder.factor = 3  # type: ignore[attr-defined]

    return changed


def test_a_resumed_run_has_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = as_it_is(monkeypatch, mlp, until="steps(40)", schedule="constant")
    train(mlp, until="steps(20)", schedule="constant", out=tmp_path / "run")
    resumed = handful.resume(tmp_path / "run", until="steps(40)", model=mlp(), train=rows(), quiet=True)
    assert "from step 24 on" in resumed.plan.choices["compile"].reason
    for a, b in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", [mlp, lstm, Norms])
def test_whatever_the_clock_decides_the_bits_are_the_same(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that is neither broken off nor recorded, and of one that is, from odd steps on, and replayed."""
    given = {"schedule": "constant", "valid": 0.1, "evaluate_every": 0.5}
    whole, decide = as_it_is(monkeypatch, make, until="steps(90)", **given), random.Random(0)
    body_of = recorded.Recorded.parts

    def parts(self: recorded.Recorded, step: ExactGradient) -> Iterator[Batch]:
        monkeypatch.setattr(recorded, "SHORT", decide.choice([0.0, 100.0]))
        if decide.random() < 0.1:
            self.bodies.clear()
        return body_of(self, step)

    monkeypatch.setattr(recorded.Recorded, "parts", parts)
    train(make, until="steps(37)", out=tmp_path / "run", **given)
    resumed = handful.resume(tmp_path / "run", until="steps(90)", model=make(), train=rows(), quiet=True)
    assert resumed.plan.choices["compile"].reason.startswith("from step")
    for a, b in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    looks = [{row["step"]: row["valid_loss"] for row in run.history if "valid_loss" in row} for run in (resumed, whole)]
    assert looks[0] == looks[0] | looks[1]  # one more is where it was broken off
    assert handful.replay(tmp_path / "run", 61, model=make(), train=rows()).differs is None


def test_mini_batches_of_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"batch": 16, "batch_growth": "grow_batch(every=2)"}
    same(train(mlp, **given), as_it_is(monkeypatch, mlp, **given))


def test_a_loss_that_is_not_finite_is_named_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows()
    x[int(handful.Order(400, seed=0)[330:331][0])] = torch.nan
    run = train(mlp, x_y=(x, y), preprocess=None)
    assert "the loss is not finite at step 11" in run.stopped_because
    same(run, as_it_is(monkeypatch, mlp, x_y=(x, y), preprocess=None))


def test_an_error_in_the_model_leaves_no_recording_open() -> None:
    class Fails(Odd):
        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            if torch._C._len_torch_dispatch_stack():
                raise OSError("of the caller's")
            return super().forward(x)

    with pytest.raises(OSError, match="of the caller's"):
        train(lambda: Fails(""))
    assert torch._C._len_torch_dispatch_stack() == 0


@pytest.mark.parametrize("given", [{"compile": False}, {"callbacks": [lambda event, info: None]}, {"micro_batch": 8},
                                   {"profile": True}], ids=lambda given: next(iter(given)))  # fmt: skip
def test_where_it_is_not_to_be(given: dict[str, object]) -> None:
    assert "record" not in train(mlp, **given).plan.choices["compile"].reason
