#!/usr/bin/env bash
# safetensors 0.8.0, safetensors.numpy.save_file: what is stored of a transposed array has its shape, its dtype, its sum, and its numbers in other places.
#
#   wanted      weights out of one library and into another: a linear layer's for a framework that multiplies from the other side, the components of a PCA, the
#               coefficients of a regression, in the format that everybody reads
#   guess       either the values come back, as numpy.save has it, or there is the ValueError of safetensors.torch, which asks for .contiguous()
#   found       the bytes are written as they lie in memory, under the logical shape. A transposed matrix comes back filled in the wrong order, a square one
#               as if it had not been transposed. No error, no warning; shapes fit, so the network loads, and answers nonsense
#   who is hit  `.T` of anything, and what LAPACK has made, for it lies by columns: scikit-learn's PCA(svd_solver="full").components_, Ridge.coef_ of several
#               outputs. Nothing in how an array prints or compares shows it; array.flags does
#   since       0.8.0 (June 2026); 0.7.0 stored them right. The docstring asks for "contiguous" arrays; reported by users (issue 825)
#   way out     numpy.ascontiguousarray around each array
#   a matrix: shape and dtype kept True, sum kept True, values kept True
#   its transpose: shape and dtype kept True, sum kept True, values kept False
#   its transpose, ascontiguousarray: shape and dtype kept True, sum kept True, values kept True
#   a square one, transposed: shape and dtype kept True, sum kept True, values kept False
#     what came back is the matrix not transposed: True
#   PCA(svd_solver='full').components_: shape and dtype kept True, sum kept True, values kept False
#   safetensors.torch, a transposed tensor: ValueError
#   Ridge of three outputs, coef_ in Fortran order: True
#     its R² 1.00; with the coefficients that come back: below 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 safetensors==0.8.0 scikit-learn==1.9.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import tempfile

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

path = f"{tempfile.mkdtemp()}/weights.safetensors"
draw = np.random.default_rng(0)
x = draw.normal(size=(500, 6)) @ draw.normal(size=(6, 6))
y = x @ draw.normal(size=(6, 3))


def again(array):
    save_file({"w": array}, path)
    return load_file(path)["w"]


def say(name, array):
    back = again(array)
    same = back.shape == array.shape and back.dtype == array.dtype
    print(f"{name}: shape and dtype kept {same}, sum kept {np.isclose(back.sum(), array.sum())}, values kept {np.array_equal(back, array)}")


weights = draw.normal(size=(4, 3))
say("a matrix", weights)
say("its transpose", weights.T)
say("its transpose, ascontiguousarray", np.ascontiguousarray(weights.T))
say("a square one, transposed", (square := draw.normal(size=(4, 4))).T)
print("  what came back is the matrix not transposed:", np.array_equal(again(square.T), square))
say("PCA(svd_solver='full').components_", PCA(3, svd_solver="full").fit(x).components_)
try:
    save_torch({"w": torch.from_numpy(weights).T}, path)
except ValueError as error:
    print("safetensors.torch, a transposed tensor:", type(error).__name__)

ridge = Ridge(1e-6).fit(x, y)
print("Ridge of three outputs, coef_ in Fortran order:", ridge.coef_.flags["F_CONTIGUOUS"] and not ridge.coef_.flags["C_CONTIGUOUS"])
kept = ridge.score(x, y)
ridge.coef_ = again(ridge.coef_)
after = ridge.score(x, y)
print(f"  its R² {kept:.2f}; with the coefficients that come back: {'below 0' if after < 0 else f'{after:.2f}'}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
a matrix: shape and dtype kept True, sum kept True, values kept True
its transpose: shape and dtype kept True, sum kept True, values kept False
its transpose, ascontiguousarray: shape and dtype kept True, sum kept True, values kept True
a square one, transposed: shape and dtype kept True, sum kept True, values kept False
  what came back is the matrix not transposed: True
PCA(svd_solver='full').components_: shape and dtype kept True, sum kept True, values kept False
safetensors.torch, a transposed tensor: ValueError
Ridge of three outputs, coef_ in Fortran order: True
  its R² 1.00; with the coefficients that come back: below 0
SEEN
