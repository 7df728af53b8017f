"""What a run was asked to do: every choice, with its status and reason; and how far a run has come."""

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from handful.base.errors import HandfulError, without_secrets
from handful.base.files import a_file, of_text, write_text
from handful.base.version import __version__

Row = dict[str, Any]  # a moment of a run: names of `Progress` and of scores -> numbers; a note is text
Status = Literal["given", "found", "measured", "bounded", "default"]


@dataclass(frozen=True)
class Choice:
    """A value and why it has it.

    given: by the user; found: read off the data or model; measured: by a probe on this machine;
    bounded: only a bound could be measured; default: a stated default.
    reproducible: whether the plan alone can make it again; False for the caller's own Python objects.
    """

    value: Any
    status: Status
    reason: str = ""
    reproducible: bool = True

    @classmethod
    def own(cls, name: str, status: Status = "given", reason: str = "") -> "Choice":
        """An object of the caller's own, which only the caller can give again.

        >>> Choice.own("Linear").value
        'your own Linear'
        """
        return cls(f"your own {name}", status, reason, reproducible=False)

    @classmethod
    def place(cls, where: str, reason: str = "") -> "Choice":
        """A path or an address as it was given; its secrets are not kept, so that one who has them gives it again.

        >>> Choice.place("https://me:pw@host/x.csv").value
        'https://***@host/x.csv'
        """
        kept = without_secrets(where)
        return cls(kept, "given", reason, reproducible=kept == where)


# Options of `fit` that are for Python.
IN_PYTHON = {"batch_growth", "step_times", "join", "training_step", "collate"}
# What may be changed when a run goes on: how it is computed, how large a step is, when something happens.
COMPUTED = {"micro_batch", "threads", "compile", "graph", "device", "profile", "sharding"}
CHANGEABLE = COMPUTED | {"until", "lr", "schedule", "batch", "batch_growth", "l1", "clip_norm", "clip_value", "augment",
                         "evaluate_every", "save_every", "on_nonfinite"}  # fmt: skip
_CLOCKED = ("step_times", "threads", "precision", "micro_batch")  # depend on the machine and its moment


@dataclass(frozen=True)
class Plan:
    """Every choice of a run, frozen; `plan.batch` is the value of the choice called "batch".

    >>> Plan({"batch": Choice(32, "given")}).batch
    32
    """

    choices: Mapping[str, Choice]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(map(without_secrets, self.notes)))

    def __repr__(self) -> str:
        """A line for each choice, as a notebook shows it."""
        return "\n".join(f"{name}: {c.value} ({c.status})" for name, c in self.choices.items())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("choices", "notes"):  # not there yet while being copied
            raise AttributeError(name)
        try:
            return self.choices[name].value
        except KeyError:
            raise AttributeError(f"the plan has no choice called '{name}'; it has {', '.join(self.choices)}") from None

    @property
    def options(self) -> dict[str, Any]:
        """The options of `fit` that make this run again, to the bit where the machine computes alike: what was given,
        and what a clock has decided. The model and the data, and objects of the caller's own, are given besides.

        >>> Plan({"lr": Choice(0.1, "measured"), "l1": Choice(0.5, "given"), "threads": Choice(2, "measured")}).options
        {'l1': 0.5, 'threads': 2}
        """
        return {
            name: choice.value
            for name, choice in self.choices.items()
            if (choice.status == "given" or name in _CLOCKED) and choice.reproducible and name not in ("data", "model")
        }

    def unlike(self, given: Mapping[str, object]) -> list[str]:
        """Which options are not those of the plan and may not change when its run goes on, by their plain values, or as
        rows where none, or a share, were held out."""
        kept = {k: self.choices[k] for k in given if k in self.choices and k not in CHANGEABLE}
        return [
            k
            for k, choice in kept.items()
            if choice.reproducible
            and (
                given[k] not in ("auto", choice.value)
                if isinstance(given[k], str | int | float)
                else k == "valid" and given[k] is not None and isinstance(choice.value, int | float)
            )
        ]

    def stays(self, name: str) -> HandfulError:
        """That an option stays as it is when the run goes on."""
        now = self.choices[name].value if name in self.choices else None
        may = ", ".join(sorted(CHANGEABLE))
        return HandfulError(f"{name} is {now!r} in this run and stays so when it goes on; what may change is {may}")

    @property
    def command(self) -> str:
        """The command that trains so again, measuring again what was measured; "" where a file of Python is needed.

        >>> Plan({"data": Choice("digits", "given"), "lr": Choice(0.1, "measured"), "l1": Choice(0.5, "given")}).command
        'handful train digits --l1 0.5'
        """
        given = {name: choice for name, choice in self.choices.items() if choice.status == "given"}
        if not all(c.reproducible for c in given.values()) or IN_PYTHON & given.keys() or "data" not in given:
            return ""
        words = ["handful", "train", str(given.pop("data").value)]
        for name, choice in given.items():
            flag = f"--{name.replace('_', '-')}"
            bare = choice.value is True and name not in ("compile", "graph")  # which may be "auto", too
            words += [flag] if bare else [flag, "none" if choice.value is None else str(choice.value)]
        return shlex.join(words)

    def save(self, path: Path) -> None:
        """Write plan.toml, one table a choice. A value of None is left out of its table."""
        import tomli_w

        tables: dict[str, Any] = {"versions": versions(), "notes": list(self.notes)}
        for name, choice in self.choices.items():
            value = {} if choice.value is None else {"value": _plain(choice.value)}
            own = {} if choice.reproducible else {"reproducible": False}
            tables[name] = {**value, "status": choice.status, "reason": choice.reason, **own}
        text = tomli_w.dumps(tables)
        write_text(path, f"# sha256 {of_text(text)}\n{text}")

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read plan.toml back. Raises HandfulError when it is missing or not a plan."""
        try:
            first, _, text = a_file(path).read_bytes().decode().partition("\n")
            if first != f"# sha256 {of_text(text)}":
                raise ValueError("its checksum does not match what it holds")
            tables = tomllib.loads(text)
            notes = tuple(tables.pop("notes"))
            tables.pop("versions")
            return cls({name: Choice(**{"value": None, **table}) for name, table in tables.items()}, notes)
        except FileNotFoundError:
            raise HandfulError(f"{path.parent} is not a run folder: it has no {path.name}") from None
        except OSError as error:
            raise HandfulError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise HandfulError(f"{path} is not a plan that handful wrote: {error}") from None


def versions() -> dict[str, str]:
    """What the bits of a run depend on besides its plan: versions, and the kind of machine."""
    import platform  # not before it is asked for: `handful --help` need not wait
    from importlib.metadata import version

    return {
        "handful": __version__, "torch": version("torch"), "numpy": version("numpy"),
        "python": platform.python_version(), "machine": platform.machine(),
    }  # fmt: skip


def versions_of(path: Path) -> dict[str, str]:
    found: dict[str, str] = tomllib.loads(path.read_text(encoding="utf-8"))["versions"]
    return found


def _plain(value: Any) -> Any:
    """The value as TOML can hold it: dictionaries without None, tuples as lists, other objects as their text."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value)


@dataclass(frozen=True)
class Progress:
    """How far a run has come: all that schedules and stop rules may look at.

    position: examples consumed; step: updates made; examples: rows in one epoch; planned: examples that the run
    will use at most, if the stop rule says; seconds: spent training so far; history: one dict per logged moment;
    restarted: the position at which the run began again last, if it did.
    """

    position: int
    step: int
    examples: int
    seconds: float = 0.0
    planned: int | None = None
    history: list[Row] = field(default_factory=list)
    restarted: int = 0

    @property
    def epoch(self) -> float:
        """Epochs consumed, a fraction."""
        return self.position / self.examples

    @property
    def fraction(self) -> float:
        """Share of the planned examples that is consumed, 0..1; 0 when no limit is known."""
        return min(1.0, self.position / self.planned) if self.planned else 0.0
