"""The rules of the house, read from the sources by `ast`: nothing of the package is imported.

Each rule takes a Package and returns its offenders, one line of text each; no offender, no line. `tests/test_house.py`
asserts that every rule of RULES has none, `benchmarks/house.py` prints how many there are.

A module is a `.py` file, a package's `__init__` included. An import is resolved to the module that it names: `from
handful.a import b` is handful.a.b where that is a module, else handful.a; relative imports likewise. That importing
handful.a.b also runs the `__init__` of handful.a is not counted, nor is it by import-linter; nor is the lazy table of
public names in the top `__init__`, with its twin under TYPE_CHECKING.
"""

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MODULE_LINES, FUNCTION_LINES, TOP_NAMES = 400, 40, 16
FEWEST, MOST = 3, 12  # modules in a folder
TOP, FUNCTION, TYPING = "top", "function", "typing"  # where an import stands

NAMED_TUPLE = ("_asdict", "_fields", "_make", "_replace")  # public, whatever they look like

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One name imported from the package itself: by `source`, from module `target`, bound to `bound` there."""

    source: str
    target: str
    name: str  # as imported: the last part of what follows `import`
    bound: str
    line: int
    where: str  # TOP, FUNCTION or TYPING


@dataclass
class Module:
    name: str
    path: Path
    text: str
    tree: ast.Module
    imports: list[Import] = field(default_factory=list)

    @property
    def is_init(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())


class Package:
    """All modules below a package's folder, parsed, with the imports between them."""

    def __init__(self, root: Path) -> None:
        self.root, self.name = root.resolve(), root.resolve().name
        self.modules: dict[str, Module] = {}
        for path in sorted(self.root.rglob("*.py")):
            parts = path.relative_to(self.root).with_suffix("").parts
            name = ".".join([self.name, *(p for p in parts if p != "__init__")])
            text = path.read_text(encoding="utf-8")
            self.modules[name] = Module(name, path, text, ast.parse(text, str(path)))
        if not self.modules:
            raise FileNotFoundError(f"there are no modules in {root}")
        for module in self.modules.values():
            module.imports = list(self._imports(module, module.tree.body, TOP))

    def __iter__(self) -> Iterator[Module]:
        return iter(self.modules.values())

    @property
    def imports(self) -> list[Import]:
        return [i for module in self for i in module.imports]

    def at(self, module: Module, line: int) -> str:
        return f"{module.path.relative_to(self.root)}:{line}"

    def _imports(self, module: Module, nodes: Sequence[ast.AST], where: str) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from self._resolved(module, node, where)
            elif isinstance(node, ast.Call):
                yield from self._by_call(module, node, where)
            if isinstance(node, ast.If) and _is_type_checking(node.test) and where == TOP:
                if module.name != self.name:  # in the top `__init__` it is the lazy table again, for type checkers
                    yield from self._imports(module, node.body, TYPING)
                yield from self._imports(module, node.orelse, where)
            elif isinstance(node, Function | ast.Lambda):
                yield from self._imports(module, list(ast.iter_child_nodes(node)), FUNCTION)
            else:
                yield from self._imports(module, list(ast.iter_child_nodes(node)), where)

    def _resolved(self, module: Module, node: ast.Import | ast.ImportFrom, where: str) -> Iterator[Import]:
        for alias in node.names:
            if isinstance(node, ast.Import):
                full, bound = alias.name, alias.asname or alias.name
            else:
                full, bound = f"{self._from(module, node)}.{alias.name}", alias.asname or alias.name
            if target := self._module_of(full):
                yield Import(module.name, target, full.rpartition(".")[2], bound, node.lineno, where)

    def _from(self, module: Module, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.name.split(".")
        base = parts[: len(parts) - node.level + module.is_init]
        return ".".join([*base, *([node.module] if node.module else [])])

    def _by_call(self, module: Module, node: ast.Call, where: str) -> Iterator[Import]:
        """`import_module("handful.x")`; a name made up at run time counts as the package itself."""
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and module.name != self.name and node.args:
            first = node.args[0]
            parts = first.values if isinstance(first, ast.JoinedStr) else [first]
            start = parts[0].value if parts and isinstance(parts[0], ast.Constant) else None
            if start is None or f"{start}.".startswith((f"{self.name}.", ".")):
                target = self._module_of(str(start or "").rstrip(".")) or self.name
                yield Import(module.name, target, "import_module", "", node.lineno, where)

    def _module_of(self, full: str) -> str | None:
        """The longest part of a dotted name that is a module of the package; None: it is another package's."""
        if full.split(".")[0] != self.name:
            return None
        while full not in self.modules and "." in full:
            full = full.rpartition(".")[0]
        return full if full in self.modules else None


def _is_type_checking(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


def _is_private(name: str) -> bool:
    dunder = name.startswith("__") and name.endswith("__")
    return name.startswith("_") and not dunder and name not in NAMED_TUPLE


def circles(package: Package, where: Sequence[str] = (TOP, FUNCTION, TYPING)) -> list[list[str]]:
    """Strongly connected components of two modules or more (Tarjan 1972), by the imports that stand in `where`."""
    edges: dict[str, set[str]] = {name: set() for name in package.modules}
    for i in package.imports:
        if i.where in where:
            edges[i.source].add(i.target)
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(edges[name]):
            if other not in number:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == number[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                found.append(sorted(component))

    for name in edges:
        if name not in number:
            visit(name)
    return found


def any_circle(package: Package) -> list[str]:
    return [" <-> ".join(circle) for circle in circles(package)]


def top_names(package: Package) -> list[str]:
    """Files and folders at the top; `__init__.py`, `py.typed` and what is hidden or generated are not counted."""
    return sorted(
        p.name
        for p in package.root.iterdir()
        if p.name not in ("__init__.py", "py.typed", "__pycache__") and not p.name.startswith(".")
    )


def many_top_names(package: Package) -> list[str]:
    names = top_names(package)
    return [f"{len(names)}: {', '.join(names)}"] if len(names) > TOP_NAMES else []


def folder_sizes(package: Package) -> list[str]:
    """Folders of fewer than 3 modules and folders, or more than 12 modules; `__init__` is not counted."""
    count: dict[Path, int] = defaultdict(int)
    for module in package:
        count[module.path.parent] += not module.is_init
    inside = {folder: sum(other.parent == folder for other in count) for folder in count}
    return [
        f"{folder.relative_to(package.root.parent)}: {n}"
        for folder, n in count.items()
        if n + inside[folder] < FEWEST or n > MOST
    ]


def long_modules(package: Package) -> list[str]:
    return [f"{package.at(m, 1)}: {m.lines} lines" for m in package if m.lines > MODULE_LINES]


def long_functions(package: Package) -> list[str]:
    """From `def` to the end, the docstring's lines not counted, functions inside counted."""
    found = []
    for module in package:
        for node in ast.walk(module.tree):
            if isinstance(node, Function):
                first = node.body[0]
                doc = first.end_lineno - first.lineno + 1 if ast.get_docstring(node, clean=False) is not None else 0
                if (n := node.end_lineno - node.lineno + 1 - doc) > FUNCTION_LINES:
                    found.append(f"{package.at(module, node.lineno)}: {node.name}, {n} lines")
    return found


def imports_in_functions(package: Package) -> list[str]:
    """Imports of the package inside its own functions, other than in the top `__init__` and `cli`."""
    edge = (package.name, f"{package.name}.cli")
    return [
        f"{package.at(package.modules[i.source], i.line)}: {i.target} {i.name}"
        for i in package.imports
        if i.where == FUNCTION and i.source not in edge and not i.source.startswith(f"{edge[1]}.")
    ]


def private_names(package: Package) -> list[str]:
    """Private names imported from another module, and attributes `x._y` of what was imported from another one."""
    found = []
    for module in package:
        bound: dict[str, str] = {}
        for i in module.imports:
            bound[i.bound] = i.target
            if _is_private(i.name) and i.target != module.name:
                found.append(f"{package.at(module, i.line)}: {i.name} of {i.target}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and _is_private(node.attr):
                base = ast.unparse(node.value)
                if bound.get(base, module.name) != module.name:
                    found.append(f"{package.at(module, node.lineno)}: {base}.{node.attr}")
    return found


def class_names_twice(package: Package) -> list[str]:
    where: dict[str, list[str]] = defaultdict(list)
    for module in package:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(package.at(module, node.lineno))
    return [f"{name}: {', '.join(places)}" for name, places in where.items() if len(places) > 1]


RULES: dict[str, Callable[[Package], list[str]]] = {
    "no circle of imports, hidden ones included": any_circle,
    f"at most {TOP_NAMES} names at the top": many_top_names,
    f"{FEWEST} to {MOST} modules a folder": folder_sizes,
    f"no module over {MODULE_LINES} lines": long_modules,
    f"no function over {FUNCTION_LINES} lines without its docstring": long_functions,
    "no own import inside a function, other than in the top __init__ and cli": imports_in_functions,
    "no private name of another file": private_names,
    "no two classes of one name": class_names_twice,
}
