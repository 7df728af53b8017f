"""The run folder: what a run leaves on disk, and a run loaded from it."""

import contextlib
import json
import shutil
from pathlib import Path

from torch import nn

from handful.base import files
from handful.base.errors import HandfulError
from handful.base.plan import Plan
from handful.models.base import Model
from handful.runs.history import History, Row
from handful.training.process import checkpoint
from handful.training.state import State
from handful.transform.pipeline import Pipeline


class RunFolder:
    """What a run leaves on disk: plan, history, checkpoints, pipeline, the weights that were kept, report."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.made: list[Path] = []  # folders that `claim` made

    def claim(self, *, overwrite: bool) -> None:
        """Make the folder for a new run. Refuses one that holds a run (unless told to) or other files. What it holds
        stays until the new run starts."""
        if self.path.exists() and not self.path.is_dir():
            raise HandfulError(f"{self.path} is a file; a run needs a folder of its own")
        if self.path.is_dir() and any(self.path.iterdir()):
            if not (self.path / "plan.toml").exists():
                raise HandfulError(f"{self.path} holds other files; give the run a new folder with out=")
            if not overwrite:
                raise HandfulError(
                    f"{self.path} already holds a run; resume it, choose another folder, or pass overwrite"
                )
        try:
            self.made = [p for p in (self.path, *self.path.parents) if not p.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HandfulError(f"the run folder {self.path} cannot be made: {error.strerror}") from None

    def release(self) -> None:
        """Leave no empty folder behind where a run could not begin."""
        for folder in self.made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def start(self, plan: Plan, pipeline: Pipeline, model: nn.Module) -> None:
        """Write what does not change: plan, preprocessing, and how to build the model. A run that is replaced goes."""
        if any(self.path.iterdir()):
            shutil.rmtree(self.path)
            self.path.mkdir()
        table, tensors = pipeline.to_dict()
        checkpoint.write_tensors(self.path / "pipeline.safetensors", tensors)
        files.write_text(self.path / "pipeline.json", json.dumps(table, indent=1))
        ours = isinstance(model, Model) and plan.choices["model"].reproducible
        files.write_text(self.path / "model.json", json.dumps(model.config if ours else {}))
        plan.save(self.path / "plan.toml")  # last: a folder that has a plan has the rest

    def plan(self) -> Plan:
        """The plan of the run in this folder. HandfulError when it holds none."""
        if not self.path.is_dir():
            raise HandfulError(f"there is no run folder {self.path}")
        return Plan.load(self.path / "plan.toml")

    def pipeline(self) -> Pipeline:
        """The fitted preprocessing."""
        return Pipeline.from_dict(
            self.read_json("pipeline.json"), checkpoint.read_tensors(self.path / "pipeline.safetensors")
        )

    def model_config(self) -> Row:
        """How to build the ready-made model again; empty for the caller's own."""
        return self.read_json("model.json")

    def read_json(self, name: str) -> Row:
        try:
            table = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise HandfulError(f"{self.path / name} cannot be read: {error}") from None
        if not isinstance(table, dict):
            raise HandfulError(f"{self.path / name} is not what handful wrote")
        return table

    def append_history(self, row: Row) -> None:
        """Add a row to history.jsonl; a full disk does not stop a run."""
        # The next checkpoint reports it; the history in memory is whole.
        with contextlib.suppress(OSError), open(self.path / "history.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def history(self) -> History:
        """The rows of history.jsonl; a last line cut short by a kill is left out."""
        rows = History()
        path = self.path / "history.jsonl"
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    break
        return rows

    def rewrite_history(self, rows: list[Row]) -> None:
        """Replace history.jsonl, atomically."""
        files.write_text(self.path / "history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def save_checkpoint(self, state: State) -> None:
        """Write the state durably."""
        self.rewrite_history(state.history)
        checkpoint.save(self.checkpoints, state.step, state.tensors(), state.meta())

    def finish(self, model: nn.Module, stopped_because: str, best: Row | None) -> None:
        """Write the weights that were kept, and why the run ended."""
        checkpoint.write_tensors(self.path / "model.safetensors", dict(model.state_dict()))
        files.write_text(self.path / "result.json", json.dumps({"stopped_because": stopped_because, "best": best}))
