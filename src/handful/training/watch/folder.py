"""The run folder: what a run leaves on disk, and a run loaded from it."""

import contextlib
import copy
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TextIO

from torch import Tensor, nn

from handful.base import files
from handful.base.errors import HandfulError, did_you_mean, shown
from handful.base.plan import Plan, Row
from handful.base.stopwatch import part
from handful.models.base import Model
from handful.training.process import checkpoint
from handful.training.state import State
from handful.training.watch.history import History
from handful.training.watch.saved import meta_of
from handful.training.watch.weights import Weights, copy_weights, under
from handful.transform.pipeline import Pipeline

LOCK = "run.lock"


class RunFolder:
    """What a run leaves on disk: plan, history, checkpoints, pipeline, the weights that were kept, report.

    Every file is checked before it is believed. What can be done without a damaged one is done; `notes` name it.
    """

    def __init__(self, path: Path) -> None:
        self.path = files.here(path).absolute()  # whoever changes the working directory meanwhile
        self.checkpoints = self.path / "checkpoints"
        self.made: list[Path] = []  # folders that `claim` made
        self.notes: list[str] = []
        self.held: TextIO | None = None
        self.cut = False  # whether the weights that were read last are a checkpoint's, written in training mode
        self.behind = False  # history.jsonl, after a write that failed

    def claim(self, *, overwrite: bool) -> None:
        """Make the folder for a new run and hold it. Refuses one that holds a run (unless told to) or other files. What
        it holds stays until the new run starts."""
        try:
            self.made = [p for p in (self.path, *self.path.parents) if not os.path.exists(p)]
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise HandfulError(f"{files.said(self.path)} is a file; a run needs a folder of its own") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", error)
            raise HandfulError(f"the run folder {files.said(self.path)} cannot be made: {why}") from None
        begun = (self.path / LOCK).exists()  # by a run that was killed before it had a plan
        if not begun and any(self.path.iterdir()) and not self.holds_run():
            raise HandfulError(f"{files.said(self.path)} holds other files; give the run a new folder with out=")
        self.hold()
        if self.holds_run() and not overwrite:
            contents, name = self.contents(), files.said(self.path)
            self.release()
            raise HandfulError(
                f"{name} already holds a run, {contents}: go on with it by handful resume {name}, or resume=True; "
                "choose another folder; or replace it by overwrite=True"
            )

    def hold(self) -> None:
        """Be the one process that writes here, until `release`."""
        self.held = files.hold(self.path / LOCK)
        with files.changing(self.path):
            for leftover in [*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")]:  # of a killed process
                leftover.unlink(missing_ok=True)

    def release(self) -> None:
        """Let others write here; leave no empty folder behind where a run could not begin."""
        if self.held is not None:
            if not self.holds_run() and len(list(self.path.glob("*"))) == 1:
                (self.path / LOCK).unlink(missing_ok=True)
            self.held.close()
            self.held = None
        for folder in self.made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def holds_run(self) -> bool:
        """Whether there is a run to go on with: the plan is written when all the rest is there."""
        return os.path.exists(self.path / "plan.toml")

    def contents(self) -> str:
        """What run the folder holds and how far it is, in words."""
        try:
            plan, result = self.plan(), self.result()
            run = f"of {plan.model} on {plan.data}"
            if result is not None:
                return f"{run}, which stopped because {result['stopped_because']}"
            return f"{run}, which was cut off after step {checkpoint.load(self.checkpoints)[1]['step']:,}"
        except HandfulError as error:
            return f"a damaged one ({error})"

    @part("saving")
    def start(
        self, plan: Plan, pipeline: Pipeline, model: nn.Module, state: State, tensors: Weights,
        beginning: tuple[Weights, Row] | None = None,
    ) -> None:  # fmt: skip
        """Write what does not change: plan, preprocessing, how to build the model, what stood before steps that were
        taken while measuring; and the state as it is. A run that is replaced goes."""
        with files.changing(self.path):
            (self.path / "plan.toml").unlink(missing_ok=True)  # first: what is left from here on is no run
            for old in self.path.iterdir():
                if old.is_dir() and not old.is_symlink():
                    shutil.rmtree(old)
                elif old.name != LOCK:
                    old.unlink()
        table, fitted = pipeline.to_dict()
        digest = checkpoint.write_tensors(self.path / "pipeline.safetensors", fitted)
        files.write_json(self.path / "pipeline.json", {"tensors": digest, "pipeline": table}, indent=1)
        ours = model.config if isinstance(model, Model) and plan.choices["model"].reproducible else {}
        files.write_json(self.path / "model.json", ours)
        self.rewrite_history(state.history)
        state.back = state.step
        if beginning is not None:
            checkpoint.write_start(self.checkpoints, *beginning)
        self.save_checkpoint(state, tensors)
        plan.save(self.path / "plan.toml")  # last: a folder that has a plan has the rest

    def _say(self, text: str) -> None:
        """Say, once, what is damaged and what is done without it."""
        if text not in self.notes:
            self.notes.append(text)
            print(f"handful: note: {shown(text)}", file=sys.stderr)

    def plan(self) -> Plan:
        """The plan of the run in this folder. HandfulError when it holds none."""
        if not self.path.is_dir():
            runs = {
                files.said(plan.parent.absolute())
                for parent in (self.path.parent, Path("runs"))
                for plan in parent.glob("*/plan.toml")
            }
            near = did_you_mean(files.said(self.path), runs) if runs else ""
            raise HandfulError(f"there is no run folder {files.said(self.path)}{near and '.'}{near}")
        return Plan.load(self.path / "plan.toml")

    def pipeline(self) -> Pipeline:
        table = files.read_json(self.path / "pipeline.json", "tensors", "pipeline")
        tensors = checkpoint.read_tensors(self.path / "pipeline.safetensors", table["tensors"])
        return Pipeline.from_dict(table["pipeline"], tensors)

    def unit(self) -> str:
        """Of the numbers of the target (see `Pipeline.unit`); "" where that cannot be read."""
        with contextlib.suppress(HandfulError):
            return self.pipeline().unit
        return ""

    def model_config(self) -> Row:
        """How to build the ready-made model again; empty for the caller's own."""
        return files.read_json(self.path / "model.json")

    def result(self) -> Row | None:
        """How the run ended; None for one that has not, or where that is damaged: what was saved last stands for it."""
        path = self.path / "result.json"
        if not path.exists():
            return None
        try:
            return files.read_json(path, "stopped_because", "best", "weights", "history")
        except HandfulError as error:
            self._say(f"{error}; what was saved last stands for it")
            return None

    def kept_weights(self) -> tuple[dict[str, Tensor], Row | None, str]:
        """(weights, row of the history, why it stopped) of the best evaluation of a run that ended, or of the newest
        checkpoint of one that was cut off, which has the same weights where the run has ended."""
        result = self.result()
        if result is not None:
            try:
                weights = checkpoint.read_tensors(self.path / "model.safetensors", result["weights"])
                return weights, result["best"], result["stopped_because"]
            except HandfulError as error:
                self._say(f"{error}; the weights of the newest checkpoint are taken")
        tensors, meta, notes = checkpoint.load(self.checkpoints)
        self.cut = True
        for note in notes:
            self._say(note)
        why = f"it was cut off after step {meta['step']:,}; handful resume goes on with it"
        for prefix in ("best.", "average.", "evaluated.", "model."):
            if weights := under(prefix, tensors):
                return weights, meta["best"], result["stopped_because"] if result else why
        raise HandfulError(f"the checkpoint in {files.said(self.path)} holds no weights")

    def append_history(self, row: Row) -> None:
        """Add a row to history.jsonl; a full disk does not stop a run, and the next checkpoint writes all rows."""
        if not self.behind:
            try:
                with open(files.a_file(self.path / "history.jsonl"), "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError:
                self.behind = True

    def history(self) -> History:
        """The logged moments: of history.jsonl if it is as it was written at the end, else of the newest checkpoint."""
        path, result = self.path / "history.jsonl", self.result()
        if result is not None:
            with contextlib.suppress(OSError):
                if files.sha256(path) == result["history"]:
                    return History(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
            self._say(f"{path} is damaged; the rows of the newest checkpoint are taken")
        try:
            return History(checkpoint.load(self.checkpoints)[1]["history"])
        except HandfulError as error:
            self._say(f"there is no history: {error}")
            return History()

    def so_far(self) -> tuple[History, Row, str]:
        """(history, scores, why it stopped) as they are now, while another process may be writing: the scores of the
        last look, or, of a run that has ended, of the best; "" for one that has not."""
        rows, result = History(), self.result()
        with contextlib.suppress(OSError, ValueError):  # the last line may be half written
            for line in files.a_file(self.path / "history.jsonl").read_text(encoding="utf-8").splitlines():
                rows.append(json.loads(line))
        looks = [row for row in rows if "valid_loss" in row]
        best = (result and result["best"]) or (looks or rows or [{}])[-1]
        prefix = "valid_" if looks else "train_"
        return (
            rows,
            {k: v for k, v in best.items() if k.startswith(prefix)},
            result["stopped_because"] if result else "",
        )

    def rewrite_history(self, rows: list[Row]) -> None:
        files.write_text(self.path / "history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        self.behind = False

    def save_checkpoint(self, state: State, tensors: Weights) -> None:
        """Write the state durably. tensors: of the state, whole."""
        if self.behind:
            self.rewrite_history(state.history)
        keep = {state.back, *state.went_back}
        checkpoint.save(self.checkpoints, state.step, tensors, meta_of(state), keep)

    def checkpoint(self, step: int) -> tuple[dict[str, Tensor], Row]:
        """(tensors, meta) of the checkpoint of a step. HandfulError where it is not whole."""
        return checkpoint.read(self.checkpoints / f"{step:012d}.json")

    def save_plan(self, plan: Plan) -> None:
        """Write the plan again, with what was noted on the way; where that fails, the end of the run says so."""
        with contextlib.suppress(HandfulError):
            plan.save(self.path / "plan.toml")

    def finish(self, model: nn.Module, stopped_because: str, best: Row | None, history: list[Row]) -> None:
        """Write the weights that were kept, and why the run ended."""
        weights = checkpoint.write_tensors(self.path / "model.safetensors", copy_weights(model, clone=False))
        self.rewrite_history(history)
        digest = files.sha256(self.path / "history.jsonl")
        files.write_json(
            self.path / "result.json",
            {"stopped_because": stopped_because, "best": best, "weights": weights, "history": digest},
        )

    def go_on(self, plan: Plan, history: list[Row]) -> None:
        """Write down that the run goes on, by this plan and from this history: it has not ended any more."""
        with files.changing(self.path):
            (self.path / "result.json").unlink(missing_ok=True)
        self.rewrite_history(history)
        plan.save(self.path / "plan.toml")


class Held:
    """The newest checkpoint of a run that has no folder, in memory."""

    def save_checkpoint(self, state: State, tensors: Weights) -> None:
        """Keep the state as it is, in place of what was kept before."""
        self.kept = {k: v.detach().clone() for k, v in tensors.items()}, copy.deepcopy(meta_of(state))

    def checkpoint(self, step: int) -> tuple[Weights, Row]:
        """What was kept last: (tensors, meta)."""
        return {k: v.clone() for k, v in self.kept[0].items()}, copy.deepcopy(self.kept[1])
