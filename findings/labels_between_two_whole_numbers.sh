#!/usr/bin/env bash
# nibabel 5.4.2, Nifti1Image(labels, affine, scan.header): a segmentation written with the header of its scan is read with other labels, up to three voxels in four.
#
#   wanted      the labels that a model gave, or that were resampled, laid over the scan that they belong to: so they get its affine and its header, which say how
#               voxels lie in space. Arrays of labels are often float32, after a resampling, a mean of folds, a round()
#   guess       whole numbers from 0 to 20 are exact in float32 and in the header's int16 or uint8; the file holds them, and astype(uint8) reads them
#   found       the header's dtype is that of the file, and floating-point values are fitted into its whole range by a slope: 0 to 4 becomes -32,768 to
#               32,767 times 4 / 65,535. What is read is 2.999985 and 3.999999999 for labels 3 and 4, a little above for 1 and 2, which a look or a plot does not
#               tell from whole ones. A cast to integers, as loaders of labels have it, cuts these down to the label below. Which ones depends on the largest
#               label of that file: with 0 and 1 in int16 all of the organ is background; of 0 to 4, 3 and 4 are lost
#   unseen      shape, affine, the number of labels after rounding. A mask of 0 and 1 is right with a uint8 scan and empty with an int16 one
#   way out     labels.astype(np.uint8) *before* Nifti1Image, which are then written as they are; set_data_dtype(np.uint8) alone is no help. In reading, round()
#
# Output seen (CPU, x86_64, Python 3.11)
#   header of int16, labels 0 to 1: exact False; another label in 0.5 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1
#   header of int16, labels 0 to 3: exact False; another label in 0.7 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1, 2, 3
#   header of int16, labels 0 to 4: exact False; another label in 0.4 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 3, 4
#   header of int16, labels 0 to 6: exact False; another label in 0.7 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1, 2, 4, 5, 6
#   header of int16, labels 0 to 19: exact False; another label in 0.5 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1, 2, 5, 6, 7, 10, 11, 15, 16, 19
#   header of uint8, labels 0 to 1: exact False; another label in 0.0 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: none
#   header of uint8, labels 0 to 3: exact False; another label in 0.0 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: none
#   header of uint8, labels 0 to 4: exact False; another label in 0.4 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 2, 3
#   header of uint8, labels 0 to 6: exact False; another label in 0.3 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1, 5
#   header of uint8, labels 0 to 19: exact False; another label in 0.4 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1, 3, 5, 8, 10, 12, 13, 15, 17
#   uint8 labels, the same header: written as int16, another label in 0.0 of the voxels
#   float32 labels, no header: written as float32, another label in 0.0 of the voxels
#   float32 labels, header.set_data_dtype(uint8): another label in 0.4 of the voxels
#   a probability of 0.5 beside one of 1.0, header of uint8: [0.0, 0.498, 1.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check nibabel==5.4.2 2> /dev/null
cat > "$work/finding.py" <<'PY'
import nibabel
import numpy as np

rng = np.random.default_rng(0)


def stored(labels, header):
    """What is read of a file that was written with this header, as floating-point numbers."""
    return nibabel.Nifti1Image.from_bytes(nibabel.Nifti1Image(labels, np.eye(4), header).to_bytes())


def scan(dtype):
    """The scan that was segmented; its header says how its voxels lie in space, and their type."""
    return nibabel.Nifti1Image(rng.integers(0, 200, (16, 16, 16)).astype(dtype), np.diag([0.8, 0.8, 2.5, 1]))


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


for dtype in (np.int16, np.uint8):
    header = scan(dtype).header
    for classes in (2, 4, 5, 7, 20):
        labels = rng.integers(0, classes, (16, 16, 16))
        read = stored(labels.astype(np.float32), header).get_fdata()
        cut = read.astype(np.uint8)
        scores = [dice(labels == k, cut == k) for k in range(1, classes)]
        exact = np.isin(read, range(classes)).all()
        lost = [k for k in range(1, classes) if scores[k - 1] < 0.01]
        print(f"header of {np.dtype(dtype)}, labels 0 to {classes - 1}: exact {exact}; another label in {(cut != labels).mean():.1f} of the voxels, rounded "
              f"{(read.round() != labels).mean():.1f}; labels with a Dice of 0 against themselves: {', '.join(map(str, lost)) or 'none'}")
labels = rng.integers(0, 5, (16, 16, 16))
header = scan(np.int16).header
for name, image in (("uint8 labels, the same header", stored(labels.astype(np.uint8), header)), ("float32 labels, no header", stored(labels.astype(np.float32), None))):
    print(f"{name}: written as {image.get_data_dtype()}, another label in {(image.get_fdata().astype(np.uint8) != labels).mean():.1f} of the voxels")
again = scan(np.int16).header
again.set_data_dtype(np.uint8)
image = stored(labels.astype(np.float32), again)
print(f"float32 labels, header.set_data_dtype(uint8): another label in {(image.get_fdata().astype(np.uint8) != labels).mean():.1f} of the voxels")
print(f"a probability of 0.5 beside one of 1.0, header of uint8: {stored(np.array([[[0.0, 0.5, 1.0]]]), scan(np.uint8).header).get_fdata().ravel().round(4).tolist()}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
header of int16, labels 0 to 1: exact False; another label in 0.5 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1
header of int16, labels 0 to 3: exact False; another label in 0.7 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1, 2, 3
header of int16, labels 0 to 4: exact False; another label in 0.4 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 3, 4
header of int16, labels 0 to 6: exact False; another label in 0.7 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1, 2, 4, 5, 6
header of int16, labels 0 to 19: exact False; another label in 0.5 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1, 2, 5, 6, 7, 10, 11, 15, 16, 19
header of uint8, labels 0 to 1: exact False; another label in 0.0 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: none
header of uint8, labels 0 to 3: exact False; another label in 0.0 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: none
header of uint8, labels 0 to 4: exact False; another label in 0.4 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 2, 3
header of uint8, labels 0 to 6: exact False; another label in 0.3 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1, 5
header of uint8, labels 0 to 19: exact False; another label in 0.4 of the voxels, rounded 0.0; labels with a Dice of 0 against themselves: 1, 3, 5, 8, 10, 12, 13, 15, 17
uint8 labels, the same header: written as int16, another label in 0.0 of the voxels
float32 labels, no header: written as float32, another label in 0.0 of the voxels
float32 labels, header.set_data_dtype(uint8): another label in 0.4 of the voxels
a probability of 0.5 beside one of 1.0, header of uint8: [0.0, 0.498, 1.0]
SEEN
