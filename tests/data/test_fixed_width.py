"""Tables whose columns stand at fixed places of a line, against the frame that was written so."""

import numpy as np
import pandas as pd
import pytest

import handful
from handful.base.errors import HandfulError

PLACES = ["New York", "Rome", "Rio de Janeiro", "Ulm", "Köln"]


def table(rows=60, seed=0):
    rng = np.random.default_rng(seed)
    found = pd.DataFrame(
        {
            "place": rng.choice(PLACES, rows),
            "size": rng.normal(20, 30, rows).round(2),
            "first name": rng.choice(["Bo", "Ann Lee", "Cy"], rows),
            "price": rng.integers(0, 100_000, rows),
        }
    )
    found.loc[rng.random(rows) < 0.2, "size"] = np.nan
    return found


def written(frame, justify):
    cells = frame.astype(object).where(frame.notna(), "").astype(str)
    widths = [max(map(len, [name, *cells[name]])) + 2 for name in cells]
    lines = [list(cells), *cells.to_numpy().tolist()]
    return "".join("".join(getattr(v, justify)(w) for v, w in zip(line, widths)).rstrip() + "\n" for line in lines)


@pytest.mark.parametrize("justify", ["ljust", "rjust"])
@pytest.mark.parametrize(("ending", "end"), [(".txt", "\n"), (".dat", "\r\n"), (".csv", "\n")])
def test_every_cell_is_read(tmp_path, justify, ending, end):
    path, frame = tmp_path / f"a{ending}", table()
    path.write_bytes(("\ufeff" * (end != "\n") + written(frame, justify).replace("\n", end)).encode())
    source = handful.open(path, "price")
    assert list(source.columns) == ["place", "size", "first name", "price"]
    read = source.take(range(len(source)))
    np.testing.assert_array_equal(read.tensor("size").numpy(), frame["size"])
    for name in ("place", "first name"):
        names = [source.columns[name].classes[code] for code in read.tensor(name)]
        assert names == frame[name].tolist()
    assert any("columns stand at fixed places of a line" in note for note in source.notes)


def test_what_was_trained_on_it_predicts_files_of_any_length_and_frames_alike(tmp_path):
    path, frame = tmp_path / "a.txt", table()
    path.write_text(written(frame, "ljust"))
    run = handful.fit("linear", path, target="price", until="epochs(2)", lr=0.1, batch=16, quiet=True)
    whole = run.predict(frame)
    np.testing.assert_array_equal(run.predict(path), whole)
    for rows in ([0], [7, 3, 11], range(20)):
        for justify in ("ljust", "rjust"):
            (tmp_path / "b.txt").write_text(written(frame.iloc[list(rows)].drop(columns="price"), justify))
            np.testing.assert_array_equal(run.predict(tmp_path / "b.txt"), whole[list(rows)])
    handful.prepare(path, tmp_path / "store", target="price")
    np.testing.assert_array_equal(run.predict(tmp_path / "store"), whole)


def test_a_line_that_cannot_be_cut_is_shown(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(written(table(400), "ljust") + "San Francisco Bay South 12.5   Bo       7\n")
    with pytest.raises(
        HandfulError, match=r"none there: 'San Francisco Bay South 12\.5   Bo       7'; read it with panda"
    ):
        handful.open(path, "price")


def test_prose_and_verse_are_no_tables(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("    Of 12 in all\n    a few  went\n    to 7 towns\n    by ship\n" * 3)
    assert len(handful.open(path)) == 1
