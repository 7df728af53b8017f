#!/usr/bin/env bash
# lightning 2.6.6 (torch 2.13.0), ModelCheckpoint(monitor="val", every_n_train_steps=100, save_top_k=1): the best checkpoint holds other weights than those that scored best.
#
#     Trainer(val_check_interval=100, callbacks=[ModelCheckpoint(monitor="val", every_n_train_steps=100, filename="{step}-{val:.0f}")])
#
# Validation after each 100 steps, a checkpoint after each 100 steps, the best by the validation score: one reads that a file's weights are those that were scored,
# as they are when every_n_train_steps is left out. Here the model is validated at 100, 200, 300, 400 and has 3, 1, 2, 5: the best is that of step 200.
#
# At a step with both, the checkpoint comes first, and is ranked, and named, by the score there is: that of a hundred steps ago. "step=200-val=3" is what scored 1;
# "step=300-val=1" scored 2 and is the one that is kept, and that trainer.test(ckpt_path="best") takes. With every_n_train_steps=50 the best is of step 250, which nobody
# has validated. Only the first one waits for its validation, so that a test of one interval is right, and so may be the last. In a run that overfits, the best
# is always one interval too late; after a spike, the spike's. Nothing warns, the score in the name and in best_model_score is a true score, of other weights.
# Way out: leave every_n_train_steps out (saved after validation) and keep a second ModelCheckpoint without monitor for crashes.
#
# Output seen (CPU, x86_64, Python 3.11), validation finds 3, 1, 2, 5 after 100, 200, 300, 400 steps:
#   at validations, all: step 100 val 3, step 200 val 1, step 300 val 2, step 400 val 5
#   at validations, the best: weights of step 200, score 1; by validation, 1
#   every 50 steps, all: step 100 val 3, step 150 val 3, step 200 val 3, step 250 val 1, step 300 val 1, step 350 val 2, step 400 val 5
#   every 50 steps, the best: weights of step 250, score 1; by validation, none was made of these
#   every 100 steps, all: step 100 val 3, step 200 val 3, step 300 val 1, step 400 val 5
#   every 100 steps, the best: weights of step 300, score 1; by validation, 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check lightning==2.6.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import logging
import os
import re
import tempfile

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
SCORES = {100: 3.0, 200: 1.0, 300: 2.0, 400: 5.0}  # what validation finds after so many steps


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.steps = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, number):
        return -self.steps.sum()  # with a rate of 1 the weight counts the steps

    def validation_step(self, batch, number):
        self.log("val", SCORES[round(self.steps.item())])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(**options):
    folder = tempfile.mkdtemp()
    keeper = ModelCheckpoint(dirpath=folder, monitor="val", filename="{step}-{val:.0f}", **options)
    rows = DataLoader(TensorDataset(torch.zeros(400, 1)), batch_size=1)
    trainer = lightning.Trainer(
        max_steps=400, val_check_interval=100, num_sanity_val_steps=0, callbacks=[keeper], logger=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )
    trainer.fit(Model(), rows, DataLoader(TensorDataset(torch.zeros(2, 1)), batch_size=1))
    found = sorted(tuple(int(part) for part in re.findall(r"=(\d+)", name)) for name in os.listdir(folder))
    best = torch.load(keeper.best_model_path, weights_only=False)["state_dict"]["steps"]
    return found, int(best), float(keeper.best_model_score)


for name, options in {"at validations": {}, "every 50 steps": {"every_n_train_steps": 50}, "every 100 steps": {"every_n_train_steps": 100}}.items():
    found, _, _ = fit(save_top_k=-1, **options)
    print(f"{name}, all: " + ", ".join(f"step {step} val {val}" for step, val in found))
    _, best, score = fit(save_top_k=1, **options)
    print(f"{name}, the best: weights of step {best}, score {score:g}; by validation, {f'{SCORES[best]:g}' if best in SCORES else 'none was made of these'}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
at validations, all: step 100 val 3, step 200 val 1, step 300 val 2, step 400 val 5
at validations, the best: weights of step 200, score 1; by validation, 1
every 50 steps, all: step 100 val 3, step 150 val 3, step 200 val 3, step 250 val 1, step 300 val 1, step 350 val 2, step 400 val 5
every 50 steps, the best: weights of step 250, score 1; by validation, none was made of these
every 100 steps, all: step 100 val 3, step 200 val 3, step 300 val 1, step 400 val 5
every 100 steps, the best: weights of step 300, score 1; by validation, 2
SEEN
