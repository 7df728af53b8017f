#!/usr/bin/env bash
# tensorboard 2.21.0 (torch 2.13.0), EventAccumulator(folder): of a run of 50,000 steps it reads 10,000 losses, by lot, and the best of them is not the best of the run.
#
#     events = EventAccumulator("runs/one"); events.Reload(); best = min(events.Scalars("loss"), key=lambda event: event.value)
#
# The file has every value that SummaryWriter was given. The reader is what scripts use that compare runs, choose a checkpoint or draw a figure; it gives a list of steps and values, and
# one takes it for what was logged. For a run of some thousand steps it is.
#
# `size_guidance` is a limit, 10,000 for scalars, and what is more goes through a reservoir: of later values each replaces one by chance. So the list has the first value only by luck, gaps
# everywhere and no mark of them, always the last value, and a minimum of those that are left: the step of the lowest loss, with which a checkpoint is chosen, is another one. Two losses
# logged at the same steps keep the same ones; a tag logged every tenth step is whole, so joining both by step loses four of five. A difference of neighbours, a smoothing over the last 100, a sum
# (examples seen, seconds spent) are of other numbers. Histograms: of 20 the last. Way out: EventAccumulator(folder, size_guidance={"scalars": 0, "histograms": 0}).
#
# Output seen (CPU, x86_64, Python 3.11), a loss of 50,000 steps, and the sum of seconds, 0.1 in each
#   as it comes     : 10000 of 50000 losses, step 0 False, last step True, the lowest loss is the run's False, its step is the run's False, seconds 1000, of the same steps True
#      of every tenth: 5000, of which with a loss below 1,200 True; histograms 1
#   size_guidance 0 : 50000 of 50000 losses, step 0 True, last step True, the lowest loss is the run's True, its step is the run's True, seconds 5000, of the same steps True
#      of every tenth: 5000, of which with a loss below 1,200 False; histograms 20
#   a run of 10,000 : 10000 of 10000 losses, as it comes
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check tensorboard==2.21.0 2> /dev/null
cat > "$work/events.py" <<'PY'
import sys

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

FOLDER = sys.argv[1]


def written(name, steps):
    losses = np.random.default_rng(0).random(steps).astype("float32") + 1
    with SummaryWriter(f"{FOLDER}/{name}") as writer:
        for step, loss in enumerate(losses):
            writer.add_scalar("loss", loss, step)
            writer.add_scalar("seconds", 0.1, step)
            if step % 10 == 0:
                writer.add_scalar("score", 0.5, step)
        for step in range(20):
            writer.add_histogram("weights", losses[:100], step)
    return losses


def read(name, **options):
    events = EventAccumulator(f"{FOLDER}/{name}", **options)
    events.Reload()
    return events


losses = written("long", 50000)
for title, options in (("as it comes", {}), ("size_guidance 0", {"size_guidance": {"scalars": 0, "histograms": 0}})):
    events = read("long", **options)
    found = events.Scalars("loss")
    steps = {event.step for event in found}
    best = min(found, key=lambda event: event.value)
    seconds, scores = events.Scalars("seconds"), {event.step for event in events.Scalars("score")}
    print(f"{title:16}: {len(found)} of {len(losses)} losses, step 0 {0 in steps}, last step {len(losses) - 1 in steps}, the lowest loss is the run's {best.value == losses.min()}, "
          f"its step is the run's {best.step == losses.argmin()}, seconds {sum(event.value for event in seconds):.0f}, of the same steps {steps == {event.step for event in seconds}}")
    print(f"   of every tenth: {len(scores)}, of which with a loss below 1,200 {len(scores & steps) < 1200}; histograms {len(events.Histograms('weights'))}")
losses = written("short", 10000)
print(f"a run of 10,000 : {len(read('short').Scalars('loss'))} of {len(losses)} losses, as it comes")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/events.py" "$work/runs" 2> /dev/null | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
as it comes     : 10000 of 50000 losses, step 0 False, last step True, the lowest loss is the run's False, its step is the run's False, seconds 1000, of the same steps True
   of every tenth: 5000, of which with a loss below 1,200 True; histograms 1
size_guidance 0 : 50000 of 50000 losses, step 0 True, last step True, the lowest loss is the run's True, its step is the run's True, seconds 5000, of the same steps True
   of every tenth: 5000, of which with a loss below 1,200 False; histograms 20
a run of 10,000 : 10000 of 10000 losses, as it comes
SEEN
