"""Advice: tested sizes only, one readable table, a page that opens offline, nothing left behind."""

import re

import pytest
import torch

import handful
from handful.base.errors import HandfulError

from .conftest import digits, mlp


@pytest.fixture(scope="module")
def advice():
    return handful.advise(mlp(), digits(), until="epochs(60)")


def test_every_number_has_a_status_and_was_run(advice):
    assert advice.batch in advice.throughput.sizes
    assert advice.throughput.tested
    assert {c.status for c in advice.reasons.values()} <= {"measured", "bounded", "default"}
    assert advice.lr > 0
    assert advice.memory.largest >= 1
    assert [row["batch"] for row in advice.table] == list(advice.throughput.sizes)
    assert sum(row["verdict"] == "advised" for row in advice.table) == 1
    assert min(row["relative_time"] for row in advice.table) == pytest.approx(1.0)
    for row in advice.table:
        assert row["examples_per_second"] == pytest.approx(row["batch"] / row["seconds"])


def test_it_prints_as_a_table_a_person_can_read(advice):
    lines = str(advice).splitlines()
    assert lines[0].split("  ")[0] == "batch"
    assert "advised" in str(advice)
    assert f"batch {advice.batch}" in str(advice)
    assert "noise scale" in str(advice)


def test_the_page_holds_the_pictures_and_needs_no_network(advice, tmp_path):
    page = advice.report(tmp_path / "advice.html").read_text()
    for title in ("Throughput", "Gradient noise", "Predicted time to a target", "Learning rate"):
        assert title in page
    assert "at most 10% longer" in page
    assert not re.search(r'(src|href)="https?:', page)


def test_the_model_is_left_as_it_was():
    model = mlp()
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    handful.advise(model, digits(), until="epochs(3)")
    assert torch.equal(state, torch.get_rng_state())
    for p, b in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, b)


def test_a_misspelt_option_is_one_sentence():
    with pytest.raises(HandfulError, match="optimizer"):
        handful.advise(mlp(), digits(), optimiser="sgd")
