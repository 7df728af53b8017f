#!/usr/bin/env bash
# torch 2.13.0, torch.nn.init.kaiming_normal_(conv.weight, mode="fan_out"): a depthwise convolution of 256 channels starts sixteen times too small, at each layer.
#
# "Choosing fan_out preserves the magnitudes in the backwards pass", says its page, and vision models use it for all convolutions (a loop over model.modules(), by
# isinstance of Conv2d). With groups the weight's shape already has the inputs per group, so both modes are expected to count what a value is connected with.
#
# fan_in does. fan_out does not: it takes all outputs times the kernel, as if each input went to all of them, and with groups it goes to a group's share. The
# weights are too small by the root of the number of groups: with groups == channels == 256 by 16. Values and gradients shrink by that at each such layer; four
# in a row leave one part in 65,000, where the same loop over a network without groups leaves 1. The function sees a tensor, not the layer, and cannot
# know of groups; no argument tells it, and the page does not say so. A BatchNorm behind each layer hides the size of the values (not that of the weights, whose
# rate and decay are then others); in networks without norms, or with residual branches, the depthwise part is as good as off at first.
# Way out: mode="fan_in", or the number by hand, as timm has it: normal of sqrt(gain**2 * groups / (kernel * outputs)). xavier_* and uniform forms take the same count.
#
# Output seen (CPU, x86_64, Python 3.11), four convolutions of 256 channels in a row, no activations, sizes after over before:
#     1 groups, fan_in : values 1 up to a third, gradients 1 up to a third
#     1 groups, fan_out: values 1 up to a third, gradients 1 up to a third
#     1 groups, by hand: values 1 up to a third, gradients 1 up to a third
#     8 groups, fan_in : values 1 up to a third, gradients 1 up to a third
#     8 groups, fan_out: values 1e-2, gradients 1e-2
#     8 groups, by hand: values 1 up to a third, gradients 1 up to a third
#    32 groups, fan_in : values 1 up to a third, gradients 1 up to a third
#    32 groups, fan_out: values 1e-3, gradients 1e-3
#    32 groups, by hand: values 1 up to a third, gradients 1 up to a third
#   256 groups, fan_in : values 1 up to a third, gradients 1 up to a third
#   256 groups, fan_out: values 1e-5, gradients 1e-5
#   256 groups, by hand: values 1 up to a third, gradients 1 up to a third
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from torch.nn import Conv2d, Sequential
from torch.nn.init import kaiming_normal_

torch.manual_seed(0)


def deep(groups, initialise, channels=256, layers=4):
    """Sizes after four convolutions without activations, over those before: of values forwards, of gradients backwards."""
    network = Sequential(*[Conv2d(channels, channels, 3, padding=1, padding_mode="circular", groups=groups, bias=False) for _ in range(layers)])
    for layer in network:
        initialise(layer)
    x = torch.randn(8, channels, 8, 8, requires_grad=True)
    y = network(x)
    y.backward(torch.randn_like(y))
    return float(y.detach().std()), float(x.grad.std())


def said(size):
    return "1 up to a third" if 2 / 3 < size < 3 / 2 else f"1e{torch.tensor(size).log10().round().int()}"


def fan_in(layer):
    kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")


def fan_out(layer):
    kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="linear")


def by_hand(layer):
    """Each input value goes to kernel size times (outputs / groups) output values."""
    torch.nn.init.normal_(layer.weight, std=(9 * layer.out_channels / layer.groups) ** -0.5)


for groups in (1, 8, 32, 256):
    for name, initialise in (("fan_in", fan_in), ("fan_out", fan_out), ("by hand", by_hand)):
        forwards, backwards = deep(groups, initialise)
        print(f"{groups:3} groups, {name:7}: values {said(forwards)}, gradients {said(backwards)}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
  1 groups, fan_in : values 1 up to a third, gradients 1 up to a third
  1 groups, fan_out: values 1 up to a third, gradients 1 up to a third
  1 groups, by hand: values 1 up to a third, gradients 1 up to a third
  8 groups, fan_in : values 1 up to a third, gradients 1 up to a third
  8 groups, fan_out: values 1e-2, gradients 1e-2
  8 groups, by hand: values 1 up to a third, gradients 1 up to a third
 32 groups, fan_in : values 1 up to a third, gradients 1 up to a third
 32 groups, fan_out: values 1e-3, gradients 1e-3
 32 groups, by hand: values 1 up to a third, gradients 1 up to a third
256 groups, fan_in : values 1 up to a third, gradients 1 up to a third
256 groups, fan_out: values 1e-5, gradients 1e-5
256 groups, by hand: values 1 up to a third, gradients 1 up to a third
SEEN
