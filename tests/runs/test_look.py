"""What `handful inspect` shows of data: counts against NumPy, pictures on the page, and every kind of column."""

import re

import numpy as np
import pytest

import handful
from handful.runs.inspect import show_data


def test_a_page_has_pictures_of_every_class_and_what_was_printed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 255, (60, 3, 9, 7), dtype=np.uint8), np.arange(60) % 3
    store = tmp_path / "store"
    handful.prepare({"picture": pictures, "label": labels, "weight": rng.normal(size=60)}, store, target="label")
    show_data(str(store), 16, tmp_path / "page.html")
    said, page = capsys.readouterr().out, (tmp_path / "page.html").read_text()
    assert "bytes read over bytes used" in said
    assert "bytes read over bytes used" in page
    assert said.count("33.3%") == page.count("33.3%") == 3
    assert page.count("data:image/png") == 24
    for label in range(3):
        assert len(re.findall(rf"<figcaption>{label}, row \d+", page)) == 8
    assert "VIF of classes" in page
    assert str(tmp_path / "page.html") in said


def test_every_kind_of_column_can_be_looked_at(tmp_path, capsys):
    data = {
        "number": np.arange(7.0),
        "text": [f"<b>{i}</b> " * 90 for i in range(7)],
        "tokens": [np.arange(i) for i in range(1, 8)],
        "wide": np.zeros((7, 100, 2)),
        "half": np.zeros(7, np.float16),
        "large": np.zeros((7, 1, 600, 500), np.uint8),
    }
    handful.prepare(data, tmp_path / "store", target="number")
    show_data(str(tmp_path / "store"), 4, tmp_path / "page.html")
    assert "target number: from 0 to 6, mean 3" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert "<b>3</b>" not in page  # text is shown, not run
    assert "&lt;b&gt;3" in page


@pytest.mark.parametrize("column", ["a", "b"])
def test_targets_of_any_dtype_are_counted(tmp_path, capsys, column):
    handful.prepare({"a": np.array([True, False, True]), "b": ["x", "y", "y"]}, tmp_path / "store", target=column)
    show_data(str(tmp_path / "store"), 2)
    assert "66.7%" in capsys.readouterr().out
