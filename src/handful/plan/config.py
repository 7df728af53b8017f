"""What `fit` takes: every option once, with its type, default, check and help, for `fit`, `resume`, the estimators and
the command line, whose help must not wait for heavy imports."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from inspect import Parameter, cleandoc, signature
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, ForwardRef, Literal, TypedDict, TypeVar, cast, get_args

from handful.base.errors import HandfulError, no_option
from handful.base.expression import is_array

if TYPE_CHECKING:
    from os import PathLike

    from torch import nn

    from handful.base.score import Better
    from handful.losses.asked import Metrics
    from handful.optim.build import Optimizers
    from handful.optim.schedule import Schedule, grow_batch
    from handful.plan.probe.batch_growth import growth
    from handful.training.watch.stop import Rule
    from handful.transform.augment import Augment, Augmentation
    from handful.transform.auto import Steps
    from handful.transform.pipeline import Pipeline

    Data = object  # whatever `handful.open` reads
    Schedules = str | Schedule | Callable[..., object] | Mapping[str, str | Schedule | Callable[..., object]]
    Losses = str | nn.Module | Callable[..., object]
    Augments = str | Augment | Augmentation | type[Augmentation] | Sequence[str | Augmentation] | None

Auto = Literal["auto"]
Rates = float | Auto | Mapping[str, float]
F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True)
class Kind:
    """The values an option takes: in words, as a test, and how one is read from the text of a command line."""

    words: str = "as help(handful.fit) says"
    fits: Callable[[object], bool] = lambda value: not is_array(value)
    read: Callable[[str], object] = str
    metavar: str = "<str>"

    def __or__(self, other: str | None) -> "Kind":
        """This kind, or one word; None is the word "none" on a command line."""
        return Kind(
            f"{self.words.replace(', or ', ', ')}, or {other!r}",
            lambda value: (isinstance(value, str | None) and value == other) or self.fits(value),
            lambda text: other if text == str(other).lower() else self.read(text),
            self.metavar,
        )


def reads(*types: Callable[[str], object]) -> Callable[[str], object]:
    """Text as the first of some types that it can be, else as it is: what it should have been is then checked."""

    def read(text: str) -> object:
        for make in types:
            with suppress(ValueError):
                return make(text)
        return text

    return read


def weights(text: str) -> object:
    """Text as numbers, as numbers by name, or as it is.

    >>> weights("1, 5"), weights("cat=1, dog=5"), weights("balanced")
    ([1.0, 5.0], {'cat': 1.0, 'dog': 5.0}, 'balanced')
    """
    parts = [part.rpartition("=") for part in text.split(",")]
    with suppress(ValueError):
        if all(equals for _, equals, _ in parts):
            return {name.strip(): float(number) for name, _, number in parts}
        return [float(part) for part in text.split(",")]
    return text


def number(words: str, holds: Callable[[float], bool] = lambda value: True, whole: bool = False) -> Kind:
    """A finite number for which `holds`."""

    def fits(value: object) -> bool:
        if not isinstance(value, Real) or isinstance(value, bool) or (whole and not isinstance(value, Integral)):
            return False
        return math.isfinite(value) and holds(float(value))

    return Kind(words, fits, reads(int if whole else float), "<int>" if whole else "<float>")


AT_LEAST_0 = number("a number of at least 0", lambda v: v >= 0)
AT_LEAST_1 = number("a whole number of at least 1", lambda v: v >= 1, whole=True)
SEED = number("a whole number from 0 to 9e18", lambda v: 0 <= v <= 9e18, whole=True)
ABOVE_0 = number("a number above 0", lambda v: v > 0)
RATES = Kind(
    ABOVE_0.words,
    lambda value: all(map(ABOVE_0.fits, value.values())) if isinstance(value, Mapping) else ABOVE_0.fits(value),
    lambda text: weights(text) if "=" in text else ABOVE_0.read(text),
    "<float>",
)
COLUMN = Kind("the name of a column (an array goes in the pair (x, y))")
YES_OR_NO = Kind(
    "True, False",
    lambda value: isinstance(value, bool),
    lambda text: {"true": True, "false": False}.get(text.lower(), text),
    "<bool>",
)


@dataclass(frozen=True)
class Config:
    """What `fit` takes besides the model, the training data, `out` and callbacks: help and kind stand with the type.

    >>> Config.of({"batch": 32, "seed": 1}).batch
    32
    """

    target: Annotated[str | None, "the column to predict, where it is not clear; several with commas", COLUMN] = None
    valid: Annotated[
        "float | Data",
        "share of rows held out (auto: 0.1, at most 20,000 rows), a number of rows, '0.2 by patient' (whole "
        "groups), 'last 0.2', 'last 0.2 by date', other data, or none",
        Kind(fits=lambda value: True, read=reads(int, float)) | None,
    ] = "auto"
    batch: Annotated[
        "int | str | grow_batch",
        "examples per update: a number, 'full' (batch gradient descent), 1 (stochastic), or 'auto'",
        Kind(read=reads(int)),
    ] = "auto"
    micro_batch: Annotated[
        int | Auto,
        "examples through the model at a time; the update is the same whatever it is",
        AT_LEAST_1 | None | "auto",  # None: as a plan holds it
    ] = "auto"
    optimizer: Annotated[
        "Optimizers",
        "sgd, momentum, 'adam(betas=[0.9, 0.95])', adamw, muon, lbfgs, ..., or one of torch; or several by patterns on "
        "names of parameters",
    ] = "adamw"
    lr: Annotated[
        "Rates",
        "learning rate, multiplied by the schedule; 'auto' measures; by parts of the model: 'head=1e-2, *=1e-4', in "
        "Python a dict",
        RATES | "auto",
    ] = "auto"
    schedule: Annotated[
        "Schedules",
        "constant, cosine, one_cycle, step(every=10), 'cosine(warmup=0.05)', ...; in Python a torch scheduler's class, "
        "a function of progress, or a dict by parts of the model: {'backbone': 'frozen(until=2)', '*': 'cosine'}",
    ] = "cosine"
    until: Annotated[
        "str | float | Rule | None",
        "when to stop: 'epochs(50) | plateau(5)', \"reaches('valid_accuracy', 0.9)\", a number of epochs, or 'auto'",
    ] = "auto"
    loss: Annotated[
        "Losses", "auto, cross_entropy, mse, mae, huber, quantile(q=0.9), focal, ..., or a callable (output, target)"
    ] = "auto"
    training_step: Annotated[
        "Callable[..., object] | None",
        "a function (model, batch, step) of your own in place of forward, loss and update: for several losses and "
        "optimizers, see handful.training.special.own_step.OwnStep; held-out rows are scored where loss= is given",
        Kind("a function (model, batch, step)", lambda value: value is None or callable(value)),
    ] = None
    metrics: Annotated[
        "Metrics",
        "auto, or names: 'accuracy, f1, auroc'; in Python functions (outputs, targets), torchmetrics, or a dict",
    ] = "auto"
    init: Annotated[
        "str | PathLike[str] | None",
        "weights to start from: a .safetensors file, or a run folder; taken where name and shape fit, the rest is said",
    ] = None
    task: Annotated[
        str | None, "classification, regression, multilabel, language or sequence, where it is not clear"
    ] = None
    recipe: Annotated[str | None, "image, text, language, audio or table: which columns to learn from"] = None
    columns: Annotated[
        str | Sequence[str] | None,
        "the columns to learn from, 'rooms, area', or those to leave out, '-id, -agent'; in Python also a list",
        Kind(fits=lambda value: True),
    ] = None
    windows: Annotated[
        "int | str | Mapping[str, object] | None",
        "rows of a time series: how many the model gets to predict the next; '24, horizon=3, order=time, by=shop'",
        Kind(read=reads(int)) | None,
    ] = None
    weight: Annotated[str | None, "column of row weights"] = None
    collate: Annotated[
        "Callable[..., object] | None",
        "a function of a list of samples of your data, as torch's DataLoader takes it; see handful.open",
        Kind("a function of a list of samples", lambda value: value is None or callable(value)),
    ] = None
    bad_rows: Annotated[
        "int | str",
        "rows that cannot be read: 'stop', all named; 'skip', one in ten at most; or skip a number at most",
        Kind(read=reads(int)),
    ] = "stop"
    score: Annotated[
        str, "the score that picks the best weights, as valid_loss; 'auto': a classification's first metric"
    ] = "auto"
    better: Annotated[
        "Better",
        "higher or lower: which values of the score are better, where its name does not say",
        Kind("'higher', 'lower'", lambda value: str(value) in ("higher", "lower")) | "auto",
    ] = "auto"
    l1: Annotated[float, "L1 penalty", AT_LEAST_0] = 0.0
    l2: Annotated[float | Auto, "L2 penalty (weight decay), or 'auto'", AT_LEAST_0 | "auto"] = "auto"
    augment: Annotated[
        "Augments", "none, 'flip | shift(2) | cutout(8)', or 'auto': the usual for ready-made models, none for others"
    ] = "auto"
    preprocess: Annotated[
        "Steps | Pipeline",
        "auto, none, standardize, minmax, normalize, steps of handful.preprocess, or the pipeline of an earlier run, "
        "whose model is trained on: run.pipeline",
    ] = "auto"
    label_smoothing: Annotated[
        float, "for cross-entropy, 0 to 1", number("a number in [0, 1)", lambda v: 0 <= v < 1)
    ] = 0.0
    class_weight: Annotated[
        str | Sequence[float] | Mapping[object, float] | None,
        "balanced: every class counts the same; a number per class, or by label: 'cat=1, dog=5', in Python a dict",
        Kind(fits=lambda value: True, read=weights) | None,
    ] = None
    clip_norm: Annotated[float | None, "bound of the gradient's norm", AT_LEAST_0 | None] = None
    clip_value: Annotated[float | None, "bound of each entry of the gradient", AT_LEAST_0 | None] = None
    ema: Annotated[
        float | Auto | None,
        "decay per step of an average of the weights, as 0.999; none; 'auto': 0.99 for the table model",
        number("a number in (0, 1)", lambda v: 0 < v < 1) | "auto" | None,
    ] = "auto"
    precision: Annotated[str, "auto, float32, bfloat16, float64"] = "auto"
    compile: Annotated[bool | Auto, "whether to torch.compile the model", YES_OR_NO | "auto"] = "auto"
    graph: Annotated[
        bool | Auto,
        "on a GPU, the whole step as one CUDA graph: 'auto' where it can be captured, False: never",
        YES_OR_NO | "auto",
    ] = "auto"
    device: Annotated[str, "auto, cpu, cuda, mps", Kind()] = "auto"
    threads: Annotated[
        int | Auto, "CPU threads per step; 'auto': all, unless fewer are measured to be faster", AT_LEAST_1 | "auto"
    ] = "auto"
    seed: Annotated[int, "of everything random", SEED] = 0
    deterministic: Annotated[
        bool, "choose by no clock: the same seed gives the same model; step times are stated, not measured"
    ] = False
    step_times: Annotated[
        Mapping[str, float] | Auto,
        "seconds of a step by batch size, as the plan of an earlier run has them; 'auto' measures them",
        Kind("seconds by batch size", lambda value: isinstance(value, Mapping)) | "auto",
    ] = "auto"
    shuffle: Annotated[
        str,
        "how rows are drawn: exact, block, none, replacement; balanced (classes equally often), 'weighted by COLUMN'",
    ] = "exact"
    evaluate_every: Annotated[
        float | Auto, "epochs between evaluations; 'auto': one, or less early on and in short runs", ABOVE_0 | "auto"
    ] = "auto"
    save_every: Annotated[
        int | Auto, "steps between checkpoints; 'auto': where a row is logged, at most every 30 s", AT_LEAST_1 | "auto"
    ] = "auto"
    on_nonfinite: Annotated[
        Literal["stop", "skip", "rollback"],
        "a loss or gradient that is NaN or infinite: 'stop'; 'skip' the mini-batch; 'rollback': go back, halve the lr",
        Kind("'stop', 'skip', 'rollback'", lambda value: str(value) in ("stop", "skip", "rollback")),
    ] = "stop"
    batch_growth: Annotated[
        "str | growth | grow_batch | None", "how a batch that was chosen may grow: 'auto', None, 'grow_batch(every=10)'"
    ] = "auto"
    resume: Annotated[
        bool | Auto,
        "go on with the run that the folder holds; 'auto' as well: start one where it holds none",
        YES_OR_NO | "auto",
    ] = False
    join: Annotated[bool, "train together with the ranks that torchrun (or the like) started; False: alone"] = True
    sharding: Annotated[
        Literal["fsdp"] | None,
        "'fsdp': each rank holds its part of parameters, gradients and optimizer state, by torch's FSDP2",
        Kind("'fsdp'", lambda value: str(value) == "fsdp") | None,
    ] = None
    timeout: Annotated[float, "seconds that ranks wait for one another", ABOVE_0] = 120.0
    overwrite: Annotated[bool, "replace the run that the folder holds"] = False
    profile: Annotated[bool, "time the parts of each step, and trace some: see the report and trace.json"] = False
    verbose: Annotated[bool, "print every choice with its reason, not four lines"] = False
    quiet: Annotated[bool, "print only the result"] = False

    @classmethod
    def of(cls, given: Mapping[str, object]) -> "Config":
        """The options given by name, checked as far as can be without the data. Raises HandfulError."""
        for name, value in given.items():
            if name not in OPTIONS:
                raise HandfulError(no_option(name, OPTIONS))
            if not (kind := OPTIONS[name].kind).fits(value):
                raise HandfulError(f"{name} must be {kind.words}, not {' '.join(repr(value).split())[:200]}")
        return cls(**cast("ConfigOptions", given))


class TrainingOptions(TypedDict, total=False):
    """The options that the estimators take by name too: names and types of `Config`."""

    valid: "float | Data"
    batch: "int | str | grow_batch"
    optimizer: "Optimizers"
    lr: "Rates"
    schedule: "Schedules"
    until: "str | float | Rule | None"
    loss: "Losses"
    l1: float
    l2: float | Auto
    augment: "Augments"
    preprocess: "Steps | Pipeline"
    ema: float | Auto | None
    precision: str
    device: str


class ConfigOptions(TrainingOptions, total=False):
    """All names and types of `Config`, for `fit(..., **options: Unpack[ConfigOptions])` (PEP 692)."""

    target: str | None
    micro_batch: int | Auto
    training_step: "Callable[..., object] | None"
    metrics: "Metrics"
    init: "str | PathLike[str] | None"
    task: str | None
    recipe: str | None
    columns: str | Sequence[str] | None
    windows: "int | str | Mapping[str, object] | None"
    weight: str | None
    collate: "Callable[..., object] | None"
    bad_rows: "int | str"
    score: str
    better: "Better"
    label_smoothing: float
    class_weight: str | Sequence[float] | Mapping[object, float] | None
    clip_norm: float | None
    clip_value: float | None
    compile: bool | Auto
    graph: bool | Auto
    threads: int | Auto
    seed: int
    deterministic: bool
    step_times: Mapping[str, float] | Auto
    shuffle: str
    evaluate_every: float | Auto
    save_every: int | Auto
    on_nonfinite: Literal["stop", "skip", "rollback"]
    batch_growth: "str | growth | grow_batch | None"
    resume: bool | Auto
    join: bool
    sharding: Literal["fsdp"] | None
    timeout: float
    overwrite: bool
    profile: bool
    verbose: bool
    quiet: bool


@dataclass(frozen=True)
class Option:
    """A field of `Config` as its readers want it."""

    name: str
    default: str | float | None
    type: object
    help: str
    kind: Kind = Kind()

    @property
    def hint(self) -> object:
        """The type as a signature shows it."""
        return self.type.__forward_arg__ if isinstance(self.type, ForwardRef) else self.type


_USUAL: dict[object, Kind] = {
    str: Kind("text", lambda v: isinstance(v, str)),
    str | None: Kind("text", lambda v: isinstance(v, str | None)),
    bool: Kind("True or False", lambda v: not is_array(v) and v in (True, False)),
}
_READ = {f.name: (*get_args(f.type), _USUAL.get(get_args(f.type)[0], Kind()))[:3] for f in fields(Config)}
OPTIONS = {f.name: Option(f.name, cast("str | float | None", f.default), *_READ[f.name]) for f in fields(Config)}


def spelled_out(function: F) -> F:
    """The function with each option of its `**options: Unpack[...]` in its signature, with Config's default, and in its
    docstring, where that says {options}."""
    shown = signature(function)
    (packed,) = (p for p in shown.parameters.values() if p.kind is Parameter.VAR_KEYWORD)
    (names,) = get_args(packed.annotation)
    options = [option for option in OPTIONS.values() if option.name in names.__annotations__]
    named = [Parameter(o.name, Parameter.KEYWORD_ONLY, default=o.default, annotation=o.hint) for o in options]
    kept = [p for p in shown.parameters.values() if p.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)]
    vars(function)["__signature__"] = shown.replace(parameters=[*kept, *named])
    lines = (textwrap.fill(f"{o.name}: {o.help}", 112, subsequent_indent=" " * 4) for o in options)
    function.__doc__ = cleandoc(function.__doc__ or "").replace("{options}", "\n".join(lines))
    return function
