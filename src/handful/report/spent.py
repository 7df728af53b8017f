"""Where the time of a run went: a table, a figure, and what follows from it in plain words."""

from collections.abc import Mapping

from handful.base.stopwatch import STEPS, TRACE
from handful.report.figure import Figure, blank
from handful.report.tables import Grid
from handful.report.words import say_seconds, say_share

# The parts of a step, in its order; what is left of the loop's own time is book-keeping.
WAITING, COPYING, FORWARD, LOSS, BACKWARD, UPDATE = (
    "waiting for rows", "copying to the device", "forward pass", "loss and metrics", "backward pass", "update",
)  # fmt: skip
BOOKS = "book-keeping"
OF_A_STEP = (WAITING, COPYING, FORWARD, LOSS, BACKWARD, UPDATE, BOOKS)
CAUSES = {  # from what share of a step on, and what to do
    WAITING: (0.25, "the model waits for its rows: `handful prepare` writes them as a store, which reads fastest"),
    COPYING: (0.15, "rows take long to get to the device: columns of bytes instead of floats, or a larger batch, help"),
    UPDATE: (0.25, "the update costs as much for one row as for thousands: a larger batch makes fewer of them"),
    BOOKS: (0.15, "the steps are so short that keeping count of them shows: a larger batch makes fewer of them"),
}


def parts_of(spent: Mapping[str, float]) -> dict[str, float]:
    """The seconds by part, the loop's own under the name that it has for a reader: of a profile the book-keeping."""
    fine = any(name in spent for name in OF_A_STEP)
    return {BOOKS if fine and name == STEPS else name: seconds for name, seconds in spent.items()}


def grid(spent: Mapping[str, float], steps: int) -> Grid:
    """A row for each part: seconds, share of the whole, and, of the parts of a step, microseconds a step."""
    parts = parts_of(spent)
    whole = sum(parts.values()) or 1.0
    rows = [
        [name, say_seconds(seconds), say_share(seconds / whole),
         f"{1e6 * seconds / steps:,.0f}" if name in OF_A_STEP and steps else None]
        for name, seconds in parts.items()
    ]  # fmt: skip
    return Grid(["part", "time", "share", "microseconds a step"], rows)


def show(spent: Mapping[str, float], steps: int) -> None:
    """Print the table, and what follows from it."""
    grid(spent, steps).print()
    print(f"\n{verdict(spent)}")


def verdict(spent: Mapping[str, float]) -> str:
    """What takes the time, and what to do about it, in a sentence or two.

    >>> verdict({"forward pass": 1.0, "backward pass": 2.0, "waiting for rows": 3.0, "steps": 0.1})
    'Waiting for rows is 49.2% of a step: the model waits for its rows: `handful prepare` writes them as a store, ...'
    """
    parts = {name: seconds for name, seconds in parts_of(spent).items() if name != TRACE}  # no run has it but a profile
    step = {name: parts[name] for name in OF_A_STEP if name in parts}
    before, rest = sum(v for k, v in parts.items() if k not in step and k != STEPS), sum(step.values())
    rest = rest or parts.get(STEPS, 0.0)
    said = []
    total = sum(step.values()) or 1.0
    for name, (share, why) in CAUSES.items():
        if step.get(name, 0.0) > share * total:
            said.append(f"{name.capitalize()} is {say_share(step[name] / total)} of a step: {why}.")
    own = sum(step.get(name, 0.0) for name in (FORWARD, LOSS, BACKWARD))
    if step and not said:
        said.append(
            f"The model's own arithmetic is {say_share(own / total)} of a step: only less of it (a smaller model, "
            "precision='bfloat16', compile=True) or another device makes the steps much faster."
        )
    if before > rest:
        longest = max((k for k in parts if k not in step and k != STEPS), key=lambda k: parts[k])
        said.append(
            f"{say_seconds(before)} went by outside the steps, which took {say_seconds(rest)}: most on {longest}."
        )
    return " ".join(said)


def figure(spent: Mapping[str, float]) -> Figure:
    import plotly.graph_objects as go

    parts = parts_of(spent)
    names = sorted(parts, key=lambda name: (name == "everything else", -parts[name]))
    seconds = [round(parts[name], 4) for name in names]
    plot = blank("seconds", "")
    plot.add_trace(go.Bar(x=seconds, y=names, orientation="h"))
    plot.update_yaxes(autorange="reversed")
    summary = "Where the time went: " + ", ".join(f"{n} {say_seconds(s)}" for n, s in zip(names, seconds, strict=True))
    rows = [[n, s] for n, s in zip(names, seconds, strict=True)]
    return Figure("Where the time went", plot, Grid(["part", "seconds"], rows), summary)
