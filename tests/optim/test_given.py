"""Optimizers and schedules as a torch user brings them, against plain loops, and resumed after an interruption."""

import math
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

import handful
from handful.base.errors import HandfulError
from handful.base.keys import dropout_key
from handful.optim.state import state_tensors

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(96, 5, generator=GENERATOR)
Y = (X[:, 0] + X[:, 1] > 0).long()
Z = X @ torch.randn(5, 1, generator=GENERATOR) + 0.1 * torch.randn(96, 1, generator=GENERATOR)
USUAL: dict[str, Any] = {"batch": 16, "lr": 0.05, "schedule": "constant", "valid": None, "quiet": True}


def net(outputs: int = 2, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, outputs))


def fit(model: nn.Module, y: Tensor = Y, steps: int = 12, **given: Any) -> Any:
    return handful.fit(model, (X, y), **{**USUAL, "until": f"steps({steps})", **given})


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, set_rate: Callable[[int], Any]) -> None:
    """The same rows, one step after another, as torch's own tutorial writes it; without dropout."""
    order = handful.Order(96, seed=0)
    model.train()
    for step in range(steps):
        rows = torch.from_numpy(order[step * 16 : step * 16 + 16])
        set_rate(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X[rows]), Y[rows]).backward()
        optimizer.step()


def plain(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_options_in_text_are_those_of_torch() -> None:
    model, twin = plain(), plain()
    run = fit(model, optimizer="adam(betas=[0.8, 0.95], eps=1e-6)", l2=0.0)
    by_hand(twin, torch.optim.Adam(twin.parameters(), lr=0.05, betas=(0.8, 0.95), eps=1e-6, fused=True), 12, int)
    assert same(model, twin)
    assert run.plan.options["optimizer"] == "adam(betas=[0.8, 0.95], eps=1e-6)"


def test_rates_by_pattern_are_torchs_groups() -> None:
    model, twin = plain(), plain()
    run = fit(model, optimizer="momentum", lr={"2": 0.2, "*": 0.01}, l2=0.0)
    groups = [{"params": twin[0].parameters(), "lr": 0.01}, {"params": twin[2].parameters(), "lr": 0.2}]
    by_hand(twin, torch.optim.SGD(groups, momentum=0.9, fused=True), 12, int)
    assert same(model, twin)
    assert run.plan.lr == {"2": 0.2, "*": 0.01}


def test_several_optimizers_by_pattern() -> None:
    model, twin = plain(), plain()
    fit(model, optimizer={"0": "sgd", "2": torch.optim.RMSprop}, lr={"0": 0.3, "2": 0.01}, l2=0.0)
    a = torch.optim.SGD(twin[0].parameters(), lr=0.3, fused=True)
    b = torch.optim.RMSprop(twin[2].parameters(), lr=0.01)

    class Both(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            a.step()
            b.step()

    by_hand(twin, Both(twin.parameters(), lr=1.0), 12, int)
    assert same(model, twin)


@pytest.mark.parametrize(
    ("asked", "scheduler"),
    [
        (own := partial(StepLR, step_size=5, gamma=0.5), own),
        (own := partial(OneCycleLR, max_lr=0.02, total_steps=12, cycle_momentum=False), own),  # rates of their own
        (own := lambda optimizer: CyclicLR(optimizer, 0.001, 0.01, step_size_up=3, cycle_momentum=False), own),
        (own := partial(CosineAnnealingLR, T_max=12, eta_min=0.001), own),
        (own := partial(LambdaLR, lr_lambda=lambda k: 0.9**k), own),
        (lambda progress: 0.9**progress.step, partial(LambdaLR, lr_lambda=lambda k: 0.9**k)),
    ],
)
def test_torchs_schedulers_and_functions_of_progress(asked: Any, scheduler: Callable[..., LRScheduler]) -> None:
    model, twin = plain().double(), plain().double()
    handful.fit(
        model, (X.double(), Y), **{**USUAL, "until": "steps(12)", "optimizer": "sgd", "schedule": asked, "l2": 0.0}
    )
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    moving = scheduler(optimizer)
    order = handful.Order(96, seed=0)
    for step in range(12):
        rows = torch.from_numpy(order[step * 16 : step * 16 + 16])
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(X[rows].double()), Y[rows]).backward()
        optimizer.step()
        if step < 11:
            moving.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-13)


def test_a_scheduler_with_rates_of_its_own_needs_the_rate() -> None:
    for inner in (partial(CyclicLR, base_lr=0.001, max_lr=0.01), partial(CosineAnnealingLR, T_max=9, eta_min=0.001)):
        for asked in (inner, {"*": inner}, handful.schedule.warmup(inner, share=0.1)):
            with pytest.raises(HandfulError, match="rates of its own, so that lr cannot be open"):
                handful.fit(plain(), (X, Y), **{**USUAL, "schedule": asked, "lr": "auto"})


def test_a_part_is_frozen_and_thawed_by_its_schedule() -> None:
    model, twin = plain(), plain()
    first = model[0].weight.detach().clone()
    seen: list[bool] = []
    watch = lambda event, info: seen.append(torch.equal(first, model[0].weight)) if event == "step" else None
    schedule = {"0": "frozen(until=1, after=1.5)", "*": "constant"}
    fit(model, optimizer="momentum", schedule=schedule, l2=0.0, clip_norm=0.1, callbacks=[watch])
    assert seen[:6] == [True] * 6  # an epoch has six steps
    assert not any(seen[6:])

    order, optimizer = handful.Order(96, seed=0), torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    for step in range(12):
        rows = torch.from_numpy(order[step * 16 : step * 16 + 16])
        for p in twin[0].parameters():
            p.requires_grad_(6 <= step < 9)
            p.grad = None
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(X[rows]), Y[rows]).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("options", [{}, {"line_search_fn": "strong_wolfe", "max_iter": 7}])
def test_lbfgs_is_the_plain_loop_to_the_bit(options: dict[str, Any]) -> None:
    """A closure that is asked for the loss several times; dropout and BatchNorm included."""
    model, twin = net(1), net(1)
    fit(model, Z, steps=4, optimizer=partial(torch.optim.LBFGS, **options), lr=0.5, batch="full")
    optimizer = torch.optim.LBFGS(twin.parameters(), lr=0.5, **options)
    rows = [torch.from_numpy(handful.Order(96, seed=0)[k * 96 : k * 96 + 96]) for k in range(4)]
    twin.train()
    for step in range(4):

        def closure(step: int = step) -> Tensor:
            torch.default_generator.manual_seed(dropout_key(0, step, 0))
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(twin(X[rows[step]]), Z[rows[step]])
            loss.backward()
            return loss

        optimizer.step(closure)
    assert same(model.train(), twin)


def test_lbfgs_in_parts_is_lbfgs() -> None:
    model, whole = plain().double(), plain().double()
    for one, micro in ((model, 20), (whole, None)):
        handful.fit(one, (X.double(), Y), optimizer="lbfgs", until="steps(3)", micro_batch=micro or "auto", valid=None,
                    quiet=True)  # fmt: skip
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


class Elsewhere(torch.optim.SGD):
    """It wants the gradient at other weights, to which it goes before it asks, as schedulefree's closure forms do."""

    def step(self, closure: Any) -> None:  # type: ignore[override]
        before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.9)
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for p, old in zip([p for group in self.param_groups for p in group["params"]], before, strict=True):
                p.copy_(old)
        super().step()


class Sharp(torch.optim.SGD):
    """Sharpness-aware minimisation (Foret et al. 2021) as it is usually written: it has a gradient, and asks for that
    at the weights to which this one leads."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is not None, "SAM requires closure"
        moved = [p for group in self.param_groups for p in group["params"]]
        by = [0.05 * p.grad for p in moved]
        with torch.no_grad():
            torch._foreach_add_(moved, by)
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            torch._foreach_sub_(moved, by)
        super().step()


@pytest.mark.parametrize("kind", [Elsewhere, Sharp])
def test_the_gradient_is_that_where_an_optimizer_asks_for_it(kind: type[torch.optim.SGD], tmp_path: Path) -> None:
    model, twin = net(), net()
    run = fit(model, optimizer=kind, out=tmp_path / "run", batch="auto", lr="auto", schedule="cosine", until="steps(6)")
    assert run.plan.batch == 16  # no more of 96 rows
    assert run.plan.schedule == "cosine"
    optimizer = kind(twin.parameters(), lr=run.history[0]["lr"])
    twin.train()
    for step, row in enumerate(run.history):
        rows = torch.from_numpy(handful.Order(96, seed=0)[step * row["batch"] : (step + 1) * row["batch"]])

        def closure(step: int = step, rows: Tensor = rows) -> Tensor:
            torch.default_generator.manual_seed(dropout_key(0, step, 0))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(twin(X[rows]), Y[rows])
            loss.backward()
            return loss

        optimizer.param_groups[0]["lr"] = row["lr"]
        if kind is Sharp:
            closure()
        optimizer.step(closure)
    assert same(model.train(), twin)


def test_an_optimizer_that_differentiates_the_gradient_is_told() -> None:
    class Second(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            moved = self.param_groups[0]["params"]
            torch.autograd.grad([p.grad for p in moved], moved, [torch.ones_like(p) for p in moved])

    with pytest.raises(HandfulError, match="Second differentiates the gradient itself"):
        fit(plain(), optimizer=Second)


def test_lbfgs_chooses_what_follows_from_it() -> None:
    run = handful.fit(plain(), (X, Y), optimizer="lbfgs", until="steps(5)", valid=None, quiet=True)
    assert (run.plan.batch, run.plan.lr, run.plan.schedule) == (96, 1.0, "constant")
    assert run.history[-1]["train_loss"] < 0.1
    with pytest.raises(HandfulError, match="clip_norm changes the gradient, and LBFGS evaluates it again without"):
        fit(plain(), optimizer="lbfgs", clip_norm=1.0)


class Averaging:
    """An optimizer around another one that is no torch Optimizer, as schedulefree.ScheduleFreeWrapper: steps are taken
    at one set of weights, and their average is evaluated."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base, self.mode = base, "eval"

    @property
    def param_groups(self) -> Any:
        return self.base.param_groups

    @property
    def state(self) -> Any:
        return self.base.state

    def _swap(self, mode: str) -> None:
        for group in self.param_groups if mode != self.mode else ():
            for p in group["params"]:
                if "other" in self.state[p]:
                    kept = p.detach().clone()
                    p.data.copy_(self.state[p]["other"])
                    self.state[p]["other"].copy_(kept)
        self.mode = mode

    def train(self) -> None:
        self._swap("train")

    def eval(self) -> None:
        self._swap("eval")

    def step(self, closure: Any = None) -> None:
        assert self.mode == "train"
        self.base.step()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].setdefault("other", p.detach().clone()).lerp_(p.detach(), 0.25)


def averaging(parameters: Any, lr: float) -> Any:
    return Averaging(torch.optim.SGD(parameters, lr=lr, momentum=0.9))


def test_a_wrapper_that_is_no_torch_optimizer_is_put_in_train_and_eval_mode() -> None:
    model, twin = plain(), plain()
    fit(model, optimizer=averaging)
    optimizer = averaging(twin.parameters(), lr=0.05)
    optimizer.train()
    order = handful.Order(96, seed=0)
    for step in range(12):
        rows = torch.from_numpy(order[step * 16 : step * 16 + 16])
        twin.zero_grad()
        nn.functional.cross_entropy(twin(X[rows]), Y[rows]).backward()
        optimizer.step()
    optimizer.eval()
    assert same(model, twin)


class Slow(torch.optim.Optimizer):
    """Lookahead (Zhang et al. 2019) as packages have it: around another optimizer, whose groups it has, with a state of
    its own, which it tells in a form of its own; torch's class is not told of it."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base, self.param_groups, self.calls = base, base.param_groups, 0
        self.state: Any = defaultdict(dict)

    def state_dict(self) -> Any:
        return {"slow": dict(self.state), "base": self.base.state_dict()}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.base.step()
        self.calls += 1
        for p in self.param_groups[0]["params"] if self.calls % 3 == 0 else ():
            slow = self.state[p].setdefault("slow", torch.zeros_like(p))
            p.data.copy_(slow.lerp_(p.data, 0.5))


def lookahead(parameters: Any, lr: float) -> Any:
    return Slow(torch.optim.Adam(parameters, lr=lr))


GIVEN: dict[str, dict[str, Any]] = {
    "text": {"optimizer": "adam(betas=[0.8, 0.95])"},
    "groups": {"lr": {"0": 0.01, "*": 0.1}, "optimizer": "momentum"},
    "several": {"lr": {"0": 0.01, "*": 0.1}, "optimizer": {"0": "muon", "*": "nadam"}},
    "frozen": {"schedule": {"0": "frozen(until=1)", "*": "exponential(0.5)"}, "optimizer": "momentum"},
    "wrapper": {"optimizer": averaging},
    "around another": {"optimizer": lookahead},
    "elsewhere": {"optimizer": Elsewhere},
    "lbfgs": {"optimizer": "lbfgs(max_iter=3)", "batch": "full", "lr": "auto"},
    "torch": {"schedule": partial(StepLR, step_size=5, gamma=0.5)},
    "function": {"schedule": lambda progress: 1 / (1 + progress.epoch)},
}


@pytest.mark.parametrize("name", GIVEN)
def test_resumed_to_the_bit(name: str, tmp_path: Path) -> None:
    given = GIVEN[name]
    whole, first, second = net(), net(), net(seed=1)
    fit(whole, **given)
    fit(first, steps=7, out=tmp_path / "run", **given)
    own = {k: v for k, v in given.items() if callable(v)}
    run = handful.resume(tmp_path / "run", model=second, train=(X, Y), until="steps(12)", quiet=True, **own)
    assert run.state.step == 12
    assert same(whole, second)


class Rateless(torch.optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": {"hed": 1e-2, "*": 1e-4}}, "lr: the pattern 'hed' fits no trainable parameter; they are 0.weight"),
        ({"lr": {"0": 1e-2}}, "lr: no pattern fits 2.weight, 2.bias; add one, or '*'"),
        (
            {"lr": {"0.*": 1e-2, "0.weight": 1e-3, "*": 1}},
            "'0.weight' fits no trainable parameter that no pattern before",
        ),
        ({"lr": {"0": -1, "*": 1e-4}}, "lr must be a number above 0, or 'auto', not {'0': -1"),
        ({"lr": {}}, "lr by pattern needs a rate"),
        ({"schedule": {"head": "cosine", "*": "constant"}}, "schedule: the pattern 'head' fits no"),
        ({"optimizer": {"0": "sgd"}}, "optimizer: no pattern fits 2.weight"),
        ({"optimizer": {"0": "lbfgs", "*": "sgd"}}, "LBFGS cannot be one of several optimizers"),
        ({"optimizer": "adam(beta=0.9)"}, "adam takes no 'beta'. Did you mean 'betas'"),
        ({"optimizer": "adam(lr=-1)"}, "lr of adam must be a number above 0, not -1"),
        ({"optimizer": "adam(weight_decay=-1)"}, "weight_decay of adam must be a number of at least 0, not -1"),
        ({"schedule": StepLR}, "StepLR could not be made"),
        ({"schedule": partial(ReduceLROnPlateau, factor=0.5)}, "use handful.schedule.on_plateau"),
        ({"schedule": lambda progress: -1.0}, "asks for -1 times the learning rate"),
        ({"schedule": lambda step: 0.9**step}, "called with how far the run has come, p.fraction"),  # as for LambdaLR
        ({"schedule": lambda epoch, lr: lr / 2}, "called with how far the run has come, p.fraction"),  # as in Keras
        ({"schedule": lambda progress: math.nan}, "asks for nan times the learning rate"),
        ({"schedule": lambda progress: "fast"}, "must return a number, the factor of the learning rate, not 'fast'"),
        (
            {"optimizer": lambda params: Rateless(params), "lr": "auto"},
            "not a torch optimizer whose groups have a rate, lr",
        ),
        ({"schedule": 3}, "schedule must be a schedule"),
    ],
)
def test_refused_in_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(HandfulError) as caught:
        fit(plain(), **given)
    assert words in str(caught.value)


class Keeps(torch.optim.SGD):
    """Keeps what AdaShift, AggMo, EmoNavi, Kron and LoRARite (pytorch_optimizer 4.1) do: of all parameters together, in
    deques, by numbers, types, and matrices that lie column by column."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.05)
        self.param_groups[0]["dtype"] = torch.float32

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        own: Any = self.state
        own.setdefault("all", {"seen": 0})["seen"] += 1
        for p in self.param_groups[0]["params"]:
            kept = self.state[p]
            kept.setdefault("last", deque(maxlen=2)).append(p.grad.to(self.param_groups[0]["dtype"]))
            old = kept.setdefault("by", {0.5: torch.zeros_like(p)})[0.5]
            kept["by"][0.5] = 0.5 * old + sum(kept["last"])
            kept.setdefault("done", set()).add(own["all"]["seen"])  # as heavyball 3.2
            square = kept["by"][0.5].reshape(len(p), -1) @ kept["by"][0.5].reshape(len(p), -1).T
            kept["basis"] = torch.linalg.qr(square + torch.eye(len(p)))[0]
            p.sub_((kept["basis"] @ p.grad.reshape(len(p), -1)).reshape(p.shape), alpha=0.05 / len(kept["done"]))


def test_whatever_an_optimizer_keeps_comes_back_and_lies_as_it_did(tmp_path: Path) -> None:
    whole, made = plain(), {"optimizer": lambda params: Keeps(params), "schedule": "constant", "lr": "auto"}
    fit(whole, **made, until="steps(6)")
    fit(plain(), **made, until="steps(3)", out=tmp_path / "run")
    resumed = handful.resume(tmp_path / "run", model=plain(), train=(X, Y), until="steps(6)", quiet=True, **made)
    assert same(whole, resumed.model)
    state = resumed.state.optimizer.state if resumed.state else {}
    kept = state[resumed.model[0].weight]  # type: ignore[index]
    assert kept["basis"].T.is_contiguous()
    assert not kept["basis"].is_contiguous()
    assert kept["done"] == set(range(1, 7))
    assert state["all"] == {"seen": 6}  # type: ignore[index]
    broken = torch.optim.SGD(whole.parameters(), lr=0.1)
    broken.state_dict = dict  # type: ignore[method-assign, assignment]
    assert state_tensors(broken)[1]["groups"][0]["size"] == 4  # it need not tell it as torch's do


class Beside(torch.optim.SGD):
    """Steps by what it keeps in attributes, in a helper's, in a scheduler's and in what only its state_dict tells."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        self.count, self.mean, self.by = 0, torch.zeros(3), defaultdict(float)
        self.helper, self.refers = SimpleNamespace(seen=0), self.param_groups[0]["params"]
        self.twin = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        self.decay = torch.optim.lr_scheduler.ExponentialLR(self.twin, 0.9)

    def step(self, closure: Any = None) -> None:
        self.count, self.mean[0] = self.count + 1, self.mean[0] + 1
        self.by["x"] += 0.5
        self.helper.seen += 2
        self.twin.step()
        self.decay.step()
        times = self.twin.param_groups[0]["lr"] + self.count + float(self.mean[0]) + self.by["x"] + self.helper.seen
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(p.grad, alpha=0.01 * times)


class Tells(Beside):
    """The same, of which one number is in a closure, that only its own state_dict tells."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr)
        kept = [0]
        self.hidden = lambda: kept

    def step(self, closure: Any = None) -> None:
        self.hidden()[0] += 1
        self.count += self.hidden()[0]
        super().step()

    def state_dict(self) -> Any:
        return super().state_dict() | {"hidden": self.hidden()[0]}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict({name: state[name] for name in ("state", "param_groups")})
        self.hidden()[0] = state["hidden"]


class Keyed(torch.optim.SGD):
    """Keeps a momentum of its own by weights, or by their ids."""

    ids = False

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)
        self.slow: dict[Any, Any] = {}

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                kept = self.slow.setdefault(id(p) if self.ids else p, {"mean": torch.zeros_like(p)})
                p.data.sub_(kept["mean"].mul_(0.9).add_(p.grad), alpha=0.01)


class KeyedById(Keyed):
    ids = True


class KeyedInItsState(torch.optim.SGD):
    """Keeps where it began in its state, by weights, beside numbers with names, as pytorch_optimizer's TRAC does."""

    def step(self, closure: Any = None) -> None:
        kept = self.state["all"]
        kept["steps"] = kept.get("steps", 0) + 1
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(p.grad + p.data - kept.setdefault(p, p.detach().clone()), alpha=0.1 / kept["steps"])


@pytest.mark.parametrize("kind", [Beside, Tells, "several", Keyed, KeyedById, KeyedInItsState])
def test_what_an_optimizer_keeps_beside_its_state_comes_back(tmp_path: Path, kind: Any) -> None:
    of = {"*": Beside, "0.bias": torch.optim.SGD} if kind == "several" else kind
    whole, made = plain(), {"optimizer": of, "schedule": "constant", "lr": 0.1}
    fit(whole, **made, until="steps(6)")
    fit(plain(), **made, until="steps(3)", out=tmp_path / "run")
    resumed = handful.resume(tmp_path / "run", model=plain(), train=(X, Y), until="steps(6)", quiet=True, **made)
    assert same(whole, resumed.model)
    assert "no checkpoint" not in " ".join(resumed.plan.notes)


def test_an_optimizer_that_does_not_take_back_what_it_told_is_refused(tmp_path: Path) -> None:
    class Refuses(torch.optim.SGD):
        def state_dict(self) -> Any:
            return super().state_dict() | {"begun": True}

        def load_state_dict(self, state: Any) -> None:
            raise KeyError("begun")

    fit(plain(), optimizer=Refuses, until="steps(3)", out=tmp_path / "run", lr=0.1)
    with pytest.raises(
        HandfulError, match=r"Refuses does not take back .* \(KeyError: 'begun'\), so that no run of it"
    ):
        handful.resume(
            tmp_path / "run", model=plain(), train=(X, Y), optimizer=Refuses, until="steps(6)", quiet=True, lr=0.1
        )


def test_what_no_checkpoint_holds_of_an_optimizer_is_said(tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.1) -> None:
            super().__init__(params, lr=lr)
            self.noise = iter([0.1, 0.2])

    run = fit(plain(), optimizer=Odd, lr="auto", until="steps(3)", out=tmp_path / "run")
    said = [note for note in run.plan.notes if "no checkpoint holds" in note]
    assert [note.split(",")[0] for note in said] == ["Odd keeps a list_iterator in 'noise'"]


def test_rate_and_decay_in_text_are_its_own_and_lr_has_precedence() -> None:
    model, twin = plain(), plain()
    run = fit(model, optimizer="adamw(lr=0.03, weight_decay=0.1)", lr="auto", l2="auto")
    groups = [{"params": [p for p in twin.parameters() if p.ndim > 1], "weight_decay": 0.1},
              {"params": [p for p in twin.parameters() if p.ndim == 1], "weight_decay": 0.0}]  # fmt: skip
    by_hand(twin, torch.optim.AdamW(groups, lr=0.03, fused=True), 12, lambda step: None)
    assert same(model, twin)
    assert [run.plan.choices[name].value for name in ("lr", "l2")] == [0.03, 0.1]
    assert run.plan.choices["lr"].status == "given"
    assert fit(plain(), optimizer="adam(lr=0.03)", lr=0.5).plan.choices["lr"].value == 0.5
