#!/usr/bin/env bash
# flax 0.12.8 (jax 0.10.2), LayerNorm, GroupNorm and BatchNorm of linen and nnx: what comes out has a standard deviation of over 10, if the values lie 3,000 of theirs from zero.
#
# A layer of norm has one promise: mean 0 and standard deviation 1, wherever the values lie. Rows of float32 around 300 that vary by 0.1 (temperatures in kelvin, years,
# pressures, a residual stream with a common part) still have 3 digits of variation each; torch, keras and numpy normalise them to the second digit of 1.
#
# The variance is taken as the mean of the squares less the square of the mean: 90,000.01 less 90,000, of which float32 has 7 digits. What is left is chance; below zero
# it is cut to 0, and then values are divided by the root of epsilon alone, 1e-6, and come out a hundred times too large. So the layer that is to keep activations in
# bounds is where they explode, from one row (of LayerNorm) to the next, and a rate, a bad row or the data are blamed. BatchNorm keeps such variances, zero for whole
# columns, in its running statistics. The switch is in the signature: use_fast_variance=True, "faster, but less numerically stable".
# Way out: use_fast_variance=False, with which all are right to the second digit; or a constant taken off the data.
#
# Output seen (CPU, x86_64, Python 3.11), standard deviation of the output; values with one of 0.1 around the offset:
#   by hand, float64: offset 0, 1000: 1.0, 1.0
#   linen.LayerNorm: offset 0, 30, 300, 1000: 1.0, 1.0, over 10, over 10; use_fast_variance=False, 1000: 1.0
#   linen.GroupNorm(8): offset 0, 30, 300, 1000: 1.0, 1.0, over 10, over 10; use_fast_variance=False, 1000: 1.0
#   linen.BatchNorm: offset 0, 30, 300, 1000: 1.0, 1.0, over 10, over 10; use_fast_variance=False, 1000: 1.0
#   nnx.LayerNorm: offset 0, 30, 300, 1000: 1.0, 1.0, over 10, over 10; use_fast_variance=False, 1000: 1.0
#   nnx.BatchNorm: offset 0, 30, 300, 1000: 1.0, 1.0, over 10, over 10; use_fast_variance=False, 1000: 1.0
#   linen.BatchNorm, variance of the batch at 1000: 0 in over a tenth of 256 columns
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 jax==0.10.2 flax==0.12.8 optax==0.2.8 2> /dev/null
cat > "$work/finding.py" <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

draw = np.random.default_rng(0)
noise = draw.normal(size=(64, 256))


def values(offset):
    """Rows of 256 values around `offset`, with a standard deviation of 0.1, in float32."""
    return jnp.asarray((offset + 0.1 * noise).astype("float32"))


def by_linen(layer, x):
    variables = layer.init(jax.random.key(0), x)
    out = layer.apply(variables, x, mutable=["batch_stats"])
    return out[0]


LAYERS = {
    "linen.LayerNorm": lambda x, **o: by_linen(linen.LayerNorm(**o), x),
    "linen.GroupNorm(8)": lambda x, **o: by_linen(linen.GroupNorm(8, **o), x),
    "linen.BatchNorm": lambda x, **o: by_linen(linen.BatchNorm(use_running_average=False, **o), x),
    "nnx.LayerNorm": lambda x, **o: nnx.LayerNorm(256, rngs=nnx.Rngs(0), **o)(x),
    "nnx.BatchNorm": lambda x, **o: nnx.BatchNorm(256, use_running_average=False, rngs=nnx.Rngs(0), **o)(x),
}


def by_hand(x):
    x = np.asarray(x, dtype="float64")
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)


def said(size):
    return "1.0" if 0.95 < size < 1.05 else "over 10" if size > 10 else f"{size:.2f}"


print("by hand, float64: offset 0, 1000:", ", ".join(said(by_hand(values(offset)).std()) for offset in (0, 1000)))
for name, layer in LAYERS.items():
    sizes = [said(float(np.asarray(layer(values(offset)), dtype="float64").std())) for offset in (0, 30, 300, 1000)]
    slow = said(float(np.asarray(layer(values(1000), use_fast_variance=False), dtype="float64").std()))
    print(f"{name}: offset 0, 30, 300, 1000: {', '.join(sizes)}; use_fast_variance=False, 1000: {slow}")
stats = linen.BatchNorm(use_running_average=False)
x = values(1000)
_, state = stats.apply(stats.init(jax.random.key(0), x), x, mutable=["batch_stats"])
found = (np.asarray(state["batch_stats"]["var"]) - 0.99) / 0.01  # of the first step: 0.99 of the 1 it begins with, and 0.01 of the batch
print(f"linen.BatchNorm, variance of the batch at 1000: 0 in {'over a tenth' if (np.abs(found) < 1e-4).mean() > 0.1 else (np.abs(found) < 1e-4).mean()} of 256 columns")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
by hand, float64: offset 0, 1000: 1.0, 1.0
linen.LayerNorm: offset 0, 30, 300, 1000: 1.0, 1.0, over 10, over 10; use_fast_variance=False, 1000: 1.0
linen.GroupNorm(8): offset 0, 30, 300, 1000: 1.0, 1.0, over 10, over 10; use_fast_variance=False, 1000: 1.0
linen.BatchNorm: offset 0, 30, 300, 1000: 1.0, 1.0, over 10, over 10; use_fast_variance=False, 1000: 1.0
nnx.LayerNorm: offset 0, 30, 300, 1000: 1.0, 1.0, over 10, over 10; use_fast_variance=False, 1000: 1.0
nnx.BatchNorm: offset 0, 30, 300, 1000: 1.0, 1.0, over 10, over 10; use_fast_variance=False, 1000: 1.0
linen.BatchNorm, variance of the batch at 1000: 0 in over a tenth of 256 columns
SEEN
