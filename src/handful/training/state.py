"""All that changes during a run. With its Plan it replays the run; both can be written down."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handful.base.callbacks import Callbacks
from handful.base.errors import HandfulError
from handful.base.plan import Row
from handful.base.shards import as_shared, is_shard
from handful.losses.metric import SumMetric
from handful.optim.build import load_state, state_tensors
from handful.optim.state import averages_itself, switch
from handful.training.objective import LossSums, Unmeasured, measure

Weights = dict[str, Tensor]
Kept = tuple[int, int | None, float, float]  # a step: its rows, of a part, the base rate, the mean loss
SEEN = 64  # mini-batches that metrics see at once


MetricSums = dict[str, NDArray[np.float64]]


class Window:
    """LossSums since the last logged moment: the training loss and metrics of the history."""

    def __init__(self, loss: float = 0.0, weight: float = 0.0, metrics: MetricSums | None = None) -> None:
        self.loss, self.weight, self.measured = loss, weight, metrics or {}
        self.seen: list[Unmeasured] = []

    def add(self, sums: LossSums) -> None:
        self.loss += float(sums.loss)
        self.weight += float(sums.weight)
        if sums.seen:
            self.seen += sums.seen
            if len(self.seen) < SEEN:
                return
        self._add(sums.known)

    @property
    def metrics(self) -> MetricSums:
        """The sums of each metric."""
        self._add({})
        return self.measured

    def _add(self, metrics: Mapping[str, Tensor]) -> None:
        seen, self.seen = self.seen, []
        for name, sum_ in (*metrics.items(), *measure(seen).items()):
            value = sum_.cpu().numpy()
            self.measured[name] = self.measured[name] + value if name in self.measured else value.copy()

    def scores(self, metrics: Sequence[SumMetric] | None) -> dict[str, float]:
        """train_loss and train_<metric> over exactly the rows of the window. metrics None: of what a step of the
        caller's own has logged, each the pair of a sum and a number."""
        if self.weight == 0:
            return {}
        scores = {"train_loss": self.loss / self.weight}
        if metrics is None:
            return scores | {f"train_{name}": float(sum_ / n) for name, (sum_, n) in self.metrics.items()}
        for m in metrics:
            if m.name in self.metrics:
                scores[f"train_{m.name}"] = m.finish(self.metrics[m.name])
        return scores


@dataclass
class Best:
    """The best evaluation so far: its row of the history, and the weights it was made with."""

    row: Row
    weights: Weights


@dataclass
class State:
    """Parameters and buffers (in `model`), the optimizer, and position: examples consumed so far."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    position: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    window: Window = field(default_factory=Window)
    average: Weights | None = None
    best: Best | None = None
    first: Weights | None = None  # of the look before the first step, while the run may go back to them
    micro_batch: int | None = None
    batch: int = 0
    noise: list[list[float]] = field(default_factory=list)  # what handful.plan.probe.batch_growth has measured lately
    probing_cost: list[int] = field(default_factory=lambda: [0, 0])  # steps and examples that measuring has cost
    back: int = 0  # the step of the checkpoint to go back to where a loss is not finite
    went_back: list[int] = field(default_factory=list)  # steps gone back to so far; each time halves the learning rate
    skipped: list[int] = field(default_factory=lambda: [0, 0])  # mini-batches in a row, and the step after the last
    restarted: int = 0  # position at which the run last went back to its best weights
    trail: list[Kept] = field(default_factory=list)  # the steps so far, while measuring takes them: see `beginning`
    stopped_because: str | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    torn: bool = False  # in the middle of a step of several updates: the checkpoint before is the one to go on from

    @contextmanager
    def evaluated(self) -> Iterator[Weights]:
        """Inside the block the model has the weights that are scored and kept: the average, those that the optimizer
        evaluates with, or its own; afterwards those that it trains, to the bit. Yields them: clone what is kept."""
        trained = None
        if self.average is not None:
            trained = copy_weights(self.model)
            load_weights(self.model, self.average)
        elif averages_itself(self.optimizer):
            trained = copy_weights(self.model)
            switch(self.optimizer, "eval")
        try:
            yield copy_weights(self.model, clone=False)
        finally:
            if trained is not None:
                switch(self.optimizer, "train")
                load_weights(self.model, trained)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name."""
        named = {f"model.{k}": v for k, v in copy_weights(self.model, clone=False).items()}
        named |= {f"optimizer.{k}": v for k, v in state_tensors(self.optimizer)[0].items()}
        named |= {f"average.{k}": v for k, v in (self.average or {}).items()}
        named |= {f"best.{k}": v for k, v in (self.best.weights if self.best else {}).items()}
        named |= {f"first.{k}": v for k, v in (self.first or {}).items()}
        if averages_itself(self.optimizer):
            with self.evaluated() as weights:  # for a run that is loaded before its end
                kept = {f"evaluated.{k}": v.clone() for k, v in weights.items()}
            named |= kept
        return named

    def meta(self) -> Row:
        """The rest of the state, as JSON holds it."""
        w = self.window
        return {
            "position": self.position,
            "step": self.step,
            "seconds": self.seconds,
            "optimizer": state_tensors(self.optimizer)[1],
            "window": [w.loss, w.weight, {k: v.tolist() for k, v in w.metrics.items()}],
            "best": self.best.row if self.best else None,
            "micro_batch": self.micro_batch,
            "batch": self.batch,
            "noise": self.noise,
            "probing_cost": self.probing_cost,
            "back": self.back,
            "went_back": self.went_back,
            "skipped": self.skipped,
            "restarted": self.restarted,
            "callbacks": self.callbacks.state(),
            "history": self.history,
        }

    def restore(self, tensors: dict[str, Tensor], meta: Row) -> None:
        """Become the saved state, to the bit. Raises HandfulError for that of another version of handful, or of another
        model."""
        if unlike := sorted(self.meta().keys() ^ (meta.keys() - {"tensors"})):
            raise HandfulError(
                f"another version of handful wrote this checkpoint: {unlike[0]!r} is not in both; go on with that one"
            )

        def group(prefix: str) -> Weights:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        weights = group("model.")
        for name, value in copy_weights(self.model, clone=False).items():
            if name in weights and weights[name].dtype != value.dtype:
                was, now = (str(v.dtype).removeprefix("torch.") for v in (weights[name], value))
                raise HandfulError(
                    f"{name} is {was} in this run and {now} in the model given to go on with; give it {was}"
                )
        load_weights(self.model, weights)
        load_state(self.optimizer, group("optimizer."), meta["optimizer"])
        self.average = laid_out(self.model, group("average.")) or None
        self.first = laid_out(self.model, group("first.")) or None
        self.best = Best(meta["best"], laid_out(self.model, group("best."))) if meta["best"] else None
        self.position, self.step, self.seconds = meta["position"], meta["step"], meta["seconds"]
        self.micro_batch, self.batch = meta["micro_batch"], meta["batch"]
        self.noise, self.probing_cost, self.restarted = meta["noise"], meta["probing_cost"], meta["restarted"]
        self.back, self.went_back, self.skipped = meta["back"], list(meta["went_back"]), list(meta["skipped"])
        loss, weight, metrics = meta["window"]
        self.window = Window(loss, weight, {k: np.array(v) for k, v in metrics.items()})
        self.history = list(meta["history"])
        self.callbacks.restore(meta["callbacks"])


class Held:
    """The newest checkpoint of a run that has no folder, in memory."""

    def save_checkpoint(self, state: State, tensors: Weights) -> None:
        """Keep the state as it is, in place of what was kept before."""
        self.kept = {k: v.detach().clone() for k, v in tensors.items()}, copy.deepcopy(state.meta())

    def checkpoint(self, step: int) -> tuple[Weights, Row]:
        """What was kept last: (tensors, meta)."""
        return {k: v.clone() for k, v in self.kept[0].items()}, copy.deepcopy(self.kept[1])


def beginning(state: State, planned: int | None, trail: list[Kept]) -> tuple[Weights, Row]:
    """(tensors, meta) of a state from which steps will be taken while the run is measured, with what it takes to take
    them again: the planned length as it was taken to be then, and the steps that were kept."""
    tensors = {k: v.detach().clone() for k, v in state.tensors().items()}
    return tensors, copy.deepcopy(state.meta()) | {"planned": planned, "trail": trail}


def copy_weights(model: nn.Module, *, clone: bool = True) -> Weights:
    """Parameters and buffers by name."""
    return {
        k: v.detach().clone() if clone else v.detach() for k, v in model.state_dict().items() if isinstance(v, Tensor)
    }


def laid_out(model: nn.Module, weights: Weights) -> Weights:
    """Weights where the model's own are: on its device, shared out among the ranks as they are."""
    own = copy_weights(model, clone=False)
    return {k: as_shared(v.to(own[k].device), own[k]) if k in own else v for k, v in weights.items()}


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Put parameters and buffers into the model; HandfulError when they belong to another model."""
    lazy = any(map(nn.parameter.is_lazy, [*model.parameters(), *model.buffers()]))  # they take the weights' shapes
    try:
        model.load_state_dict(weights if lazy else laid_out(model, weights), strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise HandfulError(f"the saved weights do not fit this model ({type(model).__name__}): {detail}") from None


def reader(model: nn.Module) -> Callable[[], Weights]:
    """What gives the model's tensors of the moment as `copy_weights(model, clone=False)` does, for every step: from
    where the modules hold them, without building a state dict. Where that has more or others to say, it is asked."""
    places = {
        f"{prefix}.{name}" if prefix else name: (held, name)
        for prefix, module in model.named_modules(remove_duplicate=False)
        for held in (module._parameters, module._buffers)
        for name in held
        if name not in module._non_persistent_buffers_set
    }

    def read() -> Weights:
        return {key: value for key, (held, name) in places.items() if (value := held[name]) is not None}

    found, whole = read(), copy_weights(model, clone=False)
    if any(map(is_shard, found.values())):
        return read
    if found.keys() == whole.keys() and all(found[key].is_set_to(value) for key, value in whole.items()):
        return read
    return partial(copy_weights, model, clone=False)


def average_weight(decay: float, step: int) -> float:
    """What the weights of a step count for in their moving average (Polyak and Juditsky 1992), its start corrected: 1 -
    min(decay, (1 + t) / (10 + t))."""
    return 1 - min(decay, (1 + step) / (10 + step))


def update_average(average: Weights, now: Weights, weight: float | Tensor) -> None:
    """Move the average to the weights of now by `weight`, a number or 0-d; integer buffers are copied."""
    moving = [name for name, value in now.items() if value.is_floating_point()]
    old, new = [average[name] for name in moving], [now[name] for name in moving]
    with torch.no_grad():
        if isinstance(weight, Tensor):
            torch._foreach_lerp_(old, new, [weight.to(value.dtype) for value in new])
        else:
            torch._foreach_lerp_(old, new, weight)
        for name in now.keys() - set(moving):
            average[name].copy_(now[name])
