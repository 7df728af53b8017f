"""Linear and mlp: for rows of any fixed shape, and for tables."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.base.errors import HandfulError, did_you_mean
from handful.models import base
from handful.models.base import Dropout, Inputs, Model, numbers_per_row


class Features(nn.Module):
    """Any input as rows of numbers: x [m, ...] flattened, or numbers [m, F] and one-hot categories [m, K].

    features: F, or the size of a row of x; cardinalities: ids of each category, id 0 (missing) included, which gets
    no number of its own. Returns float [m, width].
    """

    def __init__(self, features: int, cardinalities: Sequence[int] = ()) -> None:
        super().__init__()
        self.cardinalities = tuple(cardinalities)
        self.width = features + sum(size - 1 for size in cardinalities)

    def forward(
        self, x: Tensor | None = None, numbers: Tensor | None = None, categories: Tensor | None = None
    ) -> Tensor:
        parts = [v.flatten(1) for v in (x, numbers) if v is not None]
        if categories is not None:
            like = parts[0].dtype if parts else torch.get_default_dtype()
            for k, size in enumerate(self.cardinalities):
                parts.append(F.one_hot(categories[:, k], size)[:, 1:].to(like))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


class OfRows(Model):
    """What linear and mlp share: features of a whole row, layers, outputs."""

    kinds = ("vector", "table", "image", "tensor")
    features: Features
    layers: nn.Module
    out: nn.Linear

    @classmethod
    def arguments(cls, inputs: Inputs, outputs: int, rows: int | None) -> dict[str, object]:
        given = {"features": numbers_per_row(cls.name, inputs), "outputs": outputs}
        return given | ({"cardinalities": list(inputs.cardinalities)} if inputs.kind == "table" else {})

    def forward(
        self, x: Tensor | None = None, numbers: Tensor | None = None, categories: Tensor | None = None
    ) -> Tensor:
        return self.out(self.layers(self.features(x, numbers, categories)))  # type: ignore[no-any-return]


class Linear(OfRows):
    """Logistic or linear regression: outputs = W x + b. Input: x [m, ...] float, or numbers and categories.

    features: numbers per row. Returns [m, outputs]. Parameters: (features + 1) * outputs. of_row: how many numbers of a
    row are not 0.

    >>> Linear(features=64, outputs=10)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    name = "linear"

    def __init__(self, features: int, outputs: int, cardinalities: Sequence[int] = (), dropout: float = 0.0) -> None:
        super().__init__(locals())
        self.features = Features(features, cardinalities)
        self.layers = Dropout(dropout)
        self.out = nn.Linear(self.features.width, outputs)
        self.of_row = float(features + len(cardinalities))

    def begin(self, x: Tensor) -> None:
        self.of_row = float((x.flatten(1) != 0).sum(1).double().mean())


class Mlp(OfRows):
    """Fully connected layers: (Linear, norm, activation, dropout) for each hidden size, then Linear.

    Input: x [m, ...] float, or numbers [m, F] and categories [m, K]. Returns [m, outputs].
    norm: "none", "layer" or "batch"; activation: "relu", "gelu", "silu", "tanh", "logistic" or "identity".

    >>> Mlp(features=784, outputs=10, hidden=[128])(torch.zeros(5, 784)).shape
    torch.Size([5, 10])
    """

    name = "mlp"

    def __init__(
        self,
        features: int,
        outputs: int,
        cardinalities: Sequence[int] = (),
        hidden: Sequence[int] = (256, 128),
        norm: str = "none",
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(locals())
        self.features = Features(features, cardinalities)
        layers: list[nn.Module] = []
        width = self.features.width
        for size in hidden:
            layers += [nn.Linear(width, size), *_norm(norm, size), base.activation(activation), Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(width, outputs)


def _norm(name: str, size: int) -> list[nn.Module]:
    known: dict[str, list[nn.Module]] = {"none": [], "layer": [nn.LayerNorm(size)], "batch": [nn.BatchNorm1d(size)]}
    if name not in known:
        raise HandfulError(f"there is no norm '{name}'.{did_you_mean(name, known)}")
    return known[name]
