"""Data dials: the data policy by hand, the solver against closed forms, draws against their probabilities."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from testbed.data.spec import (
    DataSpec,
    Dials,
    Pool,
    covers,
    data_policy,
    draw,
    quality,
    refuse_unreached,
    solve,
)
from testbed.errors import InvalidInput
from testbed.types import Response

ROWS, TEXTS, WRITTEN = 40, 12, 8


@functools.cache
def pools() -> tuple[Pool, Pool]:
    """A sampled and an enumerated pool of made-up texts: text j of row i is the token 100 i + j."""
    rng = np.random.default_rng(0)
    tokens = 100 * np.arange(ROWS)[:, None, None] + np.arange(TEXTS)[None, :, None]
    texts = Response(jnp.asarray(tokens, jnp.int32), jnp.ones((ROWS, TEXTS), jnp.int32))
    reward, likelihood = rng.normal(size=(2, ROWS, TEXTS)).astype(np.float32)
    writers, sft = np.log(rng.dirichlet(np.ones(TEXTS), (2, ROWS))).astype(np.float32)
    sampled = Pool.sampled(texts, jnp.asarray(reward), jnp.asarray(4 * likelihood), WRITTEN)
    return sampled, Pool.enumerated(
        texts, jnp.asarray(reward), jnp.asarray(writers), jnp.asarray(sft)
    )


def spec(**changes) -> DataSpec:
    return DataSpec(pairs=ROWS, held_out=1, **changes)


def softmax(x: np.ndarray) -> np.ndarray:
    weight = np.exp(x - x.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def doubled(*arrays) -> list[np.ndarray]:
    return [np.asarray(a, np.float64) for a in arrays]


@jax.jit
def measure(spec: DataSpec, pool: Pool, dials: Dials):
    policy = data_policy(spec, pool, dials)
    return policy, quality(pool, policy), covers(pool, policy.density)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("proximity", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("support", [None, 0.6])
def test_the_data_policy_by_hand(exact: bool, proximity: float | None, support: float | None):
    """Tempered, truncated, tilted and mixed, text by text in float64; and what is measured of it."""
    pool, kappa, tilt = pools()[exact], 0.5, 0.7
    given = spec(proximity=proximity, support=support)
    policy, mean, covered = measure(given, pool, Dials(jnp.asarray(kappa), jnp.asarray(tilt)))
    reward, likelihood = doubled(pool.reward, pool.likelihood)
    if exact:
        writers, sft = np.exp(doubled(pool.writers)[0]), np.exp(doubled(pool.sft)[0])
        densities = writers, sft
    else:
        index = np.arange(TEXTS)
        writers = np.tile((index < WRITTEN) / WRITTEN, (ROWS, 1))
        sft = np.tile((index >= WRITTEN) / (TEXTS - WRITTEN), (ROWS, 1))
        densities = (np.full((ROWS, TEXTS), 1 / TEXTS),) * 2
    factor = np.exp(kappa * likelihood + tilt * reward)
    if support is not None:
        tempered = writers * np.exp(kappa * likelihood)
        tempered /= tempered.sum(axis=1, keepdims=True)
        for row in range(ROWS):
            mass = 0.0
            for text in np.argsort(-likelihood[row]):
                factor[row, text] *= mass < support - 1e-6
                mass += tempered[row, text]
    share = proximity or 0.0

    def mixed(written: np.ndarray, others: np.ndarray) -> np.ndarray:
        written = written * factor
        return (1 - share) * written / written.sum(axis=1, keepdims=True) + share * others

    drawing, density = mixed(writers, sft), mixed(*densities)
    np.testing.assert_allclose(np.exp(policy.drawing), drawing, atol=2e-6)
    np.testing.assert_allclose(np.exp(policy.density), density, atol=2e-6)
    assert float(mean) == pytest.approx((drawing * reward).sum(axis=1).mean(), abs=1e-5)
    target = softmax(np.log(densities[1]) + reward)
    with np.errstate(divide="ignore"):
        each = (target**2 / density).sum(axis=1)
    assert float(covered.chi_square) == pytest.approx(each.mean() - 1, rel=1e-3)
    assert float(covered.coverage) == pytest.approx(1 / each.mean(), rel=1e-3)
    with np.errstate(divide="ignore"):
        largest = (target / density).max(axis=1).mean()
    assert float(covered.max_ratio) == pytest.approx(largest, rel=1e-3)
    inside = (target * (density > 0)).sum(axis=1).mean()
    assert float(covered.support) == pytest.approx(inside, rel=1e-4)


def test_the_target_itself_covers_perfectly():
    """Untilted SFT samples tilted by one nat a standard deviation are the target."""
    pool = pools()[1]
    covered = jax.jit(covers)(pool, pool.target)
    assert float(covered.coverage) == pytest.approx(1.0, abs=1e-5)
    assert float(covered.chi_square) == pytest.approx(0.0, abs=1e-5)
    assert float(covered.max_ratio) == pytest.approx(1.0, abs=1e-5)


@jax.jit
def solved(spec: DataSpec, pool: Pool):
    dials = solve(spec, pool)
    policy = data_policy(spec, pool, dials)
    return dials, quality(pool, policy), covers(pool, policy.density).coverage


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("proximity", "coverages"), [(None, (0.1, 0.3)), (0.25, (0.35, 0.45))])
def test_each_dial_moves_while_the_others_are_held(exact: bool, proximity, coverages):
    """Every combination of quality and coverage within reach is hit far within the tolerances."""
    hit = 0
    for wanted, covered in itertools.product((-0.4, 0.2, 0.9), coverages):
        given = spec(quality=wanted, coverage=covered, proximity=proximity)
        dials, mean, coverage = solved(given, pools()[exact])
        assert float(mean) == pytest.approx(wanted, abs=1e-3)
        hit += float(coverage) == pytest.approx(covered, rel=1e-2)
        assert -0.9 <= float(dials.kappa) <= 9.0
    # Low quality and wide coverage of a good target exclude each other.
    assert hit >= 4


def test_quality_by_closed_form():
    """One row of two equally likely texts with rewards 0 and 1: quality q needs a tilt of logit(q)."""
    tokens = jnp.zeros((1, 2, 1), jnp.int32)
    texts = Response(tokens, jnp.ones((1, 2), jnp.int32))
    pool = Pool.sampled(texts, jnp.array([[0.0, 1.0]]), jnp.zeros((1, 2)), 2)
    for wanted in (0.1, 0.5, 0.8):
        dials, mean, _ = solved(spec(quality=wanted), pool)
        assert float(mean) == pytest.approx(wanted, abs=1e-5)
        assert float(dials.tilt) == pytest.approx(np.log(wanted / (1 - wanted)), abs=1e-4)


def test_the_nearest_value_is_named_when_a_request_is_out_of_reach():
    """The best a pool offers is the mean over prompts of its best text."""
    pool = pools()[1]
    given = spec(quality=5.0)
    _, mean, coverage = solved(given, pool)
    best = np.asarray(pool.reward).max(axis=1).mean()
    assert float(mean) == pytest.approx(best, abs=1e-2)
    expected = (
        rf"^data.quality=5 cannot be reached in this world: the nearest is {float(mean):.3g} with"
    )
    with pytest.raises(InvalidInput, match=expected):
        refuse_unreached(given, float(mean), float(coverage), "in this world")
    with pytest.raises(InvalidInput, match=r"^data\.coverage=0\.5 .* the nearest is 0\.42 "):
        refuse_unreached(spec(coverage=0.5), 0.0, 0.42, "here")
    refuse_unreached(spec(coverage=0.5, quality=1.0), 1.04, 0.48, "here")
    with pytest.raises(InvalidInput, match=r"^data\.quality"):
        refuse_unreached(spec(quality=1.0), float("nan"), 1.0, "here")


def test_a_lower_temperature_narrows_and_a_higher_one_widens():
    pool = pools()[1]

    def spread(temperature: float) -> float:
        dials, _, _ = solved(spec(temperature=temperature), pool)
        assert float(dials.kappa) == pytest.approx(1 / temperature - 1, abs=1e-6)
        log_p = np.asarray(data_policy(spec(), pool, dials).density, np.float64)
        return -(np.exp(log_p) * log_p).sum(axis=1).mean()

    assert spread(0.3) < spread(1.0) - 0.3 < spread(3.0) - 0.5


draws = jax.jit(draw)


def test_pairs_are_drawn_from_the_data_policy():
    """8,000 pairs of one row: frequencies within 4.5 binomial standard errors, both responses alike and independent;
    156 comparisons, so a correct draw fails with probability about 1e-3 at most, at the fixed key."""
    pool, n = pools()[1], 8000
    given = DataSpec(pairs=n, held_out=1)
    policy = data_policy(given, pool, Dials(jnp.asarray(0.2), jnp.asarray(0.5)))
    rows = jnp.full(n, 7)
    drawn = draws(given, pool, policy, rows, jax.random.key(0))
    first, second = (np.asarray(r.tokens)[:, 0] - 700 for r in (drawn.first, drawn.second))
    p = np.exp(np.asarray(policy.drawing, np.float64)[7])
    joint = np.zeros((TEXTS, TEXTS))
    np.add.at(joint, (first, second), 1)
    for found, expected in ((joint, np.outer(p, p)), (joint.sum(0), p), (joint.sum(1), p)):
        error = np.sqrt(expected * (1 - expected) / n) + 1 / n
        assert np.all(np.abs(found / n - expected) < 4.5 * error)


def test_few_responses_a_prompt():
    """At most K different texts a row, two different draws of them a pair; coverage is that of what was kept."""
    pool, kept = pools()[1], 3
    given = DataSpec(pairs=50 * ROWS, held_out=1, prompts=ROWS, responses=kept)
    policy = data_policy(given, pool, Dials(jnp.zeros(()), jnp.zeros(())))
    rows = jnp.arange(50 * ROWS) % ROWS
    drawn = draws(given, pool, policy, rows, jax.random.key(1))
    first, second = (np.asarray(r.tokens)[:, 0] for r in (drawn.first, drawn.second))
    assert np.array_equal(first // 100, rows)
    assert np.array_equal(second // 100, rows)
    for row in range(ROWS):
        mine = np.asarray(rows) == row
        seen, counts = np.unique(np.stack([first, second])[:, mine] % 100, return_counts=True)
        density = np.exp(np.asarray(drawn.density, np.float64)[row])
        assert len(seen) <= kept
        assert np.array_equal(np.flatnonzero(density), seen)
        np.testing.assert_allclose(density.sum(), 1.0, atol=1e-6)
        np.testing.assert_allclose(counts / counts.sum(), density[seen], atol=0.2)
        if len(seen) == kept:
            assert np.all(first[mine] != second[mine])
    covered = jax.jit(covers)(pool, drawn.density)
    assert float(covered.coverage) == 0.0
    assert np.isinf(covered.chi_square)
    assert 0.0 < float(covered.support) < 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 0}, "pairs must be at least 1, got 0"),
        ({"prompts": 41}, r"prompts must be between 0 \(one a pair\) and pairs=40, got 41"),
        ({"responses": 1}, "responses must be 0 .* a pair needs two, got 1"),
        ({"candidates": 1}, "candidates must be at least 2, got 1"),
        ({"support": 0.0}, r"support must be none or in \(0, 1\], got 0.0"),
        ({"support": 0.0625}, "support must be more than 1/candidates=1/16, as a pair needs two"),
        ({"coverage": 1.5}, r"coverage must be none or in \(0, 1\], got 1.5"),
        ({"proximity": -0.1}, r"proximity must be none or between 0 and 1, got -0.1"),
        ({"temperature": 0.0}, "temperature must be none or > 0 and finite, got 0.0"),
        ({"quality": float("nan")}, "quality must be none or finite, got nan"),
        ({"coverage": 0.5, "support": 0.5}, "coverage is hit by .* leave support out"),
    ],
    ids=str,
)
def test_impossible_data_are_refused(changes: dict, message: str):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        DataSpec(**{"pairs": ROWS, "held_out": 1, **changes})


def test_dials_are_off_by_default():
    assert not DataSpec().dialled
    assert not DataSpec(prompts=4096).dialled
    for changes in ({"quality": 0.0}, {"proximity": 0.0}, {"prompts": 7}, {"responses": 2}):
        assert DataSpec(**changes).dialled
