"""Sequences: greedy decoding and edit distances against plain loops, losses against torch, a run from end to end."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import handful
from handful.losses import ctc
from handful.losses.asked import as_metrics
from handful.losses.loss import ctc as ctc_loss
from handful.losses.metric import error_rate
from handful.runs.predict import predicted
from handful.transform.pipeline import fit_pipeline


def levenshtein(a, b):
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    return table[-1][-1]


def padded(rows):
    out = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return out


def best_path(path):
    return [i for i, _ in itertools.groupby(path) if i]


@pytest.mark.parametrize("seed", range(5))
def test_edit_distance_equals_the_textbook_table(seed):
    rng = np.random.default_rng(seed)
    rows = [[rng.integers(1, 4, rng.integers(0, 8)).tolist() for _ in range(40)] for _ in range(2)]
    found = ctc.edit_distance(padded(rows[0]), padded(rows[1]))
    assert found.tolist() == [levenshtein(a, b) for a, b in zip(*rows, strict=True)]


def test_greedy_drops_repeats_then_blanks():
    paths = np.random.default_rng(0).integers(0, 3, (50, 12))
    found = ctc.greedy(F.one_hot(torch.from_numpy(paths), 3).float())
    assert [[i for i in row if i] for row in found.tolist()] == [best_path(path) for path in paths.tolist()]


def labellings(logits):
    """The probability of every sequence of labels, summed over all paths."""
    p, total = logits.double().softmax(-1).tolist(), {}
    for path in itertools.product(range(len(p[0])), repeat=len(p)):
        key = tuple(best_path(path))
        total[key] = total.get(key, 0.0) + float(np.prod([frame[i] for frame, i in zip(p, path, strict=True)]))
    return total


@pytest.mark.parametrize("seed", range(8))
def test_a_beam_that_holds_everything_finds_the_likeliest_labels(seed):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 5, 4)))
    found = [tuple(i for i in row if i) for row in ctc.beam_search(logits, 10_000).tolist()]
    for row, labels in zip(logits, found, strict=True):
        total = labellings(row)
        assert total[labels] == pytest.approx(max(total.values()), rel=1e-9)


def test_a_narrow_beam_seldom_does_worse_than_the_best_path():
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 6, 3)))
    better = 0.0
    for row, wide, narrow in zip(logits, ctc.beam_search(logits, 4).tolist(), ctc.greedy(logits).tolist(), strict=True):
        total = labellings(row)
        better += total[tuple(i for i in wide if i)] - total[tuple(i for i in narrow if i)]
    assert better > 0


def test_error_rates_are_exact_over_the_set_however_it_is_cut():
    rng = np.random.default_rng(1)
    paths = rng.integers(0, 5, (30, 20))
    logits = F.one_hot(torch.from_numpy(paths), 5).float()
    goals = [rng.integers(1, 5, rng.integers(1, 9)).tolist() for _ in paths]
    heard = [best_path(path) for path in paths.tolist()]
    edits = sum(levenshtein(a, b) for a, b in zip(heard, goals, strict=True))
    (rate,) = as_metrics("character_error_rate")
    for size in (1, 7, 30):
        sums = sum(rate.sums(logits[i : i + size], padded(goals)[i : i + size], None) for i in range(0, 30, size))
        assert rate.finish(sums.numpy()) == pytest.approx(edits / sum(map(len, goals)), abs=1e-12)

    def words(row):  # 1 is the space
        return " ".join("".join(" " if i == 1 else chr(96 + i) for i in row).split()).split(" ")

    pairs = [([w for w in words(a) if w], [w for w in words(b) if w]) for a, b in zip(heard, goals, strict=True)]
    by_word = error_rate("word_error_rate", space=1)
    expected = sum(levenshtein(a, b) for a, b in pairs) / sum(len(b) for _, b in pairs)
    assert by_word.finish(by_word.sums(logits, padded(goals), None).numpy()) == pytest.approx(expected, abs=1e-12)


def test_loss_of_logits_and_lengths_equals_torchs_row_by_row():
    torch.manual_seed(0)
    logits, lengths, target = torch.randn(4, 9, 5), torch.tensor([9, 6, 7, 8]), padded([[1, 2], [3], [4, 4], [2, 1, 3]])
    mine = ctc_loss()((logits, lengths), target)
    for i, n in enumerate(lengths.tolist()):
        goal = target[i][target[i] > 0]
        log_p = logits[i, :n].log_softmax(-1)[:, None]
        one = F.ctc_loss(log_p, goal[None], torch.tensor([n]), torch.tensor([len(goal)]), reduction="sum")
        torch.testing.assert_close(mine[i], one / len(goal))
    # frames that are certain to be blank change nothing: the same by masking
    torch.testing.assert_close(ctc_loss()(ctc.only_valid((logits, lengths)), target), mine)


RATE = 8000
TONES = {"a": 500.0, "b": 1200.0, "c": 2400.0}


def beeps(text, rng):
    """Each letter is a tone of its own of some length, a space is silence."""
    parts = []
    for letter in text:
        n = int(rng.integers(700, 1100))
        tone = np.sin(2 * np.pi * TONES[letter] * np.arange(n) / RATE) if letter != " " else np.zeros(n)
        parts += [tone, np.zeros(240)]
    return (np.concatenate(parts) + 0.01 * rng.normal(size=sum(map(len, parts)))).astype(np.float32)


@pytest.fixture(scope="module")
def spoken():
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(120):
        first, second = (rng.choice(list("abc"), rng.integers(1, 3)) for _ in range(2))
        texts.append("".join(first) + " " + "".join(second))
    return {"audio": [beeps(t, rng) for t in texts], "said": texts}


@pytest.fixture(scope="module")
def trained(spoken, tmp_path_factory):
    source = handful.open(spoken, target="said", rate=RATE)
    assert (source.columns["audio"].kind, source.columns["said"].kind) == ("audio", "category")  # few distinct texts
    out = tmp_path_factory.mktemp("ctc") / "run"
    given = {"batch": 16, "lr": 8e-3, "until": "epochs(10)", "seed": 1, "augment": None}
    return handful.fit("audio", source, task="sequence", out=out, quiet=True, **given)


def test_sound_becomes_text_by_ctc(trained, spoken):
    plan = trained.plan.choices
    assert (plan["task"].value, plan["loss"].value) == ("sequence", "ctc")
    assert plan["metrics"].value == "word_error_rate, character_error_rate"
    assert trained.pipeline.classes == (" ", "a", "b", "c")
    scores = trained.evaluate(handful.open(spoken, target="said", rate=RATE))
    said = trained.predict({"audio": spoken["audio"]})
    edits = sum(levenshtein(a, b) for a, b in zip(said, spoken["said"], strict=True))
    assert scores["character_error_rate"] == pytest.approx(edits / sum(map(len, spoken["said"])))
    assert scores["character_error_rate"] < 0.15


def test_error_rate_picks_the_weights_and_a_beam_is_an_option(trained, spoken):
    assert trained.plan.score == "valid_word_error_rate"
    x = {"audio": spoken["audio"][:6]}
    assert trained.predict(x, beams=8).tolist() == trained.pipeline.decode(trained.outputs(x), beams=8).tolist()
    (chunk,) = predicted(trained, x, beams=8)
    assert chunk["prediction"] == trained.predict(x, beams=8).tolist()
    with pytest.raises(handful.HandfulError, match="beams"):
        trained.predict(x, beams=0)


def test_a_saved_sequence_run_hears_the_same_in_another_process(trained, spoken):
    np.save(trained.path / "sound.npy", spoken["audio"][0])
    code = (
        "import sys, json, numpy as np, handful; folder = sys.argv[1]; run = handful.load(folder);"
        "x = {'audio': [np.load(folder + '/sound.npy')]};"
        "print(json.dumps([run.predict(x)[0], run.outputs(x).double().numpy().tobytes().hex()]))"
    )
    out = subprocess.run([sys.executable, "-c", code, trained.path], capture_output=True, text=True, check=True).stdout
    x = {"audio": spoken["audio"][:1]}
    assert json.loads(out) == [trained.predict(x)[0], trained.outputs(x).double().numpy().tobytes().hex()]


def test_free_text_beside_sound_is_a_transcript(spoken):
    texts = [f"{a} {b}" for a, b in zip(spoken["said"], spoken["said"][1:], strict=False)]
    pipeline = fit_pipeline(handful.open((spoken["audio"][1:], texts), rate=RATE), own_model=False)
    assert (pipeline.task, pipeline.space, pipeline.outputs) == ("sequence", 1, 5)
    assert any("characters are to be recognised" in note for note in pipeline.notes)


class Own(torch.nn.Module):
    """Returns (logits, lengths), as speech models do."""

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Conv1d(40, 4, 3, padding=1)

    def forward(self, x):
        return self.out(x).transpose(1, 2), (x != 0).any(1).sum(1)


def test_labels_of_an_own_model_come_back_as_they_were_given(spoken):
    """Integers that are not 1..C; a torch Dataset; a model that returns a pair."""

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, i):
            ids = [10 * "abc".index(c) for c in spoken["said"][i] if c != " "]
            return {"audio": spoken["audio"][i], "labels": np.array(ids)}

    source = handful.open(Items(), target="labels", rate=RATE)
    assert source.columns["audio"].rate == RATE
    run = handful.fit(Own(), source, batch=8, lr=1e-2, until="epochs(2)", valid=8, quiet=True)
    assert run.plan.choices["task"].value == "sequence"
    found = run.predict(source)
    assert found.dtype == object
    assert {int(v) for row in found for v in row} <= {0, 10, 20}
    assert 0 <= run.evaluate(source)["word_error_rate"] <= 2


def test_a_label_that_training_did_not_have_is_named(trained, spoken):
    with pytest.raises(handful.HandfulError, match=r"'said' is 'z' in row 1 .* a class that the training rows do not"):
        trained.evaluate(handful.open({**spoken, "said": ["a b", "z", *spoken["said"][2:]]}, target="said", rate=RATE))
