"""Rules, the t posterior and claims as data, against values worked out by hand."""

import dataclasses
import json

import numpy as np
import pytest
from given import Given
from scipy import stats

from sweeps.claims import Claim, Test
from sweeps.contracts.samples import student_draws
from sweeps.estimands import (
    AtEvery,
    BestDifference,
    Change,
    Estimand,
    Identical,
    InteriorMaximum,
    Level,
    MatchedDifference,
    PairedDifference,
    PeakPlace,
    RankCorrelation,
    RelativeBest,
    ShareOfGap,
    Slope,
    Trend,
    WithinRun,
)
from sweeps.rules import Draws, More, NoMore, Rule, Same
from testbed.errors import InvalidInput

RULE = More(rope=0.02)


def judge(values, rule=RULE, **more):
    return rule.judge(Draws("effect", "nats", np.asarray(values, dtype=float), **more))


def test_more_on_counted_draws():
    # 95 of 100 draws above the rope: exactly at the threshold.
    assert judge([1.0] * 95 + [0.0] * 5).verdict == "reproduced"
    assert judge([1.0] * 94 + [0.0] * 6).verdict == "undecided"
    assert judge([1.0] * 5 + [0.0] * 95).verdict == "contradicted"
    assert judge([1.0] * 6 + [0.0] * 94).verdict == "undecided"
    # A draw equal to the rope is practically nothing.
    assert judge([0.02] * 100).probability == 0.0
    assert judge([0.02] * 100).verdict == "contradicted"


def test_no_more_is_the_mirror_image():
    for count in range(101):
        values = [1.0] * count + [0.0] * (100 - count)
        more, less = judge(values), judge(values, NoMore(0.02))
        assert less.probability == pytest.approx(1 - more.probability)
        mirrored = {"reproduced": "contradicted", "contradicted": "reproduced"}
        assert less.verdict == mirrored.get(more.verdict, "undecided")


def test_same_wants_nearly_all_draws_inside():
    rule = Same(0.5)
    assert judge([0.0] * 95 + [1.0] * 3 + [-1.0] * 2, rule).verdict == "reproduced"
    assert judge([0.0] * 94 + [1.0] * 3 + [-1.0] * 3, rule).verdict == "undecided"
    assert judge([-1.0] * 50 + [1.0] * 50, rule).verdict == "contradicted"
    assert judge([0.5, -0.5], rule).probability == 1.0


class LessThan(More):
    """A user's own rule: beyond the rope on the other side."""

    def holds(self, values):
        return values < -self.rope


def test_a_users_own_rule_is_read_back():
    assert Rule.from_dict(LessThan(0.1).describe()) == LessThan(0.1)


def test_draws_without_a_width_have_no_interval():
    assert judge([0.5] * 100).interval is None
    assert judge([0.5] * 100).estimate == 0.5


def test_rule_reports_median_and_matching_interval():
    judgement = judge(np.arange(101.0))
    assert judgement.estimate == 50.0
    assert judgement.interval == pytest.approx((5.0, 95.0))
    assert judgement.probability == pytest.approx(100 / 101)
    assert judge(np.arange(101.0), More(0.0, confidence=0.9)).interval == pytest.approx((10, 90))


def test_interval_on_one_side_means_a_verdict():
    rng = np.random.default_rng(0)
    for shift in np.linspace(-3, 3, 61):
        judgement = judge(rng.normal(shift, 1, size=2000), More(0.2))
        # Off the threshold by more than the quantiles' own interpolation.
        if abs(judgement.probability - 0.95) > 0.001:
            assert (judgement.interval[0] > 0.2) == (judgement.verdict == "reproduced")
        if abs(judgement.probability - 0.05) > 0.001:
            assert (judgement.interval[1] <= 0.2) == (judgement.verdict == "contradicted")


@pytest.mark.parametrize("values", [[], [0.5], [np.nan, 1.0]])
def test_rule_without_usable_draws_is_undecided(values):
    judgement = judge(values)
    assert judgement.verdict == "undecided"
    assert judgement.interval is None
    assert judgement.probability is None
    assert judgement.reason


def test_reason_forbids_a_verdict():
    judgement = judge(np.ones(10), reason="the fit did not converge")
    assert judgement.verdict == "undecided"
    assert judgement.reason == "the fit did not converge"
    assert judgement.estimate == 1.0


def test_what_is_known_without_error_decides():
    judgement = judge([0.0], Same(0.0), exact=True)
    assert (judgement.verdict, judgement.probability, judgement.interval) == (
        "reproduced",
        1.0,
        None,
    )
    assert judge([0.1], Same(0.0), exact=True).verdict == "contradicted"
    assert judge([0.1], exact=True).verdict == "reproduced"


def test_no_estimate_with_an_error_is_exactly_nothing():
    judgement = judge(np.linspace(-1, 1, 100), Same(0.0))
    assert judgement.verdict == "undecided"
    assert "exactly 0" in judgement.reason


HIGH, LOW, NIL = [1.0] * 10, [-1.0] * 10, [0.0] * 10


@pytest.mark.parametrize(
    ("rule", "values", "higher", "lower"),
    [
        (More(0.5), HIGH, "reproduced", "undecided"),
        (More(0.5), NIL, "undecided", "contradicted"),
        (NoMore(0.5), NIL, "undecided", "reproduced"),
        (NoMore(0.5), HIGH, "contradicted", "undecided"),
        (Same(0.5), NIL, "undecided", "undecided"),
        (Same(0.5), HIGH, "contradicted", "undecided"),
        (Same(0.5), LOW, "undecided", "contradicted"),
    ],
)
def test_a_bound_gives_no_verdict_that_the_true_effect_could_overturn(rule, values, higher, lower):
    assert judge(values, rule, open={"higher": "why"}).verdict == higher
    assert judge(values, rule, open={"lower": "why"}).verdict == lower
    judgement = judge(values, rule, open={"higher": "up", "lower": "down"})
    assert judgement.verdict == "undecided"
    assert judgement.reason in ("up", "down")


@pytest.mark.parametrize("rule", [More(0.1), NoMore(0.1, 0.9), Same(0.0)])
def test_rules_survive_as_json(rule):
    assert Rule.from_dict(json.loads(json.dumps(rule.describe()))) == rule
    assert rule.sentence().startswith("reproduced if P(")


@pytest.mark.parametrize(
    ("field", "value"), [("rope", -0.1), ("rope", float("nan")), ("confidence", 0.5)]
)
def test_rule_refuses(field, value):
    with pytest.raises(InvalidInput, match=field):
        More(**{"rope": 0.0, field: value})


def test_student_posterior_by_hand():
    # Mean 2, s = 1, n = 3; the 95% point of t with 2 degrees of freedom is 2.91999.
    draws = student_draws(np.array([1.0, 2.0, 3.0]), count=200_000)
    low, high = np.quantile(draws, [0.05, 0.95])
    assert low == pytest.approx(2 - 2.91999 / np.sqrt(3), abs=1e-3)
    assert high == pytest.approx(2 + 2.91999 / np.sqrt(3), abs=1e-3)


def test_student_posterior_is_the_classical_interval():
    sample = np.array([0.3, -0.1, 0.8, 0.45, 0.2])
    expected = stats.t.interval(0.9, 4, sample.mean(), stats.sem(sample))
    assert np.quantile(student_draws(sample), [0.05, 0.95]) == pytest.approx(expected, abs=2e-3)


@dataclasses.dataclass(frozen=True)
class Constant(Estimand):
    """An effect that a test has chosen, as a user's study might define one."""

    value: float
    why: str = ""

    def words(self):
        return f"constant {self.value:g}", "nats"

    def _measure(self, evidence, negligible):
        return Draws(*self.words(), np.full(10, self.value), self.why)


@pytest.mark.parametrize(
    ("tests", "verdict", "deciding"),
    [
        ((Test(Constant(1.0), RULE), Test(Constant(2.0), RULE)), "reproduced", 0),
        ((Test(Constant(1.0), RULE), Test(Constant(0.0), RULE)), "contradicted", 1),
        ((Test(Constant(1.0), RULE), Test(Constant(0.0), NoMore(0.1))), "reproduced", 0),
        ((Test(Constant(1.0), RULE), Test(Constant(2.0, "one seed"), RULE)), "undecided", 1),
        ((Test(Constant(0.0), RULE), Test(Constant(2.0, "one seed"), RULE)), "contradicted", 0),
    ],
)
def test_all_tests_must_hold(tests, verdict, deciding):
    ruling = Claim("X", "text", tests, "nothing").judge(Given())
    assert ruling.verdict == verdict
    assert ruling.deciding == deciding
    assert [part.estimate for part in ruling.parts] == [test.estimand.value for test in tests]
    assert bool(ruling.reason) == (verdict != "reproduced")


@dataclasses.dataclass(frozen=True)
class Several(Constant):
    """An effect of any number of arms."""

    arms: tuple[str, ...] = ()


EFFECTS = [
    InteriorMaximum("online"),
    MatchedDifference("online", "offline"),
    BestDifference("online", "offline", within=8.0),
    PeakPlace("online"),
    ShareOfGap("online", "offline", "replay", low=None),
    PairedDifference("win_rate", "online", "offline"),
    Change("winner_logprob_change", "online", -1),
    Level("self_accuracy", "online"),
    WithinRun(("a", "b"), ("c",), "online"),
    Slope("best_win_rate", "ground.coverage", ("ground.data_quality",), "offline"),
    RankCorrelation("data_accuracy", "win_rate", "offline"),
    RelativeBest("offline", "online"),
    Trend(PeakPlace("online"), "model"),
    Identical("online", "replay"),
    AtEvery("labeler", MatchedDifference("online", "offline")),
    Constant(0.5),
]
CLAIM = Claim("C11", "falls", tuple(Test(effect, RULE) for effect in EFFECTS), "rises", "checked")


def test_claims_survive_as_json():
    data = json.loads(json.dumps(CLAIM.describe()))
    assert Claim.from_dict(data) == CLAIM
    # All estimands, those of their own file too, are read back in tests/contracts/test_judging.py.
    assert len({effect["estimand"]["kind"] for effect in data["tests"]}) >= 16


@pytest.mark.parametrize(
    ("estimand", "told"),
    [
        (Several(0.0, arms=()), "arms of Several is empty"),
        (Level("kl", "near", float("nan")), "against of Level must be a finite number, got nan"),
    ],
)
def test_estimands_that_have_no_effect_are_refused(estimand, told):
    with pytest.raises(InvalidInput, match=told):
        Test(estimand, More(0.0))


def test_claims_name_the_arms_they_need():
    assert CLAIM.arms_used() == ("online", "offline", "replay")
    assert AtEvery("labeler", MatchedDifference("x", "y")).arms_used() == ("x", "y")
    assert WithinRun(("a",), ("b",), "x").arms_used() == ("x",)


def test_effects_that_no_single_world_has_are_not_asked_of_a_typical_task():
    others = [
        effect for effect in EFFECTS if not Claim("C", "", (Test(effect, RULE),), "").of_worlds
    ]
    assert [type(effect).__name__ for effect in others] == ["Identical", "AtEvery", "Constant"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tests": [{"estimand": {"kind": "Nonsense"}, "rule": RULE.describe()}]}, "Nonsense"),
        (
            {"tests": [{"estimand": {"kind": "MatchedDifference", "first": "x"}, "rule": {}}]},
            "second",
        ),
        (
            {
                "tests": [
                    {"estimand": EFFECTS[1].describe(), "rule": {"kind": "More", "rope": -1.0}}
                ]
            },
            "rope",
        ),
        (
            {"tests": [{"estimand": EFFECTS[1].describe(), "rule": {"kind": "Most", "rope": 1.0}}]},
            "Most",
        ),
        ({"tests": [{"estimand": EFFECTS[1].describe(), "rule": None}]}, "C11"),
        ({"tests": []}, "tests of claim C11"),
        ({"tests": None}, "C11"),
    ],
)
def test_damaged_claims_are_refused(change, words):
    with pytest.raises(InvalidInput, match=words):
        Claim.from_dict(CLAIM.describe() | change)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Change("kl", "x", 2), "sign"),
        (lambda: ShareOfGap("x", "y", "z", share=1.5), "share"),
        (lambda: ShareOfGap("x", "y", "z", high=None), "high"),
        (lambda: WithinRun((), ("a",), "x"), "first"),
        (lambda: Test(AtEvery("p", Constant(1.0)), NoMore(0.1)), "AtEvery"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()
