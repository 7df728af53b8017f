#!/usr/bin/env bash
# torch 2.13.0, AdamW on weights in bfloat16, betas as they come (0.9, 0.999): the second moment goes up and never down.
#
# Guess        A model that was loaded or cast to bfloat16 trains with some rounding noise in weights and moments. A spike of the
#              gradient makes steps small for a while; after some thousand steps, 1 / (1 - 0.999) being the memory, it is forgotten.
# Found        One gradient of 1000 at step 1, ones from then on. In float32 the second moment is 1.0 again at step 20,000 and steps
#              have their length. In bfloat16 it is 1000 at step 2, at step 20,000 and for ever, and every step is 1/32 of its length.
# Why          The moment is kept in the weights' dtype. It is multiplied by 0.999, a loss of one thousandth; a bfloat16 has 8 bits, and
#              half the distance to the number below is two to four thousandths: each product is rounded back to what it was. Of
#              additions only those that are large enough to reach the number above take effect.
# Without a    Of gradients from one normal distribution the rare large ones are added and never taken off. After 10,000 steps the moment
# spike, too   is twice what it should be, and growing: a decay of the rate that no schedule shows.
# Forms        The plain, the foreach and the fused form all do it; the fused form computes in float32, but stores in bfloat16.
# Way out      betas=(0.9, 0.95): a loss of a twentieth survives the rounding, and the spike is forgotten. Or weights in float32 under autocast.
#
# Output seen (CPU, x86_64, Python 3.11), second moment after step 1, 2, 20,000, and the last step over the rate:
#   float32 plain: 1000, 999, 1 | step 1.00
#   bfloat16 plain: 1000, 1000, 1000 | step 0.03
#   bfloat16 foreach: 1000, 1000, 1000 | step 0.03
#   bfloat16 fused: 1000, 1000, 1000 | step 0.03
#   bfloat16 plain, beta2 0.95: below 2 in the end
#   normal gradients, 10,000 steps, second moment over its expectation: float32 within 5% of 1; bfloat16 above 1.5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/spike.py" <<'PY'
import torch

PLAIN = {"foreach": False, "fused": False}


def moments(dtype, form, gradients, betas=(0.9, 0.999), shape=1):
    """The optimizer's second moment after each step, and the length of the last step over the rate."""
    weights = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
    optimizer = torch.optim.AdamW([weights], lr=1e-3, betas=betas, weight_decay=0.0, **form)
    seen = []
    for gradient in gradients:
        weights.data.zero_()  # so that the step itself is not rounded
        weights.grad = gradient.to(dtype)
        optimizer.step()
        seen.append(optimizer.state[weights]["exp_avg_sq"].float().mean())
    return seen, float(weights.detach().float().abs().mean()) / 1e-3


def spike(steps=20_000):
    return (torch.full((1,), 1000.0 if step == 0 else 1.0) for step in range(steps))


for name, dtype, form in (("float32 plain", torch.float32, PLAIN), ("bfloat16 plain", torch.bfloat16, PLAIN),
                          ("bfloat16 foreach", torch.bfloat16, {"foreach": True}), ("bfloat16 fused", torch.bfloat16, {"fused": True})):
    seen, step = moments(dtype, form, spike())
    print(f"{name}: {seen[0]:.0f}, {seen[1]:.0f}, {seen[-1]:.0f} | step {step:.2f}")
seen, _ = moments(torch.bfloat16, PLAIN, spike(2_000), betas=(0.9, 0.95))
print("bfloat16 plain, beta2 0.95:", "below 2 in the end" if seen[-1] < 2 else seen[-1])
found = {}
for dtype in (torch.float32, torch.bfloat16):
    generator = torch.Generator().manual_seed(0)
    draws = (torch.randn(512, generator=generator) for _ in range(10_000))
    found[dtype] = float(moments(dtype, PLAIN, draws, shape=512)[0][-1]) / (1 - 0.999**10_000)
exact, kept = found[torch.float32], found[torch.bfloat16]
print("normal gradients, 10,000 steps, second moment over its expectation: float32",
      "within 5% of 1;" if abs(exact - 1) < 0.05 else exact, "bfloat16", "above 1.5" if kept > 1.5 else kept)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/spike.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
float32 plain: 1000, 999, 1 | step 1.00
bfloat16 plain: 1000, 1000, 1000 | step 0.03
bfloat16 foreach: 1000, 1000, 1000 | step 0.03
bfloat16 fused: 1000, 1000, 1000 | step 0.03
bfloat16 plain, beta2 0.95: below 2 in the end
normal gradients, 10,000 steps, second moment over its expectation: float32 within 5% of 1; bfloat16 above 1.5
SEEN
