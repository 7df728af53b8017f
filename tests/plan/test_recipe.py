"""Recipes are found from the columns and said; asked for, they choose the columns, or one sentence says why not."""

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import handful
from handful.base.errors import HandfulError
from handful.losses.loss import as_loss
from handful.optim.initial_lr import rate_of_shapes
from handful.plan import balance
from handful.plan.build import assemble
from handful.sklearn import MiniBatchClassifier
from handful.training.watch.observe import better
from handful.transform.pipeline import fit_pipeline

RNG = np.random.default_rng(0)
WORDS = ["good", "fine", "dull", "bad"]


def reviews(n=60):
    rows = []
    for i in range(n):
        words = RNG.choice(WORDS[:2] if i % 2 else WORDS[2:], 6)
        rows.append((f"{' '.join(words)} film {i}", int(RNG.integers(0, 99)), ("no", "yes")[i % 2]))
    text, age, answer = zip(*rows, strict=True)
    return {"text": list(text), "age": list(age), "answer": list(answer)}


def plan(data, model="auto", **given):
    run = handful.fit(model, data, **{"batch": 16, "lr": 1e-3, "until": "steps(2)", "quiet": True, **given})
    return run, run.plan.choices


@pytest.mark.parametrize("words", [3, 12])
@pytest.mark.parametrize("kind", ["number", "class"])
@pytest.mark.parametrize("tells", ["text", "numbers"])
def test_of_text_and_the_table_beside_it_what_tells_more_is_learned_from(words, kind, tells):
    """However many words a row has: 12 of no meaning were taken over numbers that give R2 0.95."""
    rng = np.random.default_rng(0)
    known = [*WORDS, "red", "blue", "old", "new", "house", "room", "garden"]
    said = [f"{' '.join(rng.choice(known, words))} {k}" for k in range(200)]  # different in every row
    a, city = rng.normal(size=200), list(rng.choice(["oslo", "rome"], 200))
    by = np.array([text.count("good") - text.count("bad") for text in said]) if tells == "text" else a
    y = by + rng.normal(0, 0.1, 200) if kind == "number" else np.where(by > 0, "yes", "no")
    run, _ = plan({"said": said, "a": a, "city": city, "y": list(y)}, target="y")
    assert run.pipeline.uses == (("said",) if tells == "text" else ("a", "city"))
    [note] = [note for note in run.plan.notes if "Left out" in note]
    assert ("of the target's variance with these" in note) == ((words > 8) == (tells == "numbers"))


@pytest.mark.parametrize("every", [1, 3])
def test_a_text_that_most_rows_lack_is_not_learned_from_alone(every):
    """A summary in one row of seven was taken over eleven columns, and most rows had no input at all."""
    rng = np.random.default_rng(0)
    said = [" ".join(rng.choice([*WORDS, "red", "blue"], 40)) if k % every == 0 else None for k in range(200)]
    run, _ = plan({"said": said, "a": rng.normal(size=200), "y": rng.normal(size=200)}, target="y")
    assert run.pipeline.uses == (("said",) if every == 1 else ("a",))
    assert any("(short texts, or such as most rows lack): said" in note for note in run.plan.notes) == (every > 1)


@pytest.mark.parametrize(
    ("data", "recipe"),
    [
        (lambda tmp: "wine", "table"),
        (lambda tmp: (RNG.integers(0, 255, (40, 3, 12, 12)).astype(np.uint8), np.arange(40) % 2), "image"),
        (lambda tmp: (RNG.normal(size=(40, 5)), np.arange(40) % 2), "arrays"),
        (lambda tmp: handful.open(reviews(), target="answer"), "text"),
    ],
)
def test_what_is_found_is_said(data, recipe, tmp_path):
    _, choices = plan(data(tmp_path))
    assert (choices["recipe"].value, choices["recipe"].status) == (recipe, "found")
    assert choices["recipe"].reason.startswith("learns from")


def test_what_is_asked_for_chooses_the_columns():
    source = handful.open(reviews(), target="answer")
    run, choices = plan(source, recipe="table")
    assert (choices["recipe"].value, choices["recipe"].status) == ("table", "given")
    assert run.pipeline.uses == ("age",)
    assert choices["model"].value == "linear"  # a table of 54 rows
    run, _ = plan(source, recipe="text")
    assert run.pipeline.uses == ("text",)
    assert run.pipeline.inputs.kind == "text"


@pytest.mark.parametrize("shape", [(8, 8), (5, 8, 8), (1, 8, 8)])
def test_a_model_for_pictures_takes_arrays_of_floats_for_pictures(shape, tmp_path):
    """They cannot be told from other blocks of numbers; the model's name says what they are."""
    x = RNG.normal(size=(80, *shape)).astype(np.float32)
    y = (x.reshape(80, -1).mean(1) > 0).astype(int)
    run, choices = plan((x, y), "cnn", out=tmp_path / "run")
    assert (choices["recipe"].value, choices["recipe"].status) == ("image", "found")
    assert run.model.config["channels"] == (1 if len(shape) == 2 else shape[0])
    assert any("standardised per channel" in note for note in run.plan.notes)
    again = handful.load(tmp_path / "run")
    np.testing.assert_array_equal(again.predict(x), run.predict(x))
    assert plan((x, y), "mlp")[1]["model"].value == "mlp"
    with pytest.raises(HandfulError, match="model cnn is for image data, and this is vector"):
        plan((x.reshape(80, -1), y), "cnn")


def test_categories_are_texts_if_they_are_asked_to_be(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("name,kind\n" + "".join(f"{WORDS[i % 4]} {WORDS[i % 3]},{i % 2}\n" for i in range(60)))
    assert plan(path, target="kind")[1]["recipe"].value == "table"
    run, _ = plan(path, target="kind", recipe="text")
    assert (run.pipeline.inputs.kind, run.pipeline.uses) == ("text", ("name",))
    assert len(run.predict(["good bad"])) == 1


@pytest.mark.parametrize("model", ["table", "mlp", "linear"])
@pytest.mark.parametrize("form", ["csv", "frame", "dict"])
def test_a_model_of_tables_leaves_free_text_out_and_says_so(model, form, tmp_path):
    columns = {"size": [k % 7 + 0.5 for k in range(60)], "kind": ["a", "b", "c"] * 20, "y": [k % 2 for k in range(60)]}
    texts = [f"the item number {k} was rather good on day {k * 3 % 11}" for k in range(60)]
    frame = pd.DataFrame(columns | {"said": texts})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    given = {"csv": tmp_path / "rows.csv", "frame": frame, "dict": {**columns, "said": texts}}[form]
    quick = {"target": "y", "until": "steps(3)", "batch": 8, "lr": 0.01, "quiet": True}
    run, plain = (handful.fit(model, data, **quick) for data in (given, columns))
    assert "Left out, because a table takes no free text: said; model='text' does." in run.plan.notes
    assert set(run.pipeline.schema) == {"size", "kind"}
    assert torch.equal(run.outputs(given), plain.outputs(columns))


def test_the_language_of_a_column_of_a_table_and_a_resumed_run(tmp_path):
    source = handful.open(reviews(200), target="answer")
    _, choices = plan(source, recipe="language", until="steps(2)", batch=4, out=tmp_path / "run")
    assert (choices["task"].value, choices["recipe"].value) == ("language", "language")
    assert choices["metrics"].value == "perplexity, accuracy"
    again = handful.resume(tmp_path / "run", train=source, until="steps(3)", quiet=True)
    assert again.state.step == 3


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("image", r"needs a column of image; .* has text \(text\), age \(number\)"),
        ("audio", "needs a column of audio"),
        ("tabel", "Did you mean 'table'"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_sentence(recipe, words):
    with pytest.raises(HandfulError, match=words):
        plan(handful.open(reviews(), target="answer"), recipe=recipe)


def test_a_class_without_a_held_out_row_is_said():
    y = np.array(["a", "b", "c"] * 20)
    x = RNG.normal(size=(60, 4))
    held = {"x": x[y != "b"], "y": y[y != "b"]}
    run, _ = plan({"x": x, "y": y}, model="linear", target="y", lr=0.05, valid=held)
    said = "1 of 3 classes have no held-out row ('b'): no score tells how they fare"
    assert any(note.startswith(said) for note in run.plan.notes)
    run, _ = plan({"x": x, "y": y}, model="linear", target="y", lr=0.05)
    assert not any("no held-out row" in note for note in run.plan.notes)


def test_uneven_classes_are_said_with_numbers_and_balanced_accuracy_decides():
    y = np.array(["common"] * 190 + ["rare"] * 10)
    x = RNG.normal(size=(200, 4)) + (y == "rare")[:, None]
    run, choices = plan((x, y), model="linear", until="epochs(30)", lr=0.05, class_weight="balanced")
    assert choices["metrics"].value == "balanced_accuracy, accuracy, f1"
    assert choices["score"].value == "valid_balanced_accuracy"
    (said,) = [note for note in run.plan.notes if "uneven" in note]
    assert "'common' is 95.0% of the training rows, 'rare' 5.0% (9 rows)" in said
    assert "class_weight" not in said
    assert "1 of 2 classes have fewer than 5 held-out rows ('rare' 1)" in " ".join(run.plan.notes)
    plain, _ = plan((x, y), model="linear", until="epochs(30)", lr=0.05)
    assert any("class_weight='balanced' lets" in note for note in plain.plan.notes)
    assert (
        run.evaluate((x, y), "balanced_accuracy")["balanced_accuracy"]
        > 0.05 + (plain.evaluate((x, y), "balanced_accuracy")["balanced_accuracy"])
    )
    even, choices = plan((x, np.arange(200) % 2), model="linear")
    assert choices["metrics"].value == "accuracy"
    assert not any("uneven" in note for note in even.plan.notes)


def test_the_share_of_a_very_rare_class_is_not_said_to_be_none_or_all():
    y = np.array(["common"] * 9998 + ["rare"] * 2)
    run, _ = plan((RNG.normal(size=(10_000, 2)), y), model="linear", until="steps(2)", lr=0.05)
    (said,) = [note for note in run.plan.notes if "uneven" in note]
    assert "'common' is 99.99% of the training rows, 'rare' 0.01% (1 row); always" in said
    assert "100.0%" not in said


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))


def few(n: int, of: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two classes, `of` of the second."""
    generator = np.random.default_rng(seed)
    y = generator.permutation(np.arange(n) < of).astype(np.int64)
    return generator.normal(size=(n, 6)).astype(np.float32) + 1.5 * y[:, None].astype(np.float32), y


def chain(layers: int, between: Callable[[], nn.Module] = nn.Tanh, *, past: bool = False) -> nn.Module:
    """Layers of 16 numbers in a row, or each with a way past it."""

    class Past(nn.Linear):
        def forward(self, x):
            return x + super().forward(x)

    middle = [[between(), (Past if past else nn.Linear)(16, 16)] for _ in range(layers - 2)]
    return nn.Sequential(nn.Linear(6, 16), *itertools.chain(*middle), between(), nn.Linear(16, 2))


@pytest.mark.parametrize(
    ("net", "factor"),
    [
        (lambda: chain(4), 1),
        (lambda: chain(8), 0.354),
        (lambda: chain(8, lambda: nn.LayerNorm(16)), 0.354),
        (lambda: chain(8, lambda: nn.BatchNorm1d(16)), 1),
        (lambda: chain(12, past=True), 1),
        (lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), *[nn.Conv1d(1, 1, 3, padding=1) for _ in range(7)],
                               nn.Flatten(), nn.Linear(6, 2)), 0.354),
    ],
)  # fmt: skip
def test_adam_goes_more_slowly_where_layers_follow_one_another_with_no_way_past_them(net, factor):
    def rate(model, **given):
        return assemble(model, few(400, 100), {"valid": None, "quiet": True} | given, measure=False).plan.choices["lr"]

    model = net()
    found = rate(model)
    assert found.value == pytest.approx(rate_of_shapes(model)[0] * factor, rel=0.03)
    assert ("8 layers in a row" in found.reason) == (factor < 1)
    assert rate(net(), lr=0.01).value == 0.01
    assert rate(net(), optimizer="momentum").value == rate(chain(3), optimizer="momentum").value


def test_adam_goes_more_slowly_where_few_rows_are_of_another_class_than_the_commonest():
    def rate(rows, **given):
        return plan(rows, net(), **{"lr": "auto", "valid": None, **given})[1]["lr"]

    usual = rate(few(4000, 1000))
    assert "commonest" not in usual.reason
    for n, of, enough in ((4000, 20, 500), (4000, 120, 500), (800, 10, 100)):
        slow = rate(few(n, of))
        assert slow.value == pytest.approx(usual.value * (of / enough) ** 0.5, rel=0.03), (n, of)
        assert f"only {of} rows are of another class than the commonest" in slow.reason
    assert rate(few(800, 100)).value == usual.value  # an eighth
    assert rate(few(4000, 20), lr=0.01).value == 0.01
    assert rate(few(4000, 20), optimizer="sgd").value == rate(few(4000, 1000), optimizer="sgd").value
    labels = np.eye(3)[:, :2].astype(np.float32)[np.where(few(4000, 20)[1] == 1, 0, 2)]  # a label for 20 rows of 4,000
    for rows in (labels, np.stack([1 - labels[:, 0], labels[:, 1]], 1)):  # or all but 20 have it
        assert rate((few(4000, 20)[0], rows), task="multilabel").value < usual.value / 3


def test_a_balanced_score_on_few_rare_rows_decides_only_beyond_its_own_error():
    t = assemble(net(), few(2000, 20), {"valid": few(1000, 10, 1), "quiet": True, "batch": 32, "lr": 1e-3})
    assert t.plan.score == "valid_balanced_accuracy"
    before = {"valid_loss": 0.100, "valid_balanced_accuracy": 0.60}
    assert better(t, before | {"valid_loss": 0.099}, before)
    # one of ten more is found: 0.05, where the error of (p + 0.99) / 2 is that of p over ten rows, 0.07, and not 0.016
    assert not better(t, {"valid_loss": 0.101, "valid_balanced_accuracy": 0.65}, before)
    assert better(t, {"valid_loss": 0.101, "valid_balanced_accuracy": 0.80}, before)
    assert t.evenness == pytest.approx(4 * 0.01 * 0.99)

    def labels(rows):
        return rows[0], rows[1][:, None].astype(np.float32)

    one = torch.nn.Linear(6, 1)
    t = assemble(one, labels(few(2000, 20)), {"valid": labels(few(1000, 10, 1)), "task": "multilabel", "quiet": True})
    before = {"valid_loss": 0.100, "valid_f1": 0.60}
    assert t.plan.score == "valid_f1"
    assert not better(t, {"valid_loss": 0.101, "valid_f1": 0.70}, before)
    assert better(t, {"valid_loss": 0.101, "valid_f1": 0.90}, before)


X3 = np.random.default_rng(1).normal(size=(120, 3))
IDS = np.digitize(X3[:, 0], [-1, 1])


@pytest.mark.parametrize(
    ("y", "given", "weights"),
    [
        (IDS, {0: 1, 2: 5}, [1, 1, 5]),
        (IDS, {2: 5, 1: 0, 0: 2}, [2, 0, 5]),
        (IDS, {np.int64(1): 3.5}, [1, 3.5, 1]),
        (IDS, {"2": 5}, [1, 1, 5]),  # as a command line names them
        (IDS, pd.Series({2: 5.0, 0: 2.0, 1: 1.0}), [2, 1, 5]),
        (IDS, (2, 1, 5), [2, 1, 5]),
        (IDS * 10 - 10, {-10: 2, 10: 5}, [2, 1, 5]),
        (IDS > 0, {False: 2, True: 5}, [2, 5]),
        (np.array(["a", "b", "c"])[IDS], {"c": 5, "a": 2}, [2, 1, 5]),
        (np.array(["a", "b", "c"])[IDS], pd.Series([5, 2], ["c", "a"]), [2, 1, 5]),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_weights_by_label(y, given, weights, own):
    """The loss is torch's with the weights in the order of the classes, whatever they were given in."""
    k = len(weights)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, k) if own else "linear"
    run = handful.fit(model, (X3, y), class_weight=given, lr=0.01, batch=16, until="steps(3)", valid=0, quiet=True)
    assert run.plan.class_weight == weights
    outputs, ids = run.outputs(X3), torch.from_numpy(np.unique(y, return_inverse=True)[1])
    wanted = F.cross_entropy(outputs, ids, torch.tensor(weights, dtype=torch.float32))
    assert run.evaluate((X3, y))["loss"] == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({0: 1, 3: 5}, "class_weight names 3, which is not a class"),
        ({"cat": 5}, "class_weight names 'cat', which is not a class"),
        ({0: "much"}, "or a dict of numbers by label"),
        ({0, 1, 2}, "class_weight must be 'balanced', 3 numbers or a dict of numbers by label"),
        (5, "class_weight must be 'balanced'"),
        (["a", "b", "c"], "class_weight must be 'balanced'"),
        ([[1, 2, 3]], "class_weight must be 'balanced'"),
        ([1, -1, 2], "at least 0, not -1.0"),
        ({1: float("nan")}, "must be finite and at least 0, not nan"),
        ([1, np.inf, 2], "must be finite and at least 0, not inf"),
        ([0, 0, 0], "0 for every class"),
        (pd.Series([1.0, 2.0, 3.0], ["a", "b", "c"]), "names 'a', which is not a class"),
        (pd.Series([1.0, 2.0, 3.0], [1, 2, 3]), "names 3, which is not a class"),
    ],
)
def test_weights_that_are_none(given, words):
    for fit in (
        lambda: handful.fit("linear", (X3, IDS), class_weight=given, quiet=True),
        lambda: MiniBatchClassifier("linear", class_weight=given).fit(X3, IDS),
    ):
        with pytest.raises(HandfulError, match=words):
            fit()


def test_weights_of_pixels_and_of_spare_outputs(tmp_path):
    """Per class of each pixel; a head with more scores than there are classes."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 1, 4, 4)).astype(np.float32), rng.integers(0, 3, (12, 4, 4))
    given = {"batch": 4, "lr": 0.01, "until": "steps(2)", "valid": 0, "quiet": True, "class_weight": {2: 5.0}}
    run = handful.fit(torch.nn.Conv2d(1, 5, 1), (x, y), **given)
    weight = torch.tensor([1.0, 1, 5, 1, 1])
    wanted = F.cross_entropy(run.outputs(x), torch.from_numpy(y), weight)
    assert run.evaluate((x, y))["loss"] == pytest.approx(float(wanted), rel=1e-5)
    model = torch.nn.Linear(3, 5)
    run = handful.fit(model, (X3, IDS), out=tmp_path / "run", **given)
    again = handful.resume(tmp_path / "run", model=model, train=(X3, IDS), until="steps(4)", quiet=True)
    assert again.objective.loss == run.objective.loss


@pytest.mark.parametrize(
    "softened",
    [
        {"class_weight": "balanced"},
        {"label_smoothing": 0.2},
        {"class_weight": [1.0, 3.5, 0.2]},
        {"class_weight": np.array([1.0, 3.5, 0.25])},
        {"class_weight": torch.tensor([1.0, 3.5, 0.25])},
    ],
)
def test_a_softened_cross_entropy_is_the_same_after_loading_and_resuming(tmp_path, softened):
    x = RNG.normal(size=(120, 3))
    np.savez(tmp_path / "rows.npz", x=x, y=np.digitize(x[:, 0], [-1, 1]))
    given = {"batch": 16, "lr": 0.05, "quiet": True, "threads": 1, "valid": 20, "target": "y"}
    run = handful.fit("linear", tmp_path / "rows.npz", until="epochs(3)", out=tmp_path / "run", **given, **softened)
    loaded = handful.load(tmp_path / "run")
    assert loaded.objective.loss == run.objective.loss != as_loss("cross_entropy")[0]
    assert loaded.evaluate(tmp_path / "rows.npz") == run.evaluate(tmp_path / "rows.npz")
    again = handful.resume(tmp_path / "run", until="epochs(5)", quiet=True)
    whole = handful.fit("linear", tmp_path / "rows.npz", until="epochs(5)", schedule="constant", **given, **softened)
    assert again.objective.loss == run.objective.loss == whole.objective.loss


def test_counts_of_classes_and_labels():
    labels = (RNG.uniform(size=(50, 3)) < [0.1, 0.5, 0.9]).astype(np.uint8)
    source = handful.open((RNG.normal(size=(50, 2)), labels))
    pipeline = fit_pipeline(source, own_model=False)
    counts = balance.count(pipeline, source)
    assert counts.tolist() == [*labels.sum(0).tolist(), 50]
    (said,) = balance.describe(pipeline, counts, weighted=False)
    assert f"{labels.sum() / 50:.2g} of 3 labels" in said
    _, choices = plan(source)
    assert (choices["task"].value, choices["metrics"].value) == ("multilabel", "f1, label_accuracy")


# --- models of transformers -------------------------------------------------------------------------------------------


class Output(dict):
    """Like transformers' ModelOutput: a dict whose keys are attributes."""

    __getattr__ = dict.__getitem__


class LookAlike(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = torch.nn.Embedding(30, 8), torch.nn.Linear(8, 2)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        mask = attention_mask[:, :, None].to(self.out.weight.dtype)
        mean = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        return Output(loss=None, logits=self.out(mean))


def ids_and_mask(n=48):
    ids, mask = np.zeros((n, 9), np.int64), np.zeros((n, 9), np.int64)
    for i in range(n):
        length = RNG.integers(3, 10)
        ids[i, :length] = RNG.integers(2, 15, length) + 14 * (i % 2)
        mask[i, :length] = 1
    return ids, mask, np.arange(n) % 2


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    return transformers.BertForSequenceClassification(config)


@pytest.mark.filterwarnings("ignore")  # of transformers' own
@pytest.mark.parametrize("make", [LookAlike, bert])
def test_a_model_of_transformers_is_trained_as_it_is_called_there(make, tmp_path):
    """With its own inputs by keyword; and with rows of token ids alone, whose padding is masked for it."""
    ids, mask, labels = ids_and_mask()
    torch.manual_seed(0)
    model = make()
    data = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    run = handful.fit(
        model, data, target="labels", batch=12, lr=0.02, until="epochs(12)", quiet=True, out=tmp_path / "run"
    )
    assert run.plan.choices["loss"].value == "cross_entropy"
    assert run.evaluate(data)["accuracy"] > 0.9
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
    torch.testing.assert_close(run.outputs({"input_ids": ids, "attention_mask": mask})["logits"], expected)
    rows = [row[: n.sum()] for row, n in zip(ids, mask, strict=True)]
    alone = handful.fit(model, (rows, labels), batch=12, lr=1e-9, until="steps(1)", quiet=True)
    torch.testing.assert_close(alone.outputs({"x": rows})["logits"], expected, atol=1e-5, rtol=1e-4)
    again = handful.load(tmp_path / "run", model=make())
    inputs = {"input_ids": ids, "attention_mask": mask}
    saved = handful.fit(model, data, batch=12, lr=1e-9, until="steps(1)", quiet=True, out=tmp_path / "other")
    found = handful.load(tmp_path / "other", model=make()).outputs(inputs)["logits"]
    assert found.equal(saved.outputs(inputs)["logits"])
    torch.testing.assert_close(again.outputs(inputs)["logits"], expected)
