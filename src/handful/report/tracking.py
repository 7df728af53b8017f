"""Callbacks, and those that send a run's history to TensorBoard, MLflow or Weights & Biases, or prune it by Optuna:

    fit(..., callbacks=[handful.callback.TensorBoard("runs/board")])        pip install 'handful[track]'

A callback is any callable f(event, info); info is a dict:

    "start"       once, before the first step: {"plan": the run's Plan, "training": all its parts}
    "step"        after each: a row of the history where one is logged, else {"step", "position"}
    "evaluate"    after held-out rows were scored, before the first step too: a row of the history, valid_loss, ...
    "checkpoint"  after one was written: {"step", "position"}
    "end"         once, however the run ends, to all that were told of the start: {"run": the Run, or None where an
                  exception ends it, "status": "finished", "interrupted" or "failed"}, and then "error": the exception

What it returns is nothing, or, from "step" and "evaluate", a text: a reason to stop, which becomes the run's
`stopped_because`. One with `state_dict()`, a dict that JSON holds, and `load_state_dict(state)` has its state saved in
each checkpoint and given back on resume, and where a run goes back. An exception in one ends the run, as failed; the
others are told. With several ranks each has its own callbacks, and none may stop the run.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from handful.base.errors import HandfulError, some
from handful.base.plan import Plan
from handful.report.words import as_float, is_number, say_value_of

__all__ = ["MLflow", "Pruning", "TensorBoard", "WandB"]

_PROGRESS = {"position", "step", "epoch", "seconds"}
Info = Mapping[str, object]


def _missing(library: str) -> HandfulError:
    return HandfulError(f"{library} is not installed: pip install 'handful[track]'")


def _scalars(row: Info) -> Iterator[tuple[str, float]]:
    return ((name, as_float(v)) for name, v in row.items() if name not in _PROGRESS and is_number(v))


def _position(row: Info) -> int | None:
    """Examples consumed, the horizontal axis of everything."""
    return int(as_float(row["position"])) if is_number(row.get("position")) else None


def _choices(info: Info) -> dict[str, str]:
    """The choices of the plan in the info of "start" as text, by name."""
    plan = info.get("plan")
    choices = plan.choices if isinstance(plan, Plan) else {}
    return {name: say_value_of(choice.value) for name, choice in choices.items()}


def _ended(info: Info) -> str:
    """How the run ended, from the info of "end"."""
    why = info.get("error") or getattr(info.get("run"), "stopped_because", "")
    return f"{info.get('status', 'finished')}: {why}"


class TensorBoard:
    """Write every number of the history to TensorBoard's event files in `folder`.

    The horizontal axis counts examples, so that runs with different batches compare; `train_loss` is shown as
    `loss/train`, `valid_loss` as `loss/valid`. Raises HandfulError when tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as problem:
            raise _missing("TensorBoard") from problem
        self._folder, self._make = str(Path(folder)), SummaryWriter
        self._writer: SummaryWriter | None = None

    def __call__(self, event: str, info: Info) -> None:
        # opened at the first event: a run that never starts leaves no files
        writer = self._writer = self._writer or self._make(self._folder)
        if event == "start" and (choices := _choices(info)):
            lines = [f"| {k} | {v} |".replace("\n", " ") for k, v in choices.items()]
            writer.add_text("choices", "\n".join(["| choice | value |", "|---|---|", *lines]))
        elif event in ("step", "evaluate"):
            for name, value in _scalars(info):
                which, _, metric = name.partition("_")
                tag = f"{metric}/{which}" if metric and which in ("train", "valid", "test") else name
                writer.add_scalar(tag, value, _position(info))
        elif event == "checkpoint":
            writer.flush()
        elif event == "end":
            writer.add_text("ended", _ended(info))
            writer.close()
            self._writer = None


class MLflow:
    """Log the choices as parameters and every number of the history as metrics of one MLflow run, which a run that is
    resumed goes on with; at the end it is FINISHED, KILLED (interrupted) or FAILED.

    uri: of the tracking server or folder, MLflow's own default when None; experiment, name: of the run. The
    step of a metric counts examples. Raises HandfulError when mlflow is not installed.
    """

    def __init__(self, uri: str | None = None, *, experiment: str | None = None, name: str | None = None) -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as problem:
            raise _missing("MLflow") from problem
        # A client, not mlflow's global active run: two runs in one process do not mix.
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment, self._name = experiment, name
        self._run: str | None = None

    def __call__(self, event: str, info: Info) -> None:
        if event == "start" and self._run is not None:
            self._client.update_run(self._run, status="RUNNING")
        elif event == "start":
            self._run = str(self._client.create_run(self._experiment_id(), run_name=self._name).info.run_id)
            for name, text in _choices(info).items():
                self._client.log_param(self._run, name, text[:500])  # MLflow's oldest limit on a value
        elif event in ("step", "evaluate"):
            for name, value in _scalars(info):
                self._client.log_metric(self._run, name, value, step=_position(info))
        elif event == "end":
            self._client.set_tag(self._run, "ended", _ended(info))
            status = {"failed": "FAILED", "interrupted": "KILLED"}.get(str(info.get("status")), "FINISHED")
            self._client.set_terminated(self._run, status)
            self._run = None

    def state_dict(self) -> dict[str, object]:
        return {"run": self._run}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._run = state["run"]

    def _experiment_id(self) -> str:
        if self._experiment is None:
            return "0"
        found = self._client.get_experiment_by_name(self._experiment)
        return str(found.experiment_id if found else self._client.create_experiment(self._experiment))


class WandB:
    """Log the choices as config and every number of the history to one run of Weights & Biases, which a run that is
    resumed goes on with; a run that fails has the exit code 1 there.

    project, name: of the run there; folder: for its files, ./wandb by default; options: of wandb.init, such as
    mode="offline". The horizontal axis is the column `position`, examples. Raises HandfulError when wandb is not
    installed.
    """

    def __init__(
        self, project: str, *, name: str | None = None, folder: str | os.PathLike[str] | None = None, **options: object
    ) -> None:
        try:
            import wandb
        except ImportError as problem:
            raise _missing("Weights & Biases") from problem
        where = None if folder is None else str(folder)
        self._init, self._options = wandb.init, {"project": project, "name": name, "dir": where, **options}
        self._id: str | None = None

    def __call__(self, event: str, info: Info) -> None:
        if event == "start":
            again = {} if self._id is None else {"id": self._id, "resume": "allow"}
            self._run = self._init(config=_choices(info), reinit="create_new", **again, **self._options)
            self._run.define_metric("*", step_metric="position")
            self._id = str(self._run.id)
        elif event in ("step", "evaluate") and (numbers := dict(_scalars(info))):
            self._run.log(numbers | {"position": _position(info)})
        elif event == "end":
            self._run.summary["ended"] = _ended(info)
            self._run.finish(exit_code=int(info.get("status") == "failed"))
            self._id = None

    def state_dict(self) -> dict[str, object]:
        return {"id": self._id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._id = state["id"]


class Pruning:
    """Report a score of each evaluation to an Optuna trial; where Optuna prunes it, the run stops, is written down, and
    `optuna.TrialPruned` is raised, which a study expects of its objective.

    trial: `optuna.Trial`; score: of the history's rows with held-out scores. Raises HandfulError when optuna is not
    installed.
    """

    def __init__(self, trial: Any, score: str = "valid_loss") -> None:
        try:
            from optuna import TrialPruned
        except ImportError as problem:
            raise _missing("Optuna") from problem
        self._trial, self._score, self._error = trial, score, TrialPruned
        self._why: str | None = None

    def __call__(self, event: str, info: Info) -> str | None:
        if event == "evaluate":
            if self._score not in info:
                found = [name for name, _ in _scalars(info) if name.startswith("valid_")]
                raise HandfulError(f"the run has no {self._score} to prune by; it has {some(found, 9)}")
            self._trial.report(as_float(info[self._score]), _position(info))
            if self._trial.should_prune():
                self._why = f"Optuna pruned the trial: {self._score} {as_float(info[self._score]):.4g}"
            return self._why
        if event == "end" and self._why is not None:
            raise self._error(self._why)
        return None
