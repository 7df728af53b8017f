"""What the caller of `open` asked for, as every adapter needs it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from handful.base.machine import memory_budget
from handful.data.base import Column


@dataclass(frozen=True)
class Options:
    """The arguments of `open`.

    name: for messages; columns: names to keep, or None for all; schema: what those columns must be (when the
    caller gave a mapping); image_size: (height, width); rate: Hz; budget: bytes that decoded images may use.
    """

    name: str
    target: str | None = None
    columns: tuple[str, ...] | None = None
    schema: Mapping[str, Column] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    rate: int | None = None
    budget: int = field(default_factory=memory_budget)
    where: str | None = None
