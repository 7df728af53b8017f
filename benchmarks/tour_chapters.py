"""What `tour.py` measures: a chapter for each claim of the textbook's section on mini-batch gradient descent."""

import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from drawing import Chart, Series, Surface, Words
from scipy.stats import t as student
from sklearn.datasets import load_digits

import handful
from handful.report.words import say_bytes, say_count, say_number, say_seconds, say_share

MLP = "mlp(hidden=[64])"
HOLDS: Words = ("holds", "成立")
FAILS: Words = ("does not hold", "不成立")
OPEN: Words = ("could not be told", "看不出来")


@dataclass
class Chapter:
    """Values by name, in words (one for both languages, or one for each), and charts by name."""

    values: dict[str, str | Words] = field(default_factory=dict)
    charts: dict[str, Chart] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """How much is measured: seeds, a factor of epochs, seconds of each run that is compared at equal time."""

    seeds: int
    length: float
    seconds: float
    data: Path


def spread(values: Sequence[float], say: Callable[[float], str] = say_number) -> str:
    """Mean and 95% interval of the mean over seeds (Student's t): "0.31 ± 0.02"."""
    middle = statistics.fmean(values)
    if len(values) < 2:
        return say(middle)
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{say(middle)} ± {say(half)}"


def verdict(better: Sequence[float], worse: Sequence[float]) -> Words:
    """Whether the pairs (same seed) differ: the 95% interval of their mean difference (lower is better) is below 0."""
    away = [a - b for a, b in zip(better, worse, strict=True)]
    if len(away) < 2:
        return OPEN
    half = float(student.ppf(0.975, len(away) - 1)) * statistics.stdev(away) / math.sqrt(len(away))
    middle = statistics.fmean(away)
    return HOLDS if middle + half < 0 else FAILS if middle - half > 0 else OPEN


def fit(data: object, seed: int, model: object = MLP, **options: object) -> handful.Run:
    """One run, SGD at a constant rate on half of the digits unless told otherwise."""
    usual = {
        "optimizer": "sgd",
        "schedule": "constant",
        "batch": 32,
        "lr": 0.2,
        "valid": 0.5,
        "l2": 0.0,
        "augment": None,
    }
    return handful.fit(model, data, quiet=True, seed=seed, **{**usual, **options})


def last(run: handful.Run, name: str) -> float:
    """The last value of a score that the run has; infinity where it broke off."""
    found = [float(row[name]) for row in run.history if name in row]
    return found[-1] if found and math.isfinite(found[-1]) else math.inf


def grid(
    data: object, size: Size, axis: Sequence[float], name: str, score: str = "valid_loss", **options: object
) -> dict[float, list[float]]:
    """The last score for every value of the option `name`, with every seed; infinity where the run diverged."""
    found: dict[float, list[float]] = {}
    for value in axis:
        for seed in range(size.seeds):
            try:
                end = last(fit(data, seed, **{**options, name: value}), score)
            except handful.HandfulError:  # it diverged
                end = math.inf
            found.setdefault(value, []).append(end)
    return found


def best(found: dict[float, list[float]], lower: bool = True) -> float:
    """The value with the best median."""
    pick = min if lower else max
    return pick(found, key=lambda value: statistics.median(found[value]))


def series(name: Words, found: dict[float, list[float]]) -> Series:
    """Median, lowest and highest over the seeds; what diverged is left out."""
    kept = {x: y for x, y in found.items() if all(map(math.isfinite, y))}
    columns = [[pick(y) for y in kept.values()] for pick in (statistics.median, min, max)]
    return Series(name, list(kept), *columns)


# --- the chapters -----------------------------------------------------------------------------------------------------


def seven_steps(size: Size) -> Chapter:
    """The seven steps as a plain loop, timed one by one; handful's weights after it, to the bit."""
    digits = load_digits()
    x, y = torch.from_numpy((digits.data / 16).astype(np.float32)), torch.from_numpy(digits.target)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    start = {k: v.clone() for k, v in model.state_dict().items()}
    sgd, order, times = torch.optim.SGD(model.parameters(), lr=0.1), handful.Order(len(x), seed=3), []
    for step in range(300):
        clock = [time.perf_counter()]
        rows = torch.from_numpy(order[step * 32 : (step + 1) * 32])
        bx, by = x[rows], y[rows]
        clock.append(time.perf_counter())
        output = model(bx)
        clock.append(time.perf_counter())
        loss = F.cross_entropy(output, by)
        clock.append(time.perf_counter())
        sgd.zero_grad()
        loss.backward()
        clock.append(time.perf_counter())
        sgd.step()
        clock.append(time.perf_counter())
        times.append(np.diff(clock))
    reference = [p.detach().clone() for p in model.parameters()]
    model.load_state_dict(start)
    handful.fit(model, (x, y), valid=None, batch=32, lr=0.1, optimizer="sgd", schedule="constant", l2=0.0, seed=3,
                until="steps(300)", quiet=True)  # fmt: skip
    apart = max(float((a.detach() - b).abs().max()) for a, b in zip(model.parameters(), reference, strict=True))
    middle = np.median(times[50:], axis=0)
    names = ("batch", "forward", "loss", "backward", "update")
    values: dict[str, str | Words] = {f"steps.{n}": say_seconds(m) for n, m in zip(names, middle)}
    values |= {"steps.apart": say_number(apart), "steps.same": HOLDS if apart == 0 else FAILS}
    return Chapter(values | {"steps.whole": say_seconds(middle.sum())})


def cost(size: Size) -> Chapter:
    """Time of one step against the batch, in turn, plain torch."""
    digits = load_digits()
    x = torch.from_numpy((digits.data / 16).astype(np.float32)).repeat(12, 1)[:20000]
    y = torch.from_numpy(digits.target).repeat(12)[:20000]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    sizes = [1, 4, 16, 32, 64, 256, 1024, 4096, 20000]
    times: dict[int, list[float]] = {b: [] for b in sizes}
    for _ in range(max(5, round(60 * size.length))):
        for b in sizes:
            rows = torch.randperm(20000)[:b]
            began = time.perf_counter()
            sgd.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            sgd.step()
            times[b].append(time.perf_counter() - began)
    middle = {b: statistics.median(t) for b, t in times.items()}
    low, high = ([float(np.quantile(times[b], q)) * 1e3 for b in sizes] for q in (0.25, 0.75))
    values: dict[str, str | Words] = {f"cost.{b}": say_seconds(middle[b]) for b in (1, 32, 20000)}
    values |= {
        "cost.ratio": say_number(middle[20000] / middle[32], 2),
        "cost.rows": say_number(20000 / 32),
        "cost.first": say_number(middle[32] / middle[1], 2),
        "cost.row1": say_seconds(middle[1]),
        "cost.row32": say_seconds(middle[32] / 32),
        "cost.row20000": say_seconds(middle[20000] / 20000),
        "cost.holds": HOLDS if middle[32] < 0.5 * middle[20000] else FAILS,
    }
    found = Series(("measured (half of all steps in the shade)", "实测（阴影含一半的步）"), list(map(float, sizes)),
                   [1e3 * middle[b] for b in sizes], low, high)  # fmt: skip
    through = [1e3 * middle[1] * b for b in sizes[:6]]
    straight = Series(
        ("if every row cost as much as one alone", "若每行都与单独一行同价"), list(map(float, sizes[:6])), through
    )
    title = ("One step against the batch size", "一步用时与批量大小")
    return Chapter(values, {"cost": Chart(title, ("rows in the batch", "批量大小（行）"), ("milliseconds", "毫秒"),
                                         [found, straight], log_x=True, log_y=True)})  # fmt: skip


def compared(size: Size) -> Chapter:
    """handful.compare at equal time: time to a loss, the variance of gradients, memory, the paths."""
    c = handful.compare(MLP, "digits", [1, 32, 256, "full"], epochs=10_000, seconds=size.seconds, budget=None,
                        seeds=max(3, size.seeds) if size.length >= 1 else 2, valid=0.5, quiet=True)  # fmt: skip
    rows = {str(row["method"]): row for row in c.table}
    title = {"1 row": ("1 row", "1 行"), "32 rows": ("32 rows", "32 行"), "256 rows": ("256 rows", "256 行"),
             "full batch": ("full batch", "全批量")}  # fmt: skip
    keys = {"1 row": "1", "32 rows": "32", "256 rows": "256", "full batch": "full"}
    values: dict[str, str | Words] = {
        "compare.target": say_number(c.target.value),
        "compare.seconds": say_seconds(size.seconds),
    }
    for name, row in rows.items():
        k = keys[name]
        reached = (f"{row['reached']} of {row['seeds']} seeds", f"{row['seeds']} 个种子中 {row['reached']} 个达到")
        values[f"compare.time.{k}"] = say_seconds(row["target_seconds"]) if "target_seconds" in row else reached
        values[f"compare.steps.{k}"] = say_count(row["target_steps"]) if "target_steps" in row else ("–", "–")
        values[f"compare.step.{k}"] = say_seconds(row["step_seconds"])
        values[f"compare.lr.{k}"] = say_number(row["lr"], 2)
        for key, score in (("loss", "train_loss"), ("held", "valid_loss")):
            middle, low, high = (say_number(row[f"{score}{end}"]) for end in ("", "_low", "_high"))
            values[f"compare.{key}.{k}"] = f"{middle} ({low} – {high})"
        values[f"compare.memory.{k}"] = say_bytes(row["saved_bytes"])
        values[f"compare.noise.{k}"] = say_number(row["gradient_deviation"], 2)
    values["compare.fixed"] = say_bytes(rows["full batch"]["fixed_bytes"])
    values["compare.memory.ratio"] = say_number(
        float(rows["full batch"]["saved_bytes"]) / float(rows["32 rows"]["saved_bytes"]), 2
    )
    law = c.variance[0]
    values |= {
        "noise.slope": f"{law.slope:.2f}".replace("-", "−"), "noise.low": f"{law.low:.2f}".replace("-", "−"),
        "noise.high": f"{law.high:.2f}".replace("-", "−"), "noise.holds": HOLDS if law.low < -0.9 else FAILS,
        "noise.gain": say_number(1 / float(rows["32 rows"]["gradient_deviation"]), 2),
    }  # fmt: skip

    def ordered(a: str, b: str) -> Words:
        """Whether every seed of a is quicker to the target than every seed of b."""
        if "target_seconds" not in rows[a]:
            return FAILS if "target_seconds" in rows[b] else OPEN
        if "target_seconds" not in rows[b] or float(rows[a]["target_seconds_high"]) < float(
            rows[b]["target_seconds_low"]
        ):
            return HOLDS
        return FAILS if float(rows[a]["target_seconds_low"]) > float(rows[b]["target_seconds_high"]) else OPEN

    values |= {"compare.beats.full": ordered("32 rows", "full batch"), "compare.beats.1": ordered("32 rows", "1 row")}
    charts = {"curves": _curves(c, title), "variance": _variance(law), "cloud": _cloud(law)}
    if c.surface is not None:
        values["paths.share"] = say_share(sum(c.surface.shares))
        paths = []
        for p in c.surface.paths:
            en, zh = title[p.name]
            took = f"{say_count(p.steps[-1])}", say_seconds(p.seconds[-1]), say_number(p.loss[-1])
            words = (f"{en}: {took[0]} steps, loss {took[2]}", f"{zh}：{took[0]} 步，损失 {took[2]}")
            paths.append(Series(words, p.x.tolist(), p.y.tolist()))
        edges = [(float(side[0]), float(side[-1])) for side in (c.surface.x, c.surface.y)]
        surface = Surface(edges[0], edges[1], c.surface.z.tolist())
        heading = ("Three ways down the loss, from the same weights, in equal time", "同一起点、同样时间，三条下降的路")
        charts["paths"] = Chart(heading, ("principal direction 1", "主方向 1"), ("principal direction 2", "主方向 2"),
                                paths, surface=surface)  # fmt: skip
    return Chapter(values, charts)


def _curves(c: object, title: dict[str, Words]) -> Chart:
    from handful.compare.findings import group
    from handful.compare.page import spread_curve

    lines = []
    for method, runs in group(c.runs).items():  # type: ignore[attr-defined]
        x, y = spread_curve(runs, "train_loss", "seconds")
        lines.append(
            Series(title[method.name], x.tolist(), np.median(y, 0).tolist(), y.min(0).tolist(), y.max(0).tolist())
        )
    heading = (
        "Training loss against time (shade: lowest to highest seed)",
        "训练损失与时间（阴影：各种子的最低到最高）",
    )
    return Chart(heading, ("seconds", "秒"), ("training loss", "训练损失"), lines, log_x=True, log_y=True)


def _variance(law: object) -> Chart:
    points = law.points  # type: ignore[attr-defined]
    x = [float(p.batch) for p in points]
    predicted = [float(law.predicted(b)) for b in x]  # type: ignore[attr-defined]
    heading = ("Variance of the mini-batch gradient", "小批量梯度的方差")
    return Chart(
        heading, ("rows in the batch", "批量大小（行）"), ("mean square from the full one", "到全批量梯度的均方距离"),
        [Series(("measured", "实测"), x, [p.variance for p in points], points=True),
         Series(("1/B, drawn without repeats (not fitted)", "1/B（不放回抽样；非拟合）"), x, predicted)],
        log_x=True, log_y=True,
    )  # fmt: skip


def _cloud(law: object) -> Chart:
    clouds = law.clouds  # type: ignore[attr-defined]
    drawn = []
    for b in (1, 32, 256):
        words = ("1 row", "1 行") if b == 1 else (f"{b} rows", f"{b} 行")
        drawn.append(Series(words, *map(list, zip(*clouds[b])), points=True))
    drawn.append(Series(("all rows", "全部行"), [1.0], [0.0], points=True))
    heading = ("Gradients of mini-batches around the full one, at (1, 0)", "小批量梯度围绕全批量梯度 (1, 0)")
    return Chart(heading, ("along the full gradient", "沿全批量梯度方向"), ("across it", "垂直方向"), drawn)


def exact_parts(size: Size) -> Chapter:
    """The update of 256 rows, whole and in parts of 16, in float64."""
    ends = []
    for micro in (256, 16):
        run = fit("digits", 0, batch=256, micro_batch=micro, precision="float64", until="steps(20)")
        ends.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    apart = float((ends[0] - ends[1]).abs().max() / ends[0].abs().max())
    return Chapter({"memory.parts": f"{apart:.0e}", "memory.exact": HOLDS if apart < 1e-12 else FAILS})


def generalisation(size: Size) -> Chapter:
    """Held-out error at the same training loss, small and full batches, each at one rate."""
    errors: dict[int | str, list[float]] = {}
    gaps: dict[int | str, list[float]] = {}
    for batch, rate in ((4, 0.05), (32, 0.2), ("full", 0.7)):
        for seed in range(2 * size.seeds):
            run = fit("digits", seed, batch=batch, lr=rate, valid=0.75, until="epochs(2500) | loss_below(0.03)")
            errors.setdefault(batch, []).append(1 - last(run, "valid_accuracy"))
            gaps.setdefault(batch, []).append(last(run, "valid_loss"))
    values: dict[str, str | Words] = {}
    for batch in errors:
        values[f"general.error.{batch}"] = spread(errors[batch], say_share)
        values[f"general.loss.{batch}"] = spread(gaps[batch])
    values["general.holds"] = verdict(errors[4], errors["full"])
    values["general.loss.holds"] = verdict(gaps[4], gaps["full"])
    values["general.seeds"] = str(2 * size.seeds)
    return Chapter(values)


def choosing(size: Size) -> Chapter:
    """What handful advises on this machine."""
    advice = handful.advise(MLP, "digits", until="epochs(40)", optimizer="sgd")
    noise = advice.noise_scale
    value = noise.value if noise is not None and noise.value is not None else math.nan
    status = {"measured": ("measured", "实测"), "bounded": ("bounded", "有界")}.get(
        advice.reasons["batch"].status, ("a stated default", "默认值")
    )
    values = {"choose.batch": say_number(advice.batch), "choose.noise": say_number(value, 2)}
    return Chapter(values | {"choose.status": status, "choose.lr": say_number(advice.lr, 2)})


def rates(size: Size) -> Chapter:
    """Loss against the rate for four optimizers; a constant rate against decaying ones."""
    axis = [10.0**k for k in np.arange(-3.5, 0.6, 0.5)]
    epochs = max(2, round(6 * size.length))
    given = {"until": f"epochs({epochs})"}
    words = {"sgd": "SGD", "momentum": "momentum", "rmsprop": "RMSprop", "adam": "Adam"}
    zh = {"momentum": "动量法"}
    found = {name: grid("digits", size, axis, "lr", optimizer=name, **given) for name in words}
    lines = [series((words[n], zh.get(n, words[n])), found[n]) for n in found]
    low = {n: best(f) for n, f in found.items()}
    values: dict[str, str | Words] = {"rate.epochs": str(epochs)}
    for n in found:
        middle = {v: statistics.median(y) for v, y in found[n].items()}
        good = [v for v in axis if middle[v] < 2 * middle[low[n]]]
        values |= {f"rate.best.{n}": spread(found[n][low[n]]), f"rate.at.{n}": say_number(low[n], 2),
                   f"rate.width.{n}": say_number(max(good) / min(good), 2)}  # fmt: skip
    values["rate.small"] = say_number(statistics.median(found["sgd"][axis[0]]))
    values["rate.large"] = say_number(statistics.median(found["sgd"][axis[-1]]))
    values["rate.adam.holds"] = verdict(found["adam"][low["adam"]], found["momentum"][low["momentum"]])
    values["rate.rms.holds"] = verdict(found["rmsprop"][low["rmsprop"]], found["momentum"][low["momentum"]])
    values["rate.adam.sgd"] = verdict(found["adam"][low["adam"]], found["sgd"][low["sgd"]])
    heading = ("Held-out loss after training, against the learning rate", "训练后的验证损失与学习率")
    charts = {
        "rates": Chart(
            heading, ("learning rate", "学习率"), ("held-out loss", "验证损失"), lines, log_x=True, log_y=True
        )
    }
    shapes = {
        "constant": ("constant", "固定"),
        "step(every=3, factor=0.3)": ("steps", "阶梯衰减"),
        "cosine": ("cosine", "余弦衰减"),
    }
    decays: dict[str, dict[float, list[float]]] = {}
    near = [0.1, 0.3, 1.0]
    for shape in shapes:
        decays[shape] = grid("digits", size, near, "lr", schedule=shape, batch=8, **given)
    for shape, (key, _) in shapes.items():
        for rate in near:
            ends = decays[shape][rate]
            values[f"decay.{key}.{rate:g}"] = spread(ends) if all(map(math.isfinite, ends)) else ("diverges", "发散")
    for rate in near:
        pair = decays["cosine"][rate], decays["constant"][rate]
        values[f"decay.holds.{rate:g}"] = verdict(*pair) if all(map(math.isfinite, itertools.chain(*pair))) else OPEN
    return Chapter(values, charts)


def normalising(size: Size) -> Chapter:
    """Wine, whose columns differ by a factor of a thousand, and digits, whose pixels do not."""
    axis = [10.0**k for k in np.arange(-4.5, 0.1, 0.5)]
    values: dict[str, str | Words] = {}
    lines = []
    for data, key, name in (("wine", "wine", ("wine", "葡萄酒")), ("digits", "digits", ("digits", "手写数字"))):
        ends = {}
        for step, words in ((None, ("as it is", "原样")), ("standardize", ("standardised", "标准化"))):
            epochs = max(2, round((20 if data == "wine" else 5) * size.length))
            options = {"preprocess": step, "batch": 16, "until": f"epochs({epochs})"}
            found = grid(data, size, axis, "lr", **options)
            rate = best(found)
            ends[words[0]] = found[rate]
            values |= {f"norm.{key}.{'raw' if step is None else 'std'}": spread(found[rate]),
                       f"norm.{key}.{'raw' if step is None else 'std'}.lr": say_number(rate, 2)}  # fmt: skip
            lines.append(series((f"{name[0]}, {words[0]}", f"{name[1]}，{words[1]}"), found))
        values[f"norm.{key}.holds"] = verdict(ends["standardised"], ends["as it is"])
    heading = ("Held-out loss, with and without normalising", "归一化前后的验证损失")
    axes = ("learning rate", "学习率"), ("held-out loss", "验证损失")
    return Chapter(values, {"normalising": Chart(heading, *axes, lines, log_x=True, log_y=True)})


def augmentation(size: Size) -> Chapter:
    """Shifts that keep a digit what it is, and mirror images that do not, on 180 rows."""
    found: dict[str, list[float]] = {}
    until = f"epochs({max(4, round(30 * size.length))})"
    for name, augment in (("none", None), ("shift", "shift(1)"), ("flip", "flip")):
        for seed in range(size.seeds):
            run = fit(
                "digits", seed, "cnn", valid=0.9, augment=augment, batch=16, lr=0.003, optimizer="adam", until=until
            )
            found.setdefault(name, []).append(1 - last(run, "valid_accuracy"))
    values: dict[str, str | Words] = {f"augment.{name}": spread(v, say_share) for name, v in found.items()}
    values |= {f"augment.{name}.holds": verdict(found[name], found["none"]) for name in ("shift", "flip")}
    return Chapter(values)


def penalties(size: Size) -> Chapter:
    """L1 and L2 on 180 rows: held-out loss, size of the weights, and how many are nearly zero."""
    axis = [0.0, 3e-4, 1e-3, 3e-3, 1e-2]
    values: dict[str, str | Words] = {}
    lines = []
    until = f"epochs({max(4, round(60 * size.length))})"
    for kind in ("l1", "l2"):
        losses: dict[float, list[float]] = {}
        small: dict[float, list[float]] = {}
        zero: dict[float, list[float]] = {}
        norms: dict[float, list[float]] = {}
        for value in axis:
            for seed in range(size.seeds):
                run = fit("digits", seed, valid=0.9, batch=16, until=until, **{kind: value})
                weights = torch.cat([p.detach().flatten() for p in run.model.parameters() if p.ndim > 1])
                losses.setdefault(value, []).append(last(run, "valid_loss"))
                small.setdefault(value, []).append(float((weights.abs() < 1e-2).float().mean()))
                zero.setdefault(value, []).append(float((weights == 0).float().mean()))
                norms.setdefault(value, []).append(float(weights.norm()))
        top = best({v: y for v, y in losses.items() if v > 0})
        values |= {
            f"{kind}.none": spread(losses[0.0]), f"{kind}.best": spread(losses[top]), f"{kind}.at": say_number(top),
            f"{kind}.holds": verdict(losses[top], losses[0.0]),
            f"{kind}.small.none": say_share(statistics.fmean(small[0.0])),
            f"{kind}.small": say_share(statistics.fmean(small[top])),
            f"{kind}.zero": say_share(statistics.fmean(zero[top])),
            f"{kind}.norm.none": say_number(statistics.fmean(norms[0.0])),
            f"{kind}.norm": say_number(statistics.fmean(norms[top])),
            f"{kind}.large": spread(losses[axis[-1]]),
        }  # fmt: skip
        shown = {max(v, 1e-4): y for v, y in losses.items()}
        lines.append(series((kind.upper(), kind.upper()), shown))
    heading = (
        "Held-out loss against the penalty (left end: none), 179 training rows",
        "验证损失与正则化系数（最左：无），179 行训练数据",
    )
    chart = Chart(heading, ("penalty", "正则化系数"), ("held-out loss", "验证损失"), lines, log_x=True, log_y=True)
    return Chapter(values, {"penalties": chart})


FIELDS = {  # file, model, rows (of a text characters), score, seconds of a run
    "pictures": ("cifar10-train.parquet", "cnn", 4000, "valid_accuracy", 12),
    "text": ("movie-reviews.csv", "auto", 4000, "valid_accuracy", 6),
    "language": ("shakespeare.txt", "language(width=64, layers=2)", 200_000, "valid_loss", 25),
    "speech": ("spoken-digits.zip", "auto", None, "valid_accuracy", 12),
}


def fields(size: Size) -> Chapter:
    """Pictures, text, language and speech: one row, 32 rows and all rows, at equal time, in turn within each seed."""
    values: dict[str, str | Words] = {}
    for name, (file, model, rows, score, seconds) in FIELDS.items():
        if not (size.data / file).exists():
            print(f"fields: left as it was, {size.data / file} is not there")
            return Chapter({})
        limit = seconds * size.length
        values[f"fields.{name}.seconds"] = say_seconds(limit)
        source = handful.open(size.data / file)
        if name == "language":
            with tempfile.TemporaryDirectory() as folder:
                part = Path(folder) / file
                part.write_text((size.data / file).read_text(encoding="utf-8")[:rows], encoding="utf-8")
                source = handful.open(part)
        elif rows is not None:
            source = source.subset(np.sort(handful.Order(len(source), seed=1)[:rows]))
        ends: dict[int | str, list[float]] = {}
        steps: dict[int | str, list[int]] = {}
        for seed in range(2 if size.length >= 1 else 1):
            for batch, rate in ((1, 2e-4), (32, 1e-3), ("full", 5e-3)):
                options = {"batch": batch, "lr": rate, "until": f"seconds({limit:g})", "augment": None}
                options |= {"micro_batch": 256} if batch == "full" else {}  # all of Shakespeare takes 24 GB at once
                run = handful.fit(
                    model, source, optimizer="adam", schedule="constant", seed=seed, quiet=True, **options
                )
                ends.setdefault(batch, []).append(float(run.scores[score]))
                steps.setdefault(batch, []).append(int(run.history[-1]["step"]))
                print(name, batch, ends[batch][-1], "steps", steps[batch][-1], flush=True)
        say = say_share if score.endswith("accuracy") else say_number
        for batch, found in ends.items():
            values[f"fields.{name}.{batch}"] = " / ".join(say(v) for v in sorted(found))
            values[f"fields.{name}.steps.{batch}"] = " / ".join(f"{n:,}" for n in sorted(steps[batch]))
    return Chapter(values)


_ALL = (
    seven_steps, cost, compared, exact_parts, generalisation, choosing, rates, normalising, augmentation, penalties,
    fields,
)  # fmt: skip
CHAPTERS: dict[str, Callable[[Size], Chapter]] = {chapter.__name__: chapter for chapter in _ALL}
