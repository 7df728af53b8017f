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
from collections.abc import Callable, Mapping
from typing import Any

from handful.base.errors import HandfulError, did_you_mean
from handful.models.auto import FEW_ROWS, MODELS, choose, named
from handful.models.base import Inputs, Model, Shape, seeded

__all__ = ["FEW_ROWS", "MODELS", "Model", "build", "choose", "from_config", "named", "seeded"]


def build(
    name: str,
    *,
    kind: str,
    shape: Shape,
    outputs: int,
    inputs: Inputs | Mapping[str, Any] | None = None,
    rows: int | None = None,
    seed: int = 0,
    **options: object,
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
        raise HandfulError(f"model {name} is for {' or '.join(model.kinds)} data, and this is {kind}: {instead}")
    return _make(model, model.arguments(Inputs.of(kind, shape, inputs), outputs, rows) | options, seed)


def from_config(config: Mapping[str, object], seed: int = 0) -> Model:
    """The model that `config` (from `Model.config`) describes, with fresh weights from `seed`.

    >>> model = from_config({"model": "linear", "features": 4, "outputs": 2})
    >>> from_config(model.config).config == model.config
    True
    """
    match config:
        case {"model": str(name), **arguments}:
            return _make(_find(name), arguments, seed)
    raise HandfulError("the description of the model does not name it: 'model' is missing")


def _find(name: str) -> type[Model]:
    if name not in MODELS:
        raise HandfulError(f"there is no ready-made model '{name}'.{did_you_mean(name, MODELS)}")
    return MODELS[name]


def _make(model: type[Model], arguments: dict[str, object], seed: int) -> Model:
    make: Callable[..., Model] = model
    known = [p for p in inspect.signature(model.__init__).parameters if p != "self"]
    for key in arguments:
        if key not in known:
            raise HandfulError(f"model {model.name} has no option '{key}'.{did_you_mean(key, known)}")
    try:
        with seeded(seed):
            return make(**arguments)
    except (ValueError, TypeError, RuntimeError) as error:
        raise HandfulError(f"model {model.name} cannot be made with these options: {error}") from None
