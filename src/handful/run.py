"""A run that ended, or one loaded from its folder: predict, evaluate, report, export."""

import contextlib
import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import handful.source as sources
from handful import checkpoint, choose, ctc
from handful.batches import Batches
from handful.errors import HandfulError
from handful.objective import Objective
from handful.order import Order
from handful.plan import Plan
from handful.raw import open_raw
from handful.report.markup import Html, escape
from handful.source.base import Batch, Source
from handful.state import State, load_weights
from handful.transform.preprocess import Pipeline


class History(list[dict[str, Any]]):
    """The table of logged moments: a list of rows; `history["valid_loss"]` is a column (None where absent)."""

    def __getitem__(self, key: Any) -> Any:
        return [row.get(key) for row in self] if isinstance(key, str) else super().__getitem__(key)

    @property
    def columns(self) -> list[str]:
        """All names that occur, in order of first appearance."""
        return list(dict.fromkeys(name for row in self for name in row))

    def to_pandas(self) -> Any:
        """A pandas DataFrame."""
        import pandas

        return pandas.DataFrame(list(self))

    def last(self, name: str) -> Any:
        """The newest value of a column, or None."""
        return next((row[name] for row in reversed(self) if name in row), None)


@dataclass
class Run:
    """A trained model and everything there is to know about how it came to be.

    model:    with its best weights, in evaluation mode
    history:  one row a logged moment
    best:     the row of the history of the best evaluation, or None if nothing was held out
    """

    model: nn.Module
    plan: Plan
    state: State | None
    history: History
    pipeline: Pipeline
    objective: Objective
    stopped_because: str
    best: dict[str, Any] | None = None
    folder: "RunFolder | None" = None

    @property
    def path(self) -> Path | None:
        """The run folder, if the run has one."""
        return self.folder.path if self.folder else None

    @property
    def scores(self) -> dict[str, float]:
        """The scores of the weights that were kept: valid_* of the best evaluation, else the last train_*."""
        row = self.best or (self.history[-1] if self.history else {})
        prefix = "valid_" if self.best else "train_"
        return {k: v for k, v in row.items() if k.startswith(prefix)}

    def outputs(self, data: Any, *, batch: int = 512) -> Tensor:
        """The model's raw outputs for every row, float32 [n, ...], in order.

        For sequences, rows of fewer frames go on with blanks.
        """
        parts = [o for _, o in self.stream(data, batch=batch)]
        return ctc.join(parts) if self.pipeline.task == "sequence" else torch.cat(parts)

    def stream(self, data: Any, *, batch: int = 512) -> Iterator[tuple[Batch, Tensor]]:
        """(batch, outputs) for every row once, in order, in bounded memory."""
        batches = self.open(data, need_target=False)
        self.model.eval()
        with torch.inference_mode():
            for read in batches.epoch(batch):
                moved = self.objective.to_device(read)
                yield read, ctc.only_valid(self.objective.forward(moved)).float().cpu()

    def predict(self, data: Any, *, probabilities: bool = False, beams: int = 1) -> Any:
        """Predictions for raw input (anything `handful.open` reads, with or without the target; a sentence, a list of
        texts, the path of one picture or sound: see `handful.raw.open_raw`), in the target's own terms: class names or
        ids, or numbers in the target's units; texts or arrays of labels for sequences. Array [n] or [n, k].

        probabilities: for a classification, [n, classes] instead. beams: above 1, sequences are decoded by CTC's prefix
        search (slower, somewhat better) instead of its best path.
        """
        outputs = self.outputs(data)
        return self.pipeline.probabilities(outputs) if probabilities else self.pipeline.decode(outputs, beams)

    def evaluate(self, data: Any, metrics: Any = None) -> dict[str, float]:
        """Loss and metrics over all rows of the data, each row once: {"loss": ..., "accuracy": ...}."""
        return self.scorer(metrics).evaluate(self.open(data).epoch(512))

    def evaluation_report(self, data: Any, path: str | Path | None = None, metrics: Any = None) -> Path:
        """Evaluate, and write the page that shows it in detail: scores, classes or residuals, the worst rows.

        path: `evaluation.html` in the run folder, or here, by default. Returns it.
        """
        from handful.report.evaluation import evaluate

        where = Path(path) if path is not None else (self.path or Path()) / "evaluation.html"
        return evaluate(self, data, metrics).write(where, f"{self.plan.model}: evaluation")

    def scorer(self, metrics: Any = None) -> Objective:
        """The run's loss with other metrics (names, callables), or with its own."""
        if metrics is None:
            return self.objective
        from handful.metric import as_metrics

        other = copy.copy(self.objective)
        other.metrics = as_metrics(metrics, self.pipeline.space)
        return other

    def sample(
        self, prompt: str = "\n", length: int = 300, temperature: float = 0.8, *, top: int | None = None, seed: int = 0
    ) -> str:
        """Text with which a language model goes on from the prompt; see `handful.generate.sample`."""
        from handful.generate import sample

        return sample(self, prompt, length, temperature, top=top, seed=seed)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the page that shows the run: what was chosen and why, curves, scores. Returns its path."""
        from handful.report import extras
        from handful.report.page import write_report

        figures, pictures = extras.read(self.path)
        where = (
            Path(path)
            if path is not None
            else (self.folder.path / "report.html" if self.folder else Path("report.html"))
        )
        return write_report(
            where, title=f"{self.plan.model} on {self.plan.data}", plan=self.plan.choices, history=list(self.history),
            scores=self.scores, stopped_because=self.stopped_because, notes=list(self.plan.notes),
            figures=figures, pictures=pictures, tables=self._samples(),
        )  # fmt: skip

    def _samples(self) -> list[Html]:
        """What a language model writes, for the page."""
        if self.pipeline.task != "language" or self.pipeline.tokenizer is None:
            return []
        title = "<h3>What the model writes (temperature 0.8)</h3>"
        return [Html(f"{title}<pre>{escape(self.sample())}</pre>")]

    def export(self, path: str | Path) -> Path:
        """Write the trained model for use elsewhere: `.safetensors` (the weights) or `.pt2` (a torch.export program
        that takes a batch of any size of preprocessed input x)."""
        where = Path(path)
        if where.suffix == ".safetensors":
            checkpoint.write_tensors(where, dict(self.model.state_dict()))
        elif where.suffix == ".pt2":
            self._export_program(where)
        else:
            raise HandfulError(f"{where.name}: export writes .safetensors (weights) or .pt2 (a torch.export program)")
        return where

    def _export_program(self, where: Path) -> None:
        shape = self.pipeline.shape
        if any(s is None for s in shape) or self.pipeline.inputs.kind == "table":
            raise HandfulError("a .pt2 program needs one input of fixed shape; export .safetensors instead")
        example = torch.zeros(2, *[int(s) for s in shape if s is not None]).to(
            self.objective.device, self.objective.dtype
        )
        program = torch.export.export(self.model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        with checkpoint.atomic(where) as temporary, open(temporary, "wb") as file:
            torch.export.save(program, file)

    def open(self, data: Any, *, need_target: bool = True) -> Batches:
        """Every row of raw data in order, read and preprocessed as the run's own; checked to hold what it needs."""
        if self.pipeline.task == "language" and not need_target:
            raise HandfulError("a language model goes on with a text: use sample")
        if self.pipeline.tokenizer is not None:
            source: Source = self.pipeline.windows(sources.open(data))
            return Batches(source, Order(len(source), shuffle="none"), [self.pipeline.on(source, target=True)])
        target = self.plan.choices["target"].value if "target" in self.plan.choices else None
        if need_target:
            columns = None if isinstance(data, Source) else self.pipeline.trained_on
            source = sources.open(data, target=target, columns=columns)
        else:
            source = open_raw(data, self.pipeline.schema)
        if need_target and source.target is None:
            raise HandfulError(
                f"{source.name} has no target column '{target}', so there is nothing to compare with; use predict"
            )
        return Batches(source, Order(len(source), shuffle="none"), [self.pipeline.on(source, target=need_target)])


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
        checkpoint.write_text(self.path / "pipeline.json", json.dumps(table, indent=1))
        config = getattr(model, "config", None) if str(plan.model).startswith(choose.OWN) is False else None
        checkpoint.write_text(self.path / "model.json", json.dumps(config if isinstance(config, dict) else {}))
        plan.save(self.path / "plan.toml")  # last: a folder that has a plan has the rest

    def plan(self) -> Plan:
        """The plan of the run in this folder. HandfulError when it holds none."""
        if not self.path.is_dir():
            raise HandfulError(f"there is no run folder {self.path}")
        return Plan.load(self.path / "plan.toml")

    def pipeline(self) -> Pipeline:
        """The fitted preprocessing."""
        return Pipeline.from_dict(
            self._json("pipeline.json"), checkpoint.read_tensors(self.path / "pipeline.safetensors")
        )

    def model_config(self) -> dict[str, Any]:
        """How to build the ready-made model again; empty for the caller's own."""
        return self._json("model.json")

    def _json(self, name: str) -> dict[str, Any]:
        try:
            table = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise HandfulError(f"{self.path / name} cannot be read: {error}") from None
        if not isinstance(table, dict):
            raise HandfulError(f"{self.path / name} is not what handful wrote")
        return table

    def append_history(self, row: dict[str, Any]) -> None:
        """Add a row to history.jsonl; a full disk does not stop a run."""
        try:
            with open(self.path / "history.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError:
            pass  # the next checkpoint says so; the history in memory is whole

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

    def rewrite_history(self, rows: list[dict[str, Any]]) -> None:
        """Replace history.jsonl, atomically."""
        checkpoint.write_text(self.path / "history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def save_checkpoint(self, state: State) -> None:
        """Write the state durably."""
        self.rewrite_history(state.history)
        checkpoint.save(self.checkpoints, state.step, state.tensors(), state.meta())

    def finish(self, run: Run) -> None:
        """Write the weights that were kept, why the run ended, and the page."""
        checkpoint.write_tensors(self.path / "model.safetensors", dict(run.model.state_dict()))
        checkpoint.write_text(
            self.path / "result.json", json.dumps({"stopped_because": run.stopped_because, "best": run.best})
        )
        run.report()


def load(path: str | Path, *, model: nn.Module | None = None, loss: Any = None, device: str = "auto") -> Run:
    """The run in a folder, for predict, evaluate, report and export; needs no training data.

    model: an instance of the caller's own module, when that was what the run trained; loss: the caller's own loss
    likewise, without which the loss of an evaluation is not a number.
    """
    folder = RunFolder(Path(path))
    plan, pipeline, config = folder.plan(), folder.pipeline(), folder.model_config()
    if model is None:
        if not config:
            raise HandfulError(f"this run trained {plan.model}; pass an instance: handful.load(path, model=...)")
        from handful.model import from_config

        model = from_config(config)
    weights, best, why = _kept_weights(folder)
    load_weights(model, weights)
    where = choose.device(device).value
    model.to(where).eval()
    from handful.loss import as_loss, unknown
    from handful.metric import as_metrics

    def plain(name: str, instead: str) -> str:
        value = str(plan.choices[name].value or "")
        return instead if value.startswith(choose.OWN) else value

    text = plain("loss", "")
    function = as_loss(loss)[0] if loss is not None else choose.planned_loss(plan.choices, text) if text else unknown
    objective = Objective(
        model,
        function,
        as_metrics(plain("metrics", ""), pipeline.space),
        device=where,
        autocast=choose.autocast(plan.precision),
        scale=pipeline.target_scale,
    )
    return Run(model, plan, None, folder.history(), pipeline, objective, why, best, folder)


def _kept_weights(folder: RunFolder) -> tuple[dict[str, Tensor], dict[str, Any] | None, str]:
    """The best weights of a finished run, or those of the newest checkpoint of one that was cut off."""
    if (folder.path / "result.json").exists():
        result = folder._json("result.json")
        return (
            checkpoint.read_tensors(folder.path / "model.safetensors"),
            result["best"],
            result["stopped_because"],
        )
    tensors, meta, _ = checkpoint.load(folder.checkpoints)
    for prefix in ("best.", "average.", "model."):
        weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if weights:
            return (
                weights,
                meta["best"],
                f"it was cut off after step {meta['step']:,}; handful resume goes on with it",
            )
    raise HandfulError(f"the checkpoint in {folder.path} holds no weights")


__all__ = ["History", "Run", "RunFolder", "load"]
