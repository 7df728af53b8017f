"""Models that are unlike the usual ones: each update is a plain torch loop's, and a run that is broken off goes on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import handful
from handful.base.errors import HandfulError

N, B, STEPS = 48, 12, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 6))
PICTURES = RNG.normal(size=(N, 1, 8, 8))
IDS = RNG.integers(1, 9, (N, 5))
KINDS, COUNTS, LEVELS = np.arange(N) % 3, RNG.poisson(3, N).astype(np.float64), RNG.integers(0, 4, N)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(6, 5), nn.Tanh())

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return (self.f(left) - self.f(right)).square().sum(1)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, 2)
        self.out = nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([x, self.up(self.down(x).relu())], 1))


class Translate(nn.Module):
    """An encoder and a decoder that attends to it, taught with the target one step before."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.d = nn.Embedding(9, 8), nn.Embedding(9, 8)
        self.gru, self.attend, self.o = (
            nn.GRU(8, 8, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 9),
        )  # fmt: skip

    def forward(self, source: Tensor, before: Tensor) -> Tensor:
        memory, _ = self.gru(self.e(source))
        return self.o(self.attend(self.d(before), memory, memory, need_weights=False)[0])


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Linear(6, 9)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        share, mean, log = self.o(x).chunk(3, 1)
        return {"share": share, "mean": mean, "log": log}


class Hyper(nn.Module):
    """Weights that a network makes of a part of the row."""

    def __init__(self) -> None:
        super().__init__()
        self.h = nn.Linear(3, 3 * 3 + 3)

    def forward(self, x: Tensor) -> Tensor:
        made = self.h(x[:, :3])
        return torch.bmm(made[:, :9].reshape(-1, 3, 3), x[:, 3:, None]).squeeze(2) + made[:, 9:]


class Student(nn.Module):
    """It learns from a teacher that is frozen, and in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).requires_grad_(False)
        self.student = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.student(x), self.teacher(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.b.weight = self.a.weight
        self.o = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.b(self.a(x).tanh()))


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.a(left), dim=1), F.normalize(self.b(right), dim=1)


class Spread(nn.Module):
    """What it gives is no Tensor, but a distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> torch.distributions.Normal:
        mean, log = self.o(x).unbind(1)
        return torch.distributions.Normal(mean, log.exp())


class Fake(nn.Module):
    """Weights of eight bits in the forward pass, as quantisation-aware training has them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.a.weight.detach().abs().max() / 127
        rounded = self.a.weight + ((self.a.weight / scale).round() * scale - self.a.weight).detach()
        return F.linear(x, rounded, self.a.bias)


class Ensemble(nn.Module):
    """Several networks as one, by a skeleton of them without numbers, as torch.func's tutorial has it."""

    def __init__(self) -> None:
        super().__init__()
        members = [nn.Linear(6, 3) for _ in range(2)]
        self.w = nn.ParameterDict(dict(torch.func.stack_module_state(members)[0].items()))
        self.skeleton = [members[0].to("meta")]

    def forward(self, x: Tensor) -> Tensor:
        one = lambda w: torch.func.functional_call(self.skeleton[0], w, (x,))
        return torch.vmap(one)(dict(self.w.items())).mean(0)


def normed(by: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(by(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3))


def of_mixture(o: dict[str, Tensor], y: Tensor) -> Tensor:
    each = -0.5 * ((y[:, None] - o["mean"]) / o["log"].exp()).square() - o["log"]
    return -(o["share"].log_softmax(1) + each).logsumexp(1)


def of_teacher(o: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
    soft = F.kl_div(o[0].log_softmax(1), o[1].softmax(1), reduction="none").sum(1)
    return F.cross_entropy(o[0], y, reduction="none") + soft


def of_quantiles(o: Tensor, y: Tensor) -> Tensor:
    error = y[:, None] - o
    q = torch.tensor([0.1, 0.5, 0.9]).to(o)
    return torch.maximum(q * error, (q - 1) * error).sum(1)


def of_levels(o: Tensor, y: Tensor) -> Tensor:
    above = (y[:, None] > torch.arange(3)).to(o)
    return F.binary_cross_entropy_with_logits(o, above, reduction="none").sum(1)


def of_choices(o: Tensor, reward: Tensor) -> Tensor:
    """As in learning by reinforcement: the logarithm of what was chosen, times what it brought."""
    chosen = (reward.long() % 3)[:, None]
    return -(o.log_softmax(1).gather(1, chosen).squeeze(1) * (reward - 3)) - 0.01 * o.softmax(1).square().sum(1)


def of_pairs(o: tuple[Tensor, Tensor], y: object) -> Tensor:
    return F.cross_entropy(o[0] @ o[1].T / 0.1, torch.arange(len(o[0])))


def of_places(o: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(o.transpose(1, 2), y, reduction="none").mean(1)


@dataclass
class Case:
    make: Callable[[], nn.Module]
    inputs: dict[str, Any]
    y: Any
    loss: Callable[[Any, Any], Tensor]
    micro: int | None = 5
    more: dict[str, Any] = field(default_factory=dict)


ONE = {"x": X}
BOTH = {"left": X, "right": X[::-1].copy()}
CASES = {
    "siamese": Case(Siamese, BOTH, (KINDS == 0).astype(float), lambda o, y: y * o + (1 - y) * (2 - o).relu()),
    "segmentation": Case(UNet, {"x": PICTURES}, (PICTURES[:, 0] > 0).astype(np.int64) + 1,
                         lambda o, y: F.cross_entropy(o, y, reduction="none").mean((1, 2))),
    "counts": Case(lambda: nn.Sequential(nn.Linear(6, 1), nn.Softplus(), nn.Flatten(0)), ONE, COUNTS,
                   lambda o, y: F.poisson_nll_loss(o, y, log_input=False, reduction="none")),
    "translation": Case(Translate, {"source": IDS, "before": np.roll(IDS, 1, 1)}, IDS, of_places),
    "mixture": Case(Mixture, ONE, COUNTS, of_mixture),
    "hypernetwork": Case(Hyper, ONE, KINDS, lambda o, y: F.cross_entropy(o, y, reduction="none")),
    "teacher": Case(Student, ONE, KINDS, of_teacher),
    "tied": Case(Tied, ONE, KINDS, lambda o, y: F.cross_entropy(o, y, reduction="none")),
    "quantiles": Case(lambda: nn.Linear(6, 3), ONE, COUNTS, of_quantiles),
    "ordinal": Case(lambda: nn.Linear(6, 3), ONE, LEVELS, of_levels),
    "reinforced": Case(lambda: nn.Linear(6, 3), ONE, COUNTS, of_choices),
    "contrastive": Case(Towers, BOTH, None, of_pairs, micro=None),
    "weight_norm": Case(normed(parametrizations.weight_norm), ONE, KINDS, F.cross_entropy),
    "orthogonal": Case(normed(parametrizations.orthogonal), ONE, KINDS, F.cross_entropy),
    "distribution": Case(Spread, ONE, COUNTS, lambda o, y: -o.log_prob(y)),
    "ensemble": Case(Ensemble, ONE, KINDS, F.cross_entropy),
    "eight bits": Case(Fake, ONE, KINDS, F.cross_entropy),
}  # fmt: skip


def made(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.make().double()


def called(model: nn.Module, case: Case, rows: Any) -> Any:
    found = model(*(torch.tensor(v)[rows] for v in case.inputs.values()))
    return case.loss(found, None if case.y is None else torch.tensor(case.y)[rows]).mean()


@pytest.mark.parametrize("name", CASES)
def test_each_update_is_the_plain_loops_and_a_run_goes_on(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    data = case.inputs | ({} if case.y is None else {"y": case.y})
    how: dict[str, Any] = {
        "loss": case.loss, "batch": B, "lr": 0.05, "optimizer": "sgd", "schedule": "constant", "l2": 0, "valid": None,
        "until": f"steps({STEPS})", "quiet": True, "micro_batch": case.micro,
    }  # fmt: skip
    if case.y is not None:
        how["target"] = "y"
    model, plain = made(case), made(case).train()
    for part in plain.modules():
        part.training = part.training and not (name == "teacher" and part is not plain and part is not plain.student)
    run = handful.fit(model, data, out=tmp_path / "run", **how)
    optimizer = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], lr=0.05)
    for k in range(STEPS):
        optimizer.zero_grad()
        called(plain, case, np.asarray(handful.Order(N, seed=0)[B * k : B * k + B])).backward()
        optimizer.step()
    found, due = model.state_dict(), plain.state_dict()
    for key in due:
        torch.testing.assert_close(found[key], due[key], rtol=1e-9, atol=1e-11, msg=key)
    with torch.no_grad():
        wanted = called(plain.eval(), case, slice(None)).item()
    assert run.evaluate(data)["loss"] == pytest.approx(wanted, rel=1e-6)
    halt = lambda event, info: "x" if event == "step" and info["step"] == 2 else None
    other = made(case)
    handful.fit(other, data, out=tmp_path / "half", callbacks=[halt], **how)
    handful.resume(tmp_path / "half", model=other, train=data, loss=case.loss, quiet=True)
    assert all(torch.equal(value, found[key]) for key, value in other.state_dict().items())
    again = handful.load(tmp_path / "run", model=made(case), loss=case.loss)
    assert again.evaluate(data)["loss"] == pytest.approx(wanted, rel=1e-6)


class Observed(nn.Module):
    """It keeps the largest outputs that it has seen, in evaluation mode, too, as observers for a quantisation do."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)
        self.register_buffer("largest", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x)
        seen = out.detach().abs().amax(0)
        if not len(self.largest):  # type: ignore[arg-type]
            self.largest.resize_(3).copy_(seen)  # type: ignore[operator]
        self.largest.copy_(torch.maximum(seen, self.largest * 0.9))  # type: ignore[arg-type, operator]
        return torch.clamp(out, -self.largest, self.largest)  # type: ignore[operator, type-var]


@pytest.mark.parametrize("how", [{}, {"loss": F.cross_entropy}, {"batch": "auto", "lr": "auto", "until": "steps(2)"}])
def test_what_is_tried_before_the_first_step_leaves_no_trace_in_what_a_model_observes(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, plain = Observed(), Observed()
    plain.load_state_dict(model.state_dict())
    run = handful.fit(model, (ONE["x"], KINDS), **{
        "batch": B, "lr": 0.05, "until": "steps(3)", "optimizer": "sgd", "schedule": "constant", "l2": 0, "valid": None,
        "quiet": True, "precision": "float32", **how,
    })  # fmt: skip
    optimizer = torch.optim.SGD(plain.parameters(), lr=run.history[0]["lr"])
    size = run.history[0]["batch"]
    for k in range(3 if how.get("batch") is None else 2):
        rows = np.asarray(handful.Order(N, seed=0)[size * k : size * k + size])
        optimizer.zero_grad()
        F.cross_entropy(plain(torch.tensor(ONE["x"][rows]).float()), torch.tensor(KINDS[rows])).backward()
        optimizer.step()
    torch.testing.assert_close(model.largest, plain.largest, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("valid", [None, 0.3])
def test_asking_for_outputs_changes_neither_what_a_model_observes_nor_a_loss(tmp_path: Path, valid: Any) -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            self.calls += 1
            return F.cross_entropy(output, target)

    loss, x = Counting(), ONE["x"]
    how = {"batch": B, "lr": 0.05, "until": "steps(3)", "valid": valid, "quiet": True}
    run = handful.fit(Observed(), (x, KINDS), loss=loss, out=tmp_path / "run", **how)
    loaded = handful.load(tmp_path / "run", model=Observed(), loss=loss)
    assert torch.equal(loaded.model.largest, run.model.largest)
    for asked in (run, loaded):
        before, calls = run.model.largest.clone(), loss.calls
        first = asked.predict(10 * x)
        asked.evaluate((10 * x, KINDS))
        asked.evaluation((10 * x, KINDS))
        next(asked.stream(10 * x))
        np.testing.assert_array_equal(first, asked.predict(10 * x))
        assert torch.equal(asked.model.largest, before)
        assert loss.calls == calls


class Clips(Observed):
    """At half of the largest."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return torch.clamp(out, -self.largest / 2, self.largest / 2)  # type: ignore[operator, type-var]


def test_rows_of_a_model_that_observes_are_said_to_depend_on_one_another() -> None:
    """It moved between the calls that were compared, so that it was taken for one that draws random numbers."""
    how = {"batch": B, "lr": 0.05, "until": "steps(2)", "valid": None, "quiet": True}
    said = [handful.fit(made, (ONE["x"], KINDS), **how).plan.notes for made in (Clips(), nn.Linear(6, 3))]
    assert [any("depends on the rows beside it" in note for note in notes) for notes in said] == [True, False]


def test_distributions_are_not_put_together() -> None:
    x = RNG.normal(size=(1500, 6))
    torch.manual_seed(0)
    run = handful.fit(Spread().double(), (x, x[:, 0]), loss=lambda o, y: -o.log_prob(y), until="steps(2)", quiet=True)
    assert run.outputs(x[:50]).loc.shape == (50,)  # type: ignore[attr-defined]
    with pytest.raises(HandfulError, match="gives a Normal, and those of several batches cannot be put together"):
        run.outputs(x)
