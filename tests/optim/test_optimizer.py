"""Optimizers against plain torch loops with the same class, bit for bit; their state, groups, rescaling and errors."""

import copy
import functools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import handful
from handful.base.errors import HandfulError
from handful.optim import build as opt
from handful.optim.muon import Muon, orthogonal
from handful.optim.parts import OptimizerGroup
from handful.optim.rates import clip, gain, rescale, set_base, set_lr
from handful.optim.state import load_state, state_tensors

NAMES = [name for name in opt.names if name != "lbfgs"]  # which has no decay, and needs a closure: test_given.py


class Net(nn.Module):
    """Embedding, hidden matrices, a convolution, norms, a 3-d norm, and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.conv = nn.Conv1d(6, 6, 3, padding=1)
        self.norm = nn.LayerNorm((6, 5))
        self.hidden = nn.Linear(6, 8)
        self.middle = nn.Linear(8, 8, bias=False)
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.conv(self.embed(ids).transpose(1, 2))).mean(2)
        return self.head(torch.tanh(self.middle(torch.relu(self.hidden(x)))) * self.scale)


def net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


def gradients(model: nn.Module, index: int) -> None:
    """A loss and its gradients that depend only on the weights and the index."""
    source = torch.Generator().manual_seed(index)
    ids, y = torch.randint(0, 7, (9, 5), generator=source), torch.randint(0, 3, (9,), generator=source)
    model.zero_grad()
    nn.functional.cross_entropy(model(ids), y).backward()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    for index in range(start, stop):
        optimizer.zero_grad()
        gradients(model, index)
        optimizer.step()


def bits(model: nn.Module) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in model.parameters()]


DECAYED = ["embed.weight", "conv.weight", "hidden.weight", "middle.weight", "head.weight"]


def plain(name: str, model: nn.Module, lr: float, l2: float) -> list[torch.optim.Optimizer]:
    """What a careful user of torch writes by hand."""
    named = dict(model.named_parameters())
    still = [p for n, p in named.items() if n not in DECAYED]
    groups = [
        {"params": [named[n] for n in DECAYED], "weight_decay": l2},
        {"params": still, "weight_decay": 0.0},
    ]
    free = {"decoupled_weight_decay": True} if l2 else {}
    o = torch.optim
    if name == "muon":
        hidden = ("conv.weight", "hidden.weight", "middle.weight")
        rest = [{"params": [named[n] for n in DECAYED if n not in hidden]}, groups[1]]
        return [
            Muon([named[n] for n in hidden], lr, l2),
            o.AdamW(rest, lr=lr, weight_decay=l2, fused=True),
        ]
    made: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: o.SGD(groups, lr=lr, fused=True),
        "momentum": lambda: o.SGD(groups, lr=lr, momentum=0.9, fused=True),
        "nesterov": lambda: o.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True),
        "adagrad": lambda: o.Adagrad(groups, lr=lr, fused=True),
        "adadelta": lambda: o.Adadelta(groups, lr=lr, foreach=True),
        "rmsprop": lambda: o.RMSprop(groups, lr=lr, foreach=True),
        "adam": lambda: o.Adam(groups, lr=lr, fused=True, **free),
        "adamw": lambda: o.AdamW(groups, lr=lr, fused=True),
        "nadam": lambda: o.NAdam(groups, lr=lr, foreach=True, **free),
        "radam": lambda: o.RAdam(groups, lr=lr, foreach=True, **free),
        "adamax": lambda: o.Adamax(groups, lr=lr, foreach=True),
    }
    return [made[name]()]


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_equal_a_plain_loop_bit_for_bit(name: str, l2: float) -> None:
    ours, theirs = net(), net()
    built = opt.build(name, ours, lr=0.03, l2=l2)
    train(ours, built.optimizer, 0, 20)
    by_hand = plain(name, theirs, 0.03, l2)
    for index in range(20):
        gradients(theirs, index)
        for one in by_hand:
            one.step()
    assert bits(ours) == bits(theirs)
    assert bits(ours) != bits(net())


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw"])
def test_fused_is_the_same_mathematics_in_float64(name: str) -> None:
    ours, theirs = net().double(), net().double()
    train(ours, opt.build(name, ours, lr=0.03, l2=0.1).optimizer, 0, 20)
    train(theirs, opt.build(name, theirs, lr=0.03, l2=0.1, fused=False).optimizer, 0, 20)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def through_files(tensors: dict[str, Tensor], meta: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors.torch import load, save

    return load(save(tensors)), json.loads(json.dumps(meta, allow_nan=False))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [0, 7])
def test_state_goes_through_files_and_continues_bit_for_bit(name: str, steps: int) -> None:
    model = net()
    built = opt.build(name, model, l2=0.01)
    train(model, built.optimizer, 0, steps)
    set_lr(built.optimizer, 0.5)
    stored = through_files(*state_tensors(built.optimizer))
    twin = copy.deepcopy(model)
    restored = opt.build(name, twin, l2=0.01).optimizer
    load_state(restored, *stored)
    kept = {key: value.clone() for key, value in stored[0].items()}
    for one, optimizer in ((model, built.optimizer), (twin, restored)):
        train(one, optimizer, steps, steps + 8)
    assert bits(model) == bits(twin)
    assert all(torch.equal(stored[0][key], kept[key]) for key in kept)  # the copy was not trained along
    assert json.dumps(state_tensors(restored)[1]) == json.dumps(state_tensors(built.optimizer)[1])


def test_state_of_other_shapes_of_optimizer() -> None:
    """LBFGS keeps lists, None, ints and floats; others keep bools and nested dicts."""
    for make in (
        lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=4, history_size=3),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), amsgrad=True, betas=(0.5, 0.75)),
        lambda p: torch.optim.ASGD(p),
        lambda p: torch.optim.Rprop(p),
        lambda p: torch.optim.Adafactor(p),
    ):
        model = net()

        def closure(model: nn.Module) -> Tensor:
            gradients(model, 5)
            return torch.stack([p.grad.square().sum() for p in model.parameters() if p.grad is not None]).sum()

        first = make(list(model.parameters()))
        for _ in range(4):
            first.step(lambda m=model: closure(m))
        twin = copy.deepcopy(model)
        second = make(list(twin.parameters()))
        load_state(second, *through_files(*state_tensors(first)))
        for _ in range(3):
            first.step(lambda m=model: closure(m))
            second.step(lambda m=twin: closure(m))
        assert bits(model) == bits(twin)


def test_state_keeps_types_layout_and_odd_numbers() -> None:
    weight = nn.Parameter(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    first, second = torch.optim.SGD([weight], lr=0.1), torch.optim.SGD([weight], lr=0.2)
    state = {
        "step": torch.tensor(3.0),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "moment": torch.arange(120.0).reshape(2, 3, 4, 5),
        "count": 2**70,
        "tiny": 0.1 + 0.2,
        "odd": [math.inf, -math.inf, None, True, ("a", 1, [2.5])],
        "nested": {"x": {3: torch.tensor([1, 2])}},
    }
    first.state[weight] = dict(state)
    first.param_groups[0]["betas"] = (0.9, 0.99)
    load_state(second, *through_files(*state_tensors(first)))
    back = second.state[weight]
    assert second.param_groups[0]["lr"] == 0.1
    assert second.param_groups[0]["betas"] == (0.9, 0.99)
    assert back.keys() == state.keys()
    for key in ("count", "tiny", "odd"):
        assert repr(back[key]) == repr(state[key])
    for key in ("step", "half", "moment"):
        assert torch.equal(back[key], state[key])
        assert back[key].dtype == state[key].dtype
    assert back["moment"].stride() == weight.stride()
    assert torch.equal(back["nested"]["x"][3], torch.tensor([1, 2]))


def test_load_state_refuses_and_leaves_all_as_it_was() -> None:
    model = net()
    adam = opt.build("adam", model).optimizer
    train(model, adam, 0, 3)
    tensors, meta = state_tensors(adam)
    other = opt.build("adamw", net()).optimizer
    with pytest.raises(HandfulError, match="is of Adam, but the optimizer is AdamW"):
        load_state(other, tensors, meta)
    fresh = opt.build("adam", net()).optimizer
    before = json.dumps(state_tensors(fresh)[1])
    with pytest.raises(HandfulError, match="lacks the tensor"):
        load_state(fresh, {k: v for k, v in tensors.items() if k != "3.exp_avg"}, meta)
    assert json.dumps(state_tensors(fresh)[1]) == before
    with pytest.raises(HandfulError, match="another model"):
        load_state(opt.build("adam", nn.Linear(2, 2)).optimizer, tensors, meta)
    adam.param_groups[0]["hook"] = print
    with pytest.raises(HandfulError, match="cannot be stored"):
        state_tensors(adam)


def test_torchs_own_state_dict_works_on_both() -> None:
    model, twin = net(), net()
    first, second = opt.build("muon", model).optimizer, opt.build("muon", twin).optimizer
    train(model, first, 0, 4)
    twin.load_state_dict(model.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(model, first, 4, 8)
    train(twin, second, 4, 8)
    assert bits(model) == bits(twin)
    assert isinstance(second, OptimizerGroup)
    second.zero_grad()
    assert all(p.grad is None for p in twin.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(second, 1, 0.5)
    second.step()
    scheduler.step()
    assert {g["lr"] for part in second.parts for g in part.param_groups} == {0.007}
    assert second.step(lambda: 3.5) == 3.5


def named_groups(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[set[str]]:
    names = {id(p): n for n, p in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]


def test_decay_leaves_out_biases_and_norms() -> None:
    model = net()
    built = opt.build("adamw", model)
    decayed, still = named_groups(model, built.optimizer)
    assert decayed == set(DECAYED)
    assert still == {n for n, _ in model.named_parameters()} - set(DECAYED)
    assert [g["weight_decay"] for g in built.optimizer.param_groups] == [0.01, 0.0]
    assert (built.l2.value, built.l2.status, built.lr.value, built.lr.status) == (0.01, "default", 0.014, "default")
    assert built.lr.reason
    assert built.notes == [
        "The weight decay (l2) is decoupled from the gradient and leaves out biases and normalisation layers."
    ]
    assert "added to the gradient" in opt.build("sgd", model, l2=0.1).notes[0]
    assert "decoupled" in opt.build("adam", model, l2=0.1).notes[0]
    assert "added" in opt.build("adam", model, l2=0.1, decoupled_weight_decay=False).notes[0]
    assert opt.build("sgd", model).notes == []
    given = opt.build("sgd", model, lr=1, l2=0.5)
    assert (given.lr.status, given.l2.status, given.lr.value) == ("given", "given", 1.0)


@pytest.mark.parametrize(
    ("spec", "like", "times"),
    [
        ("sgd(momentum=0.9)", "momentum", 1.0),
        ("sgd(momentum=0.99)", "momentum", 0.1),
        ("momentum(momentum=0.99)", "momentum", 0.1),
        ("sgd(momentum=0.9, nesterov=True)", "nesterov", 1.0),
        ("sgd(momentum=0.9, dampening=0.9)", "sgd", 1.0),
        ("sgd(momentum=0)", "sgd", 1.0),
        ("rmsprop(momentum=0.9)", "rmsprop", 0.1),
        (torch.optim.SGD, "sgd", 1.0),
        (functools.partial(torch.optim.SGD, momentum=0.9), "momentum", 1.0),
        (torch.optim.AdamW, "adamw", 1.0),
        (torch.optim.Adagrad, "adagrad", 1.0),
        ("adagrad", "adam", 10.0),
        ("muon(momentum=0.5)", "muon", 1.0),
    ],
)
def test_an_open_rate_is_that_of_what_the_optimizer_does(spec: Any, like: str, times: float) -> None:
    """By name, by class, by options: momentum m adds 1 / (1 - m) steps up; torch's rate of SGD is 0.001."""
    built, other = opt.build(spec, net()), opt.build(like, net())
    assert built.lr.value == pytest.approx(times * other.lr.value)
    assert built.lr.status == "default"
    assert built.optimizer.param_groups[0]["lr"] == built.lr.value


def test_a_rate_that_a_callable_sets_is_its_own() -> None:
    for spec in (functools.partial(torch.optim.SGD, lr=0.3), lambda parameters: torch.optim.SGD(parameters, lr=0.3)):
        assert (opt.build(spec, net()).lr.value, opt.build(spec, net()).lr.status) == (0.3, "found")
    with pytest.raises(HandfulError, match="momentum of sgd must be a number of at least 0, not 'much'"):
        opt.build("sgd(momentum='much')", net())


def test_muon_takes_hidden_matrices_and_adamw_the_rest() -> None:
    model = net()
    built = opt.build("muon", model, betas=(0.8, 0.9), momentum=0.5)
    matrices, decayed, still = named_groups(model, built.optimizer)
    assert matrices == {"conv.weight", "hidden.weight", "middle.weight"}
    assert decayed == {"embed.weight", "head.weight"}
    assert not matrices & still
    assert isinstance(built.optimizer, OptimizerGroup)
    assert [type(part) for part in built.optimizer.parts] == [Muon, torch.optim.AdamW]
    assert built.optimizer.param_groups[0]["momentum"] == 0.5
    assert built.optimizer.param_groups[1]["betas"] == (0.8, 0.9)
    assert any("Muon takes 3 hidden weights: conv.weight, hidden.weight" in note for note in built.notes)
    small = opt.build("muon", nn.Linear(3, 2))
    assert type(small.optimizer) is torch.optim.AdamW
    assert any("none" in note for note in small.notes)


def test_muon_leaves_what_is_no_matrix_to_adamw() -> None:
    places = nn.Module()
    places.places = nn.Parameter(torch.zeros(1, 4, 6))  # where a token stands, as in a vision transformer
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 1), places, nn.Linear(6, 2))
    assert named_groups(model, opt.build("muon", model).optimizer)[0] == {"2.weight"}
    with pytest.raises(ValueError, match="two and more dimensions"):
        Muon([nn.Parameter(torch.zeros(3))])
    with pytest.raises(HandfulError, match="could not be made"):
        opt.build("muon", model, momentum=1.5)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (1, 3)])
def test_the_orthogonalisation_moves_singular_values_alone(shape: tuple[int, int]) -> None:
    """Against the scalar polynomial on the singular values of an SVD, in float64."""
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    torch.testing.assert_close(orthogonal(matrix), u @ torch.diag(values) @ v, rtol=1e-9, atol=1e-12)
    assert not orthogonal(torch.zeros(shape)).any()


def test_muon_is_torchs_on_matrices_up_to_its_bfloat16() -> None:
    ours, theirs = (nn.Parameter(torch.randn(16, 24, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    first = Muon([ours], lr=0.05, weight_decay=0.2)
    second = torch.optim.Muon([theirs], lr=0.05, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
    start = ours.detach().clone()
    for k in range(10):
        ours.grad = torch.randn(16, 24, generator=torch.Generator().manual_seed(k))
        theirs.grad = ours.grad.clone()
        first.step()
        second.step()
    assert (ours - theirs).norm() < 0.02 * (ours - start).norm()


def test_muon_takes_a_convolution_for_the_matrix_of_its_filters() -> None:
    filters = nn.Parameter(torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    matrix = nn.Parameter(filters.detach().flatten(1).clone())
    for k in range(3):
        filters.grad = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(k))
        matrix.grad = filters.grad.flatten(1).clone()
    for weight in (filters, matrix):
        Muon([weight], lr=0.1).step()
    torch.testing.assert_close(filters.flatten(1), matrix, rtol=0, atol=0)


def test_a_tied_head_is_one_parameter_and_no_hidden_layer() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False))
    model[3].weight = model[0].weight
    for name in NAMES:
        held = [p for g in opt.build(name, model, l2=0.1).optimizer.param_groups for p in g["params"]]
        assert len(held) == len({id(p) for p in held}) == 5
    groups = named_groups(model, opt.build("muon", model).optimizer)
    assert groups[0] == {"1.weight", "2.weight"}


def test_frozen_parameters_are_left_out() -> None:
    model = net()
    model.embed.requires_grad_(False)
    built = opt.build("adam", model)
    left = "1 of 11 parameters are frozen and left out, also if they are thawed later"
    assert f"{left}; an optimizer of your own may hold them." in built.notes
    assert "embed.weight" not in set().union(*named_groups(model, built.optimizer))
    model.requires_grad_(False)
    with pytest.raises(HandfulError, match="nothing to train: all its parameters are frozen"):
        opt.build("adam", model)
    with pytest.raises(HandfulError, match="it has no parameters"):
        opt.build("adam", nn.ReLU())
    with pytest.raises(HandfulError, match="call the model once"):
        opt.build("adam", nn.LazyLinear(3))


def test_sparse_embeddings_train_with_sgd() -> None:
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = opt.build("sgd", model).optimizer
    model(torch.tensor([1])).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()
    assert torch.equal((model.weight != before).any(1), torch.arange(5) == 1)


def test_callables_and_ready_optimizers() -> None:
    model = net()
    built = opt.build(torch.optim.AdamW, model, lr=0.1, l2=0.2, betas=(0.5, 0.6))
    assert [g["weight_decay"] for g in built.optimizer.param_groups] == [0.2, 0.0]
    assert built.optimizer.param_groups[0]["betas"] == (0.5, 0.6)
    assert built.name == "adamw"
    part = opt.build(functools.partial(torch.optim.SGD, lr=0.3, weight_decay=0.4), model)
    assert (part.lr.value, part.l2.value, part.lr.status) == (0.3, 0.4, "found")
    assert [g["weight_decay"] for g in part.optimizer.param_groups] == [0.4, 0.0]
    own = opt.build(lambda params: torch.optim.RMSprop(params, lr=0.7), model)
    assert own.lr.value == 0.7
    assert len(own.optimizer.param_groups) == 1
    any_keyword = opt.build(lambda params, **kw: torch.optim.SGD(params, **kw), model, lr=0.25, momentum=0.5)
    assert any_keyword.optimizer.param_groups[0]["momentum"] == 0.5
    assert opt.build(lambda params, **kw: torch.optim.SGD(params, **kw), model, l2=0.3).l2.value == 0.3
    ready = torch.optim.Adam(model.head.parameters(), lr=0.05)
    taken = opt.build(ready, model)
    assert taken.optimizer is ready
    assert taken.lr.value == 0.05
    assert "9 parameters are not in the optimizer and stay as they are" in taken.notes[0]
    two = torch.optim.SGD([{"params": model.head.parameters()}, {"params": model.conv.parameters(), "lr": 0.5}], lr=1.0)
    assert any("learning rates from 0.5 to 1" in note for note in opt.build(two, model).notes)
    set_lr(two, 0.1)
    assert [g["lr"] for g in two.param_groups] == [0.1, 0.05]


FOREIGN = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("spec", "keywords", "words"),
    [
        ("adamm", {}, "there is no optimizer 'adamm'. Did you mean 'adam"),
        ("adam", {"lr": -1}, "lr (unless 'auto') must be a number above 0, not -1"),
        ("adam", {"lr": 0}, "lr (unless 'auto') must be"),
        ("adam", {"lr": float("nan")}, "lr (unless 'auto') must be"),
        ("adam", {"lr": "fast"}, "lr (unless 'auto') must be"),
        ("adam", {"lr": True}, "lr (unless 'auto') must be"),
        ("adam", {"l2": -0.1}, "l2 (unless 'auto') must be a number of at least 0"),
        ("adam", {"beta": (0.9, 0.99)}, "takes no 'beta'. Did you mean 'betas'"),
        ("adam", {"weight_decay": 0.1}, "takes no 'weight_decay' here; use l2"),
        ("adam", {"betas": (0.9, 1.5)}, "could not be made: Invalid beta"),
        ("sgd", {"nesterov": True}, "could not be made"),
        (lambda params: torch.optim.SGD(params), {"lr": 0.1}, "takes no 'lr'"),
        (lambda params, lr: torch.optim.SGD(params, lr), {"lr": 0.1, "l2": 0.1}, "takes no 'weight_decay'"),
        (lambda params, lr: torch.optim.SGD(params, lr), {}, "could not be made"),
        (lambda params: 3, {}, "not a torch optimizer"),
        (torch.optim.SGD(FOREIGN.parameters(), lr=0.1), {}, "not the model's"),
        (torch.optim.SGD(FOREIGN.parameters(), lr=0.1), {"lr": 0.2}, "the optimizer SGD takes no 'lr'; set it where"),
        (torch.optim.LBFGS(FOREIGN.parameters()), {}, "not the model's"),
        (3, {}, "must be a name, a torch optimizer or a function that makes one, not 3"),
    ],
)
def test_errors_are_one_sentence(spec: Any, keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(HandfulError) as caught:
        opt.build(spec, net(), **keywords)
    assert words in str(caught.value)
    sentence = (
        str(caught.value).split(" Known: ")[0].removesuffix(".")
        if " Known: " in str(caught.value)
        else str(caught.value)
    )
    assert not sentence.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_set_lr_scales_the_base_and_survives_the_file(name: str) -> None:
    model = net()
    optimizer = opt.build(name, model, lr=0.2).optimizer
    for factor in (0.5, 0.1, 1.0):
        set_lr(optimizer, factor)
        assert all(g["lr"] == 0.2 * factor for g in optimizer.param_groups)
    set_lr(optimizer, 0.25)
    twin = opt.build(name, net(), lr=0.7).optimizer
    load_state(twin, *state_tensors(optimizer))
    set_lr(twin, 1.0)
    assert all(g["lr"] == 0.2 for g in twin.param_groups)


def test_set_lr_keeps_a_tensor() -> None:
    held = torch.tensor(0.5)
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=held)
    set_lr(adam, 0.5)
    assert adam.param_groups[0]["lr"] is held
    assert held.item() == 0.25


def test_gain() -> None:
    assert gain(32, 64, 0.0) == 1.0
    assert gain(32, 64, 1e12) == pytest.approx(2.0)
    assert gain(10, 30, 20.0) == pytest.approx((30 / 50) / (10 / 30))
    assert gain(10, 30, 20.0) * gain(30, 10, 20.0) == pytest.approx(1.0)


def test_rescale_follows_the_rules() -> None:
    def lone(make: Callable[..., torch.optim.Optimizer], **keywords: Any) -> torch.optim.Optimizer:
        return make([nn.Parameter(torch.ones(2))], **keywords)

    sgd = lone(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.3)
    rescale(sgd, 32, 128, gain=3.0)
    group = sgd.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (pytest.approx(0.3), 0.9, 0.3)
    adamw = lone(torch.optim.AdamW, lr=0.1, weight_decay=0.3, betas=(0.9, 0.99))
    before = 32 / (0.1 * 0.3)
    notes = rescale(adamw, 32, 128, gain=4.0)
    group = adamw.param_groups[0]
    assert group["lr"] == pytest.approx(0.2)
    assert group["betas"] == (0.9, pytest.approx(0.99**4))
    assert 128 / (group["lr"] * group["weight_decay"]) == pytest.approx(before)
    # the half-life of the second moment in examples is what it was
    assert 128 / math.log(group["betas"][1]) == pytest.approx(32 / math.log(0.99))
    assert len(notes) == 1
    assert "batch 32 -> 128: learning rate 0.1 -> 0.2" in notes[0]
    rescale(adamw, 128, 32, gain=0.25)
    assert group["lr"] == pytest.approx(0.1)
    assert group["betas"][1] == pytest.approx(0.99)
    assert group["weight_decay"] == pytest.approx(0.3)
    rms, delta = lone(torch.optim.RMSprop, lr=0.1, alpha=0.9), lone(torch.optim.Adadelta, lr=1.0, rho=0.9)
    for one, key in ((rms, "alpha"), (delta, "rho")):
        rescale(one, 10, 20, gain=1.44)
        assert one.param_groups[0][key] == pytest.approx(0.81)
    assert rms.param_groups[0]["lr"] == pytest.approx(0.12)
    with pytest.raises(HandfulError, match="Rprop"):
        rescale(lone(torch.optim.Rprop), 1, 2, 1.5)
    for bad in ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0), (1, 1, float("inf"))):
        with pytest.raises(HandfulError, match="above 0"):
            rescale(sgd, *bad)


@pytest.mark.parametrize("name", ["adam", "adamw", "nadam", "radam", "muon"])
def test_rescale_does_not_make_the_second_moment_jump(name: str) -> None:
    model = net().double()
    optimizer = opt.build(name, model, lr=0.01).optimizer
    train(model, optimizer, 0, 5)

    def corrected() -> list[Tensor]:
        return [
            entry["exp_avg_sq"] / (1 - group["betas"][1] ** float(entry["step"]))
            for group in optimizer.param_groups
            for p in group["params"]
            if "exp_avg_sq" in (entry := optimizer.state[p])
        ]

    before = corrected()
    rescale(optimizer, 16, 64, gain=2.0)
    assert len(before) > 5
    for a, b in zip(before, corrected(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=0)
    set_lr(optimizer, 1.0)  # the base moved too, so the next schedule step keeps it
    assert all(g["lr"] == pytest.approx(0.01 * math.sqrt(2)) for g in optimizer.param_groups)
    if isinstance(optimizer, OptimizerGroup):
        assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.1 * 4 / math.sqrt(2))


def test_rescale_by_one_changes_no_bit() -> None:
    for name in NAMES:
        model, twin = net(), net()
        optimizer, other = opt.build(name, model, l2=0.1).optimizer, opt.build(name, twin, l2=0.1).optimizer
        train(model, optimizer, 0, 3)
        train(twin, other, 0, 3)
        rescale(optimizer, 32, 32, gain=1.0)
        train(model, optimizer, 3, 6)
        train(twin, other, 3, 6)
        assert bits(model) == bits(twin)


def test_clip() -> None:
    model = net()
    gradients(model, 0)
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum(g.double().square().sum().item() for g in grads.values()))
    assert clip(model.parameters()).item() == pytest.approx(norm, rel=1e-5)
    assert all(torch.equal(p.grad, grads[n]) for n, p in model.named_parameters() if p.grad is not None)
    assert clip(model.parameters(), norm=norm / 4).item() == pytest.approx(norm, rel=1e-5)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, grads[n] / 4, rtol=1e-4, atol=1e-8)
    gradients(model, 0)
    assert clip(model.parameters(), value=1e-3).item() == pytest.approx(norm, rel=1e-5)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, grads[n].clamp(-1e-3, 1e-3), rtol=0, atol=0)
    model.zero_grad()
    assert clip(model.parameters(), norm=1.0).item() == 0.0
    for bad in ({"norm": 0.0}, {"value": -1.0}, {"norm": 1.0, "value": 1.0}, {"norm": float("nan")}):
        with pytest.raises(HandfulError):
            clip(model.parameters(), **bad)


def test_a_new_base_rate_reaches_every_group() -> None:
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    ready = torch.optim.SGD([{"params": [w], "lr": lr} for w, lr in zip(weights, (0.1, 0.2, 0.4), strict=True)])
    built = opt.build(ready, torch.nn.ParameterList(weights))
    set_base(built.optimizer, 0.01)
    set_lr(built.optimizer, 0.5)
    assert [group["lr"] for group in ready.param_groups] == pytest.approx([0.005, 0.01, 0.02])


def test_groups_that_share_a_tensor_as_their_rate_are_taken_apart():
    # torch puts the tensor of `lr=` into every group: what fills it for one group would fill it for all
    parts = nn.Linear(3, 2), nn.Linear(2, 1)
    groups = [{"params": list(part.parameters())} for part in parts]
    built = opt.build(lambda _: torch.optim.AdamW(groups, lr=torch.tensor(0.125)), nn.Sequential(*parts)).optimizer
    rescale(built, 32, 128, 4.0)
    assert [float(group["lr"]) for group in built.param_groups] == [0.25, 0.25]  # the root of 4, once each
    assert len({id(group["lr"]) for group in built.param_groups}) == 2


class Bag(nn.Module):
    """A table with sparse gradients, and a layer without."""

    def __init__(self, table=nn.EmbeddingBag):
        super().__init__()
        self.words, self.out = table(20, 4, sparse=True), nn.Linear(4, 2)

    def forward(self, x):
        found = self.words(x)
        return self.out(found.mean(1) if found.ndim == 3 else found)


@pytest.mark.parametrize("table", [nn.EmbeddingBag, nn.Embedding])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "rmsprop", torch.optim.Adam])
def test_what_cannot_take_sparse_gradients_is_told_before_the_first_step(optimizer, table):
    with pytest.raises(HandfulError, match=r"cannot take the sparse gradients of 'words.weight': leave sparse out"):
        opt.build(optimizer, Bag(table))


def test_what_takes_sparse_gradients_alone_is_given_those():
    with pytest.raises(HandfulError, match="SparseAdam takes sparse gradients alone"):
        opt.build(torch.optim.SparseAdam, Bag())
    x = np.random.default_rng(0).integers(0, 20, (64, 3))
    options = {"batch": 16, "lr": 0.01, "until": "epochs(1)", "quiet": True}
    for optimizer in ("sgd", "momentum", {"words": torch.optim.SparseAdam, "*": "adamw"}):
        assert handful.fit(Bag(), (x, x[:, 0] % 2), optimizer=optimizer, **options).scores["valid_loss"] > 0


@pytest.mark.parametrize("name", ["adamw", "adam", "nadam", "radam", "adamax"])
def test_moments_that_are_rounded_back(name):
    """Where the note is given a spike of the gradient is never forgotten, elsewhere it is."""
    for dtype, beta in ((torch.bfloat16, 0.999), (torch.bfloat16, 0.99), (torch.float32, 0.999)):
        model = nn.Linear(1, 1, bias=False, dtype=dtype)
        built = opt.build(f"{name}(betas=[0.9, {beta}], foreach=False)", model)
        assert any("never shrinks" in note for note in built.notes) == (dtype == torch.bfloat16 and beta == 0.999)
        spikes = []
        for step in range(30):
            model.weight.grad = torch.full_like(model.weight, 1000.0 if step == 0 else 0.0)
            built.optimizer.step()
            state = built.optimizer.state[model.weight]
            spikes.append(float(state["exp_inf"] if name == "adamax" else state["exp_avg_sq"]))
        assert (spikes[-1] == spikes[0]) == any("never shrinks" in note for note in built.notes)
