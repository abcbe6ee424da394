"""Running a study: skip what is stored, store chunk by chunk, show progress and results."""

import copy
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest
from rich.console import Console
from store_rows import columns

from sweeps import throttle
from sweeps.api import forecasting, runner
from sweeps.claims import Claim, Test
from sweeps.console import profile
from sweeps.console.progress import LogDisplay, Meter, Progress, TerminalDisplay, display, duration
from sweeps.console.tables import show_spent
from sweeps.estimands import MatchedDifference
from sweeps.grid import Axis
from sweeps.population.engine import Engine, Spent
from sweeps.population.plan import Plan
from sweeps.rules import More
from sweeps.store.parquet import Rows
from sweeps.store.store import Store
from sweeps.study import Arm, Point, Preset, Study
from sweeps.tensorboard import refresh
from testbed import config
from testbed.errors import InvalidInput


class Small(eqx.Module):
    """Shaped like the testbed's experiment, small enough to do sums with."""

    task: str = "sum"
    gain: float = 1.0
    rate: float = 0.1
    seed: int = 0


CLAIM = Claim(
    "C2",
    "online beats offline",
    (Test(MatchedDifference("online", "offline"), More(0.01)),),
    "gap <= 0",
)
STUDY = Study(
    name="small",
    title="Small",
    question="?",
    base=Small(),
    arms=(Arm("online", {"gain": 2.0}), Arm("offline", {"gain": 1.0})),
    axes=Axis("rate", (0.1, 0.2)),
    claims=(CLAIM,),
    presets={"laptop": Preset(seeds=2)},
)


@dataclass
class SumChunk:
    points: Sequence[Point]
    devices: int = 2
    bytes: int = 5_000_000
    seconds: float | None = 3.0

    @property
    def steps(self) -> int:
        return 10 * len(self.points)


@dataclass(frozen=True)
class SumPlan(Plan):
    chunks: Any
    worlds: Any = ()
    stages: int = 3
    stage_seconds: float = 61.0
    compile_seconds: float = 30.0

    def describe(self) -> list[dict[str, Any]]:
        return [{"chunk": k, "runs": len(c.points)} for k, c in enumerate(self.chunks)]


class Sums:
    """An engine of two runs a chunk whose win rate is gain * rate * step / 10."""

    def __init__(self, stop_after: int = 10**9, drop: bool = False) -> None:
        self.executed: list[str] = []
        self.stop_after = stop_after
        self.drop = drop

    def plan(self, points: list[Point]) -> SumPlan:
        return SumPlan([SumChunk(points[k : k + 2]) for k in range(0, len(points), 2)])

    def execute(
        self,
        plan: SumPlan,
        on_rows: Callable[[Rows], None],
        progress: Progress,
    ) -> Spent:
        for chunk in plan.chunks:
            if len(self.executed) >= self.stop_after:
                raise KeyboardInterrupt
            progress.stage("summing")
            progress.advance(chunk.steps)
            self.executed += [point.run for point in chunk.points]
            if not self.drop:
                on_rows(columns(row for point in chunk.points for row in self.rows(point)))
            progress.finished(len(chunk.points), 0)
        return Spent(run_seconds=2.0, busy_seconds=1.5)

    def rows(self, point: Point) -> list[dict[str, Any]]:
        config = point.experiment
        return [
            {"run": point.run, "evaluation": k, "step": 5 * k, "diverged_step": -1, "stack": 2}
            | {"devices": 2, "win_rate": config.gain * config.rate * k, "kl": float(k)}
            for k in range(3)
        ]


def report(directory: Path, opened: Sequence[runner.Opened]) -> Path:
    """Write the smallest outcome that an analysis would."""
    (directory / "report").mkdir(exist_ok=True)
    verdict = {"claim": "C2", "task": "sum", "verdict": "undecided", "estimate": 0.1}
    verdict |= {"study": "small", "interval": [-1, 1]}
    (directory / "report" / "verdicts.json").write_text(json.dumps([verdict]))
    page = directory / "report" / "index.html"
    page.write_text("<p>fine</p>")
    return page


def run(directory: Path, engine: Any, study: Study = STUDY, **selected: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    try:
        runner.run([study.select(**selected)], directory, console, report, engine)
    finally:
        text = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_what_there_is_can_be_seen_while_runs_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each chunk if it is time, with the runs that are stored by then; drawing that fails ends no runs."""
    seen: list[int] = []

    def draw(directory: Path, opened: Sequence[runner.Opened], left: float | None) -> None:
        ((_, table),) = opened
        assert left is None or left > 0
        seen.append(table["run"].nunique())
        if len(seen) == 3:
            raise ArithmeticError("no ink")

    def watched(engine: Sums, out: Path) -> str:
        console = Console(file=io.StringIO(), width=120)
        runner.run([STUDY.select()], out, console, report, engine, draw=draw)
        return console.file.getvalue()  # type: ignore[attr-defined]

    watched(Sums(), tmp_path / "slow")
    assert seen == []
    monkeypatch.setattr(refresh, "SECONDS", 0.0)
    monkeypatch.setattr(throttle, "SHARE", 1e9)
    engine = Sums()
    text = watched(engine, tmp_path / "out")
    assert seen == [2, 4, 6]
    assert "Note: the report and TensorBoard show nothing new until the end (no ink)" in text
    assert len(engine.executed) == 8
    assert list((tmp_path / "out" / "tensorboard").rglob("events*"))


def test_a_profiled_command_says_where_its_time_went(tmp_path: Path) -> None:
    """Planning, storing and reporting, each as often as it happens; there is no file unless it is asked for."""
    assert "Profile" not in run(tmp_path / "plain", Sums())
    assert not (tmp_path / "plain" / profile.FILE).exists()
    with profile.recording():
        text = run(tmp_path / "out", Sums())
    assert f"Profile     {tmp_path / 'out' / profile.FILE}" in text
    found = json.loads((tmp_path / "out" / profile.FILE).read_text())
    times = {(one["part"], one["what"]): one["times"] for one in found["parts"]}
    # Four chunks of two runs; one merge, and one reading for the report.
    assert times["store", ""] == 4 + 1 + 1
    assert times["report", "TensorBoard"] == 1
    assert times["plan", ""] == 2  # the points, and the plan of their execution
    assert found["wall_seconds"] == pytest.approx(
        sum(one["seconds"] for one in found["parts"]), abs=0.02
    )


class InOrder(Sums):
    """The runs of one seed after those of another."""

    def plan(self, points: list[Point]) -> SumPlan:
        return super().plan(sorted(points, key=lambda point: point.seed))


def test_the_first_two_worlds_are_shown_at_once(tmp_path: Path) -> None:
    """Whatever the time: two worlds of four runs each, out of three."""
    seen: list[tuple[int, int]] = []

    def draw(directory: Path, opened: Sequence[runner.Opened], left: float | None) -> None:
        ((_, table),) = opened
        seen.append((table["run"].nunique(), table["seed"].nunique()))

    console = Console(file=io.StringIO(), width=120)
    selection = STUDY.select(seeds=3)
    runner.run([selection], tmp_path / "out", console, report, InOrder(), draw=draw)
    assert seen == [(8, 2)]
    assert "First figure (provisional)" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_study_from_plan_to_verdicts(tmp_path: Path) -> None:
    engine = Sums()
    text = run(tmp_path, engine)
    assert len(engine.executed) == 8
    assert isinstance(engine, Engine)
    for part in ("8/8 runs", "C2", "undecided", "-1 to 1", "index.html", "testbed tensorboard"):
        assert part in text
    table = Store.open(tmp_path).read()
    assert len(table) == 8 * 3
    online = table[(table["arm"] == "online") & (table["rate"] == 0.2) & (table["seed"] == 1)]
    assert list(online["win_rate"]) == [0.0, 0.4, 0.8]
    assert set(table["task"]) == {"sum"}
    assert set(table["study"]) == {"small"}
    assert json.loads(table["config"][0])["kind"] == "Small"
    assert (tmp_path / "tensorboard" / "summary").is_dir()


def test_stored_runs_are_not_repeated(tmp_path: Path) -> None:
    run(tmp_path, Sums(), seeds=1)
    engine = Sums()
    assert "8 runs, 4 of them stored already" in run(tmp_path, engine)
    assert len(engine.executed) == 4
    engine = Sums()
    run(tmp_path, engine)
    assert engine.executed == []


def test_an_interrupted_study_is_finished_by_the_same_call(tmp_path: Path) -> None:
    engine = Sums(stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, engine)
    assert Store.open(tmp_path).finished() == set(engine.executed)
    assert not (tmp_path / "report.html").exists()
    rest = Sums()
    run(tmp_path, rest)
    assert len(rest.executed) == 4
    assert set(rest.executed).isdisjoint(engine.executed)
    whole = tmp_path / "whole"
    run(whole, Sums())
    assert Store.open(whole).read().equals(Store.open(tmp_path).read())


def test_a_run_that_serves_two_arms_is_computed_once(tmp_path: Path) -> None:
    twins = Study(
        **{name: getattr(STUDY, name) for name in ("name", "title", "question", "base", "axes")},
        arms=(Arm("online", {}), Arm("offline", {"gain": 1.0})),
        claims=(),
        presets={"laptop": Preset(seeds=1)},
    )
    engine = Sums()
    run(tmp_path, engine, twins)
    assert len(engine.executed) == 2
    assert len(Store.open(tmp_path).read()) == 2 * 2 * 3


def test_a_book_knows_what_is_stored_without_reading_it_again(tmp_path: Path) -> None:
    twins = named(
        "twins", Arm("online", {}), Arm("offline", {"gain": 1.0}), Arm("far", {"gain": 3.0})
    )
    selection, engine = twins.select(seeds=2), Sums()
    points = selection.points()
    with Store.create_or_open(tmp_path, selection.describe()) as store:
        book = runner.Book(points, store)
        shared, own = points[0], next(point for point in points if point.arm == "far")
        foreign = dataclasses.replace(own, run="of another study")
        for chunk in ([shared, own, foreign], [shared], points[::-1], points):
            rows = columns(row for point in chunk for row in engine.rows(point))
            # As lists, and as arrays of numpy.
            book.put(rows)
            again = runner.Book(points, store)
            assert set(book.lacking()) == set(again.lacking())
            book.put({name: np.array(values) for name, values in rows.items()})
            assert set(book.lacking()) == set(runner.Book(points, store).lacking())
        assert not book.lacking()
        assert len(list((tmp_path / "blocks").iterdir())) == 2
        table = store.read()
    assert len(table) == 3 * len(points)
    for point in points:
        rows = table[(table["run"] == point.run) & (table["arm"] == point.arm)]
        assert [row["win_rate"] for row in engine.rows(point)] == list(rows["win_rate"])
        assert set(rows["rate"]) == {point.settings["rate"]}
        assert set(rows["seed"]) == {point.seed}
        assert set(rows["config"]) == {config.canonical(point.experiment)}


def test_results_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda store: reads.append(store) or read(store))
    run(tmp_path, Sums())
    assert len(reads) == 1


def test_runs_without_rows_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="8 runs delivered no rows"):
        run(tmp_path, Sums(drop=True))


def test_a_changed_rule_is_pointed_out_and_does_not_replace_the_stored_one(tmp_path: Path) -> None:
    run(tmp_path, Sums())
    parts = {name: getattr(STUDY, name) for name in Study.__dataclass_fields__}
    test = Test(CLAIM.tests[0].estimand, More(0.5))
    strict = Claim("C2", CLAIM.text, (test,), CLAIM.against)
    text = run(tmp_path, Sums(), Study(**(parts | {"claims": (strict,)})))
    assert "claims have changed" in text
    assert Store.open(tmp_path).header["claims"] == [CLAIM.describe()]


def several(directory: Path, engine: Any, *studies: Study) -> str:
    console = Console(file=io.StringIO(), width=120)
    selections = [study.select() for study in studies]
    try:
        runner.run(selections, directory, console, report, engine)
    finally:
        text = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def named(name: str, *arms: Arm) -> Study:
    parts = {field: getattr(STUDY, field) for field in Study.__dataclass_fields__}
    return Study(**(parts | {"name": name, "arms": arms, "claims": ()}))


FIRST = named("first", Arm("online", {"gain": 2.0}), Arm("offline", {"gain": 1.0}))
SECOND = named("second", Arm("fresh", {"gain": 2.0}), Arm("none", {"gain": 0.0}))


def test_several_studies_are_one_plan_without_repeats(tmp_path: Path) -> None:
    engine = Sums()
    text = several(tmp_path, engine, FIRST, SECOND)
    assert "12 runs, 0 of them stored" in text
    assert len(engine.executed) == len(set(engine.executed)) == 12
    first, second = (Store.open(tmp_path / name).read() for name in ("first", "second"))
    assert len(first) == len(second) == 8 * 3
    shared = first[first["arm"] == "online"], second[second["arm"] == "fresh"]
    assert list(shared[0]["run"]) == list(shared[1]["run"])
    assert list(shared[0]["win_rate"]) == list(shared[1]["win_rate"])
    assert set(second["study"]) == {"second"}


def test_a_study_takes_over_what_its_neighbour_has(tmp_path: Path) -> None:
    several(tmp_path, Sums(), FIRST, named("third", Arm("other", {"gain": 3.0})))
    engine = Sums()
    several(tmp_path, engine, FIRST, SECOND)
    assert len(engine.executed) == 4
    table = Store.open(tmp_path / "second").read()
    fresh = table[table["arm"] == "fresh"]
    assert sorted(fresh["win_rate"]) == sorted(
        2.0 * r * k for r in (0.1, 0.2) for k in range(3) for _ in range(2)
    )
    assert set(table["study"]) == {"second"}


def test_an_arm_that_is_added_gets_the_runs_another_arm_has(tmp_path: Path) -> None:
    run(tmp_path, Sums())
    engine = Sums()
    parts = {field: getattr(STUDY, field) for field in Study.__dataclass_fields__}
    more = Study(**(parts | {"arms": (*STUDY.arms, Arm("again", {"gain": 2.0}))}))
    run(tmp_path, engine, more)
    assert engine.executed == []
    table = Store.open(tmp_path).read()
    again, online = (table[table["arm"] == arm] for arm in ("again", "online"))
    assert list(again["win_rate"]) == list(online["win_rate"])
    assert len(again) == 12


def test_studies_named_twice_or_into_a_store_of_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="study first is given twice"):
        several(tmp_path, Sums(), FIRST, FIRST)
    run(tmp_path / "one", Sums())
    with pytest.raises(InvalidInput, match="holds the results of one study"):
        several(tmp_path / "one", Sums(), FIRST, SECOND)


def test_the_plan_is_shown_without_touching_the_disk(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    out = tmp_path / "out"
    forecasting.forecast([STUDY.select()], out, Sums()).show(console)
    assert not out.exists()
    run(out, Sums(), seeds=1)
    forecasting.forecast([STUDY.select()], out, Sums()).show(console)
    run(out, Sums())
    forecasting.forecast([STUDY.select()], out, Sums()).show(console)
    first, rest, nothing = console.file.getvalue().split("Results")[:3]  # type: ignore[attr-defined]
    for part in (
        "8, of which 0 are stored",
        "Chunks     4",
        "Devices    2",
        "80",
        "0.01 GB",
        "3 to build before the runs",
        "0:12 for the runs, 1:01 for the stages",
        "up to 0:30 of compiling, beside the stages",
    ):
        assert part in first
    assert "8, of which 4 are stored" in rest
    assert "8, of which 8 are stored" in nothing


def test_predictions_stand_beside_the_truth() -> None:
    console = Console(file=io.StringIO(), width=120)
    spent = Spent(30.0, 20.0, 15.0, 20_000_000, shrunk=2)
    show_spent(Sums().plan(STUDY.select().points()), spent, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0:20 for the runs (0:12 predicted), 0:30 for the stages (1:01 predicted)" in said
    assert "busy 75% of the time" in said
    assert "0.02 GB (0.01 GB predicted); memory ran out 2 times" in said


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_meter_estimates_from_the_latest_minute() -> None:
    clock = Clock()
    meter = Meter(runs=10, run_steps=1000, clock=clock)
    assert meter.left is None
    clock.now = 100.0  # compiling
    for _ in range(20):
        clock.now += 10.0
        meter.advance(20)
    meter.finished(runs=4, diverged=1)
    # 400 steps in 300 s, but 2 a second lately: 600 steps are left.
    assert meter.rate == pytest.approx(2.0)
    assert meter.left == pytest.approx(300.0)
    assert meter.status() == (
        "4/10 runs, 1 diverged, 2 run-steps/s, 5:00 elapsed, 5:00 left, starting"
    )
    assert isinstance(meter, Progress)
    assert duration(3723.4) == "1:02:03"


def test_a_log_gets_a_line_every_ten_seconds_at_most() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), width=40)
    with LogDisplay(5, 100, console, clock) as shown:
        for second in range(35):
            clock.now = float(second)
            shown.stage(f"second {second}")
            shown.advance(1)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.rpartition(", ")[2] for line in lines] == [
        "starting",
        "second 10",
        "second 20",
        "second 30",
        "second 34",
    ]


def test_a_terminal_gets_a_bar() -> None:
    terminal = Console(file=io.StringIO(), width=80, force_terminal=True)
    with display(2, 100, terminal) as shown:
        assert isinstance(shown, TerminalDisplay)
        shown.stage("compiling")
        shown.advance(50)
        shown.finished(1, 0)
    assert "1/2 runs" in terminal.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(display(2, 100, Console(file=io.StringIO())), LogDisplay)


def test_a_claim_has_changed_if_its_tests_have_and_not_if_a_default_field_was_added() -> None:
    present = [CLAIM.describe()]
    older = copy.deepcopy(present)
    del older[0]["tests"][0]["rule"]["confidence"]
    older[0]["text"] = "other words"
    assert not runner._decided_otherwise(older, present)
    older[0]["tests"][0]["rule"]["rope"] = 0.02
    assert runner._decided_otherwise(older, present)
    assert runner._decided_otherwise([], present)
    unknown = copy.deepcopy(present)
    unknown[0]["tests"][0]["rule"]["kind"] = "Gone"
    assert runner._decided_otherwise(unknown, present)
