"""Two runs side by side: what differs in plan, data and versions, and the first step at which their histories part."""

from dataclasses import dataclass
from pathlib import Path

from handful.base.plan import Row, versions_of
from handful.report.tables import print_table
from handful.training.watch.folder import RunFolder

ABSENT = "-"


@dataclass
class Difference:
    """Where two runs differ.

    differing: one row per choice, version or note of one alone: what, and its value in either run
    parted:    the rows of both histories at the first logged step where they are not equal; None if there is none
    shared:    logged steps that both histories have
    """

    names: tuple[str, str]
    differing: list[Row]
    parted: tuple[Row, Row] | None
    shared: int

    def show(self) -> None:
        """Print what differs, and where the histories part."""
        a, b = self.names
        if self.differing:
            print_table(self.differing)
        else:
            print("the plans, data and versions are the same")
        if self.parted is None:
            print(f"the histories are the same to the bit at all {self.shared:,} logged steps that both runs have")
            return
        left, right = self.parted
        print(f"the histories part at step {left['step']:,} (logged steps that both have: {self.shared:,}):")
        names = [n for n in left | right if n not in ("step", "seconds") and left.get(n) != right.get(n)]
        print_table([{"": n, a: left.get(n, ABSENT), b: right.get(n, ABSENT)} for n in names])


def diff(first: Path, second: Path) -> Difference:
    """What differs between the runs in two folders. Clocks are left out; notes count by their text."""
    a, b = (RunFolder(path) for path in (first, second))
    plans, histories = (a.plan(), b.plan()), (a.history(), b.history())
    names = (str(first), str(second))
    left, right = (
        versions_of(f.path / "plan.toml") | {name: str(choice.value) for name, choice in plan.choices.items()}
        for f, plan in zip((a, b), plans, strict=True)
    )
    rows = [
        {"what": what, names[0]: left.get(what, ABSENT), names[1]: right.get(what, ABSENT)}
        for what in left | right
        if left.get(what) != right.get(what)
    ]
    for i, plan in enumerate(plans):
        alone = [note for note in plan.notes if note not in plans[1 - i].notes]
        rows += [{"what": "note", names[i]: note, names[1 - i]: ABSENT} for note in alone]
    here, there = ({row["step"]: timeless(row) for row in h if "note" not in row} for h in histories)
    both = sorted(here.keys() & there.keys())
    parted = next(((here[s], there[s]) for s in both if here[s] != there[s]), None)
    return Difference(names, [{k: row[k] for k in ("what", *names)} for row in rows], parted, len(both))


def timeless(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "seconds"}
