"""Language: the next character of Shakespeare, beside nanoGPT's CPU-sized baby configuration given the same time."""

import argparse
import math
import time

import torch
import torch.nn.functional as F
from torch import nn

import handful
from handful.transform.text import language_source

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--data", default="../shared/data/shakespeare.txt")
options.add_argument("--minutes", type=float, default=3.0, help="for each, at most")
options.add_argument("--seed", type=int, default=0)
given = options.parse_args()

torch.manual_seed(given.seed)  # the baby: 4 layers, 4 heads, 128 dimensions, blocks of 64, no dropout, tied embeddings
train, valid = language_source(handful.open(given.data), 64)
layer = nn.TransformerEncoderLayer(128, 4, 512, 0.0, "gelu", batch_first=True, norm_first=True, bias=False)
blocks = nn.TransformerEncoder(layer, 4, nn.LayerNorm(128, bias=False), enable_nested_tensor=False)
baby = nn.ModuleList([nn.Embedding(train.vocabulary, 128), nn.Embedding(64, 128), blocks])
for name, p in baby.named_parameters():
    if p.ndim > 1:
        nn.init.normal_(p, std=0.02 / math.sqrt(8) if name.endswith(("out_proj.weight", "linear2.weight")) else 0.02)


def loss_of(x, y, mask=nn.Transformer.generate_square_subsequent_mask(64)):  # noqa: B008
    h = baby[2](baby[0](x) + baby[1].weight, mask, is_causal=True)
    return F.cross_entropy(F.linear(h, baby[0].weight).flatten(0, 1), y.flatten())


tokens, adam = torch.from_numpy(train.tokens.astype("int64")), torch.optim.AdamW(baby.parameters(), 1e-3, (0.9, 0.99))
start, step = time.perf_counter(), 0
while (spent := (time.perf_counter() - start) / 60 / given.minutes) < 1 and step < 2000:
    decay = 0.1 + 0.45 * (1 + math.cos(math.pi * max(spent, step / 2000)))  # to a tenth of the rate, when it ends
    adam.param_groups[0].update(lr=1e-3 * min((step + 1) / 100, decay), weight_decay=0.1)
    x = tokens[torch.randint(len(tokens) - 65, (12, 1)) + torch.arange(65)]
    adam.zero_grad()
    loss_of(x[:, :-1], x[:, 1:]).backward()
    nn.utils.clip_grad_norm_(baby.parameters(), 1.0)
    adam.step()
    step += 1
seconds, epochs = time.perf_counter() - start, step * 12 * 64 / len(tokens)
rows = valid.take(range(len(valid)))
with torch.inference_mode():
    theirs = loss_of(rows["x"], rows["y"]).item()

length = {"until": f"epochs({0.9 * epochs:.3f})", "evaluate_every": 0.9 * epochs}  # a tenth is left for evaluating
run = handful.fit("auto", given.data, batch=8, lr=3e-3, schedule="cosine(warmup=0.1)", **length, seed=given.seed)
print(run.sample(length=300, seed=given.seed))
ours, took = run.scores["valid_loss"], run.history[-1]["seconds"]
print(
    f"loss per held-out character: handful {ours:.3f} in {took:.0f} s, nanoGPT's baby {theirs:.3f} in {seconds:.0f} s"
)
if ours > theirs:
    raise SystemExit("missed the target: at or below nanoGPT's baby configuration")
