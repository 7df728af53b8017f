#!/usr/bin/env bash
# torch 2.13.0, F.ctc_loss: its gradient is that of its value only if log_softmax comes last before it. With a prior, a scale or a penalty in between it is not.
#
#     scores = network(x).log_softmax(-1) - log_prior          F.ctc_loss(scores, targets, ...)
#
# Subtracting the logarithm of how often each sign comes, scaling scores by a temperature, adding a penalty to the blank: usual in speech recognition.
# The loss is a sum over paths of sums of `scores`, defined for any numbers; its value is computed so; backward() one takes for the derivative of that
# value.
#
# What is returned is exp(score) minus the share of paths through it; the derivative is minus that share. The first term is no derivative of anything
# here. It cancels only if the next thing on the way back is the log_softmax whose output the scores are, with nothing in between, since its rows then
# add up to zero. So gradients are right in every test that is written with log_softmax, and torch.autograd.gradcheck fails on the function itself. With
# the prior subtracted the network's gradient is off by more than its own length here; of a learnable bias, a sign that is on no path, with a derivative
# of 0, gets the largest gradient of all; a learnable scale gets a third of its own. Nothing is printed. The page asks for logarithms of probabilities,
# "e.g." from log_softmax; users have reported it since 2021 (issues 52241, 181534). Way out: a log_softmax as the last thing, if that is meant, or a
# loss written with logsumexp.
#
# Output seen (CPU, x86_64, Python 3.11), float64; backward() against finite differences of the loss's value:
#   log_softmax alone: relative error 0.00
#   prior subtracted: relative error 1.80; normalised again 0.00; sum over paths by hand 0.00
#   value by hand and by ctc_loss the same: True
#   a learnable bias, blank and three signs: backward [-1.41, -0.48, -0.4, 2.3] differences [-2.35, -1.97, -1.68, 0.0]
#   a learnable scale: backward [3.35] differences [10.01]
#   gradcheck of ctc_loss itself: GradcheckError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/prior.py" <<'PY'
import torch
import torch.nn.functional as F
from torch.autograd.gradcheck import GradcheckError

draw = torch.Generator().manual_seed(0)
logits = torch.randn(6, 4, generator=draw, dtype=torch.float64)  # six places; blank and three signs
prior = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64).log()
target = torch.tensor([1, 2])


def loss(scores):
    return F.ctc_loss(scores[:, None], target[None], torch.tensor([6]), torch.tensor([2]), reduction="sum")


def by_hand(scores):
    """The same sum over all paths, differentiated by autograd."""
    states = [0, 1, 0, 2, 0]
    alpha = [scores[0, 0], scores[0, 1]] + [torch.tensor(-1e30, dtype=torch.float64)] * 3
    for row in scores[1:]:
        before = [[s, s - 1, s - 2] if s in (3,) else [s, s - 1] for s in range(5)]
        alpha = [torch.stack([alpha[k] for k in ks if k >= 0]).logsumexp(0) + row[states[s]] for s, ks in enumerate(before)]
    return -torch.stack(alpha[3:]).logsumexp(0)


def gradients(function, at):
    """By backward() and by differences."""
    at = at.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(at), at)
    steps = 1e-6 * torch.eye(at.numel(), dtype=torch.float64).view(-1, *at.shape)
    with torch.no_grad():
        right = torch.stack([(function(at + step) - function(at - step)) / 2e-6 for step in steps]).view_as(at)
    return found, right


def off(function, at):
    found, right = gradients(function, at)
    return f"{(found - right).norm() / right.norm():.2f}"


def normal(z):
    return z.log_softmax(-1)


def numbers(tensor):
    return [round(x, 2) + 0.0 for x in tensor.flatten().tolist()]


print("log_softmax alone: relative error", off(lambda z: loss(normal(z)), logits))
print("prior subtracted: relative error", off(lambda z: loss(normal(z) - prior), logits) + "; normalised again",
      off(lambda z: loss(normal(normal(z) - prior)), logits) + "; sum over paths by hand", off(lambda z: by_hand(normal(z) - prior), logits))
print("value by hand and by ctc_loss the same:", torch.allclose(by_hand(normal(logits) - prior), loss(normal(logits) - prior)))
found, right = gradients(lambda bias: loss(normal(logits) + bias), torch.zeros(4, dtype=torch.float64))
print("a learnable bias, blank and three signs: backward", numbers(found), "differences", numbers(right))
found, right = gradients(lambda scale: loss(normal(logits) * scale), torch.ones(1, dtype=torch.float64))
print("a learnable scale: backward", numbers(found), "differences", numbers(right))
try:
    torch.autograd.gradcheck(loss, normal(logits).requires_grad_())
except GradcheckError as error:
    print("gradcheck of ctc_loss itself:", type(error).__name__)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/prior.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
log_softmax alone: relative error 0.00
prior subtracted: relative error 1.80; normalised again 0.00; sum over paths by hand 0.00
value by hand and by ctc_loss the same: True
a learnable bias, blank and three signs: backward [-1.41, -0.48, -0.4, 2.3] differences [-2.35, -1.97, -1.68, 0.0]
a learnable scale: backward [3.35] differences [10.01]
gradcheck of ctc_loss itself: GradcheckError
SEEN
