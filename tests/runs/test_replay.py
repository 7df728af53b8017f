"""A step taken again is the run's own to the bit; two runs are told apart."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from pyarrow import parquet
from torch import Tensor, nn
from typer.testing import CliRunner

import handful
from handful import replay
from handful.base import files
from handful.base.plan import Row
from handful.cli.program import app
from handful.data.base import Batch
from handful.plan import build
from handful.plan.probe import batch_growth, decide, steps
from handful.runs.diff import diff
from handful.runs.judge.examples import pictures_of
from handful.runs.replay import find
from handful.runs.run import Run
from handful.training.process import checkpoint
from handful.training.special.own_step import OwnStep
from handful.training.step import ExactGradient
from handful.training.training import Training
from handful.training.watch.weights import copy_weights

Truth = dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]]


class Recorder:
    """Weights before and gradients of every step, taken down while the run goes on."""

    def __init__(self) -> None:
        self.before: dict[int, dict[str, Tensor]] = {}
        self.gradients: dict[int, dict[str, Tensor]] = {}
        self.loss: dict[int, float] = {}

    def __call__(self, event: str, info: dict[str, object]) -> None:
        if event == "start":
            self.t = info["training"]
        elif event in ("step", "evaluate"):
            step, model = self.t.state.step, self.t.state.model
            self.gradients[step] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        if event in ("start", "step"):
            model, step = self.t.state.model, self.t.state.step
            self.before[step + 1] = {n: v.detach().clone() for n, v in model.state_dict().items()}


def check(record: Recorder, run: Run, *, gradients: bool = True, **again: object) -> None:
    """gradients: what the run leaves in .grad is the loss's own gradient, without penalties and clipping."""
    assert run.path is not None
    assert run.state is not None
    first = min(int(p.stem) for p in (run.path / "checkpoints").glob("*.json")) + 1
    last = run.state.step
    before = sorted(p.read_bytes() for p in run.path.rglob("*") if p.is_file())
    for step in {first, first + 1, (first + last) // 2, last - 1, last}:
        found = replay(run.path, step, **again)  # type: ignore[arg-type]
        assert found.step == step
        assert found.differs is None
        assert found.problem is None
        state = found.model.state_dict()
        assert all(torch.equal(state[n], v) for n, v in record.before[step].items()), step
        for layer in found.layers:
            name = layer["parameter"]
            if gradients:
                assert layer["norm of gradient"] == float(record.gradients[step][name].norm()), step
            if step < last:
                moved = record.before[step + 1][name] - record.before[step][name]
                assert layer["norm of update"] == float(moved.norm()), step
    assert sorted(p.read_bytes() for p in run.path.rglob("*") if p.is_file()) == before  # nothing was written


def arrays(n: int = 90) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, 8, 8, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def network() -> nn.Module:
    """With dropout and running statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 3)
        )  # fmt: skip


def every_step(record: Recorder, run: Run, steps: Iterable[int] = ()) -> None:
    """Weights before, and the update of, every step of the run (of some steps) are those of the run."""
    assert run.state is not None
    for step in steps or range(1, run.state.step + 1):
        found = run.replay(step)
        assert (found.differs, found.problem) == (None, None), step
        weights = found.model.state_dict()
        assert all(torch.equal(weights[n], v) for n, v in record.before[step].items()), step
        for layer in found.layers if step < run.state.step else []:
            name = layer["parameter"]
            moved = record.before[step + 1][name] - record.before[step][name]
            assert layer.get("norm of update", 0.0) == float(moved.norm()), (step, name)


ALL = {"batch": 8, "lr": 0.01, "ema": 0.9, "augment": "shift(1)", "valid": 0.2, "save_every": 7, "quiet": True}


@pytest.mark.parametrize(
    "given",
    [
        {"batch_growth": "grow_batch(every=1)"}, {"schedule": "on_plateau(patience=1)", "evaluate_every": "auto"},
        {"optimizer": "lbfgs", "batch": 24}, {"optimizer": "muon", "micro_batch": 3, "augment": "mixup(0.3)"},
        {"optimizer": "momentum", "clip_norm": 0.5, "l1": 1e-4, "ema": None},
    ],
    ids=str,
)  # fmt: skip
def test_every_step_is_the_runs_own(tmp_path: Path, given: dict[str, Any]) -> None:
    record = Recorder()
    options = ALL | {"until": "epochs(2)"} | given
    run = handful.fit(network(), arrays(), out=tmp_path / "run", callbacks=[record], **options)
    assert "batch_growth" not in given or {row["batch"] for row in run.history} > {8}
    every_step(record, run)


class BodyAndHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def in_two(model: nn.Module, batch: Batch, step: OwnStep) -> None:
    """Each part of the model by its own optimizer, one of them every other step, with noise of the step's own."""

    def loss(part: Batch) -> Tensor:
        seen = part.tensor("x") + 0.1 * step.normal(part, 6)
        return nn.functional.cross_entropy(model(seen), part.tensor("y"), reduction="none")

    step.minimise(loss, "body")
    if step.number % 2:
        step.minimise(loss, "head")


TWO = {"body": "adam", "head": "momentum"}
OWN = {"training_step": in_two, "loss": "cross_entropy", "optimizer": TWO, "augment": "noise(0.1)"}


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("table(dropout=0.2)", {"batch_growth": "grow_batch(every=0.3)"}),
        ("body and head", OWN | {"micro_batch": 3, "batch_growth": "grow_batch(every=0.3)"}),
        ("body and head", {"optimizer": {"body.*": "muon", "*": "adamw"}, "augment": "mixup(0.3)"}),
        ("body and head", {"lr": {"head": 0.1, "*": 0.01}, "schedule": {"body": "frozen(until=0.3)", "*": "cosine"}}),
    ],
    ids=["members", "own step", "two optimizers", "two rates"],
)
def test_every_step_of_many_members_optimizers_and_own_steps(tmp_path: Path, model: str, given: dict[str, Any]) -> None:
    record, rng = Recorder(), np.random.default_rng(0)
    x, y = rng.normal(size=(60, 6)).astype(np.float32), rng.integers(0, 3, 60)
    data: Any = (x, y)
    if model.startswith("table"):
        data = tmp_path / "t.csv"
        rows = (f"{a:.3f},{b:.3f},{'uvw'[k % 3]},{'pqr'[k]}" for (a, b, *_), k in zip(x, y.tolist(), strict=True))
        data.write_text("\n".join(["a,b,c,label", *rows]) + "\n")
    torch.manual_seed(0)
    net = model if model.startswith("table") else BodyAndHead()
    options: dict[str, Any] = ALL | {"until": "steps(9)", "save_every": 4, "augment": None} | given
    run = handful.fit(net, data, out=tmp_path / "run", callbacks=[record], **options)
    assert "batch_growth" not in given or {row["batch"] for row in run.history} > {8}
    every_step(record, run)


def test_every_step_of_a_batch_that_grows_by_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_growth, "PROBING", 0.6)
    monkeypatch.setattr(batch_growth, "BRANCH", 0.01)
    monkeypatch.setattr(batch_growth, "STEPS", 2)
    record, rng = Recorder(), np.random.default_rng(0)
    y = rng.integers(0, 2, 2000)
    x = (rng.normal(0, 2.0, (2000, 8)) + y[:, None]).astype(np.float32)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.Linear(8, 2))
    run = handful.fit(net, (x, y), out=tmp_path / "run", callbacks=[record], batch=16, lr=0.01, ema=0.9, quiet=True,
                      batch_growth="growth(at_most=64, a=0.02, b=1e-05)", until="examples(3600)", augment="noise(0.1)",
                      save_every=30)  # fmt: skip
    assert run.state is not None
    grown = [row["step"] for row in run.history if "->" in row.get("note", "")]
    assert grown
    every_step(record, run, [1, run.state.step, *(step + k for step in grown for k in (0, 1, 2))])


def test_a_replay_costs_at_most_the_steps_since_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    parts = ExactGradient.parts

    def counted(self: ExactGradient, batch: Any) -> Any:
        taken.append(self.step + 1)
        return parts(self, batch)

    run = handful.fit("linear", "iris", batch=16, lr=0.01, until="steps(25)", out=tmp_path / "run", save_every=10,
                      quiet=True)  # fmt: skip
    assert sorted(int(p.stem) for p in (tmp_path / "run" / "checkpoints").glob("*.json")) == [0, 20, 25]
    monkeypatch.setattr(ExactGradient, "parts", counted)
    for step, first in ((1, 1), (9, 1), (20, 1), (21, 21), (24, 21), (25, 21)):
        taken.clear()
        assert run.replay(step).differs is None
        assert taken == list(range(first, step + 1))


def test_dropout_average_and_micro_batches(tmp_path: Path) -> None:
    record = Recorder()
    run = handful.fit(
        "mlp(hidden=[16], dropout=0.3)", "wine", batch=32, micro_batch=10, lr=1e-2, ema=0.9, clip_norm=1.0, l1=1e-4,
        until="epochs(5)", out=tmp_path / "run", save_every=9, quiet=True, callbacks=[record],
    )  # fmt: skip
    check(record, run, gradients=False)


def test_augmentation_and_batch_statistics(tmp_path: Path) -> None:
    record = Recorder()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 1, 8, 8, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    run = handful.fit(
        model, (x, y), batch=16, lr=1e-2, augment="shift(1)", optimizer="momentum", until="steps(12)",
        out=tmp_path / "run", save_every=5, quiet=True, callbacks=[record],
    )  # fmt: skip
    weights = {n: v.clone() for n, v in model.state_dict().items()}
    check(record, run, model=model, train=(x, y))
    assert all(torch.equal(v, weights[n]) for n, v in model.state_dict().items())  # the caller's model is left alone
    found = replay(tmp_path / "run", 8, model=model, train=(x, y))
    assert found.shown.seen is not None
    assert found.shown.seen.shape == (16, 1, 8, 8)


def test_losses_and_rows_are_those_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{i},{rng.normal():.4f},{'ab'[i % 2]}" for i in range(80)]
    rows[37] = "37,9999.0,a"
    (tmp_path / "table.csv").write_text("name,x,y\n" + "\n".join(r.replace(",", "n,", 1) for r in rows) + "\n")
    model = "mlp(hidden=[4], dropout=0.0)"
    handful.fit(
        model,
        tmp_path / "table.csv",
        batch=8,
        lr=1e-2,
        until="epochs(3)",
        out=tmp_path / "run",
        save_every=2,
        quiet=True,
    )
    found = replay(tmp_path / "run", 9)
    assert found.losses is not None
    assert found.losses.mean() == pytest.approx(found.loss, rel=1e-6)
    for row in found.listed():
        cells = rows[row["row"]].split(",")
        assert row["y"] == cells[2]
        assert row["x"] == pytest.approx(float(cells[1]), rel=1e-6)
    page = found.write(tmp_path / "page.html").read_text()
    assert f"Step {found.step}: loss" in page
    assert "step 9" in page
    assert "update / weights" in page


def lines_of(tmp_path: Path, where: Path | str, **given: Any) -> list[Row]:
    """Of a step that holds every row, in the order of the data: where each stands and what it holds."""
    options = {"batch": 40, "lr": 0.01, "valid": None, "until": "steps(1)", "save_every": 1, "quiet": True}
    handful.fit("linear", where, target="y", out=tmp_path / "run", overwrite=True, **options | given)
    found = replay(tmp_path / "run", 1)
    assert found.differs is None
    assert len(found.rows) == 40
    return sorted(found.listed(), key=lambda row: row["row"])


def test_rows_stand_in_a_line_of_a_file(tmp_path: Path) -> None:
    """A title, blank lines, a cell of two lines, semicolons; lines that are left out; the parts of a table; Parquet."""
    rng = np.random.default_rng(0)
    rows = [[f"{v:.3f}" for v in rng.normal(size=2)] + ["ab"[i % 2]] for i in range(40)]
    lines = ["Sales 2024", "a;b;y;t"] + [f'{r[0]};{r[1]};{r[2]};"one{chr(10)}two"' for r in rows]
    lines[20] = f"\n{lines[20]}"
    where = tmp_path / "table.csv"

    def check(found: list[Row], files: dict[str, str]) -> None:
        for row, cells in zip(found, rows, strict=True):
            text = files[row.get("file", where.name)].splitlines()[row["line"] - 1]
            assert cells[0] in text
            assert list(row)[: list(row).index("y") + 1][-1] == "y"  # the target comes first
            assert row["a"] == pytest.approx(float(cells[0]))

    where.write_text("\n".join(lines) + "\n")
    found = lines_of(tmp_path, where)
    check(found, {where.name: where.read_text()})
    assert [row["line"] for row in found[:2]] == [3, 5]
    ragged = ["a,b,y", *[",".join(r) for r in rows]]
    ragged[5:5] = ["1,2", "1,2,3,4"]
    where.write_text("\n".join(ragged) + "\n")
    found = lines_of(tmp_path, where, bad_rows=2)
    check(found, {where.name: where.read_text()})
    assert [row["line"] for row in found[2:6]] == [4, 5, 8, 9]
    objects = [json.dumps({"a": float(r[0]), "b": float(r[1]), "y": r[2]}) for r in rows]
    objects[7:7] = ["[1]", ""]
    (tmp_path / "t.jsonl").write_text("\n".join(objects))
    found = lines_of(tmp_path, tmp_path / "t.jsonl", bad_rows=1)
    assert [row["line"] for row in found[5:9]] == [6, 7, 10, 11]
    files = {}
    for k in range(2):
        files[f"part-{k}.csv"] = "\n".join(["a,b,y", *[",".join(r) for r in rows[20 * k : 20 * k + 20]]]) + "\n"
        (tmp_path / f"part-{k}.csv").write_text(files[f"part-{k}.csv"])
    found = lines_of(tmp_path, str(tmp_path / "part-*.csv"))
    check(found, files)
    assert (found[0]["file"], found[39]["file"], found[39]["line"]) == ("part-0.csv", "part-1.csv", 21)
    table = pa.table({"a": [float(r[0]) for r in rows], "b": [float(r[1]) for r in rows], "y": [r[2] for r in rows]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert not {"file", "line"} & lines_of(tmp_path, tmp_path / "t.parquet")[0].keys()


def test_sounds_and_texts_are_shown_as_the_model_met_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(12):
        path = tmp_path / "sounds" / "ab"[k % 2] / f"{k:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.normal(size=1600), 8000, subtype="PCM_16")
    options = {"batch": 8, "lr": 0.01, "valid": None, "until": "steps(2)", "save_every": 1, "quiet": True}
    handful.fit("audio", tmp_path / "sounds", out=tmp_path / "heard", **options)
    found = replay(tmp_path / "heard", 2)
    highest = found.listed()[0]
    samples, _ = soundfile.read(tmp_path / "sounds" / str(highest["file"]), dtype="int16")
    heard = np.frombuffer(found.shown.sounds[0][44:], "<i2")
    np.testing.assert_allclose(heard, samples, atol=1)
    assert found.shown.seen is not None
    assert found.shown.seen.shape[0] == 8
    page = found.write(tmp_path / "page.html").read_text()
    assert page.count("data:audio/wav") == 8
    assert page.count("data:image/png") == 8

    words = ["sun", "rain", "snow", "wind"]
    rows = [{"text": " ".join(rng.choice(words, 6)), "mood": "ab"[k % 2]} for k in range(40)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    handful.fit(
        "text", tmp_path / "t.jsonl", target="mood", augment="token_dropout(0.5)", out=tmp_path / "read", **options
    )
    found = replay(tmp_path / "read", 2)
    for row in found.listed():
        kept = str(row["as the model saw it"]).split()
        assert row["text"] == rows[row["row"]]["text"]
        assert row["line"] == row["row"] + 1
        whole = str(row["text"]).split()
        assert all(a in ("·", b) for a, b in zip(kept, whole, strict=False))
        assert len(kept) <= len(whole)
    assert "·" in str(found.listed())
    assert "that augmentation dropped" in found.write(tmp_path / "page.html").read_text()

    text = " ".join(rng.choice(words, 400))
    (tmp_path / "novel.txt").write_text(text)
    handful.fit("language", tmp_path / "novel.txt", out=tmp_path / "novel", **options)
    found = replay(tmp_path / "novel", 2)
    assert all(str(row["as the model saw it"]) in text for row in found.listed())


def test_the_step_at_which_a_run_broke_off(tmp_path: Path) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    model, data = nn.Linear(3, 1), (x, x.sum(1, keepdim=True))
    run = handful.fit(
        model, data, batch=8, optimizer="sgd", lr=1e12, schedule="constant", until="steps(50)", valid=None,
        out=tmp_path / "run", save_every=1, quiet=True,
    )  # fmt: skip
    assert run.state is not None
    assert run.state.step < 50
    found = replay(tmp_path / "run", run.state.step + 1, model=model, train=data)
    assert found.problem is not None
    assert "not finite" in found.problem
    assert found.rate is None
    assert found.losses is not None
    assert not np.isfinite(found.losses).all()
    found.show()
    found.write(tmp_path / "page.html")


def test_worst_and_spike(tmp_path: Path) -> None:
    record: list[float] = []
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    y[123] = 500.0
    model = nn.Linear(3, 1)
    run = handful.fit(
        model, (x, y), batch=4, lr=1e-3, preprocess=None, until="epochs(2)", valid=None, out=tmp_path / "run",
        save_every=1, quiet=True, callbacks=[lambda event, info: record.append(info.get("train_loss", 0.0))],
    )  # fmt: skip
    assert "handful replay" in run.report().read_text()
    for which in ("worst", "spike"):
        found = replay(tmp_path / "run", which, model=nn.Linear(3, 1), train=(x, y))  # type: ignore[arg-type]
        assert 123 in found.rows.tolist()
        assert found.listed()[0]["row"] == 123


def test_steps_that_a_run_does_not_have(tmp_path: Path) -> None:
    handful.fit("linear", "iris", batch=32, lr=1e-2, until="steps(6)", out=tmp_path / "run", save_every=3, quiet=True)
    with pytest.raises(handful.HandfulError, match="stopped after step 6 because reached 6 steps; it has no step 7"):
        replay(tmp_path / "run", 7)
    with pytest.raises(handful.HandfulError, match="counted from 1"):
        replay(tmp_path / "run", 0)
    told = CliRunner().invoke(app, ["replay", str(tmp_path / "run"), "--step", "5"])
    assert told.exit_code == 0
    assert "rows, of highest loss first" in told.output
    assert (tmp_path / "run" / "replay-5.html").exists()


def test_a_replay_that_is_not_the_runs_own_says_so(tmp_path: Path) -> None:
    handful.fit("linear", "iris", batch=32, lr=1e-2, until="steps(9)", out=tmp_path / "run", save_every=4, quiet=True)
    path = tmp_path / "run" / "history.jsonl"
    lines = path.read_text().splitlines()
    at = next(k for k, line in enumerate(lines) if json.loads(line)["step"] == 6)
    lines[at] = lines[at].replace('"train_loss": ', '"train_loss": 1')
    path.write_text("\n".join(lines) + "\n")
    result = tmp_path / "run" / "result.json"  # as another machine would have written it
    files.write_json(result, files.read_json(result) | {"history": files.sha256(path)})
    assert "part at step 6" in str(replay(tmp_path / "run", 8).differs)
    assert replay(tmp_path / "run", 6).differs is None


def test_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, options in {"a": {}, "b": {}, "c": {"l1": 0.1}}.items():
        handful.fit(
            "linear",
            "iris",
            batch=32,
            until="steps(6)",
            valid=None,
            lr=0.01,
            out=tmp_path / name,
            quiet=True,
            **options,
        )  # type: ignore[arg-type]
    same = diff(tmp_path / "a", tmp_path / "b")
    assert (same.differing, same.parted, same.shared) == ([], None, 6)
    same.show()
    assert "the same to the bit at all 6" in capsys.readouterr().out
    other = diff(tmp_path / "a", tmp_path / "c")
    assert [row["what"] for row in other.differing] == ["l1"]
    assert other.parted is not None
    assert other.parted[0]["step"] == 2  # step 1 has the same weights and batch
    other.show()
    assert "part at step 2" in capsys.readouterr().out


def test_dark_bytes_are_shown_stretched() -> None:
    digits = Batch({"x": torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)}, np.arange(1))
    shown = pictures_of(digits, "x")
    assert shown is not None
    assert (shown.min(), shown.max()) == (0, 255)
    bright = Batch({"x": torch.full((1, 1, 2, 2), 200, dtype=torch.uint8)}, np.arange(1))
    assert (pictures_of(bright, "x") == 200).all()  # type: ignore[union-attr]


def test_a_run_takes_its_own_steps_again(tmp_path: Path) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    data, out = (x, x.sum(1, keepdim=True)), tmp_path / "run"
    run = handful.fit(
        nn.Linear(3, 1),
        data,
        loss=nn.HuberLoss(),
        batch=8,
        lr=0.01,
        until="steps(9)",
        out=out,
        save_every=4,
        quiet=True,
    )
    kept = {n: v.clone() for n, v in run.model.state_dict().items()}
    found = run.replay(6)
    assert (found.step, found.differs, len(found.rows)) == (6, None, 8)
    assert all(torch.equal(v, kept[n]) for n, v in run.model.state_dict().items())
    loaded = handful.load(out, model=nn.Linear(3, 1), loss=nn.HuberLoss())
    assert loaded.replay(6, train=data).loss == found.loss
    with pytest.raises(handful.HandfulError, match="give fit out="):
        handful.fit("linear", "iris", batch=16, lr=0.01, until="steps(2)", quiet=True).replay(1)


def test_rows_of_a_model_of_several_members_have_losses(tmp_path: Path) -> None:
    handful.fit("table", "wine", batch=16, lr=0.01, until="steps(5)", out=tmp_path / "run", quiet=True)
    found = replay(tmp_path / "run", 4)
    assert found.losses is not None
    assert found.losses.mean() == pytest.approx(found.loss, rel=1e-5)


@pytest.mark.parametrize("until", [pytest.param("epochs(12)", marks=pytest.mark.slow), "steps(900)"])
def test_steps_that_measuring_took_are_the_runs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    """Each branch of a race is taken down: a step taken again stands on the weights of one of them, at its rate, and
    the last leads to the first checkpoint."""
    taken: list[tuple[int, float, dict[str, Tensor], dict[str, Tensor]]] = []
    update = steps.update

    def recorded(t: Training, *given: Any) -> float:
        before = copy_weights(t.objective.model)
        rate = update(t, *given)
        taken.append((t.state.step + 1, rate, before, copy_weights(t.objective.model)))
        return rate

    monkeypatch.setattr(steps, "update", recorded)
    monkeypatch.setattr(decide, "update", recorded)
    monkeypatch.setattr(build, "decide", partial(decide.decide, share=0.05))  # so much that rates race in a short run
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
    run = handful.fit(net, "digits", deterministic=True, until=until, out=tmp_path / "run", quiet=True, ema=0.9,
                      clip_norm=1.0, augment="noise(0.1)", save_every=300)  # fmt: skip
    monkeypatch.undo()
    assert run.history[1]["note"].startswith("the first") or run.history[0]["note"].startswith("the first")
    first = checkpoint.first_step(tmp_path / "run" / "checkpoints")
    assert first > 30
    own = {step: [(rate, b, a) for s, rate, b, a in taken if s == step] for step in range(1, first + 1)}
    assert max(map(len, own.values())) > 1  # there was a race
    before = sorted(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())
    for step in sorted({1, 2, first // 2, *range(first - 3, first + 1)}):
        found = replay(tmp_path / "run", step, model=net)
        assert (found.step, found.differs, found.problem) == (step, None, None)
        weights = found.model.state_dict()
        same = [after for rate, b, after in own[step] if rate == found.rate and same_bits(b, weights)]
        assert same, step
    after = replay(tmp_path / "run", first + 1, model=net)
    assert after.differs is None
    assert any(same_bits(a, after.model.state_dict()) for a in same)
    assert sorted(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()) == before
    start = tmp_path / "run" / "checkpoints" / "start.json"
    meta = files.read_json(start)
    meta["trail"][2][3] += 1e-9
    files.write_json(start, meta)
    assert "part at step 3" in str(replay(tmp_path / "run", 5, model=net).differs)
    start.unlink()
    with pytest.raises(handful.HandfulError, match=r"step 5 cannot be taken again: .* there is no start.json"):
        replay(tmp_path / "run", 5, model=net)


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[n]) for n, v in a.items())


def test_steps_before_the_first_checkpoint_are_refused_in_a_sentence(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 7, {"w": torch.zeros(1)}, {"step": 7})
    with pytest.raises(
        handful.HandfulError, match=r"step 5 cannot be taken again: the first checkpoint .* is of step 7"
    ):
        checkpoint.load(tmp_path, before=5)
    assert checkpoint.load(tmp_path, before=8)[1]["step"] == 7


def test_worst_is_one_of_the_steps_that_can_be_taken_again(tmp_path: Path) -> None:
    rows = [{"step": step, "train_loss": loss} for step, loss in [(2, 9.0), (4, 8.0), (6, 1.0), (8, 2.0), (10, 1.5)]]
    assert find(rows, "worst") == (1, 2)
    assert find(rows, "worst", after=5) == (7, 8)
    assert find(rows, "worst", after=3) == (4, 4)
    with pytest.raises(handful.HandfulError, match="too few logged steps"):
        find(rows, "spike", after=8)
