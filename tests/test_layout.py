"""The repository's own rules: import direction, sizes, docstrings, pinned versions, commands."""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("testbed", "envs", "sweeps", "analysis")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
RUN_COMMAND = "python -m pip install uv && uv run testbed run gap"
TEST_COMMAND = "python -m pip install uv && uv run pytest"
#: A module may import those of its own layer and of the layers before it; the core of `sweeps` is all but the last two.
LAYERS = ("testbed", "envs", "sweeps", "analysis", "sweeps.api", "sweeps.cli")
BANNER = re.compile(r"[-=#*~_+─━═]{4,}")

PACKAGE_FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ALL_FILES = PACKAGE_FILES + sorted(
    path for folder in ("benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def every(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name)


def imports(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute imports below ``node``, wherever they stand: what is imported, and in which line."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
            yield from ((f"{child.module}.{alias.name}", child.lineno) for alias in child.names)


def layer(module: str) -> int:
    """The place in `LAYERS` of a module, -1 if it is none of ours."""
    above = [place for place, name in enumerate(LAYERS) if f"{module}.".startswith(f"{name}.")]
    return max(above, default=-1)


def upward_imports(source: str, file: str) -> list[str]:
    """Imports in ``source`` of layers above the file's own, inside functions and for type checkers too.

    `sweeps` itself hands out the public names of `sweeps.api`.
    """
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    own = layer("sweeps.api" if module == "sweeps" else module)
    return [
        f"{file}:{line} imports {name}"
        for name, line in imports(ast.parse(source))
        if layer(name) > own
    ]


def test_import_rule_is_sharp():
    inside = "def f():\n    "
    assert upward_imports(f"{inside}from envs.neural import Neural", "testbed/train.py")
    assert upward_imports("if TYPE_CHECKING:\n    import analysis", "sweeps/study.py")
    assert upward_imports(f"{inside}import analysis.report", "sweeps/study.py")
    assert upward_imports("from sweeps import api", "analysis/report.py")
    assert upward_imports(f"{inside}from sweeps.api.runner import run", "sweeps/population/plan.py")
    assert upward_imports(f"{inside}from sweeps.cli import main", "sweeps/api/results.py")
    assert not upward_imports("import analysis.report", "sweeps/api/results.py")
    assert not upward_imports("from sweeps import api", "sweeps/cli/run.py")
    assert not upward_imports("from sweeps.api import run", "sweeps/__init__.py")
    assert not upward_imports("import testbed, sweeps.store.store, envs", "analysis/report.py")


@every(PACKAGE_FILES)
def test_imports_point_one_way(path):
    assert upward_imports(path.read_text(), name(path)) == []


@every(ALL_FILES)
def test_module_has_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@every(PACKAGE_FILES)
def test_files_and_functions_are_short(path):
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES
    long = [
        f"{name(path)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def banner_comments(source: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [t.string for t in tokens if t.type == tokenize.COMMENT and BANNER.search(t.string)]


@every(ALL_FILES)
def test_no_banner_comments(path):
    assert banner_comments(path.read_text()) == []


def test_banner_rule_is_sharp():
    assert banner_comments("x = 1\n# ---- helpers ----\n") == ["# ---- helpers ----"]
    assert banner_comments("x = '----'  # a_b -> c\n") == []


def test_documented_commands():
    readme = (ROOT / "README.md").read_text()
    assert RUN_COMMAND in readme
    assert TEST_COMMAND in readme
    assert TEST_COMMAND in (ROOT / ".ci" / "run").read_text()


def test_every_locked_version_is_pinned():
    """The lock file is not in the repository, so the pins must say all that it says."""
    if not (ROOT / "uv.lock").exists():
        pytest.skip("uv.lock is written by uv, and these tests were started without it")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = {pin.split(";")[0].strip() for pin in project["tool"]["uv"]["constraint-dependencies"]}
    locked = {
        f"{package['name']}=={package['version']}"
        for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
        if package["name"] != project["project"]["name"]
    }
    assert locked == pins
