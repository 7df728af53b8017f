"""What a value of JSON holds: rows, or columns, as many programs write them."""

from collections.abc import Iterable
from typing import Any

from handful.base.errors import HandfulError
from handful.data.containers import of_rows


def of_json(found: object, where: str) -> tuple[dict[str, list[Any]], str | None]:
    """The columns that a value of JSON holds, and a note on what else it holds: a list of objects, one a row, the
    only one so far up; an object of columns or of rows, as pandas writes them; one row. HandfulError for others.

    >>> of_json({"meta": {"of": 2026}, "data": [{"a": 1}, {"a": 2, "b": 3}]}, "x.json")
    ({'a': [1, 2], 'b': [None, 3]}, "the rows are in 'data'; what is beside it is left out: meta.")
    >>> of_json({"columns": ["a", "b"], "index": [0], "data": [[1, 2]]}, "x.json")
    ({'a': [1], 'b': [2]}, None)
    """
    match found:
        case {"columns": [*names], "data": [list(), *_] as rows} if all(len(row) == len(names) for row in rows):
            return {str(name): [row[k] for row in rows] for k, name in enumerate(names)}, None
        case dict() if found and all(isinstance(column, list | dict) for column in found.values()):
            columns: dict[str, Any] = found
            if all(isinstance(column, dict) for column in found.values()) and _are_rows(found):
                return of_rows(list(found.values())), None
            columns = {name: list(v.values()) if isinstance(v, dict) else v for name, v in found.items()}
            if len({len(v) for v in columns.values()}) == 1 and (len(found) > 1 or not _tables(found)):
                return columns, None
        case dict() if found and not any(isinstance(value, list | dict) for value in found.values()):
            return of_rows([found]), None
    tables = _tables(found)
    least = min((path.count("\0") for path in tables), default=0)
    tables = {path.replace("\0", "."): rows for path, rows in tables.items() if path.count("\0") == least}
    if len(tables) != 1:
        several = "has several lists of objects: " + ", ".join(tables) + "; write one of them alone"
        neither = "is neither a list of objects, one per row, nor an object of columns of one length"
        raise HandfulError(f"{where} {several if tables else neither}")
    ((path, rows),) = tables.items()
    beside = [name for name in found if name != path.partition(".")[0]] if isinstance(found, dict) else []
    rest = f"; what is beside it is left out: {', '.join(beside)}" if beside else ""
    return of_rows(rows), f"the rows are in '{path}'{rest}." if path else None


def _tables(found: object, path: str = "") -> dict[str, list[dict[str, Any]]]:
    """The lists of objects in a value of JSON, but for those in rows of others, by the names that lead there."""
    match found:
        case [*rows] if rows and len(objects := [row for row in rows if isinstance(row, dict)]) == len(rows):
            return {path: objects}
        case dict():
            inner = (_tables(value, f"{path}\0{name}" if path else name) for name, value in found.items())
            return {name: rows for tables in inner for name, rows in tables.items()}
    return {}


def _are_rows(found: dict[str, dict[str, Any]]) -> bool:
    """Whether an object of objects is rows by their names, not columns: its own names count, or the types of values
    within each differ, as columns' do not."""

    def mixed(parts: Iterable[Iterable[object]]) -> bool:
        return any(len({isinstance(v, str) for v in part if v is not None}) > 1 for part in parts)

    across = of_rows(list(found.values()))
    counted, within = all(map(str.isdigit, found)), not any(map(str.isdigit, across))
    return (counted and within) or (mixed(v.values() for v in found.values()) and not mixed(across.values()))
