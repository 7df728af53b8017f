"""Loss and metrics over all rows of some data, each row once."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from handful.base.errors import MISTAKES, HandfulError, brief
from handful.base.keys import drawing, dropout_seeder, key
from handful.batches.batches import Batches
from handful.data.base import Batch
from handful.losses import ctc
from handful.losses.metric import Metric, SumMetric
from handful.losses.outputs import mapped, put_back, tensors_in
from handful.models.base import Model, sixteens
from handful.optim.parts import averages_itself, switch
from handful.training.objective import Objective
from handful.training.process.parallel import ALONE, Ranks
from handful.training.special.adapters import Seen, counted
from handful.training.special.coupling import rows as rows_of
from handful.training.special.coupling import training_mode
from handful.training.state import State
from handful.training.watch.guards import ONE_ROW, OutOfMemory, is_out_of_memory
from handful.training.watch.weights import Weights, copy_weights, load_weights


def outputs(objective: Objective, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Batch, Any]]:
    """(batch, the same on the model's device, the model's output for it); where memory runs out, in parts of half as
    many rows, from there on and later, too: see `Objective.at_once`."""
    for read in batches:
        start, rows = 0, len(read)
        while start < rows:
            size = min(objective.at_once or rows, rows - start)
            part = read if size == rows else rows_of(read, slice(start, start + size))
            try:
                batch = objective.to_device(part)
                output = infer(objective, batch)
            except HandfulError:
                raise
            except (*MISTAKES, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise _failed(objective, part, error) from error
                if size == 1:
                    raise OutOfMemory(ONE_ROW) from None
                objective.at_once = (size + 1) // 2
                continue
            yield part, batch, output
            start += size


def _failed(objective: Objective, part: Batch, error: BaseException) -> HandfulError:
    """That a model fails, with the rows that it was asked for."""
    which = "row {:,}" if len(part) == 1 else "one of rows {:,} to {:,}"
    rows = which.format(*part.rows[[0, -1]].tolist())
    said = f"the model ({type(objective.model).__name__}) fails on {rows}, counted from 0 ({shapes(part.columns)})"
    return HandfulError(f"{said}: {brief(error)}")


def shapes(values: Mapping[str, object]) -> str:
    """What a batch holds, as messages have it: its columns' dtypes and shapes."""
    return ", ".join(
        f"{k}: {str(v.dtype).removeprefix('torch.')} {list(v.shape)}"
        if torch.is_tensor(v)
        else f"{k}: {type(v).__name__}"
        for k, v in values.items()
    )


def outputs_of_all(objective: Objective, batches: Batches, size: int, ranks: Ranks) -> Iterator[tuple[Batch, Any]]:
    """(batch, output on the CPU) for all rows in order, on every rank: batches of `size` rows are dealt out, and what
    each rank makes of its own is told to all. Of a batch of several ranks no more is there than which rows it has."""
    mine = batches.epoch(size, ranks.share, dealt=True)
    for _ in range(0, len(batches.source), size * ranks.size):
        read = next(mine, None)
        found = outputs(
            objective, [batches.at(0, 1) if read is None else read]
        )  # or a row, to see what outputs are like
        parts = [(part, mapped(ctc.only_valid(output), _kept)) for part, _, output in found]
        if ranks.size == 1:
            yield from parts
            continue
        content: dict[str, Tensor] = {}
        for k, (part, output) in enumerate(parts if read is not None else ()):
            tensors = [torch.from_numpy(part.rows), *tensors_in(output)]
            content |= {f"{k} {i}": tensor.contiguous().clone() for i, tensor in enumerate(tensors)}
        for said in map(load, ranks.gather_bytes(save(content))):
            columns: dict[int, dict[int, Tensor]] = {}
            for name, tensor in said.items():
                k, i = map(int, name.split())
                columns.setdefault(k, {})[i] = tensor
            for k in sorted(columns):
                rows, *tensors = (columns[k][i] for i in range(len(columns[k])))
                yield Batch({}, rows.numpy()), put_back(parts[0][1], tensors)


def _kept(output: Tensor) -> Tensor:
    return (output.float() if output.is_floating_point() else output).cpu()


def infer(objective: Objective, batch: Batch) -> object:
    """The output outside training. Of a ready-made model of vectors, a row's is the same to the bit alone and among
    others, see `sixteens`."""
    tensors, rows, model = batch.tensors().values(), len(batch), objective.model
    vectors = all(v.ndim <= 2 for v in tensors) and any(v.is_floating_point() for v in tensors)
    if not (-rows % 16 and vectors and isinstance(model, Model)) or model.fills_up:
        return objective.forward(batch)
    whole = batch.on_tensors(sixteens)
    return mapped(objective.forward(whole), lambda output: output[:rows])


@contextmanager
def evaluated(state: State) -> Iterator[Weights]:
    """Inside the block the model has the weights that are scored and kept: the average, those that the optimizer
    evaluates with, or its own; afterwards those that it trains, to the bit. Yields them: clone what is kept."""
    trained = None
    if state.average is not None and state.step:  # before the first step it is what the model has
        trained = copy_weights(state.model)
        load_weights(state.model, state.average)
    elif averages_itself(state.optimizer):
        trained = copy_weights(state.model)
        switch(state.optimizer, "eval")
    try:
        yield copy_weights(state.model, clone=False)
    finally:
        if trained is not None:
            switch(state.optimizer, "train")
            load_weights(state.model, trained)


def evaluate(
    objective: Objective,
    batches: Iterable[Batch],
    keep: Callable[[Batch, object], None] | None = None,
    ranks: Ranks = ALONE,
    spare: Batch | None = None,
) -> dict[str, float]:
    """Mean loss and every metric over all rows of the batches, each row once, in evaluation mode: NaN, all of them,
    where outputs that count are NaN, which are no class.

    keep: called with every batch and its output, for those who want the outputs too; ranks: that look at the rows
    together, each at batches of its own, and all get the same scores; spare: what a rank puts through a sharded model
    where the others have more batches.
    Leaves the model in the mode it was in. (No inference mode: FSDP's buffers would stay in it, torch 2.13, and a model
    that differentiates would fail.) Returns {"loss": ..., metric name: ...}.
    """
    total_loss = total_weight = 0.0
    sums, seen = dict[str, NDArray[np.float64]](), list[Seen]()
    by_sums = objective.sum_metrics if ranks.size > 1 else None  # about one centre on all ranks, as in training
    whole = len(objective.sum_metrics) < len(objective.metrics)  # metrics that need all rows at once
    was_training = objective.model.training
    objective.model.eval()
    try:
        with torch.no_grad(), drawing("evaluate"):  # what a model draws here, it draws at every look
            dropout_seeder(objective.device)(key("evaluate", bits=32))
            for read, batch, output in outputs(objective, batches if spare is None else ranks.in_step(batches, spare)):
                if read is spare:
                    continue
                part = objective.sums_of(output, batch, metrics=False)
                total_loss += (loss := float(part.loss))
                total_weight += float(part.weight)
                if both := objective.view(output, batch) if objective.metrics else None:
                    both = counted(both)
                    by_sums = by_sums or [m.about(both[1]) for m in objective.sum_metrics]
                    lost = math.nan if math.isnan(loss) and bool(both[0].isnan().any()) else 0.0  # argmax takes it
                    for m in by_sums:
                        sums[m.name] = sums.get(m.name, 0.0) + m.sums(*both).cpu().numpy().astype(np.float64) + lost
                    if whole:
                        seen.append((both[0].to(torch.promote_types(both[0].dtype, torch.float32)), *both[1:]))
                if keep:
                    keep(batch, output)
    finally:
        training_mode(objective.model, was_training)
    if ranks.size > 1:
        total_loss, total_weight, sums, seen = _of_all(ranks, total_loss, total_weight, sums, seen)
    if total_weight == 0:
        raise HandfulError("there is nothing to evaluate: no rows, or none that counts (weight 0, or no class)")
    scores = {"loss": total_loss / total_weight} | _scores(objective.metrics, sums, seen)
    return dict(json.loads(ranks.told(json.dumps(scores)))) if ranks.size > 1 else scores


Sums = dict[str, NDArray[np.float64]]


def _of_all(
    ranks: Ranks, loss: float, weight: float, sums: Sums, seen: list[Seen]
) -> tuple[float, float, Sums, list[Seen]]:
    """What all ranks have found: sums added up in the order of the ranks, outputs one after the other."""
    said = map(json.loads, ranks.gather(json.dumps([loss, weight, {name: v.tolist() for name, v in sums.items()}])))
    loss, weight, sums = 0.0, 0.0, {}
    for own_loss, own_weight, own in said:
        loss, weight = loss + own_loss, weight + own_weight
        for name, values in own.items():
            sums[name] = sums.get(name, 0.0) + np.array(values, np.float64)
    columns = {str(i): torch.cat(column).cpu() for i, column in _columns(seen)}
    parts = [load(content) for content in ranks.gather_bytes(save(columns))]
    return loss, weight, sums, [(p["0"], p["1"], p.get("2")) for p in parts if p]


def _columns(seen: Sequence[Seen]) -> list[tuple[int, list[Tensor]]]:
    """Outputs, targets and weights, each of all batches, as far as there are some."""
    columns = [[v for v in column if v is not None] for column in zip(*seen)]
    return [(i, column) for i, column in enumerate(columns) if column]


def _scores(
    metrics: Iterable[Metric], sums: Mapping[str, NDArray[np.float64]], seen: Sequence[Seen]
) -> dict[str, float]:
    columns = [[v.cpu() for v in column if v is not None] for column in zip(*seen)] or [[], [], []]
    arrays = [torch.cat(column).numpy() if column else None for column in columns]
    lost = arrays[0] is not None and arrays[0].dtype.kind == "f" and bool(np.isnan(arrays[0]).any())
    scores = {}
    for metric in metrics:
        if isinstance(metric, SumMetric):
            scores[metric.name] = metric.finish(sums[metric.name]) if metric.name in sums else float("nan")
            continue
        try:
            scores[metric.name] = float("nan") if lost else metric.whole(*arrays)  # type: ignore[arg-type]  # None: no output is a tensor
        except MISTAKES as error:
            shapes = " and ".join(str(list(array.shape)) for array in arrays[:2] if array is not None)
            raise HandfulError(
                f"the metric {metric.name} fails on outputs and targets {shapes}: {brief(error)}"
            ) from error
    return scores
