"""What is found in a results directory, however damaged: a right load, or one sentence that names the file."""

import datetime
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from damaged import (
    CORPUS,
    HEADER,
    MOST_MEMORY,
    PROGRESS,
    VERDICT,
    bytes_like,
    memory,
    odd_json,
    places,
    read_all,
    read_verdicts,
    results,
    table,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import report
from sweeps import api
from sweeps.api import run_status
from sweeps.cli import main as cli
from sweeps.store import heartbeat, parquet
from sweeps.store.store import read_stores
from sweeps.tensorboard import refresh
from testbed.errors import InvalidInput

FUZZED = settings(
    max_examples=500,
    deadline=datetime.timedelta(seconds=5),
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SEED = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results directory in which nothing is damaged."""
    return results(tmp_path_factory.mktemp("damaged") / "sound")


@pytest.fixture
def directory(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "results"))


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """What a test reads takes no more memory than a gigabyte."""
    before = memory()
    yield
    assert memory() - before < MOST_MEMORY


def tried(read: Callable[[Path], object], directory: Path, *names: str) -> str | None:
    """What a reader says of a directory: nothing, or one sentence that names one of some files."""
    try:
        read(directory)
    except InvalidInput as problem:
        said = str(problem)
        assert "\n" not in said
        assert any(name in said for name in names), said
        return said
    return None


def block_of(directory: Path) -> Path:
    return next((directory / "blocks").iterdir())


def test_what_is_sound_is_read(directory: Path) -> None:
    read_all(directory)
    read_verdicts(directory)
    assert run_status.status(directory).state == "failed"


def write_study(directory: Path, data: bytes) -> None:
    (directory / "study.json").write_bytes(data)


@pytest.fixture(scope="module")
def sound(base: Path) -> bytes:
    return (base / "study.json").read_bytes()


STUDY_WORDS = ("study.json", "planned.parquet", "claim", "holds no run that its study planned")


@pytest.mark.slow
@FUZZED
@given(st.data())
def test_a_study_that_is_cut_or_has_wrong_bits(base: Path, sound: bytes, data: Any) -> None:
    write_study(base, data.draw(bytes_like(sound)))
    try:
        tried(read_all, base, *STUDY_WORDS)
    finally:
        write_study(base, sound)


@pytest.mark.slow
@FUZZED
@given(SEED)
def test_a_study_of_another_structure(base: Path, sound: bytes, seed: int) -> None:
    write_study(base, odd_json(json.loads(sound), seed))
    try:
        tried(read_all, base, *STUDY_WORDS)
    finally:
        write_study(base, sound)


@pytest.mark.slow
@FUZZED
@given(st.data())
def test_blocks_and_planned_runs_with_wrong_bits_are_told(base: Path, data: Any) -> None:
    """Whatever a file with wrong bits looks like to Parquet: what is not as it was written is not read."""
    path = data.draw(st.sampled_from((block_of(base), base / "planned.parquet")))
    whole = path.read_bytes()
    changed = data.draw(bytes_like(whole))
    path.write_bytes(changed)
    try:
        said = tried(read_all, base, path.name)
        assert (said is None) == (changed == whole)
    finally:
        path.write_bytes(whole)


def named_by_content(directory: Path, data: bytes) -> None:
    """Put a block in place of the one there is, under the name that its contents give it."""
    block_of(directory).unlink()
    name = hashlib.sha256(data).hexdigest()[:16]
    (directory / "blocks" / f"{name}.parquet").write_bytes(data)


BLOCK_WORDS = ("block", "config", "answers", "columns", "no run", "no finished run", "missing")


@pytest.mark.slow
@FUZZED
@given(st.data())
def test_blocks_that_pass_for_what_was_written(base: Path, data: Any) -> None:
    """With wrong bits, and named after them all the same, as nobody but an attacker does."""
    whole = block_of(base).read_bytes()
    named_by_content(base, data.draw(bytes_like(whole)))
    try:
        tried(read_all, base, *BLOCK_WORDS)
    finally:
        named_by_content(base, whole)


def odd_table(seed: int) -> pa.Table:
    """Rows of which one or two columns are something else, gone, doubled, or with gaps."""
    chosen, made = random.Random(seed), table()
    for _ in range(chosen.randint(1, 2)):
        name = chosen.choice(made.column_names)
        place, count = made.column_names.index(name), len(made)
        values: list[Any] = [
            pa.nulls(count), pa.array(["é\u0000"] * count), pa.array([b"\xff"] * count),
            pa.array([2**63 - 1, -(2**63)] * count)[:count], pa.array([-1] * count),
            pa.array([np.nan, np.inf, 1.0] * count)[:count], pa.array([True] * count),
            pa.array([[1]] * count), pa.array([{"a": 1}] * count), pa.array(["{}"] * count),
            pa.array(["[" * 10_000] * count).dictionary_encode(), pa.array(range(count), pa.uint64()),
            pa.array([None, *made.column(name).to_pylist()[1:]]), pa.array([0] * count, pa.date32()),
            pa.array(["[]"] * count), pa.array(['[["a"]]'] * count), pa.array([""] * count),
            pa.array(range(count), pa.int32()), pa.array([1e308] * count, pa.float64()),
        ]  # fmt: skip
        what = chosen.randrange(len(values) + 3)
        if what < len(values):
            made = made.set_column(place, name, values[what])
        elif what == len(values):
            made = made.remove_column(place)
        elif what == len(values) + 1:
            made = made.append_column(name, made.column(name))
        else:
            made = made.slice(0, chosen.randint(0, 3))
        if not made.column_names:
            break
    return made


@pytest.mark.slow
@FUZZED
@given(SEED)
def test_blocks_of_another_structure(base: Path, seed: int) -> None:
    whole = block_of(base).read_bytes()
    try:
        data = parquet.encode(odd_table(seed))
    except (pa.ArrowException, KeyError, ValueError):
        return  # nothing that Parquet can hold, or a column doubled and then changed
    named_by_content(base, data)
    try:
        tried(read_all, base, *BLOCK_WORDS)
    finally:
        named_by_content(base, whole)


@pytest.mark.slow
@FUZZED
@given(st.data(), SEED)
def test_progress_of_any_kind_does_not_keep_status_from_telling(
    base: Path, data: Any, seed: int
) -> None:
    """Half of the files are cut or have wrong bits, half are of another structure."""
    whole = json.dumps(PROGRESS).encode()
    changed = data.draw(bytes_like(whole)) if seed % 2 else odd_json(json.loads(whole), seed)
    (base / "progress.json").write_bytes(changed)
    try:
        found = run_status.status(base)
        assert found.describe()["directory"] == str(base)
        assert found.table().columns
        assert found.sentences()
        assert len(found.total.stored) == 3
    finally:
        (base / "progress.json").write_bytes(whole)


@pytest.mark.slow
@FUZZED
@given(st.data(), SEED)
def test_verdicts_of_any_kind(base: Path, data: Any, seed: int) -> None:
    path = base / "report" / "verdicts.json"
    whole = json.dumps([VERDICT]).encode()
    changed = data.draw(bytes_like(whole)) if seed % 2 else odd_json(json.loads(whole), seed)
    path.write_bytes(changed)
    try:
        tried(read_verdicts, base, "verdicts.json")
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("study/*")), ids=lambda path: path.name)
def test_studies_that_were_tracebacks_once(directory: Path, path: Path) -> None:
    write_study(directory, path.read_bytes())
    tried(read_all, directory, *STUDY_WORDS)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("progress/*")), ids=lambda path: path.name)
def test_progress_that_was_a_traceback_once(directory: Path, path: Path) -> None:
    (directory / "progress.json").write_bytes(path.read_bytes())
    assert heartbeat.read(directory) is None
    assert run_status.status(directory).state == "stopped"


@pytest.mark.parametrize("path", sorted(CORPUS.glob("verdicts/*")), ids=lambda path: path.name)
def test_verdicts_that_were_tracebacks_once(directory: Path, path: Path) -> None:
    (directory / "report" / "verdicts.json").write_bytes(path.read_bytes())
    assert tried(read_verdicts, directory, "verdicts.json")


@pytest.mark.parametrize("path", sorted(CORPUS.glob("blocks/*")), ids=lambda path: path.name)
def test_blocks_that_were_tracebacks_once(directory: Path, path: Path) -> None:
    """Under a name that is not theirs they are refused; under their own they are read or refused."""
    if path.name.startswith("planned"):
        (directory / "planned.parquet").write_bytes(path.read_bytes())
        assert tried(read_all, directory, "planned.parquet")
        return
    block = block_of(directory)
    block.write_bytes(path.read_bytes())
    assert tried(read_all, directory, block.name)
    named_by_content(directory, path.read_bytes())
    tried(read_all, directory, *BLOCK_WORDS)


def test_there_is_a_corpus() -> None:
    assert all(
        any((CORPUS / kind).iterdir()) for kind in ("study", "blocks", "progress", "verdicts")
    )


def test_a_flipped_bit_that_parquet_accepts_is_not_read(directory: Path) -> None:
    """Each bit of a few bytes of a block's data: some of them Parquet would read as other numbers."""
    path, accepted = block_of(directory), 0
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 200)):
        changed = bytearray(whole)
        changed[place] ^= 1
        accepted += parquet.decoded(bytes(changed)) is not None
        path.write_bytes(bytes(changed))
        with pytest.raises(InvalidInput, match=f"{path.name} of the results is damaged"):
            parquet.decode(path)
    assert accepted > 10


def test_a_kill_between_planned_runs_and_study_leaves_a_store(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined by a command with further runs, which is killed after each of the files that it replaces."""
    from sweeps.store import files, metadata
    from sweeps.store.store import Store

    more = HEADER | {"planned": {"near": ["near2"], "far": ["far0"]}}
    write = files.write
    for kept in (1, 2, 3):
        written: list[str] = []

        def killed(
            path: Path, data: bytes, temporary: Path, kept: int = kept, written: list[str] = written
        ) -> None:
            if len(written) == kept:
                raise KeyboardInterrupt
            written.append(path.name)
            write(path, data, temporary)

        copy = Path(shutil.copytree(directory, directory.with_name(f"kept{kept}")))
        with monkeypatch.context() as patch:
            patch.setattr(files, "write", killed)
            if kept < 3:
                with pytest.raises(KeyboardInterrupt):
                    Store.create_or_open(copy, more)
            else:
                Store.create_or_open(copy, more).close()
        assert written == ["study.json", "planned.parquet", "study.json"][:kept]
        planned = metadata.read(copy)["planned"]
        assert planned["near"] == ["near0", "near1", *(["near2"] if kept > 1 else [])]
    assert sum(1 for _ in places(HEADER)) > 40


def with_own_estimand(directory: Path, file: Path) -> None:
    """Results of a study in a file that defines an estimand of its own."""
    own = json.loads((directory / "study.json").read_text())
    own["claims"][0]["tests"][0]["estimand"] = {"kind": "LostLevel", "metric": "kl"}
    own["file"] = str(file)
    write_study(directory, json.dumps(own).encode())


@pytest.mark.parametrize("words", [["report"], ["report", "--format", "csv"], ["compare"]])
def test_without_the_studys_file_it_is_said_which_to_restore_where(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    file = tmp_path / "elsewhere" / "own.py"
    with_own_estimand(directory, file)
    places = [str(directory)] * (2 if words == ["compare"] else 1)
    assert cli.main([words[0], *places, *words[1:]]) == 2
    said = capsys.readouterr().err
    assert f"restore {file}, which is not there" in said
    assert "estimand kind is LostLevel" in said
    assert "give a name" not in said


def test_without_the_studys_file_all_else_is_read(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "elsewhere" / "own.py"
    with_own_estimand(directory, file)
    out = tmp_path / "table.csv"
    assert cli.main(["export", str(directory), "--out", str(out)]) == 0
    assert out.read_text().count("near0") == 3
    assert cli.main(["status", str(directory)]) == 1
    assert cli.main(["report", str(directory), "--bib"]) == 0
    assert refresh.mirror(directory, read_stores(directory)).is_dir()
    capsys.readouterr()
    with pytest.raises(InvalidInput, match=f"restore {file}, which is not there"):
        api.trained(directory)


def test_one_study_twice_is_refused(directory: Path, tmp_path: Path) -> None:
    """Its pages would overwrite each other."""
    for name in ("one", "two"):
        shutil.copytree(directory, tmp_path / "both" / name)
    with pytest.raises(InvalidInput, match=r"one and .*two both hold study small: move one"):
        read_stores(tmp_path / "both")


def test_verdicts_that_are_damaged_are_found_again(directory: Path) -> None:
    """What a report has kept is only a shortcut."""
    report.build(directory)
    expected = report.verdicts(directory)
    path = directory / "report" / "verdicts.json"
    for data in (path.read_bytes()[:100], b"[[]]", b"\xff"):
        path.write_bytes(data)
        assert report.verdicts(directory) == expected
