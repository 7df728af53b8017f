"""The model of a run, built or the caller's own, with its loss and metrics; tried on two rows first."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handful import models
from handful.base.errors import HandfulError, some
from handful.base.plan import Choice
from handful.base.stopwatch import part
from handful.batches.order import Order
from handful.data.base import Batch, Rows
from handful.data.series import spread_rows
from handful.losses.left_out import FORMS, Summed, link_of
from handful.losses.loss import Counted, LossFunction, as_loss, unknown
from handful.losses.loss import model as of_model
from handful.losses.outputs import losses_in, part_of, scores_in
from handful.models.base import Model, ready_made
from handful.models.wrapped import SHARED, compile_calls, is_compiled, unwrapped
from handful.plan import dry_run, losses, row_by_row
from handful.plan.balance import mean_weight, uneven
from handful.plan.config import Config
from handful.plan.data import Data, augmentation
from handful.plan.defaults import Chooser, describe
from handful.training.objective import Objective
from handful.training.process import static
from handful.training.process.checkpoint import read_tensors
from handful.training.process.device import choose_precision
from handful.training.special.adapters import input_names, target_argument
from handful.training.special.coupling import KEPT_WHOLE, LossForm, is_by_row, loss_form, still_layers
from handful.training.training import Training
from handful.training.watch.folder import RunFolder
from handful.training.watch.weights import left_as_it_was
from handful.transform.augment.geometry import Flip
from handful.transform.inputs import NamedInputs
from handful.transform.pipeline import Pipeline
from handful.transform.steps.step import same_values

LOOK = 32  # steps at least between two rows of the history on a GPU, where a run has more than 50 times as many
GRAPH = "rows lie on the device, and a step is one CUDA graph that is replayed, if it can be captured"
ROWS_OF_FORM = 16  # on which a loss of the caller's own is tried, whole and in parts
ROWS_SHOWN = 256  # to a ready-made model before the first step


def as_given(model: nn.Module, chooser: Chooser) -> nn.Module:
    """The module inside what torch wraps it in, which is said, or the model itself."""
    net = unwrapped(model)
    if isinstance(model, SHARED):
        chooser.notes.append(f"the module inside {type(model).__name__} is trained: its gradients are added up here")
    if is_compiled(net):
        chooser.set("compile", True, "found", "the model came so; what is tried and measured before is not")
    if layers := still_layers(net):
        chooser.notes.append(
            f"In evaluation mode throughout, as their weights are frozen: {some(layers)} ({len(layers)} of batch "
            "normalisation)."
        )
    return net


@part("making the model")
def make_model(
    model: str | nn.Module, data: Data, options: Config, chooser: Chooser, device: torch.device, saved: RunFolder | None
) -> nn.Module:
    """The user's module as it is, or a ready-made one built for the data."""
    if isinstance(model, nn.Module):
        chooser.put("model", Choice.own(type(model).__name__))
        return model
    if saved is not None:
        chooser.set("model", model, "given")
        return models.from_config(saved.model_config())
    p = data.pipeline
    name, given = models.named(model)
    extra: dict[str, Any] = {"ctc": True} if name == "audio" and p.task == "sequence" else {}
    if name == "auto":
        name, extra, reason = models.choose(
            p.inputs.kind, n=len(data.train), shape=p.shape, inputs=p.inputs, task=p.task, device=device.type
        )
        chooser.set("model", name, "found", reason)
    else:
        chooser.set("model", model, "given")
    if name == "resnet":
        extra["whiten"] = True
    steps = augmentation(data, options)[0] if name in ("cnn", "resnet") else None
    if any(isinstance(step, Flip) and step.horizontal for step in steps or ()):
        extra["views"] = 2
    extra |= given
    if extra.get("views", 1) > 1:
        others = "its mirror image" if extra["views"] == 2 else "its mirror image, as they are and moved by a pixel"
        why = "" if "views" in given else "as training flips pictures, "
        chooser.notes.append(f"{why}a prediction is the mean for a picture and {others}")
    return models.build(
        name, kind=p.inputs.kind, shape=p.shape, outputs=outputs_for(p, options.loss), inputs=p.inputs,
        rows=len(data.train), seed=options.seed, **extra,
    )  # fmt: skip


def outputs_for(p: Pipeline, loss: object) -> int:
    """Of a ready-made model: one for each class; for binary cross-entropy the logit of the second of two, alone."""
    named = loss not in (None, "auto", "model") and p.task == "classification" and p.outputs == 2
    return 1 if named and link_of(as_loss(loss)[0]) == "sigmoid" else p.outputs


def show_rows(net: nn.Module, objective: Objective, data: Data, seed: int) -> None:
    """Let a ready-made model that asks for it look at some training rows, drawn by the seed, before the first step."""
    if data.own_model or not isinstance(net, Model) or type(net).begin is Model.begin:
        return
    rows = Order(len(data.train), seed=seed)[: min(len(data.train), ROWS_SHOWN)]
    batch = objective.to_device(data.pipeline(data.train.take(rows)))
    if "x" in batch.columns:
        net.begin(batch.columns["x"])


def weights_at(init: object) -> Path:
    """The path of weights to start from; HandfulError where there are none, or a pickle."""
    if not isinstance(init, str | PathLike):
        raise HandfulError(
            f"init takes the path of a .safetensors file or of a run, not {type(init).__name__}: weights in memory are "
            "put in by model.load_state_dict(weights) before"
        )
    if not (path := Path(init)).exists():
        raise HandfulError(f"init: there is no {path}")
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise HandfulError(
            f"init: {path} is a pickle, which is never read, as it can run any code; rewrite it where it is your own: "
            f"safetensors.torch.save_file(torch.load('{path}', weights_only=True), '{path.stem}.safetensors')"
        )
    return path


@part("making the model")
def start_from(net: nn.Module, init: str | PathLike[str], here: Pipeline, chooser: Chooser) -> None:
    """Give the model those weights of a file or a run that fit its own by name and shape, and say what did not, and
    what a run's were learned with that is not so here."""
    path, own = weights_at(init), net.state_dict()
    run = RunFolder(path) if path.is_dir() else None
    found = run.kept_weights()[0] if run else read_tensors(path)
    chooser.notes += learned_with(run.pipeline(), here, str(path)) if run else []
    net.train(not run or run.cut)  # as they were written, of layers that merge them for evaluation (LoRA), too
    fitting = {name: v for name, v in found.items() if name in own and own[name].shape == v.shape}
    if not fitting:
        raise HandfulError(
            f"init: no weight of {path} has the name and shape of one of the model's: it has {some(list(found))}, the "
            f"model {some(list(own))}"
        )
    with torch.no_grad():
        for name, value in fitting.items():
            own[name].copy_(value)
    shapes = [f"{n} {list(found[n].shape)} for {list(own[n].shape)}" for n in found if n in own and n not in fitting]
    parts = [("left as they were", [n for n in own if n not in found]), ("of another shape there", shapes),
             ("not in the model", [n for n in found if n not in own])]  # fmt: skip
    said = "; ".join(f"{what}: {some(names)}" for what, names in parts if names)
    chooser.put("init", Choice.place(str(init), f"{len(fitting)} of {len(own)} weights"))
    chooser.notes.append(f"{len(fitting)} of {len(own)} weights are those of {path}{said and f'; {said}'}.")


def learned_with(there: Pipeline, here: Pipeline, where: str) -> list[str]:
    """What the weights of a run were learned with that is not so here. Raises HandfulError for the same inputs in
    another order, which no shape tells."""
    before, now = there.input.uses, here.input.uses
    if before != now and sorted(before) == sorted(now) and not isinstance(here.input, NamedInputs):
        raise HandfulError(f"init: the weights of {where} take {', '.join(before)} in this order; put the columns so")
    unlike = [f"{what} were {some(list(old))}"
              for what, old, new in (("inputs", before, now), ("classes", there.classes, here.classes))
              if old and set(old) != set(new or ())]  # fmt: skip
    if before == now and not same_values(there.input, here.input):
        unlike.append("inputs were prepared by the means, classes or words of other rows")
    way = "to go on with them so, pass the model of handful.load and preprocess=, its pipeline"
    return [f"The weights of {where} were learned where {' and '.join(unlike)}; {way}."] if unlike else []


@part("making the model")
def make_objective(net: nn.Module, data: Data, options: Config, chooser: Chooser, device: torch.device) -> Objective:
    """Model + loss + metrics, tried on a few rows, which leaves the model as it was."""
    choice, lower = choose_precision(options.precision, str(device), net)
    chooser.put("precision", choice)
    if choice.value == "float64":
        net.double()
    with left_as_it_was(net), left_as_it_was(options.loss):
        objective = Objective(net, undecided, device=device, autocast=lower)
        objective.takes(data.pipeline, data.train.columns.values())
        if data.train.whole:
            objective.coupling = data.train.whole
            chooser.notes.append(f"{data.train.whole}, {KEPT_WHOLE}")
        if options.training_step is not None:
            chooser.put("training_step", describe(options.training_step, "given"))
            if options.loss in (None, "auto"):  # no rows are scored
                objective.minimise(unknown, [], data.pipeline.target_scale)
                chooser.set("loss", None, "found", "training_step makes its own; loss= scores held-out rows, too")
                chooser.set("metrics", "", "found", "none without loss=")
                return objective
        elif hasattr(net, "training_step"):
            chooser.notes.append(
                "The model's own training_step is not called; see training_step=, of (model, batch, step)."
            )
        data.pipeline = losses.of_any_id(data.pipeline)
        scored(objective, data, options, chooser)
        if data.own_model and not is_by_row(net):
            few = min(ROWS_OF_FORM, max(4, options.batch)) if isinstance(options.batch, int) else ROWS_OF_FORM
            chooser.notes += row_by_row.beside(objective, data, few)
        return objective


def scored(objective: Objective, data: Data, options: Config, chooser: Chooser) -> None:
    rows = range(min(2, len(data.train)))
    sample = objective.to_device(data.pipeline(data.train.take(rows)))
    asked = asked_loss(objective.model, sample, options, data) if data.own_model else options.loss
    output = first_output(objective, asked, sample)
    if data.own_model and asked in (None, "auto") and dry_run.only_its_own(objective.model, sample, output):
        asked, output = "model", first_output(objective, "model", sample)
    in_training = asked == "model" and dry_run.in_training_alone(objective, output, sample, data.held_out is not None)
    if options.task is None or objective.several:
        data.pipeline = losses.of_any_id(data.pipeline.resolve_task(output))
        objective.takes(data.pipeline, data.train.columns.values())
        chooser.set("task", data.pipeline.task, "found")
    places: tuple[object, object] = output, sample.columns.get("y")
    if data.pipeline.target and None in data.pipeline.target.shape:
        places = dry_run.not_square(objective, *places, data)
    loss, choice, notes = losses.loss(asked, *places, data, options.label_smoothing, options.class_weight)
    chooser.choices |= losses.softening(loss, options.class_weight)
    note_loss(objective, choice, asked != options.loss, output, sample, chooser)
    chooser.notes += notes
    some = spread_rows(len(data.train), ROWS_OF_FORM)
    tried: Callable[[], Batch] = lambda: objective.to_device(data.pipeline(data.train.take(some)))  # noqa: E731
    if (target := data.pipeline.target) and target.ignored is not None:
        losses.leave_out(loss, data, target, str(choice.value))
    objective.gaps = data.gaps
    if own := callable(asked) or asked == "model":
        find_prediction(objective, loss, tried, data, chooser, nothing=dry_run.makes_more(objective.model, sample))
    losses.find_places(objective, loss, tried, data, own=own)
    losses.link_outputs(objective, loss, tried, data, chooser)
    seen = part_of(output, objective.part)
    metrics, choice = losses.metrics(options.metrics, data.pipeline, seen, uneven(data.counts))
    chooser.put("metrics", choice)
    objective.minimise(loss, metrics, data.pipeline.target_scale)
    if data.pipeline.task in ("regression", "several"):
        losses.place_numbers(objective, data, seen, sample, chooser)
    if objective.of_probabilities:
        data.pipeline = data.pipeline.of_probabilities()
    if not in_training and (data.own_model or (options.loss, options.metrics) != ("auto", "auto")):
        sample = objective.to_device(data.pipeline(data.train.take(rows)))  # its target may be settled now
        dry_run.loss_of(objective, sample, str(chooser.choices["loss"].value), own=callable(options.loss))
    settle(objective, data, options, chooser, some, tried, own=own)


def settle(
    objective: Objective, data: Data, options: Config, chooser: Chooser, some: Rows, tried: Callable[[], Batch], *,
    own: bool,
) -> None:  # fmt: skip
    """Find out what the loss makes of several rows, and try metrics of the caller's own. own: so is the loss."""
    if own and not objective.coupling:
        note_form(objective, tried(), chooser)
    spread_weights(objective, data, options, some, tried, chooser)
    if not chooser.choices["metrics"].reproducible:
        dry_run.try_metrics(objective, data)


def first_output(objective: Objective, asked: object, sample: Batch) -> object:
    """The model's output for two rows: all of it, if the loss is the model's or one of the caller's own that takes it,
    else the scores in it. Raises HandfulError for a loss with parameters, which would not be trained."""
    match asked:
        case nn.Module() if any(p.requires_grad for p in asked.parameters()):
            raise HandfulError(
                f"the loss ({type(asked).__name__}) has parameters, which would not be trained: make it a part of the "
                "model, whose forward(x, y) returns the loss, or freeze it with loss.requires_grad_(False)"
            )
    objective.whole = callable(asked)
    if asked == "model":
        objective.minimise(of_model(), [])
    output = dry_run.output_of(objective.model, objective.forward, sample)
    if objective.whole and (part := scores_in(output)) and not dry_run.takes(asked, output, sample):
        objective.whole, output = False, part_of(output, part)
    if asked == "model":
        dry_run.scores_for_loss(objective, output, sample)
    return output


def note_loss(
    objective: Objective, choice: Choice, found: bool, output: object, sample: Batch, chooser: Chooser
) -> None:
    """The loss, and what it is given, in the plan. found: it is the model's, by its forward."""
    why = "the model makes it, in its forward"
    several, beside = losses_in(output) if objective.of_model else ([], [])
    if several:
        chooser.notes.append(
            f"the loss is the sum of {', '.join(several)}, as none is called 'loss'; losses that move different "
            "weights, as a GAN's, are for training_step="
        )
    if beside:
        chooser.notes.append(
            f"the model returns several numbers: the loss is the one called 'loss', or the first of a tuple, and what "
            f"is not in it ({', '.join(beside)}?) is not minimised"
        )
    chooser.put("loss", Choice(choice.value, "found", why) if found else choice)
    model = objective.model
    if not (ready_made(model) or is_by_row(model)):  # of these it is known
        chooser.notes += dry_run.without_target(objective, sample)
        chooser.notes += row_by_row.called_again(objective, sample, output)
    if not ready_made(model):
        chooser.notes += dry_run.warn_of_probabilities(output, str(choice.value))
    if objective.whole and not torch.is_tensor(output):
        chooser.set("output", "whole", "found", "the loss takes all that the model returns")


def asked_loss(net: nn.Module, sample: Batch, options: Config, data: Data) -> str | nn.Module | Callable[..., object]:
    """The loss that was asked for; that of the model where it was left open and forward has to be given the target."""
    found = target_argument(net, input_names(sample), data.train.target or "")
    asked = "model" if options.loss == "auto" and found and found[1] and "y" in sample.columns else options.loss
    if asked == "auto" and data.pipeline.task != "language" and dry_run.makes_more(net, sample):
        asked = "model"
    if asked == "model" and data.pipeline.task == "language" and found and found[0] == "labels":
        raise HandfulError(
            "this model shifts its labels by a token itself, and a language model's target is shifted already: leave "
            "loss out, which takes the cross-entropy of its logits"
        )
    return asked


def spread_weights(
    objective: Objective, data: Data, options: Config, some: Rows, tried: Callable[[], Batch], chooser: Chooser
) -> None:
    """Let weights of rows and classes count over all training rows, where it is known what a row counts for in the
    loss, as some rows show; within each mini-batch, and say so, where not."""
    weights = getattr(objective.loss, "class_weight", None)
    if options.weight is not None or weights is not None:
        batch = tried()
        counted = dry_run.quietly(objective.model, lambda: float(objective.sums(batch, metrics=False).weight))
        if np.isclose(counted, len(some) * mean_weight(data.pipeline, data.train, options.weight, weights, some)):
            objective.row_weight = mean_weight(data.pipeline, data.train, options.weight, weights)
            if not objective.row_weight:
                raise HandfulError(
                    f"the weights of all {len(data.train):,} training rows are 0: there is nothing to learn"
                )
            return
    by_class = objective.loss.weight if isinstance(objective.loss, Counted) else None
    if options.weight is not None or weights is not None or by_class is not None:
        chooser.notes.append(
            "the weights count within each mini-batch, as the loss divides by their sum there: in a mini-batch of few "
            "rows they cancel, in one of a single row altogether"
        )


def find_prediction(
    objective: Objective, loss: LossFunction, tried: Callable[[], Batch], data: Data, chooser: Chooser, *, nothing: bool
) -> None:
    """Find out what of the model's output predicts the target, where the loss is the caller's own. nothing: it is known
    that none does."""
    objective.minimise(loss, [])
    batch = tried()
    find = lambda: None if nothing else dry_run.predicting_part(objective, batch, data.pipeline.target)  # noqa: E731
    part = dry_run.quietly(objective.model, find)
    data.pipeline, objective.part = data.pipeline.predicted_by(part), part or ""
    if part != "":
        taken = "no part of what the model gives is" if part is None else f"'{part}' of what the model gives is"
        chooser.notes.append(f"{taken} taken for the prediction of '{data.train.target}'")


def note_form(objective: Objective, batch: Batch, chooser: Chooser) -> None:
    """Find out whether a loss of the caller's own is a mean over rows, so that it can be computed in parts."""
    form, y = loss_form(objective, batch), batch.columns.get("y")
    if form.coupling and objective.of_model and torch.is_tensor(y) and y.ndim > 1 and not y.is_floating_point():
        own = objective.loss
        for name in list(FORMS)[1:]:
            objective.minimise(FORMS[name](own), objective.metrics, objective.scale)
            if loss_form(objective, batch) == LossForm():
                chooser.set("loss_form", name, "found", "so that it can be computed in parts of a mini-batch")
                return
        objective.minimise(own, objective.metrics, objective.scale)
    if form.summed:
        objective.minimise(Summed(objective.loss), objective.metrics, objective.scale)
        why = "the loss is a sum over the rows; the mini-batch's mean is used, so lr keeps its meaning"
        chooser.set("loss_form", "sum", "found", why)
        chooser.notes.append(why)
    if form.coupling:
        objective.coupling, objective.by_outputs = form.coupling, not objective.of_model
        chooser.notes.append(f"{form.coupling}, {KEPT_WHOLE}")


def choose_form(t: Training, options: Config, chooser: Chooser) -> None:
    """Whether the model is compiled; whether steps are graphs, or why not, said where that is a question; on a GPU rows
    are logged farther apart."""
    if "compile" not in chooser.choices:
        compiled = options.compile is True
        why = "" if compiled else "compiling takes about a minute, which only long runs earn back"
        if chooser.set("compile", compiled, "default" if options.compile == "auto" else "given", why):
            compile_calls(t.objective.model)
    if t.objective.device.type != "cpu":  # to look makes it wait
        t.log_every = max(t.log_every, min(LOOK * t.state.batch, (t.planned or t.examples) // 50))
    if options.graph is False or t.objective.device.type in static.DEVICES:
        no = "asked for" if options.graph is False else static.why_not(t)
        chooser.set("graph", no is None, "found" if options.graph == "auto" else "given", no or GRAPH)


def undecided(output: object, target: object) -> Tensor:
    """The loss of an Objective whose model has to be run first: see `Objective.minimise`."""
    raise AssertionError("the loss is not decided yet")
