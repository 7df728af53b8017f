#!/usr/bin/env bash
# optax 0.2.8 (jax 0.10.2), softmax_cross_entropy_with_integer_labels: the tokens that are marked -100, to be left out, teach the model a word of its own.
#
#     optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
#
# -100 is the mark that data collators put at padded places and prompts, and torch's loss skips it; jax.nn.one_hot turns it into zeros, and
# softmax_cross_entropy over that, which the page calls similar, gives 0 for it. A label out of range is expected to be like one of these, an error, or NaN,
# which one sees at step 1.
#
# It is NaN above the range, but from below it is counted from the end, as Python does: -100 is word V-100 and -1 is the last one. With a vocabulary of
# 300 words, and half of the places marked, the model learns to say word 200 half of the time; the loss falls and looks like that of hard data. With
# real vocabularies the word is a rare one, and the harm grows with the share of prompts and padding. A small vocabulary (a test, labels of entities) has a
# different end: below 100 classes the loss is NaN, the gradient is finite, and pushes all logits of that place down; so training goes on, and -1 is
# the last class all the same. The page says that labels are assumed to be within the range, and not what else they do. Way out: where=labels >= 0 in
# the loss, and a division by the number of those.
#
# Output seen (CPU, x86_64, Python 3.11), labels [3, 3, 3, mark, mark, mark], one bias a class, after 300 steps:
#   300 classes, mark -100: loss 0.7, 3 at 0.5, 200 at 0.5
#   300 classes, mark -1: loss 0.7, 3 at 0.5, 299 at 0.5
#   300 classes, mark 300: loss nan, 3 at 0.5, 0 at 0.0
#   50 classes, mark -100: loss nan, 3 at 0.5, 0 at 0.0
#   50 classes, mark -1: loss 0.7, 3 at 0.5, 49 at 0.5
#   one_hot and softmax_cross_entropy, 300 classes, mark -100: loss 0.0, 3 at 1.0, 0 at 0.0
#   where=labels >= 0, 300 classes, mark -100: loss 0.0, 3 at 1.0, 0 at 0.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 2> /dev/null
cat > "$work/labels.py" <<'PY'
import jax
import jax.numpy as jnp
import optax


def plain(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def hot(logits, labels):
    return optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1])).mean()


def masked(logits, labels):
    kept = labels >= 0
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels, where=kept).sum() / kept.sum()


def told(name, loss, classes, mark):
    labels = jnp.array([3, 3, 3, mark, mark, mark])
    step = jax.jit(jax.value_and_grad(lambda bias: loss(jnp.broadcast_to(bias, (6, classes)), labels)))
    bias = jnp.zeros(classes)
    for _ in range(300):
        value, gradient = step(bias)
        bias = bias - gradient
    shares = [round(float(share), 1) for share in jax.nn.softmax(bias)]
    most = sorted(range(classes), key=lambda k: (-shares[k], k != 3, k))[:2]
    print(f"{name}{classes} classes, mark {mark}: loss {float(value):.1f}, " + ", ".join(f"{k} at {shares[k]}" for k in most))


told("", plain, 300, -100)
told("", plain, 300, -1)
told("", plain, 300, 300)
told("", plain, 50, -100)
told("", plain, 50, -1)
told("one_hot and softmax_cross_entropy, ", hot, 300, -100)
told("where=labels >= 0, ", masked, 300, -100)
PY
OMP_NUM_THREADS=1 JAX_PLATFORMS=cpu "$work/venv/bin/python" -W ignore "$work/labels.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
300 classes, mark -100: loss 0.7, 3 at 0.5, 200 at 0.5
300 classes, mark -1: loss 0.7, 3 at 0.5, 299 at 0.5
300 classes, mark 300: loss nan, 3 at 0.5, 0 at 0.0
50 classes, mark -100: loss nan, 3 at 0.5, 0 at 0.0
50 classes, mark -1: loss 0.7, 3 at 0.5, 49 at 0.5
one_hot and softmax_cross_entropy, 300 classes, mark -100: loss 0.0, 3 at 1.0, 0 at 0.0
where=labels >= 0, 300 classes, mark -100: loss 0.0, 3 at 1.0, 0 at 0.0
SEEN
