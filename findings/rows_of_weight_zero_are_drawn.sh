#!/usr/bin/env bash
# torch 2.13.0, torch.utils.data.WeightedRandomSampler(weights, n, replacement=False): rows of weight 0 come, too, as soon as the others have run out.
#
# A weight of 0 is how one keeps rows out of an epoch: test rows of a fold, rows marked as doubtful, a class that is to be left out, the loser of a
# pruning. Asked for more rows than have a weight above 0, one expects an error: torch.multinomial, which the sampler is made of, says of draws
# without replacement that there must be no more of them than such rows, and its documentation prints the RuntimeError that follows.
#
# There is no error. All rows with a weight come first, then rows of weight 0 as if they had one, every time. The number of rows that is
# natural to ask for, `len(weights)`, brings *all* of them: the epoch is complete, test rows included, and the weights say
# nothing but who comes early. A shuffle by weights becomes one in which nothing is left out. `replacement=True` keeps to the weights,
# and so does numpy's choice, which raises ValueError here.
# In numbers: 900 rows to train on, 100 of another distribution with weight 0 held out. A least-squares fit over one epoch of that sampler has
# seen the 100; its error on them, by which one judges, is a small part of what an honest fit has.
#
# Output seen (CPU, x86_64, Python 3.11):
#   multinomial of weights 1 0 0 1 0, 4 draws: no error, both weighted rows first, of weight 0: 2
#   the sampler, 1,000 draws of 900 weighted rows: of weight 0: 100, from place 901 on: True
#   the sampler, 900 draws: of weight 0: 0
#   the sampler, 1,000 draws with replacement: of weight 0: 0
#   numpy, 4 draws of such weights: ValueError
#   error on the 100 held-out rows: fitted on what the sampler gave, under a tenth of that of a fit without them
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/weights.py" <<'PY'
import numpy as np
import torch
from torch.utils.data import WeightedRandomSampler

torch.set_num_threads(1)
torch.manual_seed(0)
few = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
orders = [torch.multinomial(few, 4, replacement=False).tolist() for _ in range(500)]
first = all(sorted(order[:2]) == [0, 3] for order in orders)
zero = {sum(float(few[row]) == 0 for row in order) for order in orders}
print(f"multinomial of weights 1 0 0 1 0, 4 draws: no error, both weighted rows first{'' if first else ': no'}, of weight 0: {', '.join(map(str, zero))}")

weights = torch.cat([torch.ones(900) + torch.rand(900), torch.zeros(100)])


def count(n, **options):
    rows = list(WeightedRandomSampler(weights, n, **options))
    return rows, sum(row >= 900 for row in rows)


rows, held = count(1000, replacement=False)
print(f"the sampler, 1,000 draws of 900 weighted rows: of weight 0: {held}, from place 901 on: {all(row >= 900 for row in rows[900:])}")
print("the sampler, 900 draws: of weight 0:", count(900, replacement=False)[1])
print("the sampler, 1,000 draws with replacement: of weight 0:", count(1000, replacement=True)[1])
try:
    np.random.default_rng(0).choice(5, 4, replace=False, p=few.numpy() / 2)
    print("numpy: no error")
except ValueError as error:
    print("numpy, 4 draws of such weights:", type(error).__name__)

x = torch.randn(1000, 20, dtype=torch.float64)
x[900:] += 3 * torch.randn(20, dtype=torch.float64)
goal = torch.randn(20, 1, dtype=torch.float64)
y = x @ goal + 0.5 * torch.randn(1000, 1, dtype=torch.float64)
y[900:] += 20


def error(rows):
    ones = torch.ones(1000, 1, dtype=torch.float64)
    wide = torch.cat([x, ones], 1)
    fitted = torch.linalg.lstsq(wide[rows], y[rows]).solution
    return float((wide[900:] @ fitted - y[900:]).square().mean())


share = error(rows) / error(list(range(900)))
print("error on the 100 held-out rows: fitted on what the sampler gave,", "under a tenth" if share < 0.1 else f"{share:.2f}", "of that of a fit without them")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/weights.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
multinomial of weights 1 0 0 1 0, 4 draws: no error, both weighted rows first, of weight 0: 2
the sampler, 1,000 draws of 900 weighted rows: of weight 0: 100, from place 901 on: True
the sampler, 900 draws: of weight 0: 0
the sampler, 1,000 draws with replacement: of weight 0: 0
numpy, 4 draws of such weights: ValueError
error on the 100 held-out rows: fitted on what the sampler gave, under a tenth of that of a fit without them
SEEN
