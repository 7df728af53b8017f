#!/usr/bin/env bash
# lightning 2.6.6 (torch 2.13.0), {"interval": "step", "frequency": 100}: in epochs of 99 batches the rate never falls, with accumulation it falls four times too fast.
#
# A schedule that is to go on every 100 steps is declared by these two keys; the documentation has frequency as the number of steps that pass between calls
# of scheduler.step(). Over 594 steps one expects five calls, wherever epochs begin and end, and a step is what trainer.global_step counts: an update.
#
# What is divided by the frequency is the place of the batch in its epoch, from 1. It begins anew with each epoch: a frequency longer than the epoch is never
# reached, and the run goes to its end at the first rate; 150 batches call at 100 and drop the 50 left over, each time. The same code on a smaller
# share of the data, or on more ranks, or with larger batches, which all make epochs shorter, has another schedule or none. And it counts batches, but asks
# only where an update was made: with accumulate_grad_batches=4, a frequency of 2 and of 4 are both "every update", 3 is every third and 10 every fifth.
# The log has an `lr` at each step; nothing else tells. Way out: "frequency": 1 and a scheduler that has the hundred in itself (StepLR(optimizer, 100)).
#
# Output seen (CPU, x86_64, Python 3.11), a schedule that halves the rate at each call
#   100 batches an epoch, 1 to a step, 600 steps; every 100 steps: rate halved 6 times, expected 6, ends at 0.016
#   99 batches an epoch, 1 to a step, 594 steps; every 100 steps: rate halved 0 times, expected 5, ends at 1
#   80 batches an epoch, 1 to a step, 480 steps; every 100 steps: rate halved 0 times, expected 4, ends at 1
#   150 batches an epoch, 1 to a step, 900 steps; every 100 steps: rate halved 6 times, expected 9, ends at 0.016
#   80 batches an epoch, 4 to a step, 120 steps; every 2 steps: rate halved 120 times, expected 60, ends at 7.5e-37
#   80 batches an epoch, 4 to a step, 120 steps; every 3 steps: rate halved 36 times, expected 40, ends at 1.5e-11
#   80 batches an epoch, 4 to a step, 120 steps; every 4 steps: rate halved 120 times, expected 30, ends at 7.5e-37
#   80 batches an epoch, 4 to a step, 120 steps; every 10 steps: rate halved 24 times, expected 12, ends at 6e-08
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check lightning==2.6.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import logging

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Net(lightning.LightningModule):
    def __init__(self, frequency):
        super().__init__()
        self.layer, self.frequency = torch.nn.Linear(2, 1), frequency

    def training_step(self, batch, index):
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 1.0)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": self.frequency}}


def told(batches, frequency, accumulate=1, epochs=6):
    torch.manual_seed(0)
    net = Net(frequency)
    trainer = lightning.Trainer(max_epochs=epochs, accumulate_grad_batches=accumulate, logger=False, enable_checkpointing=False,
                                enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    trainer.fit(net, DataLoader(TensorDataset(torch.randn(batches, 2)), batch_size=1))
    halved = trainer.lr_scheduler_configs[0].scheduler.last_epoch
    print(f"{batches} batches an epoch, {accumulate} to a step, {trainer.global_step} steps; every {frequency} steps: "
          f"rate halved {halved} times, expected {trainer.global_step // frequency}, ends at {trainer.optimizers[0].param_groups[0]['lr']:.2g}")


for batches in (100, 99, 80, 150):
    told(batches, 100)
for frequency in (2, 3, 4, 10):
    told(80, frequency, accumulate=4)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
100 batches an epoch, 1 to a step, 600 steps; every 100 steps: rate halved 6 times, expected 6, ends at 0.016
99 batches an epoch, 1 to a step, 594 steps; every 100 steps: rate halved 0 times, expected 5, ends at 1
80 batches an epoch, 1 to a step, 480 steps; every 100 steps: rate halved 0 times, expected 4, ends at 1
150 batches an epoch, 1 to a step, 900 steps; every 100 steps: rate halved 6 times, expected 9, ends at 0.016
80 batches an epoch, 4 to a step, 120 steps; every 2 steps: rate halved 120 times, expected 60, ends at 7.5e-37
80 batches an epoch, 4 to a step, 120 steps; every 3 steps: rate halved 36 times, expected 40, ends at 1.5e-11
80 batches an epoch, 4 to a step, 120 steps; every 4 steps: rate halved 120 times, expected 30, ends at 7.5e-37
80 batches an epoch, 4 to a step, 120 steps; every 10 steps: rate halved 24 times, expected 12, ends at 6e-08
SEEN
