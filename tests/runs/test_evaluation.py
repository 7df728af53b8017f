"""The evaluation of a run: tables against scikit-learn, the worst rows against a sort, pages that hold them."""

import io
import json
import re
import shlex
from functools import partial

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
)

import handful
from handful.base.errors import HandfulError
from handful.cli.watch import page_of
from handful.report.truth import figure_residuals
from handful.runs.judge import extras
from handful.runs.judge.evaluate import Evaluation
from handful.runs.judge.interval import of_classes, of_numbers
from handful.runs.judge.tally import WORST, row_losses
from handful.training.watch.folder import RunFolder

DIGITS = load_digits()
PICTURES = DIGITS.images.astype(np.uint8)[:, None]


def fit(model, data, **given):
    return handful.fit(model, data, **{"batch": 64, "lr": 0.02, "until": "epochs(2)", "quiet": True, **given})


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    return fit("linear", (PICTURES, DIGITS.target), augment="rotate(10)", out=out, until="epochs(1)")


def test_classes_and_confusion_are_those_of_scikit_learn(digits):
    found = digits.evaluation((PICTURES, DIGITS.target))
    guess = digits.predict({"x": PICTURES})
    np.testing.assert_array_equal(found.confusion, confusion_matrix(DIGITS.target, guess))
    precision, recall, f1, rows = precision_recall_fscore_support(DIGITS.target, guess)
    for name, values in {"precision": precision, "recall": recall, "f1": f1, "rows": rows}.items():
        np.testing.assert_allclose([r[name] for r in found.classes], values)
    assert found.scores == digits.evaluate((PICTURES, DIGITS.target))
    assert found.rows == 1797


def test_worst_rows_are_those_of_highest_loss(digits):
    found = digits.evaluation((PICTURES, DIGITS.target))
    loss = F.cross_entropy(digits.outputs({"x": PICTURES}), torch.from_numpy(DIGITS.target), reduction="none").numpy()
    order = np.argsort(-loss, kind="stable")[:WORST]
    assert [r["row"] for r in found.worst] == order.tolist()
    np.testing.assert_allclose([r["loss"] for r in found.worst], loss[order], rtol=1e-6)
    assert [r["target"] for r in found.worst] == [str(t) for t in DIGITS.target[order]]
    dark = PICTURES[order].astype(float)  # 0 to 16, shown over the whole range
    np.testing.assert_allclose(found.pictures, dark * (255 / dark.max()), atol=1)


def test_page_and_text(digits, tmp_path, capsys):
    path = digits.evaluation_report((PICTURES, DIGITS.target))
    assert path == digits.path / "evaluation.html"
    page = path.read_text(encoding="utf-8")
    assert page.count("data:image/png") == WORST
    assert "Confusion matrix" in page
    assert "Rows of highest loss" in page
    digits.evaluation((PICTURES, DIGITS.target)).show(worst=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("loss ")
    assert lines[1].startswith("accuracy ")
    assert len(lines[lines.index("rows of highest loss:") :]) == 1 + 1 + 3


def test_the_page_of_the_run_has_confusion_and_augmented_pictures(digits):
    found = json.loads((digits.path / "extras.json").read_text())
    counts = np.array(found["confusion"])
    assert counts.sum() == 180  # the held-out rows
    assert np.trace(counts) / 180 == pytest.approx(digits.scores["valid_accuracy"])
    page = (digits.path / "report.html").read_text(encoding="utf-8")
    assert "Confusion matrix" in page
    assert page.count("data:image/png") == 1 + WORST
    with Image.open(digits.path / "augmented.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (5 * 9 + 1, 8 * 9 + 1)
    first = PICTURES[0, 0] * (255 / 16)  # the first line is the pictures as they are, not nearly black
    np.testing.assert_allclose(pixels[1:9, 1:9], first, atol=1)
    assert not np.allclose(pixels[10:18, 1:9], first, atol=1)
    (digits.path / "extras.json").write_text("{")  # damage must not stop the page from being written again
    assert "Confusion" not in handful.load(digits.path, device="cpu").report(digits.path / "again.html").read_text()
    (digits.path / "extras.json").write_text(json.dumps(found))


def test_nothing_that_fails_there_fails_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extras, "augmented", lambda *_: 1 / 0)
    run = fit("linear", "iris", out=tmp_path / "run", batch=16, until="steps(2)", quiet=False)
    assert (tmp_path / "run" / "report.html").exists()
    assert run.stopped_because
    assert "the report lacks a picture: ZeroDivisionError" in capsys.readouterr().err.replace("\n", " ")


def test_regression_shows_residuals_in_the_units_of_the_target(tmp_path):
    x, y = load_diabetes(return_X_y=True)
    run = fit("linear", (x, y), batch=16)
    found = run.evaluation((x, y))
    target, guess = found.residuals
    np.testing.assert_allclose(target[:, 0], y, rtol=1e-6)
    np.testing.assert_allclose(guess[:, 0], run.predict({"x": x}))
    worst = int(np.argmax(np.abs(guess[:, 0] - y)))
    assert found.worst[0]["row"] == worst
    assert found.worst[0]["target"] == y[worst]  # as it was given, not as it was scaled
    assert "Residuals" in run.evaluation_report((x, y), tmp_path / "e.html").read_text(encoding="utf-8")
    assert found.classes == []


def test_worst_rows_of_a_table_and_of_texts_show_what_they_hold(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=80), "town": rng.choice(["Ulm", "<Bern>"], 80)})
    frame["label"] = np.where(frame["size"] > 0, "big", "small")
    run = fit("table", frame, target="label", batch=16)
    first = run.evaluation(frame).worst[0]
    assert first["size"] == pytest.approx(frame["size"][first["row"]])
    assert first["town"] == frame["town"][first["row"]]
    page = run.evaluation_report(frame, tmp_path / "e.html").read_text(encoding="utf-8")
    assert "&lt;Bern&gt;" in page
    assert "<Bern>" not in page


def test_a_column_of_the_users_with_the_name_of_ours_and_one_with_a_unit(tmp_path, capsys):
    x = np.arange(60)
    frame = pd.DataFrame({"loss": 10.0 * x, "far": [f"{k} km" for k in x], "y": x % 2})
    run = fit("linear", frame, target="y", batch=16, until="steps(2)")
    found = run.evaluation(frame)
    first = found.worst[0]
    assert first["column 'loss'"] == 10 * first["row"]
    assert first["loss"] > 0
    found.show(worst=1)
    assert "far (km)" in capsys.readouterr().out


def test_labels_of_a_multilabel_run():
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    y = (x + 0.5 > 0).astype(np.float32)
    run = fit("linear", (x, y), task="multilabel", batch=16)
    found = run.evaluation((x, y))
    precision, recall, f1, _ = precision_recall_fscore_support(y, run.predict({"x": x}))
    np.testing.assert_allclose(
        [[r["precision"], r["recall"], r["f1"]] for r in found.classes], np.c_[precision, recall, f1]
    )
    assert found.confusion is None


def test_other_metrics_and_data_without_target(digits):
    assert set(digits.evaluation((PICTURES, DIGITS.target), "f1").scores) == {"loss", "f1"}
    with pytest.raises(HandfulError, match="target"):
        digits.evaluation({"x": PICTURES})


def test_row_losses_of_every_form_a_loss_returns():
    values = torch.tensor([[1.0, 3.0], [2.0, 0.0]])
    np.testing.assert_array_equal(row_losses(values, 2), [2.0, 1.0])
    counted = torch.tensor([[True, True], [True, False]])
    np.testing.assert_array_equal(row_losses((values, counted), 2), [2.0, 2.0])
    assert row_losses(torch.tensor(1.0), 2) is None
    assert row_losses((torch.tensor(1.0), torch.tensor(2.0)), 2) is None


def test_residual_figure_quantiles_and_mistakes():
    rng = np.random.default_rng(0)
    target = rng.normal(size=5000)
    guess = target + 0.5
    figure = figure_residuals(target, guess)
    assert [row[1] for row in figure.table.rows] == [1000] * 5
    np.testing.assert_allclose([row[2:] for row in figure.table.rows], 0.5)
    assert len(figure.spec["data"][0]["x"]) <= 2000
    assert figure.notes == ["1,667 of 5,000 rows are drawn."]
    with pytest.raises(HandfulError, match="as many targets"):
        figure_residuals([1.0], [1.0, 2.0])
    with pytest.raises(HandfulError, match="at least one"):
        figure_residuals([], [])


def test_calibration_against_a_plain_count(digits):
    """Rows by how sure the model is, and how many of them are right, from the probabilities themselves."""
    found = digits.evaluation((PICTURES, DIGITS.target))
    shares = digits.predict({"x": PICTURES}, probabilities=True).numpy()
    sure, right = shares.max(1), shares.argmax(1) == DIGITS.target
    for k, (rows, total, good) in enumerate(found.calibration):
        there = (sure >= k / 10) & ((sure < (k + 1) / 10) | (k == 9))
        assert (rows, good) == (there.sum(), right[there].sum())
        assert total == pytest.approx(sure[there].sum())
    assert found.worst[0]["probability"] == pytest.approx(sure[found.worst[0]["row"]])


def test_what_a_page_keeps_of_an_evaluation_comes_back(digits):
    found = digits.evaluation((PICTURES, DIGITS.target))
    again = Evaluation.from_json(json.loads(json.dumps(found.as_json())))
    np.testing.assert_array_equal(again.confusion, found.confusion)
    np.testing.assert_array_equal(again.pictures, found.pictures)
    np.testing.assert_allclose(again.calibration, found.calibration)
    assert again.worst == found.worst
    assert again.interval("valid_accuracy") == found.interval("accuracy")


def test_a_regression_shows_predictions_dates_and_blanks_in_the_users_words(tmp_path):
    rng = np.random.default_rng(0)
    days = pd.date_range("2020-01-01", periods=120).astype(str)
    size = rng.normal(size=120)
    frame = pd.DataFrame({"day": days, "size": size, "price": [f"{100 + 10 * s:.2f} €" for s in size]})
    frame.loc[::7, "size"] = np.nan
    frame.to_csv(tmp_path / "prices.csv", index=False)
    fit("linear", tmp_path / "prices.csv", target="price", batch=16, out=tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Predicted price against the true one" in page
    assert "predicted price (\\u20ac)" in page  # as JSON writes it
    assert "target (€)</th>" in page
    assert "2020-0" in page
    assert str(tmp_path) not in page.replace(f"handful train {tmp_path}", "")
    found, _ = extras.read(tmp_path / "run")
    blank = [row for row in found.worst if row["row"] % 7 == 0]
    assert all("size" not in row for row in blank)
    true, guess = found.residuals
    low, high = found.interval("valid_mae")
    assert low < np.abs(true - guess).mean() < high


@pytest.mark.parametrize("name", ["f1", "precision", "recall", "iou", "balanced_accuracy", "mcc"])
def test_the_interval_of_a_score_of_classes_holds_the_score_of_other_such_rows(name):
    """Against scikit-learn: the score itself, and how often the interval of a sample has the score of the whole."""
    of = {
        "iou": partial(jaccard_score, average="macro"),
        "mcc": matthews_corrcoef,
        "balanced_accuracy": balanced_accuracy_score,
        "f1": partial(f1_score, average="macro"),
        "precision": partial(precision_score, average="macro"),
        "recall": partial(recall_score, average="macro"),
    }
    rng = np.random.default_rng(0)
    true = rng.choice(3, 20_000, p=[0.6, 0.3, 0.1])
    guess = np.where(rng.random(20_000) < 0.8, true, rng.integers(0, 3, 20_000))
    whole, held = of[name](true, guess), 0
    for _ in range(40):
        rows = rng.choice(20_000, 300)
        found, low, high = of_classes(name, confusion_matrix(true[rows], guess[rows]))
        assert found == pytest.approx(of[name](true[rows], guess[rows]))
        held += low <= whole <= high
    assert 33 <= held <= 40  # 95% of 40 are 38


def test_there_is_no_interval_where_samples_of_the_rows_tell_nothing():
    few, right = np.array([[3, 1], [0, 3]]), np.diag([30, 30])
    for name in ("f1", "mcc", "balanced_accuracy"):
        assert of_classes(name, few) is None
        assert of_classes(name, right) is None
    assert of_classes("accuracy", right)[1] < 0.95  # Wilson's holds there, too
    numbers = np.arange(30.0)
    assert of_numbers("r2", numbers[:2], numbers[:2]) is None
    assert of_numbers("r2", np.ones(30), numbers) is None  # a target that does not vary has no R²
    assert of_numbers("mae", numbers, numbers) is None
    assert of_numbers("mae", numbers, numbers[::-1]) is not None


def test_a_score_over_classes_has_its_interval_in_the_report_and_one_of_weighted_rows_none(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3)).astype(np.float32)
    frame = pd.DataFrame(x, columns=list("abc")).assign(y=np.where(x[:, 0] + rng.normal(size=600) > 0.8, "yes", "no"))
    given = {"target": "y", "valid": frame, "metrics": ["f1"], "score": "valid_f1"}
    run = fit("linear", frame, out=tmp_path / "run", **given)
    found = run.evaluation(frame)
    low, high = found.interval("valid_f1")
    assert low < found.scores["f1"] < high < 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert re.search(r"on other such rows one expects [\d.%]+ to [\d.%]+ \(95% interval\)", page)
    weighted = fit("linear", frame.assign(w=1 + 9.0 * (frame.y == "yes")), **given | {"valid": 0.5}, weight="w")
    assert weighted.evaluation(frame.assign(w=1 + 9.0 * (frame.y == "yes"))).interval("valid_f1") is None


def test_sounds_that_are_taken_for_others_can_be_heard(tmp_path):
    times = np.arange(800) / 8000
    tones = [np.sin(2 * np.pi * (400 + 900 * (i % 2)) * times).astype(np.float32) / 2 for i in range(24)]
    for i, tone in enumerate(tones):
        (tmp_path / "tones" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "tones" / "ab"[i % 2] / f"{i}.wav", tone, 8000)
    run = fit("audio", tmp_path / "tones", batch=8, until="steps(2)")
    found = run.evaluation(tmp_path / "tones")
    heard, rate = soundfile.read(io.BytesIO(found.sounds[0]))
    assert rate == 8000
    rows = run.open(tmp_path / "tones").source.take([found.worst[0]["row"]])
    np.testing.assert_allclose(heard, rows.ragged(next(iter(run.pipeline.uses))).values.numpy(), atol=1e-3)
    page = found.write(tmp_path / "e.html", "tones").read_text(encoding="utf-8")
    assert page.count("data:audio/wav;base64") == len(found.sounds) == 12


def test_the_command_of_a_plan_makes_the_plan_again(tmp_path, command):
    options = {"l1": 0.5, "until": "steps(1) | seconds(9)", "batch": 16, "lr": 0.1, "augment": None}
    options |= {"shuffle": "balanced", "evaluate_every": 0.5, "save_every": 7, "clip_value": 0.5}
    options |= {"compile": False, "graph": False}
    run = handful.fit("linear", "digits", quiet=True, **options)
    words = shlex.split(run.plan.command)
    assert words[:3] == ["handful", "train", "digits"]
    status, out, _ = command(*words[1:], "--dry-run", "--json")
    assert status == 0
    again = json.loads(out)["choices"]
    for name in options:
        assert again[name]["value"] == run.plan.choices[name].value
        assert again[name]["status"] == "given"


def test_a_target_of_dates_is_judged_in_dates_and_times_and_one_with_a_unit_in_it(tmp_path, capsys, command):
    weeks = np.random.default_rng(0).integers(0, 500, 300)
    felled = np.datetime64("2010-01-01") + (7 * weeks).astype("timedelta64[D]")
    table = {"rings": weeks / 52.0, "felled": felled}
    run = fit("linear", table, target="felled", until="epochs(30)", out=tmp_path / "dates")
    page = (tmp_path / "dates" / "report.html").read_text()
    assert re.search(r"Mean absolute error \d[\d,]* d( \d+ h)? on 30 held-out rows", page)
    assert re.search(r"Always the mean, 201\d-\d\d-\d\d, would be off by \d+ d( \d+ h)? on average", page)
    assert "since 1970 on" not in page
    assert "mean absolute error (days)" in page
    found = run.evaluation(table)
    low, high = found.interval("mae")
    assert low < found.scores["mae"] < high
    found.show()
    assert re.search(r"mean absolute error \d[\d,]* d", capsys.readouterr().out)
    (tmp_path / "price.csv").write_text("area,price\n" + "".join(f"{k},€{1000 * k + 7}\n" for k in range(1, 200)))
    run = fit("linear", tmp_path / "price.csv", target="price", out=tmp_path / "price")
    assert re.search(r"Mean absolute error [\d,.]+ € on 20 held-out rows", (tmp_path / "price/report.html").read_text())
    judged = run.evaluation(tmp_path / "price.csv").write(tmp_path / "judged.html", "judged").read_text()
    assert re.search(r"Mean absolute error [\d,.]+ € on 199 rows of price.csv\.", judged)
    assert str(tmp_path) not in judged
    side, served = tmp_path / "side.html", page_of(RunFolder(tmp_path / "price")).decode()
    assert command("report", tmp_path / "dates", tmp_path / "price", "--out", side)[0] == 0
    both = side.read_text()
    assert re.search(r"<td[^>]*>\d[\d,]* d( \d+ h)?</td>", both)
    assert re.search(r"<td[^>]*>[\d,.]+ €</td>", both)
    assert '"dates (days)"' in both
    assert '"price (\\u20ac)"' in both
    assert "mean absolute error (\\u20ac)" in served
    assert command("watch", tmp_path / "price")[2].count(" €") > 1
