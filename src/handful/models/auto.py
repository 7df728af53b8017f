"""The ready-made models by name, which one to take for some data when the user does not say, and their options."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from handful.base import expression
from handful.base.errors import HandfulError
from handful.models.audio import Audio
from handful.models.base import Inputs, Model, Shape
from handful.models.image import Cnn, Resnet
from handful.models.plain import Linear, Mlp
from handful.models.table import Table
from handful.models.text import Language, Text

MODELS: dict[str, type[Model]] = {
    model.name: model for model in (Linear, Mlp, Table, Cnn, Resnet, Text, Language, Audio)
}
FEW_ROWS = 75  # a table of fewer is for a single layer
FEW_VECTORS = 200  # so are fewer rows of numbers without names, for which the other model is one network alone
ENOUGH = 1000  # pictures for a larger network
BY_DATA = ("self", "cardinalities", "counts", "ctc")  # what has a default, and yet is for the data to decide

Options = dict[str, object]
Chosen = tuple[str, Options, str]

_BY_KIND: dict[str, Chosen] = {
    "text": ("text", {}, "weighs words and pairs of words, and the mean of word vectors: learns from few texts"),
    "language": ("language", {}, "a small transformer that predicts the next token"),
    "audio": ("audio", {}, "convolutions over time and frequency"),
    "vector": ("mlp", {}, "rows of numbers without known structure"),
    "tensor": ("mlp", {}, "rows of numbers without known structure"),
}


def choose(
    kind: str, n: int, shape: Shape, *, inputs: Inputs | Mapping[str, Any] | None = None, task: str | None = None,
    device: str = "cpu",
) -> Chosen:  # fmt: skip
    """The name of a model, options for `build`, and the reason in a sentence.

    kind, shape, inputs: of the input, as in `build`; n: training rows; task: as `Pipeline.task`; device: "cpu",
    "cuda", ...: a larger model is taken where it costs little.

    >>> choose("image", 50_000, (3, 32, 32))[:2]
    ('resnet', {'widths': [32, 128, 128]})
    """
    if kind == "image":
        return _image(n, shape, device)
    if n < {"table": FEW_ROWS, "vector": FEW_VECTORS, "tensor": FEW_VECTORS}.get(kind, 0):
        return "linear", {}, f"{n} rows are too few for hidden layers"
    if kind == "table":
        return _table(n, Inputs.of(kind, shape, inputs))
    if kind == "audio" and task == "sequence":
        return "audio", {"ctc": True}, "labels in order but without times: convolutions trained with CTC"
    if kind not in _BY_KIND:
        raise HandfulError(f"there is no ready-made model for {kind} data; bring an nn.Module of your own")
    return _BY_KIND[kind]


def _image(n: int, shape: Shape, device: str) -> Chosen:
    side = min(s or 0 for s in shape[-2:])
    if side < 4:
        return "mlp", {}, f"pictures with a side of {side} pixels are too small for convolutions"
    if side >= 24 and n >= ENOUGH:
        if device != "cpu":
            return "resnet", {}, "pictures, enough rows, and a GPU"
        return "resnet", {"widths": [32, 128, 128]}, "pictures, enough rows; half the usual width, for a CPU"
    if n <= 20_000:
        return "cnn", {"width": 32}, "pictures; the data are few enough for twice the usual work on each"
    return "cnn", {}, "pictures; a network that two CPU cores train in minutes"


def _table(n: int, inputs: Inputs) -> Chosen:
    columns = inputs.n_numbers + sum(inputs.cardinalities)
    if n < 2000:
        return "table", {"width": 64, "dropout": 0.2}, f"a table of {n} rows: a narrow network with more dropout"
    return "table", {}, f"a table of {n} rows and about {columns} features" if columns else f"a table of {n} rows"


def named(text: str) -> tuple[str, Options]:
    """The name of a ready-made model, or "auto", and the options written behind it, for `build`.

    Raises HandfulError for an unknown name or option, or a value that an option cannot have.

    >>> named("table(width=64)"), named("mlp(hidden=[64, 32])"), named("auto")
    (('table', {'width': 64}), ('mlp', {'hidden': [64, 32]}), ('auto', {}))
    """
    if text.strip() == "auto":
        return "auto", {}
    return expression.parse(text, {name: _taking(model) for name, model in MODELS.items()}, "model")


def _taking(model: type[Model]) -> Callable[..., tuple[str, Options]]:
    """A function with the model's options as its keywords, for `expression.parse`, which reads its signature."""
    parameters = inspect.signature(model.__init__).parameters.values()
    settable = {p.name: p for p in parameters if p.default is not p.empty and p.name not in BY_DATA}

    def take(**options: object) -> tuple[str, Options]:
        return model.name, {name: _checked(name, value, settable[name].default) for name, value in options.items()}

    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in settable.values()]
    take.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return take


def _checked(name: str, value: object, default: object) -> object:
    """The value, if it is of the default's kind. Widths, depths and counts are whole numbers from 1 on."""
    match default, value:
        case (bool(), bool()) | (str(), str()):
            return value
        case bool(), _:
            raise HandfulError(f"{name} must be True or False, not {value!r}")
        case str(), _:
            raise HandfulError(f"{name} must be a word in quotes, not {value!r}")
        case int(), _:
            return expression.positive_integer(value, name)
        case float(), _:
            return expression.number(value, name, least=0)
        case _, [_, *_]:
            return [expression.positive_integer(item, f"each of {name}") for item in value]
    raise HandfulError(f"{name} must be a list of positive integers, not {value!r}")
