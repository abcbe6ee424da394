"""Pooling worlds' estimates: against NumPyro on the same model, against closed forms, and by simulation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from fine_grid import interval
from numpyro.infer import MCMC, NUTS
from scipy import stats

from analysis.worlds import pooled
from analysis.worlds.pooled import pool, typical

UNIT = 0.07
ENDS = np.array([0.05, 0.5, 0.95])


def estimates(seed: int, worlds: int = 16, family: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    deviation = family * rng.normal(size=worlds // 4 or 1)
    values = 0.1 + np.repeat(deviation, 4)[:worlds] + 0.2 * rng.normal(size=worlds)
    errors = 0.05 * rng.uniform(0.5, 2.0, worlds)
    return values + errors * rng.normal(size=worlds), errors


def model(y: Any, s: Any, family: Any, families: int) -> None:
    mu: Any = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    prior = dist.LogNormal(jnp.log(3 * UNIT), pooled.SCALE_LOG_SD)
    tau: Any = numpyro.sample("tau", prior)
    centre: Any = mu
    if families:
        sigma: Any = numpyro.sample("sigma", prior)
        z: Any = numpyro.sample("z", dist.Normal(0, 1).expand([families]))
        centre = mu + (sigma * z)[family]
    scale = jnp.sqrt(tau**2 + s**2)
    numpyro.sample("y", dist.StudentT(pooled.NU, centre, scale), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_the_grid_agrees_with_numpyro(shared: bool) -> None:
    """5%, 50% and 95% quantiles of 16,000 draws, within five Monte Carlo errors: 0.004 or, with families, 0.008
    (by the spread of the chains' own quantiles; effective draws are a sixth). 64,000 draws with families came within
    0.008 of the grid, and sums over finer grids within 0.001."""
    values, errors = estimates(1, family=0.3 if shared else 0.0)
    family = np.arange(16) // 4
    found = pool(values, errors, UNIT, family if shared else None).quantile(ENDS)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        sampler = MCMC(
            NUTS(model, target_accept_prob=0.95),
            num_warmup=1000,
            num_samples=4000,
            num_chains=4,
            chain_method="vectorized",
            progress_bar=False,
        )
        sampler.run(
            jax.random.key(0),
            jnp.asarray(values),
            jnp.asarray(errors),
            jnp.asarray(family),
            4 if shared else 0,
            init_params=None,
        )
        draws = np.asarray(sampler.get_samples()["mu"])
    np.testing.assert_allclose(found, np.quantile(draws, ENDS), atol=0.04 if shared else 0.02)


NORMAL = stats.norm.ppf((np.arange(15) + 0.5) / 15)


@pytest.mark.parametrize(
    ("values", "errors"),
    [
        ([0.1, 0.3], [0.05, 0.05]),
        ([0.1, 0.3], [0.0, 0.0]),
        ([0.1, 0.3, 0.15, -0.1], [0.01, 0.5, 0.02, 0.05]),
        ([*(0.05 * NORMAL), 10.0], [0.02] * 16),
        ([*(0.02 * NORMAL), 3.0], [0.02] * 15 + [50.0]),
    ],
    ids=["two", "two without errors", "unequal errors", "an odd world", "a world hardly measured"],
)
def test_the_grid_finds_the_posterior(values: list[float], errors: list[float]) -> None:
    """The interval is that of a much larger grid, within 2% of its width, for few worlds, whose posterior has tails of
    a Cauchy distribution, and where one world's numbers are much larger than the others'."""
    expected = interval(values, errors, UNIT, scales=150)
    found = pool(values, errors, UNIT).quantile(ENDS)
    np.testing.assert_allclose(found, expected, atol=0.02 * (expected[2] - expected[0]))


@pytest.mark.parametrize("sizes", [(8, 8), (1, 3, 4)])
def test_the_grid_finds_the_posterior_with_families(sizes: tuple[int, ...]) -> None:
    """Two families, and families of unequal sizes: within 3% of the interval's width on a much larger grid."""
    family = np.repeat(np.arange(len(sizes)), sizes)
    values = 0.3 * family + 0.1 * np.resize(NORMAL, len(family))
    errors = np.full(len(family), 0.05)
    expected = interval(values.tolist(), errors.tolist(), UNIT, family.tolist(), 40, 301)
    found = pool(values, errors, UNIT, family).quantile(ENDS)
    np.testing.assert_allclose(found, expected, atol=0.03 * (expected[2] - expected[0]))


@pytest.mark.parametrize(("spread", "apart"), [(0.03, 0.2), (0.3, 0.5)])
def test_the_grid_finds_the_posterior_of_a_typical_task(spread: float, apart: float) -> None:
    """Two tasks, known alike and unlike: by plain sums over draws of the tasks' effects, each a normal kernel."""
    tasks = (apart + 0.03 * NORMAL, spread * NORMAL)
    parts = [pool(values, np.zeros(15), UNIT) for values in tasks]
    place = apart / 2 + 0.005 * np.sinh(np.linspace(-1, 1, 301) * np.arcsinh(1e5))
    log_omega = np.linspace(np.log(3 * UNIT) - 9.9, np.log(3 * UNIT) + 9.9, 50)
    total = np.zeros((301, 50)) - 0.5 * ((log_omega - np.log(3 * UNIT)) / 3) ** 2
    for part in parts:
        draws = part.draws(200)
        for index, omega in enumerate(np.exp(log_omega)):
            scale = np.hypot(omega, draws.std() / 20)
            density = np.exp(-0.5 * ((place[:, None] - draws) / scale) ** 2).mean(axis=1) / scale
            total[:, index] += np.log(1e-300 + density)
    mass = (np.exp(total - total.max()) * np.gradient(place)[:, None]).sum(axis=1)
    expected = np.interp(ENDS, (np.cumsum(mass) - mass / 2) / mass.sum(), place)
    found = typical(parts, UNIT).quantile(ENDS)
    np.testing.assert_allclose(found, expected, atol=0.02 * (expected[2] - expected[0]))


def test_worlds_without_error_give_nearly_the_t_interval() -> None:
    """For normal values, tails of 8 degrees of freedom and a proper prior change the t interval by less than a tenth
    of its width."""
    values = stats.norm.ppf((np.arange(16) + 0.5) / 16)
    low, middle, high = pool(values, np.zeros(16), UNIT).quantile(ENDS)
    half = stats.t.ppf(0.95, 15) * values.std(ddof=1) / 4
    assert middle == pytest.approx(0.0, abs=1e-3)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_known_errors_and_no_scatter_give_the_weighted_mean() -> None:
    """Where worlds differ by less than their errors, the mean weighted by precision and hardly a wider interval."""
    errors = np.array([0.1, 0.2, 0.4, 0.1, 0.2, 0.4])
    values = 0.3 + errors * np.array([0.2, -0.1, 0.1, -0.2, 0.1, -0.1])
    low, middle, high = pool(values, errors, UNIT / 100).quantile(ENDS)
    precision = np.sum(errors**-2.0)
    assert middle == pytest.approx(np.sum(values / errors**2) / precision, abs=0.01)
    assert 1.0 < (high - low) / (2 * 1.645 * precision**-0.5) < 1.3


def test_units_and_origin_do_not_matter() -> None:
    values, errors = estimates(2)
    found = pool(values, errors, UNIT).quantile(ENDS)
    moved = pool(100 * values + 7, 100 * errors, 100 * UNIT).quantile(ENDS)
    np.testing.assert_allclose(moved, 100 * found + 7, rtol=1e-9)


def test_one_odd_world_moves_the_effect_little() -> None:
    """A world ten standard deviations away moves the mean by 0.6 of one, the effect by less than half of this."""
    values = stats.norm.ppf((np.arange(16) + 0.5) / 16)
    odd = np.where(np.arange(16) == 0, 10.0, values)
    moved = (
        pool(odd, np.zeros(16), UNIT).quantile(ENDS)[1]
        - pool(values, np.zeros(16), UNIT).quantile(ENDS)[1]
    )
    assert 0 < moved < (odd.mean() - values.mean()) / 2


def test_families_count_as_one_world_where_their_worlds_agree() -> None:
    """Four families of four equal worlds are four worlds: the interval is about that of their means, and wider than
    that of sixteen."""
    means = np.array([-0.3, 0.0, 0.1, 0.4])
    values, errors = np.repeat(means, 4), np.full(16, 0.01)
    family = np.repeat(np.arange(4), 4)
    shared = np.diff(pool(values, errors, UNIT, family).quantile(ENDS[::2]))[0]
    alone = np.diff(pool(values, errors, UNIT).quantile(ENDS[::2]))[0]
    half = stats.t.ppf(0.95, 3) * means.std(ddof=1) / 2
    assert shared / 2 == pytest.approx(half, rel=0.2)
    assert shared > 1.5 * alone


def test_a_further_world_scatters_as_the_others_do() -> None:
    """90% predictive intervals of 200 simulated tasks with 16 worlds cover a further world: 0.9 within 4 standard
    errors (0.021 each), which fails by chance once in 10^4."""
    rng, covered = np.random.default_rng(0), 0
    for index in range(200):
        values = 0.3 * rng.normal(size=17)
        low, high = np.quantile(
            pool(values[:16], np.zeros(16), UNIT).further(seed=index), [0.05, 0.95]
        )
        covered += low <= values[16] <= high
    assert 0.82 < covered / 200 < 0.98


def test_a_typical_task_is_less_certain_than_its_tasks() -> None:
    parts = [pool(*estimates(seed), UNIT) for seed in (3, 4, 5)]
    widths = [np.diff(part.quantile(ENDS[::2]))[0] for part in parts]
    low, middle, high = typical(parts, UNIT).quantile(ENDS)
    medians = [part.quantile(ENDS)[1] for part in parts]
    assert min(medians) < middle < max(medians)
    assert high - low > np.mean(widths) / 3**0.5


@pytest.mark.parametrize(
    ("values", "errors", "unit"),
    [
        ([1.0], [0.1], 1.0),
        ([1.0, 2.0], [0.1], 1.0),
        ([1.0, np.nan], [0.1, 0.1], 1.0),
        ([1.0, 2.0], [-0.1, 0.1], 1.0),
        ([1.0, 2.0], [0.1, 0.1], 0.0),
    ],
)
def test_what_cannot_be_pooled_is_refused(
    values: list[float], errors: list[float], unit: float
) -> None:
    with pytest.raises(ValueError, match="must be"):
        pool(values, errors, unit)
    with pytest.raises(ValueError, match="two or more tasks"):
        typical([pool([1.0, 2.0], [0.1, 0.1], 1.0)], 1.0)


def test_worlds_that_agree_exactly_have_an_interval_of_some_width() -> None:
    """Fifteen worlds without any effect and one with some: not narrower than the smallest scale allows."""
    low, middle, high = pool([0.0] * 15 + [0.2], np.zeros(16), UNIT).quantile(ENDS)
    assert middle == pytest.approx(0.0, abs=0.01 * UNIT)
    assert (high - low) / 2 > 1.6 * pooled.FLOOR * UNIT / 4
