"""The state of the house in figures: how large, how tangled, how deep from a call of `fit` to the update.

    python benchmarks/house.py [--src src] [--static] [--tests] [--show] [--json]

--src PATH  the folder that holds `handful`, of this tree or of an older checkout (`git worktree add ../before 5080c68`)
--static    only what is read from the sources; else two small runs are counted too
--tests     collect the tests with pytest, and count them
--show      name the offenders against each rule of house_rules.py, and the functions of one steady step
--json      print the figures as JSON, with nothing else

The static figures are those of house_rules.py. What a run enters is counted by `sys.setprofile` in the calling thread,
after every module was imported. A *function* is one with a `def` or `lambda` in a file of handful; going on with a
generator is a call. *Frames of any kind* are comprehensions (before Python 3.12) and methods made by dataclasses too.

- One steady step: an MLP 16-32-2 on 20,000 rows in memory, batch 32 and lr given, valid=None, until steps(1000), quiet.
  A step goes from one "step" event of a callback to the next; of steps 21 to 60 the most frequent count of those that
  are not logged, and have no logged one before them; the mean is over all 40.
- From `fit` on a CSV to the first update: fit("auto", ...) on 600 rows of an integer, a number with gaps, a category, a
  date and a target of two classes, until steps(1), quiet, up to the first `step` of any torch optimizer, be it a
  probe's; then the same up to the run's own first step; then with batch and lr given.

The core is the table in docs/architecture.md under `## The core`: each row's first cell is a path below src/handful, in
backticks. A tree without that table is measured by CORE, what the core was before it had one.
"""

import argparse
import ast
import collections
import datetime
import importlib
import json
import os
import pkgutil
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import house_rules as rules

ROOT = Path(__file__).resolve().parents[1]
CORE = [
    f"{name}.py"
    for name in "fit step objective training state batches order schedule stop optimizer".split()  # noqa: SIM905
]
TEMPLATES = (".html", ".jinja", ".j2", ".css", ".js")
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
LIMITS = {  # issue 13, "It must show"
    "names at the top": 16,
    "lines of src, *.py": 21_500,
    "circles, imports at the top of the file": 0,
    "circles, imports inside functions too": 0,
    "circles, imports under TYPE_CHECKING too": 0,
    "own imports inside functions, other than in __init__ and cli": 0,
    "private names of another file": 0,
    "class names in two places": 0,
    "functions over 40 lines without docstring": 0,
    "modules over 400 lines": 0,
    "folders of fewer than 3 or more than 12 modules": 0,
    "isinstance( per 1,000 lines": 10,
    "Any": 250,
    "lines of the core": 750,
    "one steady step: calls": 40,
    "one steady step: functions": 20,
    "one steady step: modules": 8,
    "fit on a CSV to the first update: functions": 200,
    "fit on a CSV to the first update: modules": 35,
}


def core_files(source: Path) -> list[str]:
    """The first cells of the table under `## The core`, or CORE."""
    page = source.parent / "docs" / "architecture.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    section = re.search(r"^## The core\s*$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    named = re.findall(r"^\|\s*`([^`]+\.py)`", section[1], re.MULTILINE) if section else []
    return [name.removeprefix("src/").removeprefix("handful/") for name in named] or CORE


def static_figures(source: Path) -> dict[str, Any]:
    """What the sources say."""
    package = rules.Package(source / "handful")
    top, function, typing = rules.TOP, rules.FUNCTION, rules.TYPING
    lines = sum(m.lines for m in package)
    text = "\n".join(m.text for m in package)
    nodes = [node for module in package for node in ast.walk(module.tree)]
    names = rules.top_names(package)
    files = sum((package.root / name).is_file() for name in names)
    inside = {(i.source, i.line) for i in package.imports if i.where == function}
    core = core_files(source)
    return {
        "names at the top": len(names),
        "  of them files": files,
        "  of them folders": len(names) - files,
        "modules": len(package.modules),
        "lines of src, *.py": lines,
        "lines of templates": sum(
            len(p.read_text(encoding="utf-8").splitlines())
            for p in package.root.rglob("*")
            if p.suffix in TEMPLATES and p.is_file()
        ),
        "circles, imports at the top of the file": len(rules.circles(package, (top,))),
        "circles, imports inside functions too": len(rules.circles(package, (top, function))),
        "circles, imports under TYPE_CHECKING too": len(rules.circles(package, (top, function, typing))),
        "own imports inside functions, statements": len(inside),
        "own imports inside functions, other than in __init__ and cli": len(rules.imports_in_functions(package)),
        "private names of another file": len(rules.private_names(package)),
        "class names in two places": len(rules.class_names_twice(package)),
        "functions over 40 lines without docstring": len(rules.long_functions(package)),
        "modules over 400 lines": len(rules.long_modules(package)),
        "folders of fewer than 3 or more than 12 modules": len(rules.folder_sizes(package)),
        "isinstance(": len(re.findall(r"isinstance\(", text)),
        "isinstance( per 1,000 lines": round(1000 * len(re.findall(r"isinstance\(", text)) / lines, 1),
        "issubclass(, hasattr(, callable(, type(x) is": len(
            re.findall(r"\b(?:issubclass|hasattr|callable)\(|\btype\([^()]*\) (?:is|==|in)\b", text)
        ),
        "class patterns of match": sum(isinstance(n, ast.MatchClass) for n in nodes),
        "Any": sum("Any" in (getattr(n, "id", ""), getattr(n, "attr", "")) for n in nodes),
        "Any, the word anywhere, imports too": len(re.findall(r"\bAny\b", text)),
        "cast(": len(re.findall(r"\bcast\(", text)),
        "type: ignore": len(re.findall(r"#\s*type: ignore", text)),
        "raise HandfulError(": len(re.findall(r"raise HandfulError\(", text)),
        "lines of the core": sum(len((package.root / name).read_text(encoding="utf-8").splitlines()) for name in core),
        "modules of the core": len(core),
    }


class Calls:
    """Counts the calls of handful's functions while it is the profiler of this thread."""

    def __init__(self, root: Path) -> None:
        self.root = f"{root}{os.sep}"
        self.count: collections.Counter[tuple[CodeType, str]] = collections.Counter()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__") or ""
        optimized = frame.f_code.co_flags & 1  # the body of a module or class is not: that is import, not a call
        if event == "call" and optimized and module.split(".")[0] == "handful":
            self.count[frame.f_code, module] += 1

    def start(self) -> None:
        sys.setprofile(self)

    def functions(self) -> dict[tuple[CodeType, str], int]:
        return {
            (code, module): n
            for (code, module), n in self.count.items()
            if code.co_filename.startswith(self.root) and code.co_name not in COMPREHENSIONS
        }

    def figures(self) -> tuple[int, int, int, int, int]:
        """Calls, functions, modules; calls of all frames, distinct frames."""
        functions = self.functions()
        modules = {module for _, module in functions}
        return sum(functions.values()), len(functions), len(modules), sum(self.count.values()), len(self.count)


def import_all(source: Path) -> Any:
    """handful from this source and no other, every module of it imported."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(source))
    handful = importlib.import_module("handful")
    if handful.__file__ is None or not Path(handful.__file__).resolve().is_relative_to(source):
        raise SystemExit(f"handful was imported from {handful.__file__}, not from {source}")
    for module in pkgutil.walk_packages(handful.__path__, "handful."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return handful


def steady_step(handful: Any, root: Path) -> tuple[dict[str, Any], list[str]]:
    """The figures of one step in the middle of a run, and its functions by name."""
    import numpy as np
    import torch

    steps: list[tuple[bool, Calls]] = []  # whether it is a plain one; what it called
    before = {"logged": True}
    running = Calls(root)

    def callback(event: str, info: Mapping[str, object]) -> None:
        nonlocal running
        sys.setprofile(None)
        if event == "step":
            step, logged = info["step"], set(info) != {"step", "position"}
            assert isinstance(step, int)
            if 20 < step <= 60:
                steps.append((not logged and not before["logged"], running))
            before["logged"] = logged
            if 20 <= step < 60:
                running = Calls(root)
                running.start()
        else:  # an evaluation comes after its step's event
            before["logged"] = True

    generator = np.random.default_rng(0)
    x = generator.normal(size=(20_000, 16)).astype("float32")
    y = (x[:, 0] > 0).astype("int64")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    handful.fit(model, (x, y), valid=None, batch=32, lr=0.01, until="steps(1000)", quiet=True, callbacks=[callback])
    plain = [calls for is_plain, calls in steps if is_plain]
    if not plain:
        raise SystemExit("every step from 21 to 60 was logged: there is no steady one to count")
    usual, _ = collections.Counter(c.figures() for c in plain).most_common(1)[0]
    calls = next(c for c in plain if c.figures() == usual)
    listed = sorted(f"{m}: {code.co_qualname}, {n}" for (code, m), n in calls.functions().items())
    return {
        "one steady step: calls": usual[0],
        "one steady step: functions": usual[1],
        "one steady step: modules": usual[2],
        "one steady step: calls of frames of any kind": usual[3],
        "one steady step: frames of any kind": usual[4],
        "one steady step: calls, mean with logged steps": round(sum(c.figures()[0] for _, c in steps) / len(steps), 1),
    }, listed


def write_csv(path: Path, rows: int = 600) -> None:
    """An integer, a number with gaps, a category, a date, a target of two classes."""
    chance = random.Random(0)
    lines = ["age,income,city,joined,churned"]
    for _ in range(rows):
        level = chance.gauss(0, 1)
        income = "" if chance.random() < 0.05 else f"{30 + 10 * level:.2f}"
        joined = datetime.date(2020, 1, 1) + datetime.timedelta(days=chance.randrange(1500))
        churned = "yes" if level + chance.gauss(0, 1) > 0.3 else "no"
        lines.append(f"{chance.randint(18, 80)},{income},{chance.choice(['Bern', 'Basel', 'Chur'])},{joined},{churned}")
    path.write_text("\n".join(lines) + "\n")


def first_update(handful: Any, root: Path, **given: object) -> dict[str, tuple[int, int, int, int, int]]:
    """What is entered from `fit` to the first step of any optimizer ("any"), and to the run's own first ("own")."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    calls, found = Calls(root), {}

    def hook(*_: object) -> None:
        sys.setprofile(None)
        found.setdefault("any", calls.figures())
        if "own" not in found:
            found["last"] = calls.figures()
            calls.start()

    def callback(event: str, _: object) -> None:
        if event == "step" and "own" not in found:
            sys.setprofile(None)
            found["own"] = found["last"]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.csv"
        write_csv(path)
        handle = register_optimizer_step_pre_hook(hook)
        calls.start()
        try:
            handful.fit("auto", path, target="churned", until="steps(1)", quiet=True, callbacks=[callback], **given)
        finally:
            sys.setprofile(None)
            handle.remove()
    return found


def run_figures(source: Path) -> tuple[dict[str, Any], list[str]]:
    """What two small runs enter, and the functions of the steady step."""
    handful, root = import_all(source), source / "handful"
    figures, listed = steady_step(handful, root)
    name = "fit on a CSV to the first update"
    everything_open = first_update(handful, root)
    for label, (_, functions, modules, _, frames) in (
        (name, everything_open["any"]),
        (f"{name} of the run itself", everything_open["own"]),
        (f"{name}, batch and lr given", first_update(handful, root, batch=32, lr=0.01)["any"]),
    ):
        figures |= {
            f"{label}: functions": functions,
            f"{label}: modules": modules,
            f"{label}: frames of any kind": frames,
        }
    return figures, listed


def count_tests(source: Path) -> int:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=source.parent, env=environment, capture_output=True, text=True)
    counted = [int(n) for n in re.findall(r"^[^\s:]+: (\d+)$", done.stdout, re.MULTILINE)]  # a file and its tests
    if done.returncode or not counted:
        raise SystemExit(f"pytest could not collect the tests:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return sum(counted)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--src", type=Path, default=ROOT / "src")
    for flag in ("--static", "--tests", "--show", "--json"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args()
    source = args.src.resolve()
    figures, listed = static_figures(source), list[str]()
    if not args.static:
        found, listed = run_figures(source)
        figures |= found
    if args.tests:
        figures["tests collected"] = count_tests(source)
    if args.json:
        print(json.dumps({name.strip(): value for name, value in figures.items()}, indent=2))
        return
    width = max(map(len, figures))
    print(f"{'':{width}}  {'here':>7}  {'at most':>7}")
    for name, value in figures.items():
        limit = LIMITS.get(name)
        late = "" if limit is None or value <= limit else "  <-"
        print(f"{name:{width}}  {value:>7,}  {'' if limit is None else f'{limit:,}':>7}{late}")
    if args.show:
        package = rules.Package(source / "handful")
        shown = {title: rule(package) for title, rule in rules.RULES.items()} | {"one steady step": listed}
        for title, lines in shown.items():
            print(f"\n{title}: {len(lines)}")
            print("".join(f"  {line}\n" for line in lines), end="")


if __name__ == "__main__":
    main()
