"""Which ready-made model to take for some data when the user does not say."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from handful.base import expression
from handful.base.errors import HandfulError
from handful.models.base import Model

ENOUGH = 1000  # pictures for a larger network


def choose(
    kind: str,
    n: int,
    shape: tuple[int | None, ...],
    *,
    inputs: Any = None,
    task: str | None = None,
    device: str = "cpu",
) -> tuple[str, dict[str, Any], str]:
    """The name of a model, options for `build`, and the reason in a sentence.

    kind, shape, inputs: of the input, as in `build`; n: training rows; task: as `Pipeline.task`; device: "cpu",
    "cuda", ...: a larger model is taken where it costs little.

    >>> choose("image", 50_000, (3, 32, 32))[:2]
    ('resnet', {'widths': [32, 128, 128]})
    """
    if kind == "image":
        return _image(n, shape, device)
    if kind == "table":
        return _table(n, inputs)
    if kind == "text":
        return "text", {}, "weighs words and pairs of words, beside the mean of word vectors: learns from few texts"
    if kind == "language":
        return "language", {}, "a small transformer that predicts the next token"
    if kind == "audio":
        if task == "sequence":
            return "audio", {"ctc": True}, "labels in order but without times: convolutions trained with CTC"
        return "audio", {}, "convolutions over time and frequency"
    if kind in ("vector", "tensor"):
        if n < 200:
            return "linear", {}, f"{n} rows are too few for hidden layers"
        return "mlp", {}, "rows of numbers without known structure"
    raise HandfulError(f"there is no ready-made model for {kind} data; bring an nn.Module of your own.")


def _image(n: int, shape: tuple[int | None, ...], device: str) -> tuple[str, dict[str, Any], str]:
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


def _table(n: int, inputs: Any) -> tuple[str, dict[str, Any], str]:
    known = inputs if isinstance(inputs, Mapping) else vars(inputs) if inputs is not None else {}
    columns = int(known.get("n_numbers") or 0) + sum(known.get("cardinalities") or ())
    if n < 200:
        return "linear", {}, f"{n} rows are too few for hidden layers"
    if n < 2000:
        return "table", {"width": 64, "dropout": 0.2}, f"a table of {n} rows: a narrow network with more dropout"
    return "table", {}, f"a table of {n} rows and about {columns} features" if columns else f"a table of {n} rows"


FOUND = ("self", "cardinalities", "counts", "ctc")  # what has a default, and yet is for the data to say


def read(text: str, models: Mapping[str, type[Model]]) -> tuple[str, dict[str, Any]]:
    """The name and the options in `text`. Raises HandfulError for a model or an option that there is not, and for a
    value of another kind than the option's.

    >>> from handful.models import MODELS
    >>> read("mlp(hidden=[64, 32], dropout=0.2)", MODELS)
    ('mlp', {'hidden': [64, 32], 'dropout': 0.2})
    """
    if text.strip() == "auto":
        return "auto", {}
    found = expression.parse(text, {name: _taking(model) for name, model in models.items()}, "model")
    assert isinstance(found, tuple)
    return found


def _taking(model: type[Model]) -> Callable[..., tuple[str, dict[str, Any]]]:
    """A function with the model's options as its keywords, for `expression.parse`, which reads its signature."""
    parameters = inspect.signature(model.__init__).parameters.values()
    open_ones = {p.name: p for p in parameters if p.default is not p.empty and p.name not in FOUND}

    def take(**options: Any) -> tuple[str, dict[str, Any]]:
        return model.name, {name: _checked(name, value, open_ones[name].default) for name, value in options.items()}

    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in open_ones.values()]
    take.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return take


def _checked(name: str, value: Any, default: Any) -> Any:
    """The value, if it is of the default's kind. Widths, depths and counts are whole numbers from 1 on."""
    if isinstance(default, bool | str):
        if type(value) is not type(default):
            raise HandfulError(f"{name} needs {'True or False' if isinstance(default, bool) else 'a word in quotes'}.")
        return value
    if isinstance(default, int):
        return expression.positive_integer(value, name)
    if isinstance(default, float):
        return expression.number(value, name, least=0)
    if not isinstance(value, list) or not value:
        raise HandfulError(f"{name} needs a list of whole numbers, such as {list(default)}.")
    return [expression.positive_integer(item, f"each of {name}") for item in value]
