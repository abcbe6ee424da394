"""Results as others read them: how a directory stands, what moved from one to another, tables, the calls behind the
commands. The results are those of real runs, of a study so small that it takes seconds."""

import contextlib
import fcntl
import io
import json
import re
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from small_study import results_of_tiny

import sweeps
from analysis import comparison, report
from sweeps import runtime
from sweeps.api.request import Request, selection_of
from sweeps.api.run_status import Count, status
from sweeps.cli import completion
from sweeps.cli import main as cli
from sweeps.console.progress import LogDisplay
from sweeps.store import columns, files, heartbeat, metadata
from sweeps.store.columns import ANSWERS
from sweeps.store.parquet import VECTORS
from sweeps.store.store import Store
from testbed.errors import InvalidInput, Unfinished
from testbed.metrics import SHOWN

SILENT = Console(quiet=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the study's file, and its results in ``out``."""
    return results_of_tiny(tmp_path_factory.mktemp("tiny")).parent


@pytest.fixture(autouse=True)
def configured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the test run's own XLA settings: calls configure the process they run in."""
    monkeypatch.setattr(runtime, "configure", lambda: None)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """The results, to be changed."""
    return Path(shutil.copytree(made / "out", tmp_path / "copy"))


def partial(directory: Path, runs: int) -> set[str]:
    """Take runs out of the store; their ids."""
    store = Store.open(directory)
    table = store.read()
    lost = set(sorted(set(table["run"]))[:runs])
    kept = table[~table["run"].isin(lost)]
    for block in (directory / "blocks").iterdir():
        block.unlink()
    with Store.create_or_open(directory, store.header) as again:
        again.append({name: kept[name].to_numpy() for name in kept})
    return lost


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints on standard output; its exit status must be ``code``."""
    assert cli.main(words) == code
    return capsys.readouterr().out


def test_complete_results(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(made / "out")
    data = json.loads(said(capsys, "status", out, "--json"))
    assert data["complete"]
    assert (data["state"], data["planned"], data["stored"], data["lacking"]) == (
        "complete",
        8,
        8,
        0,
    )
    [study] = data["studies"]
    assert [(arm["arm"], arm["stored"]) for arm in study["arms"]] == [("near", 4), ("far", 4)]
    assert "8 of 8 runs are stored" in said(capsys, "status", out)
    assert said(capsys, "status", out, "--quiet") == ""
    assert json.loads((made / "out" / heartbeat.FILE).read_text())["state"] == "finished"
    assert "far" in sweeps.status(out)._repr_html_()


def test_lacking_runs_and_how_the_last_command_ended(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = partial(copy, 3)
    for state, words in (
        ("interrupted", "was interrupted"),
        ("failed", "failed: no worker"),
        # It was killed, or ended before there was more to do.
        ("running", "stopped without a word"),
        ("finished", "stopped without a word"),
    ):
        told = {"state": state, "studies": ["tiny"], "begun": 1.0, "written": 2.0, "left": 65.0}
        told |= {"stage": "training"}
        told |= {"problem": "no worker", "failed": [min(lost)]} if state == "failed" else {}
        (copy / heartbeat.FILE).write_text(json.dumps(told))
        text = said(capsys, "status", str(copy), "--verbose", code=1)
        for part in ("5 of 8 runs are stored", words.partition(":")[0], "about 1:05 of runs"):
            # Where the path of the results is long, lines are broken.
            assert part in " ".join(text.split())
        assert all(f"lacking     {run}" in text for run in lost)
        assert ("(failed)" in text) == (state == "failed")
        found = sweeps.status(copy)
        assert found.total.lacking == lost
        assert found.total.failed == (frozenset({min(lost)}) if state == "failed" else frozenset())
    (copy / heartbeat.FILE).write_text("{")
    assert sweeps.status(copy).state == "stopped"


def test_a_command_at_work_is_seen_and_not_disturbed(copy: Path) -> None:
    partial(copy, 1)
    assert not files.in_use(copy)
    assert status(copy).state != "running"
    with files.lock(copy):
        assert files.in_use(copy)
        now = time.time()
        told = {"state": "running", "studies": ["tiny"], "begun": now - 60, "written": now - 5}
        told |= {"left": 65.0, "rate": 3.0, "stage": "chunk 1 of 2"}
        (copy / heartbeat.FILE).write_text(json.dumps(told))
        found = status(copy)
        assert (found.state, found.stage, found.rate) == ("running", "chunk 1 of 2", 3.0)
        assert found.left == pytest.approx(60, abs=2)
        assert "at work here: chunk 1 of 2, about" in " ".join(found.sentences())
        told["written"] = now - 600
        (copy / heartbeat.FILE).write_text(json.dumps(told))
        assert "said nothing for" in " ".join(status(copy).sentences())
    assert not files.in_use(copy)
    # Somebody who only looks is no reason to refuse to begin.
    with open(copy / ".lock") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.02, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        files.lock(copy).close()


def test_a_run_counts_once_and_lacks_if_one_study_lacks_it() -> None:
    one = Count(frozenset("abc"), frozenset("ab"), frozenset("a"), frozenset("c"))
    other = Count(frozenset("bcd"), frozenset("cd"))
    both = one | other
    assert both.describe() == {"planned": 4, "stored": 2, "lacking": 2, "diverged": 1, "failed": 1}
    assert both.lacking == frozenset("bc")


def test_a_pulse_tells_where_a_command_is_and_how_it_ended(tmp_path: Path) -> None:
    meter = LogDisplay(4, 40, Console(file=io.StringIO()))

    def end(problem: BaseException | None) -> dict:
        ended = contextlib.suppress(type(problem) if problem else ())
        with ended, heartbeat.Heartbeat(tmp_path, ["tiny", "other"], interval=0.01) as beat:
            assert heartbeat.read(tmp_path)["stage"] == "planning"  # type: ignore[index]
            beat.watch(meter)
            meter.stage("chunk 1 of 2")
            meter.advance(10)
            deadline = time.monotonic() + 20
            while heartbeat.read(tmp_path).get("run_steps_done") != meter.steps_done:  # type: ignore[union-attr]
                assert time.monotonic() < deadline
                time.sleep(0.01)
            if problem:
                raise problem
        found = heartbeat.read(tmp_path)
        assert found is not None
        return found

    assert (end(None)["state"], end(None)["run_steps"]) == ("finished", 40)
    assert end(KeyboardInterrupt())["state"] == "interrupted"
    failed = end(Unfinished("two chunks failed", ["a", "b"]))
    assert (failed["state"], failed["failed"]) == ("failed", ["a", "b"])
    assert failed["problem"] == "two chunks failed"
    assert end(ValueError())["problem"] == "ValueError"
    # Of several studies, each is told of in a directory of its own.
    (tmp_path / "other").mkdir()
    (tmp_path / "foreign").mkdir()
    assert heartbeat.read(tmp_path / "other") == heartbeat.read(tmp_path)
    assert heartbeat.read(tmp_path / "foreign") is None


def test_the_same_results_have_not_moved(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(made / "out")
    text = said(capsys, "compare", out, out, "--verbose")
    assert "the same design, code and runs" in text
    assert "B1 (Neural)" in text
    assert "0 of 1 verdict moved" in text
    [row] = sweeps.compare(out, out).rows
    assert (row.moved, row.apart) == (False, False)
    assert said(capsys, "compare", out, out, "--quiet") == ""


def test_what_moved_and_why(made: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """B is planned with another seed, rate and length, by other code and another rule, and goes farther in one arm."""
    store = Store.open(copy)
    table = store.read()
    farther = table["kl"] + 5.0 + 0.01 * table["seed"]
    table = table.assign(kl=farther.where(table["arm"] == "far", table["kl"]))
    for block in (copy / "blocks").iterdir():
        block.unlink()
    head = json.loads((copy / "study.json").read_text())
    head["seeds"], head["axes"]["optimiser.learning_rate"] = 3, [0.001, 0.003, 0.01]
    head["base"]["steps"] = 7
    head["sessions"][0]["source"] = "f" * 16
    head["claims"][0]["tests"][0]["rule"]["rope"] = 0.5
    (copy / "study.json").write_text(json.dumps(head))
    with Store.create_or_open(copy, metadata.read(copy)) as again:
        again.append({name: table[name].to_numpy() for name in table})
    found = sweeps.compare(made / "out", copy)
    [pair], [row] = found.studies, found.rows
    design = {what: (a, b) for what, a, b in pair.design}
    assert design["seeds"] == (2, 3)
    assert design["steps"] == (6, 7)
    assert design["axis optimiser.learning_rate"] == ([0.001, 0.003], [0.001, 0.003, 0.01])
    assert pair.code[0][0] == "code"
    assert pair.code[0][2].endswith("f" * 16)
    assert row.moved
    assert row.apart
    assert row.a is not None
    assert row.b is not None
    assert (row.a["verdict"], row.b["verdict"]) == ("undecided", "reproduced")
    why = "; ".join(row.why)
    assert "begun with different rules" in why
    assert "moved by +5.00 nats, more than the intervals allow for" in why
    assert "design (3 differences) and code (1 difference)" in why
    assert "A is undecided because" in why
    text = said(capsys, "compare", str(made / "out"), str(copy), code=1)
    assert "1 of 1 verdict moved" in text
    assert "seeds 2 → 3" in text
    data = json.loads(said(capsys, "compare", str(made / "out"), str(copy), "--json", code=1))
    assert data["moved"] == 1
    assert data["verdicts"][0]["b"]["verdict"] == "reproduced"
    partial(copy, 2)
    fewer = sweeps.compare(made / "out", copy)
    runs = [(a, b) for what, a, b in fewer.studies[0].runs if what.endswith(": runs")]
    assert sum(a - b for a, b in runs) == 2
    assert "B1" in fewer._repr_html_()


def test_directories_without_a_common_study(made: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(made / "out", tmp_path / "both" / name)
        file = tmp_path / "both" / name / "study.json"
        file.write_text(file.read_text().replace('"study": "tiny"', f'"study": "{name}"'))
    with pytest.raises(InvalidInput, match="no study in common: the first holds tiny, the second"):
        comparison.compare(made / "out", tmp_path / "both")
    # One with one: whatever they are called.
    [pair] = comparison.compare(made / "out", tmp_path / "both" / "one").studies
    assert pair.study == "tiny → one"
    assert pair.design == (("study", "tiny", "one"),)


def test_tables_for_other_programs(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(made / "out")
    text = said(capsys, "export", out, "--out", str(tmp_path / "rows.parquet"))
    assert "24 evaluations of 8 runs" in text
    assert said(capsys, "export", out, "--out", str(tmp_path / "rows.csv"), "--quiet") == ""
    stored = Store.open(made / "out").read()
    parquet, table = pd.read_parquet(tmp_path / "rows.parquet"), pd.read_csv(tmp_path / "rows.csv")
    for rows in (parquet, table, sweeps.load(out).table):
        assert list(rows["kl"]) == pytest.approx(list(stored["kl"]))
        assert list(rows.columns[: len(columns.IDENTITY)]) == list(columns.IDENTITY)
        assert "optimiser.learning_rate" in rows
        assert "config" not in rows
        assert rows["ground.proxy_accuracy"].between(0, 1).all()
    described = pq.read_schema(tmp_path / "rows.parquet").field("kl").metadata[b"description"]
    assert described.decode() == columns.MEANINGS["kl"]
    printed = said(capsys, "export", out, "--out", "-", "--configs")
    rows = pd.read_csv(io.StringIO(printed))
    assert json.loads(rows["config"][0])["kind"] == "Experiment"
    assert said(capsys, "export", out, "--out", str(tmp_path / "by.parquet"), "--by-prompt")
    wide = pd.read_parquet(tmp_path / "by.parquet")
    assert set(wide) - set(parquet) == set(VECTORS)
    assert {len(one) for name in VECTORS for one in wide[name]} == {16}
    # A win is 0, 1/2 or 1, which is not rounded.
    assert list(wide["win_by_prompt"].map(np.mean)) == list(wide["win_rate"])
    np.testing.assert_allclose(
        wide["golden_reward_by_prompt"].map(np.mean), wide["golden_reward"], atol=2e-3
    )
    assert not list(tmp_path.glob(".*"))


def test_tables_that_cannot_be_written(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(made / "out")
    for words, problem in (
        (("--out", str(tmp_path / "rows.xls")), "unknown format 'xls': known: parquet, csv"),
        (("--out", str(made / "tiny.py" / "rows.csv")), "cannot be written"),
        (("--out", "-", "--format", "parquet"), "--out - is for csv"),
        (("--out", "-", "--by-prompt"), "--out - is for csv"),
        (("--out", str(made / "x.csv"), "--by-prompt"), "--by-prompt needs --format parquet"),
        (("--draws", "draws.txt"), "unknown format of draws 'txt': known: nc, parquet"),
        ((), "give --out, --draws or both"),
    ):
        assert cli.main(["export", out, *words]) == 2
        assert problem in capsys.readouterr().err


def test_answers_are_kept_of_the_first_and_the_last_evaluation(made: Path) -> None:
    """Two prompts with the policy's answer each, in words; what SFT answers is the same for all runs of a seed."""
    table = sweeps.load(made / "out").table
    ends = table["evaluation"].isin([0, 2])
    assert (table[ANSWERS].notna() == ends).all()
    first = table[table["evaluation"] == 0].groupby("seed")[ANSWERS]
    assert (first.nunique() == 1).all()
    for said in table[ANSWERS].dropna():
        pairs = json.loads(said)
        assert len(pairs) == SHOWN
        for prompt, answer in pairs:
            assert prompt.split()
            assert 1 <= len(answer.split()) <= 5
            assert set(answer.split()) <= {".", *map(str, range(1, 7))}


def test_previews_are_drawn_from_what_there_is(copy: Path) -> None:
    """The figures that need no model, under the names that the report gives them; a provisional page as soon as a world
    is complete; nothing is judged."""
    shutil.rmtree(copy / "report")
    partial(copy, 5)
    stems = {path.stem for path in report.preview(copy)}
    assert stems == {"tiny-envelope", "tiny-classification"}
    assert {path.name for path in (copy / "report").iterdir()} == {"figures"}


def test_the_provisional_page_is_replaced_by_the_report(copy: Path) -> None:
    shutil.rmtree(copy / "report")
    report.preview(copy, (), 61.0)
    page = (copy / "report" / "index.html").read_text()
    assert "Provisional: 8 of 8 runs are stored, about" in page
    assert not (copy / "report" / "verdicts.json").exists()
    assert "Provisional" not in report.build(copy).read_text()


def test_every_column_has_a_meaning() -> None:
    assert all(columns.MEANINGS.values())
    assert columns.ordered(["config", "kl", "ground.a", "loss.beta", "run", "arm"]) == [
        "arm",
        "run",
        "loss.beta",
        "kl",
        "ground.a",
        "config",
    ]


def test_every_command_has_a_documented_call() -> None:
    """The table of docs/api.md: calls that can be imported, and for each command one; completion is the shell's."""
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    rows = [line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| `")]
    calls = {name for row in rows for name in re.findall(r"(\w+)\(", row[0])}
    assert calls <= set(sweeps.__all__)
    assert all(callable(getattr(sweeps, name)) for name in calls)
    documented = {name for row in rows for name in re.findall(r"`(\w+)", row[1])}
    commands = {name for name, _ in completion.commands(cli.parser())}
    assert commands - {"completion"} <= documented


def test_calls_are_the_commands(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a command prints is what its call returns; what is stored is not run again."""
    out, file = str(made / "out"), str(made / "tiny.py")
    foreseen = json.loads(said(capsys, "run", file, "--out", out, "--dry-run", "--json"))
    assert foreseen == sweeps.forecast(file, out=out, console=SILENT).describe()
    assert (foreseen["runs"], foreseen["stored"]) == (8, 8)
    more = sweeps.forecast(file, seeds=3, settings={"steps": 4}, out=made / "new", console=SILENT)
    assert (more.runs, more.stored) == (12, 0)
    assert more.describe()["run_steps"] == 12 * 4
    same = sweeps.forecast(file, seeds=3, settings=["steps=4"], out=made / "new", console=SILENT)
    assert same.describe()["run_steps"] == 12 * 4
    swept = sweeps.forecast(
        sweeps.load_study(file), axes={"optimiser.learning_rate": [1e-3]}, out=made / "new"
    )
    assert swept.runs == 4
    again = json.loads(said(capsys, "run", file, "--out", out, "--json"))
    assert again == sweeps.load(out).describe()
    assert again["stored"] == 8
    [entry] = sweeps.load(out).entries
    assert entry["claim"] == "B1"
    assert list(sweeps.load(out).verdicts["verdict"]) == [entry["verdict"]]
    assert "B1" in sweeps.load(out)._repr_html_()
    assert sweeps.report(out, SILENT).page.is_file()
    assert sweeps.scoreboard(out, "json") == said(capsys, "report", out, "--format", "json")
    assert said(capsys, "report", out, "--quiet") == ""
    rows = sweeps.listing("columns")
    assert rows == json.loads(said(capsys, "list", "columns", "--json"))


def test_a_session_says_by_which_command_and_request_it_can_be_made_again(made: Path) -> None:
    store = Store.open(made / "out")
    [session] = store.header["sessions"][:1]
    words = session["command"].split()
    assert words[:3] == ["testbed", "run", str(made / "tiny.py")]
    options = cli.parser().parse_args(words[1:])
    [selection] = Request(options.study, options.preset, options.seeds).selections()
    for found in (selection, selection_of(store.header, session)):
        assert {point.run for point in found.points()} == store.finished()


@pytest.mark.parametrize("width", [10, 25, 59, 200])
def test_narrow_terminals_lose_nothing(
    made: Path, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = str(made / "out")
    text = "".join(said(capsys, "status", out).split())
    for part in ("planned", "diverged", "near", "far"):
        assert part in text
    assert "undecided" in "".join(said(capsys, "compare", out, out).split())


def test_names_are_imported_when_they_are_asked_for() -> None:
    assert sorted(sweeps.__all__) == sorted(set(sweeps.__all__))
    for name in sweeps.__all__:
        assert f"sweeps.{name}" not in sys.modules, f"{name} is a module's name, too"
        assert getattr(sweeps, name).__name__ == name
        assert getattr(sweeps, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sweeps.nothing
