"""Which module imports which: one direction, no cycles, short chains, and few folders to know.

Imports inside functions count like those at the top of a file; those for type checkers alone do not.
"""

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: A module may import from its own layer and from those before it.
LAYERS = ("testbed", "envs", "sweeps", "analysis", "sweeps.api", "sweeps.cli")
PACKAGES = ("testbed", "envs", "sweeps", "analysis")
Graph = Mapping[str, frozenset[str]]


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that the code below a node imports: of ``from a import b`` both ``a`` and ``a.b``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from imported(ast.Module(child.orelse, []), module, is_package)
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                above = module.split(".")[: None if is_package else -1]
                base = ".".join([*above[: len(above) - child.level + 1], *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in child.names)
        yield from imported(child, module, is_package)


def graph(root: Path) -> Graph:
    """The modules of the four packages, each with those that it imports."""
    files = {
        module_name(path, root): path
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
    }

    def known(name: str) -> str | None:
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name or None

    return {
        module: frozenset(
            target
            for name in imported(ast.parse(path.read_text()), module, path.name == "__init__.py")
            if (target := known(name)) is not None and target != module
        )
        for module, path in files.items()
    }


def layer(module: str) -> int:
    """The number of a module's layer: the longest name in `LAYERS` that it is in or below."""
    fitting = [name for name in LAYERS if f"{module}.".startswith(f"{name}.")]
    return LAYERS.index(max(fitting, key=len))


def upward(modules: Graph) -> list[str]:
    """Imports that point from a lower layer to a higher one."""
    return [
        f"{module} imports {target}"
        for module, targets in modules.items()
        for target in sorted(targets)
        if layer(target) > layer(module)
    ]


def cycles(modules: Graph) -> list[list[str]]:
    """Sets of modules that all reach one another (Tarjan 1972), those of one module left out."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in modules.get(name, ()):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            place = stack.index(name)
            found.append(sorted(stack[place:]))
            del stack[place:]

    for name in modules:
        if name not in index:
            visit(name)
    return [members for members in found if len(members) > 1]


def folders(modules: Graph, package: str) -> Graph:
    """The folders and files at the top of a package, each with those that it imports."""

    def top(module: str) -> str:
        return ".".join(module.split(".")[:2])

    inside = [name for name in modules if name.startswith(f"{package}.")]
    found: dict[str, set[str]] = {top(name): set() for name in inside}
    for name in inside:
        targets = (top(target) for target in modules[name] if target.startswith(f"{package}."))
        found[top(name)] |= {target for target in targets if target != top(name)}
    return {name: frozenset(targets) for name, targets in found.items()}


def longest_chain(modules: Graph) -> int:
    """Modules in the longest chain of imports, of a graph without cycles."""

    @functools.cache
    def length(name: str) -> int:
        return 1 + max(map(length, modules[name]), default=0)

    return max(map(length, modules))


@pytest.fixture(scope="module")
def modules() -> Graph:
    return graph(ROOT)


def test_imports_point_one_way(modules: Graph) -> None:
    assert upward(modules) == []


def test_no_module_reaches_itself(modules: Graph) -> None:
    assert cycles(modules) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_reaches_itself(package: str, modules: Graph) -> None:
    assert cycles(folders(modules, package)) == []


def test_sweeps_is_small_to_look_at(modules: Graph) -> None:
    tops = folders(modules, "sweeps")
    assert len(tops) <= 25
    assert sum(map(len, tops.values())) <= 70
    assert longest_chain(tops) <= 10


def written(root: Path, files: Mapping[str, str]) -> Graph:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return graph(root)


def test_the_rules_are_sharp(tmp_path: Path) -> None:
    """Imports in functions, of parents, relative ones and those of names count; those for type checkers do not."""
    found = written(
        tmp_path,
        {
            "testbed/__init__.py": "",
            "testbed/train.py": "def f():\n    from envs.neural import Neural",
            "envs/__init__.py": "",
            "envs/neural.py": "from . import text\nimport testbed.train",
            "envs/text.py": "from envs import neural",
            "sweeps/__init__.py": "if TYPE_CHECKING:\n    from sweeps.api import run",
            "sweeps/plan.py": "from sweeps import api",
            "sweeps/api/__init__.py": "import analysis.report\nfrom sweeps.plan import x",
            "sweeps/cli/__init__.py": "from ..api import run",
            "analysis/__init__.py": "",
            "analysis/report.py": "import sweeps.plan",
        },
    )
    assert upward(found) == [
        "testbed.train imports envs.neural",
        "sweeps.plan imports sweeps.api",
    ]
    assert found["sweeps"] == frozenset()
    assert found["sweeps.cli"] == {"sweeps.api"}
    assert {"envs.neural", "envs.text"} <= set(cycles(found)[0])
    assert cycles(folders(found, "sweeps")) == [["sweeps.api", "sweeps.plan"]]


def test_chains_are_counted() -> None:
    chain: dict[str, Iterable[str]] = {"a": ["b", "c"], "b": ["c"], "c": []}
    assert longest_chain({name: frozenset(targets) for name, targets in chain.items()}) == 3
