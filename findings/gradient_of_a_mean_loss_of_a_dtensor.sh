#!/usr/bin/env bash
# torch 2.13.0, DTensor: F.mse_loss(a, b) and ((a - b) ** 2).mean(), rows laid out over two ranks. The gradient of the first is twice that of the second.
#
# A DTensor is one tensor, laid out over ranks; an operation on it is to give what it gives on one machine, value and gradient, and where it
# cannot, it raises. Many do just that: `mean` gathers where shares are unequal, cross_entropy raises ("cannot be evenly sharded").
#
# Losses made of one operation of their own, mse_loss, smooth_l1_loss, huber_loss, soft_margin_loss, binary_cross_entropy with and without
# logits, are each rank's mean over its own rows, to be averaged over ranks. Two things come of it.
#   Gradient   Each rank differentiates its own mean, and the division by the number of ranks never comes: the gradient is that of one machine
#              times the ranks, 2 on two, 64 on 64. The loss that is printed is right. Under SGD that is another learning rate, under a
#              clipped norm another bound; Adam hides it, so that a change of optimizer or of ranks brings it out.
#   Value      With rows that do not divide (5 on 2 ranks, the last smaller batch), the loss is the plain mean of the ranks' means, here 5 where
#              it is 4. One row alone on its rank is half of the loss.
# With logits the gradient is right. l1_loss is right in both, being made of `mean`, and cross_entropy of equal shares is, so one script has losses of both kinds. No warning.
# Way out: reduction="sum", divided by the number of rows: right in both.
#
# Output seen (2 processes, gloo, CPU, x86_64, Python 3.11): loss, and gradient as a multiple of that of one machine
#   rows with squares 0 0 0 10 on 2 ranks: (a - b) ** 2 .mean() 2.5, mse_loss 2.5; gradient on the last row 1.0, mse_loss 2.0
#   rows with squares 0 0 0 10 10 on 2 ranks: (a - b) ** 2 .mean() 4.0, mse_loss 5.0; gradient on the last row 1.0, mse_loss 2.5
#   4 random rows, loss other than on one machine: none
#   4 random rows, gradient twice that of one machine: mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy; the same: l1_loss cross_entropy binary_cross_entropy_with_logits
#   5 random rows, loss other than on one machine: mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits
#   mse_loss by sum, 5 rows: loss and gradient of one machine True
#   weights of a linear layer after a step of SGD from 0, over those of one machine: mse_loss 2.0, (a - b) ** 2 .mean() 1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/ranks.py" <<'PY'
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn import functional as F

NAMES = ["l1_loss", "cross_entropy", "mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss", "binary_cross_entropy"]
NAMES.append("binary_cross_entropy_with_logits")


def squares(a, b):
    return ((a - b) ** 2).mean()


def values(name, rows):
    """An output and a target that a loss may have."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, 3, generator=draw), torch.randn(rows, 3, generator=draw)
    if name == "cross_entropy":
        return a, b.argmax(1)
    if name == "soft_margin_loss":
        b = b.sign()
    if name.startswith("binary"):
        b = b.sigmoid()
    return (a.sigmoid() if name == "binary_cross_entropy" else a), b


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mesh, lines = init_device_mesh("cpu", (2,)), []

    def shared(t, how=None):
        return distribute_tensor(t, mesh, [how or Shard(0)])

    def both(loss, a, b):
        """Loss and gradient, on one machine and laid out."""
        one, many = a.clone().requires_grad_(), shared(a).requires_grad_()
        here = loss(one, b)
        here.backward()
        there = loss(many, shared(b)).full_tensor()
        there.backward()
        return here.detach(), one.grad, there.detach(), many.grad.full_tensor()

    for rows in (4, 5):
        a, b = torch.tensor([0.0, 0.0, 0.0, 10.0, 10.0])[:rows, None].sqrt(), torch.zeros(rows, 1)
        (_, g, mean, gm), (_, _, mse, gl) = both(squares, a, b), both(F.mse_loss, a, b)
        seen = " ".join(f"{float(v):.0f}" for v in a[:, 0] ** 2)
        lines.append(
            f"rows with squares {seen} on 2 ranks: (a - b) ** 2 .mean() {float(mean):.1f}, mse_loss {float(mse):.1f}; "
            f"gradient on the last row {float(gm[-1] / g[-1]):.1f}, mse_loss {float(gl[-1] / g[-1]):.1f}"
        )
    for rows in (4, 5):
        off, twice, same = [], [], []
        for name in NAMES:
            if rows == 5 and name == "cross_entropy":
                continue  # it raises
            here, g, there, many = both(getattr(F, name), *values(name, rows))
            off += [] if torch.allclose(here, there, rtol=1e-5) else [name]
            same += [name] if torch.allclose(g, many, rtol=1e-4, atol=1e-7) else []
            twice += [name] if torch.allclose(2 * g, many, rtol=1e-4, atol=1e-7) else []
        lines.append(f"{rows} random rows, loss other than on one machine: {' '.join(off) or 'none'}")
        if rows == 4:
            lines.append(f"4 random rows, gradient twice that of one machine: {' '.join(twice)}; the same: {' '.join(same)}")
    here, g, there, many = both(lambda a, b: F.mse_loss(a, b, reduction="sum") / 5, *values("mse_loss", 5))
    right = torch.allclose(here, there) and torch.allclose(g, many, rtol=1e-5)
    lines.append(f"mse_loss by sum, 5 rows: loss and gradient of one machine {right}")

    x, y = values("mse_loss", 4)
    shares = []
    for loss in (F.mse_loss, squares):
        one, many = torch.zeros(3, 3, requires_grad=True), shared(torch.zeros(3, 3), Replicate()).requires_grad_()
        F.mse_loss(x @ one, y).backward()
        loss(shared(x) @ many, shared(y)).backward()
        for w in (one, many):
            torch.optim.SGD([w], lr=0.1).step()
        shares.append(float(many.detach().full_tensor().norm() / one.detach().norm()))
    lines.append(
        f"weights of a linear layer after a step of SGD from 0, over those of one machine: mse_loss {shares[0]:.1f}, (a - b) ** 2 .mean() {shares[1]:.1f}"
    )
    if rank == 0:
        print("\n".join(lines), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, args=(sys.argv[1],), nprocs=2)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/ranks.py" "$work" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
rows with squares 0 0 0 10 on 2 ranks: (a - b) ** 2 .mean() 2.5, mse_loss 2.5; gradient on the last row 1.0, mse_loss 2.0
rows with squares 0 0 0 10 10 on 2 ranks: (a - b) ** 2 .mean() 4.0, mse_loss 5.0; gradient on the last row 1.0, mse_loss 2.5
4 random rows, loss other than on one machine: none
4 random rows, gradient twice that of one machine: mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy; the same: l1_loss cross_entropy binary_cross_entropy_with_logits
5 random rows, loss other than on one machine: mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits
mse_loss by sum, 5 rows: loss and gradient of one machine True
weights of a linear layer after a step of SGD from 0, over those of one machine: mse_loss 2.0, (a - b) ** 2 .mean() 1.0
SEEN
