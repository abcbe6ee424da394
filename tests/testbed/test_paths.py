"""Paths as users give them, and commands that are given such paths."""

import importlib.util
import json
import os
import pwd
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import results as stored

from envs.text import Text
from sweeps import runtime
from sweeps.cli import main as cli
from sweeps.store.store import Store
from testbed import llm, paths
from testbed.errors import InvalidInput


@pytest.fixture(autouse=True)
def configured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the test run's own XLA settings: commands configure the process they run in."""
    monkeypatch.setattr(runtime, "configure", lambda: None)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME and without an entry in the password file, as in many containers."""

    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("TESTBED_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_paths_are_absolute_and_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert paths.given("gap:noisy", "--out") == tmp_path / "gap:noisy"
    assert paths.given(Path("a/b"), "--out") == tmp_path / "a" / "b"
    assert paths.given("~/x", "--out") == Path("/home/somebody/x")
    assert paths.given("~nobody-has-this-name/x", "--out") == tmp_path / "~nobody-has-this-name/x"
    for path, said in (
        ("", "--out is empty"),
        ("a\0b", "null byte"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(InvalidInput, match=said):
            paths.given(path, "--out")


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InvalidInput, match="the working directory is gone"):
        paths.given("results", "--out")
    assert paths.given("/results", "--out") == Path("/results")
    assert paths.shortened("nothing changes") == "nothing changes"


def test_paths_are_shown_from_the_working_directory_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.shown(tmp_path / "a b" / "c") == "a b/c"
    assert paths.shown(tmp_path / "-q") == "./-q"
    assert paths.shown(tmp_path) == "."
    assert paths.shown(Path("/elsewhere")) == "/elsewhere"
    text = f"{tmp_path}/out holds, /other{tmp_path}/out, {tmp_path}2/out"
    assert paths.shortened(text) == f"out holds, /other{tmp_path}/out, {tmp_path}2/out"


def test_the_cache_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for chosen, found in (
        ("~/c", tmp_path / "c"),
        ("re:lative", Path.cwd() / "re:lative"),
        ("", tmp_path / ".cache" / "alignment-testbed"),
    ):
        monkeypatch.setenv("TESTBED_CACHE", chosen)
        assert paths.cache_directory() == found


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_cache_must_be_named() -> None:
    with pytest.raises(InvalidInput, match="set TESTBED_CACHE to a directory"):
        paths.cache_directory()
    with pytest.raises(InvalidInput, match="~ in '~/x' cannot be replaced, because HOME is not"):
        paths.expanded("~/x")


def test_home_in_checkpoint_and_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path("tests/checkpoints").resolve()))
    assert Text(prompts="~/x.jsonl").file == Path("tests/checkpoints/x.jsonl").resolve()
    model, _ = llm.load("~/llama")
    assert model.vocabulary > 0


@pytest.mark.parametrize("command", ["report", "status", "export", "transfer", "inspect", "run"])
def test_an_empty_path_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not the working directory."""
    words = {
        "run": ["run", "gap", "--out", ""],
        "inspect": ["inspect", "neural", "--out", ""],
        "export": ["export", "x", "--out", "x.csv"],
        "transfer": ["transfer", "x", ""],
    }.get(command, [command, ""])
    if command == "export":
        words[1] = ""
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "the path is empty" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gap:noisy", "s3://bucket", "a b", "[/red]", "-x", "\udce9"])
def test_results_in_directories_with_odd_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are stored and read, and commands that are printed to go on are quoted."""
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    out = f"./{name}" if name.startswith("-") else name
    stored(paths.given(out, "--out"))
    assert cli.main(["status", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["directory"] == paths.shown(tmp_path / name)
    assert cli.main(["report", out, "--format", "json"]) == 0
    assert cli.main(["export", out, "--out", "t:able.parquet"]) == 0
    assert Path("t:able.parquet").stat().st_size > 0
    if name != "\udce9":
        assert cli.main(["status", out]) == 0
        assert cli.main(["tensorboard", out]) == 1
        expected = shlex.join(["testbed", "tensorboard", out.replace("s3://", "s3:/")])
        assert f"`uv run --extra tensorboard {expected}`" in capsys.readouterr().err


def test_stores_are_read_where_their_path_looks_like_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gives a relative path to a store itself, past the functions that make paths absolute."""
    monkeypatch.chdir(tmp_path)
    stored(Path("gap:noisy"))
    assert len(Store.open(Path("gap:noisy")).read()) == 1


def test_reading_results_needs_no_home(tmp_path: Path) -> None:
    """Nothing is looked for in a cache by commands that read results; those that need it say what to set."""
    program = (
        "import os, pwd, sys\n"
        "for name in ('HOME', 'TESTBED_CACHE', 'JAX_COMPILATION_CACHE_DIR'): os.environ.pop(name, None)\n"
        "def unknown(_): raise KeyError('uid not found')\n"
        "pwd.getpwuid = unknown\n"
        "from sweeps.cli.main import main\n"
        "statuses = [main(words.split()) for words in sys.argv[1:]]\n"
        "print(statuses, file=sys.stderr)\n"
    )
    stored(tmp_path / "out")
    commands = ["status out", "report out --format csv", "export out --out x.csv", "list"]
    refused = ["cache", "run gap --preset smoke --dry-run", "run gap --preset smoke"]
    done = subprocess.run(
        [sys.executable, "-c", program, *commands, *refused],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    *said, statuses = done.stderr.splitlines()
    assert statuses == "[0, 0, 0, 0, 2, 2, 2]", done.stderr
    said = [line for line in said if line.startswith("testbed: ")]
    assert len(said) == 3
    assert all("set TESTBED_CACHE to a directory" in line for line in said)
