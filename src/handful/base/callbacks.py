"""The caller's own functions that are told of a run's events: they may ask it to stop, and keep a state with it."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from handful.base.errors import HandfulError
from handful.base.plan import Row

Callback = Callable[[str, dict[str, object]], object]


@runtime_checkable
class Keeper(Protocol):
    """A callback whose state, a dict that JSON holds, is saved with the run's checkpoints and given back on resume."""

    def state_dict(self) -> Row: ...

    def load_state_dict(self, state: Row, /) -> object: ...


@dataclass(eq=False)
class Callbacks:
    """Those of a run, each called as callback(event, info) in the order they were given; see `handful.callback`."""

    all: tuple[Callback, ...] = ()
    may_stop: bool = True  # not a run of several ranks
    unheard: str = ""  # that one answered with what stops nothing
    reason: str | None = None  # why one of them asks the run to stop
    after: Callable[[], object] | None = None  # called when they have been told, where these modules were given, or
    watched: Sequence[Any] = ()  # lack, a part since, or this number is another
    changes: Sequence[int] = (0,)
    changed: Sequence[int] = (0,)
    _told: list[Callback] = field(default_factory=list)  # of the start, and not of the end yet
    _saved: Row = field(default_factory=dict)  # states by class and place; also of callbacks that are not here

    def take(self, callbacks: Sequence[Callback]) -> None:
        """Let it be these, with the states that a run that goes on has saved."""
        self.all = tuple(callbacks) if isinstance(callbacks, Iterable) else (callbacks,)
        for callback in self.all:
            if not callable(callback):
                raise HandfulError(f"callbacks are functions (event, info), not {callback!r}")
        self.restore(self._saved)
        self.state()  # or what is wrong with it would be said at the first checkpoint

    def tell(self, event: str, info: Row) -> None:
        """Let each know of an event; one that answers "step" or "evaluate" with a text asks to stop, and why."""
        for callback in self.all:
            if event == "start":
                self._told.append(callback)
            match callback(event, info):
                case str(reason) if event in ("step", "evaluate"):
                    if not self.may_stop:
                        raise HandfulError("a callback cannot stop a run of several ranks: they go by until= alone")
                    self.reason = self.reason or reason
                case answer if answer is not None and event in ("step", "evaluate") and not self.unheard:
                    why = "which does nothing: a text, the reason, stops the run"
                    self.unheard = f"a callback answered {answer!r} at '{event}', {why}"
        if self.after:
            parts = [self.changes[0], *(len(one._modules) + len(one._parameters) for one in self.watched)]
            if parts != self.changed:
                self.changed = parts
                self.after()

    def end(self, info: Row) -> None:
        """Let all that were told of the start know of the end, also where one fails there; raises the first error."""
        errors = []
        self.after, self.watched = None, ()  # they hold all that the run was made of
        while self._told:
            try:
                self._told.pop(0)("end", info)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def state(self) -> Row:
        """The states to save. HandfulError for one that JSON does not hold."""
        for name, keeper in self._keepers():
            state = keeper.state_dict()
            try:
                same = json.loads(json.dumps(state)) == state
            except (TypeError, ValueError):
                same = False
            if not same:
                raise HandfulError(f"the state of the callback {name} is not one that JSON holds, not {state!r}")
            self._saved[name] = state
        return dict(self._saved)

    def restore(self, saved: Row) -> None:
        """Give each its state of these back."""
        self._saved = dict(saved)
        for name, keeper in self._keepers():
            if name in saved:
                keeper.load_state_dict(saved[name])

    def _keepers(self) -> Iterator[tuple[str, Keeper]]:
        seen: Counter[str] = Counter()
        for callback in self.all:
            match callback:
                case Keeper():
                    title = type(callback).__name__
                    seen[title] += 1
                    yield f"{title} {seen[title]}", callback
