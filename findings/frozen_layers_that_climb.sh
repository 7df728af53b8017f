#!/usr/bin/env bash
# optax 0.2.8 (jax 0.10.2), optax.masked(optax.adam(0.01), mask): the layers that the mask leaves out are not left as they are; they go uphill, at a rate of 1.
#
# Fine-tuning: a head is new, the body was trained before and is to stay. The mask says True where the transformation is to be applied and False "for those
# you want to skip". Weights that the optimizer skips stay where they are, in every other library, and one expects the same: an update of zero.
#
# What is skipped is the transformation: the gradient of these layers comes out as it went in. An optimizer's output is what apply_updates *adds* to the weights,
# and adam's last link is what turns the sign and scales by the rate, so for the masked layers the raw gradient is added: ascent, at a rate of 1, in every step.
# Here the head has less and less of a body to learn on and the run ends above the loss it began with; where the body's gradients are small, it decays slowly, the
# head makes up for some of it, the loss falls, and the run looks like fine-tuning that works badly. The page's own example, a mask for add_decayed_weights
# within a chain, is right since a rate follows it. Way out: optax.partition (or optax.chain with a masked set_to_zero of the rest), as asserted here.
#
# Output seen (CPU, x86_64, Python 3.11):
#   masked(adam): the body's update is its gradient, it moved by over 1, loss above the first one
#   masked(adam), then masked(set_to_zero) of the others: the body's update is 0, it moved by 0.0, loss under a fiftieth of the first one
#   partition: the body's update is 0, it moved by 0.0, loss under a fiftieth of the first one
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 jax==0.10.2 optax==0.2.8 2> /dev/null
cat > "$work/finding.py" <<'PY'
import jax
import jax.numpy as jnp
import optax

draw = jax.random.key(0)
x = jax.random.normal(draw, (512, 8))
truth = {"body": jax.random.normal(jax.random.key(1), (8, 8)) / 3, "head": jax.random.normal(jax.random.key(2), (8, 1))}


def loss(weights):
    return jnp.mean((jnp.tanh(x @ weights["body"]) @ weights["head"] - jnp.tanh(x @ truth["body"]) @ truth["head"]) ** 2)


start = {"body": truth["body"] + 0.02, "head": jnp.zeros((8, 1))}  # a body that was trained before, almost right, and a new head
head_only = {"body": False, "head": True}


def trained(optimizer, steps=300):
    weights, state = start, optimizer.init(start)

    @jax.jit
    def step(weights, state):
        updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
        return optax.apply_updates(weights, updates), state

    for _ in range(steps):
        weights, state = step(weights, state)
    return weights


def first(optimizer):
    gradient = jax.grad(loss)({**start, "head": truth["head"] * 0.5})
    updates, _ = optimizer.update(gradient, optimizer.init(start), start)
    return bool((updates["body"] == gradient["body"]).all()), bool((updates["body"] == 0).all())


ways = {
    "masked(adam)": optax.masked(optax.adam(0.01), head_only),
    "masked(adam), then masked(set_to_zero) of the others": optax.chain(optax.masked(optax.adam(0.01), head_only), optax.masked(optax.set_to_zero(), {"body": True, "head": False})),
    "partition": optax.partition({"train": optax.adam(0.01), "keep": optax.set_to_zero()}, {"body": "keep", "head": "train"}),
}
before = float(loss(start))
for name, optimizer in ways.items():
    same, zero = first(optimizer)
    weights = trained(optimizer)
    moved, after = float(jnp.abs(weights["body"] - start["body"]).max()), float(loss(weights))
    words = "is its gradient" if same else "is 0" if zero else "is something else"
    ended = "above the first one" if after > before else "under a fiftieth of the first one" if after < before / 50 else f"{after / before:.2f} of the first one"
    print(f"{name}: the body's update {words}, it moved by {'over 1' if moved > 1 else moved}, loss {ended}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
masked(adam): the body's update is its gradient, it moved by over 1, loss above the first one
masked(adam), then masked(set_to_zero) of the others: the body's update is 0, it moved by 0.0, loss under a fiftieth of the first one
partition: the body's update is 0, it moved by 0.0, loss under a fiftieth of the first one
SEEN
