"""Probes leave no trace: everything a trial step changes is put back, to the bit, however the probe ends."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handful.training.state import Window
from handful.training.training import Training


class Snapshot:
    """All that trial steps change, kept so that it can be put back any number of times.

    Kept: parameters, buffers (those outside the state dict too), gradients, each module's mode; the optimizer's
    state and options; the average of the weights; position, step, seconds, batch, micro-batch, window; the random
    states of torch, NumPy and Python. What a module keeps elsewhere (a counter in Python) is not known and not
    put back.
    """

    def __init__(self, t: Training) -> None:
        self.t = t
        model, s = t.objective.model, t.state
        self.weights = [(p, p.detach().clone()) for p in (*model.parameters(), *model.buffers())]
        self.grads = [(p, None if p.grad is None else p.grad.detach().clone()) for p in model.parameters()]
        self.modes = [(m, m.training) for m in model.modules()]
        self.optimizer = {p: _copy(entry) for p, entry in s.optimizer.state.items()}
        self.groups = [_copy({k: v for k, v in g.items() if k != "params"}) for g in s.optimizer.param_groups]
        self.average = None if s.average is None else {k: v.clone() for k, v in s.average.items()}
        self.numbers = (s.position, s.step, s.seconds, s.batch, s.micro_batch, s.best, s.stopped_because)
        self.logged, self.noise = len(s.history), list(s.noise)
        self.window = Window(s.window.loss, s.window.weight, {k: v.copy() for k, v in s.window.metrics.items()})
        self.random = _random_states()

    def restore(self) -> None:
        """Put everything back."""
        s = self.t.state
        with torch.no_grad():
            for tensor, kept in self.weights:
                tensor.copy_(kept)
        for p, grad in self.grads:
            p.grad = None if grad is None else grad.clone()
        for module, mode in self.modes:
            module.training = mode
        s.optimizer.state.clear()  # in place: an optimizer of two parts shares one dict between them
        s.optimizer.state.update({p: _copy(entry) for p, entry in self.optimizer.items()})
        for group, options in zip(s.optimizer.param_groups, self.groups, strict=True):
            for name in [k for k in group if k != "params" and k not in options]:
                del group[name]
            group.update(_copy(options))
        s.average = None if self.average is None else {k: v.clone() for k, v in self.average.items()}
        s.position, s.step, s.seconds, s.batch, s.micro_batch, s.best, s.stopped_because = self.numbers
        del s.history[self.logged :]
        s.noise = list(self.noise)
        s.window = Window(self.window.loss, self.window.weight, {k: v.copy() for k, v in self.window.metrics.items()})
        _set_random_states(self.random)

    def hand_over(self, to: Training) -> None:
        """Let another Training of the same model go on from here: weights, what the optimizer remembers (not its
        options), the average, position, step and window."""
        s = to.state
        with torch.no_grad():
            for tensor, kept in self.weights:
                tensor.copy_(kept)
        s.optimizer.state.clear()
        s.optimizer.state.update({p: _copy(entry) for p, entry in self.optimizer.items()})
        if s.average is not None and self.average is not None:
            s.average = {k: v.clone() for k, v in self.average.items()}
        s.position, s.step = self.numbers[:2]
        s.window = Window(self.window.loss, self.window.weight, {k: v.copy() for k, v in self.window.metrics.items()})


@contextmanager
def untouched(t: Training) -> Iterator[Snapshot]:
    """What happens inside leaves no trace, whether it ends well or by an exception."""
    snapshot = Snapshot(t)
    try:
        yield snapshot
    finally:
        snapshot.restore()


def fingerprint(t: Training) -> str:
    """SHA-256 of parameters, buffers, gradients, modes, optimizer, random states, position and the like."""
    digest = hashlib.sha256()
    s, model = t.state, t.objective.model
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        _hash(digest, [name, value.detach(), value.grad])
    _hash(digest, [m.training for m in model.modules()])
    for group in s.optimizer.param_groups:
        _hash(digest, {k: v for k, v in group.items() if k != "params"})
        _hash(digest, [s.optimizer.state.get(p, {}) for p in group["params"]])
    _hash(digest, [s.average or {}, s.position, s.step, s.seconds, s.batch, s.micro_batch, len(s.history), s.noise])
    _hash(digest, [s.window.loss, s.window.weight, s.window.metrics])
    states = _random_states()
    _hash(digest, [*states[0], states[1], states[2]])
    return digest.hexdigest()


def _copy(value: Any) -> Any:
    """A deep copy of containers and tensors; anything else as it is."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(v) for v in value)
    return value


def _random_states() -> tuple[list[Tensor], Any, Any]:
    states = [torch.random.get_rng_state()]
    if torch.cuda._initialized:
        states += torch.cuda.get_rng_state_all()
    return states, np.random.get_state(), random.getstate()


def _set_random_states(states: tuple[list[Tensor], Any, Any]) -> None:
    torch.random.set_rng_state(states[0][0])
    if states[0][1:]:
        torch.cuda.set_rng_state_all(states[0][1:])
    np.random.set_state(states[1])
    random.setstate(states[2])


def _hash(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, dict):
        for k, v in value.items():
            digest.update(repr(k).encode())
            _hash(digest, v)
    elif isinstance(value, list | tuple):
        digest.update(f"{type(value).__name__}{len(value)}".encode())
        for v in value:
            _hash(digest, v)
    else:
        digest.update(repr(value).encode())
