"""A text larger than memory: the same characters and tokens as in one string, in bounded memory."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import handful
from handful.base.errors import HandfulError
from handful.data import text as module
from handful.transform import language as running
from handful.transform.language import language_source
from handful.transform.steps.text import Tokenize

LINES = ["The quick brown fox", "", "  indented, it's größer", "jumps over\u00a0", "12 lazy dogs!", "\t", "end."]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(module, "_PIECE", 50)


def long_text(n=400, seed=0):
    return "\n".join(np.random.default_rng(seed).choice(LINES, n))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_rows_joined_by_newlines_are_the_document(tmp_path, small, newline, ending, mark):
    text = long_text() + ending
    (tmp_path / "a.txt").write_text(mark + text, encoding="utf-8", newline=newline)
    source = handful.open(tmp_path / "a.txt")
    assert len(source) > 20
    assert not source.in_memory
    rows = source.take(range(len(source)))["text"]
    assert "\n".join(rows) == text
    assert f"{len(text):,} characters" in source.notes[0]
    store = handful.prepare(tmp_path / "a.txt", tmp_path / "store")
    assert store.take(range(len(store)))["text"] == rows


def test_one_line_without_an_end_is_one_row(tmp_path, small):
    (tmp_path / "a.txt").write_text("word " * 500)
    source = handful.open(tmp_path / "a.txt")
    assert source.take([0])["text"] == ["word " * 500]
    assert len(source) == 1


@pytest.mark.parametrize("mode", ["character", "word", "bpe"])
def test_tokens_do_not_depend_on_the_pieces(tmp_path, monkeypatch, mode):
    (tmp_path / "a.txt").write_text(long_text(3000), encoding="utf-8")
    whole, whole_valid = language_source(handful.open(tmp_path / "a.txt"), 16, tokenize=Tokenize(mode, size=400))
    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(module, "_PIECE", 50)
    monkeypatch.setattr(running, "_CHARACTERS", 500)
    monkeypatch.setattr(running, "LARGE", 1000)  # tokens go to a file
    cut, cut_valid = language_source(handful.open(tmp_path / "a.txt"), 16, tokenize=Tokenize(mode, size=400))
    assert cut.tokenizer.model == whole.tokenizer.model
    assert (cut.tokens == whole.tokens).all()
    assert (cut_valid.tokens == whole_valid.tokens).all()
    assert isinstance(cut.tokens, np.memmap)
    rows = np.array([5, 0, 7])
    assert (cut.take(rows)["x"] == whole.take(rows)["x"]).all()


def test_a_byte_that_is_not_utf8_is_named_by_its_place(tmp_path, small):
    text = long_text().encode()
    (tmp_path / "a.txt").write_bytes(text[:4321] + b"\xff" + text[4321:])
    with pytest.raises(HandfulError, match=r"byte 0xff at 4,321"):
        handful.open(tmp_path / "a.txt")


def test_memory_does_not_grow_with_the_text(tmp_path):
    """Three times the text, prepared and made windows of: the same peak of memory that the process has to itself."""
    script = textwrap.dedent(
        """
        import sys, threading, time, handful
        from handful.data.store import chunks as feed
        from handful.data import text
        from handful.transform import language as running
        from handful.transform.language import language_source
        from handful.transform.steps.text import Tokenize
        text.LARGE = running.LARGE = 4 << 20
        feed.CHUNK = 1 << 20  # so that as many are held of the small text as of the large one

        def own():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

        def watch():
            while not done:
                most[-1] = max(most[-1], own())
                time.sleep(0.005)

        tokenize = Tokenize("character").fit([["abcdef ghij\\n"]])
        most, done = [0], []
        thread = threading.Thread(target=watch)
        thread.start()
        for name in ("small", "small2", "large"):
            most.append(0)
            store = handful.prepare(f"{sys.argv[1]}/{name}.txt", f"{sys.argv[1]}/{name}")
            rows, _ = language_source(store, tokenize=tokenize)
        done.append(1)
        thread.join()
        print(*most[2:], len(rows.tokens) * 10 // 9)
        """
    )
    line = "to be or not to be, that is the question\n"
    for name, count in (("small", 250_000), ("small2", 250_000), ("large", 750_000)):
        (tmp_path / f"{name}.txt").write_text(line * count)
    size = (tmp_path / "large.txt").stat().st_size
    run = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, stdout=subprocess.PIPE, text=True)
    small, large, tokens = map(int, run.stdout.split())
    assert tokens == pytest.approx(size, rel=0.01)
    assert large * 1024 < small * 1024 + size / 3
