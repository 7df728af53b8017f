"""Tables on the terminal: plain when piped, fitted to the width, with the user's strings as they are."""

import io
import re

import pytest
from rich.cells import cell_len

from handful.base.plan import Choice, Plan
from handful.report.document import choices_html, table_html
from handful.report.live import Live
from handful.report.tables import Grid, print_choices, text_table
from handful.report.words import say_score


class Terminal(io.StringIO):
    def isatty(self):
        return True


LONG = "the smallest batch with at least 90% of the peak throughput, measured three times on this machine"
CHOICES = {"micro_batch": Choice(64, "measured", LONG), "classes": Choice(("[red]cat", "\x1b[31mdog"), "found", "")}


def test_piped_output_has_no_codes_and_is_not_cut():
    out = io.StringIO()
    print_choices(CHOICES, file=out)
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["choice", "value", "status", "reason"]
    assert lines[1].split()[:4] == ["micro", "batch", "64", "measured"]
    assert lines[1].endswith(LONG)
    assert "\x1b" not in out.getvalue()
    assert "[red]cat" in lines[2]


@pytest.mark.parametrize("width", [50, 70, 100])
def test_a_given_width_is_kept_and_no_word_lost(width):
    out = io.StringIO()
    print_choices(CHOICES, file=out, width=width)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= max(width, lines[0].index("reason") + 24)
    assert " ".join(LONG.split()) in " ".join(" ".join(line[lines[0].index("reason") :] for line in lines).split())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_gets_a_table_that_fits(width):
    out = Terminal()
    print_choices(CHOICES, file=out, width=width)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert max(map(cell_len, plain.splitlines())) <= width
    assert "[red]cat" in plain  # shown, not obeyed
    assert "\x1b[31mdog" not in out.getvalue()
    assert "machine" in plain


def test_numbers_are_aligned_and_wide_characters_counted():
    text = text_table([{"name": "猫", "rows": 5}, {"name": "cat", "rows": 12345}])
    assert text.splitlines() == ["name    rows", "猫         5", "cat   12,345"]


def test_years_are_written_as_they_are():
    rows = [{"built": year, "value": value} for year, value in ((1987, 1234.0), (None, 12345.0))]
    assert text_table(rows).splitlines() == ["built   value", " 1987   1,234", "       12,345"]
    assert ">1987<" in table_html(Grid.of(rows))
    assert ">1,234<" in table_html(Grid.of(rows))


def test_ragged_and_empty_rows():
    assert text_table([]) == ""
    assert text_table([{"a": 1}, {"b": "x"}]).splitlines() == ["a  b", "1", "   x"]
    out = io.StringIO()
    Grid.of([]).print(out)
    assert out.getvalue() == ""


def test_scores_are_in_words():
    scores = {"valid_accuracy": 0.978, "valid_loss": 0.0831}
    assert [say_score(name, value) for name, value in scores.items()] == ["accuracy 97.8%", "loss 0.0831"]
    out = io.StringIO()
    Grid(["score", "value"], [["accuracy", 0.978], ["loss", 0.0831]]).print(out)
    assert out.getvalue().splitlines() == ["score      value", "accuracy   0.978", "loss      0.0831"]


def test_the_choices_of_a_plan_are_the_same_on_a_terminal_in_a_table_and_on_a_page():
    plan, table, live = Plan({"batch": Choice(1, "given", "as asked")}), io.StringIO(), io.StringIO()
    print_choices(plan.choices, file=table)
    Live(None, file=live, verbose=True).start(plan.choices)
    assert table.getvalue() == live.getvalue() == "choice  value  status  reason\nbatch   1      given   as asked\n"
    assert re.findall("<td>(.*?)</td>", choices_html(plan.choices)) == [
        "batch", "1", '<span class="status given">given</span>', "as asked",
    ]  # fmt: skip
    assert choices_html({}).strip() == "<p>No choices were recorded.</p>"
