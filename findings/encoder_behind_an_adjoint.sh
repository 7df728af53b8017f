#!/usr/bin/env bash
# torchdiffeq 0.2.5 (torch 2.13.0), odeint_adjoint: a network that tells the equation what it is about, an encoder, gets no gradient from it, and is not trained.
#
#     equation.about = encoder(x)                     # forward(t, y) reads it: self.net(torch.cat([y, self.about], -1))
#     y = odeint_adjoint(equation, y0, times)[-1]     # in place of odeint, for its constant memory
#
# Its page has it under `from torchdiffeq import odeint_adjoint as odeint`: the same call, the same solution, the same gradients, less memory. A test of the
# gradients of the equation's weights and of y0 confirms that.
#
# The backward pass is an equation of its own, for y and for the parameters of `func` (its nn.Parameters that ask for a gradient, or `adjoint_params`). A tensor that forward reads besides, with a
# graph behind it, is a constant there. Its gradient is not refused, it is missing: None, if it reaches the loss by this way only, and then a part of it, without a sign, where the encoder
# also gives y0 or a penalty (a latent ODE). Clipping, optimizers and a printout of norms pass over it; the loss falls some way, as the rest of the network learns. Latent and controlled equations,
# hypernetworks and flows with a condition are built so. Way out: the condition as a part of the state, with a derivative of zero, or odeint for a comparison of encoder.weight.grad.
#
# Output seen (CPU, x86_64, Python 3.11), y(1) is to be tanh of one of 10 columns, which an encoder of one number should find; R2 of new rows
#   odeint                           : gradient of the encoder equal to odeint's, it has moved True, R2 above 0.9
#   odeint_adjoint                   : gradient of the encoder None, it has moved False, R2 below 0.3
#   odeint_adjoint, in the state too : gradient of the encoder equal to odeint's, it has moved True, R2 above 0.9
#   odeint_adjoint, a penalty as well: gradient of the encoder the penalty's alone, it has moved True, R2 below 0.3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torchdiffeq==0.2.5 torch==2.13.0 2> /dev/null
cat > "$work/adjoint.py" <<'PY'
import torch
from torch import nn
from torchdiffeq import odeint, odeint_adjoint

TIMES = torch.tensor([0.0, 1.0])
OPTIONS = {"method": "rk4", "options": {"step_size": 0.25}}


class Equation(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
        self.about = None

    def forward(self, t, y):
        if self.about is None:  # the condition is the second column of the state
            return torch.cat([self.net(y), torch.zeros_like(y[:, 1:])], -1)
        return self.net(torch.cat([y, self.about], -1))


class Model(nn.Module):
    def __init__(self, solve, in_state=False, penalty=0.0):
        super().__init__()
        self.solve, self.in_state, self.penalty = solve, in_state, penalty
        self.encoder, self.equation = nn.Linear(10, 1), Equation()

    def forward(self, x):
        about = self.encoder(x)
        start = torch.zeros(len(x), 1)
        if self.in_state:
            return self.solve(self.equation, torch.cat([start, about], -1), TIMES, **OPTIONS)[-1][:, :1]
        self.equation.about = about
        return self.solve(self.equation, start, TIMES, **OPTIONS)[-1]

    def loss(self, x, y):
        loss = (self(x) - y).square().mean()
        return loss + self.penalty * self.encoder(x).square().mean() if self.penalty else loss


def rows(number, seed):
    x = torch.randn(number, 10, generator=torch.Generator().manual_seed(seed))
    return x, torch.tanh(2 * x[:, 3:4])


def made(*options):
    torch.manual_seed(0)
    return Model(*options)


def told(name, *options):
    x, y = rows(500, 1)
    whole, model = made(odeint), made(*options)
    whole.loss(x, y).backward()
    model.loss(x, y).backward()
    gradient = model.encoder.weight.grad
    alone = torch.autograd.grad(model.penalty * model.encoder(x).square().mean(), model.encoder.weight)[0]
    if gradient is None:
        said = "None"
    elif torch.allclose(gradient, whole.encoder.weight.grad, atol=1e-4):
        said = "equal to odeint's"
    else:
        said = "the penalty's alone" if torch.allclose(gradient, alone) else "another"
    first = model.encoder.weight.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        model.loss(x, y).backward()
        optimizer.step()
    x, y = rows(500, 2)
    with torch.no_grad():
        score = 1 - ((model(x) - y).square().mean() / y.var()).item()
    moved = not torch.equal(first, model.encoder.weight)
    print(f"{name:33}: gradient of the encoder {said}, it has moved {moved}, R2 {'above 0.9' if score > 0.9 else 'below 0.3' if score < 0.3 else score}", flush=True)


told("odeint", odeint)
told("odeint_adjoint", odeint_adjoint)
told("odeint_adjoint, in the state too", odeint_adjoint, True)
told("odeint_adjoint, a penalty as well", odeint_adjoint, False, 0.01)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/adjoint.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
odeint                           : gradient of the encoder equal to odeint's, it has moved True, R2 above 0.9
odeint_adjoint                   : gradient of the encoder None, it has moved False, R2 below 0.3
odeint_adjoint, in the state too : gradient of the encoder equal to odeint's, it has moved True, R2 above 0.9
odeint_adjoint, a penalty as well: gradient of the encoder the penalty's alone, it has moved True, R2 below 0.3
SEEN
