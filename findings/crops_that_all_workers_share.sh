#!/usr/bin/env bash
# albumentations 2.0.8 in the workers of a DataLoader (torch 2.13.0): the random crops of epoch 2 are those of epoch 1, and all workers draw the same.
#
#     augment = A.Compose([A.RandomCrop(8, 8)])     ... in __getitem__: augment(image=image)["image"]     DataLoader(rows, num_workers=4)
#
# That forked workers once had one state of numpy's generator is an old story; torch has given each worker its own seeds, numpy's and random's too, for
# years, and they differ between epochs. So a transform without a seed draws anew for each image, as it does without workers.
#
# The library has generators of its own; they lie in the Compose, are copied into each worker, and nothing reseeds them. So the
# k-th image of each worker has the same crop, turn and noise as that of any other, and each epoch starts from the same copy: a run of 100 epochs with 4
# workers has, for all its images, as many draws as one worker makes in one epoch, and a place in the epoch always has the same one. The images differ, as
# the order is shuffled, so nothing is to be seen; one augments for nothing, more or less. Without workers it is right, so a notebook is, too. seed= of
# Compose, torch.manual_seed and numpy.random.seed do not help; persistent_workers=True gives other draws in each epoch, and still one for all
# workers. Users have reported it (AlbumentationsX issue 266). Way out: a worker_init_fn that calls set_random_seed(torch.initial_seed() % 2**32).
#
# Output seen (CPU, x86_64, Python 3.11), the corners of 64 crops an epoch, each by one of 4 workers
#   no workers: epoch 2 as epoch 1 False
#   4 workers: worker 2 as worker 1 True, epoch 2 as epoch 1 True, corners in two epochs 16
#   4 workers, without Compose: worker 2 as worker 1 True, epoch 2 as epoch 1 True, corners in two epochs 16
#   4 workers, Compose(seed=1): worker 2 as worker 1 True, epoch 2 as epoch 1 True, corners in two epochs 16
#   4 workers, persistent: worker 2 as worker 1 True, epoch 2 as epoch 1 False, corners in two epochs 32
#   4 workers, numpy.random for the same: worker 2 as worker 1 False, epoch 2 as epoch 1 False, corners in two epochs 128
#   4 workers, set_random_seed in each: worker 2 as worker 1 False, epoch 2 as epoch 1 False, corners in two epochs 128
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip="$work/venv/bin/pip install --quiet --no-compile --disable-pip-version-check"
$pip torch==2.13.0 numpy==2.4.6 2> /dev/null
$pip albumentations==2.0.8 opencv-python-headless==5.0.0.93 2> /dev/null
cat > "$work/crops.py" <<'PY'
import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations as A
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

SIDE = 1000
ROW, COLUMN = np.mgrid[:SIDE, :SIDE]
IMAGE = np.stack([ROW % 256, COLUMN % 256, ROW // 256 * 4 + COLUMN // 256], -1).astype(np.uint8)  # a pixel's colour says where it is


class Rows(Dataset):
    def __init__(self, augment):
        self.augment = augment

    def __len__(self):
        return 64

    def __getitem__(self, row):
        return self.augment(image=IMAGE)["image"][0, 0]


def by_numpy(image):
    row, column = np.random.randint(SIDE - 8, size=2)
    return {"image": image[row : row + 8, column : column + 8]}


def reseeded(_):
    get_worker_info().dataset.augment.set_random_seed(torch.initial_seed() % 2**32)


def told(name, augment, **how):
    loader = DataLoader(Rows(augment), batch_size=4, **how)
    first, second = ([[tuple(corner.tolist()) for corner in batch] for batch in loader] for _ in range(2))
    if not how:
        return print(f"{name}: epoch 2 as epoch 1 {first == second}")
    corners = {corner for epoch in (first, second) for batch in epoch for corner in batch}
    print(f"{name}: worker 2 as worker 1 {first[0::4] == first[1::4]}, epoch 2 as epoch 1 {first == second}, corners in two epochs {len(corners)}")


torch.manual_seed(0)
told("no workers", A.Compose([A.RandomCrop(8, 8)]))
told("4 workers", A.Compose([A.RandomCrop(8, 8)]), num_workers=4)
told("4 workers, without Compose", A.RandomCrop(8, 8), num_workers=4)
told("4 workers, Compose(seed=1)", A.Compose([A.RandomCrop(8, 8)], seed=1), num_workers=4)
told("4 workers, persistent", A.Compose([A.RandomCrop(8, 8)]), num_workers=4, persistent_workers=True)
told("4 workers, numpy.random for the same", by_numpy, num_workers=4)
told("4 workers, set_random_seed in each", A.Compose([A.RandomCrop(8, 8)]), num_workers=4, worker_init_fn=reseeded)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/crops.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
no workers: epoch 2 as epoch 1 False
4 workers: worker 2 as worker 1 True, epoch 2 as epoch 1 True, corners in two epochs 16
4 workers, without Compose: worker 2 as worker 1 True, epoch 2 as epoch 1 True, corners in two epochs 16
4 workers, Compose(seed=1): worker 2 as worker 1 True, epoch 2 as epoch 1 True, corners in two epochs 16
4 workers, persistent: worker 2 as worker 1 True, epoch 2 as epoch 1 False, corners in two epochs 32
4 workers, numpy.random for the same: worker 2 as worker 1 False, epoch 2 as epoch 1 False, corners in two epochs 128
4 workers, set_random_seed in each: worker 2 as worker 1 False, epoch 2 as epoch 1 False, corners in two epochs 128
SEEN
