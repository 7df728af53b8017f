"""What `fit` takes, checked as far as it can be without the data."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from handful.base.errors import HandfulError, did_you_mean


@dataclass
class Config:
    """What `fit` takes. The first sixteen are its named arguments; the rest:

    target:      name of the target column, where it is not clear
    task:        "classification", "regression", "multilabel", "language", "sequence"; found from the target by default
    recipe:      "image", "text", "language", "audio" or "table": which columns to learn from; found by default
    weight:      name of a column of row weights
    score:       which held-out score decides on the best weights and on plateaus; "auto": the first metric of a
                 classification, else valid_loss
    clip_norm, clip_value: bounds of the gradient's norm and entries
    label_smoothing, class_weight: for cross-entropy; class_weight="balanced" counts every class the same
    ema:         decay a step of an average of the weights, which is then what is evaluated and kept; None: no average;
                 "auto": 0.99 for the table model
    threads:     CPU threads of a step; "auto": all, unless one is measured to be faster
    shuffle:     how `Order` draws rows: "exact", "block", "none", "replacement"
    evaluate_every: epochs between evaluations; "auto": one, or a tenth of a short run
    save_every:  steps between checkpoints; "auto": at evaluations, at most every 30 s
    overwrite:   start anew in a run folder that holds a run
    batch_growth: how a batch that was chosen may grow: "auto", None, "grow_batch(every=10)"; a plan holds growth(...)
    quiet:       print nothing
    """

    valid: Any = 0.1
    loss: Any = "auto"
    metrics: Any = "auto"
    batch: Any = "auto"
    micro_batch: Any = "auto"
    optimizer: Any = "adamw"
    lr: Any = "auto"
    schedule: Any = "cosine"
    l1: float = 0.0
    l2: Any = "auto"
    until: Any = None
    augment: Any = None
    preprocess: Any = "auto"
    precision: str = "auto"
    threads: Any = "auto"
    compile: Any = "auto"
    device: str = "auto"
    seed: int = 0
    target: str | None = None
    task: str | None = None
    recipe: str | None = None
    weight: str | None = None
    score: str = "auto"
    clip_norm: float | None = None
    clip_value: float | None = None
    label_smoothing: float = 0.0
    class_weight: Any = None
    ema: Any = "auto"
    shuffle: str = "exact"
    evaluate_every: Any = "auto"
    save_every: Any = "auto"
    batch_growth: Any = "auto"
    overwrite: bool = False
    quiet: bool = False

    @classmethod
    def of(cls, given: dict[str, Any]) -> "Config":
        """The options given by name. Raises HandfulError for an unknown one."""
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise HandfulError(f"there is no option '{name}'.{did_you_mean(name, known)}")
        options = cls(**given)
        options.check()
        return options

    def check(self) -> None:
        """Numbers that can be told to be wrong without looking at the data."""
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer):
            raise HandfulError(f"seed must be a whole number, not {self.seed!r}")
        for name in ("l1", "clip_norm", "clip_value", "label_smoothing", "ema"):
            value = getattr(self, name)
            if value is None or (name == "ema" and value == "auto"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value < 0:
                raise HandfulError(f"{name} must be a number of at least 0, not {value!r}")
        if self.label_smoothing >= 1 or (self.ema not in (None, "auto") and not 0 < self.ema < 1):
            raise HandfulError("label_smoothing must be in [0, 1) and ema in (0, 1)")
        if self.threads != "auto" and (not isinstance(self.threads, int) or self.threads < 1):
            raise HandfulError(f"threads must be a whole number of at least 1, or 'auto', not {self.threads!r}")
        if self.save_every != "auto" and (not isinstance(self.save_every, int) or self.save_every < 1):
            raise HandfulError(
                f"save_every must be a number of steps of at least 1, or 'auto', not {self.save_every!r}"
            )
