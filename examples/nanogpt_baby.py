"""The peer of shakespeare.py: nanoGPT's CPU-sized baby configuration in plain torch."""

import math
import time

import torch
import torch.nn.functional as F
from torch import nn


class Baby(nn.Module):
    """4 layers, 4 heads, 128 dimensions, blocks of 64, no dropout, no biases, tied embeddings."""

    def __init__(self, vocabulary):
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 512, 0.0, "gelu", batch_first=True, norm_first=True, bias=False)
        self.blocks = nn.TransformerEncoder(layer, 4, nn.LayerNorm(128, bias=False), enable_nested_tensor=False)
        self.tokens, self.places = nn.Embedding(vocabulary, 128), nn.Embedding(64, 128)
        self.mask = nn.Transformer.generate_square_subsequent_mask(64)
        for name, p in self.named_parameters():
            if p.ndim > 1:
                last = name.endswith(("out_proj.weight", "linear2.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(8) if last else 0.02)

    def loss(self, x, y):
        h = self.blocks(self.tokens(x) + self.places.weight, self.mask, is_causal=True)
        return F.cross_entropy(F.linear(h, self.tokens.weight).flatten(0, 1), y.flatten())


def train(tokens, vocabulary, seconds, seed, steps=2000):
    """Its 2,000 steps of 12 blocks, or as many as fit into the time: (model, seconds taken, tokens seen)."""
    torch.manual_seed(seed)
    baby = Baby(vocabulary)
    adam, start, step = (
        torch.optim.AdamW(baby.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1),
        time.perf_counter(),
        0,
    )
    while (spent := (time.perf_counter() - start) / seconds) < 1 and step < steps:
        decay = 0.1 + 0.45 * (1 + math.cos(math.pi * max(spent, step / steps)))  # to a tenth of the rate, when it ends
        adam.param_groups[0]["lr"] = 1e-3 * min((step + 1) / 100, decay)
        x = tokens[torch.randint(len(tokens) - 65, (12, 1)) + torch.arange(65)]
        adam.zero_grad()
        baby.loss(x[:, :-1], x[:, 1:]).backward()
        nn.utils.clip_grad_norm_(baby.parameters(), 1.0)
        adam.step()
        step += 1
    return baby, time.perf_counter() - start, step * 12 * 64
