"""A ready-made model as its user writes it: a name, or with some options, `mlp(hidden=[64], dropout=0.2)`."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from handful import expression
from handful.errors import HandfulError
from handful.model.base import Model

FOUND = ("self", "cardinalities", "counts", "ctc")  # what has a default, and yet is for the data to say


def read(text: str, models: Mapping[str, type[Model]]) -> tuple[str, dict[str, Any]]:
    """The name and the options in `text`. Raises HandfulError for a model or an option that there is not, and for a
    value of another kind than the option's.

    >>> from handful.model import MODELS
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
    if isinstance(default, int | float):
        whole = isinstance(default, int)
        return expression.number(value, name, least=1 if whole else 0, whole=whole)
    if not isinstance(value, list) or not value:
        raise HandfulError(f"{name} needs a list of whole numbers, such as {list(default)}.")
    return [expression.number(item, f"each of {name}", least=1, whole=True) for item in value]
