#!/usr/bin/env bash
# torch 2.13.0, torch.optim.ASGD, "Averaged Stochastic Gradient Descent": the network that it trains is not the averaged one, at any setting.
#
# The method is named after its result: the mean of the weights over many steps, which is far less noisy than the last of them. SGD(...) is replaced by ASGD(...),
# and one expects that the model holds the average when training is over, or a call that puts it there, as with AveragedModel or a schedule-free optimizer's eval().
# The page lists `t0`, "point at which to start averaging", so it is thought to be a matter of when.
#
# The average is in the optimizer's state, under "ax", and nothing ever reads it. The network has the weights of plain SGD with a slowly falling rate, is scored, kept
# and saved with these; there is no method that swaps them, and no word on the page of where the average is. By default there is none, either: t0 is
# 1,000,000 steps, and up to it "ax" is a copy of the weights, so that whoever does look there finds the network. Even with t0=1000 all scores of
# the run are those of SGD: a comparison of ASGD and SGD compares SGD with SGD. Way out: t0, and after the training weight.copy_(optimizer.state[weight]["ax"]) for
# each weight, buffers of BatchNorm made anew; or torch.optim.swa_utils.AveragedModel.
#
# Output seen (CPU, x86_64, Python 3.11), squared distance from the least-squares solution, 4,000 steps:
#   SGD: the network over 0.2 - average by hand under 0.01
#   ASGD(lr): the network over 0.2, that of SGD up to 0.02 True - average by hand under 0.01
#       state: ax over 0.2, and the network itself True
#   ASGD(lr, t0=1000): the network over 0.2, that of SGD up to 0.02 True - average by hand under 0.01
#       state: ax under 0.01, and the network itself False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch

torch.manual_seed(0)
ROWS, STEPS = 2000, 4000
x, truth = torch.randn(ROWS, 20), torch.randn(20, 1)
y = x @ truth + 2 * torch.randn(ROWS, 1)
best = torch.linalg.lstsq(x, y).solution  # what the average of many noisy steps comes near to


def trained(make):
    """Train on batches of four rows; the optimizer, the weights, and by hand the average of the weights after steps 1,001 to 4,000."""
    weights = torch.nn.Parameter(torch.zeros(20, 1))
    optimizer, draw, kept = make([weights]), torch.Generator().manual_seed(1), []
    for step in range(STEPS):
        rows = torch.randint(ROWS, (4,), generator=draw)
        optimizer.zero_grad()
        (x[rows] @ weights - y[rows]).square().mean().backward()
        optimizer.step()
        if step >= 1000:
            kept.append(weights.detach().clone())
    return optimizer, weights.detach(), torch.stack(kept).mean(0)


def off(weights):
    return "over 0.2" if (error := float((weights - best).square().sum())) > 0.2 else "under 0.01" if error < 0.01 else f"{error:.3f}"


_, plain, by_hand = trained(lambda weights: torch.optim.SGD(weights, lr=0.02))
print("SGD: the network", off(plain), "- average by hand", off(by_hand))
for name, options in (("ASGD(lr)", {}), ("ASGD(lr, t0=1000)", {"t0": 1000})):
    optimizer, weights, by_hand = trained(lambda weights, options=options: torch.optim.ASGD(weights, lr=0.02, **options))
    (state,) = optimizer.state.values()
    near = float((weights - plain).abs().max()) < 0.02
    print(f"{name}: the network {off(weights)}, that of SGD up to 0.02 {near} - average by hand {off(by_hand)}")
    print(f"    state: ax {off(state['ax'])}, and the network itself {torch.equal(state['ax'], weights)}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
SGD: the network over 0.2 - average by hand under 0.01
ASGD(lr): the network over 0.2, that of SGD up to 0.02 True - average by hand under 0.01
    state: ax over 0.2, and the network itself True
ASGD(lr, t0=1000): the network over 0.2, that of SGD up to 0.02 True - average by hand under 0.01
    state: ax under 0.01, and the network itself False
SEEN
