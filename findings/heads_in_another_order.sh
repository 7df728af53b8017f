#!/usr/bin/env bash
# keras 3.15.1 (on torch 2.13.0), load_weights: the layers are called "price" and "stock" in the model and in the code, and each gets the other's weights.
#
# Layers have names, of one's own choosing, and get_layer("price") finds them. The format before (HDF5 with by_name=True) loaded by them. So a file of
# weights is expected to have "price" in it: read by a model in which two heads change places in a list, or a layer is new, each weight goes where its
# name is, or there is an error.
#
# In .weights.h5 and .keras the names are layers/dense, layers/dense_1, ...: the class, numbered in the order in which the model lists its layers, and
# that order comes from the order of its outputs. [price, stock] saved and [stock, price] loaded, all shapes being the same: the heads are exchanged,
# nothing is printed, and the trunk, which is right, makes the predictions look sane. A dict of outputs is walked in the order of its keys, by the
# alphabet, and is safe from this. Worse for fine-tuning: a Dense put into the middle takes the weights of the one that was there, and all behind it
# those of their neighbour (skip_mismatch=True is needed for it, and warns of the last one alone, which finds nothing in the file). A layer left out:
# the same, without the option and without a warning. by_name=True is refused for these files. Way out: load into a model built as it was, then
# set_weights layer by layer, by name.
#
# Output seen (CPU, x86_64, Python 3.11), for each layer of the model that loads, whose weights it holds then:
#   outputs [price, stock] into [stock, price]: trunk=trunk stock=price price=stock (warnings 0)
#   the same from a .keras file: trunk=trunk stock=price price=stock (warnings 0)
#   the same, outputs in a dict: trunk=trunk price=price stock=stock (warnings 0)
#   a layer more, skip_mismatch: a=a new=b b=c c=none (warnings 1)
#   a layer less: a=a c=b (warnings 0)
#   two layers renamed one as the other: a=a c=b b=c (warnings 0)
#   by_name=True: ValueError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check keras==3.15.1 2> /dev/null
cat > "$work/heads.py" <<'PY'
import os
import sys
import warnings

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np

FILE, MODEL = f"{sys.argv[1]}/model.weights.h5", f"{sys.argv[1]}/model.keras"


def heads(names, kind=list):
    x = keras.Input((3,))
    trunk = keras.layers.Dense(4, name="trunk")(x)
    outputs = {name: keras.layers.Dense(1, name=name)(trunk) for name in names}
    return keras.Model(x, outputs if kind is dict else list(outputs.values()))


def stack(names):
    return keras.Sequential([keras.Input((4,))] + [keras.layers.Dense(4, name=name) for name in names])


def loaded(saved, model, file=FILE, **options):
    """The name of the saved layer whose weights each layer has, in words; and how many warnings there were."""
    saved.save_weights(FILE)
    saved.save(MODEL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        model.load_weights(file, **options)
    words = []
    for layer in (layer for layer in model.layers if layer.weights):
        kernel = layer.get_weights()[0]
        held = [old.name for old in saved.layers if old.weights and np.array_equal(old.get_weights()[0], kernel)]
        words.append(f"{layer.name}={held[0] if held else 'none'}")
    return " ".join(words) + f" (warnings {len(caught)})"


keras.utils.set_random_seed(0)
order, other = ["price", "stock"], ["stock", "price"]
print("outputs [price, stock] into [stock, price]:", loaded(heads(order), heads(other)))
print("the same from a .keras file:", loaded(heads(order), heads(other), MODEL))
print("the same, outputs in a dict:", loaded(heads(order, dict), heads(other, dict)))
print("a layer more, skip_mismatch:", loaded(stack("abc"), stack(["a", "new", "b", "c"]), skip_mismatch=True))
print("a layer less:", loaded(stack("abc"), stack("ac")))
print("two layers renamed one as the other:", loaded(stack("abc"), stack("acb")))
try:
    heads(other).load_weights(FILE, by_name=True)
except ValueError as error:
    print("by_name=True:", type(error).__name__)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/heads.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
outputs [price, stock] into [stock, price]: trunk=trunk stock=price price=stock (warnings 0)
the same from a .keras file: trunk=trunk stock=price price=stock (warnings 0)
the same, outputs in a dict: trunk=trunk price=price stock=stock (warnings 0)
a layer more, skip_mismatch: a=a new=b b=c c=none (warnings 1)
a layer less: a=a c=b (warnings 0)
two layers renamed one as the other: a=a c=b b=c (warnings 0)
by_name=True: ValueError
SEEN
