"""The table of logged moments."""

from typing import TYPE_CHECKING, Any, SupportsIndex, overload

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]  # a logged moment, as JSON holds it: numbers, None, and the text of a note
Value = float | str | None


class History(list[Row]):
    """The table of logged moments: a list of rows; `history["valid_loss"]` is a column (None where absent)."""

    @overload
    def __getitem__(self, key: str) -> list[Value]: ...
    @overload
    def __getitem__(self, key: SupportsIndex) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...
    def __getitem__(self, key: str | SupportsIndex | slice) -> list[Value] | Row | list[Row]:
        return [row.get(key) for row in self] if isinstance(key, str) else super().__getitem__(key)

    @property
    def columns(self) -> list[str]:
        """All names that occur, in order of first appearance."""
        return list(dict.fromkeys(name for row in self for name in row))

    def to_pandas(self) -> "DataFrame":
        """A pandas DataFrame."""
        import pandas

        return pandas.DataFrame(list(self))

    def last(self, name: str) -> Value:
        """The newest value of a column, or None."""
        return next((row[name] for row in reversed(self) if name in row), None)
