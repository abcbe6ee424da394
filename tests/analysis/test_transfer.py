"""The transfer table: its numbers against closed forms, on runs of two places, and what it refuses."""

import csv
import dataclasses
import io
import itertools
import json
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis import report
from analysis.transfer import effects
from analysis.transfer import table as words
from analysis.transfer.effects import Measured, Name, Pair, spearman
from sweeps import runtime
from sweeps.cli import main as cli
from sweeps.rules import Draws, More
from testbed.errors import InvalidInput

RULE = More(0.01)
STUDY = textwrap.dedent("""
    from helpers import experiment
    from sweeps.claims import Claim, Test
    from sweeps.estimands import Change, Identical, Level, MatchedDifference, PairedDifference
    from sweeps.grid import Axis
    from sweeps.rules import More, Same
    from sweeps.study import Arm, Preset, Study
    from testbed.sources.offline import Offline
    from testbed.sources.online import Online

    def claim(name, *tests):
        return Claim(name, f"says {name}", tests, "the opposite")

    study = Study(
        "tiny", "Tiny", "Does it carry over?", experiment(steps=12, evaluation__points=4),
        (Arm("online", {"source": Online()}), Arm("offline", {"source": Offline()})),
        Axis("optimiser.learning_rate", (1e-3, 1e-2)),
        (
            claim("C2", Test(MatchedDifference("online", "offline", 0.0, 0.5), More(0.02))),
            claim("C9", Test(PairedDifference("data_accuracy", "offline", "online"), More(0.02)),
                  Test(Level("self_accuracy", "online"), More(0.0))),
            claim("C11", Test(Change("winner_logprob_change", "offline", -1), More(0.0)),
                  Test(Change("loser_logprob_change", "offline", -1), More(0.0)),
                  Test(Change("loser_logprob_change", "online", -1), More(0.0))),
            claim("C4", Test(Identical("online", "offline"), Same(0.0))),
        ),
        {"laptop": Preset(seeds=3)},
    )
""")


def measured(draws: Draws, task: str = "A") -> Measured:
    return Measured(task, "text", RULE.judge(draws), draws.values, draws.open)


def normal(mean: float, deviation: float, seed: int = 0, unit: str = "nats") -> Draws:
    rng = np.random.default_rng(seed)
    return Draws("effect", unit, rng.normal(mean, deviation, 4000))


def pair(first: Draws, second: Draws, claim: str = "C1") -> Pair:
    return Pair(Name("s", claim, "{}"), measured(first), measured(second, "Text"))


def test_sign_probability_is_that_of_independent_posteriors() -> None:
    found = pair(normal(0.3, 1.0, 1), normal(-0.5, 1.0, 2))
    up, other = stats.norm.cdf(0.3), stats.norm.cdf(-0.5)
    assert found.probability == pytest.approx(up * other + (1 - up) * (1 - other), abs=0.02)
    assert found.same_sign is False
    # Draw by draw, every one with every other: what the formula stands for.
    draws = [np.sign(own.values[:400]) for own in (found.simulated, found.real)]
    assert found.probability == pytest.approx(
        np.mean(draws[0][:, None] == draws[1][None]), abs=0.05
    )


def test_effects_that_are_nothing_for_certain_agree() -> None:
    zero = Draws("effect", "share", np.zeros(1), exact=True)
    assert pair(zero, zero).probability == 1.0
    assert pair(zero, normal(5.0, 0.1)).probability == 0.0


def test_an_effect_without_posterior_has_no_sign_probability() -> None:
    none = Draws("effect", "nats", reason="no peak")
    found = pair(none, normal(1.0, 0.1))
    assert found.probability is None
    assert found.same_sign is None
    assert words.cells(found)[3] == "○ no estimate"
    assert words.cells(found)[-1] == "–"


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, (50, 7)), rng.normal(size=(50, 7))
    wanted = [stats.spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(spearman(first, second), wanted, atol=1e-12)
    assert np.isnan(spearman(np.ones((1, 4)), second[:1, :4])).all()


def test_rank_correlation_of_effects() -> None:
    places = [(0.0, 3.0), (1.0, 2.0), (2.0, 4.0), (3.0, 5.0)]
    pairs = [pair(normal(a, 1e-3, i), normal(b, 1e-3, 9 + i)) for i, (a, b) in enumerate(places)]
    found = effects.agreement(pairs, "A", "Text")
    wanted = stats.spearmanr(*np.array(places).T).statistic
    assert (found.unit, found.effects) == ("nats", 4)
    # The first is nothing or so in simulation: its sign is a coin's.
    assert found.expected == pytest.approx(3.5, abs=0.05)
    assert found.of_medians == pytest.approx(wanted)
    assert found.estimate == pytest.approx(wanted)
    assert found.interval == pytest.approx((wanted, wanted))
    assert found.probability == 1.0
    # The orders of four that correlate as much, of 24.
    orders = np.array(list(itertools.permutations(range(4))))
    as_much = spearman(orders, np.tile([1, 0, 2, 3], (24, 1))) >= wanted - 1e-9
    assert found.by_chance == pytest.approx(np.mean(as_much))
    # As uncertain as the effects are far apart: the interval is wide, and noise pulls it to nought.
    noisy = [pair(normal(a, 2.0, i), normal(b, 2.0, 9 + i)) for i, (a, b) in enumerate(places)]
    wide = effects.agreement(noisy, "A", "Text")
    assert wide.interval is not None
    assert wide.interval[0] < 0 < wide.interval[1]


def test_units_do_not_change_the_order_of_effects() -> None:
    """Percent or proportions, nats or bits: effects of a unit keep their order, and their scale is their own."""
    rng = np.random.default_rng(4)
    medians = rng.normal(size=(6, 2))

    def of(scale: float) -> effects.Agreement:
        pairs = []
        for index, own in enumerate(medians):
            unit, by = ("nats", scale) if index < 3 else ("probability", 1.0)
            draws = [Draws("e", unit, by * (m + 0.3 * rng.normal(size=1))) for m in own]
            values = [by * (m + 0.3 * np.random.default_rng(index).normal(size=4000)) for m in own]
            draws = [dataclasses.replace(d, values=v) for d, v in zip(draws, values, strict=True)]
            pairs.append(pair(*draws))
        return effects.agreement(pairs, "A", "Text")

    assert of(1.0) == of(1000.0)
    assert of(1.0).unit == ""


def test_two_effects_have_no_rank_correlation() -> None:
    pairs = [pair(normal(i, 0.1), normal(i, 0.1)) for i in range(2)]
    found = effects.agreement(pairs, "A", "Text")
    assert found.estimate is None
    assert words.agreement(found)[-3:] == ("–", "–", "–")


def test_bounds_are_marked() -> None:
    draws = dataclasses.replace(normal(0.05, 0.001, unit="probability"), open={"higher": "rises"})
    assert words.cells(pair(draws, draws))[3].startswith("● ≥ +5.0 points (")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Real runs of one study: as it is, and with noisy labels."""
    root = tmp_path_factory.mktemp("places")
    file = root / "tiny.py"
    file.write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "configure", lambda: None)
        patch.setattr(report, "source_hash", lambda: "0" * 16)
        for name, more in (("sim", []), ("llm", ["--set", "labeler.temperature=0.5"])):
            assert cli.main(["run", str(file), "--out", str(root / name), *more]) == 0
        yield root / "sim", root / "llm"


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main(["transfer", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_every_form_has_every_effect(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(output(capsys, *places, "--format", "json"))
    claims = [entry["claim"] for entry in data["effects"]]
    assert claims == ["C2", "C4", "C9", "C9", "C11", "C11", "C11"]
    # What stands on each side is what each place's own report says.
    for place, directory in zip(("simulated", "real"), places, strict=True):
        tests = {
            (row["claim"], test["effect"]): test
            for row in report.verdicts(directory)
            for test in row["tests"]
        }
        for entry in data["effects"]:
            own = tests[entry["claim"], entry["effect"]]
            for name in ("estimate", "interval", "verdict", "reason"):
                assert entry[place][name] == own[name]
    rows = list(csv.DictReader(io.StringIO(output(capsys, *places, "--format", "csv"))))
    assert [row["claim"] for row in rows] == claims
    assert [row["probability_same_sign"] for row in rows] == [
        "" if entry["probability_same_sign"] is None else str(entry["probability_same_sign"])
        for entry in data["effects"]
    ]
    markdown = output(capsys, *places, "--format", "markdown")
    assert sum(line.startswith("| C") for line in markdown.splitlines()) == len(claims)
    assert {one["unit"] for one in data["agreement"]} == {"", "nats"}


def test_swapped_places_have_the_same_signs_and_ranks(places: tuple[Path, Path]) -> None:
    one, other = effects.compare(*places), effects.compare(places[1], places[0])
    assert [pair.probability for pair in one.pairs] == [pair.probability for pair in other.pairs]
    for first, second in zip(one.agreements, other.agreements, strict=True):
        assert first.of_medians == second.of_medians
        assert first.estimate is not None
        assert second.estimate == pytest.approx(first.estimate, abs=0.05)


def test_the_page_is_linked_and_kept_while_it_holds(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, real = places
    said = output(capsys, *places)
    site = real / "report"
    assert "same sign" in said
    assert str(site / "transfer.html") in said
    page = (site / "transfer.html").read_text()
    assert page.count("<figure>") == 2
    linked = set(re.findall(r'href="([^"#]+)', page))
    assert {"index.html", "tiny.html", "figures/transfer-scatter.csv"} <= linked
    assert all((site / name).is_file() for name in linked)
    pages = {path.name: path.read_text() for path in site.glob("*.html")}
    assert all('"transfer.html"' in text for name, text in pages.items() if name != "transfer.html")
    # A second table and a new report give the same pages.
    output(capsys, *places)
    report.build(real)
    assert {path.name: path.read_text() for path in site.glob("*.html")} == pages
    # Results have come since: what the table says of them no longer holds.
    (site / ".transfer.key").write_text("other results")
    report.build(real)
    assert not list(site.rglob("*transfer*"))
    assert "transfer.html" not in (site / "index.html").read_text()


def test_mistakes(
    places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated, real = map(str, places)

    def refused(*arguments: str) -> str:
        assert cli.main(["transfer", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "is given twice" in refused(simulated, f"{simulated}/../sim")
    assert "holds no results" in refused(simulated, str(tmp_path))
    assert "holds no results" in refused(str(tmp_path / "none"), real)
    other = tmp_path / "other"
    shutil.copytree(real, other)
    header = json.loads((other / "study.json").read_text())
    (other / "study.json").write_text(json.dumps(header | {"study": "another"}))
    error = refused(simulated, str(other))
    assert "have no claim in common: the first judges C2 (tiny), C9 (tiny)" in error
    assert "the second C2 (another)" in error
    with pytest.raises(InvalidInput):
        effects.compare(places[0], places[0])
