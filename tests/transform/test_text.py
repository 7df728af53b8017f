"""Text to ids and back, and the windows of a language model."""

import csv
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import handful
from handful.base.errors import HandfulError
from handful.data.base import Column, Ragged, Source
from handful.transform import Tokenize
from handful.transform.language import LanguageSource, language_source
from handful.transform.pipeline import Pipeline, fit_pipeline
from handful.transform.steps.text import PAD, UNKNOWN, PadTokens

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
LINES = ["The cat sat on the mat.", "A dog; the CAT!", "", "naïve café 你好"]


class Texts(Source):
    def __init__(self, texts, target=None, name="texts.csv", **columns):
        self.texts, self.labels, self.name, self.notes, self.where = texts, target, name, [], name
        self.columns, self.target = {"text": Column("text", "str")}, None
        if target is not None:
            self.columns["y"], self.target = Column("number", "int64"), "y"

    def __len__(self):
        return len(self.texts)

    def read(self, rows):
        found = {"text": [self.texts[i] for i in rows]}
        return found if self.labels is None else {**found, "y": torch.tensor([self.labels[i] for i in rows])}


class Tokens(Source):
    def __init__(self, rows, labels):
        self.rows_, self.labels, self.name, self.notes = rows, labels, "tokens", []
        self.columns = {"ids": Column("tokens", "int64", (None,)), "y": Column("number", "int64")}
        self.target = "y"

    def __len__(self):
        return len(self.rows_)

    def read(self, rows):
        parts = [torch.tensor(self.rows_[i], dtype=torch.int64) for i in rows]
        offsets = torch.tensor([0, *np.cumsum([len(p) for p in parts])])
        return {"ids": Ragged(torch.cat(parts), offsets), "y": torch.tensor([self.labels[i] for i in rows])}


@pytest.mark.parametrize("mode", ["bpe", "word", "character"])
class TestTokenize:
    def test_rows_are_padded_to_the_longest_and_cut(self, mode):
        step = Tokenize(mode).fit([LINES * 3])
        ids = step(LINES)
        assert ids.dtype == torch.int64
        assert (ids[0] != PAD).all()
        assert ids[2].tolist() == [UNKNOWN] + [PAD] * (ids.shape[1] - 1)
        assert int(ids.max()) < step.vocabulary
        for i, row in enumerate(step.encode(LINES)):
            if len(row):
                assert ids[i][: len(row)].tolist() == row.tolist()
                assert (ids[i][len(row) :] == PAD).all()
        assert Tokenize(mode, max_length=3).fit([LINES * 3])(LINES).shape == (4, 3)
        assert step([]).shape == (0, 1)

    def test_chunks_do_not_matter_and_fitting_is_repeatable(self, mode):
        texts = [f"{line} {i % 7} words" for i, line in enumerate(LINES * 20)]
        whole, parts = Tokenize(mode).fit([texts]), Tokenize(mode).fit([texts[:1], texts[1:30], texts[30:]])
        assert whole.model == parts.model
        assert whole.max_length == parts.max_length

    def test_the_usual_length_is_the_99th_percentile(self, mode):
        texts = ["a b c"] * 990 + ["a b " * 500] * 10
        step = Tokenize(mode).fit([texts])
        assert step.max_length == len(step.encode(["a b c"])[0])
        assert "cut to" in step.notes()[1]
        assert step(texts[-1:]).shape[1] == step.max_length

    def test_special_words_in_a_users_text_are_text(self, mode):
        step = Tokenize(mode).fit([["[PAD] and [UNK] and [PAD] and [UNK]"] * 3])
        assert PAD not in step(["[PAD] and"])[0]


def test_byte_level_tokens_write_any_text_and_read_it_back():
    step = Tokenize("bpe", lowercase=False).fit([["only plain english text here"] * 5])
    for text in ("Naïve café, 你好 🙂\n\tend", "", " leading and trailing "):
        assert step.text(step.encode([text])[0]) == text
    assert UNKNOWN not in step.encode(["🙂 你"])[0]


def test_characters_read_back_and_unknown_ones_show():
    step = Tokenize("character").fit([["hello", "wörld"]])
    assert step.vocabulary == len(set("hellowörld")) + 2
    assert step.text(step(["wörld"])[0]) == "wörld"
    assert step(["x"]).tolist() == [[UNKNOWN]]
    assert step.text([UNKNOWN, PAD]) == "\ufffd"
    few = Tokenize("character", size=4).fit([["aaabbc"]])
    assert few(["abc"]).tolist() == [[2, 3, UNKNOWN]]  # the most frequent are kept


def test_words_seen_once_are_unknown():
    step = Tokenize("word").fit([["good good film", "good film!", "rare!"]])
    ids = step.encode(["Good rare film !"])[0].tolist()
    assert ids[1] == UNKNOWN
    assert len(set(ids)) == 4
    assert step.text(ids) == "good \ufffd film !"


def test_a_chinese_character_is_a_word_and_much_unknown_is_said():
    step = Tokenize("word").fit([["你好你好"] * 2 + ["每个字都不同"]])
    assert len(step.encode(["你好"])[0]) == 2
    assert any("unknown; preprocess=Tokenize('bpe')" in note for note in step.notes())


def test_mistakes():
    with pytest.raises(HandfulError, match="Did you mean 'character'"):
        Tokenize("charactr").fit([["a"]])
    with pytest.raises(HandfulError, match="not fitted"):
        Tokenize()(["a"])
    with pytest.raises(HandfulError, match="size of 300"):
        Tokenize("bpe", size=100).fit([["a"]])


def test_a_text_pipeline_sees_training_rows_only():
    texts = [f"{'good' if i % 2 else 'bad'} film number {i % 5}" for i in range(40)]
    leaked = texts[:30] + ["entirely other vocabulary " * 50] * 10
    pipelines = [
        fit_pipeline(Texts(t, [i % 2 for i in range(40)]).subset(np.arange(30)), own_model=False)
        for t in (texts, leaked)
    ]
    assert pipelines[0].to_dict()[0] == pipelines[1].to_dict()[0]
    assert pipelines[0].inputs.kind == "text"
    assert pipelines[0].shape == (None,)
    source = Texts(leaked, [i % 2 for i in range(40)])
    out = pipelines[0].on(source)(source.take([0, 35]))
    assert out["x"].shape[1] == pipelines[0].inputs.max_length


def test_numbers_are_no_place_for_standardize_on_text():
    with pytest.raises(HandfulError, match="'text' is text"):
        fit_pipeline(Texts(["a", "b"], [0, 1]), steps="standardize", own_model=False)


def test_several_texts_are_joined_and_an_id_is_left_out():
    class Two(Texts):
        def __init__(self):
            super().__init__([f"some words of title {i % 3}" for i in range(30)], [i % 2 for i in range(30)])
            self.columns = {"id": Column("number", "int64"), "title": Column("text", "str"), **self.columns}

        def read(self, rows):
            return {"id": torch.tensor(rows), "title": [f"t{i}" for i in rows], **super().read(rows)}

    pipeline = fit_pipeline(Two(), own_model=False)
    assert pipeline.input.uses == ("title", "text")
    assert any("id" in note and "Left out" in note for note in pipeline.notes)
    step = pipeline.input.steps[0]
    assert torch.equal(pipeline(Two().take([4]))["x"], step(["t4 some words of title 1"]))


def test_ragged_tokens():
    source = Tokens([[5, 0, 3], [7], [], [0, 0]], [0, 1, 0, 1])
    own = fit_pipeline(source, own_model=True)(source.take(range(4)))["x"]
    assert own.tolist() == [[5, 0, 3], [7, 0, 0], [0, 0, 0], [0, 0, 0]]
    ready = fit_pipeline(source, own_model=False)
    assert ready(source.take(range(4)))["x"].tolist() == [[7, 2, 5], [9, 0, 0], [0, 0, 0], [2, 2, 0]]
    assert ready.inputs.vocabulary == 10
    unseen = Ragged(torch.tensor([8, 7]), torch.tensor([0, 2]))
    assert PadTokens().fit([source.take(range(4))["ids"]])(unseen).tolist() == [[UNKNOWN, 9]]


class TestLanguage:
    def test_windows_are_slices_and_y_is_one_later(self):
        tokens = np.arange(100, dtype=np.uint16)
        for stride in (1, 3, 10, 25):
            source = LanguageSource(tokens, 10, stride=stride)
            batch = source.take(range(len(source)))
            for i in range(len(source)):
                assert batch["x"][i].tolist() == list(range(i * stride, i * stride + 10))
                assert batch["y"][i].tolist() == list(range(i * stride + 1, i * stride + 11))
            assert (len(source) - 1) * stride + 11 <= 100 < len(source) * stride + 11
            assert batch["x"].dtype == batch["y"].dtype == torch.int64

    def test_the_end_of_the_text_is_for_validation_and_unseen(self):
        text = "abcdefghij" * 50
        train, valid = language_source(Texts([text + "XYZ" * 20]), 8, valid=60 / 560)
        assert train.vocabulary == 12
        assert len(valid.tokens) == 60
        assert (valid.tokens == UNKNOWN).all()
        assert train.tokenizer.text(train.tokens) == text
        assert valid.tokenizer is train.tokenizer
        again, none = language_source(Texts(["abc" * 9]), 8, tokenize=train.tokenizer, valid=0.0)
        assert none is None
        assert again.tokens[:3].tolist() == train.tokens[:3].tolist()

    def test_documents_are_joined_and_bpe_reads_back(self):
        train, valid = language_source(Texts(["First Document.", "Second, größer."] * 30), 5, tokenize=Tokenize("bpe"))
        assert train.tokenizer.text(train.tokens).startswith("First Document.\nSecond, größer.\nFirst")
        assert len(valid) > 0

    def test_the_pipeline_passes_windows_and_reads_back(self):
        train, valid = language_source(Texts(["to be or not to be, that is the question " * 20]), 16)
        pipeline = fit_pipeline(train, own_model=False)
        assert pipeline.task == "language"
        assert (pipeline.inputs.kind, pipeline.inputs.max_length) == ("language", 16)
        assert pipeline.outputs == pipeline.inputs.vocabulary == train.vocabulary
        batch = pipeline.on(valid)(valid.take([0, 1]))
        assert torch.equal(batch["x"][:, 1:], batch["y"][:, :-1])
        logits = torch.nn.functional.one_hot(batch["y"], train.vocabulary).float()
        assert pipeline.decode(logits).tolist() == batch["y"].tolist()
        data, tensors = pipeline.to_dict()
        again = Pipeline.from_dict(json.loads(json.dumps(data)), tensors)
        assert again.tokenizer.text(batch["x"][0]) == pipeline.tokenizer.text(batch["x"][0])

    def test_too_short_or_no_text(self):
        with pytest.raises(HandfulError, match="too few for one window of 128"):
            language_source(Texts(["short"]))
        with pytest.raises(HandfulError, match="one column of text or token ids"):
            language_source(Tokens([[1]], [0]))


def test_movie_reviews():
    path = DATA / "movie-reviews.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::4]
    source = Texts([r["text"] for r in rows], [int(r["label"] == "positive") for r in rows])
    pipeline = fit_pipeline(source, own_model=False)
    words = Counter(word for r in rows for word in re.findall(r"\w+|[^\w\s]|_", r["text"].lower()))
    assert pipeline.inputs.vocabulary == pytest.approx(2 + sum(n > 1 for n in words.values()), rel=0.02)
    assert 30 < pipeline.inputs.max_length < 90
    out = pipeline(source.take(range(64)))
    assert out["x"].shape[0] == 64
    step = pipeline.input.steps[0]
    assert step.text(out["x"][0]).replace("\ufffd", "").split()[-1] == rows[0]["text"].split()[-1]


def test_shakespeare():
    path = DATA / "shakespeare.txt"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    text = path.read_text()
    train, valid = language_source(Texts([text]), 64)
    assert train.vocabulary == len(set(text)) + 2  # every character occurs in the training part
    assert train.tokenizer.text(valid.tokens) == text[len(text) - round(0.1 * len(text)) :]
    assert len(train) + len(valid) == pytest.approx(len(text) / 64, abs=2)


ACCENTED = ["café naïve", "Ångström é", "이것은 한국어", "tiếng Việt", "plain words", "école café"] * 3


@pytest.mark.parametrize("mode", ["word", "bpe", "character"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_word_is_one_however_its_letters_are_written(mode, form):
    """Against Unicode's own normal form: the fitted step, and the ids of either form, are those of the other."""
    size = 400 if mode == "bpe" else 20_000
    fitted = Tokenize(mode, size=size).fit([[unicodedata.normalize(form, text) for text in ACCENTED]])
    reference = Tokenize(mode, size=size).fit([[unicodedata.normalize("NFC", text) for text in ACCENTED]])
    assert fitted.vocabulary == reference.vocabulary
    for text in ACCENTED:
        both = [fitted([unicodedata.normalize(f, text)]).tolist() for f in ("NFC", "NFD")]
        assert both[0] == both[1] == reference([unicodedata.normalize("NFC", text)]).tolist()
        assert UNKNOWN not in both[0][0] or mode == "word"
    noted = "composed (Unicode NFC), here in" in " ".join(fitted.notes())
    assert noted == (form == "NFD")
    again = Tokenize(mode).fit([["plain ascii", "words"]])
    assert "Unicode" not in " ".join(again.notes())


@pytest.mark.parametrize("store", [False, True])
def test_predictions_and_stores_know_both_forms(tmp_path, store):
    rng = np.random.default_rng(0)
    words = {0: ["café", "école", "forêt"], 1: ["naïve", "garçon", "über"]}
    rows = [(" ".join(rng.choice(words[y], 4)), y) for y in rng.integers(0, 2, 200).tolist()]
    with open(tmp_path / "texts.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "y"), *((unicodedata.normalize("NFD", t), f"c{y}") for t, y in rows)])
    where = tmp_path / "texts.csv"
    if store:
        handful.prepare(where, tmp_path / "store", target="y")
        where = tmp_path / "store"
    run = handful.fit("text", where, target="y", batch=16, lr=0.05, until="epochs(4)", out=tmp_path / "run", quiet=True)
    assert "Unicode NFC" in " ".join(run.plan.notes)
    loaded = handful.load(tmp_path / "run")
    shown = [t for t, _ in rows[:20]]
    forms = [[unicodedata.normalize(f, t) for t in shown] for f in ("NFC", "NFD")]
    for trained in (run, loaded):
        probabilities = [trained.predict({"text": f}, probabilities=True) for f in forms]
        assert torch.equal(*map(torch.as_tensor, probabilities))
    assert loaded.predict({"text": forms[0]}).tolist() == [f"c{y}" for _, y in rows[:20]]


def test_a_language_model_reads_both_forms_alike():
    text = "le café de l'école naïve " * 40
    both = [language_source(Texts([unicodedata.normalize(f, text)]), 16)[0] for f in ("NFC", "NFD")]
    assert both[0].tokens.tolist() == both[1].tokens.tolist()
    assert both[0].tokenizer.ids("e\N{COMBINING ACUTE ACCENT}").tolist() == both[0].tokenizer.ids("é").tolist()
