#!/usr/bin/env bash
# mlx 0.32.4, optimizers.Adam and AdamW as they come: the first step is 3.16 times the rate, the tenth 6.5 times, and it takes a thousand to come back to it.
#
# Adam is known for a step that is no longer than its rate, whatever the gradient's size, from the first one on: its two averages begin at zero and are
# divided by what they still lack. That is the algorithm as it was published, and torch, optax, keras and tensorflow have it so. Rates are carried over from them.
#
# Here the division is an argument, bias_correction, and is off. The average of squares (0.999) fills a hundred times as slowly as that of gradients (0.9), so that
# a constant gradient moves a weight by 0.1 / sqrt(0.001) = 3.16 rates at once, 6.5 in step 10, 3.2 in step 100, 1.26 still in step 1,000; 4.7 times as
# far in the first hundred as elsewhere. Pretrained weights, where the first steps should be the shortest, are thrown four times as far from where
# they were, here of weights that were right already. A short run at a rate from a paper is another run; a sweep over rates finds other ones, and hides it. With
# betas 0.9 and 0.95, of language models, the first step is 0.45 rates and nothing seems amiss. Way out: bias_correction=True; or a warm-up of some thousand steps.
#
# Output seen (CPU, x86_64, Python 3.11)
#   Adam: rates gone in steps 1 2 5 10 20 100 1000 2000: 3.16 4.25 5.80 6.53 6.24 3.24 1.26 1.08; in the first 100 together 466
#   AdamW: rates gone in steps 1 2 5 10 20 100 1000 2000: 3.16 4.25 5.80 6.53 6.24 3.24 1.26 1.08; in the first 100 together 466
#   AdamW, betas 0.9 and 0.95: rates gone in steps 1 2 5 10 20 100 1000 2000: 0.45 0.61 0.86 1.03 1.10 1.00 1.00 1.00; in the first 100 together 102
#   AdamW, bias_correction=True: rates gone in steps 1 2 5 10 20 100 1000 2000: 1.00 1.00 1.00 1.00 1.00 1.00 1.00 1.00; in the first 100 together 100
#   Adam: farthest from the optimum in 60 steps of fine-tuning 0.4
#   AdamW: farthest from the optimum in 60 steps of fine-tuning 0.4
#   AdamW, betas 0.9 and 0.95: farthest from the optimum in 60 steps of fine-tuning 0.1
#   AdamW, bias_correction=True: farthest from the optimum in 60 steps of fine-tuning 0.1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 mlx[cpu]==0.32.4 2> /dev/null
cat > "$work/finding.py" <<'PY'
import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

RATE = 1e-3


def steps(optimizer, gradients):
    """How far one weight goes in each step, in multiples of the rate."""
    weights, moved = {"w": mx.array([0.0])}, []
    for gradient in gradients:
        after = optimizer.apply_gradients({"w": mx.array([gradient])}, weights)
        moved.append((weights["w"] - after["w"]).item() / RATE)
        weights = after
    return np.array(moved)


MAKERS = {
    "Adam": lambda **o: optim.Adam(learning_rate=RATE, **o),
    "AdamW": lambda **o: optim.AdamW(learning_rate=RATE, weight_decay=0.0, **o),
    "AdamW, betas 0.9 and 0.95": lambda **o: optim.AdamW(learning_rate=RATE, weight_decay=0.0, betas=[0.9, 0.95], **o),
    "AdamW, bias_correction=True": lambda **o: optim.AdamW(learning_rate=RATE, weight_decay=0.0, bias_correction=True, **o),
}
for name, make in MAKERS.items():
    moved = steps(make(), [0.5] * 2000)
    shown = " ".join(f"{moved[k - 1]:.2f}" for k in (1, 2, 5, 10, 20, 100, 1000, 2000))
    print(f"{name}: rates gone in steps 1 2 5 10 20 100 1000 2000: {shown}; in the first 100 together {moved[:100].sum():.0f}")

# fine-tuning: 200 weights that are where they should be, gradients that are noise about it
rng = np.random.default_rng(0)
rows, truth = rng.normal(size=(4096, 200)).astype(np.float32), rng.normal(size=200).astype(np.float32)
for name, make in MAKERS.items():
    optimizer, weights, farthest = make(), {"w": mx.array(truth)}, 0.0
    noise = np.random.default_rng(1)
    for step in range(60):
        picked = noise.integers(0, 4096, 16)
        x, y = rows[picked], rows[picked] @ truth + noise.normal(size=16).astype(np.float32)
        gradient = mx.array(x.T @ (x @ np.array(weights["w"]) - y) / 16)
        weights = optimizer.apply_gradients({"w": gradient}, weights)
        farthest = max(farthest, float(np.linalg.norm(np.array(weights["w"]) - truth)))
    print(f"{name}: farthest from the optimum in 60 steps of fine-tuning {farthest:.1f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
Adam: rates gone in steps 1 2 5 10 20 100 1000 2000: 3.16 4.25 5.80 6.53 6.24 3.24 1.26 1.08; in the first 100 together 466
AdamW: rates gone in steps 1 2 5 10 20 100 1000 2000: 3.16 4.25 5.80 6.53 6.24 3.24 1.26 1.08; in the first 100 together 466
AdamW, betas 0.9 and 0.95: rates gone in steps 1 2 5 10 20 100 1000 2000: 0.45 0.61 0.86 1.03 1.10 1.00 1.00 1.00; in the first 100 together 102
AdamW, bias_correction=True: rates gone in steps 1 2 5 10 20 100 1000 2000: 1.00 1.00 1.00 1.00 1.00 1.00 1.00 1.00; in the first 100 together 100
Adam: farthest from the optimum in 60 steps of fine-tuning 0.4
AdamW: farthest from the optimum in 60 steps of fine-tuning 0.4
AdamW, betas 0.9 and 0.95: farthest from the optimum in 60 steps of fine-tuning 0.1
AdamW, bias_correction=True: farthest from the optimum in 60 steps of fine-tuning 0.1
SEEN
