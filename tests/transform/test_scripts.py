"""Text in scripts that set no blanks between words: a column of it is a text, and its letters are the tokens."""

import csv
import random
from pathlib import Path

import pytest

import handful
from handful.transform.steps.text import UNKNOWN, Tokenize

WORDS = {  # (words of praise, words of blame, others)
    "chinese": ("好 棒 喜欢 精彩 美味", "差 烂 讨厌 无聊 难吃", "这 家 餐厅 的 服务 电影 我 觉得 非常 今天 和 朋友"),
    "japanese": (
        "すばらしい おいしい",
        "ひどい つまらない",
        "この みせ の サービス は きょう ともだち と えいが",
    ),
    "thai": ("อร่อย ชอบ", "แย่ เกลียด", "ร้าน อาหาร วันนี้ ฉัน ไป กับ เพื่อน หนัง"),
}


def sentences(language: str, n: int = 300) -> list[tuple[str, str]]:
    rng = random.Random(0)
    good, bad, others = (words.split() for words in WORDS[language])
    rows = []
    for i in range(n):
        words = rng.choices(others, k=7)
        words.insert(rng.randrange(7), rng.choice((bad, good)[i % 2]))
        rows.append(("".join(words), ("blame", "praise")[i % 2]))
    return rows


@pytest.mark.parametrize("language", WORDS)
def test_it_is_found_learnt_and_predicted(language: str, tmp_path: Path) -> None:
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *sentences(language)])
    source = handful.open(tmp_path / "t.csv")
    assert source.columns["text"].kind == "text"
    given = {"batch": 16, "lr": 0.01, "until": "epochs(6)", "augment": None, "quiet": True}
    run = handful.fit("auto", tmp_path / "t.csv", target="label", **given)
    assert run.scores["valid_accuracy"] > 0.9
    text, label = sentences(language)[1]
    assert run.predict(text).tolist() == [label]
    lines = (tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    for name, part in (("a.csv", lines[:150]), ("b.csv", [lines[0], *lines[150:]])):
        (tmp_path / name).write_text("\n".join(part), encoding="utf-8")
    parts = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert handful.prepare(parts, tmp_path / "store").columns["text"].kind == "text"


@pytest.mark.parametrize("language", WORDS)
def test_a_letter_with_its_marks_is_a_token_and_words_between_blanks_stay_whole(language: str) -> None:
    texts = [text + " and words" for text, _ in sentences(language)]
    step = Tokenize().fit([texts])
    ids = step.ids(texts[0])
    assert len(ids) > len(texts[0]) / 4
    assert (ids != UNKNOWN).all()
    assert step.text(ids).endswith("and words")
    assert step.text(ids).replace(" ", "") == texts[0].replace(" ", "")
