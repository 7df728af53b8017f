"""An exported model takes raw rows and gives what `predict` gives, without handful; checked by ONNX Runtime, too."""

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest
import safetensors
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import handful
from handful.base.errors import HandfulError

HOW = {"batch": 32, "lr": 1e-2, "until": "steps(8)", "precision": "float32", "quiet": True}
ROWS = 120
onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript and onnxruntime are not installed",
)


def frame(target):
    """Gaps, a long tail, dates, truth values, a name with a blank, a category that is missing in some rows."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "age": rng.integers(18, 90, ROWS).astype(float),
            "net income": np.exp(rng.normal(10, 2, ROWS)),
            "job": pd.Series(rng.choice(["a", "b", "c"], ROWS), dtype=object),
            "when": (np.datetime64("2020-01-01", "h") + rng.integers(0, 3000, ROWS).astype("timedelta64[h]")).astype(
                "datetime64[s]"
            ),
            "own": rng.random(ROWS) < 0.5,
        }
    )
    rows.loc[::7, "age"], rows.loc[::9, "job"] = np.nan, None
    rows["y"] = rng.normal(100, 5, ROWS) if target == "number" else rng.choice(["yes", "no"], ROWS)
    return rows


def numbers(rows):
    """The columns as an exported model takes them, the category by name."""
    seconds = rows["when"].to_numpy().astype("datetime64[s]").astype("float64")
    names = np.array([v if isinstance(v, str) else "" for v in rows["job"]], dtype=object)
    plain = {name: rows[name].to_numpy(dtype="float64") for name in ("age", "net income", "own")}
    return {**plain, "when": seconds, "job": names}


def program_of(run, path):
    return torch.export.load(run.export(path)).module()


def by_runtime(run, path, rows):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(run.export(path)))
    return session.run(None, rows)[0], session


def expected(run, rows):
    return run.predict(rows) if run.pipeline.task == "regression" else run.predict(rows, probabilities=True).numpy()


@pytest.fixture(scope="module", params=["table:class", "mlp:number"])
def of_table(request):
    model, target = request.param.split(":")
    rows = frame(target)
    run = handful.fit(model, rows, target="y", **HOW)
    new = rows.drop(columns="y")
    new.loc[3, "job"] = "never seen"
    return run, new


def test_a_program_takes_the_columns_of_a_table_with_gaps_dates_and_codes(of_table, tmp_path):
    run, rows = of_table
    given = numbers(rows)
    classes = run.pipeline.trained_on["job"].classes
    codes = [classes.index(v) if v in classes else len(classes) if v else -1 for v in given.pop("job")]
    program = program_of(run, tmp_path / "m.pt2")
    tensors = {name: torch.tensor(v) for name, v in given.items()} | {"job": torch.tensor(codes)}
    tensors = {raw: tensors[raw] for raw in run.pipeline.uses}
    np.testing.assert_allclose(program(tensors).numpy(), expected(run, rows), rtol=1e-6)
    one = program({name: v[:1] for name, v in tensors.items()}).numpy()
    np.testing.assert_allclose(one, expected(run, rows[:1]), rtol=1e-6)
    assert "never seen" in [*rows["job"]]


@onnx
def test_onnx_runtime_takes_the_columns_of_a_table_by_name(of_table, tmp_path):
    run, rows = of_table
    given = numbers(rows)
    found, session = by_runtime(run, tmp_path / "m.onnx", given)
    np.testing.assert_allclose(found, expected(run, rows), rtol=2e-6)
    assert len(set(np.round(found.ravel(), 6))) > 50  # rows are told apart
    one = session.run(None, {name: v[3:4] for name, v in given.items()})[0]
    np.testing.assert_allclose(one, expected(run, rows[3:4]), rtol=2e-6)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["output"])["names"] == list(run.pipeline.names)
    assert json.loads(told["outside"]) == {}
    assert {i["name"] for i in json.loads(told["inputs"])} == set(given)


def pictures(model):
    rng = np.random.default_rng(0)
    return handful.fit(
        model, (rng.integers(0, 255, (ROWS, 3, 16, 16), dtype=np.uint8), rng.integers(0, 3, ROWS)), **HOW
    )


@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_pictures_are_bytes(model, tmp_path):
    run = pictures(model)
    rows = np.random.default_rng(1).integers(0, 255, (20, 3, 16, 16), dtype=np.uint8)
    found = program_of(run, tmp_path / "m.pt2")({"x": torch.from_numpy(rows)}).numpy()
    np.testing.assert_allclose(found, expected(run, rows), rtol=1e-6)


@onnx
@pytest.mark.parametrize("model", ["cnn", "resnet"])
def test_pictures_are_bytes_to_onnx_runtime(model, tmp_path):
    run = pictures(model)
    rows = np.random.default_rng(1).integers(0, 255, (20, 3, 16, 16), dtype=np.uint8)
    np.testing.assert_allclose(by_runtime(run, tmp_path / "m.onnx", {"x": rows})[0], expected(run, rows), atol=2e-6)


def reviews(model="text"):
    rng = np.random.default_rng(0)
    words = ["the", "film", "was", "a", "fine", "and", "very", "dull", "thing", "of", "joy"]
    texts = [" ".join(rng.choice(words, rng.integers(3, 12))) for _ in range(ROWS)]
    return handful.fit(model, {"review": texts, "mood": rng.choice(["good", "bad"], ROWS)}, target="mood", **HOW), texts


def ids_by(step, texts):
    """Token ids as the metadata says they are made."""
    import tokenizers

    found = [e.ids[: step["max_length"]] for e in tokenizers.Tokenizer.from_str(step["model"]).encode_batch(texts)]
    return np.array([row + [0] * (max(map(len, found)) - len(row)) for row in found])


def test_text_comes_as_the_ids_of_the_tokenizer_that_the_file_holds(tmp_path):
    run, texts = reviews()
    told = {"handful.json": ""}
    program = torch.export.load(run.export(tmp_path / "m.pt2"), extra_files=told).module()
    step = json.loads(told["handful.json"])["outside"]["review"]
    found = program({"review": torch.from_numpy(ids_by(step, texts))}).numpy()
    np.testing.assert_allclose(found, expected(run, texts), rtol=1e-6)


@onnx
@pytest.mark.parametrize("model", ["text", "text(encoder='transformer')"])
def test_text_as_ids_to_onnx_runtime(model, tmp_path):
    run, texts = reviews(model)
    step = json.loads(json.dumps(run.pipeline.input.steps[0].__dict__))
    found, session = by_runtime(run, tmp_path / "m.onnx", {"review": ids_by(step, texts)})
    np.testing.assert_allclose(found, expected(run, texts), atol=2e-6)
    assert json.loads(session.get_modelmeta().custom_metadata_map["outside"])["review"]["model"] == step["model"]


class Two(nn.Module):
    """A model of the caller's own that takes two inputs by name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, left, right):
        return {"logits": self.layer(torch.cat([left, right], 1)), "hidden": left}


def test_a_model_of_your_own_with_several_inputs_and_outputs(tmp_path):
    rng = np.random.default_rng(0)
    rows = {"left": rng.normal(size=(ROWS, 2)).astype("float32"), "right": rng.normal(size=(ROWS, 3)).astype("float32")}
    run = handful.fit(Two(), rows | {"y": rng.integers(0, 3, ROWS)}, target="y", loss="cross_entropy", **HOW)
    found = program_of(run, tmp_path / "m.pt2")({name: torch.from_numpy(v) for name, v in rows.items()})
    np.testing.assert_allclose(found.numpy(), expected(run, rows), rtol=1e-6)


def test_a_loaded_run_exports_what_the_run_itself_exports(tmp_path):
    handful.fit("mlp", "wine", batch=16, lr=0.01, until="steps(3)", out=tmp_path / "run", quiet=True)
    loaded = handful.load(tmp_path / "run")
    found = program_of(loaded, tmp_path / "a.pt2")(
        {name: torch.ones(2, dtype=torch.float64) for name in loaded.pipeline.uses}
    )
    assert torch.isfinite(found).all()


def test_export_leaves_the_run_as_it_was(tmp_path):
    run = handful.fit("table", frame("class"), target="y", **HOW)
    rows = frame("class").drop(columns="y")
    before, weights = expected(run, rows), {k: v.clone() for k, v in run.model.state_dict().items()}
    run.export(tmp_path / "m.pt2")
    assert np.array_equal(expected(run, rows), before)
    assert all(v.equal(weights[k]) for k, v in run.model.state_dict().items())
    assert all(weight.requires_grad for weight in run.model.parameters())


def test_a_card_and_metadata_say_what_the_file_is(tmp_path):
    run = handful.fit("linear", frame("class"), target="y", **HOW)
    run.export(tmp_path / "a.safetensors")
    assert run.export(tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        told = json.loads(file.metadata()["handful"])
    assert told["model"] == "linear"
    assert told["scores"] == run.scores
    run.export(tmp_path / "m.pt2")
    page = (tmp_path / "m.card.md").read_text()
    for part in ("License: not chosen", "net income", "| batch | 32 | given |", "accuracy", told["torch"]):
        assert part in page, part
    assert "## Input and output" in page
    assert "## Input and output" not in (tmp_path / "a.card.md").read_text()


def test_what_cannot_be_exported_is_said(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x) if float(x.sum()) > 0 else self.layer(-x)

    run = handful.fit(Counting(), (torch.randn(40, 2), torch.arange(40) % 2), **HOW)
    with pytest.raises(HandfulError, match=r"torch.export cannot trace Counting"):
        run.export(tmp_path / "m.pt2")
    with pytest.raises(HandfulError, match=r"m.h5: export writes .onnx, .pt2"):
        run.export(tmp_path / "m.h5")
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_inside_a_vmap_leaves_the_process_as_it_was(tmp_path):
    """Every random number that was drawn in it from then on was an error of vmap's."""

    class Steep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x):
            slope = torch.func.vmap(torch.func.grad(lambda v: self.layer(v).tanh().sum()))
            return self.layer(x).squeeze(-1) + slope(x).sum(-1)

    run = handful.fit(Steep(), (torch.randn(40, 2), torch.randn(40)), **HOW)
    with pytest.raises(HandfulError, match=r"torch.export cannot trace Steep"):
        run.export(tmp_path / "m.pt2")
    assert torch.randn(3).shape == (3,)
    x = torch.ones(3, requires_grad=True)
    checkpoint(lambda x: x.square().sum(), x, use_reentrant=False).backward()
    assert torch.equal(x.grad, 2 * torch.ones(3))


class Spreads(nn.Conv2d):
    """A class for each place of a picture, in three channels."""

    def __init__(self):
        super().__init__(1, 3, 3, padding=1)


class Tags(nn.Module):
    """A class for each step; the first state is made by len(x), which torch.export takes for a fixed number."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.cell(x, x.new_zeros(1, len(x), 5))[0])


class Turned(nn.Module):
    """A parametrised layer, whose weight is no tensor of its own in memory."""

    def __init__(self):
        super().__init__()
        self.layer = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(("model", "shape", "places"), [(Spreads, (1, 6, 6), (6, 6)), (Tags, (5, 4), (5,)),
                                                       (Turned, (4,), ())])  # fmt: skip
@pytest.mark.parametrize("ending", ["pt2", pytest.param("onnx", marks=onnx)])
def test_own_models_are_exported_for_any_number_of_rows(model, shape, places, ending, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, *shape)).astype("float32"), rng.integers(0, 3, (ROWS, *places))
    run = handful.fit(model(), (x, y), **HOW)
    with torch.no_grad():
        scores = run.model.eval()(torch.from_numpy(x)).double()
    right = scores.softmax(1 if model is Spreads else -1).numpy()
    file = run.export(tmp_path / f"m.{ending}")
    if ending == "pt2":
        module = torch.export.load(file).module()
        given = lambda rows: module({"x": torch.from_numpy(rows)}).numpy()
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file))
        given = lambda rows: session.run(None, {"x": rows})[0]
    for rows in (1, 2, 3, 50):
        np.testing.assert_allclose(given(x[:rows]), right[:rows], atol=2e-6)
    with torch.no_grad():  # torch 2.13 takes the weights of a parametrised layer from its copies, too
        assert torch.equal(run.model.eval()(torch.from_numpy(x)).double(), scores)


def test_a_model_that_goes_through_its_rows_is_named_as_such(tmp_path):
    class OneByOne(nn.Linear):
        def forward(self, x):
            return torch.stack([super(OneByOne, self).forward(row) for row in x])

    run = handful.fit(OneByOne(2, 2), (torch.randn(40, 2), torch.arange(40) % 2), **HOW)
    with pytest.raises(HandfulError, match=r"cannot trace OneByOne: its forward goes through the rows, or counts them"):
        run.export(tmp_path / "m.pt2")


@onnx
def test_an_operator_that_onnx_does_not_have_is_named(tmp_path):
    class Exponential(nn.Linear):
        def forward(self, x):
            return super().forward(x) @ torch.linalg.matrix_exp(self.weight)

    run = handful.fit(Exponential(3, 3), (torch.randn(40, 3), torch.arange(40) % 3), **HOW)
    with pytest.raises(HandfulError, match=r"torch.onnx cannot write Exponential; export .pt2 \(.*matrix_exp"):
        run.export(tmp_path / "m.onnx")


class Means(nn.Module):
    """The mean of each row's steps, of vectors or of ids, by the lengths of the rows or a mask."""

    def __init__(self, by):
        super().__init__()
        self.first, self.out = (
            (nn.Linear(2, 5), nn.Linear(5, 3)) if by == "lengths" else (nn.Embedding(20, 5), nn.Linear(5, 3))
        )
        self.forward = self.of_vectors if by == "lengths" else self.of_ids

    def of_vectors(self, x, lengths):
        here = torch.arange(x.shape[1]) < lengths[:, None]
        return self.out((self.first(x).relu() * here[..., None]).sum(1) / lengths[:, None])

    def of_ids(self, x, attention_mask):
        here = attention_mask[..., None].float()
        return self.out((self.first(x) * here).sum(1) / here.sum(1))


class Waves(nn.Sequential):
    """It takes rows of 60 numbers at least."""

    def __init__(self, by):
        super().__init__(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 4, 60, 8, bias=False), nn.AdaptiveAvgPool1d(1),
                         nn.Flatten(), nn.Linear(4, 3))  # fmt: skip


class Recurrent(Tags):
    def __init__(self, by):
        super().__init__()
        self.cell = nn.GRU(2, 5, batch_first=True)

    def forward(self, x):
        return super().forward(x).amax(1)


@pytest.mark.parametrize(("model", "by"), [(Means, "lengths"), (Means, "attention_mask"), (Waves, ""), (Recurrent, "")])
@pytest.mark.parametrize("ending", ["pt2", pytest.param("onnx", marks=onnx)])
def test_rows_of_different_lengths_come_padded_with_what_follows_from_their_lengths(model, by, ending, tmp_path):
    rng = np.random.default_rng(0)
    shape = {"lengths": (2,), "attention_mask": (), "": () if model is Waves else (2,)}[by]
    lengths = rng.integers(60, 90, 40) if model is Waves else rng.integers(2, 9, 40)
    drawn = lambda n: rng.integers(1, 20, n) if by == "attention_mask" else rng.normal(size=(n, *shape)).astype("f")
    rows = [torch.from_numpy(drawn(n)) for n in lengths]
    data = [(row, int(k)) for row, k in zip(rows, rng.integers(0, 3, 40), strict=True)]
    run = handful.fit(model(by), data, **HOW | {"batch": 8})
    if model is Recurrent:
        with pytest.raises(HandfulError, match="recurrent layers are traced for one length of rows alone"):
            run.export(tmp_path / f"m.{ending}")
        return
    given = {"x": nn.utils.rnn.pad_sequence(rows, batch_first=True).numpy()}
    if by == "lengths":
        given["lengths"] = lengths
    if by == "attention_mask":
        given[by] = (np.arange(lengths.max()) < lengths[:, None]).astype("int64")
    right, file = run.predict(data, probabilities=True).numpy(), run.export(tmp_path / f"m.{ending}")
    if ending == "pt2":
        module = torch.export.load(file).module()
        found = module({name: torch.from_numpy(value) for name, value in given.items()}).numpy()
        told = torch.export.load(file, extra_files=(extra := {"handful.json": ""})) and json.loads(
            extra["handful.json"]
        )
        assert set(told["outside"]) == set(given)
    else:
        import onnxruntime

        found = onnxruntime.InferenceSession(str(file)).run(None, given)[0]
    np.testing.assert_allclose(found, right, atol=2e-6)


class Ends(nn.Linear):
    """Ends in a function that an exporter may write as what it comes to near 0 alone."""

    def __init__(self, end):
        super().__init__(3, 1)
        self.end = end

    def forward(self, x):
        return self.end(super().forward(x))


ENDS = {
    "logsigmoid": F.logsigmoid, "logaddexp": lambda h: torch.logaddexp(h, h - 1),
    "logaddexp2": lambda h: torch.logaddexp2(h, h), "softplus": F.softplus,
    "pool": lambda h: F.avg_pool2d(h.view(-1, 1, 1, 1).repeat(1, 1, 3, 3), 2, 1, divisor_override=3).flatten(1)[:, :1],
    "padded": lambda h: F.avg_pool3d(h.view(-1, 1, 1, 1, 1).repeat(1, 1, 2, 2, 2), 2, 1, 1, count_include_pad=False,
                                     divisor_override=5).flatten(1)[:, :1],
}  # fmt: skip


@onnx
@pytest.mark.parametrize("end", ENDS)
def test_far_from_zero_onnx_runtime_gives_what_the_model_does(end, tmp_path):
    x = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
    run = handful.fit(Ends(ENDS[end]), (x, x.sum(1)), loss="mse", preprocess="none", **HOW)
    far = np.concatenate([x, 60 * x, -200 * x])
    found, _ = by_runtime(run, tmp_path / "m.onnx", {"x": far})
    np.testing.assert_allclose(found.ravel(), run.predict(far).ravel(), rtol=1e-4, atol=1e-4)


@onnx
def test_a_mean_that_onnx_cannot_write_is_named(tmp_path):
    squares = lambda h: h.view(-1, 1, 1, 1).repeat(1, 1, 3, 3)
    end = lambda h: F.avg_pool2d(squares(h), 2, ceil_mode=True, divisor_override=3).flatten(1)
    run = handful.fit(Ends(end), (torch.randn(40, 3), torch.arange(40) % 4), **HOW)
    with pytest.raises(HandfulError, match=r"torch.onnx cannot write Ends; export .pt2 \(.*divisor_override and ceil"):
        run.export(tmp_path / "m.onnx")
