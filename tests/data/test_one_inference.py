"""One inference of columns: `open`, `prepare` in small blocks, and the parts of a table give the same columns."""

import csv
import datetime
import io
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import handful
from handful.base.errors import HandfulError
from handful.data.base import Ragged
from handful.data.store import inputs
from handful.data.tables import files

WORDS = ["a", "red", "Ulm", "the", "film", "was", "so-so", "x,y", 'say "no"', "two\nlines", "Füße", "7 km"]
MARKS = ["?", "NA", "-", "n/a", "null", "none"]
DAYS = st.dates(min_value=datetime.date(1950, 1, 1), max_value=datetime.date(2040, 1, 1))
SMALL_FLOATS = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))


def some(values, *, missing=None, at_most=30):
    """One of a few ways of a column's values, with gaps in some of them."""
    return st.one_of(values, values, values, st.just(missing))


def few(values):
    return st.lists(values, min_size=1, max_size=4, unique=True).flatmap(st.sampled_from)


COLUMNS = {
    "floats": some(SMALL_FLOATS),
    "whole floats": st.integers(-9, 9).map(float),
    "ints": st.integers(-(2**40), 2**40),
    "ints with gaps": some(st.integers(-99, 99)),
    "zeros and ones": st.integers(0, 1),
    "booleans": st.booleans(),
    "booleans with gaps": some(st.booleans()),
    "words": st.sampled_from(WORDS),
    "words with gaps": some(st.sampled_from(WORDS), missing=""),
    "number-like names": st.sampled_from(["007", "1e5", "1.50", "10", "K1A", "00501"]),
    "boolean-like names": st.sampled_from(["True", "false", "maybe", "1", "0"]),
    "date-like names": st.sampled_from(["2020-01-01", "12:30", "2020-01-01 10:00:00", "soon"]),
    "missing-like names": st.sampled_from(["NA", "null", "Inf", "nan", "none", "ok", " "]),
    "numbers with marks": st.one_of(st.integers(0, 99).map(str), st.sampled_from(MARKS)),
    "mostly numbers": st.one_of(*[st.integers(0, 99).map(str)] * 4, st.just("A5")),
    "amounts": st.one_of(st.integers(0, 9999).map(lambda k: f"${k:,}"), st.integers(0, 99).map(lambda k: f"{k} %")),
    "iso dates": DAYS.map(str),
    "iso dates with gaps": some(DAYS.map(str), missing=""),
    "iso times": st.datetimes(min_value=datetime.datetime(1970, 1, 1), max_value=datetime.datetime(2040, 1, 1)).map(
        lambda t: str(t.replace(microsecond=0))
    ),
    "dates and times": st.sampled_from(["2020-01-01", "2020-01-01 10:00:00", "2021-02-03"]),
    "dotted dates": DAYS.map(lambda d: d.strftime("%d.%m.%Y")),
    "short dates": DAYS.map(lambda d: d.strftime("%d.%m.%y")),
    "dates with months in letters": DAYS.map(lambda d: d.strftime("%d %b %Y")),
    "times of day": st.times().map(lambda t: str(t.replace(microsecond=0))),
    "euros": st.integers(0, 10**7).map(lambda k: f"{k / 100:_.2f} €".replace(".", ",").replace("_", ".")),
    "lengths": st.integers(0, 999).map(lambda k: f"{k / 10} mm"),
    "two currencies": st.one_of(*[st.integers(0, 99).map(lambda k: f"${k}")] * 9, st.just("€5")),
    "numbers and blanks": st.one_of(SMALL_FLOATS.map(str), SMALL_FLOATS.map(str), st.just(" "), st.just("<NA>")),
    "a few odd cells": st.one_of(*[st.integers(0, 999).map(str)] * 40, st.just("on request")),
    "a few odd dates": st.one_of(*[DAYS.map(str)] * 40, st.just("soon"), st.just("-")),
    "slashed dates": DAYS.map(lambda d: d.strftime("%d/%m/%Y")),
    "slashed dates with gaps": some(DAYS.map(lambda d: d.strftime("%m/%d/%Y")), missing="?"),
    "free text": st.lists(st.sampled_from(WORDS), min_size=2, max_size=9).map(" ".join),
    "chinese text": st.text("的一是不了人我在有他", min_size=0, max_size=8),
    "constant number": st.just(4),
    "constant word": st.just("same"),
    "missing": st.just(None),
    "blanks": st.just(""),
}
GOALS = ["iso dates", "amounts", "euros", "a few odd cells", "numbers with marks"]
LISTS = {
    "vectors": st.lists(SMALL_FLOATS, min_size=2, max_size=2),
    "whole or not": st.sampled_from([[1, 2], [3, 4], [0.5, 1.5]]),
    "tokens": st.lists(st.integers(0, 9), max_size=4),
    "matrices": st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=2, max_size=2),
    "uneven": st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=2), min_size=1, max_size=2),
    "words": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2),
}


@st.composite
def tables(draw, lists=False):
    """name -> values, 24 to 40 rows; some columns say something else, or nothing, in their first third."""
    rows = draw(st.integers(24, 40))
    kinds = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=5))
    found = {}
    for number, kind in enumerate(kinds):
        values = draw(st.lists(COLUMNS[kind], min_size=rows, max_size=rows))
        head = draw(st.sampled_from([None, None, "first", "gap"]))
        if head == "first":
            values[: rows // 3] = [values[0]] * (rows // 3)
        if head == "gap" and not any(type(v) is bool for v in values):
            values[: rows // 3] = [None] * (rows // 3)
        found[f"c{number}"] = values
    if draw(st.booleans()):
        found["identifier"] = [f"id-{i}" for i in range(rows)]
    if lists:
        for number, kind in enumerate(draw(st.lists(st.sampled_from(sorted(LISTS)), max_size=2))):
            found[f"l{number}"] = draw(st.lists(LISTS[kind], min_size=rows, max_size=rows))
    if draw(st.booleans()):
        kind = draw(st.sampled_from([st.integers(0, 2), st.sampled_from("ab"), *map(COLUMNS.get, GOALS)]))
        found["label"] = draw(st.lists(kind, min_size=rows, max_size=rows))
    return found


def write_csv(path, table, *, separator=",", comma=False):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerow(table)
    for row in zip(*table.values(), strict=True):
        shown = ["" if v is None else v for v in row]
        writer.writerow([str(v).replace(".", ",") if comma and isinstance(v, float) else v for v in shown])
    path.write_text(out.getvalue(), encoding="utf-8")


def write_jsonl(path, table):
    rows = (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path, table):
    pq.write_table(pa.table({name: pa.array(values) for name, values in table.items()}), path, row_group_size=11)


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


def attempt(call, *arguments, **options):
    """The source, or None where the data are refused."""
    try:
        return call(*arguments, **options)
    except HandfulError:
        return None


def values_of(source, name):
    value = source.take(range(len(source)))[name]
    if isinstance(value, Ragged):
        return "ragged", str(value.values.dtype), value.values.tolist(), value.offsets.tolist()
    if isinstance(value, torch.Tensor):
        array = value.numpy()
        return "dense", array.dtype.name, array.shape, np.nan_to_num(array.astype(float), nan=-1e300).tolist()
    return "list", value


def same(a, b, *, but=()):
    assert (a is None) == (b is None), f"one is refused: {a}, {b}"
    if a is None:
        return
    assert list(a.columns) == list(b.columns)
    assert a.columns == b.columns
    assert a.target == b.target
    for name in a.columns:
        assert values_of(a, name) == values_of(b, name), name
    own = [[note for note in source.notes if not any(words in note for words in but)] for source in (a, b)]
    assert own[0] == own[1]


def in_small_blocks(where, store, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "SMALL", 0)
        patch.setattr(files, "BLOCK", 120)
        patch.setattr(files, "ROWS", 7)
        return attempt(handful.prepare, where, store, workers=1, **options)


def cut(table, at):
    bounds = [0, *at, len(next(iter(table.values())))]
    return [{name: values[a:b] for name, values in table.items()} for a, b in itertools.pairwise(bounds)]


def check(table, kind, write=None, **options):
    """The whole file opened, streamed, and cut in two or three parts, which are opened and streamed."""
    write = write or WRITERS[kind]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / f"whole.{kind}", table)
        whole = attempt(handful.open, folder / f"whole.{kind}", **options)
        same(in_small_blocks(folder / f"whole.{kind}", folder / "s", **options), whole)
        for number, at in enumerate(([8], [8, 17])):
            parts = folder / f"parts{number}"
            parts.mkdir()
            for k, part in enumerate(cut(table, at)):
                write(parts / f"part-{k}.{kind}", part)
            joined = attempt(handful.open, parts, **options)
            same(joined, whole, but=("files are read as one table",))
            same(in_small_blocks(parts, folder / f"t{number}", **options), joined)


def of_commas(table):
    header = {"price; total": 0.5, "c d": 1}  # so that the first records tell separator and decimals
    numbers = len(next(iter(table.values())))
    table = {name: [value] * numbers for name, value in header.items()} | table
    check(table, "csv", lambda path, part: write_csv(path, part, separator=";", comma=True))


def of_parquet(table):
    try:
        table = {name: pa.array(values).to_pylist() for name, values in table.items()}
    except pa.ArrowException:  # a column of several types is not one of Parquet
        return
    check(table, "parquet")


CHECKS = {
    "csv": (tables(), lambda table: check(table, "csv")),
    "csv of commas": (tables(), of_commas),
    "json lines": (tables(lists=True), lambda table: check(table, "jsonl")),
    "parquet": (tables(lists=True), of_parquet),
}


@pytest.mark.parametrize("examples", [8, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", CHECKS)
def test_any_table_of(kind, examples):
    drawn, checked = CHECKS[kind]
    health = list(HealthCheck)
    settings(max_examples=examples, deadline=None, suppress_health_check=health)(given(drawn)(checked))()


def test_codes_with_zeros_stay_what_they_are_in_files_of_their_own(tmp_path):
    """Parts typed one by one would make "00501" the number 501."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "a1.csv").write_text("code,y\n00501,0\n00502,1\n")
    (data / "a2.csv").write_text("code,y\nK1A,0\n00501,1\n")
    for source in (handful.open(data), handful.prepare(data, tmp_path / "store")):
        assert source.columns["code"].classes == ("00501", "00502", "K1A")
        assert source.take(range(4))["code"].tolist() == [0, 1, 2, 0]


def test_a_table_of_one_text_that_never_comes_twice_is_read_alike_in_blocks(tmp_path):
    (tmp_path / "own.csv").write_text("c\n" + "0 %\n" + "".join(f"${20 * k}\n" for k in range(40)))
    whole = handful.open(tmp_path / "own.csv")
    assert whole.columns["c"].kind == "text"
    same(in_small_blocks(tmp_path / "own.csv", tmp_path / "s"), whole)
