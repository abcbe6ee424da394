"""What the cache holds, and what may go."""

import json
import os
import re
import time
from pathlib import Path

import pytest
from helpers import files_of_at_most
from small_study import TINY

from sweeps.api.cache import KINDS, cached, forget
from sweeps.cli import main as cli
from sweeps.store.files import require_writable_cache
from sweeps.store.store import Store
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
    assert [(kept.files, kept.bytes, kept.unused_days) for kept in cached()] == [
        (0, 0, None)
    ] * len(KINDS)
    assert all(kept.files == 0 for kept in forget(0.0))


def test_old_worlds_and_programs_go_and_all_else_stays(directory: Path) -> None:
    old, new = (
        [put(directory / name / f"{days}.safetensors", days) for name in KINDS]
        for days in (40.0, 3.5)
    )
    deep = put(directory / "xla" / "programs" / "old.program", 31.0)
    foreign = put(directory / "foreign" / "old", 400.0)
    rows = {kept.folder: kept for kept in cached()}
    assert list(rows) == [*KINDS, "foreign"]
    assert (rows["xla"].files, rows["xla"].bytes) == (3, 12)
    assert rows["stages"].unused_days == pytest.approx(3.5, abs=0.01)
    gone = {kept.folder: kept.files for kept in forget(30.0)}
    assert gone == {"stages": 1, "xla": 2, "catalogue": 1}
    goes = [name for name, (_, goes) in KINDS.items() if goes]
    assert [path.exists() for path in old] == [name not in goes for name in KINDS]
    assert all(path.exists() for path in (*new, foreign))
    assert not deep.exists()
    assert sum(kept.files for kept in forget(0.0)) == 3


def test_pickles_of_earlier_versions_go(directory: Path) -> None:
    """From every folder that had them, but not from where users' models are."""
    folders = ("stages", "xla/programs", "underway", "policies", "heads")
    old = [put(directory / folder / "a.pickle", 40.0) for folder in folders]
    kept = [put(directory / "llm" / "a.pickle", 40.0)]
    kept += [put(directory / folder / "a.safetensors", 40.0) for folder in folders[2:]]
    kept += [put(directory / "policies" / "new.pickle", 3.5)]
    rows = {row.folder: row.files for row in cached()}
    assert (rows["underway"], rows["policies"], rows["heads"]) == (2, 3, 2)
    gone = {row.folder: row.files for row in forget(30.0)}
    assert gone == {"stages": 1, "xla": 1, "underway": 1, "policies": 1, "heads": 1, "catalogue": 0}
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in kept)


def test_what_is_being_written_stays(directory: Path) -> None:
    writing = put(directory / "stages" / "tmp123", 0.0)
    assert sum(kept.files for kept in forget(0.0)) == 0
    assert writing.exists()


def test_what_is_read_is_in_use(directory: Path) -> None:
    stages = Cache(directory / "stages")
    for name in ("read", "unread"):
        stages.save(name, name)
        then = time.time() - 10 * DAY
        os.utime(directory / "stages" / f"{name}.safetensors", (then, then))
    assert stages.load("read") == "read"
    forget(5.0)
    assert stages.holds("read")
    assert not stages.holds("unread")
    assert stages.load("unread") is None


def test_the_command(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(directory / "stages" / "a.safetensors", 2.0)
    assert cli.main(["cache", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["directory"] == str(directory)
    assert [row["files"] for row in told["kept"]] == [1, 0, 0, 0, 0, 0, 0]
    assert cli.main(["cache"]) == 0
    assert "2 days ago" in capsys.readouterr().out
    assert cli.main(["cache", "--forget", "1", "--json"]) == 0
    assert [row["files"] for row in json.loads(capsys.readouterr().out)["deleted"]] == [1, 0, 0]
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


@pytest.mark.parametrize("folder", ["", "stages", "xla", "policies"])
@pytest.mark.parametrize("how", ["file", "dangling link", "read-only file system"])
def test_a_cache_that_cannot_be_written_is_told_at_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch, folder: str, how: str
) -> None:
    """Of root, whom permissions do not keep from writing, too: /proc takes no files from anybody."""
    place = directory / folder
    place.parent.mkdir(parents=True, exist_ok=True)
    if how == "file":
        place.write_text("")
    else:
        place.symlink_to("/proc/self" if how.startswith("read") else directory.parent / "nowhere")
    with pytest.raises(
        InvalidInput, match=r"cache .* cannot be written \(.+\): make room there, or"
    ):
        require_writable_cache()


def test_a_full_disk_is_told_at_once(directory: Path) -> None:
    """As by a quota that takes no file of more than some bytes."""
    directory.mkdir()
    with files_of_at_most(1024), pytest.raises(InvalidInput, match=r"written \(File too large\)"):
        require_writable_cache()
    require_writable_cache()


@pytest.mark.parametrize("made", [(), ("",), ("", "stages", "xla", "underway", "policies")])
def test_asking_for_a_cache_leaves_nothing(directory: Path, made: tuple[str, ...]) -> None:
    for name in made:
        (directory / name).mkdir()
    before = sorted(directory.parent.rglob("*"))
    require_writable_cache()
    assert sorted(directory.parent.rglob("*")) == before


def test_an_unwritable_cache_is_noticed_before_anything_is_built(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a dry run and by a run, which leaves no study behind that the next command would have to match."""
    directory.write_text("")
    (tmp_path / "tiny.py").write_text(TINY)
    words = ["run", str(tmp_path / "tiny.py"), "--out", str(tmp_path / "out")]
    for more in (["--dry-run"], []):
        assert cli.main([*words, *more]) == 2
        said = capsys.readouterr().err
        assert "cannot be written (Not a directory): make room there" in said
        assert "building" not in said
        assert not (tmp_path / "out" / "study.json").exists()
    directory.unlink()
    assert cli.main([*words, "--set", "loss.tau=2", "--dry-run"]) == 2
    capsys.readouterr()
    assert cli.main([*words, "--set", "batch_size=8", "--dry-run"]) == 0


def test_what_no_machine_can_hold_is_refused_before_anything_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bytes needed, those that there are, and what to make smaller; the directory stays free for others."""
    (tmp_path / "tiny.py").write_text(TINY)
    words = ["run", str(tmp_path / "tiny.py"), "--out", str(tmp_path / "out")]
    for path, value in (("data.pairs", 10**9), ("model.width", 2**17)):
        for more in (["--dry-run"], []):
            assert cli.main([*words, "--set", f"{path}={value}", *more]) == 2
            said = capsys.readouterr().err
            found = re.search(
                r"needs about ([\d,]+) GB of memory, and ([\d.]+) GB may be used", said
            )
            assert found, said
            assert float(found[1].replace(",", "")) > 100 > float(found[2])
            assert f"make {path} (now {value}) smaller" in said
            assert not (tmp_path / "out" / "study.json").exists()
    with Store.create_or_open(tmp_path / "out", {"study": "another", "seeds": 1}) as store:
        assert store.header["study"] == "another"
