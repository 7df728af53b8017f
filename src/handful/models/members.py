"""Members: several networks that share all weights but a few, trained side by side; their mean is the prediction.

TabM of Gorishniy, Kotelnikov and Babenko 2024, arXiv:2410.24210, in its "mini" form: a member has
factors of its own for the features and an output layer of its own; all between is shared.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Factors(nn.Module):
    """A row once for each member, every feature times the member's own number for it.

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
