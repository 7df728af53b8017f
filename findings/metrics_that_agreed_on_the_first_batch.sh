#!/usr/bin/env bash
# torchmetrics 1.9.0 (torch 2.13.0): two metrics of one MetricCollection become one metric, if the first batch gives them the same counts.
#
#     MetricCollection({"f1 at 0.5": BinaryF1Score(threshold=0.5), "f1 at 0.9": BinaryF1Score(threshold=0.9)})
#
# Guess     A collection is a dictionary of metrics that are updated together: each number is what the metric would give alone.
# Found     After the first update, members whose states (here true and false positives and negatives) happen to be equal are put into one group; from
#           then on one of them is updated, and the others read its counts. What they were built with, a threshold, a top_k, an ignore_index, is not
#           compared. So two thresholds are one as soon as no score of the first batch lies between them, and top-1 is top-5 if the first batch has
#           no row that one of them gets wrong and the other right.
# Cost      The number under the second name is that of the first, to the last bit, until reset() and, as the groups are kept, after it. The smaller or
#           easier the first batch, the likelier: of one row, each pair of thresholds is in most cases one group; a sanity check of two batches before
#           training decides it for the run. Another order of the same rows gives other numbers. Nothing is said.
# Known     Reported several times for other pairs of metrics (issues 1890, 2596, 2916); these pairs are left.
# Way out   compute_groups=False, or groups named by hand.
#
# Output seen (CPU, x86_64, Python 3.11), 200 batches of 4 rows; the second metric in the collection, and alone
#   F1 at 0.5 and 0.9, first batch of sure scores: in the collection 0.84, alone 0.35; in the collection the first one's number: True
#   F1 at 0.5 and 0.9, a score between them in the first batch: in the collection 0.35, alone 0.35; in the collection the first one's number: False
#   F1 at 0.5 and 0.9, first batch of sure scores, compute_groups=False: in the collection 0.35, alone 0.35; in the collection the first one's number: False
#   top 1 and top 5 of 10 classes, first batch all right: in the collection 0.12, alone 0.51; in the collection the first one's number: True
#   top 1 and top 5 of 10 classes, first batch like the others: in the collection 0.50, alone 0.50; in the collection the first one's number: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy


def both(first, second, batches, **options):
    """The value of the second metric within a collection and alone, and whether it is the first one's."""
    alone = second.clone()
    together = MetricCollection({"first": first, "second": second}, **options)
    for scores, labels in batches:
        together.update(scores, labels)
        alone.update(scores, labels)
    values = together.compute()
    print(f"in the collection {values['second']:.2f}, alone {alone.compute():.2f}; in the collection the first one's number:",
          bool(values["first"] == values["second"]))


def scores(first):
    generator = torch.Generator().manual_seed(0)
    for batch in range(200):
        p = torch.rand(4, generator=generator) if batch else torch.tensor(first)
        yield p, (p + 0.2 * torch.randn(4, generator=generator) > 0.5).long()


def ranks(easy):
    generator = torch.Generator().manual_seed(0)
    for batch in range(200):
        logits = torch.randn(4, 10, generator=generator)
        labels = torch.randint(10, (4,), generator=generator)
        yield logits, logits.argmax(1) if easy and batch == 0 else labels


SURE, UNSURE = [0.01, 0.99, 0.95, 0.02], [0.01, 0.7, 0.95, 0.6]
print("F1 at 0.5 and 0.9, first batch of sure scores: ", end="")
both(BinaryF1Score(threshold=0.5), BinaryF1Score(threshold=0.9), scores(SURE))
print("F1 at 0.5 and 0.9, a score between them in the first batch: ", end="")
both(BinaryF1Score(threshold=0.5), BinaryF1Score(threshold=0.9), scores(UNSURE))
print("F1 at 0.5 and 0.9, first batch of sure scores, compute_groups=False: ", end="")
both(BinaryF1Score(threshold=0.5), BinaryF1Score(threshold=0.9), scores(SURE), compute_groups=False)
print("top 1 and top 5 of 10 classes, first batch all right: ", end="")
both(MulticlassAccuracy(10, top_k=1), MulticlassAccuracy(10, top_k=5), ranks(True))
print("top 1 and top 5 of 10 classes, first batch like the others: ", end="")
both(MulticlassAccuracy(10, top_k=1), MulticlassAccuracy(10, top_k=5), ranks(False))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
F1 at 0.5 and 0.9, first batch of sure scores: in the collection 0.84, alone 0.35; in the collection the first one's number: True
F1 at 0.5 and 0.9, a score between them in the first batch: in the collection 0.35, alone 0.35; in the collection the first one's number: False
F1 at 0.5 and 0.9, first batch of sure scores, compute_groups=False: in the collection 0.35, alone 0.35; in the collection the first one's number: False
top 1 and top 5 of 10 classes, first batch all right: in the collection 0.12, alone 0.51; in the collection the first one's number: True
top 1 and top 5 of 10 classes, first batch like the others: in the collection 0.50, alone 0.50; in the collection the first one's number: False
SEEN
