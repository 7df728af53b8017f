"""Whether the text of each option is of something that there is: asked before any row is read."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from handful.data.open import must_be_there
from handful.data.split import HeldOut
from handful.losses.asked import known_metrics
from handful.losses.loss import as_loss
from handful.optim import schedule
from handful.optim.build import build as build_optimizer
from handful.plan.balance import known_shuffle
from handful.plan.defaults import grows
from handful.plan.model import weights_at
from handful.plan.probe.batch_growth import as_growth
from handful.training.process.device import known_precision
from handful.training.watch import stop
from handful.transform.augment import as_augment
from handful.transform.columns import known_recipe
from handful.transform.target_fit import known_task


def must_read(asked: Mapping[str, object]) -> None:
    """HandfulError for text in which something is called that there is not, before any row is read."""
    readers: dict[str, Callable[[str], object]] = {
        "until": stop.as_rule,
        "schedule": schedule.as_schedule,
        "optimizer": lambda text: build_optimizer(text, nn.ParameterList([torch.ones(1, 1)])),  # which draws nothing
        "batch": lambda text: grows(text) and schedule.as_schedule(text),
        "batch_growth": schedule.as_schedule if grows(asked.get("batch_growth")) else as_growth,
        "augment": as_augment,
        "loss": as_loss,
        "metrics": known_metrics,
        "precision": known_precision,
        "shuffle": known_shuffle,
        "task": known_task,
        "recipe": known_recipe,
        "init": weights_at,
        "valid": lambda text: HeldOut.of(text) or must_be_there(text),
    }
    for name, read in readers.items():
        match asked.get(name):
            case str(text) if text != "auto":
                read(text)
