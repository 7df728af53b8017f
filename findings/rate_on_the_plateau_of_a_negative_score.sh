#!/usr/bin/env bash
# torch 2.13.0, torch.optim.lr_scheduler.ReduceLROnPlateau with its defaults: a score below zero has no plateau.
#
# A good guess: "reduce the rate when the score has stopped improving" holds whatever the score's level: taking 20 from every loss
# changes no gradient, and so no schedule.
# What happens: the default threshold is relative, and better means below best * (1 - 0.0001). Of a best of -10 that is -9.999,
# which is *worse*. So
# - a negative loss that stands still to the last bit (a Gaussian likelihood of targets with a small spread, an evidence bound) is an
#   improvement in every epoch: the rate is never reduced, and `num_bad_epochs` stays 0;
# - one that gets worse by less than 0.01% of itself in an epoch is an improvement, too, and `best` follows it upward: after a
#   thousand epochs it stands at -9.14 where -10 had been seen, with not one bad epoch counted;
# - mode="max" has the same of negative scores: minus the squared error, an R² below zero, a log-likelihood.
# No warning. threshold_mode="abs" does as guessed, and so does threshold=0 of a score that stands still.
#
# Output seen (CPU, x86_64, Python 3.11): reductions in 40 epochs with patience 2, bad epochs and best at the end
#   loss stands at 10: 13 reductions, bad epochs 0, best 10
#   loss stands at -10: 0 reductions, bad epochs 0, best -10
#   loss rises from -10 by 0.0005 an epoch: 0 reductions, bad epochs 0, best -9.9805
#   loss rises from -10 by 0.009% an epoch, 1,000 epochs: 0 reductions, bad epochs 0, best -9.1401
#   loss rises from 10 by 0.0005 an epoch: 13 reductions, bad epochs 0, best 10
#   score to be maximised stands at -10: 0 reductions, bad epochs 0, best -10
#   loss stands at -10, threshold_mode abs: 13 reductions, bad epochs 0, best -10
#   loss stands at -10, threshold 0: 13 reductions, bad epochs 0, best -10
#   targets with a spread of 0.01 under GaussianNLLLoss, rate 0: loss -4.1, 0 reductions; the same plus 20: 13 reductions
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/plateau.py" <<'PY'
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

EPOCHS = 40


def followed(scores, rate=1.0, **given):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = ReduceLROnPlateau(optimizer, patience=2, factor=0.5, **given)
    reductions = 0
    for score in scores:
        before = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step(score)
        reductions += optimizer.param_groups[0]["lr"] < before
    return f"{reductions} reductions, bad epochs {schedule.num_bad_epochs}, best {schedule.best:g}"


if __name__ == "__main__":
    print("loss stands at 10:", followed([10.0] * EPOCHS))
    print("loss stands at -10:", followed([-10.0] * EPOCHS))
    print("loss rises from -10 by 0.0005 an epoch:", followed([-10 + 0.0005 * k for k in range(EPOCHS)]))
    rising = [-10 * 0.99991**k for k in range(1000)]
    print("loss rises from -10 by 0.009% an epoch, 1,000 epochs:", followed(rising))
    print("loss rises from 10 by 0.0005 an epoch:", followed([10 + 0.0005 * k for k in range(EPOCHS)]))
    print("score to be maximised stands at -10:", followed([-10.0] * EPOCHS, mode="max"))
    print("loss stands at -10, threshold_mode abs:", followed([-10.0] * EPOCHS, threshold_mode="abs"))
    print("loss stands at -10, threshold 0:", followed([-10.0] * EPOCHS, threshold=0))
    targets = 0.01 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    loss = torch.nn.GaussianNLLLoss()(torch.zeros(1000), targets, torch.full((1000,), 1e-4)).item()
    counts = [followed([value] * EPOCHS).split(",")[0] for value in (loss, loss + 20)]
    print(f"targets with a spread of 0.01 under GaussianNLLLoss, rate 0: loss {loss:.1f}, {counts[0]}; the same plus 20: "
          f"{counts[1]}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W error::UserWarning "$work/plateau.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
loss stands at 10: 13 reductions, bad epochs 0, best 10
loss stands at -10: 0 reductions, bad epochs 0, best -10
loss rises from -10 by 0.0005 an epoch: 0 reductions, bad epochs 0, best -9.9805
loss rises from -10 by 0.009% an epoch, 1,000 epochs: 0 reductions, bad epochs 0, best -9.1401
loss rises from 10 by 0.0005 an epoch: 13 reductions, bad epochs 0, best 10
score to be maximised stands at -10: 0 reductions, bad epochs 0, best -10
loss stands at -10, threshold_mode abs: 13 reductions, bad epochs 0, best -10
loss stands at -10, threshold 0: 13 reductions, bad epochs 0, best -10
targets with a spread of 0.01 under GaussianNLLLoss, rate 0: loss -4.1, 0 reductions; the same plus 20: 13 reductions
SEEN
