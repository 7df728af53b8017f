"""Plain text, for language models: one document, and windows over its tokens."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import HandfulError
from .arrays import Arrays, Strings
from .base import Column, Rows, Source, Value
from .options import Options


def open_text(path: Path, o: Options) -> Arrays:
    """A .txt file as one row of one column, `text`."""
    if o.target is not None:
        raise HandfulError(f"{path} is plain text: it has no columns, so no target '{o.target}'; leave target out.")
    if o.columns is not None and o.columns != ("text",):
        raise HandfulError(f"{path} is plain text: its only column is 'text', not '{o.columns[0]}'.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise HandfulError(
            f"{path} is not UTF-8 (byte {error.object[error.start]:#04x} at {error.start:,}): convert "
            "it first, "
            "for example with iconv."
        ) from error
    if not text:
        raise HandfulError(f"{path} is empty: there is nothing to learn from.")
    notes = [f"{o.name} is one document of {len(text):,} characters, for language modelling."]
    column = Column("text", "str")
    return Arrays({"text": Strings([text], column)}, None, name=o.name, where=o.where, notes=notes)


class Windows(Source):
    """Rows cut from one sequence of tokens: row i is `tokens[i * stride : i * stride + length + 1]`.

    tokens: integers [total], also memory-mapped; length: the context T of a language model. The column
    `tokens` is int64 [m, T + 1]: inputs are its first T, targets its last T. With stride = length (the
    default) every token but the first is a target exactly once, except a rest of fewer than `stride` tokens
    at the end.

    Raises HandfulError when there are fewer than length + 1 tokens.

    >>> windows = Windows(np.arange(10), length=3)
    >>> len(windows), windows.take([2]).tensor("tokens").tolist()
    (3, [[6, 7, 8, 9]])
    """

    def __init__(
        self,
        tokens: NDArray[np.integer] | torch.Tensor,
        length: int,
        stride: int | None = None,
        name: str = "text",
    ) -> None:
        self.tokens = tokens.numpy() if isinstance(tokens, torch.Tensor) else tokens
        self.length, self.stride = length, length if stride is None else stride
        if length < 1 or self.stride < 1:
            raise HandfulError(f"a window needs length >= 1 and stride >= 1, not {length} and {self.stride}.")
        if len(self.tokens) <= length:
            raise HandfulError(
                f"{name} has {len(self.tokens):,} tokens, too few for one window of {length:,} + 1: "
                "shorten the context."
            )
        self.name, self.columns, self.target = (
            name,
            {"tokens": Column("tensor", "int64", (length + 1,))},
            None,
        )
        self.in_memory = not isinstance(self.tokens, np.memmap)
        rest = (len(self.tokens) - 1 - length) % self.stride
        self.notes = [f"the last {rest:,} tokens do not fill a window and are left out."] if rest else []

    def __len__(self) -> int:
        return (len(self.tokens) - 1 - self.length) // self.stride + 1

    def read(self, rows: Rows) -> dict[str, Value]:
        index = rows[:, None] * self.stride + np.arange(self.length + 1, dtype=np.int64)
        return {"tokens": torch.from_numpy(self.tokens[index].astype(np.int64, copy=False))}
