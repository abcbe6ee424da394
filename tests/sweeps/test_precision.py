"""Studies that grow until their intervals are narrow. The runs are real, of a study of four runs a world that take
seconds; widths are those of its intervals."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_study import BASE

import sweeps
from analysis import report
from analysis.worlds.power import Components, Expected, Key, Width
from sweeps import runtime
from sweeps.api.precision import Look, Precision, rounded
from sweeps.cli import main as cli
from sweeps.store import metadata
from testbed.errors import InvalidInput

#: Two arms, one rate; a claim about the golden reward, whose scale is known, and one about an effect without a scale.
STUDY = (
    '"""Two betas of one loss on a world of seven words."""\n'
    + BASE
    + """
from sweeps.claims import Claim, Test
from sweeps.estimands import PairedDifference
from sweeps.rules import More

reward = Test(PairedDifference("golden_reward", "far", "near"), More(0.07))
further = Test(PairedDifference("kl", "far", "near"), More(0.0))
study = Study(
    "growing", "Growing", "Is it wide?", base,
    (Arm("near", {"loss.beta": 1.0}), Arm("far", {"loss.beta": 0.01})),
    Axis("optimiser.learning_rate", (3e-3,)),
    (Claim("B1", "better", (reward,), "worse"), Claim("B2", "further", (further,), "nearer")),
    {"all": Preset(seeds=2)}, "all",
)
"""
)
#: Points that any interval reaches, and points that none does.
WIDE, NARROW = 1e4, 1e-4


@pytest.fixture(autouse=True)
def configured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the test run's own XLA settings: calls configure the process they run in."""
    monkeypatch.setattr(runtime, "configure", lambda: None)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("growing") / "growing.py"
    path.write_text(STUDY)
    return path


def run(file: Path, out: Path, points: float, **more: Any) -> str:
    """What a run says."""
    console = Console(file=io.StringIO(), width=200)
    sweeps.run(file, out=out, precision=points, console=console, **more)
    return console.file.getvalue()  # type: ignore[attr-defined]


def kept(out: Path) -> dict[str, Any]:
    return json.loads((out / "study.json").read_text())["precision"]


def worlds(out: Path) -> list[int]:
    return [look["worlds"] for look in kept(out)["looks"]]


@pytest.fixture(scope="module")
def ended(file: Path) -> tuple[Path, str]:
    """A study that has reached its precision at the first look: its results, and what its run said."""
    out = file.with_name("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "configure", lambda: None)
        return out, run(file, out, WIDE)


@pytest.mark.slow
def test_four_worlds_are_added_after_the_look_that_finds_the_precision(
    file: Path, ended: tuple[Path, str]
) -> None:
    """At least eight worlds are there at the first look. A second call changes nothing."""
    out, text = ended
    assert worlds(out) == [8]
    assert kept(out)["ended"] == "precision"
    assert sweeps.load(out).table["seed"].nunique() == 12
    assert "looked once, at 8 worlds; ended with 12 worlds: the precision was reached" in text
    header = metadata.read(out)
    assert header["seeds"] == header["sessions"][0]["asked"]["seeds"] == 12
    assert sweeps.status(out).complete
    [width] = kept(out)["looks"][0]["widths"]
    # The effect on KL has no scale, and no say.
    assert (width["claim"], width["task"], width["test"]) == ("B1", "Neural", 0)
    assert width["points"] == pytest.approx(width["half_width"] / 0.035)
    assert (
        f"growing: 8 worlds: B1 on Neural ±{rounded(width['points'])} points (asked 10000)" in text
    )
    before = [(entry["claim"], entry["interval"]) for entry in sweeps.load(out).entries]
    again = run(file, out, WIDE)
    assert "24 runs, 24 of them stored already" in again
    assert worlds(out) == [8]
    assert [(entry["claim"], entry["interval"]) for entry in sweeps.load(out).entries] == before


@pytest.mark.slow
def test_an_interrupted_study_goes_on_by_the_same_rule(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of time before its first look, interrupted at its second, a study ends as an undisturbed one does. A wider
    precision later begins with the looks that were made. The range of seeds grows at its end."""
    out, judged = tmp_path / "out", []

    def verdicts(*given: Any) -> list[dict[str, Any]]:
        judged.append(given)
        if len(judged) == 2:
            raise KeyboardInterrupt
        return actual(*given)

    actual = report.verdicts
    monkeypatch.setattr(report, "verdicts", verdicts)
    asked: dict[str, Any] = {"seeds": "100:102", "max_worlds": 12}
    text = run(file, out, NARROW, minutes=1e-6, **asked)
    assert (worlds(out), kept(out)["ended"], kept(out)["minutes"]) == ([], "minutes", 1e-6)
    assert "not looked at; ended with 8 worlds: the time is spent" in text
    with pytest.raises(KeyboardInterrupt):
        run(file, out, NARROW, **asked)
    assert (worlds(out), kept(out)["ended"]) == ([8], None)
    assert metadata.read(out)["seeds"] == [100, 110]
    text = run(file, out, NARROW, **asked)
    assert (worlds(out), kept(out)["ended"]) == ([8, 10], "max_worlds")
    assert "looked 2 times, at 8 and 10 worlds; ended with 12 worlds: no more are allowed" in text
    run(file, out, WIDE, **asked | {"max_worlds": 14})
    assert (worlds(out), kept(out)["ended"]) == ([8, 10], "precision")
    ends = [session["asked"]["seeds"][1] for session in metadata.read(out)["sessions"]]
    assert ends == [108, 110, 112, 114]
    assert sorted(sweeps.load(out).table["seed"].unique()) == list(range(100, 114))
    with pytest.raises(InvalidInput, match="holds the seeds 100:114, this command runs 0:8"):
        run(file, out, NARROW)


@pytest.mark.slow
def test_plans_say_the_precision_to_expect_and_why(
    file: Path, ended: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = ended
    words = ["run", str(file), "--dry-run", "--out"]
    assert cli.main([*words, str(tmp_path / "none")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Not known for B1 on Neural, B2 on Neural" in said
    words.append(str(out))
    assert cli.main([*words, "--json", "--precision", f"{WIDE:g}"]) == 0
    planned = json.loads(capsys.readouterr().out)
    reward, further = planned["expected"]
    assert planned["precision"]["worlds"] == {"growing": 12}
    assert (reward["claim"], reward["task"], reward["worlds"]) == ("B1", "Neural", 12)
    assert reward["components"]["source"].endswith("report/verdicts.json")
    assert reward["components"]["worlds"] == 12
    [entry] = [one for one in sweeps.load(out).entries if one["claim"] == "B1"]
    low, high = entry["interval"]
    assert reward["half_width"] == pytest.approx((high - low) / 2, rel=0.3)
    # An effect without a scale has a half width, and no points.
    assert further["half_width"] > 0
    assert further["points"] is further["worlds_needed"] is None
    assert cli.main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "12 worlds; scatter" in said


def test_only_named_claims_have_a_say() -> None:
    """Widths are told relative to what was asked of their claims; a look without any width is never precise."""
    widths = (
        Width("C1", "Neural", 0, "fall", "nats", 900.0, 900.0),
        Width("C3.8", "Neural", 0, "best", "SFT standard deviations", 0.13, 3.7),
        Width("C2", "Neural", 0, "near", "SFT standard deviations", 0.07, 2.0),
    )
    look = Look(12, widths)
    asked = Precision.asked("C2=2,C3.8=4", None, None)
    assert asked == Precision({"C2": 2.0, "C3.8": 4.0}, 32)
    assert asked is not None
    assert asked.words() == ["--precision", "C2=2,C3.8=4", "--max-worlds", "32"]
    assert look.precise(asked)
    assert look.sentence(asked) == "12 worlds: C2 on Neural ±2 points (asked 2)"
    stricter = Precision({"C2": 2.0, "C3.8": 3.6})
    assert not look.precise(stricter)
    assert look.sentence(stricter) == "12 worlds: C3.8 on Neural ±3.7 points (asked 3.6)"
    assert not look.precise(Precision(899.0))
    assert look.precise(Precision(900.0))
    assert not Look(12, ()).precise(asked)
    assert not Look(12, widths[:1]).precise(asked)


def test_the_end_to_expect_is_that_of_the_rule() -> None:
    """Precise at 14 worlds, so 18; an effect without a scale, and claims that were not asked for, have no say."""
    of = Components(0.1, 0.0, 16)
    one = Expected(Key("gap", "C2", 0, "near", "Neural"), "nats", of.half_width(13) / 2, 8, of)
    others = [
        replace(one, key=one.key._replace(claim="C1"), point=1e-9),
        replace(one, point=None),
        replace(one, components=None),
    ]
    asked = Precision({"C2": 2.0})
    assert asked.ends_with([one, *others], 8) == 18
    assert asked.ends_with([one, *others], 16) == 20
    assert replace(asked, max_worlds=16).ends_with([one, *others], 8) == 16
    assert asked.ends_with(others[1:], 8) == 8
    assert Precision(2.0).ends_with([one, *others], 8) == 32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": 0.0}, "--precision must be above 0, got 0"),
        ({"precision": float("nan")}, "--precision must be above 0, got nan"),
        ({"precision": 2.0, "minutes": -1.0}, "--minutes must be above 0, got -1"),
        ({"precision": 2.0, "max_worlds": 7}, "--max-worlds must be at least 8"),
        ({"precision": 2.0, "max_worlds": 8, "seeds": 9}, "--max-worlds must be at least 9"),
        ({"precision": "B1=0"}, "--precision must be above 0, got 0"),
        ({"precision": "B1=2,x"}, "--precision must be a number of points, or one for each claim"),
        ({"precision": "wide"}, "got wide"),
        ({"precision": {"B1": 2.0, "C2": 2.0}}, "names claim C2: allowed are B1, B2"),
        ({"precision": "C2=2"}, "says nothing about study growing: its claims are B1, B2"),
        ({"max_worlds": 8}, "--max-worlds needs --precision"),
        ({"minutes": 5.0}, "--minutes needs --precision"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    file: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    for call in (sweeps.run, sweeps.forecast):
        with pytest.raises(InvalidInput, match=said):
            call(file, out=tmp_path / "out", console=Console(quiet=True), **options)
    assert not (tmp_path / "out").exists()
