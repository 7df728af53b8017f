"""The transformer block that text and language share, with rotary positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.base.errors import HandfulError
from handful.models.base import Dropout


def rotary(length: int, size: int, device: torch.device, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position times frequency, float32 [length, size / 2] each.

    Su et al. 2021, arXiv:2104.09864, section 3.2.2.
    """
    frequency = base ** (-torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + size / 2) of x [..., T, size] by their position's angle.

    The product of a turned query at position s and a turned key at position t depends on s - t alone (equation 16).
    """
    a, b = (x if x.dtype == torch.float64 else x.float()).chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). x: float [m, T, width].

    causal: a position sees itself and what is before it; else `mask`, bool [m, T], says which positions may be seen.
    """

    def __init__(self, width: int, heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        if width % (2 * heads):
            raise HandfulError(f"width must be a multiple of twice the heads, 2 * {heads}, not {width}")
        self.heads, self.causal, self.p = heads, causal, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.into, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, positions: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        m, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(m, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, *positions), rotate(k, *positions)
        seen = None if mask is None else mask[:, None, None, :]
        p = self.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p, is_causal=self.causal)
        x = x + self.dropout(self.proj(y.transpose(1, 2).reshape(m, length, width)))
        x = x + self.dropout(self.back(F.gelu(self.into(self.norm2(x)))))
        return x
