"""The structure of the package: each rule of benchmarks/house_rules.py holds, and each would notice an offence."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("house_rules", ROOT / "benchmarks" / "house_rules.py")
rules = sys.modules["house_rules"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rules)

LONG = "\n".join(["def long():", '    """One line."""', *["    x = 1"] * 40])  # 41 lines without the docstring
CLEAN = {
    "__init__.py": "from importlib import import_module\nfrom typing import TYPE_CHECKING\n\n"
    "if TYPE_CHECKING:\n    from tiny.fit import fit\n\n"
    "def __getattr__(name):\n    from tiny import fit\n    return import_module(name)\n",
    "cli.py": "def main():\n    from tiny.fit import fit\n    fit()\n",
    "fit.py": "import math\nfrom tiny.base import a\n\n"
    "def fit():\n    import json\n    return a._asdict, math._x, json\n",
    "sklearn.py": LONG.removesuffix("\n    x = 1") + "\n",
    "base/__init__.py": "",
    "base/a.py": "from . import b\nfrom .b import B\n\n"
    "class A(B):\n    _own = b.__name__\n\n    def f(self):\n        return self._own\n",
    "base/b.py": "class B:\n    pass\n",
    "base/c.py": "x = 1\n" * 400,
}
OFFENCES = {  # what is changed in the clean package -> the rule it breaks, and what the offender is called
    "circle at the top": ({"base/b.py": "from tiny.base.a import A\n"}, "circle", "tiny.base.a <-> tiny.base.b"),
    "circle in a function": ({"base/b.py": "def f():\n    import tiny.base.a as z\n"}, "circle", "tiny.base.b"),
    "circle of types": (
        {"base/b.py": "import typing\nif typing.TYPE_CHECKING:\n    from tiny.base import a\n"},
        "circle",
        "tiny.base.a <-> tiny.base.b",
    ),
    "circle with an __init__": ({"base/__init__.py": "from .a import A\n", "base/b.py": "import tiny.base\n"},
                                "circle", "tiny.base <-> tiny.base.a <-> tiny.base.b"),
    "many names": ({f"m{k}.py": "" for k in range(13)}, "names at the top", "17: "),
    "small folder": ({"base/c.py": None}, "modules a folder", "tiny/base: 2"),
    "large folder": ({f"base/m{k}.py": "" for k in range(10)}, "modules a folder", "tiny/base: 13"),
    "long module": ({"base/c.py": "x = 1\n" * 401}, "no module over", "base/c.py:1: 401 lines"),
    "long function": ({"sklearn.py": LONG + "\n"}, "no function over", "sklearn.py:1: long, 41 lines"),
    "import in a function": (
        {"base/c.py": "def f():\n    from ..fit import fit\n"}, "inside a function", "base/c.py:2: tiny.fit fit"
    ),
    "import in a method": (
        {"base/c.py": "class C:\n    def f(self):\n        import tiny.fit\n"},
        "inside a function",
        "base/c.py:3: tiny.fit fit",
    ),
    "import by name": (
        {"base/c.py": "import importlib\nf = lambda n: importlib.import_module(f'tiny.{n}')\n"},
        "inside a function",
        "base/c.py:2: tiny",
    ),
    "private name": ({"base/c.py": "from tiny.base.b import _x\n"}, "private name", "base/c.py:1: _x of tiny.base.b"),
    "private attribute": (
        {"base/c.py": "import tiny.base.b\ntiny.base.b._x()\n"}, "private name", "base/c.py:2: tiny.base.b._x"
    ),
    "class twice": ({"base/c.py": "def f():\n    class B: ...\n"}, "two classes", "B: base/b.py:1, base/c.py:2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def handful():
    return rules.Package(ROOT / "src" / "handful")


def tiny(folder, **changes):
    for name, text in (CLEAN | changes).items():
        if text is not None:
            path = folder / "tiny" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return rules.Package(folder / "tiny")


@pytest.mark.parametrize("rule", rules.RULES)
def test_the_house_keeps(rule, handful):
    offenders = rules.RULES[rule](handful)
    assert not offenders, f"{rule}; offenders:\n" + "\n".join(offenders)


def test_the_whole_package_is_looked_at(handful):
    assert {"handful", "handful.cli"} <= set(handful.modules)
    assert len(handful.modules) == len(list((ROOT / "src" / "handful").rglob("*.py"))) > 50
    assert len(handful.imports) > 100


def test_a_clean_package_has_no_offender(tmp_path):
    assert {title: rule(tiny(tmp_path)) for title, rule in rules.RULES.items()} == {title: [] for title in rules.RULES}


@pytest.mark.parametrize("offence", OFFENCES)
def test_an_offence_is_found_and_named(offence, tmp_path):
    changes, rule, named = OFFENCES[offence]
    found = [o for title, check in rules.RULES.items() if rule in title for o in check(tiny(tmp_path, **changes))]
    assert len(found) == 1
    assert named in found[0]


def test_each_rule_has_an_offence():
    assert all(any(rule in title for _, rule, _ in OFFENCES.values()) for title in rules.RULES)


def test_nothing_lies_about_at_the_top():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    told = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    folders = {name.split("/")[0] for name in told.stdout.splitlines() if "/" in name}
    assert folders <= {".ci", "benchmarks", "docs", "examples", "findings", "src", "tests"}
