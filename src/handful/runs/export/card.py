"""The model card: a page beside an exported model that says what it is, what it takes and how good it was."""

from collections.abc import Mapping, Sequence

from handful.base.plan import Plan, versions
from handful.data.base import Column
from handful.report.words import say_score


def card(
    file: str, plan: Plan, scores: Mapping[str, float], stopped_because: str, columns: Mapping[str, Column],
    facts: Mapping[str, object],
) -> str:  # fmt: skip
    """Markdown. columns: those of the training data, the target's among them; facts: of a `Program`, or empty where the
    file holds weights alone."""
    chosen = [[name, choice.value, choice.status, choice.reason] for name, choice in plan.choices.items()]
    held = [[name, column.kind, column.dtype, *_about(column)] for name, column in columns.items()]
    parts = [
        f"# {plan.model} on {plan.data}",
        f"`{file}`, written by handful {versions()['handful']}. Training stopped because {stopped_because}.",
        "License: not chosen yet. Intended use, limits and what the data may not stand for: yours to write here.",
        "## Scores",
        "\n".join(f"- {say_score(name, value)}" for name, value in scores.items()) or "None: nothing was scored.",
        *_of_program(facts),
        "## Training data",
        _table(["column", "kind", "type", "about"], held),
        "## Plan",
        _table(["choice", "value", "status", "reason"], chosen),
        *(["## Notes", "\n".join(f"- {note}" for note in plan.notes)] if plan.notes else []),
        "## Versions",
        ", ".join(f"{name} {version}" for name, version in versions().items()),
    ]
    return "\n\n".join(parts) + "\n"


def _of_program(facts: Mapping[str, object]) -> list[str]:
    match facts:
        case {"inputs": list(inputs), "output": dict(output), "outside": dict(outside)}:
            rows = [[i["name"], i["dtype"], ["rows", *i["shape"]], i["holds"]] for i in inputs]
            left = "".join(f"\n\nLeft outside: `{name}` is {step['does']}." for name, step in outside.items())
            said = f"It gives `{output['name']}`: {output['holds']} ({', '.join(output['names'][:20])})."
            return ["## Input and output", _table(["input", "type", "shape", "holds"], rows), said + left]
    return []


def _about(column: Column) -> list[object]:
    classes = f"{len(column.classes)} classes: {', '.join(column.classes[:10])}" if column.classes else ""
    return ["; ".join(filter(None, [classes, column.unit, column.dates or ""]))]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [
        [str(v).replace("|", "\\|").replace("\n", " ") for v in line] for line in (head, ["---"] * len(head), *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
