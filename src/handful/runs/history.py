"""The table of logged moments."""

from typing import Any


class History(list[dict[str, Any]]):
    """The table of logged moments: a list of rows; `history["valid_loss"]` is a column (None where absent)."""

    def __getitem__(self, key: Any) -> Any:
        return [row.get(key) for row in self] if isinstance(key, str) else super().__getitem__(key)

    @property
    def columns(self) -> list[str]:
        """All names that occur, in order of first appearance."""
        return list(dict.fromkeys(name for row in self for name in row))

    def to_pandas(self) -> Any:
        """A pandas DataFrame."""
        import pandas

        return pandas.DataFrame(list(self))

    def last(self, name: str) -> Any:
        """The newest value of a column, or None."""
        return next((row[name] for row in reversed(self) if name in row), None)
