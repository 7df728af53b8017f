"""Probes leave no trace: parameters, buffers, optimizer, random states and position, by hash."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from handful.fit import run_training
from handful.plan.probe import memory
from handful.plan.probe import step_time as throughput
from handful.plan.probe.decide import decide
from handful.plan.probe.lr_race import race
from handful.plan.probe.steps import Snapshot, copied, train, untouched

from .conftest import fingerprint, mlp


def ran(t, steps=3):
    """The training some steps on, so that there is optimizer state, a window and gradients to lose."""
    t.objective.model.train()
    train(t, 16, steps)
    return t


def raced(t, **given):
    with untouched(t) as start:
        return race(t, 1e-3, start=start, **given)


OPTIMIZERS = ["sgd", "momentum", "adamw", "muon", "adagrad"]


def test_what_an_optimizer_remembers_is_copied_as_deepcopy_does():
    """Tensors lie apart from those of the run; one that stands under two names is still one."""
    first = torch.arange(3.0)
    entry = {"a": first, "also": first, "deep": [torch.ones(2)], "turned": torch.ones(2, 3).t(), "step": 4}
    found, due = copied(entry), copy.deepcopy(entry)
    assert found["a"] is found["also"]
    for a, b, c in zip(map(torch.as_tensor, (found["a"], found["deep"][0], found["turned"], found["step"])),
                       map(torch.as_tensor, (due["a"], due["deep"][0], due["turned"], due["step"])),
                       map(torch.as_tensor, (first, entry["deep"][0], entry["turned"], 5)), strict=True):  # fmt: skip
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
        assert a.data_ptr() != c.data_ptr()
    assert copied(None) is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("fresh", [True, False])
def test_trial_steps_leave_every_bit(training, optimizer, fresh):
    t = training(mlp(extra=[nn.BatchNorm1d(32), nn.Dropout(0.2)]), optimizer=optimizer, ema=0.9)
    if not fresh:
        ran(t)
    before = fingerprint(t)
    with untouched(t):
        ran(t)
        torch.rand(3), np.random.rand(3), random.random()
        assert fingerprint(t) != before
    assert fingerprint(t) == before


def test_an_exception_inside_is_passed_on_and_leaves_no_trace(training):
    t = ran(training())
    before = fingerprint(t)

    def interrupted():
        with untouched(t):
            ran(t)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert fingerprint(t) == before


def test_a_snapshot_can_be_restored_again_and_again(training):
    t = ran(training(optimizer="adam"), 5)  # until it is known that the model does not draw by `random` or NumPy
    before, snapshot = fingerprint(t), Snapshot(t)
    ends = []
    for _ in range(3):
        ran(t)
        ends.append(fingerprint(t))
        snapshot.restore()
        assert fingerprint(t) == before
    assert len(set(ends)) == 1  # each time the same steps from the same state


def test_the_fingerprint_sees_each_part(training):
    t = ran(training(mlp(extra=[nn.BatchNorm1d(32)]), ema=0.9))
    group = t.state.optimizer.param_groups[0]
    first = next(iter(t.state.optimizer.state.values()))

    def changes(change, undo):
        before = fingerprint(t)
        change()
        assert fingerprint(t) != before
        undo()
        assert fingerprint(t) == before

    weight = next(t.objective.model.parameters())
    kept = weight.detach().clone()
    changes(lambda: weight.data.view(-1)[0].add_(1e-7), lambda: weight.data.copy_(kept))
    buffer = next(t.objective.model.buffers())
    old = buffer.clone()
    changes(lambda: buffer.add_(1), lambda: buffer.copy_(old))
    moment = first["exp_avg"]
    was = moment.clone()
    changes(lambda: moment.view(-1)[0].add_(1), lambda: moment.copy_(was))
    lr = group["lr"]
    changes(lambda: group.update(lr=lr * 2), lambda: group.update(lr=lr))
    state = torch.get_rng_state()
    changes(lambda: torch.rand(1), lambda: torch.set_rng_state(state))
    position = t.state.position
    changes(lambda: setattr(t.state, "position", position + 1), lambda: setattr(t.state, "position", position))


@pytest.mark.parametrize(
    "probe",
    [
        lambda t: throughput.measure_throughput(t, [4, 8, 16], budget=0.3),
        lambda t: memory.measure_memory(t, 32),
        lambda t: raced(t, size=8, steps=12),
        lambda t: decide(t),
    ],
    ids=["throughput", "memory", "race", "decide"],
)
@pytest.mark.parametrize("optimizer", ["momentum", "adamw", "muon"])
def test_every_probe_leaves_every_bit(training, probe, optimizer):
    t = ran(training(mlp(extra=[nn.BatchNorm1d(32), nn.Dropout(0.1)]), optimizer=optimizer, until="epochs(8)"))
    before = fingerprint(t)
    probe(t)
    assert fingerprint(t) == before


def test_training_after_probes_is_training_without_them(training):
    plain, probed = (training(until="epochs(1)", evaluate_every=1) for _ in range(2))
    decide(probed)
    for t in (plain, probed):
        run_training(t, [])
    for a, b in zip(plain.objective.model.parameters(), probed.objective.model.parameters(), strict=True):
        assert torch.equal(a, b)
