#!/usr/bin/env bash
# torchmetrics 1.9.0 (torch 2.13.0), BinaryAUROC, BinaryAveragePrecision, BinaryAccuracy of logits: in small batches the same rows have another score.
#
# "Probabilities or logits", say the pages: what lies outside of 0 to 1 is taken for logits, and goes through a sigmoid. The area under the curve
# depends on the order of scores only, and a sigmoid keeps it. So logits are handed over, as they come from the model, in batches as they come.
#
# The question "outside of 0 to 1?" is asked of each *batch*. A batch whose logits all happen to lie between 0 and 1 is taken for probabilities and left
# as it is; the next one is squeezed. The rows of both then lie in one list: a logit of 0.3 is 0.30 if its neighbours are like it, and 0.57 if
# one of them is negative; a logit of -0.4 is always 0.40, above the first and below the second. With one row a batch, as in evaluation of long texts or
# of volumes, orders below 1 are mixed up; for the accuracy at 0.5 a logit of 0.3, which says "yes", counts as "no" or as "yes" with its neighbours. The score
# moves with the batch alone, in either direction, and is right in large batches; the smaller the logits (a model at its start, a heavy
# regularisation, a temperature), the larger a batch has to be. Nothing is said. Way out: torch.sigmoid first. (The multiclass metrics ask in the same way.)
#
# Output seen (CPU, x86_64, Python 3.11), 2,000 rows, logits of spread 0.5 around 0.5; by sorting: the area from the ranks of the logits
#   area by sorting 0.92
#   area under the curve: batches of 2000, 16, 4, 2, 1: 0.92 0.92 0.89 0.88 0.88 | sigmoid first, 2000 and 1: 0.92 0.92
#   average precision: batches of 2000, 16, 4, 2, 1: 0.92 0.92 0.89 0.88 0.87 | sigmoid first, 2000 and 1: 0.92 0.92
#   accuracy: batches of 2000, 16, 4, 2, 1: 0.65 0.65 0.71 0.77 0.83 | sigmoid first, 2000 and 1: 0.65 0.65
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryAveragePrecision

generator = torch.Generator().manual_seed(0)
logits = 0.5 * torch.randn(2000, generator=generator) + 0.5
labels = (logits + 0.3 * torch.randn(2000, generator=generator) > 0.5).long()
ranks = logits.double().argsort().argsort().double() + 1
positive = labels == 1
area = (ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2) / (positive.sum() * (~positive).sum())


def score(metric, values, size):
    for start in range(0, len(values), size):
        metric.update(values[start : start + size], labels[start : start + size])
    return float(metric.compute())


def say(name, make):
    whole, ones = score(make(), logits, 2000), [score(make(), logits, size) for size in (16, 4, 2, 1)]
    first = [score(make(), torch.sigmoid(logits), size) for size in (2000, 1)]
    print(f"{name}: batches of 2000, 16, 4, 2, 1:", *(f"{value:.2f}" for value in (whole, *ones)), "| sigmoid first, 2000 and 1:", *(f"{v:.2f}" for v in first))


print(f"area by sorting {float(area):.2f}")
say("area under the curve", BinaryAUROC)
say("average precision", BinaryAveragePrecision)
say("accuracy", BinaryAccuracy)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
area by sorting 0.92
area under the curve: batches of 2000, 16, 4, 2, 1: 0.92 0.92 0.89 0.88 0.88 | sigmoid first, 2000 and 1: 0.92 0.92
average precision: batches of 2000, 16, 4, 2, 1: 0.92 0.92 0.89 0.88 0.87 | sigmoid first, 2000 and 1: 0.92 0.92
accuracy: batches of 2000, 16, 4, 2, 1: 0.65 0.65 0.71 0.77 0.83 | sigmoid first, 2000 and 1: 0.65 0.65
SEEN
