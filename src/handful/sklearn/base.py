"""What both estimators share: their parameters, how a fit and a pass over more rows become a run, and pickling."""

import copy
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import Tensor, nn

from handful.base.errors import HandfulError, no_option
from handful.base.expression import with_options
from handful.data.split import HeldOut
from handful.fit import fit
from handful.models.base import seeded
from handful.plan.build import assemble
from handful.plan.config import OPTIONS, ConfigOptions, TrainingOptions, spelled_out
from handful.runs.run import Run
from handful.sklearn.inputs import Array, Input, affine, as_floats, checked, columns_of
from handful.training.objective import Objective
from handful.training.watch.history import History

Given = str | nn.Module | Callable[[int, int], nn.Module]
RandomState = int | np.random.RandomState | np.random.Generator | None
PASS = 32  # rows of a mini-batch of partial_fit, where that is left open
# What a pass over some rows decides by itself: it has no end to plan for, and nothing is held out.
_OF_A_RUN = {"valid", "until", "schedule", "batch", "ema", "preprocess", "optimizer", "lr", "l2"}


class MiniBatch(BaseEstimator):  # type: ignore[misc]
    """What both estimators share. The constructor only stores its parameters, as scikit-learn wants."""

    task: str
    model: Given
    valid: float | str | None
    random_state: RandomState
    warm_start: bool
    run_: Run
    model_: nn.Module
    mixed_: bool

    @spelled_out
    def __init__(
        self,
        model: Given = "table",
        *,
        random_state: RandomState = 0,
        warm_start: bool = False,
        verbose: bool = False,
        options: ConfigOptions | None = None,
        **given: Unpack[TrainingOptions],
    ) -> None:
        self._store(
            model=model, random_state=random_state, warm_start=warm_start, verbose=verbose, options=options, **given
        )

    def _store(self, **given: object) -> None:
        """Keep the parameters of the constructor under their names, with Config's defaults for the rest."""
        known = signature(type(self)).parameters
        for name in given:
            if name not in known:
                option = f"'{name}' is given as options={{'{name}': ...}}"
                raise TypeError(f"{type(self).__name__}: {option if name in OPTIONS else no_option(name, known)}")
        for name, parameter in known.items():
            setattr(self, name, given.get(name, parameter.default))

    def set_params(self, **params: object) -> Self:
        """Set parameters by name. Options of a model or optimizer that is given by name are `model__hidden=[64]`,
        `optimizer__momentum=0.9`, and so on: they are written behind the name, as in "mlp(hidden=[64])"."""
        nested = {name: value for name, value in params.items() if name.startswith(("model__", "optimizer__"))}
        super().set_params(**{name: value for name, value in params.items() if name not in nested})
        for name, value in nested.items():
            part, _, option = name.partition("__")
            text = getattr(self, part)
            if not isinstance(text, str):
                raise HandfulError(f"{name} needs a {part} that is given by name, not {type(text).__name__}")
            setattr(self, part, with_options(text, {option: value}))
        return self

    def _fit(self, x: Input, y: Array, outputs: int, sample_weight: ArrayLike | None, **more: object) -> Self:
        """Train on checked x and y, from new weights or, with warm_start, from those of the last fit."""
        self.seed_ = seed = _seed(self.random_state)
        self.passes_, net = 0, network(self, outputs, seed)
        columns = self._columns(self._rows_for(net, x), y, sample_weight)
        given = self._options() | {"seed": seed, "batch": self._batch(len(y)), **more}
        if self._goes_on:
            net, given["preprocess"] = self.model_, self.run_.pipeline
        self._train(net, columns, given)
        self.n_iter_ = max(1, int(self.run_.history.last("epoch") or 1))
        self.loss_curve_ = loss_curve(self.run_.history, self.n_iter_)
        return self

    @property
    def _goes_on(self) -> bool:
        """Whether a fit goes on from the last one."""
        return self.warm_start and hasattr(self, "run_")

    def _pass(self, x: Input, y: Array, outputs: int, sample_weight: ArrayLike | None, **more: object) -> Self:
        """One pass over checked x and y, from where the last fit or pass has come to: weights and optimizer."""
        given = {name: value for name, value in self._options().items() if name not in _OF_A_RUN}
        given |= {"valid": None, "schedule": "constant", "ema": None, **more}
        if not hasattr(self, "run_"):
            self._begin(x, y, outputs, given)
        x = self._rows_for(self.model_, x)
        state, n = self.run_.state, len(y)
        given["optimizer"] = self.optimizer if state is None else state.optimizer
        given["lr"] = self.lr if state is None else "auto"
        most = self.batch if isinstance(self.batch, int | np.integer) else n if self.batch == "full" else PASS
        steps = math.ceil(n / int(most))
        seed = np.random.SeedSequence([self.seed_, self.passes_]).generate_state(1)[0] >> 1
        given |= {"seed": int(seed), "batch": math.ceil(n / steps), "until": f"steps({steps})"}
        columns = self._columns(x, y, sample_weight)
        given["preprocess"] = self.run_.pipeline
        self._train(self.model_, columns, given)
        self.passes_ += 1
        self.loss_curve_ = [*self.loss_curve_, *loss_curve(self.run_.history, 1)]
        self.n_iter_ = len(self.loss_curve_)
        return self

    def _begin(self, x: Input, y: Array, outputs: int, given: Mapping[str, Any]) -> None:
        """A model that has seen no row, built for rows such as x: its target is taken as it is, and so are its inputs,
        unless preprocessing is asked for, which is then fitted on x."""
        if self.mixed_:
            raise HandfulError("partial_fit takes numbers alone until fit has learned what other columns hold")
        self.seed_, self.passes_, self.loss_curve_ = _seed(self.random_state), 0, list[float]()
        rows = np.arange(len(y) * math.ceil(2 * outputs / len(y))) % len(y)
        net = network(self, outputs, self.seed_)
        shown = self._rows_for(net, x)[rows]  # type: ignore[index]
        columns = {"x": shown, given["target"]: self._shape_of_target(len(rows), y)}
        preprocess = "none" if isinstance(self.preprocess, str) and self.preprocess == "auto" else self.preprocess
        own = {"preprocess": preprocess, "optimizer": self.optimizer, "lr": self.lr, "l2": self.l2, "seed": self.seed_}
        t = assemble(net, columns, {**given, **own, "class_weight": None}, measure=False)
        t.state.average = None
        self.run_ = Run(t.objective.model, t.plan, t.state, History([]), t.pipeline, t.objective, "")
        self.model_ = t.objective.model

    def _shape_of_target(self, rows: int, y: Array) -> Array:
        """Values of the target from which nothing is learned but what there is to predict."""
        raise NotImplementedError

    def _train(self, net: str | nn.Module, columns: dict[str, object], given: dict[str, Any]) -> None:
        given["weight"] = self._weight if self._weight in columns else None
        self.run_ = fit(net, columns, **given | dict(self.options or {}))
        self.model_ = self.run_.model

    def _options(self) -> dict[str, Any]:
        """The options of `fit` that the parameters are."""
        if HeldOut.of(self.valid) is None:
            raise HandfulError(
                "valid of an estimator is how many of its rows are held out: handful.fit takes other rows"
            )
        given = {name: value for name, value in self.get_params(deep=False).items() if name in OPTIONS}
        given |= {"target": self._target, "task": self._task, "quiet": not self.verbose, "deterministic": True}
        return given

    @property
    def _task(self) -> str:
        return self.task

    @property
    def _target(self) -> str:
        return self._beside("y")

    @property
    def _weight(self) -> str:
        return self._beside("sample_weight")

    def _beside(self, name: str) -> str:
        """What a column is called beside those of X."""
        known = set(getattr(self, "feature_names_in_", ()))
        return name if name not in known else f"handful_{name}"

    def _columns(self, x: Input, y: Array, sample_weight: ArrayLike | None) -> dict[str, object]:
        columns = columns_of(x, varying=not hasattr(self, "run_") or not self._goes_on) | {self._target: y}
        if sample_weight is not None:
            columns[self._weight] = _check_sample_weight(sample_weight, y, ensure_non_negative=True)
        return columns

    def _rows_for(self, net: str | nn.Module, x: Input) -> Input:
        """x as the network takes it: for a module of the caller's own that embeds nothing, whole numbers as floats."""
        embeds = isinstance(net, nn.Module) and any(
            isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in net.modules()
        )
        return x if embeds or isinstance(self.model, str) else as_floats(x)

    def _batch(self, n: int) -> int | str:
        """The batch asked for, or every training row where there are fewer: folds may be small."""
        if not isinstance(self.batch, int | np.integer) or isinstance(self.batch, bool):
            return self.batch
        held_out = (HeldOut.of(self.valid) or HeldOut(0)).share
        if isinstance(held_out, float | np.floating):
            held_out = min(n - 1, max(1, round(float(held_out) * n)))  # as handful.data.split counts
        return min(int(self.batch), max(1, n - int(held_out)))

    def _finite(self) -> str | bool:
        return "allow-nan" if self.__sklearn_tags__().input_tags.allow_nan else True

    def _checked_x(self, x: Input, y: ArrayLike | None, fresh: bool, least: int) -> Input:
        """x as scikit-learn checks it; HandfulError without y."""
        finite = self._finite() if least > 1 or not fresh else True
        x = checked(self, x, None if fresh else self.run_.pipeline.schema, finite=finite, least=least)
        if y is None:
            kind = "classifier" if self.task == "classification" else "regressor"
            raise HandfulError(f"a {kind} requires y to be passed, but the target y is None")
        return x

    def _outputs(self, x: Input) -> object:
        """The model's raw outputs [n, ...]."""
        check_is_fitted(self)
        x = checked(self, x, self.run_.pipeline.schema, finite=self._finite())
        return self.run_.outputs(columns_of(self._rows_for(self.model_, x)), whole=False)

    @property
    def coef_(self) -> NDArray[np.float64]:
        """Weights of a linear model in the units of X, in scikit-learn's shapes; AttributeError for other models."""
        return self._as_linear(*affine(self.run_, self.n_features_in_))[0]

    @property
    def intercept_(self) -> NDArray[np.float64]:
        """What a linear model gives where X is 0; AttributeError for other models."""
        return self._as_linear(*affine(self.run_, self.n_features_in_))[1]

    def _as_linear(self, weights: NDArray[np.float64], bias: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Weights and bias of the outputs as scikit-learn has them."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, object]:
        """What predictions and further passes need; scores stay behind, and the loss and the optimizer's state where
        they are the caller's own, which may not pickle."""
        state = dict(super().__getstate__())
        if "run_" in state:
            run, choices = state["run_"], state["run_"].plan.choices
            own = {name for name in ("loss", "optimizer") if not choices[name].reproducible}
            loss = _no_loss if "loss" in own else run.objective.loss
            bare = Objective(run.model, loss, device=run.objective.device, autocast=run.objective.autocast)
            bare.whole = run.objective.whole  # else an output of several parts would come back as it is
            kept = run.state if isinstance(self.optimizer, str) and run.state else None
            kept = kept and replace(kept, best=None)
            state["run_"] = replace(run, state=kept, folder=None, objective=bare, again=None)
        return state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        own = isinstance(self.model, nn.Module) or callable(self.model)
        tags.input_tags.allow_nan = not own and isinstance(self.preprocess, str) and self.preprocess == "auto"
        tags.input_tags.sparse = tags.input_tags.string = True
        tags.target_tags.multi_output = self.task == "regression"
        # a clock is read only where it is asked for
        timed = not (self.options or {}).get("deterministic", True) or "seconds" in str(self.until)
        tags.non_deterministic = self.random_state is None or timed
        return tags


def loss_curve(history: History, epochs: int) -> list[float]:
    """The mean training loss of each of the epochs, from what was logged in it."""
    logged = [(row["epoch"], row["train_loss"]) for row in history if "train_loss" in row]
    ends, losses = np.array(logged, dtype=np.float64).reshape(-1, 2).T
    seen = np.diff(ends, prepend=0.0)
    at = np.minimum(epochs - 1, (ends - seen / 2).astype(np.int64))
    sums = zip(np.bincount(at, losses * seen).tolist(), np.bincount(at, seen).tolist(), strict=True)
    return [loss / rows for loss, rows in sums if rows]


def network(estimator: MiniBatch, outputs: int, seed: int) -> str | nn.Module:
    """A name as it is; a copy of a module, so that every fit starts alike; or what a callable makes."""
    model = estimator.model
    if isinstance(model, str):
        return model
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    if not callable(model):
        raise HandfulError(
            f"model must be a name, an nn.Module or a callable (features, outputs), not {type(model).__name__}"
        )
    with seeded(seed):
        made = model(getattr(estimator, "n_features_in_", 1), outputs)
    if not isinstance(made, nn.Module):
        raise HandfulError(f"model={model!r} returned {type(made).__name__}, not an nn.Module")
    return made


def _seed(random_state: RandomState) -> int:
    """A whole number of whatever scikit-learn and NumPy take for one."""
    match random_state:
        case None:
            return secrets.randbits(31)
        case np.random.RandomState():
            return int(random_state.randint(2**31 - 1))
        case np.random.Generator():
            return int(random_state.integers(2**31 - 1))
    return int(random_state)


def _no_loss(output: object, target: object) -> Tensor:
    raise HandfulError("an estimator that was unpickled without its own loss predicts; it cannot go on training")
