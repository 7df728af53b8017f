"""A linear model of the words and pairs of words of a text: the wide path next to a network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = 8.0  # length of a row of n-grams: the path then learns at the rate that suits the network next to it
_MIX = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, odd (Knuth's multiplicative hash), as an int64


class NGrams(nn.Module):
    """Which words and runs of up to `longest` words a text has, each with a weight of its own for every output.

    x: integers [m, T], 0 = padding; returns [m, outputs]. A word has its own row of the table, a run of 2 or more is
    hashed to one of `buckets` rows (Joulin et al. 2017, arXiv:1607.01759). Each counts once however often it stands
    in the text (Wang and Manning 2012: better than counts), and a text's row has length 8 however long it is. The
    weights begin at 0. buckets: a power of two.

    >>> path = NGrams(vocabulary=100, outputs=2, longest=2, buckets=64)
    >>> path.ids(torch.tensor([[5, 7, 5, 7, 0]])).unique().shape, path(torch.tensor([[5, 7, 0]])).shape
    (torch.Size([5]), torch.Size([1, 2]))
    """

    def __init__(self, vocabulary: int, outputs: int, longest: int, buckets: int) -> None:
        super().__init__()
        self.vocabulary, self.longest, self.buckets = vocabulary, longest, buckets
        self.weight = nn.Embedding(vocabulary + buckets, outputs, padding_idx=0)
        nn.init.zeros_(self.weight.weight)

    def ids(self, x: Tensor) -> Tensor:
        """Rows of the table for x [m, T]: [m, longest * T], sorted, each once, 0 where there is none."""
        found, run = [x], x
        for n in range(1, min(self.longest, x.shape[1])):
            last = F.pad(x[:, n:], (0, n))
            run = (run ^ (run >> 29)) * _MIX + last  # int64 wraps round
            mixed = (run ^ (run >> 32)) * _MIX >> 20
            bucket = self.vocabulary + (mixed & (self.buckets - 1))
            found.append(torch.where((last != 0) & (x != 0), bucket, 0))
        ids = torch.cat(found, 1).sort(1).values
        again = F.pad(ids[:, 1:] == ids[:, :-1], (1, 0))
        return ids.masked_fill(again, 0)

    def forward(self, x: Tensor) -> Tensor:
        ids = self.ids(x)
        length = (ids != 0).sum(1, keepdim=True).clamp_min(1).sqrt()
        return self.weight(ids).sum(1) * (SCALE / length)  # type: ignore[no-any-return]
