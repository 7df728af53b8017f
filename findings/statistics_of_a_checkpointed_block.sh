#!/usr/bin/env bash
# torch 2.13.0, torch.utils.checkpoint around a block with BatchNorm: its running statistics forget twice as fast, since each batch is counted twice.
#
# checkpoint(block, x) is a trade of time for memory. Its page promises the same gradients, and keeps the state of the random generators for it (dropout draws
# the same mask again), so one expects the same training to the last bit, and that holds for the weights. What else is kept of a forward pass?
#
# The block runs once forwards and once more in the backward pass, and BatchNorm moves its running mean and variance in each of the two: num_batches_tracked says 80
# after 40 steps, and momentum=0.1 acts as 0.19. The network in training mode is the same; the one that is validated and saved, in eval mode, is another: its
# statistics come from the last five batches rather than the last ten, so they are noisier, and a block more or less in the checkpoint changes the score of a run
# whose weights are equal bit for bit. Both forms do so, reentrant or not. With momentum=None, a plain average, counting each twice is no harm. Nothing on the page
# speaks of it. Way out: for checkpointed blocks momentum 1 - sqrt(1 - m), so that two updates are one of m; or norms without statistics.
#
# Output seen (CPU, x86_64, Python 3.11), 40 steps, the mean of the rows of step k is k:
#   plain: 40 batches counted, running mean 31.1, that of one update a step
#   checkpoint(use_reentrant=False): 80 batches counted, running mean 35.7, that of two updates a step
#   checkpoint(use_reentrant=True): 80 batches counted, running mean 35.7, that of two updates a step
#   checkpoint(use_reentrant=False, early_stop=False): 80 batches counted, running mean 35.7, that of two updates a step
#   plain, momentum=None: 40 batches counted, running mean 20.5, that of one update a step
#   checkpoint(use_reentrant=False), momentum=None: 80 batches counted, running mean 20.5, that of one update a step
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from torch.nn import BatchNorm1d, Linear, ReLU, Sequential
from torch.utils.checkpoint import checkpoint


def trained(way, momentum=0.1, steps=40):
    """Rows whose mean is 1, 2, 3, ... of step 1, 2, 3, ...: what the running mean ends at, and what it is by hand at one update a step, and at two."""
    torch.manual_seed(0)
    block = Sequential(BatchNorm1d(3, momentum=momentum), Linear(3, 3), ReLU())
    norm, once, twice, factor = block[0], torch.zeros(3), torch.zeros(3), momentum
    for step in range(1, steps + 1):
        x = torch.randn(64, 3) + step
        x.requires_grad_()
        y = block(x) if way is None else checkpoint(block, x, **way)
        y.sum().backward()
        mean = x.detach().mean(0)
        if momentum is None:
            factor = 1 / step
        once += factor * (mean - once)
        for _ in range(2):
            twice += factor * (mean - twice)
    means = {"one update a step": once, "two updates a step": twice}
    same = [name for name, value in means.items() if torch.allclose(norm.running_mean, value, rtol=1e-4)]
    return f"{int(norm.num_batches_tracked)} batches counted, running mean {float(norm.running_mean.mean()):.1f}, that of {' and '.join(same) or 'neither'}"


print("plain:", trained(None))
print("checkpoint(use_reentrant=False):", trained({"use_reentrant": False}))
print("checkpoint(use_reentrant=True):", trained({"use_reentrant": True}))
print("checkpoint(use_reentrant=False, early_stop=False):", trained({"use_reentrant": False, "early_stop": False}))
print("plain, momentum=None:", trained(None, None))
print("checkpoint(use_reentrant=False), momentum=None:", trained({"use_reentrant": False}, None))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
plain: 40 batches counted, running mean 31.1, that of one update a step
checkpoint(use_reentrant=False): 80 batches counted, running mean 35.7, that of two updates a step
checkpoint(use_reentrant=True): 80 batches counted, running mean 35.7, that of two updates a step
checkpoint(use_reentrant=False, early_stop=False): 80 batches counted, running mean 35.7, that of two updates a step
plain, momentum=None: 40 batches counted, running mean 20.5, that of one update a step
checkpoint(use_reentrant=False), momentum=None: 80 batches counted, running mean 20.5, that of one update a step
SEEN
