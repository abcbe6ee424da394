"""Rules, the t posterior and claims as data, against values worked out by hand."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from sweeps.claims import (
    AllOf,
    Change,
    Claim,
    Draws,
    Estimand,
    InteriorMaximum,
    MatchedGap,
    PairedDifference,
    Peak,
    PeakDifference,
    Rule,
    Unanswerable,
    student_draws,
)
from testbed.errors import InvalidInput

RULE = Rule(rope=0.02)


@dataclasses.dataclass
class Given:
    """Evidence whose numbers a test has chosen."""

    peaks: dict = dataclasses.field(default_factory=dict)
    finals: dict = dataclasses.field(default_factory=dict)
    warning: str = ""

    def caveat(self):
        return self.warning

    def peak(self, arm):
        if arm not in self.peaks:
            raise Unanswerable(f"arm {arm} has no results")
        return self.peaks[arm]

    def gap(self, first, second):
        return self.peak(first).value - self.peak(second).value

    def last(self, metric, arm):
        return self.finals[metric, arm]

    def describe_curves(self, arms):
        return self.describe_runs(arms)

    def describe_runs(self, arms):
        return {"arms": {arm: {} for arm in arms}}


def constant_peak(value, start, end, count=100):
    fill = np.full(count, 1.0)
    return Peak(value * fill, fill, start * fill, end * fill, fill > 0)


def judge(values, rule=RULE):
    return rule.judge(Draws("effect", "nats", np.asarray(values, dtype=float)))


def test_rule_on_counted_draws():
    # 95 of 100 draws above the rope: exactly at the threshold.
    assert judge([1.0] * 95 + [0.0] * 5).verdict == "reproduced"
    assert judge([1.0] * 94 + [0.0] * 6).verdict == "undecided"
    assert judge([1.0] * 5 + [0.0] * 95).verdict == "contradicted"
    assert judge([1.0] * 6 + [0.0] * 94).verdict == "undecided"
    # A draw equal to the rope is practically nothing.
    assert judge([0.02] * 100).probability == 0.0
    assert judge([0.02] * 100).verdict == "contradicted"


def test_rule_reports_median_and_matching_interval():
    judgement = judge(np.arange(101.0))
    assert judgement.estimate == 50.0
    assert judgement.interval == pytest.approx((5.0, 95.0))
    assert judgement.probability == pytest.approx(100 / 101)
    assert judge(np.arange(101.0), Rule(rope=0.0, confidence=0.9)).interval == pytest.approx(
        (10, 90)
    )


def test_interval_above_the_rope_means_reproduced():
    rng = np.random.default_rng(0)
    for shift in np.linspace(-3, 3, 61):
        judgement = judge(rng.normal(shift, 1, size=2000), Rule(rope=0.2))
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
    judgement = RULE.judge(Draws("effect", "nats", np.ones(10), "the fit did not converge"))
    assert judgement.verdict == "undecided"
    assert judgement.reason == "the fit did not converge"
    assert judgement.estimate == 1.0


@pytest.mark.parametrize(
    ("field", "value"), [("rope", -0.1), ("rope", float("nan")), ("confidence", 0.5)]
)
def test_rule_refuses(field, value):
    with pytest.raises(InvalidInput, match=field):
        Rule(**{"rope": 0.0, field: value})


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


def test_paired_difference_pairs_and_averages_within_seeds():
    first = {(0, ("a",)): 3.0, (0, ("b",)): 5.0, (1, ("a",)): 4.0, (2, ("a",)): 5.0}
    second = {(0, ("a",)): 1.0, (0, ("b",)): 1.0, (1, ("a",)): 2.0, (2, ("b",)): 0.0}
    evidence = Given(finals={("kl", "x"): first, ("kl", "y"): second})
    draws = PairedDifference("kl", "x", "y").draws(evidence)
    # Seed 0: (2 + 4) / 2; seed 1: 2; seed 2 has no pair.
    assert draws.details["seed_means"] == {"0": 3.0, "1": 2.0}
    assert draws.details["pairs"] == 3
    assert np.median(draws.values) == pytest.approx(2.5)


def test_change_is_signed_by_the_claim():
    evidence = Given(finals={("winner_logprob_change", "x"): {(0, ()): -2.0, (1, ()): -4.0}})
    draws = Change("winner_logprob_change", "x", -1).draws(evidence)
    assert np.median(draws.values) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "no setting"),
        ({(0, ()): 1.0}, "only one seed"),
        ({(0, ()): 1.0, (1, ()): 1.0}, "do not differ"),
        ({(0, ()): float("nan"), (1, ()): float("nan")}, "finite"),
    ],
)
def test_too_few_seeds_say_so(values, words):
    zeros = dict.fromkeys(values, 0.0)
    evidence = Given(finals={("kl", "x"): values, ("kl", "y"): zeros})
    claim = Claim("T", "text", PairedDifference("kl", "x", "y"), RULE, "nothing")
    judgement = claim.judge(evidence)
    assert judgement.verdict == "undecided"
    assert words in judgement.reason


def test_interior_maximum_takes_the_weaker_arm():
    peaks = {"x": constant_peak(0.6, 0.1, 0.5), "y": constant_peak(0.5, 0.1, 0.2)}
    draws = InteriorMaximum(("x", "y")).draws(Given(peaks))
    assert draws.values == pytest.approx(np.full(100, 0.1))
    assert draws.details["arms"]["y"]["margin"] == pytest.approx(0.3)


def test_curve_effects_and_missing_arm():
    evidence = Given({"x": constant_peak(0.6, 0.1, 0.5), "y": constant_peak(0.5, 0.1, 0.2)})
    for estimand in (MatchedGap("x", "y"), PeakDifference("x", "y")):
        assert estimand.draws(evidence).values == pytest.approx(np.full(100, 0.1))
    draws = PeakDifference("x", "z").draws(evidence)
    assert draws.reason == "arm z has no results"
    assert draws.values.size == 0


@pytest.mark.parametrize(
    ("estimand", "unreached", "verdict"),
    [
        (PeakDifference("x", "y"), "x", "reproduced"),
        (PeakDifference("x", "y"), "y", "undecided"),
        (PeakDifference("y", "x"), "y", "undecided"),
        (PeakDifference("y", "x"), "x", "contradicted"),
        (InteriorMaximum(("x", "y")), "", "reproduced"),
        (InteriorMaximum(("x", "y")), "y", "undecided"),
    ],
)
def test_a_peak_out_of_reach_supports_one_side_only(estimand, unreached, verdict):
    peaks = {"x": constant_peak(0.6, 0.1, 0.4), "y": constant_peak(0.5, 0.1, 0.2)}
    if unreached:
        top = peaks[unreached].value
        never = np.zeros(len(top), dtype=bool)
        peaks[unreached] = dataclasses.replace(peaks[unreached], end=top, interior=never)
        assert peaks[unreached].place == "end"
    judgement = RULE.judge(estimand.draws(Given(peaks)))
    assert judgement.verdict == verdict
    if verdict == "undecided":
        assert judgement.reason.startswith(f"peak not reached: {unreached}")


def test_a_curve_that_falls_from_the_start_contradicts():
    falling = dataclasses.replace(constant_peak(0.3, 0.3, 0.1), interior=np.zeros(100, dtype=bool))
    assert falling.place == "start"
    judgement = RULE.judge(InteriorMaximum(("x",)).draws(Given({"x": falling})))
    assert judgement.verdict == "contradicted"


def part(value, reason=""):
    return Draws(f"part {value}", "nats", np.full(10, value), reason)


@pytest.mark.parametrize(
    ("parts", "verdict", "weakest"),
    [
        ((part(1.0), part(2.0)), "reproduced", 1.0),
        ((part(1.0), part(0.0)), "contradicted", 0.0),
        ((part(1.0), part(2.0, "one seed")), "undecided", 2.0),
        ((part(0.0), part(2.0, "one seed")), "contradicted", 0.0),
    ],
)
def test_conjunction(parts, verdict, weakest):
    judgement = RULE.judge(Draws("all", "nats", parts=parts))
    assert judgement.verdict == verdict
    assert judgement.estimate == weakest
    assert len(judgement.parts) == 2


CLAIMS = [
    Claim("C1", "rises, then falls", InteriorMaximum(("online", "offline")), RULE, "no fall"),
    Claim("C2", "gap", MatchedGap("online", "offline"), Rule(0.01, 0.9), "no gap"),
    Claim("C3", "peak", PeakDifference("online", "offline"), RULE, "equal peaks"),
    Claim(
        "C11",
        "falls",
        AllOf(
            (
                Change("winner_logprob_change", "online", -1),
                PairedDifference("winner_logprob_change", "online", "offline"),
            )
        ),
        RULE,
        "rises",
    ),
]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_claims_survive_as_json(claim):
    data = json.loads(json.dumps(claim.describe()))
    assert Claim.from_dict(data) == claim


def test_a_study_may_define_its_own_estimand():
    @dataclasses.dataclass(frozen=True)
    class Constant(Estimand):
        value: float

        def words(self):
            return "constant", "nats"

        def _measure(self, evidence):
            return Draws("constant", "nats", np.full(10, self.value))

    claim = Claim("X", "text", Constant(1.0), RULE, "nothing")
    again = Claim.from_dict(claim.describe())
    assert again == claim
    assert again.judge(Given()).verdict == "reproduced"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"estimand": {"kind": "Nonsense"}}, "Nonsense"),
        ({"estimand": {"kind": "MatchedGap", "first": "x"}}, "second"),
        ({"rule": {"rope": -1.0}}, "rope"),
        ({"rule": None}, "C2"),
    ],
)
def test_damaged_claims_are_refused(change, words):
    with pytest.raises(InvalidInput, match=words):
        Claim.from_dict(CLAIMS[1].describe() | change)
