"""What a run was asked to do: every choice, with its status and reason; and how far a run has come."""

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["given", "found", "measured", "bounded", "default"]


@dataclass(frozen=True)
class Choice:
    """A value and why it has it.

    given: by the user; found: read off the data or model; measured: by a probe on this machine;
    bounded: only a bound could be measured; default: a stated default.
    """

    value: Any
    status: Status
    reason: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a run has come: all that schedules and stop rules may look at.

    position: examples consumed; step: updates made; examples: rows in one epoch; planned: examples that the run
    will use at most, if the stop rule says; seconds: spent training so far; history: one dict per logged moment.
    """

    position: int
    step: int
    examples: int
    seconds: float = 0.0
    planned: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epoch(self) -> float:
        """Epochs consumed, a fraction."""
        return self.position / self.examples

    @property
    def fraction(self) -> float:
        """Share of the planned examples that is consumed, 0..1; 0 when no limit is known."""
        return min(1.0, self.position / self.planned) if self.planned else 0.0
