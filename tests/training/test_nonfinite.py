"""A loss or gradient that is not finite: stop, skip or go back, as a plain loop of torch does it; runs that diverge."""

import copy
import json
import math
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import handful
from handful.base.errors import HandfulError
from handful.cli.program import app
from handful.training.watch.guards import finite

N, BATCH = 240, 16
X = torch.randn(N, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = (X @ torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]) + 0.1
NAN_ROWS = [7, 100]


def bad_x():
    x = X.clone()
    x[NAN_ROWS, 2] = float("nan")
    return x


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, momentum=0.5), nn.Tanh(), nn.Linear(8, 1)).double()


def cliff(output, target):
    """Squares, infinite beyond a bound: a large rate falls over it, half of it does not."""
    square = (output - target).square()
    return torch.where(square > 30.0, torch.inf, square)


def fit(model, data, **given):
    options = {"batch": BATCH, "lr": 0.05, "optimizer": "momentum", "valid": None, "until": "epochs(3)", "quiet": True,
               "schedule": "constant", "preprocess": None, "loss": "mse", "l2": 0.0, "metrics": None}  # fmt: skip
    return handful.fit(model, data, **options | given)


def plain(x, *, policy, steps, lr=0.05, loss=None, every=5, micro=BATCH, ema=None):
    """Mini-batch gradient descent by torch alone. Returns (model, steps skipped, steps gone back to, average)."""
    model, order = net(), handful.Order(N, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    step, skipped, back = 0, [], []
    average = copy.deepcopy(model.state_dict())

    def kept():
        return step, copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())

    saved = kept()
    while step < steps:
        rows = torch.from_numpy(order[step * BATCH : (step + 1) * BATCH])
        before = copy.deepcopy(model.state_dict())
        optimizer.zero_grad()
        total = 0.0
        for part in rows.split(micro):
            values = (loss or (lambda o, t: (o - t).square()))(model(x[part]), Y[part])
            (values.sum() / BATCH).backward()
            total += float(values.detach().sum())
        ok = math.isfinite(total) and all(torch.isfinite(p.grad).all() for p in model.parameters())
        if ok:
            optimizer.step()
            d = min(ema or 0, (1 + step) / (10 + step))
            for name, value in model.state_dict().items():
                average[name] = average[name] * d + value * (1 - d) if value.is_floating_point() else value.clone()
        else:
            model.load_state_dict(before)
            if policy == "rollback":
                step, weights, state = saved
                model.load_state_dict(weights)
                optimizer.load_state_dict(copy.deepcopy(state))
                back.append(step)
                for group in optimizer.param_groups:
                    group["lr"] = lr * 0.5 ** len(back)
                saved = kept()
                continue
            skipped.append(step + 1)
        step += 1
        if step % every == 0:
            saved = kept()
    return model, skipped, back, average


def same(model, expected):
    for (name, mine), theirs in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12, msg=name)


def notes(run, word):
    return [row["note"] for row in run.history if word in row.get("note", "")]


@pytest.mark.parametrize("given", [{}, {"micro_batch": 6}, {"ema": 0.9}], ids=str)
def test_skip_is_the_plain_loop_that_goes_on(tmp_path, capfd, given):
    x = bad_x()
    plain_given = {"micro": given.get("micro_batch", BATCH), "ema": given.get("ema")}
    run = fit(net(), (x, Y), on_nonfinite="skip", out=tmp_path / "run", quiet=False, **given)
    expected, skipped, _, average = plain(x, policy="skip", steps=45, **plain_given)
    if "ema" in given:
        expected.load_state_dict(average)
    assert len(skipped) == 6  # both rows, three epochs
    same(run.model, expected)
    assert run.state.step == 45
    assert run.exit_status == 0
    said = notes(run, "was skipped")
    assert [int(note.split("step ")[1].split()[0]) for note in said] == skipped
    assert all(any(f"row {row} " in note for row in NAN_ROWS) for note in said)
    assert "column 'x' itself holds NaN" in said[0]
    printed = " ".join("".join(capfd.readouterr()).split())
    assert all(note in printed for note in said)
    assert set(said) <= set(run.plan.notes)
    assert set(said) <= set(handful.load(tmp_path / "run", model=net()).plan.notes)
    in_page = f"T{said[0][1:]}".replace("'", "&#39;")  # a sentence there
    assert in_page in (tmp_path / "run" / "report.html").read_text()


class Root(nn.Module):
    """Its gradient is infinite where its input is 0, and its loss is not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))

    def forward(self, x):
        return (x[:, :1].abs() * self.weight).sqrt()


def test_a_gradient_that_is_not_finite_is_passed_over_too():
    x = X.clone()
    x[50, 0] = 0.0  # sqrt'(0) * 0 is NaN
    y = x[:, :1].abs().sqrt() * 1.1
    stopped = fit(Root(), (x, y), lr=0.01)
    assert "the weights themselves are not finite since an update before" in stopped.stopped_because
    run = fit(Root(), (x, y), lr=0.01, on_nonfinite="skip")
    assert [note.split(":")[1].split(" at ")[0] for note in notes(run, "was skipped")] == [
        " the gradient is not finite"
    ] * 3
    assert torch.isfinite(run.model.weight).all()


@pytest.mark.parametrize("given", [{}, {"micro_batch": 6}, {"ema": 0.9}], ids=str)
@pytest.mark.parametrize("in_folder", [True, False])
def test_rollback_is_the_plain_loop_that_goes_back(tmp_path, given, in_folder):
    lr = 1.5
    expected, _, back, _ = plain(
        X, policy="rollback", steps=45, lr=lr, loss=cliff, micro=given.get("micro_batch", BATCH)
    )
    assert len(back) >= 1
    assert max(back) > 0 or "micro_batch" in given
    given = {"out": tmp_path / "run"} | given if in_folder else given
    run = fit(net(), (X, Y), lr=lr, loss=cliff, on_nonfinite="rollback", save_every=5, **given)
    if "ema" not in given:
        same(run.model, expected)
    assert run.state.went_back == back
    said = notes(run, "the run went back")
    assert [int(note.split("went back to step ")[1].split()[0]) for note in said] == back
    assert said[-1] in run.plan.notes
    steps = [row["step"] for row in run.history if "note" not in row]
    assert steps == sorted(set(steps))  # the rows that were given up are gone
    assert [row["lr"] for row in run.history if "note" not in row][-1] == lr * 0.5 ** len(back)
    if in_folder:
        there = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
        assert there == list(run.history)


def weights(path):
    return (path / "model.safetensors").read_bytes(), json.loads((path / "result.json").read_text())["stopped_because"]


def timeless(path):
    rows = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.parametrize(
    ("policy", "x", "given"),
    [
        ("skip", bad_x(), {"save_every": 4, "ema": 0.9, "micro_batch": 6}),
        ("rollback", X, {"save_every": 5, "loss": cliff, "lr": 1.5}),
        ("rollback", X, {"valid": 40, "evaluate_every": 0.3, "loss": cliff, "lr": 1.5}),
    ],
    ids=["skip", "rollback", "rollback at evaluations"],
)
def test_killed_anywhere_it_ends_with_the_same_bits(tmp_path, policy, x, given):
    """The folder as a kill would leave it, after every step; and a run that is interrupted before it goes back."""
    copies = []

    def copied(event, info):
        if event == "step":
            copies.append(tmp_path / f"copy{len(copies)}")
            shutil.copytree(tmp_path / "run", copies[-1])

    given = {"on_nonfinite": policy, "until": "epochs(2)"} | given
    run = fit(net(), (x, Y), out=tmp_path / "run", callbacks=[copied], **given)
    word = "was skipped" if policy == "skip" else "went back"
    assert notes(run, word)
    own = {"loss": cliff} if "loss" in given else {}
    for folder in copies[::3]:
        again = handful.resume(folder, model=net(), train=(x, Y), quiet=True, **own)
        assert weights(folder) == weights(tmp_path / "run"), folder
        assert timeless(folder) == timeless(tmp_path / "run"), folder
        assert again.state.went_back == run.state.went_back
        shutil.rmtree(folder)

    def cut(event, info):
        if event in ("step", "evaluate") and info["step"] in (3, 7, 8, 13, 14):
            raise KeyboardInterrupt

    path = tmp_path / "cut"
    end = fit(net(), (x, Y), out=path, callbacks=[cut], **given)
    for _ in range(40):
        if end.stopped_because != "it was interrupted":
            break
        after = end.state.step
        end = handful.resume(path, model=net(), train=(x, Y), quiet=True,
                             callbacks=[lambda event, info, after=after: cut(event, info) if info.get("step", 0) > after
                                        else None], **own)  # fmt: skip
    assert weights(path) == weights(tmp_path / "run")


def test_where_going_back_or_on_leads_nowhere_the_run_stops_and_says_why(tmp_path):
    run = fit(net(), (bad_x(), Y), on_nonfinite="rollback", out=tmp_path / "run", save_every=2)
    assert "itself holds NaN" in run.stopped_because
    assert (run.exit_status, run.state.went_back) == (3, [])
    always = fit(net(), (X, Y), loss=lambda o, t: torch.where(torch.is_grad_enabled() & (o > -9), torch.inf, o),
                 on_nonfinite="skip")  # fmt: skip
    assert "10 mini-batches in a row had to be skipped" in always.stopped_because
    count = [0]

    def worse(output, target):
        count[0] += torch.is_grad_enabled()
        return (output - target).square() * (torch.inf if count[0] > 20 else 1.0)

    ends = fit(net(), (X, Y), loss=worse, on_nonfinite="rollback", save_every=2)
    assert "the run went back 5 times" in ends.stopped_because
    assert all(torch.isfinite(p).all() for p in ends.model.parameters())
    with pytest.raises(HandfulError, match="on_nonfinite must be 'stop', 'skip', 'rollback', not 'ignore'"):
        fit(net(), (X, Y), on_nonfinite="ignore")


def test_estimators_and_command_line_take_it(tmp_path):
    x = X.float().numpy().copy()
    given = {"batch": 16, "lr": 0.01, "until": "epochs(2)", "options": {"on_nonfinite": "rollback"}}
    model = handful.sklearn.MiniBatchRegressor("linear", **given).fit(x, Y.float().numpy()[:, 0])
    assert model.run_.plan.on_nonfinite == "rollback"
    told = CliRunner().invoke(app, ["train", "iris", "--model", "linear", "--batch", "16", "--lr", "0.01", "--until",
                                    "steps(3)", "--on-nonfinite", "skip", "--out", str(tmp_path / "run")])  # fmt: skip
    assert told.exit_code == 0, told.output
    assert handful.load(tmp_path / "run").plan.on_nonfinite == "skip"


def test_steps_of_a_run_that_skipped_or_went_back_can_be_taken_again(tmp_path):
    x = bad_x()
    run = fit(net(), (x, Y), on_nonfinite="skip", out=tmp_path / "skip", save_every=4, until="epochs(1)")
    skipped = [int(note.split("step ")[1].split()[0]) for note in notes(run, "was skipped")]
    for step in range(1, run.state.step + 1):
        found = run.replay(step)
        assert found.differs is None
        assert (found.problem is not None and "not finite" in found.problem) == (step in skipped)
    back = fit(net(), (X, Y), lr=1.5, loss=cliff, on_nonfinite="rollback", save_every=5, out=tmp_path / "back",
               until="epochs(1)")  # fmt: skip
    assert back.state.went_back
    rows = {row["step"]: row for row in back.history if "note" not in row}
    for step in range(1, back.state.step + 1):
        found = back.replay(step)
        assert (found.differs, found.rate) == (None, rows[step]["lr"])
        assert found.loss == pytest.approx(rows[step]["train_loss"], rel=1e-12)


def test_divergence_is_noticed_once_and_named(tmp_path, capfd):
    y = Y.float()
    model = nn.Linear(5, 1)
    run = handful.fit(model, (X.float(), y), batch=16, lr=0.9, optimizer="sgd", schedule="constant", valid=None,
                      preprocess=None, until="steps(60)", out=tmp_path / "run")  # fmt: skip
    said = notes(run, "training has diverged")
    assert len(said) == 1
    assert "more than 10 times that for 20 logged moments" in said[0]
    assert said[0] in run.plan.notes
    assert "training has diverged" in capfd.readouterr().err
    calm = handful.fit(nn.Linear(5, 1), (X.float(), y), batch=16, lr=0.05, optimizer="sgd", valid=None,
                       preprocess=None, until="steps(60)", quiet=True)  # fmt: skip
    assert not notes(calm, "diverged")


def test_finite_is_of_every_value():
    good = [torch.full((3,), 1e300, dtype=torch.float64), torch.full((2,), 3e38), torch.zeros(0), torch.tensor([1])]
    assert finite(good)
    assert finite([])
    for value in (np.nan, np.inf, -np.inf):
        for at in range(3):
            wrong = torch.zeros(3)
            wrong[at] = value
            assert not finite([*good, wrong])


@pytest.mark.parametrize("save_every", [1, 3])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_weights_that_are_not_finite_are_not_saved_and_the_run_goes_on_from_those_before(tmp_path, save_every, ema):
    """A gradient that is not finite under a finite loss, with "stop": said in the next step, the weights being lost.
    What was saved before is the model, and what a resume begins with."""
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    x[17, 2] = torch.inf  # tanh of it is 1, and its gradient 0 times infinity

    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    given = {"batch": 8, "lr": 0.05, "optimizer": "sgd", "preprocess": None, "valid": None, "until": "epochs(2)",
             "schedule": "constant", "quiet": True, "ema": ema, "save_every": save_every}  # fmt: skip
    run = handful.fit(model(), (x, y), out=tmp_path / "run", **given)
    at = next(i for i in range(8) if 17 in handful.Order(64)[8 * i : 8 * i + 8])  # so many steps went well
    last = at // save_every * save_every
    assert run.exit_status == 3
    assert f"not finite at step {at + 2}, " in run.stopped_because
    assert run.stopped_because.endswith(f"the weights of step {last} are kept, from which it can be gone on with")
    assert np.isfinite(np.asarray(run.predict(x[:5]))).all()
    assert np.isfinite(np.asarray(handful.load(tmp_path / "run", model=model()).predict(x[:5]))).all()
    on = handful.resume(tmp_path / "run", model=model(), train=(x, y), on_nonfinite="skip", quiet=True)
    whole = handful.fit(model(), (x, y), on_nonfinite="skip", **given)
    assert on.exit_status == 0
    assert all(map(torch.equal, on.model.state_dict().values(), whole.model.state_dict().values()))


def test_weights_that_are_infinite_from_the_start_are_saved(tmp_path):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.mask = nn.Parameter(torch.zeros(3, 1)), nn.Parameter(torch.tensor([0.0, -torch.inf]))

        def forward(self, x):
            return x @ self.w * self.mask.softmax(0)[0]

    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    given = {"batch": 8, "lr": 0.1, "optimizer": "sgd", "preprocess": None, "valid": None, "until": "steps(4)",
             "quiet": True, "l2": 0.0}  # fmt: skip
    run = handful.fit(Masked(), (x, x.sum(1, keepdim=True)), out=tmp_path / "run", **given)
    assert run.exit_status == 0
    assert (tmp_path / "run" / "checkpoints" / "000000000004.json").exists()


def test_infinity_in_held_out_rows_is_named_once(tmp_path, capfd):
    x = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    x[77, 1], x[81, 0] = torch.inf, torch.nan
    given = {"batch": 15, "lr": 0.01, "until": "epochs(3)", "preprocess": None}
    source = handful.open((x, y))
    held = (source.subset(np.arange(60)), source.subset(np.arange(60, 90)))
    run = handful.fit(nn.Linear(3, 1), held[0], valid=held[1], out=tmp_path / "run", **given)
    assert run.exit_status == 0
    said = (
        "the held-out loss is not finite: column 'x' holds NaN or infinity in rows 77, 81 of arrays (rows count from 0)"
    )
    assert "".join(capfd.readouterr()).count(said) == 1
    assert [row["note"] for row in run.history if "note" in row] == [said]
    assert run.plan.notes.count(said) == 1
