"""The state of a run as it is written down, tensors and JSON, and as it becomes that again."""

import copy

import numpy as np
from torch import Tensor

from handful.base.errors import HandfulError
from handful.base.plan import Row
from handful.optim.parts import averages_itself
from handful.optim.state import load_state, order, put_in_order, state_tensors
from handful.training.state import Best, Kept, State
from handful.training.watch.evaluation import evaluated
from handful.training.watch.history import Window
from handful.training.watch.weights import Weights, changed, copy_weights, laid_out, load_weights, put_beside, under

PLAIN = (  # of the state: numbers, and lists and dicts of them
    "position", "step", "seconds", "micro_batch", "batch", "noise", "probing_cost", "back", "went_back", "skipped",
    "restarted", "history", "lowest",
)  # fmt: skip


def tensors_of(state: State) -> dict[str, Tensor]:
    named = {f"model.{k}": v for k, v in copy_weights(state.model, clone=False).items()}
    named |= {f"optimizer.{k}": v for k, v in state_tensors(state.optimizer)[0].items()}
    named |= {f"average.{k}": v for k, v in (state.average or {}).items()}
    named |= {f"best.{k}": v for k, v in (state.best.weights if state.best else {}).items()}
    named |= changed(state.model, state.beside, state.loss)[1]
    named |= {f"first.{k}": v for k, v in (state.first or {}).items()}
    named |= {f"course.{k}": v for k, v in state.course.items()}
    if averages_itself(state.optimizer):
        with evaluated(state) as weights:  # for a run that is loaded before its end
            kept = {f"evaluated.{k}": v.clone() for k, v in weights.items()}
        named |= kept
    return named


def meta_of(state: State) -> Row:
    """The rest of the state, as JSON holds it."""
    w, best = state.window.whole(), state.best
    return {name: getattr(state, name) for name in PLAIN} | {
        "optimizer": state_tensors(state.optimizer)[1] | {"order": order(state.optimizer, state.model)},
        "window": [w.loss, w.weight, {k: v.tolist() for k, v in w.metrics.items()}],
        "best": best.row if best else None,
        "callbacks": state.callbacks.state(),
        "beside": changed(state.model, state.beside, state.loss)[0],
    }


def restore(state: State, tensors: dict[str, Tensor], meta: Row) -> None:
    """Become the saved state, to the bit. Raises HandfulError for that of another version of handful, or of another
    model."""
    if unlike := sorted(meta_of(state).keys() ^ (meta.keys() - {"tensors"})):
        raise HandfulError(
            f"another version of handful wrote this checkpoint: {unlike[0]!r} is not in both; go on with that one"
        )

    weights = under("model.", tensors)
    for name, value in copy_weights(state.model, clone=False).items():
        if name in weights and weights[name].dtype != value.dtype:
            was, now = (str(v.dtype).removeprefix("torch.") for v in (weights[name], value))
            raise HandfulError(f"{name} is {was} in this run and {now} in the model given to go on with; give it {was}")
    load_weights(state.model, weights)
    put_beside(state.model, meta["beside"], tensors, state.loss)
    put_in_order(state.optimizer, state.model, meta["optimizer"].get("order", ()))
    load_state(state.optimizer, under("optimizer.", tensors), meta["optimizer"])
    own = copy_weights(state.model, clone=False)
    state.average = laid_out(own, under("average.", tensors)) or None
    state.first = laid_out(own, under("first.", tensors)) or None
    state.course = under("course.", tensors)
    state.best = Best(meta["best"], laid_out(own, under("best.", tensors))) if meta["best"] else None
    for name in PLAIN:
        setattr(state, name, copy.copy(meta[name]))
    loss, weight, metrics = meta["window"]
    state.window = Window(loss, weight, {k: np.array(v) for k, v in metrics.items()})
    state.callbacks.restore(meta["callbacks"])


def beginning(state: State, planned: int | None, trail: list[Kept]) -> tuple[Weights, Row]:
    """(tensors, meta) of a state from which steps will be taken while the run is measured, with what it takes to take
    them again: the planned length as it is taken to be then, and the steps that were kept, as the list comes to be."""
    tensors = {k: v.detach().clone() for k, v in tensors_of(state).items()}
    return tensors, copy.deepcopy(meta_of(state)) | {"planned": planned, "trail": trail}
