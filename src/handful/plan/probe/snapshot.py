"""Probes leave no trace: everything a trial step changes is put back, to the bit, however the probe ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

from handful.base.keys import random_states
from handful.training.training import Training
from handful.training.watch.weights import put_back


class Snapshot:
    """All that trial steps change, kept so that it can be put back any number of times.

    Kept: parameters, buffers (those outside the state dict too), gradients, each module's mode; the optimizer's
    state and options; the average of the weights; position, step, seconds, batch, micro-batch, window; the random
    states of torch, NumPy and Python. What a module keeps elsewhere (a counter in Python) is not known and not
    put back.
    """

    def __init__(self, t: Training) -> None:
        model, s = t.objective.model, t.state
        self.t = t
        self.weights = [(p, p.detach().clone()) for p in (*model.parameters(), *model.buffers())]
        self.grads = [(p, None if p.grad is None else p.grad.detach().clone()) for p in model.parameters()]
        self.modes = [(m, m.training) for m in model.modules()]
        self.optimizer = {p: deepcopy(entry) for p, entry in s.optimizer.state.items()}
        self.options = [deepcopy({k: v for k, v in g.items() if k != "params"}) for g in s.optimizer.param_groups]
        self.state = replace(
            s, noise=list(s.noise), trail=list(s.trail), window=deepcopy(s.window.whole()), average=deepcopy(s.average)
        )
        self.logged = len(s.history)
        self.restore_random = random_states()

    def restore(self) -> None:
        """Put everything back."""
        s, kept = self.t.state, self.state
        self.hand_over(self.t)
        for p, grad in self.grads:
            p.grad = None if grad is None else grad.clone()
        for module, mode in self.modes:
            module.training = mode
        for group, options in zip(s.optimizer.param_groups, self.options, strict=True):
            for name in group.keys() - options.keys() - {"params"}:
                del group[name]
            group.update(deepcopy(options))
        s.seconds, s.batch, s.micro_batch = kept.seconds, kept.batch, kept.micro_batch
        s.best, s.stopped_because, s.noise = kept.best, kept.stopped_because, list(kept.noise)
        del s.history[self.logged :]
        self.restore_random()

    def hand_over(self, to: Training) -> None:
        """Let a Training of the same model go on from here: weights, what the optimizer remembers (not its options),
        the average, position, step and window."""
        s, kept = to.state, self.state
        for tensor, value in self.weights:
            put_back(tensor, value)
        s.optimizer.state.clear()  # in place: an optimizer of two parts shares one dict between them
        s.optimizer.state.update({p: deepcopy(entry) for p, entry in self.optimizer.items()})
        if s.average is not None:
            s.average = deepcopy(kept.average)
        s.position, s.step, s.window, s.trail = kept.position, kept.step, deepcopy(kept.window), list(kept.trail)


@contextmanager
def untouched(t: Training) -> Iterator[Snapshot]:
    """What happens inside leaves no trace, whether it ends well or by an exception."""
    snapshot = Snapshot(t)
    try:
        yield snapshot
    finally:
        snapshot.restore()
