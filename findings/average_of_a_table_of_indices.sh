#!/usr/bin/env bash
# torch 2.13.0, AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9999), use_buffers=True): whole numbers that never change come out smaller.
#
# use_buffers=True is for BatchNorm: its running statistics are to be averaged as the weights are. A model has other buffers as well, of whole numbers: which
# relative position two places have (Swin and its kin look up a table by it), an order of features, the bins of a histogram, a count. The guess:
# they are copied, as an average of indices means nothing; and if averaged, a constant's average is the constant, so it makes no difference.
#
# It is k * 0.9999 + k * (1 - 0.9999), computed in float32, and cut off at the point when it is written back to the integers. Where the sum is 10.999999, an
# 11 becomes a 10, at the first update, and what has become a 10 stays or falls again. Which numbers it hits depends on the decay: of those of a
# window of 7 x 7 (0 to 168) none at 0.99 or 0.999, a sixth at 0.9999, a quarter at 0.9; of 0 to 49,999 one in five at 0.9999, by up to 9. The
# averaged model then looks up its neighbours' entries: with weights that have not moved by a bit, it is another function than the model. Counts
# (num_batches_tracked) are worse off: an average that is cut off each time moves only when the distance is 1 / (1 - decay), so that after 1,000
# batches at 0.9999 it is where it was. Booleans stay. The plain average (SWA) is right. Lightning's EMAWeightAveraging has use_buffers=True unless
# told otherwise. Way out: use_buffers=False, and the buffers copied; or those of whole numbers set back after each update.
#
# Output seen (CPU, x86_64, Python 3.11):
#   decay 0.9: weights the same True, indices changed 661 of 2401, outputs off by more than 1: some
#   decay 0.99: weights the same True, indices changed 0 of 2401, outputs off by more than 1: none
#   decay 0.999: weights the same True, indices changed 0 of 2401, outputs off by more than 1: none
#   decay 0.9999: weights the same True, indices changed 417 of 2401, outputs off by more than 1: some
#   decay 0.9999, two updates: weights the same True, indices changed 417 of 2401, outputs off by more than 1: some
#   no decay (SWA): weights the same True, indices changed 0 of 2401, outputs off by more than 1: none
#   0 to 49,999 at 0.9999: changed 9865, by up to 9; the first of them: [11, 22, 29, 31, 39]
#   num_batches_tracked after 1,000 batches: model 1000, average 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/indices.py" <<'PY'
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Window(nn.Module):
    """Attention within a window of 7 x 7 places, but for everything that is not the lookup of relative positions."""

    def __init__(self, side=7):
        super().__init__()
        self.table = nn.Parameter(torch.randn((2 * side - 1) ** 2, generator=torch.Generator().manual_seed(0)))
        place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        apart = place[:, None] - place[None] + side - 1
        self.register_buffer("index", apart[..., 0] * (2 * side - 1) + apart[..., 1])

    def forward(self):
        return self.table[self.index]


def averaged(model, updates, **average):
    copy = AveragedModel(model, use_buffers=True, **average)
    for _ in range(updates):
        copy.update_parameters(model)
    return copy.module


def told(name, updates=200, **average):
    model = Window()
    copy = averaged(model, updates, **average)
    with torch.no_grad():
        off, wrong = (copy.index != model.index).sum(), (copy() - model()).abs()
    print(f"{name}: weights the same {torch.equal(copy.table, model.table)}, indices changed {off} of {model.index.numel()},", end=" ")
    print("outputs off by more than 1:", "some" if (wrong > 1).any() else "none")


for decay in (0.9, 0.99, 0.999, 0.9999):
    told(f"decay {decay}", multi_avg_fn=get_ema_multi_avg_fn(decay))
told("decay 0.9999, two updates", updates=2, multi_avg_fn=get_ema_multi_avg_fn(0.9999))
told("no decay (SWA)")

numbers = nn.Module()
numbers.register_buffer("k", torch.arange(50_000))
k = averaged(numbers, 1000, multi_avg_fn=get_ema_multi_avg_fn(0.9999)).k
print(f"0 to 49,999 at 0.9999: changed {(k != numbers.k).sum()}, by up to {(numbers.k - k).max()}; the first of them: {numbers.k[k != numbers.k][:5].tolist()}")

model = nn.BatchNorm1d(3)
copy = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9999), use_buffers=True)
for _ in range(1000):
    model(torch.randn(8, 3))
    copy.update_parameters(model)
print(f"num_batches_tracked after 1,000 batches: model {int(model.num_batches_tracked)}, average {int(copy.module.num_batches_tracked)}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/indices.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
decay 0.9: weights the same True, indices changed 661 of 2401, outputs off by more than 1: some
decay 0.99: weights the same True, indices changed 0 of 2401, outputs off by more than 1: none
decay 0.999: weights the same True, indices changed 0 of 2401, outputs off by more than 1: none
decay 0.9999: weights the same True, indices changed 417 of 2401, outputs off by more than 1: some
decay 0.9999, two updates: weights the same True, indices changed 417 of 2401, outputs off by more than 1: some
no decay (SWA): weights the same True, indices changed 0 of 2401, outputs off by more than 1: none
0 to 49,999 at 0.9999: changed 9865, by up to 9; the first of them: [11, 22, 29, 31, 39]
num_batches_tracked after 1,000 batches: model 1000, average 1
SEEN
