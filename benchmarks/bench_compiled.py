"""What compiling a step could gain on a CPU: a step of an MLP in forms of the same arithmetic, beside a bare loop.

    python benchmarks/bench_compiled.py [--rounds 15] [--steps 200] [--batches 64,1]

784-128-10, cross entropy, AdamW, one thread. The forms: a bare loop with the fused optimizer; the same with torch's
fused kernel called directly (what handful's step does); the gradient traced once to a flat list of torch's operations
and replayed without autograd; the gradient compiled by torch.compile, the kernel called directly; gradient and update
compiled into one graph; and the gradient written by hand. Times are the processor's, ratios round by round.
Writes benchmarks/results/compiled.md.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx

LR, BETA1, BETA2, EPS, DECAY = 1e-3, 0.9, 0.999, 1e-8, 1e-2
ADAM = {"lr": LR, "beta1": BETA1, "beta2": BETA2, "weight_decay": DECAY, "eps": EPS}
Step = Callable[[Tensor, Tensor], object]


class Net:
    """The network, what AdamW keeps of it, and a step of the kernel."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
        self.leaves = list(self.model.parameters())
        self.weights = [p.detach() for p in self.leaves]
        self.by_name = {name: p.detach() for name, p in self.model.named_parameters()}
        self.m, self.v = ([torch.zeros_like(p) for p in self.weights] for _ in range(2))
        self.steps = [torch.zeros(()) for _ in self.weights]

    def update(self, gradients: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_add_(self.steps, 1)
            torch._fused_adamw_(
                self.weights, gradients, self.m, self.v, [], self.steps, amsgrad=False, maximize=False, **ADAM
            )

    def gradients(self, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        """By torch.func, which torch.compile and make_fx take as one graph."""
        found, _ = grad_and_value(lambda w: F.cross_entropy(functional_call(self.model, w, (x,)), y))(weights)
        return list(found.values())


def bare(n: Net, x: Tensor, y: Tensor) -> Step:
    optimizer = torch.optim.AdamW(n.leaves, lr=LR, weight_decay=DECAY, fused=True)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(n.model(x), y).backward()
        optimizer.step()

    return step


def direct(n: Net, x: Tensor, y: Tensor) -> Step:
    def step(x: Tensor, y: Tensor) -> None:
        for p in n.leaves:
            p.grad = None
        F.cross_entropy(n.model(x), y).backward()
        n.update([p.grad for p in n.leaves if p.grad is not None])

    return step


def traced(n: Net, x: Tensor, y: Tensor) -> Step:
    graph = make_fx(lambda w, x, y: n.gradients(w, x, y))(n.by_name, x, y)  # counts arguments, `self` too
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()

    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            n.update(graph(n.by_name, x, y))

    return step


def compiled_gradient(n: Net, x: Tensor, y: Tensor) -> Step:
    gradients = torch.compile(n.gradients, fullgraph=True, dynamic=False)

    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            n.update(gradients(n.by_name, x, y))

    return step


def compiled_whole(n: Net, x: Tensor, y: Tensor) -> Step:
    count = torch.zeros(())

    def whole(x: Tensor, y: Tensor) -> None:
        count.add_(1)
        for p, g, m, v in zip(n.weights, n.gradients(n.by_name, x, y), n.m, n.v, strict=True):
            m.lerp_(g, 1 - BETA1)
            v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            p.mul_(1 - LR * DECAY)
            p.addcdiv_(m / (1 - BETA1**count), (v / (1 - BETA2**count)).sqrt() + EPS, value=-LR)

    compiled = torch.compile(whole, fullgraph=True, dynamic=False)

    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            compiled(x, y)

    return step


def by_hand(n: Net, x: Tensor, y: Tensor) -> Step:
    w1, b1, w2, b2 = n.weights
    rows = torch.arange(len(x))

    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            hidden = torch.addmm(b1, x, w1.t()).relu_()
            d = torch.addmm(b2, hidden, w2.t()).softmax(1)
            d[rows, y] -= 1
            d /= len(x)
            back = (d @ w2).mul_(hidden > 0)
            n.update([back.t() @ x, back.sum(0), d.t() @ hidden, d.sum(0)])

    return step


FORMS: dict[str, Callable[[Net, Tensor, Tensor], Step]] = {
    "bare loop, AdamW(fused=True)": bare,
    "its kernel called directly": direct,
    "gradient traced, without autograd": traced,
    "gradient compiled": compiled_gradient,
    "gradient and update compiled": compiled_whole,
    "gradient by hand": by_hand,
}


def measure(batch: int, rounds: int, steps: int) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps * batch, 784, generator=generator).split(batch)
    y = torch.randint(0, 10, (steps * batch,), generator=generator).split(batch)
    nets, made, first = {name: Net() for name in FORMS}, dict[str, Step](), dict[str, float]()
    for name, form in FORMS.items():
        begin = time.perf_counter()
        made[name] = form(nets[name], x[0], y[0])
        made[name](x[0], y[0])
        first[name] = time.perf_counter() - begin
    for name, net in nets.items():  # all took the same step
        for p, q in zip(net.weights, nets["bare loop, AdamW(fused=True)"].weights, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5, msg=name)
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    for k in range(rounds + 1):
        for name, step in made.items():
            begin = time.process_time()
            for some, classes in zip(x, y, strict=True):
                step(some, classes)
            if k:  # the first round warms up
                times[name].append((time.process_time() - begin) / steps)
    floor = next(iter(times.values()))
    lines = [f"| a step at batch {batch} | microseconds, median | ratio to the bare loop, median (min-max) | before "
             "the second step, s |", "|---|---|---|---|"]  # fmt: skip
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, floor, strict=True)]
        said = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        lines.append(f"| {name} | {1e6 * statistics.median(seconds):.0f} | {said} | {first[name]:.2f} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batches", default="64,1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# What compiling a step could gain", "",
        f"784-128-10, AdamW, float32, one thread, processor time. {platform.machine()}, torch {torch.__version__}; "
        f"{args.rounds} interleaved rounds of {args.steps} steps; `python benchmarks/bench_compiled.py`.", "",
    ]  # fmt: skip
    for batch in map(int, args.batches.split(",")):
        lines += measure(batch, args.rounds, args.steps)
    print("\n".join(lines))
    (Path(__file__).parent / "results" / "compiled.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
