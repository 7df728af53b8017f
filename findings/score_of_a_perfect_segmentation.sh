#!/usr/bin/env bash
# segmentation-models-pytorch 0.6.0 (torch 2.13.0), metrics with class_weights and reduction="weighted-imagewise": of 20 classes, a perfect prediction has an IoU of 0.05.
#
#   wanted      scores to each image and class, of which the classes count by weights (as the rare ones should), averaged over the images
#   guess       a weighted mean of numbers from 0 to 1 is from 0 to 1: the truth itself has an IoU of 1.00, as it has with reduction="weighted", which takes
#               the same weights and sums over the images first
#   found       the weights are scaled to a sum of 1, and the mean over the classes is taken besides: all that comes out is divided by the number of classes.
#               The same holds for "macro" and "macro-imagewise" if class_weights are given, which are the ones without weights by their names; none of
#               the three says so, or refuses. With weights that are all 1 the score is not the unweighted one but a twentieth of it
#   the cost    the order of models is kept, for one list of classes. Between two lists it is not: with two classes the truth has 0.50, and a merge of classes
#               raises every score. A model looks hopeless beside published numbers, and a share of errors (missed pixels, false alarms, all by the
#               same function) looks twenty times better than it is: half of the pixels wrong, 0.02 missed. A stop at "IoU above 0.8" never comes
#   way out     reduction=None, which gives the scores of each image and class, and a weighted mean of one's own
#
# Output seen (CPU, x86_64, Python 3.11)
#   2 classes, all weights 1, weighted: IoU of the truth itself 1.00; with half of it at random, IoU 0.60, missed 0.25
#   2 classes, all weights 1, weighted-imagewise: IoU of the truth itself 0.50; with half of it at random, IoU 0.30, missed 0.12
#   2 classes, all weights 1, macro: IoU of the truth itself 0.50; with half of it at random, IoU 0.30, missed 0.12
#   2 classes, all weights 1, macro-imagewise: IoU of the truth itself 0.50; with half of it at random, IoU 0.30, missed 0.12
#   20 classes, all weights 1, weighted: IoU of the truth itself 1.00; with half of it at random, IoU 0.36, missed 0.47
#   20 classes, all weights 1, weighted-imagewise: IoU of the truth itself 0.05; with half of it at random, IoU 0.02, missed 0.02
#   20 classes, all weights 1, macro: IoU of the truth itself 0.05; with half of it at random, IoU 0.02, missed 0.02
#   20 classes, all weights 1, macro-imagewise: IoU of the truth itself 0.05; with half of it at random, IoU 0.02, missed 0.02
#   20 classes, weights 1 to 20, weighted-imagewise: IoU of the truth itself 0.05; with half of it at random, IoU 0.02, missed 0.02
#   20 classes, no weights, macro: IoU of the truth itself 1.00; with half of it at random, IoU 0.36, missed 0.47
#   20 classes, no weights, macro-imagewise: IoU of the truth itself 1.00; with half of it at random, IoU 0.36, missed 0.47
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps segmentation-models-pytorch==0.6.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import sys
import types
from pathlib import Path

import torch

# the package's __init__ loads all of its networks, and torchvision and timm with them; of it, take the metrics alone
package = types.ModuleType("segmentation_models_pytorch")
package.__path__ = [str(Path(next(p for p in sys.path if (Path(p) / package.__name__).is_dir())) / package.__name__)]
sys.modules[package.__name__] = package
from segmentation_models_pytorch.metrics import false_negative_rate, get_stats, iou_score  # noqa: E402



def scores(classes, wrong, reduction, weights):
    """IoU, and the share of pixels that were missed, for predictions of which a share is drawn at random."""
    gen = torch.Generator().manual_seed(0)
    truth = torch.randint(0, classes, (8, 32, 32), generator=gen)
    noise = torch.randint(0, classes, truth.shape, generator=gen)
    found = torch.where(torch.rand(truth.shape, generator=gen) < wrong, noise, truth)
    counts = get_stats(found, truth, mode="multiclass", num_classes=classes)
    return [float(score(*counts, reduction=reduction, class_weights=weights)) for score in (iou_score, false_negative_rate)]


def told(classes, reduction, weights, name):
    perfect, half = scores(classes, 0.0, reduction, weights), scores(classes, 0.5, reduction, weights)
    print(f"{classes} classes, {name}, {reduction}: IoU of the truth itself {perfect[0]:.2f}; with half of it at random, IoU {half[0]:.2f}, missed {half[1]:.2f}")


for classes in (2, 20):
    for reduction in ("weighted", "weighted-imagewise", "macro", "macro-imagewise"):
        told(classes, reduction, [1.0] * classes, "all weights 1")
told(20, "weighted-imagewise", [1.0 + k for k in range(20)], "weights 1 to 20")
told(20, "macro", None, "no weights")
told(20, "macro-imagewise", None, "no weights")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
2 classes, all weights 1, weighted: IoU of the truth itself 1.00; with half of it at random, IoU 0.60, missed 0.25
2 classes, all weights 1, weighted-imagewise: IoU of the truth itself 0.50; with half of it at random, IoU 0.30, missed 0.12
2 classes, all weights 1, macro: IoU of the truth itself 0.50; with half of it at random, IoU 0.30, missed 0.12
2 classes, all weights 1, macro-imagewise: IoU of the truth itself 0.50; with half of it at random, IoU 0.30, missed 0.12
20 classes, all weights 1, weighted: IoU of the truth itself 1.00; with half of it at random, IoU 0.36, missed 0.47
20 classes, all weights 1, weighted-imagewise: IoU of the truth itself 0.05; with half of it at random, IoU 0.02, missed 0.02
20 classes, all weights 1, macro: IoU of the truth itself 0.05; with half of it at random, IoU 0.02, missed 0.02
20 classes, all weights 1, macro-imagewise: IoU of the truth itself 0.05; with half of it at random, IoU 0.02, missed 0.02
20 classes, weights 1 to 20, weighted-imagewise: IoU of the truth itself 0.05; with half of it at random, IoU 0.02, missed 0.02
20 classes, no weights, macro: IoU of the truth itself 1.00; with half of it at random, IoU 0.36, missed 0.47
20 classes, no weights, macro-imagewise: IoU of the truth itself 1.00; with half of it at random, IoU 0.36, missed 0.47
SEEN
