#!/usr/bin/env bash
# kornia 0.9.0 (torch 2.13.0), augmentations as layers of a network: model.eval() does not stop them; a model with an accuracy of 0.9 is measured at 0.6.
#
# Its augmentations are nn.Modules that work on batches, made to stand in a network, before its first layer, on its device. Such a layer has a mode, and what is
# random in training, as dropout, is off after eval(); keras' layers for augmentation do the same. So the network is validated, saved and served as it is.
#
# The layers have the attribute, training is False, and no one reads it: images are flipped, erased and made noisy in validation and in service as in training.
# Accuracy is lower by whatever the augmentation costs, the more the stronger it is, so that a search over its strength finds that less is better, early
# stopping and the choice of the best epoch go by noise, and two calls with one image have two answers. The training curve is no hint: there it belongs.
# A seed before each validation makes the answers repeat and hides it. AugmentationSequential, which holds several, is the same.
# Way out: the augmentation outside the network, in the loop; or a wrapper that returns its input unless self.training.
#
# Output seen (CPU, x86_64, Python 3.11), digits of scikit-learn, after model.eval()
#   RandomErasing: training False, images changed 0.5; another class in a second call 0.2; accuracy 0.9, without the layer above 0.9 True
#   RandomGaussianNoise: training False, images changed 0.8; another class in a second call 0.3; accuracy 0.8, without the layer above 0.9 True
#   AugmentationSequential of both: training False, images changed 0.9; another class in a second call 0.5; accuracy 0.6, without the layer above 0.9 True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check kornia==0.9.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from kornia.augmentation import AugmentationSequential, RandomErasing, RandomGaussianNoise, RandomHorizontalFlip
from sklearn.datasets import load_digits
from torch import nn

images, labels = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
images = (images / 16).float().view(-1, 1, 8, 8)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
images, labels = images[order], labels[order]


def trained(augmentation):
    torch.manual_seed(0)
    net = nn.Sequential(augmentation, nn.Dropout2d(0.1), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    net.train()
    for _ in range(500):
        rows = torch.randint(0, 1300, (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
    return net.eval()


def told(name, augmentation):
    net = trained(augmentation)
    with torch.no_grad():
        first, second, bare = net(images[1300:]), net(images[1300:]), net[1:](images[1300:])
        changed = (augmentation(images[1300:]) != images[1300:]).flatten(1).any(1).float().mean()
    differ = (first.argmax(1) != second.argmax(1)).float().mean()
    right = [float((p.argmax(1) == labels[1300:]).float().mean()) for p in (first, bare)]
    print(f"{name}: training {augmentation.training}, images changed {float(changed):.1f}; another class in a second call {float(differ):.1f}; "
          f"accuracy {right[0]:.1f}, without the layer above 0.9 {right[1] > 0.9}")


told("RandomErasing", RandomErasing(p=0.5, scale=(0.1, 0.4)))
told("RandomGaussianNoise", RandomGaussianNoise(std=0.5, p=0.8))
told("AugmentationSequential of both", AugmentationSequential(RandomErasing(p=0.5, scale=(0.1, 0.4)), RandomGaussianNoise(std=0.5, p=0.8), data_keys=["input"]))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
RandomErasing: training False, images changed 0.5; another class in a second call 0.2; accuracy 0.9, without the layer above 0.9 True
RandomGaussianNoise: training False, images changed 0.8; another class in a second call 0.3; accuracy 0.8, without the layer above 0.9 True
AugmentationSequential of both: training False, images changed 0.9; another class in a second call 0.5; accuracy 0.6, without the layer above 0.9 True
SEEN
