#!/usr/bin/env bash
# torch 2.13.0 on a CPU, torch.multinomial(weights, n, replacement=True) of float32: of eight million items by Zipf's law, the rarest six million are never drawn.
#
# Negative samples by frequency, rows by importance, nodes by degree: weights in float32, as everything in torch is, sorted by rank, as tables of counts are.
# A share of 1e-8 is far from the smallest float32, and any one weight is exact to 7 digits. So each item is expected to come as often as its weight says, up to chance.
#
# What is searched is the sum of the weights so far, kept in float32, one added after another. Between 0.5 and 1 its steps are of 6e-8: what weighs less than
# half a step leaves the sum where it was, and has no place in which a draw could fall. Here that is all from item 2 million on, 8% of the draws, which go
# to the others, and those just before it come up to twice too often. A test draws from the same tensor of a thousand items, or looks at the most frequent ones,
# and is right. The number of draws is as asked, all are valid, nothing warns; negatives are never rare, and embeddings of rare items never pushed away.
# The scale of the weights does not matter; their order does: rarest first, the sum is small where the weights are, and the shares are right. torch.multinomial
# names its limit of 2**24 items for an error, and within it says nothing. WeightedRandomSampler turns its weights to float64, and is right; so is
# multinomial of a float64 tensor (the way out); torch.distributions.Categorical hands on what it is given.
#
# Output seen (CPU, x86_64, Python 3.11), 2 million draws of each:
#   multinomial, float32                 rarest 6 million of 8: under 0.5% of draws (by weight 8%), no item beyond 2.1 million
#   multinomial, float32, counts         rarest 6 million of 8: under 0.5% of draws (by weight 8%), no item beyond 2.1 million
#   Categorical(probs), float32          rarest 6 million of 8: under 0.5% of draws (by weight 8%), no item beyond 2.1 million
#   multinomial, float32, rarest first   rarest 6 million of 8: 8% of draws (by weight 8%), some of the last 1,000 items
#   multinomial, float64                 rarest 6 million of 8: 8% of draws (by weight 8%), some of the last 1,000 items
#   WeightedRandomSampler(float32)       rarest 6 million of 8: 8% of draws (by weight 8%), some of the last 1,000 items
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from torch.utils.data import WeightedRandomSampler

ITEMS, DRAWS = 8_000_000, 2_000_000
torch.manual_seed(0)
zipf = 1 / torch.arange(1, ITEMS + 1, dtype=torch.float64)
zipf = zipf / zipf.sum()  # the share of an item is 1 / rank: words by their frequency, products by their sales


def say(name, drawn):
    """The share of draws that fell to the three quarters of the items that are rarest; by the weights, in float64, it is 8.4%."""
    share, exact = float((drawn >= ITEMS // 4).double().mean()), float(zipf[ITEMS // 4 :].sum())
    beyond = "some of the last 1,000 items" if bool((drawn >= ITEMS - 1000).any()) else "no item beyond 2.1 million" if int(drawn.max()) < 2_100_000 else int(drawn.max())
    print(f"{name:36} rarest 6 million of 8: {'under 0.5%' if share < 0.005 else f'{share:.0%}'} of draws (by weight {exact:.0%}), {beyond}")


def draw(weights):
    return torch.multinomial(weights, DRAWS, replacement=True)


say("multinomial, float32", draw(zipf.float()))
say("multinomial, float32, counts", draw((zipf * 1e9).float()))
say("Categorical(probs), float32", torch.distributions.Categorical(zipf.float(), validate_args=False).sample((DRAWS,)))
say("multinomial, float32, rarest first", ITEMS - 1 - draw(zipf.float().flip(0)))
say("multinomial, float64", draw(zipf))
say("WeightedRandomSampler(float32)", torch.tensor(list(WeightedRandomSampler(zipf.float(), DRAWS))))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
multinomial, float32                 rarest 6 million of 8: under 0.5% of draws (by weight 8%), no item beyond 2.1 million
multinomial, float32, counts         rarest 6 million of 8: under 0.5% of draws (by weight 8%), no item beyond 2.1 million
Categorical(probs), float32          rarest 6 million of 8: under 0.5% of draws (by weight 8%), no item beyond 2.1 million
multinomial, float32, rarest first   rarest 6 million of 8: 8% of draws (by weight 8%), some of the last 1,000 items
multinomial, float64                 rarest 6 million of 8: 8% of draws (by weight 8%), some of the last 1,000 items
WeightedRandomSampler(float32)       rarest 6 million of 8: 8% of draws (by weight 8%), some of the last 1,000 items
SEEN
