#!/usr/bin/env bash
# vector-quantize-pytorch 1.32.0 (torch 2.13.0), VectorQuantize(use_cosine_sim=True): a mask that is True everywhere makes the loss a hundred times as large, and pulls another way.
#
# Sequences of different length go through a codebook with mask= (or lens=), so that padding does not count. A mask without a False is no mask: the first thing that one tests, and for
# the usual codebook the two calls agree to the last digit, in codes, loss and gradient. With use_cosine_sim, which the page recommends, codes are directions, of length 1.
#
# The commitment loss keeps what the encoder says near its code. Without a mask it compares code and *direction*; its gradient turns a vector and does not change its length. With a mask
# it compares the code with the vector as it came in, before it was brought to length 1. Where vectors are some twelve long it is a hundred times as large, next to a reconstruction
# loss that has not changed; and all of its gradient points along the vector: it shortens vectors to 1 instead of turning them to their code, that is, it does not do what it is for.
# The codes that are chosen are right, and the loss falls nicely, as lengths shrink. So batches that need no padding (mask left out) and those that do are trained by two losses, and one step with
# lens= of equal sequences is enough to see it. Found beside it: codebook_diversity_loss_weight counts the padding, with any mask: the loss depends on what lies there.
# Way out: F.normalize before the layer, so that both are the same.
#
# Output seen (CPU, x86_64, Python 3.11), 4 x 10 vectors of length 12 or so, 8 codes; by hand, from the codes and vectors in float64:
#   euclidean codes   without mask: loss 9.322, along the vector 1.00 of the gradient; a mask of True: loss 9.322, along the vector 1.00; by hand 9.322
#   cosine codes      without mask: loss 0.083, along the vector 0.00 of the gradient; a mask of True: loss 9.125, along the vector 1.00; by hand 0.083
#   cosine, length 1  without mask: loss 0.083, along the vector 0.00 of the gradient; a mask of True: loss 0.083, along the vector 0.57; by hand 0.083
#   loss with a weight on diversity, the same rows, zeros or hundreds in the padding: equal False; without that weight: equal True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check vector-quantize-pytorch==1.32.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
import torch.nn.functional as F
from vector_quantize_pytorch import VectorQuantize

torch.manual_seed(0)
vectors = torch.randn(4, 10, 16) * 3


def outcome(vectors, mask, **options):
    """Loss, how much of its gradient lies along the vectors (0 to 1), and the loss as it is by the codes that were chosen."""
    torch.manual_seed(0)
    layer = VectorQuantize(dim=16, codebook_size=8, rotation_trick=False, **options)
    given = vectors.clone().requires_grad_()
    codes = layer.codebook.detach().double()  # before the step that moves them
    _, chosen, loss = layer(given, mask=mask)
    (gradient,) = torch.autograd.grad(loss, given)
    along = (F.normalize(gradient, dim=-1) * F.normalize(given.detach(), dim=-1)).sum(-1).abs().mean()
    target = F.normalize(vectors.double(), dim=-1) if options.get("use_cosine_sim") else vectors.double()
    return loss.item(), along.item(), (codes[chosen] - target).square().mean().item()


everything = torch.ones(4, 10, dtype=torch.bool)
for name, rows, options in (
    ("euclidean codes", vectors, {}),
    ("cosine codes", vectors, {"use_cosine_sim": True}),
    ("cosine, length 1", F.normalize(vectors, dim=-1), {"use_cosine_sim": True}),
):
    loss, along, by_hand = outcome(rows, None, **options)
    masked, masked_along, _ = outcome(rows, everything, **options)
    print(f"{name:17} without mask: loss {loss:.3f}, along the vector {along:.2f} of the gradient; a mask of True: loss {masked:.3f}, along the vector {masked_along:.2f}; by hand {by_hand:.3f}")
first = torch.arange(10) < torch.tensor([10, 3, 7, 5])[:, None]


def equal(**options):
    zeros, hundreds = (outcome(torch.where(first[..., None], vectors, torch.tensor(value)), first, **options)[0] for value in (0.0, 100.0))
    return abs(zeros - hundreds) < 1e-3


print(f"loss with a weight on diversity, the same rows, zeros or hundreds in the padding: equal {equal(codebook_diversity_loss_weight=1.0)}; without that weight: equal {equal()}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
euclidean codes   without mask: loss 9.322, along the vector 1.00 of the gradient; a mask of True: loss 9.322, along the vector 1.00; by hand 9.322
cosine codes      without mask: loss 0.083, along the vector 0.00 of the gradient; a mask of True: loss 9.125, along the vector 1.00; by hand 0.083
cosine, length 1  without mask: loss 0.083, along the vector 0.00 of the gradient; a mask of True: loss 0.083, along the vector 0.57; by hand 0.083
loss with a weight on diversity, the same rows, zeros or hundreds in the padding: equal False; without that weight: equal True
SEEN
