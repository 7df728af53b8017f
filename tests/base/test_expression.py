"""Text to objects: only what is known gets through, and every refusal is one sentence with its place."""

import contextlib
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handful.base import expression
from handful.base.errors import HandfulError


@dataclass(frozen=True)
class point:
    x: float
    y: float = 0.0
    name: str | None = None

    def __or__(self, other: Any) -> Any:
        return ("or", self, other)

    def __ror__(self, other: Any) -> Any:
        return ("or", other, self)

    def __and__(self, other: Any) -> Any:
        return ("and", self, other)


KNOWN = {"point": point, "pair": lambda a, b=None: (a, b)}


def parse(text: str) -> Any:
    return expression.parse(text, KNOWN, "thing")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("point(1)", point(1)),
        (" point ( -1.5e3 , y = 2 ) ", point(-1500.0, 2)),
        ("point(1, name='a|b')", point(1, name="a|b")),
        ("pair(point(1), b=True)", (point(1), True)),
        ("pair([1, -2.5, 'a'], b=[])", ([1, -2.5, "a"], [])),
        ("pair(pair(1), None)", ((1, None), None)),
        ("point(1) | point(2) & point(3)", ("or", point(1), ("and", point(2), point(3)))),
        ("(point(1)\n| point(2))", ("or", point(1), point(2))),
    ],
)
def test_reads(text: str, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("poimt(1)", "character 1: there is no 'poimt'. Did you mean 'point'?"),
        ("point(1) | poimt(2)", "character 12: there is no 'poimt'"),
        ("'é' | poimt(2)", "character 1: ''é'' is not a thing"),
        ("pair('é', poimt(2))", "character 11: there is no 'poimt'"),
        ("point(1,\n  poimt())", "character 12: there is no 'poimt'"),
        ("point()", "wrong arguments: missing a required argument: 'x'"),
        ("point(1, 2, 3, 4)", "too many positional"),
        ("point(1, nam=2)", "point takes no 'nam'. Did you mean 'name'?"),
        ("point(1", "cannot be read at character 6"),
        ("5point", "invalid decimal literal; it is made of pair(...), point(...)"),
        ("5", "'5' is not a thing; it is made of pair(...), point(...)"),
        ("point(1) + point(2)", "is not a thing"),
        ("point(1) | 3", "'3' is not a thing"),
        ("pair(1) | pair(2)", "cannot be joined"),
        ("point(*[1])", "is not a number"),
        ("point(**{})", "'**' is not allowed"),
        ("point(1).x", "is not a thing"),
        ("point({1})", "is not a number"),
        ("point([lambda: 0])", "is not a number"),
        ("point(--1)", "is not a number"),
        ("point(-True)", "is not a number"),
        ("point(1j)", "is not a number"),
        ("point(lambda: 0)", "is not a number"),
        ("point(f'{1}')", "is not a number"),
        ("point(x := 1)", "is not a number"),
        ("point(1) if 1 else point(2)", "is not a thing"),
        ("__import__('os')", "there is no '__import__'"),
        ("point(1); point(2)", "cannot be read"),
        ("point('\ud800')", "not text"),
        ("point(\0)", "cannot be read"),
        ("x" * 2000, "at most 1000"),
        ("(" * 400 + "point(1)" + ")" * 400, "cannot be read"),
        ("point(" + "9" * 900 + ")", None),
    ],
)
def test_refuses_in_one_sentence(text: str, words: str | None) -> None:
    if words is None:
        assert parse(text) == point(int("9" * 900))
        return
    with pytest.raises(HandfulError, match=re.escape(words)) as caught:
        parse(text)
    assert not str(caught.value).removesuffix(". Known: pair, point").endswith(".")  # one sentence


def test_a_long_chain_is_read_or_refused_but_never_crashes() -> None:
    joined = parse("|".join(["point(1)"] * 111))
    for _ in range(110):
        _, joined, right = joined
        assert right == point(1)
    with contextlib.suppress(HandfulError):
        parse("pair(" * 166 + "1" + ")" * 166)


def test_an_error_of_the_constructor_gets_its_place() -> None:
    def picky(n: int) -> int:
        return expression.positive_integer(n, "picky")

    with pytest.raises(HandfulError, match=r"character 1: picky must be a positive integer, not -1$"):
        expression.parse("picky(-1)", {"picky": picky}, "thing")


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_an_object_or_a_sentence(text: str) -> None:
    with contextlib.suppress(HandfulError):  # and no other exception, whatever the text
        parse(text)


@settings(deadline=None)
@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**20), 10**20),
    st.none() | st.text(max_size=20).filter(lambda text: text.isprintable()),
)
def test_form_is_the_inverse(x: float, y: float, name: str | None) -> None:
    made = point(x, y, name)
    assert parse(expression.form(made)) == made


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), True, "1", None, 0, -1, 1.5])
def test_number_refuses(bad: Any) -> None:
    with pytest.raises(HandfulError, match="n must be a positive integer, not"):
        expression.positive_integer(bad, "n")


def test_number_takes_whole_floats_as_ints() -> None:
    assert repr(expression.positive_integer(1e6, "n")) == "1000000"
    assert repr(expression.number(0.5, "n", least=0, most=1)) == "0.5"
    with pytest.raises(HandfulError, match="at most 1"):
        expression.number(1.5, "n", least=0, most=1)
