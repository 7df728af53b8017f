#!/usr/bin/env bash
# torch 2.13.0, torch.optim.swa_utils.update_bn: 4,098 rows in batches of 1,024, and the last two rows count for a fifth of the model.
#
# The last act of weight averaging (SWA, EMA): the averaged weights have no BatchNorm statistics of their own, so update_bn sends the training rows
# through once and takes statistics of all of them. Each row once, whatever the batch: one expects mean and variance of the rows, up to what
# lies between batches, and hands over the loader one has, which ends, as most do, in a smaller batch.
#
# It averages over *batches*. Of 4,098 rows the batches are 1,024 four times and then 2, and each of the five is a fifth of the running
# mean and variance. Mean and variance of two rows are mostly chance, and the model that is kept and deployed normalises with
# them, in every layer: here the mean is off by some 0.15 standard deviations and the variance by a fifth; with batches of 4,096, half of either is
# those two rows, and after another shuffle it is two others. Nothing warns. In training the same last batch is one of
# many for a momentum of 0.1. One row left over: BatchNorm1d raises an error, BatchNorm2d goes on.
# A batch that divides the rows, or drop_last=True, and the statistics are right.
#
# Output seen (CPU, x86_64, Python 3.11), medians of 20 shuffles of 4,098 rows; off: mean in standard deviations, variance as a share:
#   in batches of 1366, all full        mean under 0.01, variance under 0.01
#   in batches of  512, then 2 rows     mean 0.03 to 0.3, variance 0.03 to 0.3
#   in batches of 1024, then 2 rows     mean 0.05 to 0.5, variance 0.05 to 0.5
#   in batches of 4096, then 2 rows     mean 0.15 to 1, variance 0.15 to 1
#   in batches of 4096, the 2 left out  mean under 0.01, variance under 0.01
#   in batches of 1024, then 2 rows: running mean is the mean of five batch means: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/left.py" <<'PY'
from statistics import median

import torch
from torch.nn import BatchNorm1d
from torch.optim.swa_utils import AveragedModel, update_bn

torch.manual_seed(0)
rows = 5 + 2 * torch.randn(4098, 3)


def batches(size, seed, whole=False):
    """The rows in an order of that seed, in batches, as a DataLoader with shuffle=True gives them; whole: with drop_last=True."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    found = list(rows[order].split(size))
    return [batch for batch in found if len(batch) == size] if whole else found


def updated(loader):
    model = AveragedModel(BatchNorm1d(3))
    update_bn(loader, model)
    return model.module


def off(size, whole=False):
    means, variances = [], []
    for seed in range(20):
        norm = updated(batches(size, seed, whole))
        means.append(float(((norm.running_mean - rows.mean(0)) / rows.std(0)).abs().max()))
        variances.append(float((norm.running_var / rows.var(0) - 1).abs().max()))
    return median(means), median(variances)


def named(value, low, high):
    return "under 0.01" if value < 0.01 else f"{low:g} to {high:g}" if low < value < high else f"{value:.3f}"


for words, size, whole, low, high in (
    ("in batches of 1366, all full", 1366, False, 0, 0),
    ("in batches of  512, then 2 rows", 512, False, 0.03, 0.3),
    ("in batches of 1024, then 2 rows", 1024, False, 0.05, 0.5),
    ("in batches of 4096, then 2 rows", 4096, False, 0.15, 1),
    ("in batches of 4096, the 2 left out", 4096, True, 0, 0),
):
    mean, variance = off(size, whole)
    print(f"{words:35} mean {named(mean, low, high)}, variance {named(variance, low, high)}")
loader = batches(1024, 0)
five = torch.stack([batch.mean(0) for batch in loader]).mean(0)
same = len(loader) == 5 and torch.allclose(updated(loader).running_mean, five, rtol=1e-5)
print(f"in batches of 1024, then 2 rows: running mean is the mean of five batch means: {same}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/left.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
in batches of 1366, all full        mean under 0.01, variance under 0.01
in batches of  512, then 2 rows     mean 0.03 to 0.3, variance 0.03 to 0.3
in batches of 1024, then 2 rows     mean 0.05 to 0.5, variance 0.05 to 0.5
in batches of 4096, then 2 rows     mean 0.15 to 1, variance 0.15 to 1
in batches of 4096, the 2 left out  mean under 0.01, variance under 0.01
in batches of 1024, then 2 rows: running mean is the mean of five batch means: True
SEEN
