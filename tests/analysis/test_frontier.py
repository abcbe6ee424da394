"""The frontier: closed forms against brute force, and inference on curves with known truth."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, init_to_median
from scipy import optimize, special, stats

from analysis.curves import checkpoints, frontier, hierarchy, posterior, sampler
from analysis.verdicts.calibration import Truth, simulate
from sweeps.estimands import Unanswerable

DESIGN = {"settings": 6, "evaluations": 8}
ARMS = ("online", "offline")


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def table():
    return simulate(Truth(), np.random.default_rng(7), **DESIGN)


def fit_one(table, arms):
    """The frontier of one task's rows."""
    return frontier.fit_all(table.assign(task=""), arms).groups[("",)]


@pytest.fixture(scope="module")
def fit(table):
    return fit_one(table, ARMS)


def small_points(groups=1):
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
        seed=np.eye(3)[[0, 1, 0, 1, 2]],
        group=np.eye(groups)[[0, 0, groups - 1]],
        sft_logit=rng.normal(size=3),
        sft_variance=np.array([0.02, 0.03, 0.04]),
        sft_mask=np.array([1.0, 0.0, 1.0]),
    )


def on_device(points):
    return jax.tree.map(jnp.asarray, points)


SCALES = hierarchy.Scales(
    group_start=np.float64(0.5),
    group_shared=np.array([0.35, 0.45]),
    group_arm=np.array([0.25, 0.2]),
    seed_start=np.float64(0.4),
    seed_shared=np.array([0.3, 0.2]),
    seed_arm=np.array([0.15, 0.1]),
    checkpoint=np.array([0.2, 0.3]),
    noise=np.array([1.0]),
)


def scales(groups):
    return SCALES._replace(noise=np.array([0.8, 1.5])) if groups == 2 else SCALES


def spread(start, shared, arm):
    """Covariance of the deviations of (c, a_1, a_2, b_1, b_2) at one level."""
    between = np.zeros((5, 5))
    between[0, 0] = start**2
    for block, i in ((slice(1, 3), 0), (slice(3, 5), 1)):
        between[block, block] = shared[i] ** 2 + np.eye(2) * arm[i] ** 2
    return between


def checkpoint_variance(points, scales, r, e):
    """Of a measured log-odds around its seed's curve."""
    arm, seed = int(points.arm[r].argmax()), int(points.seed[r].argmax())
    louder = scales.noise[points.group[seed].argmax()]
    growth = 1 - np.exp(-3 * points.x[r, e])
    return points.variance[r, e] + (louder * scales.checkpoint[arm] * growth) ** 2


def dense(points, scales):
    """Observations, their design for the population's effects, and their covariance around it.

    A checkpoint of a run of n has n times its variance, which gives the n of them the weight of one.
    """
    rows, noise, seeds, y = [], [], [], []
    group = points.group.argmax(axis=1)
    for r, e in zip(*np.nonzero(points.mask), strict=True):
        arm, x, seed = int(points.arm[r].argmax()), points.x[r, e], int(points.seed[r].argmax())
        row = np.zeros(5)
        row[[0, 1 + arm, 3 + arm]] = 1.0, x, -x * (x - 1)
        rows.append(row)
        noise.append(points.mask[r].sum() * checkpoint_variance(points, scales, r, e))
        seeds.append(seed)
        y.append(points.logit[r, e])
    for s in np.nonzero(points.sft_mask)[0]:
        rows.append(np.eye(5)[0])
        noise.append(points.sft_variance[s])
        seeds.append(int(s))
        y.append(points.sft_logit[s])
    design = np.array(rows)
    by_seed = spread(scales.seed_start, scales.seed_shared, scales.seed_arm)
    by_group = spread(scales.group_start, scales.group_shared, scales.group_arm)
    if points.group.shape[1] == 1:
        by_group = np.zeros((5, 5))
    covariance = np.diag(noise)
    for i in range(len(y)):
        for j in range(len(y)):
            if group[seeds[i]] == group[seeds[j]]:
                covariance[i, j] += design[i] @ by_group @ design[j]
            if seeds[i] == seeds[j]:
                covariance[i, j] += design[i] @ by_seed @ design[j]
    return np.array(y), design, covariance


GROUPS = pytest.mark.parametrize("groups", [1, 2])


@GROUPS
def test_marginal_likelihood_equals_the_dense_normal(groups):
    points = small_points(groups)
    y, design, covariance = dense(points, scales(groups))
    total = covariance + hierarchy.POPULATION_SD**2 * design @ design.T
    expected = stats.multivariate_normal.logpdf(y, np.zeros(len(y)), total)
    # The n densities that the inflated variances stand for are one n-th of each in the exponent.
    for r, e in zip(*np.nonzero(points.mask), strict=True):
        own, count = checkpoint_variance(points, scales(groups), r, e), points.mask[r].sum()
        expected += np.log(2 * np.pi * count * own) / 2 - np.log(2 * np.pi * own) / (2 * count)
    found = hierarchy.log_marginal(on_device(points), on_device(scales(groups)))
    assert float(found) == pytest.approx(expected, abs=1e-9)


def drawn(points, scales, noise, group_noise):
    """Effects for many draws at the same scales."""
    told = hierarchy.told(on_device(points), on_device(scales))
    many = hierarchy.Told(*(np.broadcast_to(leaf, (len(noise), *leaf.shape)) for leaf in told))
    return posterior.draw_effects(many, points.group, noise, group_noise)


@GROUPS
def test_effects_given_scales_equal_generalised_least_squares(groups):
    """Mean and covariance of the population's and the groups' effects, jointly."""
    points = small_points(groups)
    y, design, covariance = dense(points, scales(groups))
    # Joint prior of (population, groups), and the design that reads the groups' effects.
    member = np.array([points.group.argmax(axis=1)[s] for s in seeds_of(points)])
    size = 5 * (1 + groups)
    by_group = spread(SCALES.group_start, SCALES.group_shared, SCALES.group_arm)
    by_group = by_group if groups == 2 else np.eye(5) * 1e-12
    prior = np.tile(np.eye(5) * hierarchy.POPULATION_SD**2, (1 + groups, 1 + groups))
    reads = np.zeros((len(y), size))
    for g in range(groups):
        block = slice(5 * (1 + g), 5 * (2 + g))
        prior[block, block] += by_group
        reads[member == g, block] = design[member == g]
    within = covariance - (design @ by_group @ design.T) * (member[:, None] == member) * (
        groups == 2
    )
    gain = prior @ reads.T @ np.linalg.inv(reads @ prior @ reads.T + within)
    mean, expected = gain @ y, prior - gain @ reads @ prior
    rng = np.random.default_rng(0)
    noise, group_noise = rng.normal(size=(40_000, 5)), rng.normal(size=(40_000, groups, 7))
    centre = drawn(points, own_scales(groups), 0 * noise[:1], 0 * group_noise[:1])
    np.testing.assert_allclose(centre.population[0], mean[:5], atol=1e-6)
    np.testing.assert_allclose(centre.groups[0].ravel(), mean[5:], atol=1e-6)
    effects = drawn(points, own_scales(groups), noise, group_noise)
    both = np.concatenate([effects.population, effects.groups.reshape(len(noise), -1)], axis=1)
    ratio = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(np.cov(both.T) / ratio, expected / ratio, atol=0.04)


def own_scales(groups):
    """The scales, without those of groups where there is one group."""
    if groups == 2:
        return scales(2)
    nothing = {"group_start": np.float64(0), "group_shared": np.zeros(2), "group_arm": np.zeros(2)}
    return SCALES._replace(**nothing)


def seeds_of(points):
    """Seed of every observation, in the order of `dense`."""
    rows, _ = np.nonzero(points.mask)
    return [*points.seed[rows].argmax(axis=1), *np.nonzero(points.sft_mask)[0]]


def test_seed_effects_are_the_groups_where_seeds_do_not_vary():
    still = scales(2)._replace(
        seed_start=np.float64(0), seed_shared=np.zeros(2), seed_arm=np.zeros(2)
    )
    points = small_points(2)
    effects = drawn(points, still, np.ones((1, 5)), np.ones((1, 2, 7)))
    np.testing.assert_allclose(effects.seeds, effects.groups[:, [0, 0, 1]], atol=1e-12)


def test_padding_changes_nothing():
    points = small_points(2)
    wider = points._replace(
        **{
            name: np.pad(getattr(points, name), ((0, 2), (0, 1)), constant_values=fill)
            for name, fill in (("x", 1.0), ("logit", 0.0), ("variance", 1.0), ("mask", 0.0))
        },
        arm=np.pad(points.arm, ((0, 2), (0, 0))),
        seed=np.pad(points.seed, ((0, 2), (0, 1))),
        group=np.pad(points.group, ((0, 1), (0, 0))),
        sft_logit=np.pad(points.sft_logit, (0, 1)),
        sft_variance=np.pad(points.sft_variance, (0, 1), constant_values=1.0),
        sft_mask=np.pad(points.sft_mask, (0, 1)),
    )
    one, other = (
        hierarchy.log_marginal(on_device(p), on_device(scales(2))) for p in (points, wider)
    )
    assert float(one) == pytest.approx(float(other), abs=1e-10)
    sizes = [checkpoints.rounded(count) for count in (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 100)]
    assert sizes == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 128]


def test_scales_follow_their_priors():
    points = on_device(small_points(2))
    z = jnp.zeros((3, 5 + 5 + 2 + 2))
    medians = hierarchy.scales_at(points, z)
    for name, (median, _) in hierarchy.PRIORS.items():
        np.testing.assert_allclose(getattr(medians, name), median)
    np.testing.assert_allclose(medians.noise, 1.0)
    louder = hierarchy.scales_at(points, z.at[:, -1].set(1.0))
    np.testing.assert_allclose(louder.noise[:, 1], np.exp(hierarchy.NOISE_LOG_SD))


def test_sampler_on_a_skewed_density_with_known_moments():
    """A normal with strong correlation, and the log of a gamma variate (mean psi(k), variance psi'(k))."""
    precision = np.linalg.inv(np.array([[1.0, 0.95], [0.95, 1.0]]))
    shape = 3.0

    def density(z):
        pair, log_gamma = z[:, :2], z[:, 2]
        value = -0.5 * np.einsum("ci,ij,cj->c", pair, precision, pair)
        value += shape * log_gamma - np.exp(log_gamma)
        gradient = np.concatenate([-pair @ precision, (shape - np.exp(log_gamma))[:, None]], axis=1)
        return value, gradient

    chains = sampler.sample(density, 3, seed=0, draws=2500)
    assert not chains.diverging.any()
    flat = chains.positions.reshape(-1, 3)
    mean = [0.0, 0.0, special.digamma(shape)]
    np.testing.assert_allclose(flat.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(flat.T)[:2, :2], np.linalg.inv(precision), atol=0.06)
    assert flat[:, 2].var() == pytest.approx(special.polygamma(1, shape), rel=0.06)


def test_scales_agree_with_numpyro():
    """The same posterior by NumPyro's NUTS, with the priors written out: seven means within four standard errors, which
    correct samplers miss with probability 4e-4 at a random key."""
    points = on_device(small_points())
    names = [name for name in hierarchy.PRIORS if not name.startswith("group_")]
    nothing = {
        "group_start": jnp.zeros(()),
        "group_shared": jnp.zeros(2),
        "group_arm": jnp.zeros(2),
    }

    def model():
        found = {}
        for name in names:
            prior = dist.LogNormal(np.log(hierarchy.PRIORS[name][0]), hierarchy.SCALE_LOG_SD)
            shape = () if name.endswith("_start") else (2,)
            found[name] = numpyro.sample(name, prior.expand(shape).to_event(len(shape)))
        whole = hierarchy.Scales(**found, **nothing, noise=jnp.ones(1))
        numpyro.factor("logits", hierarchy.log_marginal(points, whole))

    # NumPyro's sampler mixes dtypes of its own.
    with jax.numpy_dtype_promotion("standard"):
        kernel = NUTS(model, init_strategy=init_to_median, max_tree_depth=6)
        chains = MCMC(kernel, num_warmup=300, num_samples=1000, progress_bar=False)
        chains.run(jax.random.PRNGKey(0))
    theirs = {name: np.asarray(draws) for name, draws in chains.get_samples().items()}
    fit, diagnostics = posterior.sample(small_points())
    assert diagnostics.trouble() == ""
    for name in names:
        own = np.log(np.asarray(getattr(fit.scales, name))).reshape(diagnostics.draws, -1)
        other = np.log(theirs[name]).reshape(len(own) // 4, -1)
        ess = [np.asarray(effective_sample_size(part[None])) for part in (own, other)]
        error = np.sqrt(own.var(axis=0) / ess[0] + other.var(axis=0) / ess[1])
        assert np.all(np.abs(own.mean(axis=0) - other.mean(axis=0)) < 4 * error), name


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
        assert x[0] == pytest.approx((1 + a / b) / 2)


def test_empirical_logit_by_hand():
    logit, variance = checkpoints.empirical_logit(pd.Series([0.25, 0.0]), pd.Series([8.0, 4.0]))
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
    cleaned = checkpoints.clean(pd.concat([broken, prefix], ignore_index=True))
    # Steps 250, 300, 350, 400 of the diverged run; steps 50 to 200 of the repeated beginning.
    assert cleaned.left_out == {
        "after divergence": 4,
        "without KL, win rate or prompts": 2,
        "repeats of the same measurement": 4,
    }
    assert len(cleaned.rows) == len(table) - 4 - 2 + 1  # the prefix keeps its evaluation of SFT


def test_span_is_what_most_seeds_reached(table):
    reached = np.sort(np.sqrt(table.groupby(["arm", "seed"])["kl"].max()["online"]))
    span = checkpoints.span_of(checkpoints.clean(table), "online")
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
    again = fit_one(table, ARMS)
    np.testing.assert_array_equal(again.effects, fit.effects)


def test_curve_stays_in_the_cloud_where_far_settings_win_less():
    """Each of six settings goes further than the one before and wins less at equal KL: within every run the win rate
    rises steeply, while over all checkpoints it levels off. The curve is that of all checkpoints: at the far end it is
    within three points of their mean, where one with an effect of each run's own was eight above."""
    rng = np.random.default_rng(5)
    table = simulate(Truth(a=(2.6, 1.5), b=(0.6, 0.8), run=0.0), rng, settings=6, evaluations=8)
    settings = table["run"].str.rsplit("-", n=1).str[1].astype(int)
    d = np.sqrt(table["kl"])
    drop = np.where(table["arm"] == "online", 0.35 * settings * (1 - np.exp(-3 * d / 1.5)), 0.0)
    table["win_rate"] = frontier.expit(
        special.logit(table["win_rate"].clip(0.002, 0.998)).to_numpy() - drop
    )
    fitted = fit_one(table, ARMS)
    trained = fitted.cleaned.trained
    online = trained[trained["arm"] == "online"]
    far = online[np.sqrt(online["kl"]) > 2.0]
    curve = np.median(fitted.win_rate("online", np.sqrt(far["kl"].to_numpy())), axis=0)
    assert abs(curve.mean() - far["win_rate"].mean()) < 0.03


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
    lack = checkpoints.lack_of(checkpoints.clean(few), "offline")
    assert lack == "arm offline has no usable checkpoints"
    with pytest.raises(Unanswerable, match="offline"):
        fit_one(few[few["arm"] == "offline"], ("offline",))


def two_tasks():
    rng = np.random.default_rng(5)
    parts = [simulate(Truth(), rng, **DESIGN).assign(task=name) for name in ("B", "A")]
    return pd.concat(parts, ignore_index=True)


def test_tasks_are_fitted_together_and_told_apart():
    table = two_tasks()
    first = table["task"] == "B"
    table.loc[first & (table["evaluation"] > 0), "win_rate"] *= 0.8
    table = table[~(first & (table["arm"] == "offline"))]
    fits = frontier.fit_all(table, ARMS)
    assert list(fits.groups) == [("A",), ("B",)]
    one, other = fits.groups.values()
    assert (one.arms, other.arms) == (ARMS, ("online",))
    assert other.missing == {"offline": "arm offline has no usable checkpoints"}
    assert one.seed_effects.shape == (3, 5)
    assert other.seed_effects.shape == (3, 3)
    assert other.scales["checkpoint"].shape[1] == 1
    assert np.median(one.peak("online").value - other.peak("online").value) > 0.05
    assert fits.typical is not None
    assert fits.typical.arms == ("online",)
    with pytest.raises(Unanswerable, match="fewer than two tasks"):
        fits.typical.peak("offline")


def test_typical_task_lies_between_the_tasks_and_is_less_certain():
    table = two_tasks()
    raised = table["task"].eq("A") & table["evaluation"].gt(0)
    table.loc[raised, "win_rate"] = table.loc[raised, "win_rate"] * 0.8
    fits = frontier.fit_all(table, ARMS)
    tops = [np.median(fit.peak("online").value) for fit in fits.groups.values()]
    typical = fits.typical.peak("online").value
    assert tops[0] < np.median(typical) < tops[1]
    widths = [
        np.ptp(np.quantile(fit.peak("online").value, [0.05, 0.95])) for fit in fits.groups.values()
    ]
    assert np.ptp(np.quantile(typical, [0.05, 0.95])) > max(widths)


def test_strata_are_groups_and_rows_without_the_path_belong_to_all():
    table = two_tasks().rename(columns={"task": "model"}).assign(task="T")
    table["model"] = table["model"].where(table["arm"] == "online")
    parts = frontier.split(table, ("model",))
    assert list(parts) == [("T", "B"), ("T", "A")]
    online, offline = (table["arm"].eq(arm).sum() for arm in ARMS)
    assert [len(rows) for rows in parts.values()] == [online / 2 + offline] * 2


def test_no_curve_anywhere_says_why(table):
    few = table[table["step"] == 0].assign(task="A")
    with pytest.raises(Unanswerable, match="no usable checkpoints"):
        frontier.fit_all(few, ARMS)
