"""Muon for weights of any number of dimensions; torch's own takes matrices only."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from handful.base.shards import as_shared, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan 2024: the steepest slope at 0 that still ends near 1


class Muon(Optimizer):
    """The momentum of each weight with its singular values brought to about 1 (Jordan 2024,
    kellerjordan.github.io/posts/muon).

    A convolution's weight [out, in, height, width] counts as the matrix [out, in * height * width], as there. A step
    moves each entry by about 0.2 lr (Liu et al. 2025, arXiv:2502.16982), so that rates of AdamW fit; weight_decay is
    decoupled. Matrices give what torch.optim.Muon(adjust_lr_fn="match_rms_adamw") gives, up to rounding: the
    orthogonalisation runs in bfloat16 on a GPU and in float32 on a CPU, where that is the faster type.

    Raises ValueError for a parameter of fewer than two dimensions and for values out of range.

    >>> weight = torch.nn.Parameter(torch.zeros(8, 3, 3, 3))
    >>> weight.grad = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    >>> Muon([weight], lr=0.1, weight_decay=0.0).step()
    >>> 0.01 < weight.square().mean().sqrt().item() < 0.03    # about 0.2 * 0.1
    True
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        eps: float = 1e-7,
    ) -> None:
        if not (lr >= 0 and weight_decay >= 0 and 0 <= momentum < 1 and 0 < ns_steps < 100 and eps > 0):
            raise ValueError(
                f"lr and weight_decay must be at least 0, momentum in [0, 1), ns_steps in 1..99 and eps above 0, not "
                f"{lr}, {weight_decay}, {momentum}, {ns_steps} and {eps}"
            )
        options = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "eps": eps}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **options})
        small = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim < 2]
        if small:
            raise ValueError(f"Muon is for weights of two and more dimensions, not {small[0]}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = evaluated(closure)
        for group in self.param_groups:
            lr, keep = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                mean = state["momentum_buffer"].lerp_(p.grad, 1 - keep)
                update = p.grad.lerp(mean, keep) if group["nesterov"] else mean
                matrix = orthogonal(whole(update).flatten(1), group["ns_steps"], group["eps"])
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(as_shared(matrix.view(p.shape), p), alpha=-lr * 0.2 * math.sqrt(max(matrix.shape)))
        return loss


def evaluated(closure: Callable[[], float] | None) -> float | None:
    """The loss that an optimizer's `step` was asked to evaluate, with gradients; None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def orthogonal(matrix: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """[n, k] with the same singular vectors and all singular values between about 0.7 and 1.2: a quintic Newton-Schulz
    iteration (Jordan 2024). Tiny ones, below some hundredth of the largest, stay behind.

    >>> values = torch.linalg.svdvals(orthogonal(torch.diag(torch.tensor([3.0, 2.0, 1.0]))))
    >>> bool((values > 0.6).all() and (values < 1.3).all())
    True
    """
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16() if matrix.is_cuda else matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    wide = x.size(0) <= x.size(1)
    x = x if wide else x.T
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix.dtype).contiguous()
