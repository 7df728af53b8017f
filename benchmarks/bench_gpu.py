"""Time per step on a GPU: handful beside a plain loop, the same loop captured by hand as one CUDA graph, and Lightning.

    python benchmarks/bench_gpu.py [--rounds 5] [--steps N] [--only mlp,gpt,cnn]

MLP 784-128-10 at batch 64 (float32), a GPT of 6 layers on 32 x 256 tokens and a CNN at batch 512 (both bfloat16 by
autocast), AdamW, fused. All loops draw the same number of rows from data that lie on the device already; handful puts
its own there and captures its step, but with graph=False. Of handful the steps after the first tenth count, by the
clock in its history: a run captures its step once. Contenders take turns; a round's time is read once the device is
done. It takes about four minutes. Lightning takes part where it is installed. Writes benchmarks/results/gpu.md; with
--device cpu it runs small and without graphs, to show that it runs.
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import handful

VOCABULARY, WIDTH, HEADS = 256, 384, 6


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.before(x)).chunk(3, dim=-1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.after(x))


class Gpt(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(length, WIDTH)
        self.blocks, self.head = nn.Sequential(*(Block() for _ in range(6))), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.tokens(x) + self.places.weight[: x.shape[1]])).transpose(1, 2)  # type: ignore[no-any-return]


def cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU(),
                   nn.MaxPool2d(2)]  # fmt: skip
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


@dataclass(frozen=True)
class Network:
    """make: the model, of fixed first weights; x, y: all rows; half: whether the forward pass is in bfloat16; steps: in
    a round."""

    make: Callable[[], nn.Module]
    x: Tensor
    y: Tensor
    batch: int
    half: bool
    steps: int

    def fresh(self, device: str) -> nn.Module:
        torch.manual_seed(0)
        return self.make().to(device)

    def autocast(self, device: str) -> AbstractContextManager[object]:
        return torch.autocast(device, torch.bfloat16) if self.half else nullcontext()


def networks(small: bool) -> dict[str, Network]:
    torch.manual_seed(0)
    n, length = (1024, 16) if small else (20_000, 256)
    tokens = torch.randint(0, VOCABULARY, (n // 4, length + 1))
    return {
        "mlp": Network(
            lambda: nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
            torch.randn(n, 784), torch.randint(0, 10, (n,)), 64, False, 30 if small else 2000,
        ),
        "gpt": Network(lambda: Gpt(length), tokens[:, :-1], tokens[:, 1:], 4 if small else 32, True,
                       10 if small else 100),
        "cnn": Network(cnn, torch.randn(n, 3, 32, 32), torch.randint(0, 10, (n,)), 16 if small else 512, True,
                       10 if small else 200),
    }  # fmt: skip


def done(device: str) -> float:
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def taken(step: Callable[[Tensor], object], net: Network, steps: int, device: str) -> float:
    """Seconds a step over `steps` of them, after a few to warm up."""
    for part in (3, steps):
        rows = torch.randint(0, len(net.x), (part, net.batch), device=device)
        start = done(device)
        for some in rows:
            step(some)
        seconds = (done(device) - start) / part
    return seconds


def one_step(net: Network, device: str, **form: bool) -> Callable[[Tensor], object]:
    """Gather, forward, loss, backward, update: a plain loop's body."""
    model, x, y = net.fresh(device), net.x.to(device), net.y.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **form)  # type: ignore[arg-type]

    def step(rows: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with net.autocast(device):
            loss = F.cross_entropy(model(x[rows]).float(), y[rows])
        loss.backward()
        optimizer.step()

    return step


def plain(net: Network, steps: int, device: str) -> float:
    return taken(one_step(net, device), net, steps, device)


def graphed(net: Network, steps: int, device: str) -> float:
    """The same body, captured once and replayed: what the device can do."""
    body, static = one_step(net, device, capturable=True), torch.zeros(net.batch, dtype=torch.long, device=device)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            body(static)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body(static)

    def step(rows: Tensor) -> None:
        static.copy_(rows)
        graph.replay()

    return taken(step, net, steps, device)


def ours(net: Network, steps: int, device: str, graph: bool | Literal["auto"] = "auto") -> float:
    """handful.fit with its history, scores, schedule and checks; its own clock, from a tenth of the run on."""
    precision = "bfloat16" if net.half else "float32"
    run = handful.fit(
        net.fresh("cpu"), (net.x, net.y), valid=None, batch=net.batch, lr=1e-3, until=f"steps({steps + steps // 10})",
        device=device, precision=precision, preprocess=None, graph=graph, quiet=True,
        loss="cross_entropy" if net.y.ndim == 1 else F.cross_entropy,
    )  # fmt: skip
    rows = [row for row in run.history if "train_loss" in row]
    first = next((row for row in rows[:-1] if row["step"] >= steps // 10), rows[0])
    return float(rows[-1]["seconds"] - first["seconds"]) / max(1, rows[-1]["step"] - first["step"])


def lightning(net: Network, steps: int, device: str) -> float:
    import lightning as L

    class Module(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = net.fresh("cpu")

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            if self.global_step == 3:
                self.started = done(device)
            return F.cross_entropy(self.model(batch[0]).float(), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), fused=True)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(net.x, net.y), net.batch, shuffle=True)
    module = Module()
    L.Trainer(
        max_steps=steps + 3, max_epochs=-1, accelerator="gpu" if device == "cuda" else device, devices=1, logger=False,
        precision="bf16-mixed" if net.half else "32-true", enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False,
    ).fit(module, loader)  # fmt: skip
    return (done(device) - module.started) / steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="in a round, for all networks")
    parser.add_argument("--only", default="mlp,gpt,cnn")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    on_gpu = args.device == "cuda"
    contenders = {"one graph, by hand": graphed} if on_gpu else {}
    contenders |= {"plain loop, fused AdamW": plain, "handful.fit": ours}
    contenders |= {"handful.fit, graph=False": partial(ours, graph=False)} if on_gpu else {}
    contenders |= {"Lightning": lightning} if find_spec("lightning") else {}
    card = torch.cuda.get_device_name() if on_gpu else "a CPU, small networks: no result"
    page = ["# Time per step on a GPU", "", f"{card}, torch {torch.__version__}; {args.rounds} interleaved rounds of "
            "many steps; microseconds a step, median (min-max); `python benchmarks/bench_gpu.py`."]  # fmt: skip
    found = networks(small=not on_gpu)
    for name in args.only.split(","):
        times: dict[str, list[float]] = {contender: [] for contender in contenders}
        for turn in range(args.rounds + 1):
            for contender, measure in contenders.items():
                seconds = measure(found[name], args.steps or found[name].steps, args.device)
                times[contender] += [1e6 * seconds] if turn else []  # the first round warms up
        first = statistics.median(next(iter(times.values())))
        page += ["", f"| {name} at batch {found[name].batch} | microseconds | times the first |", "|---|---|---|"]
        for contender, us in times.items():
            middle = statistics.median(us)
            page.append(f"| {contender} | {middle:,.0f} ({min(us):,.0f}-{max(us):,.0f}) | {middle / first:.2f} |")
    print("\n".join(page))
    if on_gpu:
        (Path(__file__).parent / "results" / "gpu.md").write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
