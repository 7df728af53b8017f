"""The text model from raw sentences to predictions, for every kind of target."""

import numpy as np
import pytest

import handful
from handful.data.base import Column

FILMS = ["a moving film", "a dull film", "moving but dull", "not dull", "very moving"] * 12


def targets(task):
    dull = np.array(["dull" in text for text in FILMS], dtype=np.int64)
    moving = np.array(["moving" in text for text in FILMS], dtype=np.int64)
    return {
        "classification": [("neither", "dull", "moving", "both")[d + 2 * m] for d, m in zip(dull, moving)],
        "regression": np.round(moving - 0.5 * dull + 0.01 * np.arange(len(dull)), 2),
        "multilabel": np.stack([dull, moving], 1),
    }[task]


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_every_kind_of_target_is_learnt_and_predicted_alike_after_a_reload(task, tmp_path):
    data = {"text": FILMS, "y": targets(task)}
    source = handful.open(data, target="y", columns={"text": Column("text", "str")})
    run = handful.fit(
        "text", source, task=task, batch=8, lr=1e-2, until="epochs(8)", valid=None, quiet=True, out=tmp_path / "run"
    )
    new = ["not a moving film", "dull", "", "words nobody has seen"]
    before = run.outputs(new)
    assert before.isfinite().all()
    assert handful.load(tmp_path / "run").outputs(new).equal(before)
    scores = run.evaluate(source)
    assert scores["r2"] > 0.5 if task == "regression" else min(v for k, v in scores.items() if k != "loss") > 0.9


def test_a_text_of_thousands_of_words_among_short_ones_does_no_harm():
    long = " ".join(f"word{i % 400}" for i in range(6000))
    texts, y = [f"good {i}" if i % 2 else f"bad {i}" for i in range(60)] + [long], [i % 2 for i in range(61)]
    given = {"batch": 8, "lr": 1e-2, "until": "epochs(6)", "valid": None, "augment": None, "quiet": True}
    run = handful.fit("text", {"text": texts, "y": y}, **given)
    assert run.predict(["good 3", "bad 4"]).tolist() == [1, 0]
    assert run.outputs([long]).isfinite().all()
