#!/usr/bin/env bash
# A model with no dropout, in torch 2.13.0: nn.TransformerEncoder(batch_first=True) over rows of different length, then the mean over time, then a linear layer.
#
#     hidden = encoder(x, src_key_padding_mask=padded)         logits = head(hidden.mean(dim=1))
#
# Guess. The mask keeps padding out of the attention. What stands in the padded places of `hidden` is of no meaning, but it is a function of the input: with
# dropout at 0, train() and eval(), no_grad() or not, give the same number for the same row, so validation judges the function that was trained.
#
# Found. Under eval() with torch.no_grad() (or frozen weights) the encoder takes another way: rows are packed without their padding, and
# unpacked into zeros. In train(), and in eval() with gradients, the padded places hold what the layers make of them. The places that count agree to
# rounding. A mean, a sum, a maximum or a flatten over time reads both kinds, so one model is two functions: one that is trained, and one
# that is validated, chosen by and deployed. A loss of eval() with gradients on (attributions, a test of both) is again the first. One warning, at
# the first such call, says that nested tensors are a prototype; nothing says that values change.
# Here the last layer is fitted, by least squares on the features as training sees them, to a target that is linear in them: training loss 0. The
# loss of the same rows, same weights, under eval() and no_grad(), is a large part of the target's variance. Rows without padding have loss 0 there, too.
# Out of it: enable_nested_tensor=False, or a mean over the real places only.
#
# Output seen (CPU, x86_64, Python 3.11), 64 rows of 2 to 12 places, padded to 12; loss over the target's variance:
#   train(): 0.00; eval() with gradients: 0.00; eval() under no_grad: over 0.10
#   eval() under no_grad, rows without padding: 0.00
#   hidden, places that count: the same True; padded places: all 0 under no_grad True, none in training True
#   enable_nested_tensor=False: train() 0.00, eval() under no_grad 0.00
#   mean over the real places: train() 0.00, eval() under no_grad 0.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/padded.py" <<'PY'
import torch
from torch import nn

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
lengths = torch.randint(2, 13, (64,), generator=draw)
lengths[:6] = 12
padded = torch.arange(12)[None, :] >= lengths[:, None]
x = torch.randn(64, 12, 16, generator=draw) * ~padded[:, :, None]


def made(**options):
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, **options)


def hidden(encoder, train, grad=True):
    encoder.train(train)
    with torch.set_grad_enabled(grad):
        return encoder(x, src_key_padding_mask=padded).detach()


def over_time(values, real):
    if not real:
        return values.mean(dim=1)
    return (values * ~padded[:, :, None]).sum(1) / lengths[:, None]


def losses(encoder, real=False):
    """Of a head that is exact in training: in train(), in eval(), in eval() under no_grad; and of the rows that are full."""
    ways = [hidden(encoder, True), hidden(encoder, False), hidden(encoder, False, grad=False)]
    features = [over_time(way, real).double() for way in ways]
    head = torch.randn(16, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = features[0] @ head
    fitted = torch.linalg.lstsq(features[0], y).solution
    errors = [(f @ fitted - y).square() / y.var() for f in features]
    return ways, [float(error.mean()) for error in errors], float(errors[2][:6].mean())


ways, (train, slow, fast), full = losses(made())
print(f"train(): {train:.2f}; eval() with gradients: {slow:.2f}; eval() under no_grad: {'over 0.10' if fast > 0.1 else f'{fast:.3f}'}")
print(f"eval() under no_grad, rows without padding: {full:.2f}")
counts = torch.allclose(ways[0][~padded], ways[2][~padded], atol=1e-5)
zeros, none = not ways[2][padded].any(), bool(ways[0][padded].abs().amax(-1).gt(0.1).all())
print(f"hidden, places that count: the same {counts}; padded places: all 0 under no_grad {zeros}, none in training {none}")
_, (train, _, fast), _ = losses(made(enable_nested_tensor=False))
print(f"enable_nested_tensor=False: train() {train:.2f}, eval() under no_grad {fast:.2f}")
_, (train, _, fast), _ = losses(made(), real=True)
print(f"mean over the real places: train() {train:.2f}, eval() under no_grad {fast:.2f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/padded.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
train(): 0.00; eval() with gradients: 0.00; eval() under no_grad: over 0.10
eval() under no_grad, rows without padding: 0.00
hidden, places that count: the same True; padded places: all 0 under no_grad True, none in training True
enable_nested_tensor=False: train() 0.00, eval() under no_grad 0.00
mean over the real places: train() 0.00, eval() under no_grad 0.00
SEEN
