#!/usr/bin/env bash
# torch_geometric 2.8.1 (torch 2.13.0), NormalizeFeatures: what a node's features become depends on one number elsewhere in its graph, and rows do not add up to one.
#
# It is to normalise rows, so that each adds up to one: a row is divided by its sum. It stands in the transform of nearly every example of node classification.
# By its name and its page it works on each row alone, so a node has the same features in any graph, subgraph, or mini-batch, and can be judged in a graph that
# comes later.
#
# 1. Before the division the smallest number of the *whole* array is taken off. With counts or one-hot words it is 0, as in those examples. With real measurements
#    it is the lowest value of any feature of any node: one node added to the graph, with one low reading, gives all others new features, and the row
#    1, 9, 3 comes out as 0.33, 0.34, 0.33. A graph at training and one at prediction are normalised by two numbers, and nothing is stored.
# 2. The sum is taken for one where it is less: a row of small numbers (shares, TF-IDF, what has been scaled) stays small, and rows of both kinds lie side by side.
#    Ten times as much gives another result.
# Shapes, ranges (0 to 1) and training curves look as they should. Way out: x / x.sum(1, keepdim=True) by hand, or statistics of the training nodes that are kept.
#
# Output seen (CPU, x86_64, Python 3.11), the features of the first two nodes
#   counts                     :  0.10 0.90 0.00 (sum 1.00); 0.25 0.25 0.50 (sum 1.00)
#   no zero among them         :  0.00 0.80 0.20 (sum 1.00); 0.20 0.20 0.60 (sum 1.00)
#   the same, one node more    :  0.33 0.34 0.33 (sum 1.00); 0.33 0.33 0.33 (sum 1.00)
#   shares                     :  0.10 0.20 0.00 (sum 0.30); 0.20 0.10 0.10 (sum 0.40)
#   ten times as much          :  0.33 0.67 0.00 (sum 1.00); 0.50 0.25 0.25 (sum 1.00)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch_geometric==2.8.1 2> /dev/null
cat > "$work/features.py" <<'PY'
import torch
import torch_geometric.transforms as T
from torch_geometric.data import Data


def told(name, *rows):
    x = T.NormalizeFeatures()(Data(x=torch.tensor(rows))).x
    print(f"{name}: ", "; ".join(" ".join(f"{v:.2f}" for v in row) + f" (sum {row.sum():.2f})" for row in x[:2]))


told("counts                     ", [1.0, 9.0, 0.0], [2.0, 2.0, 4.0], [0.0, 5.0, 5.0])
told("no zero among them         ", [1.0, 9.0, 3.0], [2.0, 2.0, 4.0], [1.0, 5.0, 5.0])
told("the same, one node more    ", [1.0, 9.0, 3.0], [2.0, 2.0, 4.0], [1.0, 5.0, 5.0], [-500.0, 0.0, 0.0])
told("shares                     ", [0.1, 0.2, 0.0], [0.2, 0.1, 0.1], [0.0, 0.3, 0.1])
told("ten times as much          ", [1.0, 2.0, 0.0], [2.0, 1.0, 1.0], [0.0, 3.0, 1.0])
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/features.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
counts                     :  0.10 0.90 0.00 (sum 1.00); 0.25 0.25 0.50 (sum 1.00)
no zero among them         :  0.00 0.80 0.20 (sum 1.00); 0.20 0.20 0.60 (sum 1.00)
the same, one node more    :  0.33 0.34 0.33 (sum 1.00); 0.33 0.33 0.33 (sum 1.00)
shares                     :  0.10 0.20 0.00 (sum 0.30); 0.20 0.10 0.10 (sum 0.40)
ten times as much          :  0.33 0.67 0.00 (sum 1.00); 0.50 0.25 0.25 (sum 1.00)
SEEN
