"""Models that draw random numbers, count, or keep something between calls, in whatever way: each update is a plain
loop's, a run that is broken off goes on to the same bits, and what does not hold is said."""

import copy
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import handful
from handful.base.errors import HandfulError
from handful.base.keys import Seeder, drawing, dropout_key, left_alone, seed_all

N, B = 48, 12
X = np.random.default_rng(0).normal(size=(N, 6))
K = np.arange(N) % 3
HOW: dict[str, Any] = {
    "loss": F.cross_entropy, "batch": B, "lr": 0.2, "optimizer": "sgd", "schedule": "constant", "l2": 0, "quiet": True,
    "until": "steps(6)", "threads": 1,
}  # fmt: skip


class Net(nn.Module):
    """Draws at each call in training mode whether a layer is left out, in a way of its own."""

    draw: Callable[[], float] = staticmethod(lambda: 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Linear(6, n, dtype=torch.float64) for n in (6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(x + self.a(x).tanh() * (self.factor() if self.training else 1.0))

    def factor(self) -> Any:
        return self.draw()


class ByPython(Net):
    draw = staticmethod(random.random)


class ByNumPy(Net):
    draw = staticmethod(lambda: float(np.random.rand()))


class ByTorch(Net):
    draw = staticmethod(lambda: float(torch.rand(())))


class ByGenerator(Net):
    def __init__(self, made: Callable[[int], Any]) -> None:
        super().__init__()
        self.own = made(0)

    def factor(self) -> float:
        if isinstance(self.own, torch.Generator):
            return float(torch.rand((), generator=self.own))
        return float(self.own.random() if hasattr(self.own, "random") else self.own.rand())


class Counts(Net):
    """Its calls count, wherever it counts them."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held

    def factor(self) -> Any:
        match self.held:
            case Tensor() | np.ndarray():
                self.held += 1
            case list():
                self.held.append(1)
            case dict():
                self.held["n"] += 1
            case int():
                self.held += 1
        found = self.held["n"] if isinstance(self.held, dict) else self.held
        return (len(found) if isinstance(found, list) else float(torch.as_tensor(found).sum())) / 10


class CountsAlways(Counts):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(x + self.a(x).tanh() * self.factor())


class Remembers(Net):
    """A Tensor of the mini-batch before."""

    memory: Tensor | None = None

    def factor(self) -> Any:
        before = self.memory
        self.memory = self.a.weight.detach().mean(0)
        return 1.0 if before is None else before


class Hidden(Net):
    """A teacher that follows the weights, in a list, so that it is no part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = [copy.deepcopy(self.a)]

    def factor(self) -> Any:
        for old, new in zip(self.teacher[0].parameters(), self.a.parameters(), strict=True):
            old.data.lerp_(new.data, 0.5)
        return self.teacher[0].bias.detach()


KINDS: dict[str, Callable[[], nn.Module]] = {
    "random": ByPython, "np.random": ByNumPy, "torch.rand": ByTorch,
    "torch.Generator": lambda: ByGenerator(lambda seed: torch.Generator().manual_seed(seed)),
    "np.random.Generator": lambda: ByGenerator(np.random.default_rng),
    "np.random.RandomState": lambda: ByGenerator(np.random.RandomState),
    "random.Random": lambda: ByGenerator(random.Random),
    "int": lambda: Counts(0), "list": lambda: Counts([]), "dict": lambda: Counts({"n": 0}),
    "Tensor": lambda: Counts(torch.zeros(())), "array": lambda: Counts(np.zeros(1)),
    "in evaluation, too": lambda: CountsAlways(0), "of the call before": Remembers, "hidden": Hidden,
}  # fmt: skip


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return KINDS[kind]().double()


def by_hand(model: nn.Module, steps: int) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for k in range(steps):
        rows = np.asarray(handful.Order(N, seed=0)[B * k : B * k + B])
        seed_all(dropout_key(0, k, 0))
        optimizer.zero_grad()
        F.cross_entropy(model(torch.tensor(X[rows])), torch.tensor(K[rows])).backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_each_update_is_the_plain_loops_and_a_cut_run_goes_on_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    before = random.getstate(), np.random.get_state()[1].tobytes()
    model = made(kind)
    handful.fit(model, (X, K), valid=None, **HOW)
    assert before == (random.getstate(), np.random.get_state()[1].tobytes())
    for name, due in by_hand(made(kind), 6).items():
        torch.testing.assert_close(model.state_dict()[name], due, rtol=1e-12, atol=1e-14)
    halt = lambda event, info: "cut" if event == "step" and info["step"] == 4 else None
    handful.fit(made(kind), (X, K), valid=None, out=tmp_path / "run", callbacks=[halt], **HOW)
    other = made(kind)
    run = handful.resume(tmp_path / "run", model=other, train=(X, K), loss=F.cross_entropy, quiet=True)
    assert all(map(torch.equal, other.parameters(), model.parameters()))
    assert ("as it trains" in str(run.plan.notes)) is (kind not in ("random", "np.random", "torch.rand"))


@pytest.mark.parametrize("kind", [Net, ByNumPy])
def test_python_and_numpy_are_seeded_at_each_step_only_where_the_model_draws_from_them(kind: type[Net]) -> None:
    run = handful.fit(kind(), (X, K), **HOW)
    assert isinstance(run.objective.seed_dropout, Seeder) is (kind is ByNumPy)


class ByHalfAPair(Net):
    draw = staticmethod(lambda: 1 + 0.1 * float(np.random.normal()) + 0.1 * random.gauss(0, 1))  # of two, one is kept


def test_generators_are_left_as_they_were_the_other_half_of_a_pair_of_normal_numbers_too() -> None:
    def at(seed: int) -> None:
        np.random.seed(seed)
        random.seed(seed)
        torch.manual_seed(seed)
        np.random.normal(), random.gauss(0, 1)

    def coming() -> tuple[object, ...]:
        return np.random.normal(), np.random.rand(), random.gauss(0, 1), random.random(), float(torch.randn(()))

    model = ByHalfAPair()
    at(3)
    due = coming()
    assert due != coming()
    at(3)
    with drawing("a"), drawing("b"):
        np.random.normal()
    run = handful.fit(model, (X, K), valid=(X, K), **{**HOW, "lr": "auto", "batch": "auto"})
    assert isinstance(run.objective.seed_dropout, Seeder)
    run.evaluate((X, K))
    run.predict(X)
    assert coming() == due


def test_what_is_drawn_in_a_block_does_not_depend_on_what_is_around_it() -> None:
    def drawn() -> tuple[float, ...]:
        with drawing("rows", 7):
            return np.random.normal(), np.random.rand(), random.gauss(0, 1), float(torch.rand(()))

    alone = drawn()
    with drawing("around"):
        np.random.normal()
        first = np.random.rand()
        assert drawn() == alone
        assert np.random.rand() != first
    with left_alone():
        assert drawn() == alone


class Normalises(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.b((x - x.mean(0)) / x.std(0) if self.training else x)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Normalises, "gradients of parts do not add up to that of the batch"),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)), "draws random numbers in training"),
        (ByPython, "draws random numbers in training"),
        (lambda: Counts([]), "changes held at each call in training mode"),
        (Net, None),
    ],
)  # fmt: skip
def test_what_does_not_hold_in_parts_is_said(make: Callable[[], Net], said: str | None) -> None:
    notes = str(handful.fit(make().double(), (X, K), micro_batch=6, **HOW | {"until": "steps(1)"}).plan.notes)
    assert (said in notes) if said else "in parts" not in notes


def test_what_does_not_hold_in_parts_is_said_where_memory_runs_out_too() -> None:
    class Hungry(Normalises):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 6 and self.training:
                raise MemoryError
            return super().forward(x)

    notes = str(handful.fit(Hungry().double(), (X, K), **HOW | {"until": "steps(1)"}).plan.notes)
    assert "6 rows at a time go through the model from here on; gradients of parts do not add up" in notes


class Noisy(nn.Module):
    """Draws at which time it looks, and makes its loss, as a diffusion model does."""

    def __init__(self, contrast: bool = False) -> None:
        super().__init__()
        self.f, self.contrast = nn.Linear(7, 6), contrast

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        t, noise = torch.rand(len(x), 1), torch.randn_like(x)
        found = self.f(torch.cat([(1 - t) * x + t * noise, t.to(x)], 1))
        if self.contrast:
            return {"loss": F.cross_entropy(found @ x.T, torch.arange(len(x)))}
        return {"loss": (found - noise + x).square().mean()}


def test_a_loss_of_random_draws_is_a_mean_where_it_is_one_and_every_look_has_the_same_draws() -> None:
    how = HOW | {"loss": "model", "valid": 0.25}
    run = handful.fit(Noisy().double(), {"x": X}, evaluate_every=1.0, **how)
    assert "couples" not in str(run.plan.notes)
    assert "draws random numbers in evaluation mode, too" in str(run.plan.notes)
    assert run.evaluate({"x": X})["loss"] == run.evaluate({"x": X})["loss"]
    coupled = handful.fit(Noisy(contrast=True).double(), {"x": X}, **how)
    assert "the loss couples the rows of a batch" in str(coupled.plan.notes)


def test_a_model_of_complex_weights_of_128_bits_is_saved_and_loaded(tmp_path: Path) -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 4, dtype=torch.complex128), nn.Linear(8, 3, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.view_as_real(self.a(x.to(torch.complex128))).flatten(1))

    run = handful.fit(Waves(), (X, K), out=tmp_path / "run", **HOW)
    loaded = handful.load(tmp_path / "run", model=Waves())
    assert all(map(torch.equal, loaded.model.parameters(), run.model.parameters()))


def exported() -> Any:
    return torch.export.export(nn.Linear(6, 3), (torch.zeros(4, 6),))


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(6, 3)


def frozen() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.trace(nn.Linear(6, 3).eval(), torch.zeros(2, 6)))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (exported, "not ExportedProgram: its mode was fixed by torch.export, .* give the module that was exported"),
        (lambda: exported().module(), r"GraphModule\) can be put into no mode: .* give the module that was exported"),
        (lambda: lambda x: x, "not function: call it in the forward of one, which holds its weights as nn.Parameter"),
        (lambda: nn.Linear, r"not a class: give an instance, as Linear\(...\) makes it"),
        (lambda: torch.ones(3), "the name of a ready-made one, not Tensor$"),
        (on_meta, "on the device 'meta', where they hold no numbers"),
        (frozen, "nothing to train"),
    ],
)
def test_what_is_no_model_that_learns_is_refused_with_the_way_on(model: Callable[[], Any], words: str) -> None:
    with pytest.raises(HandfulError, match=words):
        handful.fit(model(), (X, K), **HOW)


def test_an_answer_of_a_callback_that_stops_nothing_is_said() -> None:
    run = handful.fit(Net(), (X, K), callbacks=[lambda event, info: 3 if event == "step" else None], **HOW)
    assert "a callback answered 3 at 'step', which does nothing: a text, the reason, stops the run" in run.plan.notes


class Draws(torch.utils.data.Dataset[tuple[Any, int]]):
    """Its rows are drawn anew at each reading."""

    def __init__(self, draw: Callable[[], Any]) -> None:
        self.draw, self.read = draw, 0

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> tuple[Any, int]:
        self.read += 1
        return X[row] + self.draw(), int(K[row])


@pytest.mark.parametrize(
    "draw", [np.random.default_rng(0).random, lambda: np.random.default_rng().random(), np.random.rand]
)
def test_rows_that_are_drawn_are_read_at_each_step(draw: Callable[[], Any]) -> None:
    data, still = Draws(draw), Draws(lambda: 0.0)
    notes = [
        str(handful.fit(nn.Linear(6, 3), d, **{**HOW, "until": 40, "valid": None}).plan.notes) for d in (data, still)
    ]
    assert data.read > 40 * N > 10 * N > still.read
    assert ("gives other values" in notes[0]) == (draw is not np.random.rand)
    assert "gives other values" not in notes[1]
    assert "rows beside it" not in "".join(notes)  # of a single layer


def test_imaginary_parts_that_are_drawn_are_read_at_each_step() -> None:
    imaginary = np.random.default_rng(0)
    data = Draws(lambda: 1j * imaginary.random())
    assert any("gives other values" in note for note in handful.open(data).notes)
    assert not any("gives other values" in note for note in handful.open(Draws(lambda: 1j)).notes)


class Unbound:
    """Stands for an object that is not there, as a web framework's does outside of a request."""

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(f"no {name} here")


def test_a_callback_that_reaches_what_cannot_be_looked_at() -> None:
    there = Unbound()
    run = handful.fit(
        nn.Linear(6, 3), Draws(lambda: 0.0), callbacks=[lambda event, info: there and None], **{**HOW, "valid": None}
    )
    assert run.state.step == 6


def test_rows_that_a_callback_changes_are_those_of_a_plain_loop() -> None:
    data = Draws(lambda: data.more)
    data.more = 0.0

    def harder(event: str, info: dict[str, Any]) -> None:
        if event == "step":
            data.more = info["step"] / 4

    model = nn.Linear(6, 3, dtype=torch.float64)
    plain, other = copy.deepcopy(model), copy.deepcopy(model)
    run = handful.fit(
        model, data, callbacks=[harder], **{**HOW, "until": "steps(9)", "valid": None, "preprocess": None}
    )
    assert "Draws is read again in every step: callbacks may change it." in run.plan.notes
    order, sgd = handful.Order(N, seed=0), torch.optim.SGD(plain.parameters(), lr=0.2)
    for k in range(9):
        rows = np.asarray(order[B * k : B * k + B])
        sgd.zero_grad()
        F.cross_entropy(plain(torch.as_tensor(X[rows] + k / 4)), torch.as_tensor(K[rows])).backward()
        sgd.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-12, atol=1e-13)
    told = handful.fit(other, data, callbacks=[lambda event, info: None], **{**HOW, "valid": None})
    assert not any("read again" in note for note in told.plan.notes)
