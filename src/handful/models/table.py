"""A strong small network for tables: embedded categories, periodic embeddings of numbers, residual layers, members."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.models.base import Dropout, Inputs, Model, numbers_per_row, sixteens

# With more numbers per row (pixels, spectra) each tells little by itself, and an encoding of each fits its noise.
PERIODIC = 32
PERIODIC_SIZE = 8  # numbers that one is encoded in
# The paper's 32 members would cost a CPU four times as much as 8, and on large tables, whose epochs are long, the
# fourth to the eighth add little (benchmarks/results/members.md).
MEMBERS, FEWER, MANY_ROWS = 8, 4, 20_000
SHARE = 3.0  # rows that say nothing of a category, which its own stand beside: see `Rare`


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


class Factors(nn.Module):
    """A row once for each member, every feature times the member's own number for it. Members share all weights but
    these and those of an output layer of their own (TabM of Gorishniy, Kotelnikov and Babenko 2024, arXiv:2410.24210,
    in its "mini" form).

    sizes: for each feature, how many numbers of the row belong to it, one after the other; signs: whether factors begin
    as 1 or -1, and else from N(0, 1), as there for features that are encoded. x: float [m, sum(sizes)]; returns
    [m, members, sum(sizes)].

    >>> Factors(4, [1, 8], signs=False)(torch.zeros(5, 9)).shape
    torch.Size([5, 4, 9])
    """

    def __init__(self, members: int, sizes: Sequence[int], signs: bool) -> None:
        super().__init__()
        self.members = members
        shape = (members * len(sizes),)
        self.factor = nn.Parameter(torch.randint(0, 2, shape) * 2.0 - 1.0 if signs else torch.randn(shape))
        feature = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        self.feature: Tensor
        self.register_buffer("feature", feature, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, None, :] * self.factor.view(self.members, -1)[:, self.feature]


class Heads(nn.Module):
    """A linear layer for each member, begun as nn.Linear. x: float [m, members, width]; returns [m, members, outputs].

    >>> Heads(4, 16, 3)(torch.zeros(5, 4, 16)).shape
    torch.Size([5, 4, 3])
    """

    def __init__(self, members: int, width: int, outputs: int) -> None:
        super().__init__()
        self.members, bound = members, width**-0.5
        self.weight = nn.Parameter(torch.empty(members * outputs, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members * outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.view(self.members, -1, self.weight.shape[1]), self.bias.view(self.members, -1)
        return torch.einsum("mkw,kow->mko", x, weight) + bias


def mean_of_members(y: Tensor) -> Tensor:
    """[m, members, outputs] to [m, outputs], added one after the other: torch's `mean` adds in another order where rows
    are few, and a row would not have the same bits alone.

    >>> mean_of_members(torch.tensor([[[1.0], [2.0]]]))
    tensor([[1.5000]])
    """
    total = y[:, 0]
    for k in range(1, y.shape[1]):
        total = total + y[:, k]
    return total / y.shape[1]


class Rare(nn.Module):
    """In training, takes a category of n training rows for one that was never seen with probability 3 / (3 + n).

    What is learned of one row tells little of the next, so the layers behind must not lean on it as on a category of a
    thousand; and what stands for the never seen is learned on the way. (A count of 3 rows that say nothing is the
    m-estimate of Cestnik 1990, which target encoding uses, Micci-Barreca 2001.)

    counts: training rows of each id of a column: 0 (missing), the names', and last that of names never seen.
    categories: int64 [m, K]; returns the same. Missing ones stay missing.

    >>> rare = Rare([[0, 1, 10**9, 0]])
    >>> ids = torch.tensor([[0], [1], [2]]).repeat(10_000, 1)
    >>> shares = [float((rare(ids)[k::3] == 3).float().mean()) for k in range(3)]
    >>> shares[0], 0.7 < shares[1] < 0.8, shares[2] < 0.01
    (0.0, True, True)
    >>> bool((rare.eval()(ids) == ids).all())
    True
    """

    def __init__(self, counts: Sequence[Sequence[int]]) -> None:
        super().__init__()
        width = max(map(len, counts))
        chance = torch.zeros(len(counts), width)
        for k, rows in enumerate(counts):
            chance[k, 1 : len(rows) - 1] = SHARE / (SHARE + torch.tensor(rows[1:-1], dtype=torch.float32))
        self.register_buffer("chance", chance, persistent=False)
        self.register_buffer("last", torch.tensor([len(rows) - 1 for rows in counts]), persistent=False)

    def forward(self, categories: Tensor) -> Tensor:
        if not self.training:
            return categories
        chance, last = self.get_buffer("chance"), self.get_buffer("last")
        column = torch.arange(len(last), device=categories.device)
        taken = torch.rand(categories.shape, device=categories.device) < chance[column, categories]
        return torch.where(taken, last, categories)


class Table(Model):
    """For tables of numbers and categories.

    numbers: float [m, F], standardised; categories: int64 [m, K], ids in 0..cardinality - 1; or x: float [m, F].
    counts: training rows of each id, so that rare ones are not learned by heart (see `Rare`).
    Returns [m, outputs]. encoding: "periodic", or "plain" (the numbers alone; chosen for F above 32). members: networks
    that share most weights (see `Factors`); where there are several, training returns [m * members,
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
