"""The statistical model of a study's frontiers: win rate over d = sqrt(KL(policy || SFT)), by arm.

Curve. Gao et al. 2023 (arXiv 2210.10760, section 3.1) describe the golden reward of an optimised
policy by R(d) = d (alpha - beta d) under best-of-n and by d (alpha - beta log d) under RL. Here R is
the change of the log-odds of winning against the baseline, and it has the first form. Both forms, which
have as many coefficients, were fitted by least squares, seed by seed, to the checkpoints of all 44 arms of
the paper's studies at laptop size. With the second form, a fifth of an arm's checkpoints lies on average more
than five points of win rate from the curve in 5 arms (8 points at most); with the first form, in none. Let
x = d / `unit`, where `unit` is the mean d of a task's trained checkpoints, so that coefficients have the
size of a typical change of log-odds. Then a = unit (alpha - unit beta) is the change at the typical
distance and b = unit^2 beta the curvature:

    logit w = c + x (a - b (x - 1)),    maximum where x = (1 + a / b) / 2 (if b > 0).

Levels. Checkpoint, run, seed, group and population are nested; each, except a run, is a draw around the level above:

    population   m = (c, a_1..a_A, b_1..b_A)                       A arms
    group        a task, or a task at one level of a path that changes its world (a "stratum"): c
                 varies; a and b vary by a part that all arms share and a part specific to each arm.
                 With one group this level is absent, and the population is that of the group.
    seed         varies around the group in the same way. All arms of a seed share c: at d = 0 every policy
                 is SFT. Seeds of different groups are different replicates.
    run          one hyper-parameter setting in one seed; runs that differ only in their number of
                 steps count as one run
    checkpoint   a residual (per arm), which grows from 0 at d = 0 to its full size (`growth`), plus
                 the binomial noise of the measured win rate

The quantity of interest is the win rate that a KL budget buys, over all settings that were run: the
curve through all checkpoints, not the curve of a typical run. Settings that reach a large KL win less at
equal KL than settings that stay near SFT, so the win rate rises faster along each run than the curve
through all checkpoints does. An effect per run would absorb this difference, and the fitted curve would
lie well above the checkpoints at large KL. Runs therefore have no effects. Instead the checkpoints of a
run, which are correlated, count as one observation: each of n enters the likelihood with weight
1 / n (a composite likelihood; Varin, Reid and Firth 2011). This is exact if all residuals of a run are
equal; otherwise it gives wider intervals, never narrower ones.

The evaluation prompts of a seed are fixed, so its checkpoints share part of the binomial noise. The
seed's effects absorb this part; counting it as independent as well makes intervals wider, not narrower.
The measurement error of KL, a few nats, is left to the residual.

Inference. Measured log-odds enter as empirical logits log((k + 1/2) / (n - k + 1/2)) with their
delta-method variance (Gart and Zweifel 1967). Given the scales, the model is linear and Gaussian,
so all effects are integrated out in closed form, level by level (`absorb`); only the scales are
sampled, and the curves are drawn exactly given each draw of them (`analysis.curves.posterior`).

Priors. m: normal(0, 2.5) for each coefficient, i.e. SFT win rates from 1% to 99% and changes by five
logits at the typical distance are unremarkable. Scales: log-normal with the medians in `PRIORS` and
a log standard deviation of 1, i.e. 95% within a factor of 7: the order of magnitude is unknown. Two or
three seeds carry little information about a scale, so its prior affects every interval. Over the
plausible range this prior is close to the 1/scale of Jeffreys' prior, under which the mean of n seeds
has the classical t interval with n - 1 degrees of freedom. A flat or half-normal prior gives n - 2 degrees
of freedom (Cauchy tails at three seeds); its "90%" intervals covered 60 of 60 true gaps
(`analysis.verdicts.calibration`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

POPULATION_SD = 2.5
SCALE_LOG_SD = 1.0
PRIORS: dict[str, tuple[float, str]] = {
    "group_start": (0.4, "SFT's log-odds, between tasks"),
    "group_shared": (0.4, "curve coefficients, between tasks, all arms alike"),
    "group_arm": (0.2, "curve coefficients, between tasks, one arm"),
    "seed_start": (0.3, "SFT's log-odds, between seeds"),
    "seed_shared": (0.2, "curve coefficients, between seeds, all arms alike"),
    "seed_arm": (0.15, "curve coefficients, between seeds, one arm"),
    "checkpoint": (0.25, "residual of a checkpoint far from SFT"),
}
"""Median of each scale's log-normal prior, in logits, and the meaning of the scale."""
NOISE_LOG_SD = 0.5
"""Prior standard deviation of the log of `Scales.noise`, whose prior median is 1: a group as noisy as the others."""


class Points(NamedTuple):
    """A study's measurements, padded to a rectangle of runs x checkpoints.

    `x` is d in units of `unit`; `logit` and `variance` are empirical logits and their sampling variance; `mask` is 1
    where there is a measurement. `arm` and `seed` are one-hot; `group` is one-hot too and gives the group of each seed.
    The win rate of SFT itself is one measurement per seed, because all runs of a seed start from the same policy. Runs,
    seeds and groups without measurements have no influence.
    """

    x: Float[Array, "run checkpoint"]
    logit: Float[Array, "run checkpoint"]
    variance: Float[Array, "run checkpoint"]
    mask: Float[Array, "run checkpoint"]
    arm: Float[Array, "run arm"]
    seed: Float[Array, "run seed"]
    group: Float[Array, "seed group"]
    sft_logit: Float[Array, " seed"]
    sft_variance: Float[Array, " seed"]
    sft_mask: Float[Array, " seed"]


class Information(NamedTuple):
    """A Gaussian likelihood of linear effects, up to the constant n log 2 pi.

    -2 log p(y | effects) = effects' G effects - 2 h' effects + q + logdet.
    """

    G: Float[Array, "*batch effect effect"]
    h: Float[Array, "*batch effect"]
    q: Float[Array, "*batch"]
    logdet: Float[Array, "*batch"]


class Scales(NamedTuple):
    """Standard deviations of the levels, in logits; index 0 of "coefficient" is a, 1 is b.

    `noise` multiplies `checkpoint` in each group.
    """

    group_start: Float[Array, ""]
    group_shared: Float[Array, " coefficient"]
    group_arm: Float[Array, " coefficient"]
    seed_start: Float[Array, ""]
    seed_shared: Float[Array, " coefficient"]
    seed_arm: Float[Array, " coefficient"]
    checkpoint: Float[Array, " arm"]
    noise: Float[Array, " group"]


def basis(x: Float[Array, "*shape"]) -> Float[Array, "*shape 3"]:
    """Columns (1, x, -x (x - 1)) that multiply (c, a, b)."""
    return jnp.stack([jnp.ones_like(x), x, x * (1 - x)], axis=-1)


def growth(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Factor of a checkpoint's residual: 0 at SFT, 63% at a third of the typical distance."""
    return -jnp.expm1(-3.0 * x)


def absorb(information: Information, factor: Float[Array, "*batch effect latent"]) -> Information:
    """Integrate out deviations factor @ u, u ~ normal(0, I), that are added to the effects.

    One column at a time (Sherman and Morrison 1950): for a column l with s = G l and k = 1 + l's, G, h, q and log k
    change by rank one. Elementwise operations run and compile faster than Cholesky factors of many small matrices, and
    their threads do not wait for each other.
    """

    def step(rest: Information, column: Float[Array, "*batch effect"]) -> tuple[Information, None]:
        s = jnp.sum(rest.G * column[..., None, :], axis=-1)
        k = 1 + jnp.sum(s * column, axis=-1)
        t = jnp.sum(rest.h * column, axis=-1)
        updated = Information(
            rest.G - s[..., :, None] * s[..., None, :] / k[..., None, None],
            rest.h - s * (t / k)[..., None],
            rest.q - t**2 / k,
            rest.logdet + jnp.log(k),
        )
        return updated, None

    return jax.lax.scan(
        step, information, jnp.moveaxis(factor, -1, 0), unroll=min(3, factor.shape[-1])
    )[0]


def run_information(points: Points, scales: Scales) -> Information:
    """Information from each run about its seed's (c, a, b) in its arm; the checkpoints of a run count as one
    observation."""
    columns = jnp.concatenate([basis(points.x), points.logit[..., None]], axis=-1)
    rows, cols = np.triu_indices(4)
    # Constant across draws, so the compiler lifts it out of the sampling loop.
    products = columns[..., rows] * columns[..., cols]
    noise = points.seed @ (points.group @ scales.noise)
    residual = ((points.arm @ scales.checkpoint) * noise)[:, None] * growth(points.x)
    variance = points.variance + residual**2
    share = points.mask / jnp.maximum(jnp.sum(points.mask, axis=1), 1.0)[:, None]
    sums = jnp.einsum("re,ref->rf", share / variance, products)
    symmetric = np.zeros((4, 4), dtype=int)
    symmetric[rows, cols] = symmetric[cols, rows] = np.arange(len(rows))
    table = sums[:, symmetric]
    logdet = jnp.sum(share * jnp.log(variance), axis=1)
    return Information(table[:, :3, :3], table[:, :3, 3], table[:, 3, 3], logdet)


def arm_information(points: Points, scales: Scales) -> Information:
    """Information from the runs of each seed and arm about that seed's (c, a, b) in that arm."""
    runs = run_information(points, scales)
    cell = (points.seed[:, :, None] * points.arm[:, None, :]).reshape(points.arm.shape[0], -1)
    shape = (points.seed.shape[1], points.arm.shape[1])

    def total(leaf: Float[Array, "run *rest"]) -> Float[Array, "seed arm *rest"]:
        """Sum over the runs of each seed and arm."""
        flat = cell.T @ leaf.reshape(leaf.shape[0], -1)
        return flat.reshape(shape + leaf.shape[1:])

    return jax.tree.map(total, runs)


def seed_information(points: Points, scales: Scales) -> Information:
    """Information from each seed about its group's (c, a_1..a_A, b_1..b_A), seed effects integrated out.

    An arm-specific deviation affects only the measurements of its arm, so it is integrated out there, from three
    effects instead of all.
    """
    cells = arm_information(points, scales)
    arms = points.arm.shape[1]
    own = jnp.zeros((3, 2)).at[[1, 2], [0, 1]].set(scales.seed_arm)
    cells = absorb(cells, jnp.broadcast_to(own, (*cells.q.shape, 3, 2)))
    together = _with_sft(points, _assembled(cells))
    factor = shared_factor(scales.seed_start, scales.seed_shared, arms)
    return absorb(together, jnp.broadcast_to(factor, (points.seed.shape[1], *factor.shape)))


def _assembled(cells: Information) -> Information:
    """Combine the information of the arms of each seed into information about all effects."""
    arms = cells.q.shape[1]
    place = np.zeros((arms, 3, 1 + 2 * arms))
    for arm in range(arms):
        place[arm, [0, 1, 2], [0, 1 + arm, 1 + arms + arm]] = 1.0
    return Information(
        jnp.einsum("saij,aip,ajq->spq", cells.G, place, place),
        jnp.einsum("sai,aip->sp", cells.h, place),
        jnp.sum(cells.q, axis=1),
        jnp.sum(cells.logdet, axis=1),
    )


def _with_sft(points: Points, seeds: Information) -> Information:
    """Add the measurement of SFT to each seed's information."""
    precision = points.sft_mask / points.sft_variance
    return Information(
        seeds.G.at[:, 0, 0].add(precision),
        seeds.h.at[:, 0].add(precision * points.sft_logit),
        seeds.q + precision * points.sft_logit**2,
        seeds.logdet + points.sft_mask * jnp.log(points.sft_variance),
    )


def shared_factor(
    start: Float[Array, ""], shared: Float[Array, " coefficient"], arms: int
) -> Float[Array, "effect latent"]:
    """Factor of the covariance of the deviations that all arms share: of c, of a and of b."""
    place = np.zeros((1 + 2 * arms, 3))
    place[0, 0] = place[1 : 1 + arms, 1] = place[1 + arms :, 2] = 1.0
    return jnp.asarray(place) * jnp.concatenate([start[None], shared])[None, :]


def level_factor(
    start: Float[Array, ""],
    shared: Float[Array, " coefficient"],
    arm: Float[Array, " coefficient"],
    arms: int,
) -> Float[Array, "effect latent"]:
    """Factor L of the covariance L L' of a group's (or a seed's) effects around those of the level above."""
    own = jnp.repeat(arm, arms, total_repeat_length=2 * arms)
    each = np.eye(1 + 2 * arms)[:, 1:] * own[None, :]
    return jnp.concatenate([shared_factor(start, shared, arms), each], axis=1)


def group_information(points: Points, scales: Scales) -> Information:
    """Information from all seeds of a group about its effects."""
    seeds = seed_information(points, scales)
    return jax.tree.map(lambda leaf: jnp.einsum("s...,sg->g...", leaf, points.group), seeds)


def population_information(points: Points, scales: Scales) -> Information:
    """Information from all groups about the population's effects."""
    groups = group_information(points, scales)
    if points.group.shape[1] > 1:
        each = scales.group_start, scales.group_shared, scales.group_arm
        factor = level_factor(*each, points.arm.shape[1])
        groups = absorb(groups, jnp.broadcast_to(factor, (points.group.shape[1], *factor.shape)))
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), groups)


def log_marginal(points: Points, scales: Scales) -> Float[Array, ""]:
    """log p(logits | scales), all effects integrated out; a run counts as one observation."""
    rest = population_information(points, scales)
    rest = absorb(rest, POPULATION_SD * jnp.eye(rest.h.shape[-1]))
    count = jnp.sum(jnp.any(points.mask > 0, axis=1)) + jnp.sum(points.sft_mask)
    return -0.5 * (rest.q + rest.logdet + count * jnp.log(2 * jnp.pi))


class Told(NamedTuple):
    """The quantities that draws of the effects need, for each draw of the scales.

    Precisions and precision-weighted means of the groups' effects (their seeds integrated out) and of the seeds'
    effects, and factors of the covariances of groups and of seeds.
    """

    group_G: Float[Array, "*draw group effect effect"]
    group_h: Float[Array, "*draw group effect"]
    group_factor: Float[Array, "*draw effect latent"]
    seed_G: Float[Array, "*draw seed effect effect"]
    seed_h: Float[Array, "*draw seed effect"]
    seed_factor: Float[Array, "*draw effect latent"]


def told(points: Points, scales: Scales) -> Told:
    """`Told` for one draw of the scales."""
    arms = points.arm.shape[1]
    groups = group_information(points, scales)
    seeds = _with_sft(points, _assembled(arm_information(points, scales)))
    return Told(
        groups.G,
        groups.h,
        level_factor(scales.group_start, scales.group_shared, scales.group_arm, arms),
        seeds.G,
        seeds.h,
        level_factor(scales.seed_start, scales.seed_shared, scales.seed_arm, arms),
    )


def parts(points: Points) -> dict[str, int]:
    """The scales to be sampled, and how many numbers each has."""
    arms, groups = points.arm.shape[1], points.group.shape[1]
    counts = {name: 1 if name.endswith("_start") else 2 for name in PRIORS}
    counts["checkpoint"] = arms
    if groups > 1:
        return counts | {"noise": groups}
    return {name: count for name, count in counts.items() if not name.startswith("group_")}


def scales_at(points: Points, z: Float[Array, "*draws dimension"]) -> Scales:
    """The scales whose logs are `z` standard deviations of their priors from their medians."""
    found = {}
    start = 0
    for name, count in parts(points).items():
        own = z[..., start : start + count]
        start += count
        median, sd = (1.0, NOISE_LOG_SD) if name == "noise" else (PRIORS[name][0], SCALE_LOG_SD)
        scale = median * jnp.exp(sd * own)
        found[name] = scale[..., 0] if name.endswith("_start") else scale
    if points.group.shape[1] == 1:
        nothing = jnp.zeros((*z.shape[:-1], 2))
        found |= {"group_start": nothing[..., 0], "group_shared": nothing, "group_arm": nothing}
        found["noise"] = jnp.ones((*z.shape[:-1], 1))
    return Scales(**found)


def log_posterior(points: Points, z: Float[Array, " dimension"]) -> Float[Array, ""]:
    """log p(z | logits) up to a constant, for z as in `scales_at`."""
    return log_marginal(points, scales_at(points, z)) - 0.5 * jnp.sum(z**2)
