"""Text such as `epochs(50) | plateau(5)` to objects and back, from known names; nothing is ever evaluated.

Python's own parser (`ast`) reads the text; of its tree only calls of known names, numbers, strings, True,
False, None, lists, `|`, `&` and brackets are accepted. Stop rules, schedules and models share this.
"""

import ast
import inspect
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, get_args, get_type_hints

from handful.base.errors import HandfulError, did_you_mean, some

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

LONGEST = 1000  # characters; keeps the depth of the tree far below Python's recursion limit

_COMBINE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {ast.BitOr: operator.or_, ast.BitAnd: operator.and_}


def parse(text: str, known: Mapping[str, Callable[..., T]], what: str) -> T:
    """Build the object that `text` describes, from the constructors in `known`; `what` names it in messages.

    A bare name means a call without arguments. Raises HandfulError with the place in the text.

    >>> parse("pair(1, b=-2.5)", {"pair": lambda a, b: (a, b)}, "pair")
    (1, -2.5)
    """
    source = text.strip()
    if not source:
        raise HandfulError(f"the {what} is empty; known are {', '.join(sorted(known))}")
    if len(source) > LONGEST:
        raise HandfulError(f"the {what} is {len(source)} characters long; at most {LONGEST} are read")
    if source in known:
        with suppress(TypeError, HandfulError):  # it wants arguments, as is said below
            return known[source]()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful escape in a string is the reader's own affair
            tree = ast.parse(source, mode="eval").body
        return _Parser(source, known, what).build(tree)
    except SyntaxError as error:
        place = f" at character {error.offset}" if error.offset else ""
        raise HandfulError(f"the {what} '{source}' cannot be read{place}: {error.msg}{_forms(known)}") from None
    except (RecursionError, MemoryError):
        raise HandfulError(f"the {what} '{source[:40]}...' is nested too deeply") from None
    except UnicodeError:
        raise HandfulError(f"the {what} {source!r} holds characters that are not text") from None


@dataclass(frozen=True)
class _Parser(Generic[T]):
    source: str
    known: Mapping[str, Callable[..., T]]
    what: str

    def build(self, node: ast.expr) -> T:
        """An object: a call, a bare name, or two objects joined."""
        match node:
            case ast.Name(id=name):
                return self.call(node, name, [], {})
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                named: dict[str, object] = {}
                for keyword in keywords:
                    if keyword.arg is None:
                        raise self.error(node, "'**' is not allowed")
                    named[keyword.arg] = self.value(keyword.value)
                return self.call(node, name, [self.value(arg) for arg in args], named)
            case ast.BinOp(op=op) if type(op) in _COMBINE:
                left, right = self.build(node.left), self.build(node.right)
                try:
                    joined: T = _COMBINE[type(op)](left, right)
                    return joined
                except TypeError:
                    raise self.error(node, f"a {self.what} cannot be joined with '|' or '&'") from None
        kind = f"{'an' if self.what[0] in 'aeiou' else 'a'} {self.what}"
        raise self.error(node, f"'{self.text(node)}' is not {kind}{_forms(self.known)}")

    def value(self, node: ast.expr) -> object:
        """An argument: a number, a string, True, False, None, a list of such, or an object."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=bool())):
                pass
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.List(elts=items):
                return [self.value(item) for item in items]
            case ast.Name() | ast.Call() | ast.BinOp():
                return self.build(node)
        raise self.error(node, f"'{self.text(node)}' is not a number, a string or a {self.what}")

    def call(self, node: ast.expr, name: str, args: list[object], named: dict[str, object]) -> T:
        if name not in self.known:
            raise self.error(node, f"there is no '{name}'.{did_you_mean(name, self.known, self.what)}")
        make = self.known[name]
        takes = signature(make)
        for key in named.keys() - takes.parameters:
            raise self.error(node, f"{name} takes no '{key}'.{did_you_mean(key, takes.parameters)}")
        try:
            takes.bind(*args, **named)
        except TypeError as error:
            known = ", ".join(takes.parameters)
            raise self.error(node, f"{name}({known}) was given the wrong arguments: {error}") from None
        try:
            return make(*args, **named)
        except HandfulError as error:
            raise self.error(node, str(error)) from None

    def text(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.source, node) or self.source

    def error(self, node: ast.expr, sentence: str) -> HandfulError:
        *before, line = self.source.splitlines()[: node.lineno]
        at = sum(len(one) + 1 for one in before) + len(line.encode()[: node.col_offset].decode()) + 1
        return HandfulError(f"in the {self.what} '{self.source}', character {at}: {sentence}")


def _forms(known: Iterable[str]) -> str:
    """What may stand there instead."""
    return f"; it is made of {some([f'{name}(...)' for name in sorted(known)], 12)}"


@lru_cache(256)
def signature(function: Any) -> inspect.Signature:
    """Of a function or class that stays; to ask Python anew takes a tenth of a millisecond."""
    return inspect.signature(function)


@dataclass(frozen=True, eq=False)
class Expression:
    """A frozen dataclass that `str` writes as text which `parse` reads back, its fields checked as they are annotated.

    >>> @dataclass(frozen=True)
    ... class pair(Expression):
    ...     a: Count
    ...     b: Fraction = 0.5
    >>> str(pair(1)), str(pair(2, 1.0))
    ('pair(1)', 'pair(2, b=1.0)')
    >>> pair(1, b=2)
    Traceback (most recent call last):
    handful.base.errors.HandfulError: pair(b) must be a number of at least 0 and at most 1, not 2
    """

    def __post_init__(self) -> None:
        kind: type = type(self)
        for name, check in _checks(kind).items():
            value = getattr(self, name)
            if value is not None or getattr(type(self), name, MISSING) is not None:
                object.__setattr__(self, name, check(value, f"{type(self).__name__}({name})"))

    def __str__(self) -> str:
        return form(self)


@cache
def _checks(kind: type) -> dict[str, Callable[[object, str], object]]:
    """The check in `Annotated[...]` of each annotated field, that of `Annotated[...] | None` too."""
    return {
        name: check
        for name, hint in get_type_hints(kind, include_extras=True).items()
        for part in (hint, *get_args(hint))
        for check in getattr(part, "__metadata__", ())
    }


def form(thing: "DataclassInstance") -> str:
    """The text of a dataclass object, for `parse`: required fields by place, others if not the default."""
    parts = []
    for field in fields(thing):
        value = getattr(thing, field.name)
        text = str(value) if isinstance(value, Expression) else repr(value)
        if field.default is MISSING and field.default_factory is MISSING:
            parts.append(text)
        elif value != field.default:
            parts.append(f"{field.name}={text}")
    return f"{type(thing).__name__}({', '.join(parts)})"


def with_options(text: str, options: Mapping[str, Any]) -> str:
    """The text of one object, with some arguments given by name set. Raises HandfulError where it is not one.

    >>> with_options("mlp", {"hidden": (8, 8)}), with_options("mlp(hidden=[64])", {"hidden": [8], "norm": "layer"})
    ('mlp(hidden=[8, 8])', "mlp(hidden=[8], norm='layer')")
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        node = ast.Constant(None)
    match node:
        case ast.Name():
            node = ast.Call(node, [], [])
        case ast.Call(func=ast.Name()):
            pass
        case _:
            raise HandfulError(f"options can be set of one name, such as sgd, not of '{text}'")
    kept = [keyword for keyword in node.keywords if keyword.arg not in options]
    new = [ast.keyword(name, ast.parse(repr(_listed(value)), mode="eval").body) for name, value in options.items()]
    node.keywords = [*kept, *new]
    return ast.unparse(node)


def _listed(value: Any) -> Any:
    """Numbers of NumPy, arrays and tuples as Python's numbers and lists, which a text can hold."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def is_array(value: object) -> bool:
    """Whether it is an array, tensor, frame or series, and not one number of these."""
    return hasattr(value, "__array__") and bool(getattr(value, "shape", ()))


def number(
    value: object, name: str, *, above: float | None = None, least: float | None = None, most: float | None = None
) -> float:
    """`value`, an int or float, finite and in its range; HandfulError, naming it, for anything else.

    >>> number(-1, "lr", above=0)
    Traceback (most recent call last):
    handful.base.errors.HandfulError: lr must be a number above 0, not -1
    """
    match value:
        case bool():
            pass
        case int() | float() if (
            -1e300 < value < 1e300
            and (above is None or value > above)
            and (least is None or value >= least)
            and (most is None or value <= most)
        ):
            return value
    limits = [("above", above), ("of at least", least), ("at most", most)]
    words = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
    raise HandfulError(f"{name} must be {f'a number {words}'.strip()}, not {value!r}")


def positive_integer(value: object, name: str) -> int:
    """`value` as an int, 1e6 as well; HandfulError, naming it, for anything that is not a whole number above 0."""
    match value:
        case bool():
            pass
        case int() | float() if 0 < value < 1e300 and value == int(value):
            return int(value)
    raise HandfulError(f"{name} must be a positive integer, not {value!r}")


def identifier(value: object, name: str) -> str:
    """Check that an argument is a score's name, such as "valid_loss"; raises HandfulError."""
    match value:
        case str() if re.fullmatch(r"[A-Za-z_][\w@.\-]*", value):
            return value
    raise HandfulError(f"{name} must be the name of a score, such as 'valid_loss', not {value!r}")


# Types of an Expression's fields
Number = Annotated[float, number]
Positive = Annotated[float, partial(number, above=0)]
NotNegative = Annotated[float, partial(number, least=0)]
Fraction = Annotated[float, partial(number, least=0, most=1)]
Count = Annotated[int, positive_integer]
ScoreName = Annotated[str, identifier]
