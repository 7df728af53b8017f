#!/usr/bin/env bash
# imbalanced-learn 0.14.2, SMOTE and its kin: between a pixel of 30 and one of 10 it finds 158. Of uint8 pictures the new ones are noise.
#
# SMOTE evens out classes by new rows between two near rows of the rare class, a + u (b - a) with u from 0 to 1. Whatever else one thinks of it, each number of a
# new row lies between two numbers that were there. A sample is made of "any numeric" array, so pictures, as they are decoded, counts, and quantised features
# go in as they are, and the result has their dtype.
#
# The difference b - a is taken in that dtype. uint8 and uint16 have no negative numbers: 10 - 30 is 236, of which u times is added. A new number is
# right where b is the larger one and too large, or wrapped around, in the other half of the cases. Here 40 pictures with a bright bar on a dark ground
# become 900, and the 860 new ones have two pixels in five outside of all that any picture of the class has at that place. Their class is the
# rare one, so it is the rare class that a network learns as "noise", while shape, dtype, range 0 to 255 and class counts are as they should be.
# No error, no warning. Signed integers do not wrap at such values, but are cut to whole numbers towards zero, which takes half a unit off on average. In
# float32 all is well. SVMSMOTE and BorderlineSMOTE go the same way. Way out: astype("float32") before.
#
# Output seen (x86_64, Python 3.11); the ground is the first 24 of 64 pixels
#   SMOTE, float32: comes out as float32; pixels outside of the class 0%, ground off by 0.2
#   SMOTE, uint8: comes out as uint8; pixels outside of the class 40%, ground off by 49.1
#   SMOTE, uint16: comes out as uint16; pixels outside of the class 48%, ground off by 15760.8
#   SMOTE, int16: comes out as int16; pixels outside of the class 0%, ground off by -0.3
#   SVMSMOTE, uint8: the ground is off by more than 50: True
#   new between (10, 10) and (30, 30), uint8:   (22, 22) (158, 158) (129, 129) (22, 22)
#   new between (10, 10) and (30, 30), float32: (22, 22) (19, 19) (21, 21) (22, 22)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check imbalanced-learn==0.14.2 scikit-learn==1.9.1 scipy==1.16.3 numpy==2.4.6 2> /dev/null
cat > "$work/between.py" <<'PY'
import numpy as np
from imblearn.over_sampling import SMOTE, SVMSMOTE

draw = np.random.default_rng(0)
many, few = draw.integers(0, 60, (900, 64)), draw.integers(0, 60, (40, 64))
few[:, 24:40] = draw.integers(190, 230, (40, 16))
pictures, label = np.concatenate([many, few]), np.repeat([0, 1], [900, 40])


def told(sampler, dtype):
    rows = pictures.astype(dtype)
    given, _ = sampler.fit_resample(rows, label)
    new, old = given[len(rows) :].astype(float), few.astype(float)
    outside = ((new < old.min(0)) | (new > old.max(0))).mean()
    return outside, new[:, :24].mean() - old[:, :24].mean(), given.dtype


for dtype in ("float32", "uint8", "uint16", "int16"):
    outside, moved, kept = told(SMOTE(random_state=0), dtype)
    print(f"SMOTE, {dtype}: comes out as {kept}; pixels outside of the class {outside:.0%}, "
          f"ground off by {moved:.1f}")
outside, moved, _ = told(SVMSMOTE(random_state=0), "uint8")
print(f"SVMSMOTE, uint8: the ground is off by more than 50: {moved > 50}")

two = np.array([[10, 10], [30, 30], *[[200 + k, 200] for k in range(6)]], dtype="uint8")
new, _ = SMOTE(k_neighbors=1, random_state=0).fit_resample(two, [1, 1, 0, 0, 0, 0, 0, 0])
print("new between (10, 10) and (30, 30), uint8:  ", *(tuple(row.tolist()) for row in new[len(two) :]))
new, _ = SMOTE(k_neighbors=1, random_state=0).fit_resample(two.astype("float32"), [1, 1, 0, 0, 0, 0, 0, 0])
print("new between (10, 10) and (30, 30), float32:", *(tuple(map(int, row)) for row in new[len(two) :]))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/between.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
SMOTE, float32: comes out as float32; pixels outside of the class 0%, ground off by 0.2
SMOTE, uint8: comes out as uint8; pixels outside of the class 40%, ground off by 49.1
SMOTE, uint16: comes out as uint16; pixels outside of the class 48%, ground off by 15760.8
SMOTE, int16: comes out as int16; pixels outside of the class 0%, ground off by -0.3
SVMSMOTE, uint8: the ground is off by more than 50: True
new between (10, 10) and (30, 30), uint8:   (22, 22) (158, 158) (129, 129) (22, 22)
new between (10, 10) and (30, 30), float32: (22, 22) (19, 19) (21, 21) (22, 22)
SEEN
