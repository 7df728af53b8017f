#!/usr/bin/env bash
# torch 2.13.0, torch.cdist: of 25 rows the distances are right; with one row more, neighbours are at 0, a row is at 2 or more from itself, and the gradient is gone.
#
# A distance is of two rows; how many others there are makes no difference to it. A test has five rows and passes. Places in a metric grid, temperatures in kelvin,
# pressures, embeddings with a common offset, cluster centres: what lies far from the origin compared with its spread is ordinary data.
#
# From 26 rows on, on either side, |a - b|² is computed as |a|² + |b|² - 2ab by one matrix product, which is faster. In float32 each term is right to one part in
# ten million, so what is smaller than some thousandth of the distance *from the origin* is rounding: at 5,000 from the origin, whatever is nearer than about 4.
# Rounded below zero it is 0. The nearest of 26 stations is then whichever comes first, a row of distances is made of 0, 2 and 2.83, and clusters, k-NN votes, kernels
# and contrastive losses are made of those. Where it says 0, the gradient is 0 as well: rows that should be pulled together stay. Nothing is NaN, all are
# plausible numbers. The page names the number 25 under compute_mode, as a matter of how it is computed. Way out:
# compute_mode="donot_use_mm_for_euclid_dist", float64, or the mean taken off first, which changes no distance.
#
# Output seen (CPU, x86_64, Python 3.11), rows with a spread of 0.5 around (5000, 400)
#   25 rows: off by more than 1 False; to itself more than 1 False; nearest neighbour right in all; pairs at 0 under 10%; length of a gradient 1
#   26 rows: off by more than 1 True; to itself more than 1 True; nearest neighbour right in under 40%; pairs at 0 over 30%; length of a gradient another
#   1,000 rows: off by more than 1 True; to itself more than 1 True; nearest neighbour right in under 40%; pairs at 0 over 30%; length of a gradient another
#   26 rows, the mean taken off: off by more than 1 False; to itself more than 1 False; nearest neighbour right in all; pairs at 0 under 10%; length of a gradient 1
#   26 rows, compute_mode: off by more than 1 False; to itself more than 1 False; nearest neighbour right in all; pairs at 0 under 10%; length of a gradient 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/distances.py" <<'PY'
import torch

rows = torch.tensor([5000.0, 400.0]) + 0.5 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))


def told(name, x, **options):
    x = x.clone().requires_grad_()
    exact, found = torch.cdist(x.double(), x.double()).detach(), torch.cdist(x, x, **options)
    found[0, 1].backward()
    other, off = torch.eye(len(x), dtype=bool), (found - exact).abs().max().item()
    nearest = found.masked_fill(other, 1e9).argmin(1) == exact.masked_fill(other, 1e9).argmin(1)
    print(f"{name}: off by more than 1 {off > 1}; to itself more than 1 {bool((found.diagonal() > 1).any())}; "
          f"nearest neighbour right in {'all' if nearest.all() else 'under 40%' if nearest.float().mean() < 0.4 else 'most'}; "
          f"pairs at 0 {'under 10%' if ((found == 0) & ~other).float().mean() < 0.1 else 'over 30%' if ((found == 0) & ~other).float().mean() > 0.3 else 'some'}; "
          f"length of a gradient {'1' if 0.99 < x.grad[0].norm() < 1.01 else 'another'}")


told("25 rows", rows[:25])
told("26 rows", rows[:26])
told("1,000 rows", rows)
told("26 rows, the mean taken off", rows[:26] - rows[:26].mean(0))
told("26 rows, compute_mode", rows[:26], compute_mode="donot_use_mm_for_euclid_dist")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/distances.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
25 rows: off by more than 1 False; to itself more than 1 False; nearest neighbour right in all; pairs at 0 under 10%; length of a gradient 1
26 rows: off by more than 1 True; to itself more than 1 True; nearest neighbour right in under 40%; pairs at 0 over 30%; length of a gradient another
1,000 rows: off by more than 1 True; to itself more than 1 True; nearest neighbour right in under 40%; pairs at 0 over 30%; length of a gradient another
26 rows, the mean taken off: off by more than 1 False; to itself more than 1 False; nearest neighbour right in all; pairs at 0 under 10%; length of a gradient 1
26 rows, compute_mode: off by more than 1 False; to itself more than 1 False; nearest neighbour right in all; pairs at 0 under 10%; length of a gradient 1
SEEN
