"""What the cache holds, and what may go."""

import json
import os
import time
from pathlib import Path

import pytest

from sweeps import cli
from sweeps.upkeep import KINDS, cached, forget
from testbed.cache import Cache
from testbed.errors import InvalidInput

DAY = 24 * 60 * 60


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(path: Path, days: float, content: str = "1234") -> Path:
    """A file that was used so many days ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def test_nothing_yet() -> None:
    assert [(kept.files, kept.bytes, kept.unused_days) for kept in cached()] == [(0, 0, None)] * 6
    assert all(kept.files == 0 for kept in forget(0.0))


def test_old_worlds_and_programs_go_and_all_else_stays(directory: Path) -> None:
    old, new = (
        [put(directory / name / f"{days}.pickle", days) for name in KINDS] for days in (40.0, 3.5)
    )
    deep = put(directory / "xla" / "programs" / "old.pickle", 31.0)
    foreign = put(directory / "foreign" / "old", 400.0)
    rows = {kept.folder: kept for kept in cached()}
    assert list(rows) == [*KINDS, "foreign"]
    assert (rows["xla"].files, rows["xla"].bytes) == (3, 12)
    assert rows["stages"].unused_days == pytest.approx(3.5, abs=0.01)
    gone = {kept.folder: kept.files for kept in forget(30.0)}
    assert gone == {"stages": 1, "xla": 2}
    goes = [name for name, (_, goes) in KINDS.items() if goes]
    assert [path.exists() for path in old] == [name not in goes for name in KINDS]
    assert all(path.exists() for path in (*new, foreign))
    assert not deep.exists()
    assert sum(kept.files for kept in forget(0.0)) == 2


def test_what_is_being_written_stays(directory: Path) -> None:
    writing = put(directory / "stages" / "tmp123", 0.0)
    assert sum(kept.files for kept in forget(0.0)) == 0
    assert writing.exists()


def test_what_is_read_is_in_use(directory: Path) -> None:
    stages = Cache(directory / "stages")
    for name in ("read", "unread"):
        stages.save(name, name)
        then = time.time() - 10 * DAY
        os.utime(directory / "stages" / f"{name}.pickle", (then, then))
    assert stages.load("read") == "read"
    forget(5.0)
    assert stages.holds("read")
    assert not stages.holds("unread")
    assert stages.load("unread") is None


def test_the_command(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(directory / "stages" / "a.pickle", 2.0)
    assert cli.main(["cache", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["directory"] == str(directory)
    assert [row["files"] for row in told["kept"]] == [1, 0, 0, 0, 0, 0]
    assert cli.main(["cache"]) == 0
    assert "2 days ago" in capsys.readouterr().out
    assert cli.main(["cache", "--forget", "1", "--json"]) == 0
    assert [row["files"] for row in json.loads(capsys.readouterr().out)["deleted"]] == [1, 0]
    assert not list((directory / "stages").iterdir())


@pytest.mark.parametrize("text", ["-1", "nan"])
def test_days_are_a_number_from_0(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInput, match="--forget must be"):
        forget(float(text))
    assert cli.main(["cache", f"--forget={text}"]) == 2
    with pytest.raises(SystemExit) as stop:
        cli.main(["cache", "--forget", "soon"])
    assert stop.value.code == 2
    assert "must be a number of days, got 'soon'" in capsys.readouterr().err
