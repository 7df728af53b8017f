#!/usr/bin/env bash
# torchmetrics 1.9.0 (torch 2.13.0): R2Score, ExplainedVariance and RelativeSquaredError of a target far from 0 say how far it is from 0.
#
# R² is the same for a target and for the target plus a constant (so is its prediction); predicting years as 1998 or as -2 is one task. In float32
# one expects to lose digits where differences of neighbours are lost, around 10^7 of the spread, and then of the error, not of the target.
#
# The metric keeps the sum of the targets and the sum of their squares, in float32, and takes the spread as the difference of two large numbers.
# Their size is (mean / spread)² of it, and each batch that is added rounds once. Predictions here are off by 0.3 of the spread: R² is 0.91
# wherever the target lies. The spread is 10; 50,000 rows in batches of 64.
#   around 2,000 (years; a price of two thousand)    the third digit is wrong in small batches
#   around 20,000                                    0.8 to 0.99, by the size of the batch alone
#   around 200,000                                   0 to 1, likewise
#   seconds since 1970, a spread of a day            above 1 in small batches: a score that cannot be
# The error grows in the direction that pleases as often as not, so a comparison of two runs that were scored in different batches is lost, and
# nothing warns. PearsonCorrCoef and ConcordanceCorrCoef of the same release, which merge means and spreads, are right at 20,000 and at 200,000.
# Way out: `R2Score().set_dtype(torch.float64)` with targets in float64; or a constant taken off target and prediction alike.
#
# Output seen (CPU, x86_64, Python 3.11); by hand, in float64, of the same float32 numbers: 0.91 each time; batches of 64, 256, 1,024, 4,096 and all rows
#   around 0: R2Score off by under 0.001, from batch to batch under 0.001; Pearson's r squared off by under 0.005
#   around 2,000: R2Score off by over 0.001, from batch to batch over 0.001; Pearson's r squared off by under 0.005
#   around 20,000: R2Score off by over 0.05, from batch to batch over 0.05; Pearson's r squared off by under 0.005
#   around 200,000: R2Score off by over 0.3, from batch to batch over 0.3; Pearson's r squared off by under 0.005
#   seconds since 1970: R2Score of batches of 64 above 1
#   around 20,000, ExplainedVariance off by over 0.05; R2Score in float64 off by under 0.001
#   around 20,000, the sums by hand in float32, batches of 64: those of the metric True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torchmetrics==1.9.0 2> /dev/null
cat > "$work/offset.py" <<'PY'
import torch
from torchmetrics.regression import ExplainedVariance, PearsonCorrCoef, R2Score

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
n = 50_000
unit, noise = torch.randn(n, generator=draw, dtype=torch.float64), torch.randn(n, generator=draw, dtype=torch.float64)


def task(offset, spread=10.0):
    y = (offset + spread * unit).float()
    return (y.double() + 0.3 * spread * noise).float(), y


def exact(p, y):
    p, y = p.double(), y.double()
    return float(1 - (p - y).square().sum() / (y - y.mean()).square().sum())


def scored(metric, p, y, size):
    for part, target in zip(p.split(size), y.split(size), strict=True):
        metric.update(part, target)
    return float(metric.compute())


def bounded(error, *bounds):
    """The sharpest of some bounds that an error is over; the first one is what it may be under."""
    if error < bounds[0]:
        return f"under {bounds[0]}"
    return f"over {max(bound for bound in bounds if error > bound)}"


def spread(metric, p, y):
    """How far the worst batch is from the score by hand, and from the best batch."""
    seen = [scored(metric(), p, y, size) for size in (64, 256, 1024, 4096, n)]
    return max(abs(score - exact(p, y)) for score in seen), max(seen) - min(seen)


for offset, *bounds in ((0, 0.001), (2000, 0.001), (20_000, 0.001, 0.05), (200_000, 0.001, 0.3)):
    p, y = task(offset)
    assert round(exact(p, y), 2) == 0.91
    worst, apart = (bounded(error, *bounds) for error in spread(R2Score, p, y))
    r = float(torch.corrcoef(torch.stack([p.double(), y.double()]))[0, 1])
    pearson = bounded(abs(scored(PearsonCorrCoef(), p, y, 64) ** 2 - r**2), 0.005)
    print(f"around {offset:,}: R2Score off by {worst}, from batch to batch {apart}; Pearson's r squared off by {pearson}")
p, y = task(1.7e9, 86_400.0)
assert round(exact(p, y), 2) == 0.91
seen = scored(R2Score(), p, y, 64)
print("seconds since 1970: R2Score of batches of 64", "above 1" if seen > 1 else f"{seen:.4f}")
p, y = task(20_000)
explained = bounded(spread(ExplainedVariance, p, y)[0], 0.001, 0.05)
double = bounded(abs(scored(R2Score().set_dtype(torch.float64), p.double(), y.double(), 64) - exact(p, y)), 0.001)
print(f"around 20,000, ExplainedVariance off by {explained}; R2Score in float64 off by {double}")
total = square = error = torch.zeros(())
for part, target in zip(p.split(64), y.split(64), strict=True):
    total, square, error = total + target.sum(), square + (target * target).sum(), error + (target - part).square().sum()
by_hand = float(1 - error / (square - total * (total / n)))
same = abs(by_hand - scored(R2Score(), p, y, 64)) < 1e-3
print("around 20,000, the sums by hand in float32, batches of 64: those of the metric", same)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/offset.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
around 0: R2Score off by under 0.001, from batch to batch under 0.001; Pearson's r squared off by under 0.005
around 2,000: R2Score off by over 0.001, from batch to batch over 0.001; Pearson's r squared off by under 0.005
around 20,000: R2Score off by over 0.05, from batch to batch over 0.05; Pearson's r squared off by under 0.005
around 200,000: R2Score off by over 0.3, from batch to batch over 0.3; Pearson's r squared off by under 0.005
seconds since 1970: R2Score of batches of 64 above 1
around 20,000, ExplainedVariance off by over 0.05; R2Score in float64 off by under 0.001
around 20,000, the sums by hand in float32, batches of 64: those of the metric True
SEEN
