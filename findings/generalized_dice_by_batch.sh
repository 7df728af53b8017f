#!/usr/bin/env bash
# torchmetrics 1.9.0 (torch 2.13.0), GeneralizedDiceScore: the same predictions score 0.60 in one batch of 64 and 0.90 in batches of one.
#
#     metric = GeneralizedDiceScore(num_classes=3, input_format="index")
#     for batch in batches: metric.update(predicted, masks)
#
# A metric object exists so that the batch does not matter: it is updated by batch and computed once. Each picture has a score of its own here,
# and the result is the mean over pictures, so batches of any size, in any order, should end in one number, as they do in MeanIoU and DiceScore.
#
# A class weighs by 1/size² in its picture. Where a picture does not have the class, that is infinite, and it is replaced by the largest weight
# that the class has in another picture *of the batch*: a class of which some picture has two pixels gives that weight to all pictures
# without it, where any stray pixel of the class then decides the score; in a batch of one it weighs nothing. So larger evaluation batches
# score lower, and a shuffled loader changes the score, as does the number of ranks. What is more, the replacements are laid out
# by class and the places by picture: with three pictures and three classes, an absent class gets another class's weight (last lines).
# Rare classes are what this score was made for, and what makes it move. Way out: weight_type="linear", or update picture by picture.
#   GeneralizedDiceScore, batches of 64, 16, 4, 1: 0.60 0.55 0.66 0.90
#   the same, shuffled, batches of 64, 16, 4, 1: 0.60 0.66 0.75 0.90
#   weight_type='simple', batches of 64, 16, 4, 1: 0.83 0.81 0.85 0.93
#   weight_type='linear', batches of 64, 16, 4, 1: 0.97 0.97 0.97 0.97
#   MeanIoU, batches of 64, 16, 4, 1: 0.64 0.64 0.64 0.64
#   DiceScore, batches of 64, 16, 4, 1: 0.66 0.66 0.66 0.66
#   a stray pixel of class 2: 0.989
#   by hand, with class 2's weight elsewhere: 0.906, with class 0's: 0.989, with class 1's: 0.968
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from torchmetrics.segmentation import DiceScore, GeneralizedDiceScore, MeanIoU

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
masks = torch.zeros(64, 16, 16, dtype=torch.long)
masks[:, 4:12, 4:12] = 1
masks[::8, 0, :2] = 2  # two pixels of a rare class in every eighth picture
stray = torch.rand(masks.shape, generator=draw) < 0.05
predicted = masks.clone()
predicted[stray] = torch.randint(0, 3, (int(stray.sum()),), generator=draw)
order = torch.randperm(64, generator=draw)


def score(make, size, rows):
    metric = make()
    for start in range(0, 64, size):
        metric.update(predicted[rows[start : start + size]], masks[rows[start : start + size]])
    return float(metric.compute())


def generalized(**options):
    return lambda: GeneralizedDiceScore(num_classes=3, input_format="index", **options)


stored = torch.arange(64)
for name, make in {
    "GeneralizedDiceScore": generalized(),
    "the same, shuffled": generalized(),
    "weight_type='simple'": generalized(weight_type="simple"),
    "weight_type='linear'": generalized(weight_type="linear"),
    "MeanIoU": lambda: MeanIoU(num_classes=3, input_format="index"),
    "DiceScore": lambda: DiceScore(num_classes=3, input_format="index"),
}.items():
    rows = order if "shuffled" in name else stored
    print(f"{name}, batches of 64, 16, 4, 1:", *(f"{score(make, size, rows):.2f}" for size in (64, 16, 4, 1)))

# three pictures, each without one class; in the first, one stray pixel of class 2: which weight does it get?
three = torch.zeros(3, 1, 16, dtype=torch.long)
three[0, 0, :4] = 1  # 12 pixels of class 0, 4 of class 1, none of class 2
three[1, 0, :2] = 2  # 14 of class 0, none of class 1, 2 of class 2
three[2, 0, :8] = 1  # 8 of class 0, 8 of class 1, none of class 2
wrong = three.clone()
wrong[0, 0, 15] = 2
metric = generalized()()
metric.update(wrong, three)


def by_hand(absent):
    """The mean over the pictures: two are right; in the first class 0 has 11 of 12 pixels, class 1 all 4, and a stray pixel weighs `absent`."""
    return (2 + 2 * (11 / 144 + 4 / 16) / (23 / 144 + 8 / 16 + absent)) / 3


print(f"a stray pixel of class 2: {float(metric.compute()):.3f}")
print(f"by hand, with class 2's weight elsewhere: {by_hand(1 / 4):.3f}, with class 0's: {by_hand(1 / 64):.3f}, with class 1's: {by_hand(1 / 16):.3f}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
GeneralizedDiceScore, batches of 64, 16, 4, 1: 0.60 0.55 0.66 0.90
the same, shuffled, batches of 64, 16, 4, 1: 0.60 0.66 0.75 0.90
weight_type='simple', batches of 64, 16, 4, 1: 0.83 0.81 0.85 0.93
weight_type='linear', batches of 64, 16, 4, 1: 0.97 0.97 0.97 0.97
MeanIoU, batches of 64, 16, 4, 1: 0.64 0.64 0.64 0.64
DiceScore, batches of 64, 16, 4, 1: 0.66 0.66 0.66 0.66
a stray pixel of class 2: 0.989
by hand, with class 2's weight elsewhere: 0.906, with class 0's: 0.989, with class 1's: 0.968
SEEN
