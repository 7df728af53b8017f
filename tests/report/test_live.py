"""Live progress: cheap, one line on a terminal, plain elsewhere, never in the way of the run."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from handful.base.plan import Choice
from handful.report import live as module
from handful.report.live import Live

ROW = {"position": 500, "step": 10, "epoch": 0.5, "seconds": 1.0, "batch": 50, "lr": 1e-3, "train_loss": 0.25}


class Clock:
    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_plain_lines_one_an_evaluation_and_one_every_thirty_seconds(clock):
    out = io.StringIO()
    live = Live(1000, file=out)
    for i in range(1, 100):  # 99 seconds, a row every second
        clock.now += 1
        live.update(ROW | {"position": i * 10})
        if i == 45:
            live.evaluation(ROW | {"position": 450, "valid_accuracy": 0.9, "valid_loss": 0.3})
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["30%", "45%", "75%"]
    assert lines[0] == "30%  loss 0.25  epoch 0.5  batch 50  lr 0.001"
    assert "accuracy 90.0%  held-out loss 0.3" in lines[1]
    assert "accuracy 90.0%" in lines[2]  # the last evaluation stays in sight
    assert "examples/s" in lines[2]
    assert "left" in lines[2]


def test_speed_and_time_left_are_of_the_last_seconds(clock):
    out = io.StringIO()
    live = Live(10_000, file=out)
    for i in range(11):
        clock.now += 1
        live.evaluation({"position": i * 200})
    assert out.getvalue().splitlines()[-1] == "20%  40 s left  200 examples/s"
    live.evaluation({"position": 2000, "examples_per_second": 0.0, "valid_accuracy": 0.9})  # a last look: no step
    assert out.getvalue().splitlines()[-1] == "20%  accuracy 90.0%"


def test_a_run_without_a_limit_counts_examples(clock):
    out = io.StringIO()
    Live(None, file=out).evaluation({"position": 1_234_567})
    assert out.getvalue() == "1.2 M examples\n"


def test_a_hundred_per_cent_means_done(clock):
    out = io.StringIO()
    live = Live(1000, file=out)
    live.evaluation({"position": 999})
    live.evaluation({"position": 1000})
    assert out.getvalue().split()[0] == "99%"
    assert "100%" in out.getvalue()


def test_quiet_is_silent_and_closed_is_closed(clock):
    out = io.StringIO()
    with Live(10, quiet=True, file=out) as live:
        live.start({"batch": Choice(1, "given")}, ["a note"])
        live.update(ROW)
        live.evaluation(ROW)
        live.note("note")
        live.close("done")
    assert out.getvalue() == ""
    out = io.StringIO()
    live = Live(10, file=out)
    live.close("done")
    live.close("again")
    clock.now += 100
    live.update(ROW)
    live.evaluation(ROW)
    assert out.getvalue() == "stopped: done\n"


def test_start_prints_every_choice_and_note(clock):
    out = io.StringIO()
    live = Live(None, file=out, verbose=True)
    live.start({"batch": Choice(64, "measured", "fast")}, ["3 rows were dropped"], 1000, "€")
    live.evaluation({"position": 250, "valid_mae": 1.5})
    assert "batch   64     measured  fast" in out.getvalue()
    assert "note: 3 rows were dropped" in out.getvalue()
    assert "25%  mean absolute error 1.5 €" in out.getvalue()


def test_an_update_between_two_drawings_costs_next_to_nothing():
    live = Live(1000, file=io.StringIO())
    best = min(timed(live) for _ in range(7))
    assert best < 20 * nothing()


def nothing(n=20_000):
    """Seconds of a call that does nothing."""
    started = time.thread_time()
    for _ in range(n):
        len(ROW)
    return (time.thread_time() - started) / n


def timed(live, n=20_000):
    started = time.thread_time()
    for _ in range(n):
        live.update(ROW)
    return (time.thread_time() - started) / n


def test_rich_is_not_imported_before_it_is_needed():
    code = (
        "import sys, handful.report.live as m; live = m.Live(10); live.update({'position': 1}); live.close();"
        "sys.exit(any(name == 'rich' or name == 'torch' for name in sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_a_reader_who_leaves_does_not_end_the_run():
    read, write = os.pipe()
    out = open(write, "w", encoding="utf-8")  # noqa: SIM115
    os.close(read)
    live = Live(10, file=out)
    live.evaluation(ROW)  # a broken pipe
    live.evaluation(ROW)
    live.close("done")
    with pytest.raises(BrokenPipeError):
        out.close()
    closed = io.StringIO()
    live = Live(10, file=closed)
    closed.close()
    live.evaluation(ROW)
    live.close("done")


def test_a_narrow_alphabet_is_no_error():
    raw = io.BytesIO()
    live = Live(10, file=io.TextIOWrapper(raw, encoding="ascii"))
    live.note("naïve µ")
    live.start({"lr": Choice("µ", "given", "ein Maß")})
    assert b"na?ve ?" in raw.getvalue()


SCRIPT = """
import sys, time
from handful.report.live import Live
with Live(1000) as live:
    for i in range(1, 1001):
        live.update({"position": i, "step": i, "epoch": i / 500, "batch": 1, "lr": 1e-3, "train_loss": 1 / i})
        if i == 500:
            live.evaluation({"position": i, "valid_accuracy": 0.9})
            live.note("[red]half way[/]")
        time.sleep(%s)
    live.close("all done")
"""


def on_a_terminal(pause, *, columns=100, interrupt=False, term="xterm"):
    """What the script writes to a terminal of its own, and its exit status."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
    env |= {"TERM": term, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen([sys.executable, "-c", SCRIPT % pause], stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    seen, sent = b"", False
    while True:
        ready, _, _ = select.select([master], [], [], 30)
        if not ready:
            child.kill()
            break
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
        if interrupt and not sent and b"loss" in seen:
            child.send_signal(signal.SIGINT)
            sent = True
    status = child.wait(30)
    os.close(master)
    return seen.decode(), status


def test_a_terminal_gets_one_line_and_is_given_back():
    text, status = on_a_terminal(0.001)
    assert status == 0
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is hidden, then shown again
    assert "[red]half way[/]" in text  # printed above the line, as it is
    assert text.rstrip().endswith("stopped: all done")
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    drawn = [line for line in re.split(r"[\r\n]+", visible) if "loss" in line]
    assert 2 <= len(drawn) <= 60  # throttled: not one of a thousand updates each
    assert all(len(line) <= 100 for line in drawn)
    assert any("accuracy 90.0%" in line for line in drawn)


def test_a_narrow_terminal_gets_what_fits():
    text, _ = on_a_terminal(0.0003, columns=40)
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    drawn = [line for line in re.split(r"[\r\n]+", visible) if "loss" in line]
    assert drawn
    assert all(len(line) <= 40 for line in drawn)


def test_an_interrupt_gives_the_terminal_back():
    text, status = on_a_terminal(0.005, interrupt=True)
    assert status != 0
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "stopped: interrupted" in text


def test_a_dumb_terminal_gets_plain_lines():
    text, _ = on_a_terminal(0.0001, term="dumb")
    assert "\x1b" not in text
    assert "stopped: all done" in text
