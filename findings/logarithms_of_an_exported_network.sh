#!/usr/bin/env bash
# torch 2.13.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.31.1: a network that ends in log-probabilities answers -inf after torch.onnx.export.
#
# F.logsigmoid and torch.logaddexp exist because log(sigmoid(x)) and log(exp(a) + exp(b)) do not do in floating point: in torch they are exact to the last
# digits anywhere. A model exported, and checked on a few rows against the original, is expected to be the same function elsewhere.
#
# The exporter writes logsigmoid as Log(Sigmoid(x)) and logaddexp as Log(Exp(a) + Exp(b)). onnxruntime's sigmoid is 0 from about -18 down, so
# logsigmoid(-20), a probability of two in a thousand million, is -inf, and logaddexp is inf above 88 and -inf below -104. A sum over the
# paths of a chain (CRF, CTC, a language model's score) leaves that range after a few dozen steps. Scores near 0, as freshly made models and
# test inputs have them, agree to four digits: the check after the export passes. No warning at export or at run time.
# log_softmax and logsumexp are exported in their safe form, and so is softplus: -F.softplus(-x) is the same function as logsigmoid and stays
# right; logsumexp of the stacked pair does for logaddexp. (Found on the way: avg_pool2d's divisor_override is dropped without a word.)
#   logsigmoid of -120 -90 -20 0 12 20: torch -120 -90 -20 -0.6931 -6.144e-06 -2.061e-09; onnxruntime -inf -inf -inf -0.6931 -6.08e-06 0
#     softplus of the same, negated: torch -120 -90 -20 -0.6931 -6.144e-06 -2.061e-09; onnxruntime -120 -90 -20 -0.6931 -6.144e-06 -2.061e-09
#   logaddexp(x, x - 1) of -200 -100 0 80 100: torch -199.7 -99.69 0.3133 80.31 100.3; onnxruntime -inf -99.67 0.3133 80.31 inf
#     logsumexp of the two, stacked: torch -199.7 -99.69 0.3133 80.31 100.3; onnxruntime -199.7 -99.69 0.3133 80.31 100.3
#   log_softmax of the same: torch -300 -200 -100 -20 0; onnxruntime -300 -200 -100 -20 0
#   avg_pool2d of 2 by 2, divisor_override=1: torch 10 18 42 50; onnxruntime 2.5 4.5 10.5 12.5
#   log of the sum over the paths of a chain of 100: torch -214.1; onnxruntime -inf
#   log of the sum over the paths of a chain of 100: torch 285.4; onnxruntime inf
#   1,000 rows, 4 labels: infinite in torch 0; in onnxruntime over 100
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import contextlib
import io
import logging

logging.disable(logging.CRITICAL)
import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def exported(function, x):
    """What the function gives in torch, and in onnxruntime after torch.onnx.export."""
    model = Apply(function).eval()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    return model(x).numpy(), found


def line(name, function, x):
    own, found = exported(function, x)
    show = lambda values: " ".join(f"{v:.4g}" for v in values.flatten())
    print(f"{name}: torch {show(own)}; onnxruntime {show(found)}")


scores = torch.tensor([[-120.0, -90.0, -20.0, 0.0, 12.0, 20.0]])
line("logsigmoid of -120 -90 -20 0 12 20", F.logsigmoid, scores)
line("  softplus of the same, negated", lambda x: -F.softplus(-x), scores)
both = torch.tensor([[-200.0, -100.0, 0.0, 80.0, 100.0]])
line("logaddexp(x, x - 1) of -200 -100 0 80 100", lambda x: torch.logaddexp(x, x - 1), both)
line("  logsumexp of the two, stacked", lambda x: torch.stack([x, x - 1]).logsumexp(0), both)
line("log_softmax of the same", lambda x: F.log_softmax(x, dim=1), both)
square = torch.arange(16.0).reshape(1, 1, 4, 4)
line("avg_pool2d of 2 by 2, divisor_override=1", lambda x: F.avg_pool2d(x, 2, divisor_override=1), square)


def forward_pass(emissions):
    """The log of the sum over all paths of a two-state chain, as in a CRF or CTC."""
    a = emissions[0]
    for step in range(1, 100):
        a = emissions[step] + torch.logaddexp(a, a.flip(0) - 1.0)
    return torch.logaddexp(a[:1], a[1:])


torch.manual_seed(0)
for sign in (-1, 1):
    own, found = exported(forward_pass, sign * (2 + torch.rand(100, 2)))
    print(f"log of the sum over the paths of a chain of 100: torch {own[0]:.1f}; onnxruntime {found[0]:.1f}")

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(8, 4), nn.LogSigmoid())  # an independent yes or no for each of 4 labels, as logarithms
with torch.no_grad():
    network[0].weight.mul_(60)
    own, found = exported(network, torch.randn(1000, 8))
many = int(np.isinf(found).sum())
print(f"1,000 rows, 4 labels: infinite in torch {int(np.isinf(own).sum())}; in onnxruntime {'over 100' if many > 100 else many}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
logsigmoid of -120 -90 -20 0 12 20: torch -120 -90 -20 -0.6931 -6.144e-06 -2.061e-09; onnxruntime -inf -inf -inf -0.6931 -6.08e-06 0
  softplus of the same, negated: torch -120 -90 -20 -0.6931 -6.144e-06 -2.061e-09; onnxruntime -120 -90 -20 -0.6931 -6.144e-06 -2.061e-09
logaddexp(x, x - 1) of -200 -100 0 80 100: torch -199.7 -99.69 0.3133 80.31 100.3; onnxruntime -inf -99.67 0.3133 80.31 inf
  logsumexp of the two, stacked: torch -199.7 -99.69 0.3133 80.31 100.3; onnxruntime -199.7 -99.69 0.3133 80.31 100.3
log_softmax of the same: torch -300 -200 -100 -20 0; onnxruntime -300 -200 -100 -20 0
avg_pool2d of 2 by 2, divisor_override=1: torch 10 18 42 50; onnxruntime 2.5 4.5 10.5 12.5
log of the sum over the paths of a chain of 100: torch -214.1; onnxruntime -inf
log of the sum over the paths of a chain of 100: torch 285.4; onnxruntime inf
1,000 rows, 4 labels: infinite in torch 0; in onnxruntime over 100
SEEN
