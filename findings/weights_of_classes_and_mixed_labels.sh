#!/usr/bin/env bash
# torch 2.13.0, F.cross_entropy(logits, target, weight=w): the same classes, as numbers or as rows of 0 and 1, have losses that differ by the size of the weights, here by a factor of 400.
#
# A target may be a class or a distribution over classes: for mixup, soft labels, distillation. One-hot rows say what numbers say, and without weights the loss is the same to the last
# digit. With weights of classes one expects that as well, and that a common factor of the weights cancels, as it does in a mean by weight.
#
# Of numbers the loss is divided by the sum of the weights met. Of distributions it is divided by the number of rows; a factor of the weights is a factor of the learning rate. (The two formulas
# stand in the page, far apart.) So the day that mixup is turned on, nothing else being changed, weights of one over the class's frequency, a few thousandths each, all but stop SGD, and weights
# of 1 for the many and 100 for the few make steps of a multiple, which in a batch is as large as it has rare rows. Label smoothing (label_smoothing=0.1) keeps
# the first rule. Two runs, with mixup and without, then differ by a rate, and it is mixup that is blamed. Way out: weights whose mean over rows is 1, or
# reduction="sum" and a division of one's own.
#
# Output seen (CPU, x86_64, Python 3.11), 2,000 rows of 5 classes, of which the last is rare; SGD at a rate of 0.5, mean accuracy per class
#   no weights                        : as numbers / as rows of 0 and 1: losses equal True
#   weights of 1, once more of 0.001  : as numbers, a thousandth of the weights changes nothing True; as rows it makes a thousandth True
#   1 / count, batch without rare rows: loss of numbers is over 400 times that of rows True
#   1 and 100, batch with rare rows   : loss of rows is over 2 times that of numbers True
#   1 and 100, batch without rare rows: losses equal True
#   trained with 1 / count: as numbers above 0.8, as rows below 0.5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/loss.py" <<'PY'
import torch
from torch.nn.functional import cross_entropy, one_hot

CLASSES = 5
torch.manual_seed(0)
centres = torch.randn(CLASSES, 8)
labels = torch.multinomial(torch.tensor([0.245] * 4 + [0.02]), 2000, replacement=True)
rows = centres[labels] + 0.5 * torch.randn(2000, 8)
counts = torch.bincount(labels, minlength=CLASSES)
rare_first = labels.eq(CLASSES - 1).int().argsort(descending=True, stable=True)
some, none = rare_first[:64], rare_first[-64:]
logits = torch.randn(2000, CLASSES)


def both(rows, weight=None):
    """Losses of the rows, as numbers and as rows of 0 and 1."""
    given, right = logits[rows].double(), labels[rows]
    weight = None if weight is None else weight.double()
    return cross_entropy(given, right, weight=weight).item(), cross_entropy(given, one_hot(right, CLASSES).double(), weight=weight).item()


def equal(one, two):
    return abs(one - two) < 1e-9 * abs(two)


ones, inverse, heavy = torch.ones(CLASSES), 1 / counts, torch.tensor([1.0] * 4 + [100.0])
print("no weights                        : as numbers / as rows of 0 and 1: losses equal", equal(*both(some)))
whole, small = both(some, ones.double()), both(some, ones.double() * 0.001)
print("weights of 1, once more of 0.001  : as numbers, a thousandth of the weights changes nothing", equal(whole[0], small[0]), end="; ")
print("as rows it makes a thousandth", equal(whole[1] * 0.001, small[1]))
numbers, distributions = both(none, inverse)
print("1 / count, batch without rare rows: loss of numbers is over 400 times that of rows", numbers > 400 * distributions)
numbers, distributions = both(torch.cat([some[:2], none]), heavy)
print("1 and 100, batch with rare rows   : loss of rows is over 2 times that of numbers", distributions > 2 * numbers)
print("1 and 100, batch without rare rows: losses equal", equal(*both(none, heavy)))


def trained(soft):
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, CLASSES)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(10):
        for batch in torch.randperm(2000).split(64):
            target = one_hot(labels[batch], CLASSES).float() if soft else labels[batch]
            optimizer.zero_grad()
            cross_entropy(layer(rows[batch]), target, weight=inverse).backward()
            optimizer.step()
    right = layer(rows).argmax(1) == labels
    return torch.stack([right[labels == label].float().mean() for label in range(CLASSES)]).mean().item()


numbers, distributions = trained(False), trained(True)
print(f"trained with 1 / count: as numbers {'above 0.8' if numbers > 0.8 else numbers}, as rows {'below 0.5' if distributions < 0.5 else distributions}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/loss.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
no weights                        : as numbers / as rows of 0 and 1: losses equal True
weights of 1, once more of 0.001  : as numbers, a thousandth of the weights changes nothing True; as rows it makes a thousandth True
1 / count, batch without rare rows: loss of numbers is over 400 times that of rows True
1 and 100, batch with rare rows   : loss of rows is over 2 times that of numbers True
1 and 100, batch without rare rows: losses equal True
trained with 1 / count: as numbers above 0.8, as rows below 0.5
SEEN
