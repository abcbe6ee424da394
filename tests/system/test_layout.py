"""The repository's own rules: sizes, docstrings, pinned versions, commands."""

import ast
import io
import re
import tokenize
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
    """The lock file is not in the repository, so the pins must say all that it says. Without a lock file, which uv
    writes, every installed distribution must be pinned at the version that it has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = {pin.split(";")[0].strip() for pin in project["tool"]["uv"]["constraint-dependencies"]}
    own = project["project"]["name"]
    if (ROOT / "uv.lock").exists():
        packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
        locked = {(package["name"], package["version"]) for package in packages}
        assert {f"{name}=={version}" for name, version in locked if name != own} == pins
        return
    pinned = {pin.partition("==")[0] for pin in pins}
    wanted = {
        canonicalize_name(Requirement(text).name) for text in project["project"]["dependencies"]
    }
    assert wanted <= pinned
    found = {name: version(name) for name in pinned & {d.name.lower() for d in distributions()}}
    assert {f"{name}=={number}" for name, number in found.items()} <= pins


def test_the_page_of_places_names_places_that_exist():
    page = (ROOT / "docs" / "layout.md").read_text()
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    places = [place for cell in cells for place in re.findall(r"`([^`]+)`", cell)]
    assert len(places) > 40
    assert [place for place in places if not (ROOT / place).exists()] == []
