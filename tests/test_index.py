"""What commands print of names, without importing jax for it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import results as stored

from sweeps.catalogue import families, listing


@pytest.mark.parametrize("what", listing.SOURCES)
def test_what_is_kept_is_what_the_code_defines(what: str) -> None:
    """Else the list would be told from the file although the code says otherwise."""
    kept = listing.read()[what]
    anew = json.loads(json.dumps(families.members(what)))
    assert kept["members"] == anew, "run: python -m sweeps.catalogue.families"
    assert kept["sources"] == listing.digest(what), "run: python -m sweeps.catalogue.families"
    assert len(anew) > 1


def test_changed_sources_are_listed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was written for other sources, or is damaged, is not believed."""
    kept = listing.read()
    truth = listing.listed("labelers")
    kept["labelers"]["members"] = []
    file = tmp_path / "sweeps" / "catalogue.json"
    shutil.copytree("envs/labelers", tmp_path / "envs" / "labelers")
    file.parent.mkdir()
    file.write_text(json.dumps(kept), encoding="utf-8")
    monkeypatch.setattr(listing, "FILE", file)
    assert listing.listed("labelers") == []
    edited = tmp_path / "envs" / "labelers" / "annotators.py"
    edited.write_text(edited.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert listing.listed("labelers") == truth
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
        ["status", "RESULTS"],
        ["status", "RESULTS", "--json"],
    ],
    ids=" ".join,
)
def test_commands_that_print_names_need_no_jax(command: list[str], results: Path) -> None:
    program = (
        "import sys\nfrom sweeps.cli.main import main\nstatus = main(sys.argv[1:])\n"
        "assert not {'jax', 'pandas', 'equinox'} & sys.modules.keys(), 'slow'\nsys.exit(status)"
    )
    words = [str(results) if word == "RESULTS" else word for word in command]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
