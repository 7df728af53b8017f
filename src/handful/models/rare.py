"""Rare categories: learned for what they may say, and not by heart."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SHARE = 3.0


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
