"""Shared settings: on a shared machine no test may fail because a moment was slow; and promises to the bit are tested
on the CPU, also where there is a GPU. `make test-cuda` runs tests/test_cuda.py with the GPU in sight."""

import io
import os
import signal
import sys

import pytest
from hypothesis import settings

if "HANDFUL_TEST_CUDA" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell: tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # started by nohup: tests hang up
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from handful.cli import main

settings.register_profile("handful", deadline=None)
settings.load_profile("handful")


@pytest.fixture(autouse=True, scope="session")
def no_wait_for_the_disk():
    """No test loses power, and a process that is killed loses nothing that it has written: 4 ms a file are saved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def own_handlers():
    """The command's handlers of signals go with the test that calls it."""
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def command(monkeypatch, capsys):
    """The command in this process: (exit status, standard output, standard error)."""

    def run(*arguments, stdin=None):
        monkeypatch.setattr(sys, "argv", ["handful", *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
