"""All that changes during a run. With its Plan it replays the run; both can be written down."""

from dataclasses import dataclass, field

from torch import nn, optim

from handful.base.callbacks import Callbacks
from handful.base.plan import Row
from handful.training.watch.history import Window
from handful.training.watch.weights import Weights

Kept = tuple[int, int | None, float, float]  # a step: its rows, of a part, the base rate, the mean loss


@dataclass
class Best:
    """The best evaluation so far: its row of the history, and the weights it was made with."""

    row: Row
    weights: Weights


@dataclass
class State:
    """Parameters and buffers (in `model`), the optimizer, and position: examples consumed so far."""

    model: nn.Module
    optimizer: optim.Optimizer
    position: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    window: Window = field(default_factory=Window)
    average: Weights | None = None
    best: Best | None = None
    first: Weights | None = None  # of the look before the first step, while the run may begin again from them
    lowest: list[float] = field(default_factory=list)  # the loss of each held-out row at the lowest look, of few rows
    micro_batch: int | None = None
    batch: int = 0
    noise: list[list[float]] = field(default_factory=list)  # what handful.plan.probe.batch_growth has measured lately
    probing_cost: list[int] = field(default_factory=[0, 0].copy)  # steps and examples that measuring has cost
    back: int = 0  # the step of the checkpoint to go back to where a loss is not finite
    went_back: list[int] = field(default_factory=list)  # steps gone back to so far; each time halves the learning rate
    skipped: list[int] = field(default_factory=[0, 0].copy)  # mini-batches in a row, and the step after the last
    course: Weights = field(default_factory=dict)  # what training.watch.headway has seen of the gradients lately
    restarted: int = 0  # position at which the run last began again, at a smaller rate
    trail: list[Kept] = field(default_factory=list)  # the steps so far, while measuring takes them: see `beginning`
    stopped_because: str | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    loss: object = None  # as it was given: one that is a module may keep something, too
    beside: dict[str, str] = field(default_factory=dict)  # `marks` of what the model and it held at the start
    torn: bool = False  # in the middle of a step that is not undone: the checkpoint before is the one to go on from
