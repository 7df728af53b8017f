"""What measuring decides, and what it may cost."""

from dataclasses import dataclass, field

from handful.base.plan import Choice, Row
from handful.plan.probe.lr_race import Race
from handful.plan.probe.memory import Memory
from handful.plan.probe.noise_scale import NoiseScale
from handful.plan.probe.step_time import Throughput
from handful.training.state import Kept
from handful.training.training import Training
from handful.training.watch.weights import Weights

# Of the planned examples, for everything that is tried and does not train the model: where a goal is reached after a
# tenth of a run it weighs ten times as much. Of that for the step times, and for the noise scale.
SHARE, TIMING, NOISE = 0.015, 0.005, 0.005
USUAL_NOISE = 128  # the noise scale early in training, where it is not known
REGRET = 1.10  # a batch whose predicted time to a target is at most so many times the best one's is as good
WARM = 0.02  # of them are trained on before anything is measured
# In the first epoch a batch's loss before its update is that of rows not yet trained on, as good as held-out ones;
# later it flatters what learns rows by heart. So a run is taken to be this long at most: its races end in that epoch.
RACED_EPOCHS = 10


@dataclass
class Decision:
    """What was chosen (None: was not asked), what was measured for it, and what it cost: steps and examples that do
    not train the model. trail: the first steps, which do."""

    batch: Choice | None = None
    lr: Choice | None = None
    micro_batch: Choice | None = None
    growth: Choice | None = None
    throughput: Throughput | None = None
    memory: Memory | None = None
    noise: NoiseScale | None = None
    races: list[Race] = field(default_factory=list)
    trail: list[Kept] = field(default_factory=list)
    beginning: tuple[Weights, Row] | None = None  # for a folder: to take the steps of `trail` again from
    cap: int = 0
    within: int | None = None  # examples that the time which the stop rule gives the run is enough for, as timed
    notes: list[str] = field(default_factory=list)
    examples: int = 0
    steps: int = 0
    seconds: float = 0.0

    def spend(self, steps: int, size: int) -> None:
        """Account for steps of `size` rows that do not train the model."""
        self.steps, self.examples = self.steps + steps, self.examples + steps * size

    def in_time(self, examples: float, size: int) -> float:
        """Steps of `size` rows that take as long as so many examples do in the fastest batches: the run may go on with
        those, and what is spent before is measured against that."""
        tp = self.throughput
        return examples / size if tp is None else examples * min(tp(n) / n for n in tp.sizes) / tp(size)


def planned_examples(t: Training, d: Decision) -> int:
    """The examples that the run will use at most; ten epochs where the stop rule does not say."""
    return min((n for n in (t.planned, d.within) if n), default=10 * t.examples)


def raced_examples(t: Training, d: Decision) -> int:
    """The examples of the run of which the first steps and races take a share."""
    return min(planned_examples(t, d), RACED_EPOCHS * t.examples)


def base_rate(t: Training) -> float:
    return float(t.state.optimizer.param_groups[0]["initial_lr"])
