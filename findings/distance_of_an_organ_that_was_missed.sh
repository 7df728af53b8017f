#!/usr/bin/env bash
# monai 1.6.1 (torch 2.13.0), HausdorffDistanceMetric(percentile=95): a network that finds nothing at all has a distance of 0.0, the best there is.
#
# The 95th percentile of the Hausdorff distance (HD95) stands beside Dice in most papers on medical segmentation: how far is the outline from where it should be, leaving out the worst
# twentieth. Of an organ that was not found there is no outline; one expects infinity, or the size of the picture, in any case a number that is as bad as can be. It is what the
# metric gives without the percentile: infinity, and the mean of all scans is infinity too. So are SurfaceDistanceMetric and torchmetrics' HausdorffDistance.
#
# With a percentile the scan gets NaN (a percentile between two infinities is infinity less infinity), and NaN is left out of the mean: the page says that reduction is over what is not NaN. A network
# that misses five scans of six has the distance of the sixth. One that misses all has no scan left, and the mean of none is given as 0.0, a perfect score. Where an organ is
# found that is not there, it is the same. The best epoch by HD95 is then an early one, in which the network had not yet learned to answer; a threshold or a class weight
# that makes it miss what is hard is an improvement. A warning says that "this may result in nan/inf distance", and neither comes out. In published comparisons a method that fails
# on hard cases has the better distance. Way out: get_not_nans=True and a look at the count, or reduction="none" and a value of one's own for NaN.
#
# Output seen (CPU, x86_64, Python 3.11), six pictures with a square of 12 x 12, a network that is one row off where it finds it, and misses the first ones; scipy: the same by hand:
#   missed 0: HD95 1.00, without percentile 1.00, Dice 0.92; percentile by numpy over scipy's distances, missed = infinite: 1.00
#   missed 3: HD95 1.00, without percentile inf, Dice 0.46; percentile by numpy over scipy's distances, missed = infinite: inf
#   missed 5: HD95 1.00, without percentile inf, Dice 0.15; percentile by numpy over scipy's distances, missed = infinite: inf
#   missed 6: HD95 0.00, without percentile inf, Dice 0.00; percentile by numpy over scipy's distances, missed = infinite: inf
#   found in six pictures that have none: HD95 0.00, without percentile inf
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check monai==1.6.1 scipy==1.17.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import numpy as np
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric
from scipy.ndimage import binary_erosion, distance_transform_edt


def pictures(top, missing=0):
    """Six pictures with a square, in two channels (background, organ); none in the first so many."""
    organ = torch.zeros(6, 32, 32)
    organ[missing:, top : top + 12, 8:20] = 1
    return torch.stack([1 - organ, organ], 1)


def score(metric, predicted, truth):
    metric(predicted, truth)
    return metric.aggregate().item()


def distance(predicted, truth):
    """The 95th percentile of the distances between two outlines, the larger of both directions."""
    outlines = [mask & ~binary_erosion(mask) for mask in (predicted > 0, truth > 0)]
    if not all(outline.any() for outline in outlines):
        return np.inf
    ways = [distance_transform_edt(~to)[of] for of, to in (outlines, outlines[::-1])]
    return max(np.percentile(way, 95) for way in ways)


truth = pictures(8)
for missed in (0, 3, 5, 6):
    predicted = pictures(9, missed)
    percentile, plain, dice = HausdorffDistanceMetric(percentile=95), HausdorffDistanceMetric(), DiceMetric(include_background=False)
    by_hand = np.mean([distance(one.numpy(), two.numpy()) for one, two in zip(predicted[:, 1], truth[:, 1], strict=True)])
    print(
        f"missed {missed}: HD95 {score(percentile, predicted, truth):.2f}, without percentile {score(plain, predicted, truth):.2f}, Dice {score(dice, predicted, truth):.2f}; "
        f"percentile by numpy over scipy's distances, missed = infinite: {by_hand:.2f}"
    )
none = pictures(8, 6)
print(f"found in six pictures that have none: HD95 {score(HausdorffDistanceMetric(percentile=95), truth, none):.2f}, without percentile {score(HausdorffDistanceMetric(), truth, none):.2f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
missed 0: HD95 1.00, without percentile 1.00, Dice 0.92; percentile by numpy over scipy's distances, missed = infinite: 1.00
missed 3: HD95 1.00, without percentile inf, Dice 0.46; percentile by numpy over scipy's distances, missed = infinite: inf
missed 5: HD95 1.00, without percentile inf, Dice 0.15; percentile by numpy over scipy's distances, missed = infinite: inf
missed 6: HD95 0.00, without percentile inf, Dice 0.00; percentile by numpy over scipy's distances, missed = infinite: inf
found in six pictures that have none: HD95 0.00, without percentile inf
SEEN
