"""Ready-made models: small, modern, plain nn.Modules. Anyone's own nn.Module works wherever these do.

linear    logistic or linear regression                    any fixed shape, tables
mlp       fully connected layers                           any fixed shape, tables
table     embeddings, periodic numbers, residual layers    tables
cnn       for small or few pictures                        pictures
resnet    strong on small photographs                      pictures
text      words, pairs of words, and a small network       token ids
language  decoder-only transformer                         token ids, next token
audio     convolutions; classes, or labels by CTC          log-mel spectrograms

Where a model is named, its options can be given with it: `model="mlp(hidden=[64, 64], dropout=0.2)"`. They are the
arguments of its class that have a default.
"""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from handful.base.errors import HandfulError, did_you_mean
from handful.models.audio import Audio
from handful.models.auto import choose, read
from handful.models.base import Model, Shape, seeded
from handful.models.image import Cnn, Resnet
from handful.models.plain import Linear, Mlp
from handful.models.table import Table
from handful.models.text import Language, Text

__all__ = ["MODELS", "Model", "build", "choose", "from_config", "named", "seeded"]

MODELS: dict[str, type[Model]] = {
    model.name: model for model in (Linear, Mlp, Table, Cnn, Resnet, Text, Language, Audio)
}


def build(
    name: str,
    *,
    kind: str,
    shape: Shape,
    outputs: int,
    inputs: Any = None,
    rows: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Model:
    """A ready-made model for some data, with weights from `seed`; the global random state stays as it was.

    kind, shape, inputs: of the input, as `Pipeline.inputs` (an `Inputs` or a mapping with the same keys); outputs:
    numbers to give for a row (a token, for language); rows: to train on, where that is known. options: the
    constructor's further arguments. Raises HandfulError for an unknown name or option and for data that the model is
    not for.

    >>> model = build("mlp", kind="vector", shape=(20,), outputs=3, hidden=[32])
    >>> model.config["features"], sum(p.numel() for p in model.parameters())
    (20, 771)
    """
    model = _find(name)
    if kind not in model.kinds:
        fit = [n for n, m in MODELS.items() if kind in m.kinds]
        instead = f"take {' or '.join(fit)}" if fit else "bring a model of your own"
        raise HandfulError(f"model {name} is for {' or '.join(model.kinds)} data, and this is {kind}: {instead}.")
    facts = asdict(inputs) if is_dataclass(inputs) and not isinstance(inputs, type) else dict(inputs or {})
    found = model.arguments(kind, tuple(shape), outputs, facts | {"rows": rows})
    return _make(model, {**found, **options}, seed)


def named(text: str) -> tuple[str, dict[str, Any]]:
    """The name of a ready-made model, or "auto", and the options written behind it, for `build`.

    Raises HandfulError for an unknown name or option, or a value that an option cannot have.

    >>> named("table(width=64)"), named("auto")
    (('table', {'width': 64}), ('auto', {}))
    """
    return read(text, MODELS)


def from_config(config: Mapping[str, Any], seed: int = 0) -> Model:
    """The model that `config` (from `Model.config`) describes, with fresh weights from `seed`.

    >>> model = from_config({"model": "linear", "features": 4, "outputs": 2})
    >>> from_config(model.config).config == model.config
    True
    """
    arguments = dict(config)
    name = arguments.pop("model", None)
    if not isinstance(name, str):
        raise HandfulError("the description of the model does not name it: 'model' is missing.")
    return _make(_find(name), arguments, seed)


def _find(name: str) -> type[Model]:
    if name not in MODELS:
        raise HandfulError(f"there is no ready-made model '{name}'.{did_you_mean(name, MODELS)}")
    return MODELS[name]


def _make(model: type[Model], arguments: dict[str, Any], seed: int) -> Model:
    known = [p for p in inspect.signature(model.__init__).parameters if p != "self"]
    for key in arguments:
        if key not in known:
            raise HandfulError(f"model {model.name} has no option '{key}'.{did_you_mean(key, known)}")
    try:
        with seeded(seed):
            return model(**arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        raise HandfulError(f"model {model.name} cannot be made with these options: {error}") from None
