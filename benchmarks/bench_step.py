"""Time per step of handful's loop beside plain torch loops: what the book-keeping costs.

    python benchmarks/bench_step.py [--rounds 9] [--steps 300] [--batches 64,1] [--nets mlp,cnn,gpt] [--processor]

AdamW on synthetic rows: an MLP 784-128-10 at each batch, a small CNN (batch 32) and a small GPT (batch 8, 64 tokens).
Every round runs each loop once, in turn, so that the machine's moods fall on all alike; the table gives medians over
rounds and the ratio to the bare loop, round by round. --processor counts the processor's time, to which other programs
add little, in place of the clock's. Lightning takes part where it is installed. Writes benchmarks/results/step.md (or
step_processor.md).
"""

import argparse
import logging
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import handful
from handful.optim.fused import stepper

N = 20_000
Net = Callable[[], nn.Module]


class Gpt(nn.Module):
    """Two layers, four heads, of tokens [m, 64]; logits [m, tokens, 64]."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(64, 128), nn.Parameter(torch.zeros(64, 128))
        layer = nn.TransformerEncoderLayer(128, 4, 512, 0.0, F.gelu, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(128, 64)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(64))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layers(self.tokens(x) + self.places, mask=self.mask, is_causal=True)
        logits: Tensor = self.head(hidden).transpose(1, 2)
        return logits


NETS: dict[str, Net] = {
    "mlp": lambda: nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 64, 10),
    ),
    "gpt": Gpt,
}  # fmt: skip
BATCHES = {"cnn": 32, "gpt": 8}


def data(net: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if net == "gpt":
        tokens = torch.randint(0, 64, (2000, 65), generator=generator)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    shape, n = ((784,), N) if net == "mlp" else ((3, 32, 32), 4000)
    return torch.randn(n, *shape, generator=generator), torch.randint(0, 10, (n,), generator=generator)


def made(net: Net) -> nn.Module:
    torch.manual_seed(0)
    return net()


def one(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def bare(net: Net, x: Tensor, y: Tensor, batch: int, steps: int) -> float:
    """Whole-batch gathers and a fused optimizer, nothing else: the floor."""
    model, n = made(net), len(x)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    order = torch.randperm(n)
    start = time.perf_counter()
    for k in range(steps):
        rows = order[k * batch % (n - batch) :][:batch]
        one(model, optimizer, x[rows], y[rows])
    return (time.perf_counter() - start) / steps


def loader(net: Net, x: Tensor, y: Tensor, batch: int, steps: int) -> float:
    """What most people write."""
    model = made(net)
    optimizer = torch.optim.AdamW(model.parameters())
    batches = iter(DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True))
    start = time.perf_counter()
    for k, (bx, by) in enumerate(batches):
        one(model, optimizer, bx, by)
        if k + 1 == min(steps, len(x) // batch):
            break
    return (time.perf_counter() - start) / (k + 1)


def lightning(net: Net, x: Tensor, y: Tensor, batch: int, steps: int) -> float:
    """A Trainer with all that it writes and shows turned off; from the first step's start to the last one's end."""
    import lightning as L

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.start = made(net), 0.0

        def on_train_start(self) -> None:
            self.start = time.perf_counter()

        def training_step(self, rows: list[Tensor], _: int) -> Tensor:
            return F.cross_entropy(self.net(rows[0]), rows[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

        def on_train_end(self) -> None:
            self.start = time.perf_counter() - self.start

    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, **off)
    module = Module()
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True))
    return module.start / steps


def ours(net: Net, x: Tensor, y: Tensor, batch: int, steps: int) -> float:
    """handful.fit with its history, accuracy, schedule, stop rule and finiteness check; its own clock."""
    given = {"batch": batch, "lr": 1e-3, "until": f"steps({steps})", "augment": None, "precision": "float32"}
    run = handful.fit(made(net), (x, y), valid=None, quiet=True, **given)
    assert run.state is not None
    return run.state.seconds / run.state.step


def optimizer_step(two_groups: bool, direct: bool, steps: int) -> float:
    """The update alone: torch's own `step`, or handful's way to the same kernels."""
    model = made(NETS["mlp"])
    parameters = list(model.parameters())
    groups = [[p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]]
    kept = [{"params": g} for g in (groups if two_groups else [parameters])]
    optimizer = torch.optim.AdamW(kept, fused=True)
    model(torch.ones(1, 784)).sum().backward()
    step = stepper(optimizer) if direct else optimizer.step
    step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def table(title: str, times: dict[str, list[float]]) -> list[str]:
    """Medians over rounds, and the ratio to the first, round by round."""
    floor = next(iter(times.values()))
    lines = [
        "",
        f"| {title} | microseconds, median (min-max) | ratio to the first, median (min-max) |",
        "|---|---|---|",
    ]
    for name, seconds in times.items():
        us = [s * 1e6 for s in seconds]
        ratios = [s / f for s, f in zip(seconds, floor, strict=True)]
        lines.append(
            f"| {name} | {statistics.median(us):.0f} ({min(us):.0f}-{max(us):.0f}) "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batches", default="64,1")
    parser.add_argument("--nets", default="mlp,cnn,gpt")
    parser.add_argument("--processor", action="store_true")
    args = parser.parse_args()
    if args.processor:
        time.perf_counter = time.process_time  # handful's own clock, too
    loops = {"bare torch loop, fused AdamW": bare, "torch DataLoader + AdamW": loader, "handful.fit": ours}
    if find_spec("lightning"):
        loops["Lightning"] = lightning
        warnings.simplefilter("ignore")
    lines = [
        "# Time per step",
        "",
        f"AdamW, float32, {'processor time' if args.processor else 'by the clock'}. {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; {args.rounds} interleaved rounds of "
        f"{args.steps} steps; `python benchmarks/bench_step.py{' --processor' * args.processor}`.",
    ]
    for name in args.nets.split(","):
        net, (x, y) = NETS[name], data(name)
        for batch in [BATCHES[name]] if name in BATCHES else map(int, args.batches.split(",")):
            times: dict[str, list[float]] = {kind: [] for kind in loops}
            for loop in loops.values():
                loop(net, x, y, batch, 20)
            for _ in range(args.rounds):
                for kind, loop in loops.items():
                    times[kind].append(loop(net, x, y, batch, args.steps))
            lines += table(f"a step of the {name} at batch {batch}", times)
    forms = {
        "AdamW.step, one group": (False, False), "AdamW.step, two groups": (True, False),
        "handful, two groups": (True, True),
    }  # fmt: skip
    alone: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(args.rounds):
        for name, form in forms.items():
            alone[name].append(optimizer_step(*form, args.steps))
    lines += table("the update alone", alone)
    text = "\n".join(lines) + "\n"
    print(text)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / f"step{'_processor' * args.processor}.md").write_text(text)


if __name__ == "__main__":
    main()
