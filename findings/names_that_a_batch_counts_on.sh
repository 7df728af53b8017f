#!/usr/bin/env bash
# torch_geometric 2.8.1 (torch 2.13.0), Batch.from_data_list and its DataLoader: a label by the name of `stage` is a label; by the name of `stage_index` it is not.
#
#   wanted      a value to each graph (a class, a patient, the laboratory batch that a sample came from), kept beside x and edge_index as Data's documentation
#               invites to: any attribute, under any name
#   guess       attributes of the graphs are put one after the other, as y is
#   found       what the name contains decides. With "index" in it, the number of nodes of all graphs before is added to the value; with "batch" in it, the
#               largest value of each graph before, plus one; so for the name "face". The six labels 0 2 1 1 0 2 become 0 6 9 13 16 22. In the seventh place
#               of a batch the same graph has another label than in the third, so that a model is trained on places in the batch
#   unseen      shape and dtype are right, and a graph that is taken out of the batch again has its value back: the look at single graphs, before
#               and after, shows nothing. A class by such a name would raise in a loss that counts its classes; a number, a one-hot code or a lookup in a larger
#               table does not
#   way out     another name; or a subclass of Data whose __inc__ returns 0 for it. The rule is in the page on batching, for edge_index' sake
#
# Output seen (CPU, x86_64, Python 3.11)
#   y: [0, 2, 1, 1, 0, 2]; taken out of the batch again True
#   stage: [0, 2, 1, 1, 0, 2]; taken out of the batch again True
#   stage_index: [0, 6, 9, 13, 16, 22] another column; taken out of the batch again True
#   subject_index: [0, 6, 9, 13, 16, 22] another column; taken out of the batch again True
#   indexed_price: [0, 6, 9, 13, 16, 22] another column; taken out of the batch again True
#   batch_effect: [0, 3, 5, 7, 8, 11] another column; taken out of the batch again True
#   lab_batch: [0, 3, 5, 7, 8, 11] another column; taken out of the batch again True
#   interface: [0, 2, 1, 1, 0, 2]; taken out of the batch again True
#   face: [0, 6, 9, 13, 16, 22] another column; taken out of the batch again True
#   error of a regression on the column stage: below 0.1
#   error of a regression on the column stage_index: above 10
#   error of a regression on the column lab_batch: above 10
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch_geometric==2.8.1 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
from torch_geometric.data import Batch, Data

LABELS = [0, 2, 1, 1, 0, 2]


def graphs(name):
    edges = torch.tensor([[0, 1, 2], [1, 2, 3]])
    return [Data(x=torch.ones(4, 2), edge_index=edges, **{name: torch.tensor([label])}) for label in LABELS]


for name in ("y", "stage", "stage_index", "subject_index", "indexed_price", "batch_effect", "lab_batch", "interface", "face"):
    batch = Batch.from_data_list(graphs(name))
    shown = batch[name].tolist()
    print(f"{name}: {shown}{'' if shown == LABELS else ' another column'}; taken out of the batch again {[int(g[name]) for g in batch.to_data_list()] == LABELS}")


# what it does to a model: the label of a graph, 0 to 2, from its features, where the features are the label's one-hot code and some noise
def trained(name, steps=300):
    torch.manual_seed(0)
    rows = [Data(x=torch.eye(3)[k % 3] + 0.1 * torch.randn(4, 3), **{name: torch.tensor([float(k % 3)])}) for k in range(60)]
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for step in range(steps):
        picked = torch.randperm(60)[:16].tolist()
        batch = Batch.from_data_list([rows[k] for k in picked])
        means = batch.x.view(-1, 4, 3).mean(1)
        optimizer.zero_grad()
        (model(means).flatten() - batch[name]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        found = torch.stack([model(row.x.mean(0)) for row in rows]).flatten()
    return (found - torch.tensor([float(k % 3) for k in range(60)])).square().mean().sqrt()


for name in ("stage", "stage_index", "lab_batch"):
    error = float(trained(name))
    print(f"error of a regression on the column {name}: {'below 0.1' if error < 0.1 else 'above 10' if error > 10 else error}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
y: [0, 2, 1, 1, 0, 2]; taken out of the batch again True
stage: [0, 2, 1, 1, 0, 2]; taken out of the batch again True
stage_index: [0, 6, 9, 13, 16, 22] another column; taken out of the batch again True
subject_index: [0, 6, 9, 13, 16, 22] another column; taken out of the batch again True
indexed_price: [0, 6, 9, 13, 16, 22] another column; taken out of the batch again True
batch_effect: [0, 3, 5, 7, 8, 11] another column; taken out of the batch again True
lab_batch: [0, 3, 5, 7, 8, 11] another column; taken out of the batch again True
interface: [0, 2, 1, 1, 0, 2]; taken out of the batch again True
face: [0, 6, 9, 13, 16, 22] another column; taken out of the batch again True
error of a regression on the column stage: below 0.1
error of a regression on the column stage_index: above 10
error of a regression on the column lab_batch: above 10
SEEN
