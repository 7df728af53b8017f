#!/usr/bin/env bash
# onnxruntime 1.31.1 with a network exported by torch 2.13.0 (onnx 1.23.2, onnxscript 0.7.2): NaN does not get through a pooling layer.
#
# A reading that is missing is NaN, NaN times a weight is NaN, and so are the logits: in torch a network says of such a row that it has no answer,
# and the caller tests for it. The export is checked against torch on real rows (`verify=True`, or a loop of allclose) and agrees to 1e-5. One
# takes it that arithmetic of NaN is agreed upon as well, as convolution, ReLU, sigmoid, softmax, layer norm and the mean over time do here.
#
# Maximum does not. MaxPool, and ReduceMax, to which amax and max over an axis go, pass NaN over where a number stands beside it. In a small network of
# convolution, ReLU, pooling, linear layer, all rows with one missing reading have logits of NaN in torch, and of plain numbers in the runtime: the
# logits of another row, one whose missing reading was the lowest of its window. Where a whole window is missing, the maximum of nothing is the smallest
# float32, -3.4e38; what the linear layer makes of that is infinite, or as good as: the class is chosen by the signs of some weights, at a
# probability of 1. argmax passes over NaN as well. Nothing is raised; the more is missing, the surer the answer.
# onnx's own reference evaluator, in numpy, keeps NaN in ReduceMax. Way out: test the *input* for NaN, in the graph too (isnan is exported rightly).
#
# Output seen (CPU, x86_64, Python 3.11), 200 rows of 4 channels and 32 readings:
#   nothing missing: runtime as torch to 1e-4: True
#   one reading missing: torch NaN in 200 of 200 rows; runtime NaN in 0 rows, plain numbers in 200; as by hand with a maximum that leaves NaN out: True
#   12 readings missing: torch NaN in 200 of 200 rows; runtime: logits over 1e30 or not finite in 200
#   one layer: max_pool1d, amax, argmax lose NaN; relu, softmax, layer_norm, avg_pool1d, sigmoid keep it
#   amax by onnx's reference evaluator: keeps it
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.1 onnxscript==0.7.2 2> /dev/null
cat > "$work/gaps.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)
file = f"{sys.argv[1]}/network.onnx"


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def exported(model, x):
    """What the runtime makes of an array."""
    torch.onnx.export(model.eval(), (x,), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda values: session.run(None, {session.get_inputs()[0].name: values.numpy()})[0]


torch.manual_seed(0)
network = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool1d(4), nn.Flatten(), nn.Linear(64, 3))
x = torch.randn(200, 4, 32)
run = exported(network, x)


def plain(values):
    with torch.no_grad():
        return network(values).numpy()


def by_hand(values):
    """The same layers in numpy, with a maximum that leaves NaN out."""
    with torch.no_grad():
        hidden = F.relu(network[0](values)).numpy().reshape(200, 8, 8, 4)
        pooled = np.fmax.reduce(hidden, axis=3).reshape(200, 64)
        return pooled @ network[4].weight.numpy().T + network[4].bias.numpy()


print("nothing missing: runtime as torch to 1e-4:", np.allclose(run(x), plain(x), atol=1e-4))
one = x.clone()
one[:, 0, 13] = torch.nan
theirs, ours = plain(one), run(one)
lost = int(np.isfinite(ours).all(1).sum())
same = np.allclose(ours, by_hand(one), atol=1e-4)
print(
    f"one reading missing: torch NaN in {int(np.isnan(theirs).all(1).sum())} of 200 rows; runtime NaN in {int(np.isnan(ours).any(1).sum())} rows, "
    f"plain numbers in {lost}; as by hand with a maximum that leaves NaN out: {same}"
)
many = x.clone()
many[:, 0, 8:20] = torch.nan
theirs, ours = plain(many), run(many)
huge = int((~np.isfinite(ours) | (np.abs(ours) > 1e30)).any(1).sum())
print(f"12 readings missing: torch NaN in {int(np.isnan(theirs).all(1).sum())} of 200 rows; runtime: logits over 1e30 or not finite in {huge}")

row = torch.tensor([[[1.0, torch.nan, 3.0, -2.0]]])
layers = {
    "max_pool1d": lambda t: F.max_pool1d(t, 4),
    "amax": lambda t: t.amax(2),
    "argmax": lambda t: t.argmax(2),
    "relu": F.relu,
    "softmax": lambda t: t.softmax(2),
    "layer_norm": lambda t: F.layer_norm(t, (4,)),
    "avg_pool1d": lambda t: F.avg_pool1d(t, 4),
    "sigmoid": torch.sigmoid,
}
kept, gone = [], []
for name, layer in layers.items():
    there = exported(Function(layer), row)(row)
    (kept if np.array_equal(np.isnan(there), layer(row).isnan().numpy()) and (name != "argmax" or there == layer(row).numpy()) else gone).append(name)
print(f"one layer: {', '.join(gone)} lose NaN; {', '.join(kept)} keep it")
exported(Function(layers["amax"]), row)
model = onnx.load(file)
value = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: row.numpy()})[0]
print("amax by onnx's reference evaluator:", "keeps it" if np.isnan(value).all() else value)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/gaps.py" "$work" 2> "$work/errors" | grep -v '^\[torch' | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
nothing missing: runtime as torch to 1e-4: True
one reading missing: torch NaN in 200 of 200 rows; runtime NaN in 0 rows, plain numbers in 200; as by hand with a maximum that leaves NaN out: True
12 readings missing: torch NaN in 200 of 200 rows; runtime: logits over 1e30 or not finite in 200
one layer: max_pool1d, amax, argmax lose NaN; relu, softmax, layer_norm, avg_pool1d, sigmoid keep it
amax by onnx's reference evaluator: keeps it
SEEN
