"""Callbacks that send a run's history to TensorBoard or MLflow: `pip install handful[track]`.

A callback is any callable `f(event, info)`, with event one of "start", "step", "evaluate", "checkpoint",
"end" and info a dict: a history row for "step" and "evaluate", {"plan": the run's Plan} for "start".
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from handful.base.errors import HandfulError
from handful.base.plan import Plan
from handful.report.words import as_float, is_number, say_value_of

if TYPE_CHECKING:
    pass

_PROGRESS = {"position", "step", "epoch", "seconds"}
Info = Mapping[str, object]


def _missing(library: str) -> HandfulError:
    return HandfulError(f"{library} is not installed: pip install handful[track]")


def _scalars(row: Info) -> Iterator[tuple[str, float]]:
    """The numbers of a history row other than those that say where the run is."""
    return ((name, as_float(v)) for name, v in row.items() if name not in _PROGRESS and is_number(v))


def _position(row: Info) -> int | None:
    """Examples consumed, the horizontal axis of everything."""
    return int(as_float(row["position"])) if is_number(row.get("position")) else None


def _choices(info: Info) -> dict[str, str]:
    """The choices of the plan in the info of "start" as text, by name."""
    plan = info.get("plan")
    choices = plan.choices if isinstance(plan, Plan) else {}
    return {name: say_value_of(choice.value) for name, choice in choices.items()}


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
            writer.close()
            self._writer = None


class MLflow:
    """Log the choices as parameters and every number of the history as metrics of one MLflow run.

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
        if self._run is None:
            created = self._client.create_run(self._experiment_id(), run_name=self._name)
            self._run = str(created.info.run_id)
        if event == "start":
            for name, text in _choices(info).items():
                self._client.log_param(self._run, name, text[:500])  # MLflow's oldest limit on a value
        elif event in ("step", "evaluate"):
            for name, value in _scalars(info):
                self._client.log_metric(self._run, name, value, step=_position(info))
        elif event == "end":
            self._client.set_terminated(self._run)
            self._run = None

    def _experiment_id(self) -> str:
        if self._experiment is None:
            return "0"
        found = self._client.get_experiment_by_name(self._experiment)
        return str(found.experiment_id if found else self._client.create_experiment(self._experiment))
