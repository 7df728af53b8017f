"""The short way to a fused kernel gives the bits of torch's own `step`, and gives way where torch does more."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from handful.optim.build import build
from handful.optim.fused import in_place, stepper
from handful.optim.state import load_state, state_tensors

MAKERS: dict[str, Callable[[list[dict[str, object]]], Optimizer]] = {
    "adamw": lambda groups: AdamW(groups, lr=0.01, fused=True),
    "adam": lambda groups: Adam(groups, lr=0.01, betas=(0.8, 0.9), eps=1e-6, fused=True),
    "adam, decoupled": lambda groups: Adam(groups, lr=0.01, decoupled_weight_decay=True, fused=True),
    "sgd": lambda groups: SGD(groups, lr=0.1, fused=True),
    "momentum": lambda groups: SGD(groups, lr=0.1, momentum=0.9, dampening=0.1, fused=True),
    "nesterov": lambda groups: SGD(groups, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "amsgrad": lambda groups: AdamW(groups, lr=0.01, amsgrad=True, fused=True),
    "maximize": lambda groups: SGD(groups, lr=0.1, maximize=True, fused=True),
    "plain": lambda groups: AdamW(groups, lr=0.01, foreach=False, fused=False),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01),
}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2), nn.Linear(2, 2))


def optimizer_of(net: nn.Module, name: str) -> Optimizer:
    decayed = [p for p in net.parameters() if p.ndim > 1]
    return MAKERS[name](
        [
            {"params": decayed, "weight_decay": 0.1},
            {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ]
    )


def train(
    net: nn.Sequential, optimizer: Optimizer, step: Callable[[], object], steps: int = 12, late: bool = False
) -> None:
    generator = torch.Generator().manual_seed(1)
    for k in range(steps):
        x = torch.randn(8, 5, generator=generator)
        for p in net.parameters():
            p.grad = None
        out = net[:3](x) if late and k % 3 == 0 else net(x)  # the last layer: no gradient at first, then now and then
        out.square().mean().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (k + 1)
        step()


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_bits_as_torchs_own_step(name: str) -> None:
    ours, theirs = model(), model()
    a, b = optimizer_of(ours, name), optimizer_of(theirs, name)
    late = name not in ("momentum", "nesterov")  # which torch's own fused step cannot do
    train(ours, a, stepper(a), late=late)
    train(theirs, b, b.step, late=late)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    states = state_tensors(a)[0], state_tensors(b)[0]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize("name", ["adamw", "adam", "momentum"])
def test_torchs_own_step_is_never_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    optimizer = optimizer_of(net, name)
    step = stepper(optimizer)
    monkeypatch.setattr(type(optimizer), "step", lambda self: pytest.fail("torch's own step was called"))
    before = copy.deepcopy(net)
    train(net, optimizer, step, 2)
    assert not torch.equal(net[0].weight, before[0].weight)


def test_a_state_that_was_loaded_is_used() -> None:
    ours, theirs = model(), model()
    a, b = optimizer_of(ours, "adamw"), optimizer_of(theirs, "adamw")
    step = stepper(a)
    train(ours, a, step, 5)
    train(theirs, b, b.step, 5)
    kept = {k: v.clone() for k, v in state_tensors(a)[0].items()}
    load_state(a, kept, state_tensors(a)[1])
    a.load_state_dict(a.state_dict())
    train(ours, a, step, 5)
    train(theirs, b, b.step, 5)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_hooks_and_wrapped_steps_are_called() -> None:
    net, calls = model(), []
    optimizer = optimizer_of(net, "adamw")
    step = stepper(optimizer)
    train(net, optimizer, step, 2)
    handle = optimizer.register_step_post_hook(lambda *_: calls.append("own"))
    train(net, optimizer, step, 2)
    handle.remove()
    everyone = register_optimizer_step_pre_hook(lambda *_: calls.append("global"))
    train(net, optimizer, step, 1)
    everyone.remove()
    inner = optimizer.step
    optimizer.step = lambda: (calls.append("wrapped"), inner())  # type: ignore[method-assign,assignment]
    train(net, optimizer, step, 1)
    assert calls == ["own", "own", "global", "wrapped"]


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_momentum_of_a_parameter_whose_first_gradient_comes_late(name: str) -> None:
    """torch's own fused step raises TypeError there; its plain one is the reference."""
    ours, theirs = model(), model()
    a, b = optimizer_of(ours, name), optimizer_of(theirs, name)
    for group in b.param_groups:
        group["fused"], group["foreach"] = False, False
    train(ours, a, stepper(a), late=True)
    train(theirs, b, b.step, late=True)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_first_step_that_is_off_leaves_zeros_as_momentum() -> None:
    """torch's own (2.13) leaves what the memory held; filled with NaN here, so that it shows."""
    net, off = model(), torch.ones(())
    optimizer = optimizer_of(net, "momentum")
    step = in_place(optimizer, [torch.tensor(0.1, dtype=torch.float64)] * 2, off)
    assert step is not None
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.ones(8, 5)).sum().backward()
    torch.use_deterministic_algorithms(True)
    try:
        step()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert all(not state["momentum_buffer"].any() for state in optimizer.state.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("made", ["sgd", "momentum", "adam", "adamw", "adagrad", "own"])
def test_weights_of_half_precision_move_as_by_the_plain_step(made: str, dtype: torch.dtype) -> None:
    """torch 2.13's fused SGD leaves all but the last few numbers of such a weight where they were."""
    net = nn.Linear(48, 4).to(dtype)
    plain = copy.deepcopy(net)
    spec = (lambda params: SGD(params, lr=0.5, fused=True)) if made == "own" else made
    built = build(spec, net, **({} if made == "own" else {"lr": 0.5, "l2": 0.0}))
    kind, options = type(built.optimizer), {"lr": 0.5, "weight_decay": 0.0}
    options |= {"momentum": built.optimizer.param_groups[0]["momentum"]} if kind is SGD else {}
    reference = kind(plain.parameters(), foreach=False, fused=False, **options)
    for k in range(3):
        for p, q in zip(net.parameters(), plain.parameters(), strict=True):
            p.grad, q.grad = torch.full_like(p, 0.25 * (k + 1)), torch.full_like(q, 0.25 * (k + 1))
        stepper(built.optimizer)()
        reference.step()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0.02, atol=0.01)
