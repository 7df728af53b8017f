#!/usr/bin/env bash
# pycocotools 2.0.11, COCOeval: in a file whose annotations are counted from 0, the first box is found by nobody, and who finds it is wrong.
#
# The reference code for detection counts what a model finds against a list of boxes, each with an `id`. A list that one makes oneself (enumerate over a
# table, an export of another tool, a split numbered anew) has ids from 0, as image ids and rows have; they are unique, createIndex and loadRes take them,
# images and categories may be 0 as well. Detections that are the boxes themselves should have an average precision of 1.
#
# The matches of a detection are kept as the id of its box, in an array of zeros; a match with box 0 is thus no match. The box counts as missed, and the
# detection as a false alarm. If that one has a high score, as here, precision is down at every place of the curve: one box of a class's two costs all of
# it, one of twenty a tenth. A class looks hard that the model knows by heart, and two models differ by who has the first box. Large test sets hide
# it (one box in ten thousand), small and rare classes do not; nor does a check of every image by itself, with ids from 0 in each.
# Way out: ids from 1. Nothing in the file's description says that 0 is not an id.
#
# Output seen (CPU, x86_64, Python 3.11), the detections being the boxes, one cat or dog to an image
#   2 images, ids from 1: AP 1.000, recall 1.000; AP of cats 1.000, of dogs 1.000
#   2 images, ids from 0: AP 0.500, recall 0.500; AP of cats 0.000, of dogs 1.000
#   4 images, ids from 1: AP 1.000, recall 1.000; AP of cats 1.000, of dogs 1.000
#   4 images, ids from 0: AP 0.626, recall 0.750; AP of cats 0.252, of dogs 1.000
#   10 images, ids from 1: AP 1.000, recall 1.000; AP of cats 1.000, of dogs 1.000
#   10 images, ids from 0: AP 0.821, recall 0.900; AP of cats 0.642, of dogs 1.000
#   40 images, ids from 1: AP 1.000, recall 1.000; AP of cats 1.000, of dogs 1.000
#   40 images, ids from 0: AP 0.947, recall 0.975; AP of cats 0.894, of dogs 1.000
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pycocotools==2.0.11 2> /dev/null
cat > "$work/finding.py" <<'PY'
import contextlib
import io
import json

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def scored(first, images):
    """Average precision and recall of detections that are the truth itself, its ids counted from `first`."""
    boxes = [dict(id=first + k, image_id=k, category_id=1 + k % 2, bbox=[10.0 + k, 20.0, 30.0, 40.0], area=1200.0, iscrowd=0) for k in range(images)]
    truth = COCO()
    truth.dataset = dict(info={}, images=[dict(id=k, height=200, width=200) for k in range(images)], annotations=boxes,
                         categories=[dict(id=1, name="cat"), dict(id=2, name="dog")])
    found = [dict(image_id=b["image_id"], category_id=b["category_id"], bbox=b["bbox"], score=1 - b["image_id"] / 100) for b in boxes]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(found))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    by_class = np.array([evaluation.eval["precision"][:, :, k, 0, 2].mean() for k in range(2)])
    return evaluation.stats[0], evaluation.stats[8], by_class


for images in (2, 4, 10, 40):
    for first in (1, 0):
        precision, recall, (cat, dog) = scored(first, images)
        print(f"{images} images, ids from {first}: AP {precision:.3f}, recall {recall:.3f}; AP of cats {cat:.3f}, of dogs {dog:.3f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
2 images, ids from 1: AP 1.000, recall 1.000; AP of cats 1.000, of dogs 1.000
2 images, ids from 0: AP 0.500, recall 0.500; AP of cats 0.000, of dogs 1.000
4 images, ids from 1: AP 1.000, recall 1.000; AP of cats 1.000, of dogs 1.000
4 images, ids from 0: AP 0.626, recall 0.750; AP of cats 0.252, of dogs 1.000
10 images, ids from 1: AP 1.000, recall 1.000; AP of cats 1.000, of dogs 1.000
10 images, ids from 0: AP 0.821, recall 0.900; AP of cats 0.642, of dogs 1.000
40 images, ids from 1: AP 1.000, recall 1.000; AP of cats 1.000, of dogs 1.000
40 images, ids from 0: AP 0.947, recall 0.975; AP of cats 0.894, of dogs 1.000
SEEN
