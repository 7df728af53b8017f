"""Text such as `epochs(50) | plateau(5)` to objects and back, from known names; nothing is ever evaluated.

Python's own parser (`ast`) reads the text; of its tree only calls of known names, numbers, strings, True,
False, None, lists, `|`, `&` and brackets are accepted. Stop rules, schedules and models share this.
"""

import ast
import inspect
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from handful.base.errors import HandfulError, did_you_mean

LONGEST = 1000  # characters; keeps the depth of the tree far below Python's recursion limit

_COMBINE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
}


def parse(text: str, known: Mapping[str, Callable[..., Any]], what: str) -> Any:
    """Build the object that `text` describes, from the constructors in `known`; `what` names it in messages.

    A bare name means a call without arguments. Raises HandfulError with the place in the text.

    >>> parse("pair(1, b=-2.5)", {"pair": lambda a, b: (a, b)}, "pair")
    (1, -2.5)
    """
    source = text.strip()
    if not source:
        raise HandfulError(f"The {what} is empty; known are {', '.join(sorted(known))}.")
    if len(source) > LONGEST:
        raise HandfulError(f"The {what} is {len(source)} characters long; at most {LONGEST} are read.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful escape in a string is the reader's own affair
            tree = ast.parse(source, mode="eval").body
        return _Reader(source, known, what).build(tree)
    except SyntaxError as error:
        place = f" at character {error.offset}" if error.offset else ""
        raise HandfulError(f"The {what} '{source}' cannot be read{place}: {error.msg}.") from None
    except (RecursionError, MemoryError):
        raise HandfulError(f"The {what} '{source[:40]}...' is nested too deeply.") from None
    except UnicodeError:
        raise HandfulError(f"The {what} {source!r} holds characters that are not text.") from None


class _Reader:
    def __init__(self, source: str, known: Mapping[str, Callable[..., Any]], what: str) -> None:
        self.source, self.known, self.what = source, known, what

    def build(self, node: ast.expr) -> Any:
        """An object: a call, a bare name, or two objects joined."""
        match node:
            case ast.Name(id=name):
                return self.call(node, name, [], {})
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                named: dict[str, Any] = {}
                for keyword in keywords:
                    if keyword.arg is None:
                        raise self.error(node, "'**' is not allowed")
                    named[keyword.arg] = self.value(keyword.value)
                return self.call(node, name, [self.value(arg) for arg in args], named)
            case ast.BinOp(op=op) if type(op) in _COMBINE:
                left, right = self.build(node.left), self.build(node.right)
                try:
                    return _COMBINE[type(op)](left, right)
                except TypeError:
                    raise self.error(node, f"a {self.what} cannot be joined with '|' or '&'") from None
        raise self.error(node, f"'{self.text(node)}' is not a {self.what}")

    def value(self, node: ast.expr) -> Any:
        """An argument: a number, a string, True, False, None, a list of such, or an object."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if not (
                isinstance(number, bool)
            ):
                return -number
            case ast.List(elts=items):
                return [self.value(item) for item in items]
            case ast.Name() | ast.Call() | ast.BinOp():
                return self.build(node)
        raise self.error(node, f"'{self.text(node)}' is not a number, a string or a {self.what}")

    def call(self, node: ast.expr, name: str, args: list[Any], named: dict[str, Any]) -> Any:
        if name not in self.known:
            raise self.error(node, f"there is no '{name}'.{did_you_mean(name, self.known)}")
        make = self.known[name]
        signature = inspect.signature(make)
        unknown = [key for key in named if key not in signature.parameters]
        if unknown:
            raise self.error(node, f"{name} takes no '{unknown[0]}'.{did_you_mean(unknown[0], signature.parameters)}")
        try:
            signature.bind(*args, **named)
        except TypeError as error:
            raise self.error(node, f"{name}{_plain(signature)} was given the wrong arguments: {error}") from None
        try:
            return make(*args, **named)
        except HandfulError as error:
            raise self.error(node, str(error)) from None

    def text(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.source, node) or self.source

    def error(self, node: ast.expr, sentence: str) -> HandfulError:
        ahead = self.source.splitlines()[: node.lineno - 1]
        line = self.source.splitlines()[node.lineno - 1].encode()
        at = sum(len(one) + 1 for one in ahead) + len(line[: node.col_offset].decode()) + 1
        end = "" if sentence.endswith((".", "?")) else "."
        return HandfulError(f"In the {self.what} '{self.source}', character {at}: {sentence}{end}")


def _plain(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"


def form(thing: Any) -> str:
    """The text of a dataclass object, for `parse`: required fields by place, others if not the default.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class pair:
    ...     a: int
    ...     b: float = 0.5
    >>> form(pair(1)), form(pair(2, 3.0))
    ('pair(1)', 'pair(2, b=3.0)')
    """
    parts = []
    for field in fields(thing):
        value = getattr(thing, field.name)
        if field.default is MISSING and field.default_factory is MISSING:
            parts.append(_literal(value))
        elif value != field.default:
            parts.append(f"{field.name}={_literal(value)}")
    return f"{type(thing).__name__}({', '.join(parts)})"


def _literal(value: Any) -> str:
    return repr(value) if isinstance(value, bool | int | float | str | None) else str(value)


def number(
    value: Any,
    name: str,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    whole: bool = False,
) -> Any:
    """Check an argument and return it: an int where `whole`, else an int or float; finite and in its range.

    Raises HandfulError: "steps needs a whole number above 0, not -3."
    """
    kind = "a whole number" if whole else "a number"
    limits = [f"above {above:g}"] if above is not None else []
    limits += [f"of at least {least:g}"] if least is not None else []
    limits += [f"at most {most:g}"] if most is not None else []
    wrong = HandfulError(f"{name} needs {' '.join([kind, ' and '.join(limits)]).strip()}, not {value!r}.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong
    if not (-1e300 < value < 1e300) or (whole and value != int(value)):
        raise wrong
    if (above is not None and value <= above) or (least is not None and value < least):
        raise wrong
    if most is not None and value > most:
        raise wrong
    return int(value) if whole else value


def identifier(value: Any, name: str) -> str:
    """Check that an argument is a score's name, such as "valid_loss"; raises HandfulError."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][\w@.\-]*", value):
        raise HandfulError(f"{name} needs the name of a score, such as 'valid_loss', not {value!r}.")
    return value
