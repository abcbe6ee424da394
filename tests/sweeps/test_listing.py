"""What commands print of names, without importing jax for it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import results as stored

from sweeps.catalogue import families, listing


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def listed_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which all lists are kept."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTBED_CACHE", str(folder))
        for what in listing.SOURCES:
            listing.listed(what)
    return folder


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("what", listing.SOURCES)
def test_the_second_list_is_read_and_equals_the_first(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = listing.listed(what)
    assert len(first) > 1
    monkeypatch.setattr(
        families, "members", lambda what: pytest.fail(f"{what}: the list was made again")
    )
    assert listing.listed(what) == json.loads(json.dumps(first))


def test_changed_sources_are_listed_anew(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that was kept for other sources, or is damaged, is not believed."""
    shutil.copytree("envs/labelers", tmp_path / "envs" / "labelers")
    monkeypatch.setattr(listing, "ROOT", tmp_path)
    truth = listing.listed("labelers")
    (kept,) = (own_cache / listing.FOLDER).glob("labelers-*.json")
    kept.write_text("[]", encoding="utf-8")
    assert listing.listed("labelers") == []
    edited = tmp_path / "envs" / "labelers" / "annotators.py"
    edited.write_text(edited.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert listing.listed("labelers") == truth
    for file in kept.parent.iterdir():
        file.write_text("{", encoding="utf-8")
    assert listing.listed("labelers") == truth


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("results") / "out")


@pytest.mark.parametrize(
    "command",
    [
        *(["list", what] for what in listing.SOURCES),
        ["list", "--json"],
        ["completion", "bash"],
        ["completion", "zsh"],
        ["cache"],
        ["--help"],
        ["run", "--help"],
        ["status", "RESULTS"],
        ["status", "RESULTS", "--json"],
    ],
    ids=" ".join,
)
def test_commands_that_print_names_need_no_jax(
    command: list[str], results: Path, listed_before: Path
) -> None:
    program = (
        "import sys\nfrom sweeps.cli.main import main\n"
        "try:\n    status = main(sys.argv[1:])\nexcept SystemExit as help:\n    status = help.code\n"
        "assert not {'jax', 'pandas', 'equinox'} & sys.modules.keys(), 'slow'\nsys.exit(status)"
    )
    words = [str(results) if word == "RESULTS" else word for word in command]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TESTBED_CACHE": str(listed_before)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_plan_imports_nothing_that_draws_or_tabulates(tmp_path: Path) -> None:
    """Neither pandas nor matplotlib nor the writers of logs: they take as long to import as a plan takes."""
    program = (
        "import sys\nfrom sweeps.cli.main import main\nassert main(sys.argv[1:]) == 0\n"
        "slow = {'pandas', 'matplotlib', 'tensorboardX', 'scipy.stats', 'scipy.optimize'}\n"
        "assert not slow & sys.modules.keys(), slow & sys.modules.keys()\n"
    )
    words = ["run", "gap", "--preset", "smoke", "--dry-run", "--out", str(tmp_path / "none")]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "runs" in done.stdout.lower()
