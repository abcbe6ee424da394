"""Every estimand against numbers worked out by hand."""

import dataclasses

import numpy as np
import pytest
from given import Given, constant_peak, unreached
from scipy import stats

from sweeps.claims import Claim, Test
from sweeps.estimands import (
    AtEvery,
    Change,
    Identical,
    InteriorMaximum,
    Level,
    MatchedGap,
    PairedDifference,
    PeakDifference,
    PeakPlace,
    PeakPlaceTrend,
    RankCorrelation,
    RelativeTrend,
    RelativeTrendDifference,
    ShareOfGap,
    Slope,
    WithinRun,
)
from sweeps.rules import More, Same

RULE = More(rope=0.02)


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


def test_level_is_measured_from_a_constant():
    evidence = Given(finals={("self_accuracy", "x"): {(0, ()): 0.5, (1, ()): 0.7}})
    assert np.median(Level("self_accuracy", "x").draws(evidence).values) == pytest.approx(0.1)


def test_within_run_compares_columns_of_the_same_run():
    columns = {
        ("a", "x"): {(0, ()): 0.9, (1, ()): 0.8},
        ("b", "x"): {(0, ()): 0.7, (1, ()): 0.8},
        ("c", "x"): {(0, ()): 0.5, (1, ()): 0.7},
    }
    draws = WithinRun(("a", "b"), ("c",), "x").draws(Given(finals=columns))
    # Seed 0: 0.8 - 0.5; seed 1: 0.8 - 0.7.
    assert draws.details["seed_means"] == pytest.approx({"0": 0.3, "1": 0.1})
    assert (draws.details["first"], draws.details["second"]) == pytest.approx((0.8, 0.6))


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
    claim = Claim("T", "text", (Test(PairedDifference("kl", "x", "y"), RULE),), "nothing")
    ruling = claim.judge(evidence)
    assert ruling.verdict == "undecided"
    assert words in ruling.reason


def test_slope_holds_other_columns_fixed():
    rng = np.random.default_rng(0)
    finals = {(name, "x"): {} for name in ("on", "given", "out")}
    for seed, slope in ((0, 2.0), (1, 4.0)):
        for setting in range(6):
            on = rng.normal()
            given = 0.8 * on + rng.normal()
            run = (seed, (setting,))
            finals["on", "x"][run], finals["given", "x"][run] = on, given
            finals["out", "x"][run] = 7.0 + slope * on - 3.0 * given
    draws = Slope("out", "on", ("given",), "x").draws(Given(finals=finals))
    assert draws.details["seed_means"] == pytest.approx({"0": 2.0, "1": 4.0})


def test_slope_of_what_does_not_vary_on_its_own_is_not_given():
    runs = [(0, (setting,)) for setting in range(4)]
    finals = {("on", "x"): {run: float(i) for i, run in enumerate(runs)}}
    finals["given", "x"] = {run: 2.0 * value for run, value in finals["on", "x"].items()}
    finals["out", "x"] = finals["on", "x"]
    draws = Slope("out", "on", ("given",), "x").draws(Given(finals=finals))
    assert "do not vary independently" in draws.reason


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
    ("estimand", "late", "verdict"),
    [
        (PeakDifference("x", "y"), "x", "reproduced"),
        (PeakDifference("x", "y"), "y", "undecided"),
        (PeakDifference("y", "x"), "y", "undecided"),
        (PeakDifference("y", "x"), "x", "contradicted"),
        (InteriorMaximum(("x", "y")), "", "reproduced"),
        (InteriorMaximum(("x", "y")), "y", "undecided"),
    ],
)
def test_a_peak_out_of_reach_supports_one_side_only(estimand, late, verdict):
    peaks = {"x": constant_peak(0.6, 0.1, 0.4), "y": constant_peak(0.5, 0.1, 0.2)}
    if late:
        peaks[late] = unreached(peaks[late])
        assert peaks[late].place == "end"
    judgement = RULE.judge(estimand.draws(Given(peaks)))
    assert judgement.verdict == verdict
    if verdict == "undecided":
        assert judgement.reason.startswith(f"peak not reached: {late}")


@pytest.mark.parametrize(("rising", "verdict"), [(5, "contradicted"), (6, "undecided")])
def test_a_twentieth_of_rising_draws_holds_a_contradiction_back(rising, verdict):
    """x is 0.4 below y, but with more than 5 of 100 draws still rising its peak may be anywhere."""
    low = constant_peak(0.1, 0.05, 0.05)
    low.interior[:rising] = False
    peaks = {"x": low, "y": constant_peak(0.5, 0.1, 0.2)}
    estimand = PeakDifference("x", "y")
    assert RULE.judge(estimand.draws(Given(peaks))).verdict == verdict
    ended = dataclasses.replace(estimand, final=("x",))
    assert RULE.judge(ended.draws(Given(peaks))).verdict == "contradicted"


def test_a_curve_that_falls_from_the_start_contradicts():
    falling = dataclasses.replace(constant_peak(0.3, 0.3, 0.1), interior=np.zeros(100, dtype=bool))
    assert falling.place == "start"
    judgement = RULE.judge(InteriorMaximum(("x",)).draws(Given({"x": falling})))
    assert judgement.verdict == "contradicted"


def test_place_of_the_peak_is_in_log_kl():
    peaks = {"x": constant_peak(0.6, 0.1, 0.4, 2.0), "y": constant_peak(0.5, 0.1, 0.2, 1.0)}
    draws = PeakPlace("x", "y").draws(Given(peaks))
    assert draws.values == pytest.approx(np.full(100, np.log(4.0)))
    late = PeakPlace("x", "y").draws(Given(peaks | {"y": unreached(peaks["y"])}))
    assert set(late.open) == {"lower"}
    early = dataclasses.replace(peaks["x"], start=peaks["x"].value, interior=np.zeros(100, bool))
    assert set(PeakPlace("x", "y").draws(Given(peaks | {"x": early})).open) == {"lower"}
    # One draw in ten at the end is too many for a place, and none of a peak's concern.
    interior = np.arange(100) >= 10
    some = dataclasses.replace(peaks["x"], end=peaks["x"].value, interior=interior)
    assert some.place == "inside"
    assert set(PeakPlace("x", "y").draws(Given(peaks | {"x": some})).open) == {"higher"}


@pytest.mark.parametrize("measure", ["matched", "peak"])
def test_share_of_the_gap_by_hand(measure):
    levels = {"top": 0.7, "bottom": 0.3, "between": 0.6}
    peaks = {arm: constant_peak(value, 0.1, 0.1) for arm, value in levels.items()}
    draws = ShareOfGap("top", "bottom", "between", measure).draws(Given(peaks))
    assert draws.values == pytest.approx(np.full(100, 0.75))
    assert draws.reason == ""
    reversed_ = ShareOfGap("bottom", "top", "between", measure).draws(Given(peaks))
    assert reversed_.reason.startswith("there is no gap to share")
    assert len(reversed_.values) == 0


@pytest.mark.parametrize(
    ("late", "value", "side"),
    [
        ("between", 0.6, "higher"),
        ("top", 0.6, "lower"),
        ("top", 0.2, "higher"),
        ("bottom", 0.6, "lower"),
        ("bottom", 0.8, "higher"),
    ],
)
def test_share_of_the_gap_is_open_where_a_peak_is_out_of_reach(late, value, side):
    peaks = {"top": 0.7, "bottom": 0.3, "between": value}
    peaks = {arm: constant_peak(height, 0.1, 0.1) for arm, height in peaks.items()}
    estimand = ShareOfGap("top", "bottom", "between", "peak")
    draws = estimand.draws(Given(peaks | {late: unreached(peaks[late])}))
    assert set(draws.open) == {side}
    higher = constant_peak(float(peaks[late].value[0]) + 0.01, 0.1, 0.1)
    moved = np.median(estimand.draws(Given(peaks | {late: higher})).values - draws.values)
    assert (moved > 0) == (side == "higher")


def correlated(seed_orders):
    x = np.arange(10.0)
    return {
        ("a", "x"): {(seed, ()): x for seed in seed_orders},
        ("b", "x"): {(seed, ()): order for seed, order in seed_orders.items()},
    }


def test_rank_correlation_by_hand():
    rng = np.random.default_rng(3)
    orders = {seed: np.exp(rng.permutation(10.0 * np.arange(10) / 10)) for seed in range(3)}
    draws = RankCorrelation("a", "b", "x").draws(Given(runs=correlated(orders)))
    rhos = [stats.spearmanr(np.arange(10), order).statistic for order in orders.values()]
    assert list(draws.details["seed_means"].values()) == pytest.approx(rhos)
    z = np.arctanh(rhos)
    expected = np.tanh(stats.t.interval(0.9, 2, z.mean(), stats.sem(z)))
    assert np.quantile(draws.values, [0.05, 0.95]) == pytest.approx(expected, abs=0.005)


def test_perfect_rank_correlation_is_finite():
    orders = {0: np.arange(10.0), 1: np.arange(10.0) ** 3, 2: np.roll(np.arange(10.0), 1)}
    draws = RankCorrelation("a", "b", "x").draws(Given(runs=correlated(orders)))
    assert np.isfinite(draws.values).all()
    still = RankCorrelation("a", "b", "x").draws(Given(runs=correlated({0: np.ones(10)})))
    assert "vary" in still.reason


@pytest.mark.parametrize(
    ("changed", "share", "verdict"), [(0, 0.0, "reproduced"), (2, 0.4, "contradicted")]
)
def test_identical_runs_are_known_without_error(changed, share, verdict):
    steps, sums = [0.0, 1.0, 2.0, 3.0, 4.0], np.array([5.0, 6.0, 7.0, 8.0, 9.0])
    other = sums + (np.arange(5) >= 5 - changed)
    runs = {
        ("step", "x"): {(0, ()): steps, (1, ()): steps},
        ("sum", "x"): {(0, ()): sums, (1, ()): sums},
        # Only seed 0 is there in both, and the second arm has a further step.
        ("step", "y"): {(0, ()): [*steps, 9.0]},
        ("sum", "y"): {(0, ()): [*other, 1.0]},
    }
    draws = Identical("x", "y", "sum").draws(Given(runs=runs))
    assert draws.details["compared"] == 5
    assert draws.values.tolist() == [share]
    assert Same(0.0).judge(draws).verdict == verdict


def test_nothing_in_common_is_not_identical():
    runs = {("step", "x"): {(0, ()): [1.0]}, ("step", "y"): {(0, ()): [2.0]}}
    runs |= {("sum", arm): {(0, ()): [1.0]} for arm in "xy"}
    assert "no checkpoint" in Identical("x", "y", "sum").draws(Given(runs=runs)).reason


def gap_of(values):
    peaks = {"x": constant_peak(0.5, 0.1, 0.1), "y": constant_peak(0.5, 0.1, 0.1)}
    return Given({**peaks, "x": dataclasses.replace(peaks["x"], value=0.5 + np.asarray(values))})


@pytest.mark.parametrize(
    ("strong", "weak", "verdict"),
    [(100, 95, "reproduced"), (100, 94, "undecided"), (100, 5, "contradicted")],
)
def test_at_every_level_is_decided_by_the_weakest(strong, weak, verdict):
    def level(count):
        return gap_of(np.where(np.arange(100) < count, 0.1, 0.0))

    evidence = Given(parts={"labeler": {"A": level(strong), "B": level(weak)}})
    draws = AtEvery("labeler", MatchedGap("x", "y")).draws(evidence)
    judgement = RULE.judge(draws)
    assert judgement.probability == pytest.approx(weak / 100, abs=0.002)
    assert draws.details["smallest"] == ("A" if weak > 50 else "B")
    assert list(draws.details["levels"]) == ["A", "B"]
    if weak != 95:  # off the threshold by more than the quantiles' own interpolation
        assert judgement.verdict == verdict


def test_a_level_without_an_answer_can_only_spoil():
    estimand = AtEvery("labeler", MatchedGap("x", "y"))
    good, bad = gap_of(np.full(100, 0.1)), gap_of(np.full(100, -0.1))
    silent = Given()
    with_good = Given(parts={"labeler": {"A": good, "B": silent}})
    judgement = RULE.judge(estimand.draws(with_good))
    assert (judgement.verdict, judgement.reason) == ("undecided", "at B: arm x has no results")
    with_bad = Given(parts={"labeler": {"A": bad, "B": silent}})
    assert RULE.judge(estimand.draws(with_bad)).verdict == "contradicted"
    alone = RULE.judge(estimand.draws(Given(parts={"labeler": {"B": silent}})))
    assert (alone.verdict, alone.estimate) == ("undecided", None)


def sizes(ratios):
    """Two seeds at three sizes; 90% quantiles of ten equal checkpoints are their value."""
    parts = {}
    for size, by_arm in ratios.items():
        runs = {("win_rate", "top"): {(seed, ()): [0.8] * 10 for seed in (0, 1)}}
        for arm, (low, high) in by_arm.items():
            runs["win_rate", arm] = {(0, ()): [0.8 * low] * 10, (1, ()): [0.8 * high] * 10}
        parts[size] = Given(runs=runs)
    return Given(parts={"model": parts})


def test_relative_trend_by_hand():
    evidence = sizes(
        {
            1: {"x": (0.5, 0.4), "y": (0.5, 0.5)},
            2: {"x": (0.6, 0.6), "y": (0.5, 0.5)},
            8: {"x": (0.8, 1.0), "y": (0.5, 0.2)},
        }
    )
    # Sizes 0, 1, 3 doublings: seed 0 rises by 0.1 a doubling, seed 1 by 0.2.
    draws = RelativeTrend("x", "top", "model").draws(evidence)
    assert draws.details["seed_means"] == pytest.approx({"0": 0.1, "1": 0.2})
    assert draws.details["ratios"]["x"] == pytest.approx([0.45, 0.6, 0.9])
    difference = RelativeTrendDifference("x", "y", "top", "model").draws(evidence)
    falling = np.polyfit([0, 1, 3], [0.5, 0.5, 0.2], 1)[0]
    assert difference.details["seed_means"] == pytest.approx({"0": 0.1, "1": 0.2 - falling})


def test_trend_of_the_place_of_the_peak():
    roots = {1: 1.0, 2: np.sqrt(2.0), 8: np.sqrt(8.0)}
    parts = {s: Given({"x": constant_peak(0.6, 0.1, 0.2, root)}) for s, root in roots.items()}
    estimand = PeakPlaceTrend("x", "model")
    draws = estimand.draws(Given(parts={"model": parts}))
    # KL is the size itself: log 2 more a doubling.
    assert draws.values == pytest.approx(np.full(100, np.log(2)))
    first = Given({"x": unreached(constant_peak(0.6, 0.1, 0.2))})
    assert set(estimand.draws(Given(parts={"model": parts | {1: first}})).open) == {"lower"}
    assert set(estimand.draws(Given(parts={"model": parts | {8: first}})).open) == {"higher"}


def test_trends_need_sizes():
    words = Given(parts={"model": {"A": Given(), "B": Given()}})
    assert "no size" in PeakPlaceTrend("x", "model").draws(words).reason
    one = Given(parts={"model": {2: Given()}})
    assert "fewer than two" in RelativeTrend("x", "top", "model").draws(one).reason
