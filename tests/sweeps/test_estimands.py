"""Every estimand against numbers worked out by hand."""

import numpy as np
import pytest
from given import Given, by_world, heights
from scipy import stats

from sweeps.claims import Claim, Test
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
from sweeps.rules import More, Same
from testbed.errors import InvalidInput

RULE = More(rope=0.02)


def test_paired_difference_pairs_and_averages_within_seeds():
    first = {(0, ("a",)): 3.0, (0, ("b",)): 5.0, (1, ("a",)): 4.0, (2, ("a",)): 5.0}
    second = {(0, ("a",)): 1.0, (0, ("b",)): 1.0, (1, ("a",)): 2.0, (2, ("b",)): 0.0}
    evidence = Given(finals={("kl", "x"): first, ("kl", "y"): second})
    draws = PairedDifference("kl", "x", "y").draws(evidence)
    # Seed 0: (2 + 4) / 2; seed 1: 2; seed 2 has no pair.
    assert by_world(draws) == {0: 3.0, 1: 2.0}
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
    assert by_world(draws) == pytest.approx({0: 0.3, 1: 0.1})
    assert (draws.details["first"], draws.details["second"]) == pytest.approx((0.8, 0.6))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "no setting"),
        ({(0, ()): 1.0}, "only one world"),
        ({(0, ()): float("nan"), (1, ()): float("nan")}, "finite"),
    ],
)
def test_too_few_worlds_say_so(values, words):
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
    assert by_world(draws) == pytest.approx({0: 2.0, 1: 4.0})


def test_slope_of_what_does_not_vary_on_its_own_is_not_given():
    runs = [(0, (setting,)) for setting in range(4)]
    finals = {("on", "x"): {run: float(i) for i, run in enumerate(runs)}}
    finals["given", "x"] = {run: 2.0 * value for run, value in finals["on", "x"].items()}
    finals["out", "x"] = finals["on", "x"]
    draws = Slope("out", "on", ("given",), "x").draws(Given(finals=finals))
    assert "do not vary independently" in draws.reason


def mean_of(low, high, height, place=1.0):
    """Mean of a bump between two distances, by its integral."""

    def integral(d):
        return height * (d - (d - place) ** 3 / (3 * place**2))

    return (integral(high) - integral(low)) / (high - low)


def test_matched_difference_is_the_mean_over_a_fixed_window():
    evidence = Given({"x": heights(0.6, 0.8), "y": heights(0.5, 0.5)})
    draws = MatchedDifference("x", "y", low=0.25, high=1.0).draws(evidence)
    expected = {seed: mean_of(0.5, 1.0, height) for seed, height in ((0, 0.1), (1, 0.3))}
    assert by_world(draws) == pytest.approx(expected, abs=1e-3)
    # Ten tokens: 0.025 to 0.1 nats a token are 0.25 to 1 nats.
    tokens = MatchedDifference("x", "y", low=0.025, high=0.1, per_token=True)
    assert by_world(tokens.draws(evidence)) == pytest.approx(by_world(draws))
    missing = MatchedDifference("x", "z").draws(evidence)
    assert (missing.reason, missing.values.size) == ("arm z has no results", 0)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0), (-0.1, 1.0), (3.0, 0.5), (0.5, np.inf), (np.nan, 1.0)]
)
def test_windows_must_be_windows(low, high):
    with pytest.raises(InvalidInput, match="low < high"):
        MatchedDifference("x", "y", low=low, high=high)


def test_worlds_that_do_not_come_so_far_are_counted():
    curves = heights(0.6, 0.8) | {2: heights(0.7, end=0.1)[0]}
    evidence = Given({"x": curves, "y": heights(0.5, 0.5, 0.5)})
    effects = MatchedDifference("x", "y").in_worlds(evidence)
    assert (list(effects.estimates), effects.lacking) == ([0, 1], 1)
    assert "no setting that the arms share reaches a KL of 1.5" in effects.why


def test_best_difference_ends_at_the_budget():
    late = heights(0.8, 0.9, place=2.0, end=4.0)
    evidence = Given({"x": late, "y": heights(0.5, 0.5)})
    whole = BestDifference("x", "y").draws(evidence)
    assert by_world(whole) == pytest.approx({0: 0.3, 1: 0.4})
    # Within one nat x is at d = 1, where it has three quarters of its height.
    within = BestDifference("x", "y", within=1.0).draws(evidence)
    assert by_world(within) == pytest.approx({0: 0.1, 1: 0.175})
    with pytest.raises(InvalidInput, match="above 0"):
        BestDifference("x", "y", within=0.0)


def test_interior_maximum_reads_each_world_where_the_others_peak():
    worlds = heights(0.6, 0.6) | {2: heights(0.6, place=1.5, end=2.0)[0]}
    evidence = Given({"x": worlds})
    rise = by_world(InteriorMaximum("x", "start").draws(evidence))
    fall = by_world(InteriorMaximum("x", "end").draws(evidence))
    # Worlds 0 and 1 peak at 1, so that world 2 is read at 1: 0.6 (1 - 1/9), and at its end, 2, it has as much.
    assert rise[2] == pytest.approx(0.6 * 8 / 9, abs=1e-3)
    assert fall[2] == pytest.approx(0.0, abs=1e-3)
    # The mean of worlds 1 and 2 peaks between 1 and 1.5.
    place = np.argmax(
        worlds[1].typical(np.linspace(0, 2, 129)) + worlds[2].typical(np.linspace(0, 2, 129))
    )
    assert rise[0] == pytest.approx(float(worlds[0].typical(place / 64)), abs=1e-6)
    with pytest.raises(InvalidInput, match="start and end"):
        InteriorMaximum("x", "middle")


def test_a_world_that_goes_further_than_the_others_is_read_where_the_others_still_rise():
    """Worlds 1 and 2 rise up to their end at 2: world 0 is read there, and not at its own end, 4."""
    worlds = heights(0.6, place=2.0, end=4.0) | {
        seed: heights(0.6, place=3.0, end=2.0)[0] for seed in (1, 2)
    }
    evidence = Given({"x": worlds})
    rise = by_world(InteriorMaximum("x", "start").draws(evidence))
    fall = by_world(InteriorMaximum("x", "end").draws(evidence))
    assert rise[0] == pytest.approx(0.6, abs=1e-3)
    assert fall[0] == pytest.approx(0.6, abs=1e-3)


def test_a_curve_that_still_rises_leaves_the_fall_open():
    rising = Given({"x": heights(0.6, 0.7, 0.8, place=3.0, end=2.0)})
    draws = InteriorMaximum("x", "end").draws(rising)
    assert set(draws.open) == {"higher"}
    # A peak in the last fifth of the range is not followed far enough either.
    late = Given({"x": heights(0.6, 0.7, 0.8, place=1.7, end=2.0)})
    assert set(InteriorMaximum("x", "end").draws(late).open) == {"higher"}
    inside = Given({"x": heights(0.6, 0.7, 0.8, place=1.5, end=2.0)})
    assert InteriorMaximum("x", "end").draws(inside).open == {}
    assert RULE.judge(draws).verdict == "undecided"
    assert InteriorMaximum("x", "start").draws(rising).open == {}


def test_place_of_the_peak_is_in_log_kl():
    draws = PeakPlace("x").draws(Given({"x": heights(0.5, 0.6, place=2.0, end=4.0)}))
    assert by_world(draws) == pytest.approx({0: np.log(4.0), 1: np.log(4.0)})
    late = PeakPlace("x").draws(Given({"x": heights(0.5, 0.6, place=3.0, end=2.0)}))
    assert set(late.open) == {"higher"}


def test_share_of_the_gap_by_hand():
    levels = {"top": (0.7, 0.8), "bottom": (0.3, 0.4), "between": (0.6, 0.65)}
    evidence = Given({arm: heights(*values) for arm, values in levels.items()})
    estimand = ShareOfGap("top", "bottom", "between", low=None, high=None)
    draws = estimand.draws(evidence)
    # Closed 0.3 and 0.25 of gaps of 0.4: 0.1 and 0.05 more than half.
    assert by_world(draws) == pytest.approx({0: 0.1, 1: 0.05})
    # The gaps do not differ between worlds, so the share is that of the medians.
    assert draws.details["share"] == pytest.approx(0.275 / 0.4, abs=1e-3)
    window = ShareOfGap("top", "bottom", "between", share=0.6, low=0.25, high=1.0).draws(evidence)
    part = mean_of(0.5, 1.0, 1.0)
    assert by_world(window) == pytest.approx({0: 0.06 * part, 1: 0.01 * part}, abs=1e-3)
    none = ShareOfGap("bottom", "top", "between", low=None).draws(evidence)
    assert none.reason.startswith("there is no gap to share")
    assert len(none.values) == 0


@pytest.mark.parametrize("high", [0.0, -1.0, np.nan])
def test_a_share_of_best_points_needs_a_budget_above_0(high):
    with pytest.raises(InvalidInput, match="above 0 nats"):
        ShareOfGap("top", "bottom", "between", low=None, high=high)


def correlated(seed_orders):
    x = np.arange(10.0)
    return {
        ("a", "x"): {(seed, ()): x for seed in seed_orders},
        ("b", "x"): {(seed, ()): order for seed, order in seed_orders.items()},
    }


def test_rank_correlation_along_runs_by_hand():
    rng = np.random.default_rng(3)
    orders = {seed: np.exp(rng.permutation(10.0 * np.arange(10) / 10)) for seed in range(3)}
    draws = RankCorrelation("a", "b", "x").draws(Given(runs=correlated(orders)))
    rhos = [stats.spearmanr(np.arange(10), order).statistic for order in orders.values()]
    assert list(by_world(draws).values()) == pytest.approx(rhos)
    z = np.arctanh(rhos)
    errors = [world["error"] for world in draws.details["worlds"]]
    assert errors == pytest.approx(np.sqrt(1.06 / 7) * (1 - np.square(rhos)))
    expected = np.tanh(stats.t.interval(0.9, 2, z.mean(), stats.sem(z)))
    assert np.quantile(draws.values, [0.05, 0.95]) == pytest.approx(expected, abs=0.005)


def test_rank_correlation_between_runs_by_hand():
    """Along each run the columns fall together; the ends of the runs rise together but for one pair."""
    ends = {0: (1.0, 2.0, 3.0, 4.0, 5.0), 1: (2.0, 1.0, 3.0, 4.0, 5.0)}
    runs = {("a", "x"): {}, ("b", "x"): {}}
    for seed, values in ends.items():
        for setting, value in enumerate(values):
            fall = np.array([3.0, 2.0, 1.0, 0.0])
            runs["a", "x"][seed, (setting,)] = setting + fall
            runs["b", "x"][seed, (setting,)] = value + fall
    evidence = Given(runs=runs)
    between = RankCorrelation("a", "b", "x", within=False).draws(evidence)
    assert by_world(between) == pytest.approx({0: 1 - 1 / 5, 1: min(0.9, 1 - 1 / 5)})
    along = RankCorrelation("a", "b", "x").draws(evidence)
    assert by_world(along) == pytest.approx({0: 1 - 1 / 4, 1: 1 - 1 / 4})


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


def gap_of(*values):
    """Two arms whose best differ by these values, world by world."""
    return Given({"x": heights(*(0.5 + np.asarray(values))), "y": heights(*([0.5] * len(values)))})


GAP = BestDifference("x", "y")


@pytest.mark.parametrize(
    ("strong", "weak", "verdict"),
    [(0.2, 0.1, "reproduced"), (0.2, 0.02, "undecided"), (0.2, -0.1, "contradicted")],
)
def test_at_every_level_is_decided_by_the_weakest(strong, weak, verdict):
    wiggle = np.array([-0.01, 0.0, 0.01])
    levels = {"A": gap_of(*(strong + wiggle)), "B": gap_of(*(weak + wiggle))}
    draws = AtEvery("labeler", GAP).draws(Given(parts={"labeler": levels}))
    judgement = RULE.judge(draws)
    alone = RULE.judge(GAP.draws(levels["B"]))
    assert judgement.verdict == verdict == alone.verdict
    assert judgement.probability == pytest.approx(alone.probability, abs=0.002)
    assert draws.details["smallest"] == "B"
    assert list(draws.details["levels"]) == ["A", "B"]


def test_a_level_without_an_answer_can_only_spoil():
    estimand = AtEvery("labeler", GAP)
    good, bad = gap_of(0.1, 0.11, 0.09), gap_of(-0.1, -0.11, -0.09)
    silent = Given()
    with_good = Given(parts={"labeler": {"A": good, "B": silent}})
    judgement = RULE.judge(estimand.draws(with_good))
    assert (judgement.verdict, judgement.reason) == ("undecided", "at B: arm x has no results")
    with_bad = Given(parts={"labeler": {"A": bad, "B": silent}})
    assert RULE.judge(estimand.draws(with_bad)).verdict == "contradicted"
    alone = RULE.judge(estimand.draws(Given(parts={"labeler": {"B": silent}})))
    assert (alone.verdict, alone.estimate) == ("undecided", None)


def test_trend_is_the_slope_over_doublings_in_every_world():
    # Sizes 0, 1, 3 doublings: world 0 rises by 0.1 a doubling, world 1 by 0.2.
    gaps = {1: (0.5, 0.4), 2: (0.6, 0.6), 8: (0.8, 1.0)}
    evidence = Given(parts={"model": {size: gap_of(*values) for size, values in gaps.items()}})
    draws = Trend(GAP, "model").draws(evidence)
    assert by_world(draws) == pytest.approx({0: 0.1, 1: 0.2})
    assert draws.details["by_level"] == pytest.approx([0.45, 0.6, 0.9])
    assert draws.unit.endswith("per doubling")
    assert Trend(GAP, "model").arms_used() == ("x", "y")
    with pytest.raises(InvalidInput, match="every world"):
        Trend(Identical("x", "y"), "model")


def test_trend_of_the_place_of_the_peak():
    parts = {
        size: Given({"x": heights(0.6, 0.7, place=np.sqrt(size), end=9.0)}) for size in (1, 2, 8)
    }
    estimand = Trend(PeakPlace("x"), "model")
    # KL is the size itself: log 2 more a doubling.
    draws = estimand.draws(Given(parts={"model": parts}))
    assert list(by_world(draws).values()) == pytest.approx([np.log(2)] * 2)
    late = Given({"x": heights(0.6, 0.7, place=2.0, end=1.0)})
    assert set(estimand.draws(Given(parts={"model": parts | {1: late}})).open) == {"lower"}
    assert set(estimand.draws(Given(parts={"model": parts | {8: late}})).open) == {"higher"}


def test_errors_of_levels_add_up_in_a_trend():
    parts = {size: Given({"x": heights(0.6, 0.7, error=0.1)}) for size in (1, 2)}
    effects = Trend(PeakPlace("x"), "model").in_worlds(Given(parts={"model": parts}))
    assert effects.estimates[0].error == pytest.approx(np.sqrt(2) * 0.1)


def test_relative_best_is_a_ratio_of_quantiles():
    """90% quantiles of ten equal checkpoints are their value."""
    runs = {("win_rate", "top"): {(seed, ()): [0.8] * 10 for seed in (0, 1)}}
    runs["win_rate", "x"] = {(0, ()): [0.4] * 10, (1, ()): [0.6] * 10}
    assert by_world(RelativeBest("x", "top").draws(Given(runs=runs))) == pytest.approx(
        {0: 0.5, 1: 0.75}
    )


def test_trends_need_sizes():
    words = Given(parts={"model": {"A": Given(), "B": Given()}})
    assert "no size" in Trend(PeakPlace("x"), "model").draws(words).reason
    one = Given(parts={"model": {2: Given()}})
    assert "fewer than two" in Trend(PeakPlace("x"), "model").draws(one).reason


@pytest.mark.parametrize(
    "stored",
    [
        {"kind": "MatchedGap", "first": "x", "second": "y"},
        {"kind": "PeakDifference", "first": "x", "second": "y", "final": []},
        {"kind": "InteriorMaximum", "arms": ["x", "y"]},
        {"kind": "ShareOfGap", "top": "x", "bottom": "y", "candidate": "z", "measure": "peak"},
        {"kind": "RelativeTrend", "arm": "x", "top": "y", "path": "model"},
        {"kind": "AtEvery", "path": "model", "estimand": {"kind": "MatchedGap", "first": "x"}},
    ],
)
def test_estimands_of_earlier_versions_are_read_and_say_what_became_of_them(stored):
    estimand = Estimand.from_dict(stored)
    assert estimand.describe() == stored
    draws = estimand.draws(Given(parts={"model": {1: Given()}}))
    assert "not measured any more" in draws.reason + str(draws.details)
