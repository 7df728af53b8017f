#!/usr/bin/env bash
# lightning 2.6.6 (torch 2.13.0): EMAWeightAveraging(decay=0.999, update_starting_at_epoch=8), in a run of 10 epochs of 100 steps.
#
# What one reads      The average of weights begins with epoch 8. The first 800 steps, in which the weights come from chance to where they should
#                     be, do not enter it. Such a start is why one would set the option: at a decay of 0.999 a thousand steps are one memory.
# What happens        The average begins at step 1, as if the option were not there. Of its two tests, by step and by epoch, either is enough,
#                     and the one by step, which was given no start, says yes to every step. From epoch 8 on the test by epoch says
#                     yes, too, after the epoch's last step: that step's weights are averaged twice. That is all the option does.
# What it costs       `fit` leaves the averaged weights in the model and writes them to `state_dict` of the checkpoints. After 1,000
#                     steps some 37% of them are the weights after step 1: a model that has a loss of near 0 is saved with nearly a tenth of
#                     its first one. Validation, which looks at the average, shows a slow learner, and so invites a higher rate.
# With steps          update_starting_at_step=800 does start there, with the weights as they are then (before that, validation looks at
#                     the first weights). To have the start by epoch, override should_update(), or multiply by the steps in an epoch.
#
# Output seen (CPU, x86_64, Python 3.11), 10 epochs of 100 steps; updates counted after each epoch; loss of the weights that fit leaves
#   no start:                    updates 100 200 300 400 500 600 700 800 900 1000, loss over 0.05 of the first one
#   update_starting_at_epoch=8:  updates 100 200 300 400 500 600 700 800 901 1002, loss over 0.05 of the first one
#   update_starting_at_step=800: updates 0 0 0 0 0 0 0 0 100 200, loss under 0.001 of the first one
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check lightning==2.6.6 2> /dev/null
cat > "$work/start.py" <<'PY'
import logging

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Line(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, index):
        x, y = batch
        return (self.layer(x) - y).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Count(Callback):
    """How many weights the average holds, after each epoch."""

    def __init__(self, average):
        self.average, self.counts = average, []

    def on_train_epoch_end(self, trainer, module):
        self.counts.append(int(self.average._average_model.n_averaged))


def run(name, **options):
    torch.manual_seed(0)
    x = torch.randn(400, 4)
    y = x @ torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    model = Line()
    before = float((model.layer(x) - y).square().mean())
    average = EMAWeightAveraging(decay=0.999, **options)
    count = Count(average)
    trainer = lightning.Trainer(
        max_epochs=10,
        accelerator="cpu",
        callbacks=[average, count],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True))
    left = float((model.layer(x) - y).square().mean()) / before
    words = "over 0.05" if 0.05 < left < 1 else "under 0.001" if left < 0.001 else f"{left:.4f}"
    print(f"{name:28} updates {' '.join(map(str, count.counts))}, loss {words} of the first one")


run("no start:")
run("update_starting_at_epoch=8:", update_starting_at_epoch=8)
run("update_starting_at_step=800:", update_starting_at_step=800)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/start.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
no start:                    updates 100 200 300 400 500 600 700 800 900 1000, loss over 0.05 of the first one
update_starting_at_epoch=8:  updates 100 200 300 400 500 600 700 800 901 1002, loss over 0.05 of the first one
update_starting_at_step=800: updates 0 0 0 0 0 0 0 0 100 200, loss under 0.001 of the first one
SEEN
