#!/usr/bin/env bash
# pytorch-crf 0.7.2 (torch 2.13.0), CRF(emissions, tags, mask): a mask with a gap in it makes probabilities above one, and a loss that has no bottom.
#
#     loss = -crf(emissions, tags, mask=first_pieces, reduction="mean")        tags = crf.decode(emissions, mask=first_pieces)
#
# Tags of words on top of a network that reads pieces of words: only a word's first piece has a tag, the others are masked, as they are with ignore_index in a plain
# loss. The mask is asked to begin with True, and nothing else is asked of it. The guess: the chain goes over the masked places, from one kept tag to the next.
#
# Half of it does. The sum over all chains carries its score over a gap. The score of the given tags takes the transition from the *masked* tag before, whatever was filled in there, and
# takes the last tag at the place that the number of kept ones gives, in the middle of the text. So a numerator is compared with a denominator of other chains; their quotient may exceed 1, and
# then the loss, minus its logarithm, falls below 0 and on without end: training looks better the longer it goes. decode() walks back through the gaps, too, and gives as many tags as there
# are words, of other places. With padding at the end, the case that one tests, all is right. Way out: gather the kept places (emissions[:, kept]) and call it without gaps.
#
# Output seen (CPU, x86_64, Python 3.11), 500 texts of 8 words, every other of them in two pieces, three tags; 1,000 steps, then other texts
#   all 6561 chains of a text have, together, a probability of: without a gap 1.00, with one not 1.00
#   without gaps: loss above 2.5  , right 0.75 to 0.80
#   with gaps   : loss below -10  , right below 0.72
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pytorch-crf==0.7.2 2> /dev/null
cat > "$work/chain.py" <<'PY'
import itertools

import torch
from torch.nn.functional import one_hot
from torchcrf import CRF

TAGS, WORDS = 3, 8
MOVES = torch.tensor([[0.8, 0.2, 0.0], [0.2, 0.05, 0.75], [0.5, 0.05, 0.45]])
KEPT = torch.ones(WORDS * 3 // 2, dtype=torch.bool)
KEPT[2::3] = False


def texts(number, seed):
    """Tags (number, words) of a chain, and what is seen of them, (number, words, tags)."""
    draw = torch.Generator().manual_seed(seed)
    tags = torch.zeros(number, WORDS, dtype=torch.long)
    for place in range(1, WORDS):
        tags[:, place] = torch.multinomial(MOVES[tags[:, place - 1]], 1, generator=draw)[:, 0]
    return tags, one_hot(tags, TAGS) + torch.randn(number, WORDS, TAGS, generator=draw) * 1.2


def in_pieces(values):
    pieces = values.new_zeros(len(values), len(KEPT), *values.shape[2:])
    pieces[:, KEPT] = values
    return pieces


def told(gaps):
    torch.manual_seed(0)
    crf, layer = CRF(TAGS, batch_first=True), torch.nn.Linear(TAGS, TAGS)
    optimizer = torch.optim.Adam([*crf.parameters(), *layer.parameters()], lr=0.02)
    tags, seen = texts(500, 1)
    for _ in range(1000):
        optimizer.zero_grad()
        if gaps:
            loss = -crf(layer(in_pieces(seen)), in_pieces(tags), mask=KEPT.expand(len(tags), -1), reduction="mean")
        else:
            loss = -crf(layer(seen), tags, reduction="mean")
        loss.backward()
        optimizer.step()
    tags, seen = texts(1000, 2)
    found = crf.decode(layer(in_pieces(seen)), mask=KEPT.expand(len(tags), -1)) if gaps else crf.decode(layer(seen))
    return loss.item(), (torch.tensor(found) == tags).float().mean().item()


torch.manual_seed(0)
crf, emissions = CRF(TAGS, batch_first=True).double(), torch.randn(1, WORDS, TAGS).double() * 2
chains = torch.tensor(list(itertools.product(range(TAGS), repeat=WORDS)))
with torch.no_grad():
    crf.transitions.mul_(20)
    every = emissions.expand(len(chains), -1, -1)
    plain = crf(every, chains, reduction="none").exp().sum().item()
    masked = crf(in_pieces(every), in_pieces(chains), mask=KEPT.expand(len(chains), -1), reduction="none").exp().sum().item()
print(f"all {len(chains)} chains of a text have, together, a probability of: without a gap {plain:.2f}, with one {'not 1.00' if abs(masked - 1) > 0.05 else masked}")
loss, right = told(gaps=False)
print(f"without gaps: loss {'above 2.5' if loss > 2.5 else loss:11}, right {'0.75 to 0.80' if 0.75 < right < 0.80 else right}")
loss, right = told(gaps=True)
print(f"with gaps   : loss {'below -10' if loss < -10 else loss:11}, right {'below 0.72' if right < 0.72 else right}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/chain.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
all 6561 chains of a text have, together, a probability of: without a gap 1.00, with one not 1.00
without gaps: loss above 2.5  , right 0.75 to 0.80
with gaps   : loss below -10  , right below 0.72
SEEN
