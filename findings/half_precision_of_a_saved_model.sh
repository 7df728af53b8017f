#!/usr/bin/env bash
# openvino 2026.4.1 (torch 2.13.0), save_model(model, "model.xml"): a network with an R2 of 1.00 in torch, and converted, has one of -800 when it is read from its file.
#
# convert_model takes the network over, compile_model runs it, and both agree with torch to six digits: that is where one checks. Then it is saved, to be
# read where it serves. A file should hold what was in memory; smaller weights are a step of their own elsewhere (quantization, a half() that one writes).
#
# save_model writes float32 constants as float16, unless compress_to_fp16=False is said. For weights about 1 that is three digits, and harmless. Networks
# that take a table as it is have other constants: a BatchNorm in front of raw columns is folded into a factor, one over the deviation, and float16 has
# few numbers below 6e-5 and none between 0 and 6e-8. For a time in seconds (1.7e9, give or take a year) the factor of 3.3e-8 becomes 6e-8, the constant beside
# it stays right, and all rows leave the range of training: R2 below -100. Of a country's inhabitants the column is gone. Incomes in yen lose a per cent (not shown); what was
# standardized before the network loses nothing, and so do networks for pictures. No warning, and the file is half as large, as one may take it for granted.
# Way out: compress_to_fp16=False, or standardize in front of the network; and compare the file, not the object.
#
# Output seen (CPU, x86_64, Python 3.11), run in float32 throughout
#   age, score: R2 in torch 1.0, converted 1.0, saved and read 1.0, saved with compress_to_fp16=False 1.0
#   age, time in seconds of a year: R2 in torch 1.0, converted 1.0, saved and read below -100, saved with compress_to_fp16=False 1.0
#   age, inhabitants of a country: R2 in torch 1.0, converted 1.0, saved and read 0.2, saved with compress_to_fp16=False 1.0
#   age, time, income, standardized before the network: R2 in torch 1.0, converted 1.0, saved and read 1.0, saved with compress_to_fp16=False 1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check openvino==2026.4.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import logging
import sys
from pathlib import Path

logging.disable(logging.WARNING)
import openvino
import torch
from torch import nn

Path(sys.argv[1]).mkdir(exist_ok=True)
core = openvino.Core()
exact = {"INFERENCE_PRECISION_HINT": "f32"}  # no lower precision while it runs, whatever the processor has


def r_squared(found, y):
    return float(1 - (found - y).square().mean() / y.var(correction=0))


def told(name, columns, scaled=False):
    """A network with BatchNorm in front, trained on a table of these columns (mean and standard deviation), and its files."""
    torch.manual_seed(0)
    z = torch.randn(4000, len(columns), dtype=torch.float64)
    x = (z * torch.tensor([s for _, s in columns]) + torch.tensor([m for m, _ in columns], dtype=torch.float64)).float()
    if scaled:
        x = ((x.double() - x.double().mean(0)) / x.double().std(0)).float()
    y = (z.sum(1, keepdim=True) + (z[:, :1] * z[:, 1:2]) / 2).float()
    net = nn.Sequential(nn.BatchNorm1d(len(columns)), nn.Linear(len(columns), 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(600):
        rows = torch.randint(0, 3000, (256,))
        optimizer.zero_grad()
        (net(x[rows]) - y[rows]).square().mean().backward()
        optimizer.step()
    net.eval()
    model = openvino.convert_model(net, example_input=x[:2])
    file, whole = sys.argv[1] + "/model.xml", sys.argv[1] + "/whole.xml"
    openvino.save_model(model, file)
    openvino.save_model(model, whole, compress_to_fp16=False)
    with torch.no_grad():
        scores = [r_squared(net(x[3000:]), y[3000:])]
    for source in (model, file, whole):
        found = torch.from_numpy(core.compile_model(source, "CPU", exact)(x[3000:].numpy())[0])
        scores.append(r_squared(found, y[3000:]))
    torch_s, converted, saved, saved_whole = ("below -100" if s < -100 else f"{s:.1f}" for s in scores)
    print(f"{name}: R2 in torch {torch_s}, converted {converted}, saved and read {saved}, saved with compress_to_fp16=False {saved_whole}")


AGE, YEN, TIME, PEOPLE = (40.0, 12.0), (5e6, 3e6), (1.7e9, 3e7), (2e8, 3e8)
told("age, score", [AGE, (0.0, 1.0)])
told("age, time in seconds of a year", [AGE, TIME])
told("age, inhabitants of a country", [AGE, PEOPLE])
told("age, time, income, standardized before the network", [AGE, TIME, YEN], scaled=True)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
age, score: R2 in torch 1.0, converted 1.0, saved and read 1.0, saved with compress_to_fp16=False 1.0
age, time in seconds of a year: R2 in torch 1.0, converted 1.0, saved and read below -100, saved with compress_to_fp16=False 1.0
age, inhabitants of a country: R2 in torch 1.0, converted 1.0, saved and read 0.2, saved with compress_to_fp16=False 1.0
age, time, income, standardized before the network: R2 in torch 1.0, converted 1.0, saved and read 1.0, saved with compress_to_fp16=False 1.0
SEEN
