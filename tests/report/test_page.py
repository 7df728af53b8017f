"""Pages: self-contained, safe with any string, whole with any history."""

import base64
import gzip
import io
import json
import math
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from handful.base.errors import HandfulError
from handful.base.plan import Choice, Plan
from handful.report.document import Page, Section, picture_grid, table_html
from handful.report.figure import DASHES, PALETTE, Band, Line, Marker, figure_lines, thin
from handful.report.page import Judged, curves, headline, main_score, run_page, speed
from handful.report.tables import Grid
from handful.report.truth import figure_matrix

EVIL = "<script>alert(1)</script>\"'&</style><!--"


class Reader(HTMLParser):
    """What a browser would see: elements with attributes, and the text of scripts, styles and all the rest."""

    VOID = {"meta", "link", "img", "br", "input", "hr"}

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.text, self.scripts = [], [], "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += data

    def find(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and attributes.items() <= a.items()]


def history(rows):
    out = []
    for i in range(rows):
        row = {"step": i + 1, "position": (i + 1) * 64, "epoch": (i + 1) / 20, "seconds": 0.1 * (i + 1), "batch": 64}
        row |= {"lr": 1e-3 / (i + 1), "train_loss": 2.0 * 0.97**i, "train_accuracy": 1 - 0.9 * 0.97**i}
        if i % 10 == 9:
            row |= {"valid_loss": 2.2 * 0.97**i, "valid_accuracy": 1 - 0.92 * 0.97**i}
        out.append(row)
    return out


def report(path, rows=(), **changes):
    told = {"title": "digits", "plan": {}, "history": rows, "scores": {}, "stopped_because": "40 epochs are done"}
    return run_page(**(told | changes)).write(path / "report.html").read_text(encoding="utf-8")


def specs(page):
    return [json.loads(s) for s in Reader(page).scripts if s.startswith('{"data"')]


def full(path):
    figures = [
        figure_matrix([[5, 1], [2, 7]], [EVIL, "dog"], EVIL),
        figure_lines(
            EVIL, EVIL, EVIL, [Line(EVIL, [1, 2], [3, 4])], bands=[Band(EVIL, [1, 2], [2, 3], [4, 5])],
            markers=[Marker(EVIL, 1, 3)],
        ),
    ]  # fmt: skip
    plan = Plan({"classes": Choice((EVIL,), "found", EVIL), "batch": Choice(64, "measured", "fast")})
    return report(
        path, history(60), title=EVIL, plan=plan.choices, notes=[EVIL], stopped_because=EVIL,
        scores={"valid_accuracy": 0.978},
        details=[*figures, table_html(Grid.of([{EVIL: EVIL}]), caption=EVIL)],
        pictures=[picture_grid(np.zeros((1, 3, 4, 4), np.uint8), [EVIL], title=EVIL)],
    )  # fmt: skip


def test_a_page_asks_the_network_for_nothing(tmp_path):
    reader = Reader(full(tmp_path))
    for tag, attributes in reader.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href", "style"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, name, value)
    assert reader.find("script", src=None) == []
    policy = reader.find("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"  # what is not named below, connections and fonts too, is refused
    for rule in ("script-src", "style-src", "img-src", "media-src"):
        assert set(rules[rule].split()) <= {"'unsafe-inline'", "data:", "blob:"}
    assert set(rules) <= {"default-src", "script-src", "style-src", "img-src", "media-src", "base-uri", "form-action"}
    style = re.search("<style>(.*?)</style>", full(tmp_path), re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style


def test_the_script_in_the_page_is_plotlys_own_once(tmp_path):
    from plotly.offline import get_plotlyjs

    page = full(tmp_path)
    packed = re.findall('<script type="text/plain" id="plotly">(.*?)</script>', page)
    assert len(packed) == 1
    assert gzip.decompress(base64.b64decode(packed[0])).decode() == get_plotlyjs()
    assert len(page) < 3_000_000


def test_no_string_of_the_user_becomes_markup(tmp_path):
    page = full(tmp_path)
    reader = Reader(page)
    assert reader.open == []  # everything that was opened is closed
    assert not any("alert(1)" in script and not script.startswith('{"data"') for script in reader.scripts)
    assert reader.text.count("<script>alert(1)") >= 8  # title, headline, table, choices, notes, captions: as text
    assert len(reader.find("script")) == len(specs(page)) + 2
    for spec in specs(page):
        for text in strings(spec):
            assert "<script" not in text  # Plotly reads a few tags in its labels: it gets entities


def strings(value):
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    return [s for v in value for s in strings(v)] if not isinstance(value, int | float | None) else []


def test_the_page_says_the_result_and_every_choice(tmp_path):
    plan = Plan({"batch": Choice(256, "measured", "goodput is highest"), "seed": Choice(0, "default", "replays")})
    page = report(tmp_path, history(480), plan=plan.choices, scores={"valid_accuracy": 0.978},
                  held_out=Judged(180, interval=(0.944, 0.991)))  # fmt: skip
    text = Reader(page).text
    assert "Accuracy 97.8% on 180 held-out rows after 24 epochs, 48 s." in text
    assert "The best of 48 looks at 180 held-out rows; on other such rows one expects 94.4% to 99.1%" in text
    assert "Stopped: 40 epochs are done." in text
    why = "valid_loss has not improved for 8 evaluations (best 0.1 at epoch 9), train_accuracy reached 0.9"
    said = Reader(report(tmp_path, history(480), stopped_because=why)).text
    assert "Stopped: held-out loss has not improved for 8 evaluations (best 0.1 at epoch 9), training accuracy" in said
    given = {"data": Choice("/home/me/prices.csv", "given")}
    noted = report(tmp_path, history(480), plan=given, notes=["2 rows of /home/me/prices.csv are left out"])
    assert ("2 rows of prices.csv are left out." in noted, "/home/me" in noted) == (True, False)
    for word in ("batch", "256", "measured", "goodput is highest", "seed", "default", "replays"):
        assert word in text


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_short_histories(tmp_path, rows):
    page = report(tmp_path, history(rows))
    assert Reader(page).open == []
    assert len(specs(page)) == (0, 0, 3)[rows]  # one moment is no curve; loss, accuracy, learning rate


def test_headline_without_scores_or_history():
    assert headline([], {}) == "No score."
    assert headline([], {"train_loss": 0.5}) == "Training loss 0.5."
    assert main_score({"train_accuracy": 1, "valid_loss": 1, "valid_f1": 1}) == "valid_f1"


def test_losses_that_are_not_finite_are_marked_gaps(tmp_path):
    rows = history(50)
    rows[20]["train_loss"], rows[21]["train_loss"], rows[0]["train_loss"] = math.nan, math.inf, -math.inf
    page = report(tmp_path, rows)
    line, cross = specs(page)[0]["data"][:2]
    assert [i for i, y in enumerate(line["y"]) if y is None] == [0, 20, 21]
    assert line["connectgaps"] is False
    assert cross["text"] == ["minus infinite", "not a number", "infinite"]
    assert cross["x"] == [64, 21 * 64, 22 * 64]
    assert all(math.isfinite(y) for y in cross["y"])
    assert "not finite at 3 of 50 points, first minus infinite at 64 examples" in Reader(page).text


def test_a_history_of_nothing_but_nan(tmp_path):
    page = report(tmp_path, [{"step": 1, "train_loss": math.nan}, {"step": 2, "train_loss": None}])
    assert specs(page)[0]["data"][1]["y"] == [1.0, 1.0]
    assert "no finite value" in page


def test_long_histories_are_thinned_and_keep_their_extremes(tmp_path):
    rng = np.random.default_rng(0)
    loss = rng.uniform(1, 2, 100_000)
    loss[31_415], loss[92_653] = 9.0, 0.5
    rows = [{"step": i, "position": i * 32, "seconds": i * 0.01, "train_loss": v} for i, v in enumerate(loss)]
    page = report(tmp_path, rows)
    assert len(page) < len(report(tmp_path, rows[:2000])) + 1_000_000  # and not 50 times as long
    line = specs(page)[0]["data"][0]
    assert 1000 < len(line["y"]) <= 2002
    assert (max(line["y"]), min(line["y"])) == (9.0, 0.5)
    assert line["x"][line["y"].index(9.0)] == 31_415 * 32
    assert (line["x"][0], line["x"][-1]) == (0, 99_999 * 32)
    assert "of 100,000 points are drawn, extremes kept" in page
    assert len(page) < 4_000_000


@pytest.mark.parametrize("n", [1, 2000, 2001, 2003, 4999, 100_000])
def test_thin_against_a_plain_search(n):
    y = np.random.default_rng(n).standard_normal(n)
    kept = thin(y)
    assert len(kept) <= 2002
    assert (np.diff(kept) > 0).all()
    assert {0, n - 1, int(y.argmin()), int(y.argmax())} <= set(kept.tolist())
    gaps = y.copy()
    gaps[n // 2] = np.nan
    assert n // 2 in thin(gaps)
    assert len(thin(np.full(n, np.nan))) <= 2002


def test_the_reader_may_choose_the_x_axis(tmp_path):
    page = report(tmp_path, history(20))
    assert [a["value"] for a in Reader(page).find("input")] == ["examples", "steps", "epochs", "seconds"]
    loss = specs(page)[0]
    assert len(loss["xs"]) == len(loss["data"])
    assert loss["xs"][0]["steps"] == list(range(1, 21))
    assert loss["data"][0]["x"] == loss["xs"][0]["examples"]
    assert "<fieldset" not in report(tmp_path, [{"step": 1, "train_loss": 1.0}])  # nothing to choose


def test_the_loss_axis_is_logarithmic_when_it_spans_more_than_ten_times():
    def axis(values):
        return curves([{"step": i, "train_loss": v} for i, v in enumerate(values)])[0].spec["layout"]["yaxis"]["type"]

    assert axis([1.0, 0.11]) == "linear"
    assert axis([1.0, 0.09]) == "log"
    assert axis([1.0, 0.0]) == "linear"
    assert axis([1.0, 0.09, math.nan]) == "log"


def test_what_a_log_axis_cannot_show_is_said():
    figure = figure_lines("t", "x", "y", [Line("a", [1, 2, 3], [1.0, 0.0, -1.0])], log_y=True)
    assert figure.spec["data"][0]["y"] == [1.0, None, None]
    assert figure.notes == ["a: 2 values of zero or less are not shown on the log axis."]


def test_the_best_held_out_score_is_marked_the_right_way_round():
    rows = [{"step": i, "valid_loss": v, "valid_accuracy": v, "valid_wonder": v} for i, v in enumerate([2.0, 1.0, 3.0])]
    at = {f.title: [t["x"] for t in f.spec["data"] if t["mode"] == "markers+text"] for f in curves(rows)}
    assert at == {"Loss": [[1.0]], "Accuracy": [[2.0]], "Wonder": []}  # of a wonder nobody knows which way is better


def test_the_look_that_was_kept_is_marked_in_every_figure():
    pairs = [(3.0, 0.5), (2.0, 0.9), (1.0, 0.8), (1.5, 0.8)]  # that of the lowest loss, not of the highest accuracy
    rows = [{"step": i, "valid_loss": loss, "valid_accuracy": share} for i, (loss, share) in enumerate(pairs)]
    found = curves(rows, scores={"valid_loss": 1.0, "valid_accuracy": 0.8})
    marked = {f.title: [(t["x"], t["text"]) for t in f.spec["data"] if t["mode"] == "markers+text"] for f in found}
    assert marked == {"Loss": [([2.0], ["best 1"])], "Accuracy": [([2.0], ["kept 80.0%"])]}


@pytest.mark.parametrize(("y", "own"), [([0.56, 0.69], True), ([0.5, 0.5], False), ([0.1, 0.9], False)])
def test_a_log_axis_of_little_span_has_the_ticks_that_fit_it(y, own):
    axis = figure_lines("t", "x", "y", [Line("a", [1, 2], y)], log_y=True).spec["layout"]["yaxis"]
    assert ("dtick" not in axis) == own  # of 1, 2 and 5 there may be none between 0.56 and 0.69


def test_a_log_axis_of_a_loss_that_runs_away_has_powers_of_ten():
    def form(y):
        return figure_lines("t", "x", "y", [Line("a", [1, 2], y)], log_y=True).spec["layout"]["yaxis"]["tickformat"]

    assert form([2.0, 2e6]) == "~s"
    assert form([2.0, 2e25]) == "~g"  # not 20Y


def test_a_smoothed_line_does_not_lag():
    y = [1.0 / k for k in range(1, 201)]
    line = curves([{"step": k, "train_loss": v} for k, v in enumerate(y)])[0].spec["data"]
    smoothed = next(t["y"] for t in line if t.get("name", "").endswith("smoothed"))
    assert smoothed == pytest.approx(y)  # the mean of those before was twice as high


def test_text_of_several_lines_can_have_lines_of_its_own():
    text = "a film that " + "goes on and " * 9 + "ends"
    page = table_html(Grid(["row", "text"], [[1, text], [2, None]]))
    assert '<table class="told">' in page
    assert f'<td class="long">{text}</td>' in page
    assert page.count('class="long"') == 3
    assert 'class="told"' not in table_html(Grid(["row", "text"], [[1, "short"]]))


def test_a_long_name_of_a_column_is_broken_into_lines():
    name = "temperature <of> the northern hall at noon"
    broken = '<div class="name">temperature &lt;of&gt; the northern hall at noon</div></th>'
    assert broken in table_html(Grid([name, "row"], [[1.5, 2]]))


def test_speed_is_examples_over_seconds():
    kept, rate = speed([{"position": 0, "seconds": 0.0}, {"position": 640, "seconds": 2.0}, {"step": 3}])
    assert (kept.tolist(), rate.tolist()) == ([1], [320.0])
    kept, rate = speed([{"examples_per_second": 5.0}, {}, {"examples_per_second": 7.0}])
    assert (kept.tolist(), rate.tolist()) == ([0, 2], [5.0, 7.0])
    look = {"position": 128, "seconds": 1.0, "valid_loss": 1.0}  # what is logged first where rates were compared before
    steps = [{"position": 128 + 16 * k, "seconds": 1.0 + 0.1 * (k - 1), "lr": 0.1} for k in (1, 2, 3)]
    assert speed([look, *steps])[1] == pytest.approx([160.0, 160.0])


def test_every_figure_has_its_numbers_as_a_table(tmp_path):
    page = report(tmp_path, history(30))
    figures = re.findall(r'<figure class="chart.*?</figure>', page, re.DOTALL)
    assert len(figures) == len(specs(page)) == 4
    for figure in figures:
        assert "<table>" in figure
        assert re.search('role="group" aria-label="[^"]{20,}"', figure)
    row = re.search(r"<tr>(.*?)</tr>", figures[0][figures[0].index("<tbody>") :]).group(1)
    cells = [re.sub("<.*?>", "", cell) for cell in row.split("</td>")]
    assert cells == ["64", "1", "0.05", "0.1", "2", "", ""]


def test_figures_are_valid_plotly():
    import plotly.graph_objects as go

    matrix = figure_matrix(np.arange(100 * 100).reshape(100, 100), [f"c{i}" for i in range(100)], "big")
    assert len(matrix.spec["data"][0]["z"]) == 60
    assert "60 with most errors" in matrix.notes[0]
    assert matrix.table.rows[0][2] == 9998  # row 99, column 98: the largest off the diagonal
    for figure in [*curves(history(40)), matrix]:
        go.Figure(figure.spec)  # raises on any name or value that Plotly does not know


def test_confusion_shares_against_numpy():
    counts = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    figure = figure_matrix(counts, ["a", "a", "never"], "m")  # equal names must not be merged
    np.testing.assert_allclose(figure.spec["data"][0]["z"], counts / [[10], [10], [1]], rtol=1e-4)
    assert figure.spec["layout"]["xaxis"]["ticktext"] == ["a", "a", "never"]
    assert "85.0% of 20 rows" in figure.summary


def test_classes_whose_long_names_begin_alike_are_told_apart():
    names = [f"a very long name of class {word}" for word in ("one", "two", "three")]
    ticks = figure_matrix(np.eye(3, dtype=int), names, "m").spec["layout"]["xaxis"]["ticktext"]
    assert ticks == ["a very l…class one", "a very l…class two", "a very l…ass three"]


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: figure_matrix([[1, 2]], ["a"], "m"),
        lambda: figure_lines("t", "x", "y", [Line("a", [1, 2], [1])]),
        lambda: figure_lines("t", "x", "y", [], bands=[Band("b", [1], [1], [1, 2])]),
        lambda: picture_grid(np.zeros((1, 2, 4, 4), np.uint8)),
        lambda: picture_grid(np.zeros((1, 1, 4, 4), np.float32)),
        lambda: picture_grid(np.zeros((2, 1, 4, 4), np.uint8), ["one"]),
    ],
)
def test_shapes_that_do_not_fit_are_one_sentence(mistake):
    with pytest.raises(HandfulError) as caught:
        mistake()
    assert not str(caught.value)[0].isupper()
    assert not re.search(r"[.\n]$|\. ", str(caught.value))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_come_back_pixel_for_pixel(channels):
    images = np.random.default_rng(0).integers(0, 256, (3, channels, 5, 7), dtype=np.uint8)
    found = re.findall('base64,([^"]*)', picture_grid(images))
    back = [np.asarray(Image.open(io.BytesIO(base64.b64decode(f)))) for f in found]
    np.testing.assert_array_equal(np.stack(back).reshape(3, 5, 7, channels), images.transpose(0, 2, 3, 1))


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    bright, dim = sorted([luminance(a), luminance(b)], reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_colours_have_contrast_by_day_and_by_night():
    """WCAG 2.2: 3:1 for graphics (1.4.11), 4.5:1 for text (1.4.3)."""
    page = Page("t", []).html()
    by_day, by_night = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in page.split("@media screen", 1))
    assert len(set(DASHES)) == len(PALETTE) == 6
    for light, dark in PALETTE:
        assert contrast(light, by_day["page"]) >= 3
        assert contrast(dark, by_night["page"]) >= 3
    for colours in (by_day, by_night):
        for text in ("text", "quiet", "link"):
            assert contrast(colours[text], colours["page"]) >= 4.5


def test_the_script_knows_every_colour_of_the_palette():
    script = resources.files("handful.report").joinpath("templates/page.js").read_text(encoding="utf-8")
    for light, dark in PALETTE:
        assert f'"{light}": "{dark}"' in script
        red, green, blue = (int(light[k : k + 2], 16) for k in (1, 3, 5))
        assert f'"rgba({red},{green},{blue},0.2)"' in script


def test_what_a_page_says_is_for_any_reader_on_any_machine(tmp_path):
    notes = ["the target is 'y'", "book.txt is one document.", "Your own model gets x as it is."]
    command = "handful train '/home/me/my data/prices.csv' --seed 0"
    page = Reader(report(tmp_path, history(3), notes=notes, command=command, held_out=Judged(9, chance="Always 'no'.")))
    for said in (
        "The target is 'y'.",
        "book.txt is one document.",
        "handful train prices.csv --seed 0",
        "Always 'no'.",
    ):
        assert said in page.text
    assert "/home" not in page.text


def test_a_write_that_fails_leaves_the_old_page_and_no_rubbish(tmp_path, monkeypatch):
    path = Page("old", []).write(tmp_path / "new" / "a.html")
    old = path.read_text()
    assert "<title>old</title>" in old
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(HandfulError, match="disk"):
        Page("new", []).write(path)
    assert path.read_text() == old
    assert os.listdir(path.parent) == ["a.html"]


def test_a_page_without_figures_carries_no_script():
    page = Page("t", [Section("s", [Markup("<b>x</b>"), "a < b"])]).html()
    assert "<script" not in page
    assert "<b>x</b>" in page
    assert "<p>a &lt; b</p>" in page


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_draws_every_figure(tmp_path):
    page = full(tmp_path)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom"]
    command = ["chromium", *flags, (tmp_path / "report.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert 'data-drawn="yes"' in dom
    assert len(re.findall('<div class="[^"]*svg-container', dom)) == len(specs(page))


def test_the_names_of_many_classes_have_room():
    for k, wide in ((12, False), (30, True), (60, True)):
        figure = figure_matrix(np.eye(k, dtype=int), [f"a class of a long name, {j}" for j in range(k)], "Confusion")
        shown = figure.spec["layout"]["xaxis"]["ticktext"]
        assert (figure.wide, len(shown) <= 20, len(shown) >= min(k, 10)) == (wide, True, True)
