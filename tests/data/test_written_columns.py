"""Columns as people write them: dates, amounts, marks for missing values, odd cells; the same in every container."""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import handful
from handful.base.errors import HandfulError

ROWS = 60
DAYS = pd.date_range("2018-03-01", periods=ROWS, freq="17D")
Y = [k % 3 for k in range(ROWS)]


def containers(folder, frame):
    """The same strings in every container: name -> what `open` is given."""
    frame.to_csv(folder / "a.csv", index=False)
    frame.to_csv(folder / "a.tsv", index=False, sep="\t")
    frame.to_json(folder / "a.jsonl", orient="records", lines=True)
    strings = pa.table({name: pa.array(list(frame[name])) for name in frame})
    pq.write_table(strings, folder / "a.parquet")
    return {
        "csv": folder / "a.csv",
        "tsv": folder / "a.tsv",
        "jsonl": folder / "a.jsonl",
        "parquet": folder / "a.parquet",
        "frame": frame,
        "arrow": strings,
        "view": strings.set_column(0, strings.column_names[0], strings.column(0).cast(pa.string_view())),
        "dict": {name: list(frame[name]) for name in frame},
    }


def values(source, name):
    return source.take(range(len(source)), [name]).tensor(name).numpy()


WRITINGS = {
    "%Y-%m-%d": "year-month-day",
    "%Y-%m-%d %H:%M:%S": "year-month-day",
    "%Y-%m-%dT%H:%M": "year-month-day",
    "%Y/%m/%d": "year-month-day",
    "%d.%m.%Y": "day/month/year",
    "%d.%m.%y": "day/month/year",
    "%d/%m/%Y": "day/month/year",
    "%m/%d/%Y %I:%M %p": "month/day/year",
    "%m/%d/%y": "month/day/year",
    "%d-%b-%Y": "day month year",
    "%d %B %Y": "day month year",
    "%b %d, %Y": "month day year",
    "%b-%d-%Y": "month day year",
    "%Y年%m月%d日": "year年month月day日",
    "%Y년 %m월 %d일": "year年month月day日",
    "%Y年%m月%d日 %H:%M": "year年month月day日",
    "%Y年%m月": "year年month月",
    "%Y-%m": "year-month",
    "%b %Y": "month year",
    "%b-%y": "month year",
    "%a, %d %b %Y %H:%M:%S GMT": "day month year",
}


@pytest.mark.parametrize("written", WRITINGS)
def test_dates_are_one_kind_however_and_wherever_they_are_written(written, tmp_path):
    days = DAYS + pd.Timedelta("7h") if "H" in written or "I" in written else DAYS
    frame = pd.DataFrame({"when": days.strftime(written), "y": Y})
    expected = np.array([pd.to_datetime(text, format=written).timestamp() for text in frame["when"]])
    for name, where in containers(tmp_path, frame).items():
        source = handful.open(where, target="y")
        column = source.columns["when"]
        assert (column.kind, column.dtype, column.dates) == ("number", "float64", WRITINGS[written]), name
        np.testing.assert_array_equal(values(source, "when"), expected, err_msg=name)
        assert any(f"'when' holds dates, {WRITINGS[written]}" in note for note in source.notes), name


@pytest.mark.parametrize("of", ["date", "datetime64[s]", "datetime64[ns]", "numpy", "timestamp UTC"])
def test_dates_that_state_their_type_are_the_same(of):
    days = {
        "date": [day.date() for day in DAYS],
        "datetime64[s]": DAYS.astype("datetime64[s]"),
        "datetime64[ns]": pd.Series(DAYS),
        "numpy": DAYS.to_numpy(),
        "timestamp UTC": DAYS.tz_localize("UTC"),
    }[of]
    source = handful.open(
        {"when": days, "y": Y} if of in ("date", "numpy") else pd.DataFrame({"when": days, "y": Y}), "y"
    )
    np.testing.assert_array_equal(values(source, "when"), [day.timestamp() for day in DAYS])
    assert source.columns["when"].dates == "year-month-day"


def test_gaps_zones_and_odd_cells_among_dates(tmp_path):
    texts = [str(day.date()) for day in DAYS]
    texts[3], texts[5], texts[7] = "-", " ", "2018-06-28T12:00:00+02:00"
    frame = pd.DataFrame({"when": texts, "y": Y})
    for name, where in containers(tmp_path, frame).items():
        found = values(handful.open(where, target="y"), "when")
        assert np.flatnonzero(np.isnan(found)).tolist() == [3, 5], name
        assert found[7] == pd.Timestamp("2018-06-28T10:00Z").timestamp(), name
    texts[11] = "soon"
    source = handful.open(pd.DataFrame({"when": texts, "y": Y}), target="y")
    assert any("1 of 60 rows hold something else" in note and "'soon' in row 11" in note for note in source.notes)
    assert np.flatnonzero(np.isnan(values(source, "when"))).tolist() == [3, 5, 11]
    assert source.columns["when"].missing == ("soon",)


def test_days_that_no_calendar_has_and_versions_are_no_dates():
    rows = 30
    columns = {
        "day": [f"3{k % 2}.02.2020" for k in range(rows)],
        "version": [f"1.{k % 9}.{k % 7 + 10}" for k in range(rows)],
        "season": [f"20{k % 15 + 10}/{k % 15 + 11}" for k in range(rows)],
        "y": [0, 1] * 15,
    }
    source = handful.open(columns, target="y", columns=list(columns))
    assert {source.columns[name].kind for name in ("day", "version", "season")} == {"category"}


def test_quarters_are_dates(tmp_path):
    quarters = pd.period_range("1974Q1", periods=ROWS, freq="Q")
    expected = [quarter.start_time.timestamp() for quarter in quarters]
    for name, where in containers(tmp_path, pd.DataFrame({"period": map(str, quarters), "y": Y})).items():
        np.testing.assert_array_equal(values(handful.open(where, target="y"), "period"), expected, err_msg=name)


def test_times_of_day_are_the_same_in_csv_and_json_lines(tmp_path):
    times = [f"{k % 24:02d}:{k:02d}" for k in range(ROWS)]
    expected = [(k % 24) * 3600 + k * 60 for k in range(ROWS)]
    for name, where in containers(tmp_path, pd.DataFrame({"at": times, "y": Y})).items():
        source = handful.open(where, target="y")
        np.testing.assert_array_equal(values(source, "at"), expected, err_msg=name)
        assert source.columns["at"].dates == "time of day", name


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "frame"])
@pytest.mark.parametrize("first", ["1970-01-04", "2010-01-01"])
def test_a_yearly_cycle_is_learned_from_iso_dates(kind, first, tmp_path):
    days = pd.date_range(first, periods=1200, freq="3D")
    season = np.sin(2 * np.pi * days.day_of_year / 365.2425).to_numpy()
    frame = pd.DataFrame(
        {"day": days.strftime("%Y-%m-%d"), "y": season + 0.1 * np.random.default_rng(0).normal(size=1200)}
    )
    where = containers(tmp_path, frame)[kind]
    run = handful.fit(
        "linear", where, target="y", batch=32, lr=0.03, until="epochs(12)", valid=200, quiet=True, threads=1
    )
    assert run.evaluate(where)["r2"] > 0.95
    assert any(
        "'day' holds seconds since 1970: the place in the week and the year is added" in n for n in run.plan.notes
    )


AMOUNTS = {
    "€-5,000": -5000,
    "$1,234.50": 1234.5,
    "US$ 12": 12,
    "5.000,50 €": 5000.5,
    "5 000,50 kr": 5000.5,
    "CHF 1'234.50": 1234.5,
    "₹12,34,567.00": 1234567,
    "12,5 %": 12.5,
    "(1,200.00)": -1200,
    "1,200-": -1200,
    "−7.5 °C": -7.5,
    "1 234 567": 1234567,
    "12.5 km/h": 12.5,
    "30 sq ft": 30,
    "1.5e3 m": 1500,
    "16GB": 16,
    "3.4M": 3_400_000,
    "512k": 512_000,
    "-2.5K": -2500,
    "$1.25B": 1_250_000_000,
    "€3.5 million": 3_500_000,
    "1,5 Mio": 1_500_000,
    "15 mn": 15_000_000,
    "3.5万元": 35_000,
    "1.2亿": 120_000_000,
    "¥1.5万": 15_000,
    "5千元": 5_000,
    "5,000円": 5_000,
    "2.5만원": 25_000,
    "95.5平方米": 95.5,
    "12千米": 12,
    "25.5％": 25.5,
    "￥25，300": 25_300,
    "１．2５万": 12_500,
    "（25）": -25,
}


@pytest.mark.parametrize("text", AMOUNTS)
def test_amounts_are_numbers_in_every_container(text, tmp_path):
    frame = pd.DataFrame({"amount": [text] + [text.replace("5", "6").replace("2", "3")] * (ROWS - 1), "y": Y})
    for name, where in containers(tmp_path, frame).items():
        source = handful.open(where, target="y")
        assert values(source, "amount")[0] == AMOUNTS[text], name
        assert any(f"'{text}' is read as {AMOUNTS[text]:.15g}" in note for note in source.notes), name


def test_thousands_with_points_are_those_of_a_currency():
    source = handful.open(
        {"eur": ["5.000 €", "6.500 €"] * 5, "usd": ["$3.459", "$3.219"] * 5, "y": [0, 1] * 5}, target="y"
    )
    assert values(source, "eur")[:2].tolist() == [5000, 6500]
    assert values(source, "usd")[:2].tolist() == [3.459, 3.219]


def test_thousands_and_millions_are_multiples_of_one_number(tmp_path):
    """Followers as sites write them: 990, 1.2K, 3.4M; of a single row, too."""
    rng = np.random.default_rng(0)
    size = 10 ** rng.uniform(1, 7, 300)
    shown = [f"{v / 1e6:.1f}M" if v >= 1e6 else f"{v / 1e3:.1f}K" if v >= 1e3 else f"{v:.0f}" for v in size]
    of = {"M": 1e6, "K": 1e3}
    plain = np.array([float(text.rstrip("MK")) * of.get(text[-1], 1.0) for text in shown])
    for name, where in containers(tmp_path, pd.DataFrame({"followers": shown, "y": size.round(3)})).items():
        np.testing.assert_allclose(
            values(handful.open(where, target="y"), "followers"), plain, rtol=1e-15, err_msg=name
        )
    rows = {"followers": shown, "y": np.log(size)}
    run = handful.fit("linear", rows, target="y", until="steps(30)", batch=16, lr=0.05, valid=None, quiet=True)
    whole = run.predict({"followers": shown})
    assert [run.predict({"followers": text})[0] for text in shown[:3]] == whole[:3].tolist()
    assert run.predict({"followers": 2500})[0] == run.predict({"followers": "2.5K"})[0]
    kelvin = handful.open({"t": ["300 K", "280 K", "12 K"] * 5, "y": [0, 1, 2] * 5}, target="y")
    assert values(kelvin, "t")[:3].tolist() == [300, 280, 12]


def test_names_that_are_one_but_for_blanks_and_capitals_are_said(tmp_path):
    frame = pd.DataFrame(
        {"c": ["x", "x ", " y", "y"] * 15, "d": ["a", "b"] * 30, "y": ["yes", "no", "Yes", "NO "] * 15}
    )
    for name, where in containers(tmp_path, frame).items():
        said = [note for note in handful.open(where, target="y").notes if "blanks and capitals" in note]
        assert len(said) == 2, name
        assert "'c' has 4 values, but 2 but for blanks and capitals ('x', 'x ')" in said[0], name
        assert "'y' has 4 values, but 2 " in said[1], name


@pytest.mark.parametrize("word", ["Total", "TOTAL:", "Grand total", "Summe"])
@pytest.mark.parametrize("unique", [False, True])
def test_a_row_of_totals_is_said(word, unique, tmp_path):
    shops = [f"shop {k if unique else k % 9}" for k in range(59)] + [word]
    sizes = np.random.default_rng(0).normal(10, 1, 59).round(2).tolist()
    frame = pd.DataFrame({"shop": shops, "size": [*sizes, sum(sizes)], "y": [*sizes, sum(sizes)]})
    for name, where in containers(tmp_path, frame).items():
        if unique and name == "dict":  # which refuses identifiers
            continue
        source = handful.open(where, target="y")
        assert f"'shop' is '{word}' in one row: leave it out if it is made of the others." in source.notes, name
    frame["shop"] = [f"shop {k % 9}" for k in range(58)] + [word, word]  # a name among others
    assert not any("made of the others" in note for note in handful.open(frame, target="y").notes)


@pytest.mark.parametrize("model", ["linear", "own"])
def test_a_row_that_makes_the_variance_of_the_target_is_said(model):
    import torch

    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(size=(200, 1)), "y": rng.normal(size=200)}
    how = {"target": "y", "until": "steps(2)", "batch": 16, "lr": 0.01, "valid": None, "quiet": True}
    net = torch.nn.Linear(1, 1) if model == "own" else model

    def said(y):
        notes = handful.fit(net, rows | {"y": y}, **how).plan.notes
        return [note for note in notes if "alone makes" in note]

    assert said(rows["y"]) == []
    far = rows["y"].copy()
    far[123] = 1e4
    share = (far - far.mean())[123] ** 2 / ((far - far.mean()) ** 2).sum()
    (note,) = said(far)
    assert "'y' is 10000 in row 123" in note
    assert f"alone makes {share:.0%} of their variance" in note


def test_two_currencies_are_no_numbers_and_the_cells_are_named():
    prices = [f"${k}" for k in range(99)] + ["€7"]
    with pytest.raises(
        HandfulError, match=r"'price' holds amounts in several units \('\$0' in row 0 and '€7' in row 99\)"
    ):
        handful.open({"x": range(100), "price": prices}, target="price")
    source = handful.open({"price": ["$5", "$6", "€7"] * 5, "y": [0, 1, 2] * 5}, target="y")
    assert source.columns["price"].kind == "category"
    assert any("several units ('$5' in row 0 and '€7' in row 2)" in note for note in source.notes)


@pytest.mark.parametrize("mark", [" ", "   ", "<NA>", "N/A", "?", "-", "NaT", "#DIV/0!", "n.a.", "None"])
def test_marks_for_missing_numbers(mark, tmp_path):
    numbers = [f"{k * 1.5}" for k in range(ROWS)]
    numbers[4] = numbers[40] = mark
    frame = pd.DataFrame({"x": numbers, "y": Y})
    for name, where in containers(tmp_path, frame).items():
        source = handful.open(where, target="y")
        found = values(source, "x")
        assert source.columns["x"].kind == "number", name
        assert np.flatnonzero(np.isnan(found)).tolist() == [4, 40], name
        assert found[41] == 61.5, name


def test_a_few_odd_cells_are_missing_counted_and_named_and_stay_so(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=400).round(3)
    texts = [str(v) for v in x]
    texts[17], texts[90], texts[91] = "on request", "see below", "on request"
    frame = pd.DataFrame({"x": texts, "y": 3 * x})
    for where in containers(tmp_path, frame).values():
        source = handful.open(where, target="y")
        want = pd.to_numeric(frame["x"], errors="coerce").to_numpy()
        np.testing.assert_array_equal(values(source, "x"), want)
        said = "3 of 400 rows hold something else and are read as missing (NaN): 'on request' in row 17, 'see"
        assert any(said in note for note in source.notes)
    run = handful.fit(
        "linear", tmp_path / "a.csv", target="y", batch=16, lr=0.03, until="epochs(8)", quiet=True, threads=1
    )
    assert run.evaluate(tmp_path / "a.csv")["r2"] > 0.9
    (tmp_path / "new.csv").write_text("x\non request\n1.5\n")
    again = run.predict(tmp_path / "new.csv")
    assert np.isfinite(again).all()
    assert again[1] == run.predict({"x": ["1.5"]})[0]
    (tmp_path / "new.csv").write_text("x\nask us\n1.5\n")
    with pytest.raises(HandfulError, match=r"new.csv: column 'x' must be a number but is 'ask us' in row 0"):
        run.predict(tmp_path / "new.csv")


@pytest.mark.parametrize("different", [2, 300])
def test_where_many_cells_are_no_numbers_others_are_missing_too_and_said_where_new(different, capsys):
    x = np.random.default_rng(0).normal(size=2000).round(3)
    texts = [f"at {k // 5 % different}" if k % 5 == 0 else str(v) for k, v in enumerate(x)]
    frame = pd.DataFrame({"x": texts, "y": 3 * x})
    run = handful.fit("linear", frame, target="y", until="epochs(1)", quiet=True)
    assert not any("not seen before" in note for note in run.plan.notes)
    capsys.readouterr()
    known = run.predict({"x": [texts[0], "1.0"]})
    assert not capsys.readouterr().err
    assert run.predict({"x": ["elsewhere", "1.0"]}).tolist() == known.tolist()
    said = "column 'x' is 'elsewhere' in row 0, not seen before and not a number: read as missing"
    assert (said in capsys.readouterr().err) == (different == 2)


def test_addresses_are_not_called_mostly_numbers():
    streets = ["Main St", "Sixth Ave", "Elm Rd", "3rd Ave"]
    address = [f"{k * 7 % 1000} {streets[k % 4]}" if k % 7 else "The Mill" for k in range(400)]
    notes = handful.open(pd.DataFrame({"address": address, "y": np.arange(400.0)}), target="y").notes
    assert not any("mostly" in note for note in notes)


def test_ids_joined_by_commas_are_no_decimals(tmp_path):
    frame = pd.DataFrame({"CountyIds": ["9,34" if k % 9 == 0 else str(k % 30) for k in range(200)]}).assign(y=1.5)
    frame["size"] = frame["CountyIds"]
    frame.to_csv(tmp_path / "ids.csv", index=False)
    source = handful.open(tmp_path / "ids.csv", target="y")
    assert source.columns["CountyIds"].kind == "category"
    assert source.columns["size"].decimal == ","


def test_codes_among_numbers_stay_names():
    rows = 60
    columns = {
        "zip": [f"{k:05d}" for k in range(rows - 1)] + ["K1A"],
        "doors": ["2", "3", "4", "5more"] * 15,
        "room": [str(k) for k in range(50)] + [f"A{k}" for k in range(10)],
        "y": [0, 1] * 30,
    }
    source = handful.open(columns, target="y", columns=list(columns))
    assert {source.columns[name].kind for name in ("zip", "doors", "room")} == {"category"}
    assert any("'room' is mostly numbers but is read as strings, because of 'A0' in row 50" in n for n in source.notes)


@pytest.mark.parametrize("odd", ["on request", "12:30"])
@pytest.mark.parametrize("amount", ["{k}.5", "${k}", "{k},5"])
def test_the_odd_cell_of_a_target_is_named(odd, amount, tmp_path):
    frame = pd.DataFrame({"x": range(1500), "price": [amount.format(k=k) for k in range(1500)]})
    frame.loc[1000, "price"] = odd
    for where in list(containers(tmp_path, frame).values())[:3]:
        with pytest.raises(HandfulError, match=f"price.*'{odd}' in row 1000"):
            handful.fit("linear", where, target="price", batch=32, lr=0.1, until="steps(2)", quiet=True)


def test_the_blank_cell_of_a_target_is_named(tmp_path):
    frame = pd.DataFrame({"x": range(500), "price": [f"{k}.5" for k in range(500)]})
    frame.loc[100, "price"] = " "
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(HandfulError, match="target 'price' is not a finite number in row 100"):
        handful.open(tmp_path / "a.csv", target="price")


def test_classes_that_look_like_numbers_stay_classes():
    for labels in (
        ["01", "02", "other"],
        ["1", "2", "?"],
        ["1 star", "5 stars", "3 stars"],
        ["12 kg", "15 kg", "9 kg"],
    ):
        source = handful.open({"x": range(60), "y": labels * 20}, target="y")
        assert source.columns["y"].classes == tuple(sorted(labels))


def test_a_year_or_date_that_rises_is_no_identifier(tmp_path):
    years = [str(1950 + k) for k in range(ROWS)]
    frame = pd.DataFrame({"Year": years, "date": [f"{y}-07-01" for y in years], "x": range(ROWS), "y": Y})
    for name, where in containers(tmp_path, frame).items():
        run = handful.fit("linear", where, target="y", batch=16, lr=0.1, until="steps(2)", quiet=True, threads=1)
        assert run.pipeline.uses == ("Year", "date", "x"), name


def test_fractions_of_seconds_are_kept(tmp_path):
    moment = datetime.datetime(2021, 5, 6, 7, 8, 9, 125000)
    texts = [str(moment + datetime.timedelta(days=k)) for k in range(ROWS)]
    for name, where in containers(tmp_path, pd.DataFrame({"t": texts, "y": Y})).items():
        found = values(handful.open(where, target="y"), "t")
        assert found[0] == moment.replace(tzinfo=datetime.UTC).timestamp(), name


# --- several units, free text beside amounts ---

LENGTHS = [3000.0, 250.0, 0.5, 12.0] * 15  # metres
UNITS = {  # how they are written -> in the unit of the first row
    "km, m, cm": (["3 km", "250 m", "50 cm", "12 m"] * 15, [3.0, 0.25, 0.0005, 0.012] * 15),
    "g, kg": ([f"{k} g" if k % 2 else f"{k / 1000} kg" for k in range(1, 61)], list(range(1, 61))),
    "h, min": ([f"{k / 4} h" if k % 3 == 0 else f"{15 * k} min" for k in range(60)], [k / 4 for k in range(60)]),
    "per cent and none": ([f"{k}%" if k % 2 == 0 else f"{k}" for k in range(60)], list(range(60))),
    "ml, l": ([f"{k} ml" if k % 2 == 0 else f"{k / 1000} l" for k in range(60)], list(range(60))),
}


@pytest.mark.parametrize("role", ["input", "target"])
@pytest.mark.parametrize("kind", UNITS)
def test_units_of_one_kind_are_brought_to_that_of_the_first_row(kind, role):
    cells, due = UNITS[kind]
    data = {"z": [0.5 * (k % 7) for k in range(60)], "d": cells}
    source = handful.open(data, target="d" if role == "target" else "z")
    if source.columns["d"].kind == "category":  # a target of few different values
        assert len(set(due)) <= 20
        return
    assert source.take(range(60))["d"].numpy() == pytest.approx(due, rel=1e-12)
    assert any("'d' is in " in note for note in source.notes)
    if role == "input":
        run = handful.fit("linear", data, target="z", until="steps(2)", batch=8, lr=0.1, quiet=True)
        whole = run.outputs(data)
        for row in (0, 1, 2):
            assert torch.equal(run.outputs({"d": cells[row]}), whole[row : row + 1])
        with pytest.raises(HandfulError, match="'d' must be a number but is '3 EUR' in row 0"):
            run.predict({"d": "3 EUR"})


@pytest.mark.parametrize("other", ["kg", "€"])
def test_units_of_several_kinds_are_no_numbers(other):
    cells = [f"{k} km" if k % 3 else f"{k} {other}" for k in range(60)]
    assert any("amounts in several units" in n for n in handful.open({"d": cells * 2, "z": [0, 1] * 60}, "z").notes)
    with pytest.raises(HandfulError, match="amounts in several units"):
        handful.open({"d": cells, "z": [0, 1] * 30}, target="d")


WORDS = ["not done", "haemolysed, repeat", "<0.1"]


@pytest.mark.parametrize("kind", ["amounts", "ages", "dates"])
def test_free_text_beside_amounts_is_missing_there_and_later(kind):
    numbers = [k / 8 for k in range(90)] if kind == "amounts" else [20 + k for k in range(90)]
    days = [str(np.datetime64("2020-01-01") + np.timedelta64(k, "D")) for k in range(90)]
    text = WORDS if kind != "ages" else WORDS[:1]
    cells = [text[k % len(text)] if k % 3 == 0 else days[k] if kind == "dates" else str(numbers[k]) for k in range(90)]
    data = {"d": cells, "z": [0, 1] * 45}
    source = handful.open(data, target="z")
    found = source.take(range(90))["d"].numpy()
    assert np.isnan(found).tolist() == [k % 3 == 0 for k in range(90)]
    assert any("30 of 90 rows hold something else and are read as missing" in n for n in source.notes)
    run = handful.fit("table", data, target="z", until="steps(2)", batch=8, lr=0.1, quiet=True)
    whole = run.outputs(data)
    for new in (cells[0], "something quite new", None, ""):
        assert torch.equal(run.outputs({"d": new}), whole[:1])
    assert torch.equal(run.outputs([{"d": cells[4]}]), whole[4:5])
    with pytest.raises(HandfulError, match="target 'd' is a number in 60 of 90 rows but 'not done' in row 0"):
        handful.open(data, target="d")


def test_names_beside_numbers_stay_names():
    """Few different numbers, codes with zeros in front, and whole numbers beside as many other names, as tickets."""
    few = [["10", "20", "30", "x"][k % 4] for k in range(60)]
    codes = [f"{k:05d}" if k % 3 else f"K{k % 9}A" for k in range(60)]
    tickets = [str(10_000 + 37 * k) if k % 3 else f"PC {k}" for k in range(60)]
    source = handful.open({"few": few, "codes": codes * 2, "tickets": tickets * 2, "z": [0, 1] * 60}
                          | {"few": few * 2}, target="z")  # fmt: skip
    assert {source.columns[name].kind for name in ("few", "codes", "tickets")} == {"category"}


DRAW = np.random.default_rng(0)
QUOTED = {  # plain numbers in text -> whether they are amounts
    "decimals": ([f"{v:.2f}" for v in DRAW.normal(size=200).round(1) * 2 + 0.01], True),
    "powers": ([f"{10**v:.3e}" for v in DRAW.normal(size=200)], True),
    "counts": ([str(v) for v in DRAW.integers(10, 10**6, 200)], True),
    "few decimals": ([f"{v / 2}" for v in DRAW.integers(0, 10, 200)], False),
    "codes": ([str(v) for v in DRAW.integers(10, 60, 200)], False),
    "codes with zeros": ([f"{v:06d}" for v in DRAW.integers(10, 10**5, 200)], False),
}


@pytest.mark.parametrize("kind", QUOTED)
@pytest.mark.parametrize("target", ["c", "y"])
def test_many_plain_numbers_in_text_are_amounts(kind, target):
    """As csv.DictReader, or read_csv(dtype=str), gives them."""
    values, amounts = QUOTED[kind]
    source = handful.open({"c": values, "y": list(range(200))}, target=target)
    assert source.columns["c"].kind == ("number" if amounts else "category")
    if amounts:
        assert source.take(range(200)).tensor("c").tolist() == [float(value) for value in values]


def test_text_that_numbers_the_rows_is_left_out_as_numbers_are():
    rows = [{"id": str(900 + k), "x": str(k % 7 + 0.5), "y": str(k % 2)} for k in range(60)]
    run = handful.fit("auto", rows, target="y", until="steps(2)", quiet=True)
    assert run.pipeline.uses == ("x",)


def rooms(n=400):
    draw = np.random.default_rng(0)
    age, shop, size = draw.integers(18, 90, n), draw.integers(10, 30, n), draw.normal(70, 9, n).round(1)
    return pd.DataFrame({"age": age, "shop_id": shop, "rooms": age % 9, "size": size, "y": (age / 10 + size).round(2)})


@pytest.mark.parametrize("way", ["frame", "rows", "dict", "jsonl", "arrow", "pair", "store"])
def test_a_table_of_text_alone_is_read_as_its_file(way, tmp_path, monkeypatch):
    """As csv.DictReader gives it: counts are numbers there, too, not names with as many rows each."""
    frame = rooms()
    text = frame.astype(str)
    text.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    monkeypatch.setattr("handful.data.store.inputs.SMALL", 0)
    given = {
        "frame": text, "rows": text.to_dict("records"), "dict": text.to_dict("list"), "jsonl": tmp_path / "t.jsonl",
        "arrow": pa.Table.from_pandas(text), "pair": (text.drop(columns="y"), frame["y"]), "store": None,
    }[way]  # fmt: skip
    target = None if way == "pair" else "y"
    source = (
        handful.open(given, target)
        if way != "store"
        else handful.prepare(tmp_path / "t.jsonl", tmp_path / "s", target="y")
    )
    for name in ("age", "rooms", "size"):
        assert source.columns[name].kind == "number", name
        assert source.take(range(400)).tensor(name).tolist() == frame[name].tolist()
    assert source.columns["shop_id"].kind == "category"
    assert "'age' is numbers, in text, as all columns are." in source.notes


def test_numbers_in_text_beside_numbers_are_names_and_it_is_said():
    frame = rooms()
    source = handful.open(frame.astype({"age": str, "rooms": str}), "y")
    assert source.columns["age"].kind == source.columns["rooms"].kind == "category"
    said = "'rooms' is a category with 9 values, which are numbers in text: names, unless they are given as numbers."
    assert said in source.notes
    alone = handful.open({"digit": ["1", "2", "3"] * 10, "y": ["a", "b", "a"] * 10}, "y")
    assert alone.columns["digit"].kind == "category"


MONTHS = {  # how days are written -> the days that they are, one of each month
    "{d}. {m} 2021": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "{d} {m} 2021": "janv. févr. mars avr. mai juin juil. août sept. oct. nov. déc.",
    "{d} de {m} de 2021": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "{d} {m}, 2021": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "{d:02}/{m}/2021": "jan fev mar abr mai jun jul ago set out nov dez",
    "{d}-{m}-2021": "januari februari maart april mei juni juli augustus september oktober november december",
    "{d} {m} 2021 ": "января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
    "{d:02}{m}2021": "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC",
}


@pytest.mark.parametrize("way", MONTHS)
def test_months_of_other_languages(way):
    names = MONTHS[way].split()
    cells = [way.format(d=1 + k % 28, m=names[k % 12]) for k in range(120)]
    source = handful.open({"when": cells, "y": list(range(120))}, "y")
    wanted = [datetime.datetime(2021, 1 + k % 12, 1 + k % 28, tzinfo=datetime.UTC).timestamp() for k in range(120)]
    assert source.take(range(120)).tensor("when").tolist() == wanted
    assert source.columns["when"].kind == "number"


def test_a_few_ordinals_are_names():
    source = handful.open({"class": ["1st", "2nd", "3rd"] * 20, "y": list(range(60))}, "y")
    assert source.columns["class"].classes == ("1st", "2nd", "3rd")


def test_words_that_begin_as_months_are_no_dates():
    source = handful.open({"a": [f"{k % 28 + 1} main 2010" for k in range(60)], "y": list(range(60))}, "y")
    assert source.columns["a"].kind != "number"


@pytest.mark.parametrize("word", ["Set", "out", "Mars", "Mag"])
def test_one_word_before_numbers_is_no_month_of_another_language(word):
    for first in (10, 2010):
        source = handful.open({"a": [f"{word} {first + k % 6}" for k in range(60)], "y": list(range(60))}, "y")
        assert source.columns["a"].kind == "category"
    several = [f"{name} {2010 + k % 6}" for k in range(30) for name in (word, "ene")]
    assert handful.open({"a": several, "y": list(range(60))}, "y").columns["a"].dates == "month year"


WRITTEN = {  # other ways to write numbers -> what they are
    "footnotes": (["1.5[3]", "2.25*", "4†", "0.5**", "3[b]"], [1.5, 2.25, 4, 0.5, 3]),
    "ordinals": (["1st", "2nd", "3rd", "11th", "22nd"], [1, 2, 3, 11, 22]),
    "bytes": (["512 KB", "1.5 MB", "2 GB", "3 MB", "64 KB"], [512, 1536, 2 * 1024**2, 3072, 64]),
    "degrees": (["48.5° N", "12.25° S", "3° N", "0.5° N", "7.5° S"], [48.5, -12.25, 3, 0.5, -7.5]),
    "arabic": (["١٢٫٥٪", "٣٪", "٤ ٪", "٧٫٢٥٪", "١٩٪"], [12.5, 3, 4, 7.25, 19]),
    "errors": (["8.5 ± 0.2", "1 ± 0.1", "2.5 ± 1", "3 ± 2", "4±1"], [[8.5, 0.2], [1, 0.1], [2.5, 1], [3, 2], [4, 1]]),
    "of": (["3 out of 10", "1 of 4", "2 of 9", "5 of 6", "7 of 8"], None),
    "spans": (["10 to 19", "20 to 25", "7 to 8", "3 to 4", "1 to 2"], [[10, 19], [20, 25], [7, 8], [3, 4], [1, 2]]),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITTEN)
def test_other_ways_to_write_numbers(kind):
    cells, wanted = WRITTEN[kind]
    way = {"errors": "{}.5 ± 0.1", "spans": "{} to {}", "ordinals": "{}th"}.get(kind)
    more = [way.format(k, k + 1) for k in range(24, 64)] if way else []
    rows = [*cells, *(more or cells * 8)]
    source = handful.open({"a": rows, "y": list(range(len(rows)))}, "y")
    if wanted is None:  # in several ways
        assert source.columns["a"].kind == "category"
    else:
        assert source.take(range(5)).tensor("a").tolist() == wanted
