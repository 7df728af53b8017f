#!/usr/bin/env bash
# torch 2.13.0, nn.GroupNorm on the CPU: the same float32 numbers in channels_last come out otherwise than in the plain layout, at worst a thousand times too large.
#
# Expected     `x.to(memory_format=torch.channels_last)` moves numbers in memory and changes none; it is what one sets for speed in front of a
#              network of convolutions. Outputs agree to rounding, 1e-6 or so. BatchNorm2d's do.
# Happens      Where the values of a group lie far from 0 for their spread, GroupNorm in channels_last loses the variance. With a spread of 1 around
#              100 the outputs are off by 0.005, around 1,000 by more than 0.5, around 10,000 whole groups have a variance of 0 or less, and are divided
#              by the root of eps: outputs of several hundred where 4 would be large.
# Why          The plain layout takes moments by Welford's rule. The other one sums x and x * x, and subtracts the square of the mean from the mean square, in
#              float32: the difference of two numbers of 10^8 that have seven digits.
# Met where    Values with an offset: kelvin (around 280, off by a percent or so), pressures in hPa (around 1,000), pixels of a dark-field
#              picture, years, coordinates; or after a layer with a large bias. Also InstanceNorm written as GroupNorm(channels, channels).
#              A model trained in one layout and served in the other is another model there; the gradient is off as well.
# Way out      Subtract a mean from the input; or `.contiguous()` before the layer. In float64 both layouts agree.
#
# Output seen (CPU, x86_64, Python 3.11), 8 x 16 x 8 x 8 normal values around an offset; largest difference from float64 of the same numbers
#   around 0: plain under 0.001, channels_last under 0.001, batch norm in channels_last under 0.02
#   around 100: plain under 0.001, channels_last 0.001 to 0.1, batch norm in channels_last under 0.02
#   around 1000: plain under 0.001, channels_last 0.2 to 20, batch norm in channels_last under 0.02
#   around 10000: plain under 0.005, channels_last over 100, batch norm in channels_last under 0.02
#   around 1000, gradient of the input, share: plain under 0.01, channels_last over 0.05
#   by hand, mean of squares less square of the mean in float32, around 10000: groups of no or negative variance: some; in float64: none
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/layouts.py" <<'PY'
import torch
from torch.nn import functional as F

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
noise = torch.randn(8, 16, 8, 8, generator=draw)
pull = torch.randn(8, 16, 8, 8, generator=draw)
LAST = torch.channels_last


def bounded(value, *bounds):
    """The first of some ranges that a value lies in."""
    for low, high in bounds:
        if low <= value < high:
            return f"under {high}" if low == 0 else f"over {low}" if high == float("inf") else f"{low} to {high}"
    return f"{value:.4f}"


def group(x):
    return F.group_norm(x, 4)


def batch(x):
    return F.batch_norm(x, None, None, training=True)


def off(norm, x):
    return float((norm(x).double() - norm(x.double().contiguous())).abs().max())


for offset in (0, 100, 1000, 10000):
    x = noise + offset
    last = x.to(memory_format=LAST)
    assert torch.equal(x, last)
    plain = bounded(off(group, x), (0, 0.001), (0, 0.005))
    other = bounded(off(group, last), (0, 0.001), (0.001, 0.1), (0.2, 20), (100, float("inf")))
    print(f"around {offset}: plain {plain}, channels_last {other}, batch norm in channels_last {bounded(off(batch, last), (0, 0.02))}")


def gradient(x):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    (group(x) * pull.to(x.dtype)).sum().backward()
    return x.grad.double()


x = noise + 1000
exact = gradient(x.double())
shares = [float((gradient(one) - exact).norm() / exact.norm()) for one in (x, x.to(memory_format=LAST))]
print(f"around 1000, gradient of the input, share: plain {bounded(shares[0], (0, 0.01))}, channels_last {bounded(shares[1], (0.05, float('inf')))}")
counts = []
for dtype in (torch.float32, torch.float64):
    values = (noise + 10000).to(dtype).view(8, 4, -1)
    mean, square = torch.zeros(8, 4, dtype=dtype), torch.zeros(8, 4, dtype=dtype)
    for value in values.unbind(2):
        mean, square = mean + value, square + value * value
    size = values.shape[2]
    counts.append(int((square / size - (mean / size) ** 2 <= 0).sum()))
words = ["some" if count else "none" for count in counts]
print(f"by hand, mean of squares less square of the mean in float32, around 10000: groups of no or negative variance: {words[0]}; in float64: {words[1]}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/layouts.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
around 0: plain under 0.001, channels_last under 0.001, batch norm in channels_last under 0.02
around 100: plain under 0.001, channels_last 0.001 to 0.1, batch norm in channels_last under 0.02
around 1000: plain under 0.001, channels_last 0.2 to 20, batch norm in channels_last under 0.02
around 10000: plain under 0.005, channels_last over 100, batch norm in channels_last under 0.02
around 1000, gradient of the input, share: plain under 0.01, channels_last over 0.05
by hand, mean of squares less square of the mean in float32, around 10000: groups of no or negative variance: some; in float64: none
SEEN
