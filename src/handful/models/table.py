"""A strong small network for tables: embedded categories, periodic embeddings of numbers, residual layers, members."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.models.base import Dropout, Inputs, Model, sixteens
from handful.models.members import Factors, Heads, mean_of_members
from handful.models.plain import numbers_per_row
from handful.models.rare import Rare

# With more numbers per row (pixels, spectra) each tells little by itself, and an encoding of each fits its noise.
PERIODIC = 32
PERIODIC_SIZE = 8  # numbers that one is encoded in
# The paper's 32 members would cost a CPU four times as much as 8, and on large tables, whose epochs are long, the
# fourth to the eighth add little (benchmarks/results/members.md).
MEMBERS, FEWER, MANY_ROWS = 8, 4, 20_000


class Periodic(nn.Module):
    """Numbers to ReLU(Linear(sin and cos of learned frequencies)), "PLR" of Gorishniy et al. 2022.

    arXiv:2203.05556, section 3.3: v = 2 pi c x with c ~ N(0, sigma^2) for each number, one Linear shared by all
    numbers (the "lite" form of the authors' code). x: float [m, F]; returns [m, F, size].
    """

    def __init__(self, numbers: int, frequencies: int, size: int, sigma: float) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.randn(numbers, frequencies) * sigma)
        self.linear = nn.Linear(2 * frequencies, size)

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * self.frequency * x[:, :, None]
        return torch.relu(self.linear(torch.cat([angle.cos(), angle.sin()], dim=-1)))


class ResidualLayer(nn.Module):
    """x + Linear(dropout(ReLU(Linear(norm(x))))): Gorishniy et al. 2021, arXiv:2106.11959, section 3.2."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.into = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.back, self.dropout = nn.Linear(2 * width, width), Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.back(self.dropout(torch.relu(self.into(self.norm(x)))))
        return x + change


class Table(Model):
    """For tables of numbers and categories.

    numbers: float [m, F], standardised; categories: int64 [m, K], ids in 0..cardinality - 1; or x: float [m, F].
    counts: training rows of each id, so that rare ones are not learned by heart (see `handful.models.rare`).
    Returns [m, outputs]. encoding: "periodic", or "plain" (the numbers alone; chosen for F above 32). members: networks
    that share most weights (see `handful.models.members`); where there are several, training returns [m * members,
    outputs], a row's members one after the other, each to be right by itself, and evaluation their mean. LayerNorm, so
    that rows of a batch do not touch each other.

    >>> model = Table(features=3, outputs=1, cardinalities=[5, 9])
    >>> model(numbers=torch.zeros(4, 3), categories=torch.zeros(4, 2, dtype=torch.int64)).shape
    torch.Size([4, 1])
    """

    name = "table"
    kinds = ("table", "vector")
    ema = 0.99
    fills_up = True

    def __init__(
        self,
        features: int,
        outputs: int,
        cardinalities: Sequence[int] = (),
        width: int = 128,
        blocks: int = 2,
        encoding: str = "periodic",
        frequencies: int = 16,
        sigma: float = 0.1,
        dropout: float = 0.1,
        members: int = 1,
        counts: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__(locals())
        if encoding not in ("periodic", "plain"):
            raise HandfulError(f"encoding must be 'periodic' or 'plain', not '{encoding}'")
        sizes = [min(32, max(2, round(1.6 * n**0.56))) for n in cardinalities]
        self.embeddings = nn.ModuleList(nn.Embedding(n, d) for n, d in zip(cardinalities, sizes))
        for embedding in self.embeddings:  # spread as standardised numbers are, which stand next to them
            nn.init.normal_(embedding.weight, std=0.3)  # type: ignore[arg-type]
        self.rare = Rare(counts) if counts else None
        periodic = encoding == "periodic" and features > 0
        self.periodic = Periodic(features, frequencies, PERIODIC_SIZE, sigma) if periodic else None
        of_feature = [1] * features + [PERIODIC_SIZE] * features * periodic + sizes
        self.members = members
        self.factors = Factors(members, of_feature, signs=not periodic) if members > 1 else None
        self.into = nn.Linear(sum(of_feature), width)
        self.blocks = nn.Sequential(*(ResidualLayer(width, dropout) for _ in range(blocks)))
        last = nn.Linear(width, outputs) if members == 1 else Heads(members, width, outputs)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), last)

    @classmethod
    def arguments(cls, inputs: Inputs, outputs: int, rows: int | None) -> dict[str, object]:
        features = numbers_per_row(cls.name, inputs)
        return {
            "features": features,
            "outputs": outputs,
            "cardinalities": inputs.cardinalities if inputs.kind == "table" else (),
            "counts": inputs.counts if inputs.kind == "table" else (),
            "encoding": "periodic" if features <= PERIODIC else "plain",
            "members": FEWER if (rows or 0) > MANY_ROWS else MEMBERS,
            "dropout": 0.1 if outputs == 1 else 0.3,  # one output: a regression, which noise in the layers blurs
        }

    def forward(
        self, x: Tensor | None = None, numbers: Tensor | None = None, categories: Tensor | None = None
    ) -> Tensor:
        numbers = numbers if numbers is not None else x
        parts: list[Tensor] = []
        if numbers is not None and numbers.shape[1]:
            parts.append(numbers)
            if self.periodic is not None:
                parts.append(self._apart(self.periodic, numbers).flatten(1))
        if categories is not None:
            categories = categories if self.rare is None else self.rare(categories)
            parts += [embedding(categories[:, k]) for k, embedding in enumerate(self.embeddings)]
        row = torch.cat(parts, dim=1)
        if self.factors is not None:
            row = self.factors(row).flatten(0, 1)
        hidden = self._apart(lambda rows: self.blocks(self.into(rows)), row)
        if self.factors is None:
            return self._apart(self.out, hidden)
        y = self._apart(self.out, hidden.view(-1, self.members, hidden.shape[1]))
        return y.flatten(0, 1) if self.training else mean_of_members(y)

    def _apart(self, layer: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """layer(rows); outside training to the same bits for a row whatever others there are: see `sixteens`."""
        if self.training or torch.compiler.is_compiling():
            return layer(rows)
        return layer(sixteens(rows))[: len(rows)]
