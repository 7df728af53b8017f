#!/usr/bin/env bash
# keras 3.15.1 (on torch 2.13.0), Embedding(mask_zero=True): `x * 2.83` or `x + positions` takes the mask off, and everything behind it reads the padding; the layers of the same name keep it.
#
# The mask of padded places travels with the embedding to whichever layer wants it: a GRU, a pooling, an attention, and at last the loss. What lies in
# between either hands it on (Dense, Dropout, LayerNormalization, Add) or, as Conv1D, warns that it is destroyed. One relies on that warning.
#
# An operator is neither. Scaling by the root of the width and adding positions, as in any transformer, `e * 2.83` and `e + p`, or ops.gelu(e) for an activation,
# leave a tensor without a mask and say nothing, where layers.Rescaling(2.83), layers.Add() and layers.Activation("gelu") compute the same numbers and keep it. From there
# on a row of three words has another vector beside a row of six than by itself, a mean divides by the places of the longest row, and the loss counts padding:
# a tagger that is right at all words has a loss of over 100,000 by what stands at the padded places. Training goes on, and serving row by row, without
# padding, gives other answers than evaluation in batches. Way out: layers in place of operators, or mask= handed on by hand; a row alone and in a batch as a test.
#
# Output seen (CPU, x86_64, Python 3.11), a row of three words, padded to six in a batch, and by itself:
#   nothing                        GRU: as by itself; mean: as by itself
#   layers.Add()([e, e])           GRU: as by itself; mean: as by itself
#   e + e                          GRU: another vector; mean: another vector
#   e * 2.83                       GRU: another vector; mean: another vector
#   layers.Rescaling(2.83)(e)      GRU: as by itself; mean: as by itself
#   ops.gelu(e)                    GRU: another vector; mean: another vector
#   layers.Activation('gelu')(e)   GRU: as by itself; mean: as by itself
#   layers.Conv1D(8, 1)(e)         GRU: another vector, warns; mean: another vector, warns
#   loss of a tagger that is right at all words: with Rescaling 0.0 - with e * 2.83 over 100,000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 keras==3.15.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import os
import warnings

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np
from keras import layers, ops

LONG = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 1, 2, 3, 4]])  # a row of three words with three places of padding, beside a row of six
SHORT = LONG[:1, :3]


def outcome(between, pooling):
    """What the row of three words comes to, padded and by itself: the same, or not; and whether a word was said about the mask."""
    keras.utils.set_random_seed(0)
    words = keras.Input((None,), dtype="int32")
    embedded = layers.Embedding(6, 8, mask_zero=True)(words)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = keras.Model(words, pooling()(between(embedded)))
        padded, alone = model.predict(LONG, verbose=0)[0], model.predict(SHORT, verbose=0)[0]
    told = any("mask" in str(one.message) for one in seen)
    return ("as by itself" if np.allclose(padded, alone, atol=1e-6) else "another vector") + (", warns" if told else "")


BETWEEN = {
    "nothing": lambda e: e,
    "layers.Add()([e, e])": lambda e: layers.Add()([e, e]),
    "e + e": lambda e: e + e,
    "e * 2.83": lambda e: e * 2.83,
    "layers.Rescaling(2.83)(e)": layers.Rescaling(2.83),
    "ops.gelu(e)": ops.gelu,
    "layers.Activation('gelu')(e)": layers.Activation("gelu"),
    "layers.Conv1D(8, 1)(e)": layers.Conv1D(8, 1),
}
for name, between in BETWEEN.items():
    print(f"{name:30} GRU: {outcome(between, lambda: layers.GRU(4))}; mean: {outcome(between, layers.GlobalAveragePooling1D)}")


def loss(scale):
    """The loss of a tagger that says 0.5 everywhere, of tags 0.5 at words and 1000 at padding, which are not to count."""
    words = keras.Input((6,), dtype="int32")
    tags = layers.Dense(1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(0.5))(scale(layers.Embedding(6, 8, mask_zero=True)(words)))
    model = keras.Model(words, tags)
    model.compile(loss="mse")
    return model.evaluate(LONG, np.where(LONG == 0, 1000.0, 0.5)[..., None], verbose=0)


print("loss of a tagger that is right at all words: with Rescaling", loss(layers.Rescaling(2.83)), "- with e * 2.83", "over 100,000" if loss(lambda e: e * 2.83) > 1e5 else loss(lambda e: e * 2.83))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
nothing                        GRU: as by itself; mean: as by itself
layers.Add()([e, e])           GRU: as by itself; mean: as by itself
e + e                          GRU: another vector; mean: another vector
e * 2.83                       GRU: another vector; mean: another vector
layers.Rescaling(2.83)(e)      GRU: as by itself; mean: as by itself
ops.gelu(e)                    GRU: another vector; mean: another vector
layers.Activation('gelu')(e)   GRU: as by itself; mean: as by itself
layers.Conv1D(8, 1)(e)         GRU: another vector, warns; mean: another vector, warns
loss of a tagger that is right at all words: with Rescaling 0.0 - with e * 2.83 over 100,000
SEEN
