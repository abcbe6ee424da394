"""The frontier: closed forms against brute force, and inference on curves with known truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis import calibration, frontier, hierarchy
from analysis.calibration import Truth, simulate
from sweeps.claims import Unanswerable

DESIGN = {"settings": 6, "evaluations": 8}
QUICK = {"chains": 2, "warmup": 300, "draws": 500}
ARMS = ("online", "offline")


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def table():
    return simulate(Truth(), np.random.default_rng(7), **DESIGN)


@pytest.fixture(scope="module")
def fit(table):
    return frontier.fit(table, ARMS)


def small_points():
    """Five runs of two arms in two seeds, with gaps, and one seed whose SFT was not evaluated."""
    rng = np.random.default_rng(1)
    shape = (5, 4)
    mask = np.ones(shape)
    mask[0, 3] = mask[2, 1] = 0.0
    return hierarchy.Points(
        x=rng.uniform(0.1, 2, shape),
        logit=rng.normal(size=shape),
        variance=rng.uniform(0.01, 0.05, shape),
        mask=mask,
        arm=np.eye(2)[[0, 0, 1, 1, 1]],
        seed=np.eye(2)[[0, 1, 0, 1, 1]],
        sft_logit=rng.normal(size=2),
        sft_variance=np.array([0.02, 0.03]),
        sft_mask=np.array([1.0, 0.0]),
    )


def on_device(points):
    return jax.tree.map(jnp.asarray, points)


SCALES = hierarchy.Scales(
    seed_start=np.float64(0.4),
    seed_shared=np.array([0.3, 0.2]),
    seed_arm=np.array([0.15, 0.1]),
    run=np.array([0.2, 0.3]),
    checkpoint=np.array([0.1, 0.2]),
)


def dense(points, scales):
    """Observations, their design for the population's effects, and their covariance around it."""
    rows, noise, seeds, runs, shifts = [], [], [], [], []
    y = []
    for r, e in zip(*np.nonzero(points.mask), strict=True):
        arm, x = int(points.arm[r].argmax()), points.x[r, e]
        row = np.zeros(5)
        row[[0, 1 + arm, 3 + arm]] = 1.0, x, -x * np.log(x)
        rows.append(row)
        noise.append(points.variance[r, e] + scales.checkpoint[arm] ** 2)
        seeds.append(int(points.seed[r].argmax()))
        runs.append(r)
        shifts.append(scales.run[arm] * (1 - np.exp(-3 * x)))
        y.append(points.logit[r, e])
    for s in np.nonzero(points.sft_mask)[0]:
        rows.append(np.eye(5)[0])
        noise.append(points.sft_variance[s])
        seeds.append(int(s))
        runs.append(-1 - s)
        shifts.append(0.0)
        y.append(points.sft_logit[s])
    design = np.array(rows)
    between = np.zeros((5, 5))
    between[0, 0] = scales.seed_start**2
    for block, i in ((slice(1, 3), 0), (slice(3, 5), 1)):
        between[block, block] = scales.seed_shared[i] ** 2 + np.eye(2) * scales.seed_arm[i] ** 2
    covariance = np.diag(noise)
    for i in range(len(y)):
        for j in range(len(y)):
            if seeds[i] == seeds[j]:
                covariance[i, j] += design[i] @ between @ design[j]
            if runs[i] == runs[j]:
                covariance[i, j] += shifts[i] * shifts[j]
    return np.array(y), design, covariance


def test_marginal_likelihood_equals_the_dense_normal():
    points = small_points()
    y, design, covariance = dense(points, SCALES)
    total = covariance + hierarchy.POPULATION_SD**2 * design @ design.T
    expected = stats.multivariate_normal.logpdf(y, np.zeros(len(y)), total)
    assert float(hierarchy.log_marginal(on_device(points), on_device(SCALES))) == pytest.approx(
        expected, abs=1e-9
    )


def test_effects_given_scales_equal_generalised_least_squares():
    points = small_points()
    y, design, covariance = dense(points, SCALES)
    weight = np.linalg.inv(covariance)
    precision = design.T @ weight @ design + np.eye(5) / hierarchy.POPULATION_SD**2
    given = on_device(points), on_device(SCALES)
    mean, _ = hierarchy.effects_given_scales(*given, jnp.zeros(5))
    np.testing.assert_allclose(mean, np.linalg.solve(precision, design.T @ weight @ y), atol=1e-9)
    noise = jax.random.normal(jax.random.key(0), (20_000, 5))
    draw = jax.vmap(lambda z: hierarchy.effects_given_scales(*given, z)[0])
    spread = np.cov(np.asarray(draw(noise)).T)
    expected = np.linalg.inv(precision)
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(spread / size, expected / size, atol=0.04)


def test_seed_effects_are_the_population_where_seeds_do_not_vary():
    still = on_device(
        SCALES._replace(seed_start=np.float64(0), seed_shared=np.zeros(2), seed_arm=np.zeros(2))
    )
    points = on_device(small_points())
    effects, seeds = hierarchy.effects_given_scales(points, still, jnp.ones(5))
    np.testing.assert_allclose(seeds, np.stack([effects, effects]), atol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "inside"),
    [
        (2.0, 1.5, True),
        (1.0, 0.9, True),
        (-0.5, 0.7, True),
        (3.0, 0.4, False),
        (1.0, -0.5, False),
        (-2.0, -0.5, False),
        (1.0, 0.0, False),
    ],
)
def test_peak_formula_equals_numerical_maximisation(a, b, inside):
    x, interior = frontier.maximum(np.array([a]), np.array([b]), 0.0, 3.0)
    grid = np.linspace(0, 3, 3001)
    best = grid[np.argmax(frontier.rise(a, b, grid))]
    found = optimize.minimize_scalar(
        lambda z: -float(frontier.rise(a, b, z)),
        bounds=(max(best - 0.002, 0), min(best + 0.002, 3)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert bool(interior[0]) == inside
    assert x[0] == pytest.approx(found.x if inside else best, abs=1e-5)
    if inside:
        assert np.log(x[0]) == pytest.approx(a / b - 1)


def test_empirical_logit_by_hand():
    logit, variance = frontier.empirical_logit(pd.Series([0.25, 0.0]), pd.Series([8.0, 4.0]))
    # 2 of 8: log(2.5 / 6.5), 1/2.5 + 1/6.5; 0 of 4: log(0.5 / 4.5), 1/0.5 + 1/4.5.
    np.testing.assert_allclose(logit, [np.log(2.5 / 6.5), np.log(0.5 / 4.5)])
    np.testing.assert_allclose(variance, [1 / 2.5 + 1 / 6.5, 2 + 1 / 4.5])


def test_clean_counts_what_it_leaves_out(table):
    broken = table.copy()
    first, second, third = broken["run"].unique()[:3]
    broken.loc[broken["run"] == first, "diverged_step"] = 250
    broken.loc[broken.index[broken["run"] == second][2], "win_rate"] = np.nan
    broken.loc[broken.index[broken["run"] == second][3], "kl"] = np.inf
    prefix = broken[(broken["run"] == third) & (broken["step"] <= 200)].assign(run="prefix")
    cleaned = frontier.clean(pd.concat([broken, prefix], ignore_index=True))
    # Steps 250, 300, 350, 400 of the diverged run; steps 50 to 200 of the repeated beginning.
    assert cleaned.left_out == {
        "after divergence": 4,
        "without KL, win rate or prompts": 2,
        "repeats of the same policy": 4,
    }
    assert len(cleaned.rows) == len(table) - 4 - 2 + 1  # the prefix keeps its evaluation of SFT


def test_span_is_what_most_seeds_reached(table):
    reached = np.sort(np.sqrt(table.groupby(["arm", "seed"])["kl"].max()["online"]))
    span = frontier._span(frontier.clean(table), "online")
    assert span.start == 0.0
    assert span.end == pytest.approx(reached[1])  # two of three seeds got there


def test_fit_recovers_the_truth(fit):
    truth = Truth()
    assert fit.diagnostics.trouble() == ""
    for index, arm in enumerate(ARMS):
        d = np.linspace(0.2, 2.5, 20)
        low, high = np.quantile(fit.win_rate(arm, d), [0.005, 0.995], axis=0)
        expected = truth.win_rate(index, d)
        assert np.all((low < expected) & (expected < high))
        assert abs(fit.misfit(arm)[0]) < 0.06  # runs and seeds differ from their means


def test_same_seed_same_draws(table, fit):
    again = frontier.fit(table, ARMS)
    np.testing.assert_array_equal(again.effects, fit.effects)


def test_gap_and_peak_are_read_inside_the_observed_range(fit):
    low, high = fit.shared(*ARMS)
    d = np.linspace(low, high, 400)
    gap = fit.win_rate("online", d) - fit.win_rate("offline", d)
    np.testing.assert_allclose(fit.gap(*ARMS), gap.mean(axis=1), atol=2e-3)
    for arm in ARMS:
        peak, span = fit.peak(arm), fit.spans[arm]
        assert np.all((peak.root_kl >= span.start) & (peak.root_kl <= span.end + 1e-9))
        curve = fit.win_rate(arm, np.linspace(span.start, span.end, 500))
        np.testing.assert_allclose(peak.value, curve.max(axis=1), atol=1e-4)


def test_arms_without_enough_checkpoints_are_named(table):
    few = table[(table["arm"] == "online") | (table["step"] == 0)]
    lack = frontier._lack(frontier.clean(few), "offline")
    assert lack == "arm offline has no usable checkpoints"
    with pytest.raises(Unanswerable, match="offline"):
        frontier.fit(few[few["arm"] == "offline"], ("offline",))


@pytest.mark.slow
def test_intervals_cover_and_nulls_are_not_reproduced():
    """90% intervals contain the truth, within the binomial error of 40 replications."""
    rows = calibration.replicate(Truth(), 40, sampler=QUICK, **DESIGN)
    for _, own in rows.groupby("quantity"):
        assert own["covered"].sum() >= stats.binom.ppf(0.001, 40, 0.9)
        assert own["null_reproduced"].sum() <= stats.binom.ppf(0.999, 40, 0.05)
