"""The repository's own rules: sizes, docstrings, pinned versions, commands."""

import ast
import io
import re
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("testbed", "envs", "sweeps", "analysis")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
RUN_COMMAND = "python -m pip install uv && uv run testbed run gap"
TEST_COMMAND = "python -m pip install uv && uv run --group dev pytest"
BANNER = re.compile(r"[-=#*~_+─━═]{4,}")

PACKAGE_FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ALL_FILES = PACKAGE_FILES + sorted(
    path for folder in ("benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def every(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name)


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


def test_the_page_of_places_names_places_that_exist():
    page = (ROOT / "docs" / "layout.md").read_text()
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    places = [place for cell in cells for place in re.findall(r"`([^`]+)`", cell)]
    assert len(places) > 40
    assert [place for place in places if not (ROOT / place).exists()] == []
