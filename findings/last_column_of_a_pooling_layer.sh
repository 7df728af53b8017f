#!/usr/bin/env bash
# opencv-python-headless 5.0.0.93, cv2.dnn.readNetFromONNX (torch 2.13.0): a network with AvgPool2d(3, 2, ceil_mode=True) is right in 0.9 of the digits, and here in 0.6.
#
# OpenCV runs networks where neither torch nor onnxruntime is at hand: one file, one call. This year's version 5 has a new engine for it, which is taken first. An
# average over a window is an average of what is in it: of an image of nines, nine. A network that onnxruntime runs as torch does should be the same.
#
# With ceil_mode a last window may reach beyond the edge, if the image does not come out even. Torch and onnxruntime divide by the cells that are there; the new
# engine divides by 9 all the same, as if there were zeros: 6 along the edge, 4 in the corner. Images of a fitting size are exact, so that a network that was
# checked at 7 by 7 fails at 8 by 8; the size decides, not the network. Nothing is said. count_include_pad=False is right, and so is the older engine.
# LogSoftmax is the logarithm of a softmax, in both engines: -inf for a probability of 1e-78 where torch has -180, so that sums over steps (CTC, a language
# model) are lost.
# Way out: engine=cv2.dnn.ENGINE_CLASSIC; count_include_pad=False, which is the same number where there is no padding; scores in place of log-probabilities.
#
# Output seen (CPU, x86_64, Python 3.11)
#   AvgPool2d(3, 2), as it comes, of 6 by 6 nines, last row: torch 9.00 9.00; onnxruntime 9.00 9.00; OpenCV 9.00 9.00
#   AvgPool2d(3, 2), ceil_mode=True, of 7 by 7 nines, last row: torch 9.00 9.00 9.00; onnxruntime 9.00 9.00 9.00; OpenCV 9.00 9.00 9.00
#   AvgPool2d(3, 2), ceil_mode=True, count_include_pad=False, of 6 by 6 nines, last row: torch 9.00 9.00 9.00; onnxruntime 9.00 9.00 9.00; OpenCV 9.00 9.00 9.00
#   AvgPool2d(3, 2), ceil_mode=True, of 6 by 6 nines, last row: torch 9.00 9.00 9.00; onnxruntime 9.00 9.00 9.00; OpenCV 6.00 6.00 4.00
#     the same file, engine=ENGINE_CLASSIC: OpenCV 9.00 9.00 9.00
#   LogSoftmax of 0.00 20.00 100.00 200.00: torch -200.00 -180.00 -100.00 0.00; onnxruntime -200.00 -180.00 -100.00 0.00; OpenCV -inf -inf -inf 0.00
#   digits of 7 by 7: accuracy in torch 0.7, onnxruntime 0.7, OpenCV 0.7; loss above twice that of torch: onnxruntime False, OpenCV False
#   digits of 8 by 8: accuracy in torch 0.9, onnxruntime 0.9, OpenCV 0.6; loss above twice that of torch: onnxruntime False, OpenCV True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 opencv-python-headless==5.0.0.93 2> /dev/null
cat > "$work/finding.py" <<'PY'
import contextlib
import io
import logging
import sys
from pathlib import Path

logging.disable(logging.CRITICAL)
import cv2
import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

Path(sys.argv[1]).mkdir(exist_ok=True)
images, labels = load_digits(return_X_y=True)
images = torch.from_numpy(images / 16).float().view(-1, 1, 8, 8)
labels = torch.from_numpy(labels)


def answers(net, x):
    """What a network gives in torch, and its export in onnxruntime and in OpenCV."""
    file = sys.argv[1] + "/net.onnx"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        torch.onnx.export(net.eval(), (x,), file, dynamo=True, verbose=False, external_data=False)
    session = onnxruntime.InferenceSession(file)
    other = cv2.dnn.readNetFromONNX(file)
    other.setInput(x.numpy())
    with torch.no_grad():
        return net(x).numpy(), session.run(None, {session.get_inputs()[0].name: x.numpy()})[0], other.forward()


def shown(values):
    return " ".join(f"{v:.2f}" for v in np.ravel(values))


for size, options in ((6, {}), (7, {"ceil_mode": True}), (6, {"ceil_mode": True, "count_include_pad": False}), (6, {"ceil_mode": True})):
    found = answers(nn.AvgPool2d(3, 2, **options), torch.full((1, 1, size, size), 9.0))
    how = ", ".join(f"{k}={v}" for k, v in options.items()) or "as it comes"
    rows = "; ".join(f"{name} {shown(f[0, 0, -1])}" for name, f in zip(("torch", "onnxruntime", "OpenCV"), found, strict=True))
    print(f"AvgPool2d(3, 2), {how}, of {size} by {size} nines, last row: {rows}")
answers(nn.AvgPool2d(3, 2, ceil_mode=True), nines := torch.full((1, 1, 6, 6), 9.0))
classic = cv2.dnn.readNetFromONNX(sys.argv[1] + "/net.onnx", cv2.dnn.ENGINE_CLASSIC)
classic.setInput(nines.numpy())
print(f"  the same file, engine=ENGINE_CLASSIC: OpenCV {shown(classic.forward()[0, 0, -1])}")
scores = torch.tensor([[0.0, 20.0, 100.0, 200.0]])
found = answers(nn.LogSoftmax(1), scores)
print(f"LogSoftmax of {shown(scores)}: torch {shown(found[0])}; onnxruntime {shown(found[1])}; OpenCV {shown(found[2])}")


def trained(pool, size):
    x = F.interpolate(images, size=size, mode="bilinear")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), pool, nn.Flatten())
    net.append(nn.Linear(net(x[:1]).shape[1], 10))
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(1000):
        rows = torch.randint(0, 1300, (64,))
        optimizer.zero_grad()
        F.cross_entropy(net(x[rows]), labels[rows]).backward()
        optimizer.step()
    return net, x[1300:]


for size in (7, 8):
    net, x = trained(nn.AvgPool2d(3, 2, ceil_mode=True), size)
    found = answers(net, x)
    right = [float((torch.from_numpy(f).argmax(1) == labels[1300:]).float().mean()) for f in found]
    loss = [float(F.cross_entropy(torch.from_numpy(f), labels[1300:])) for f in found]
    print(f"digits of {size} by {size}: accuracy in torch {right[0]:.1f}, onnxruntime {right[1]:.1f}, OpenCV {right[2]:.1f}; loss above twice that of torch: "
          f"onnxruntime {loss[1] > 2 * loss[0]}, OpenCV {loss[2] > 2 * loss[0]}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
AvgPool2d(3, 2), as it comes, of 6 by 6 nines, last row: torch 9.00 9.00; onnxruntime 9.00 9.00; OpenCV 9.00 9.00
AvgPool2d(3, 2), ceil_mode=True, of 7 by 7 nines, last row: torch 9.00 9.00 9.00; onnxruntime 9.00 9.00 9.00; OpenCV 9.00 9.00 9.00
AvgPool2d(3, 2), ceil_mode=True, count_include_pad=False, of 6 by 6 nines, last row: torch 9.00 9.00 9.00; onnxruntime 9.00 9.00 9.00; OpenCV 9.00 9.00 9.00
AvgPool2d(3, 2), ceil_mode=True, of 6 by 6 nines, last row: torch 9.00 9.00 9.00; onnxruntime 9.00 9.00 9.00; OpenCV 6.00 6.00 4.00
  the same file, engine=ENGINE_CLASSIC: OpenCV 9.00 9.00 9.00
LogSoftmax of 0.00 20.00 100.00 200.00: torch -200.00 -180.00 -100.00 0.00; onnxruntime -200.00 -180.00 -100.00 0.00; OpenCV -inf -inf -inf 0.00
digits of 7 by 7: accuracy in torch 0.7, onnxruntime 0.7, OpenCV 0.7; loss above twice that of torch: onnxruntime False, OpenCV False
digits of 8 by 8: accuracy in torch 0.9, onnxruntime 0.9, OpenCV 0.6; loss above twice that of torch: onnxruntime False, OpenCV True
SEEN
