"""Posterior of a study's frontiers: draws of the scales, and draws of all effects given the scales.

The model is that of `analysis.curves.hierarchy`. `analysis.curves.sampler` samples the scales. Given the scales, the
effects are normal, and they are drawn from this normal distribution.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

from analysis.curves import sampler
from analysis.curves.hierarchy import (
    POPULATION_SD,
    Points,
    Scales,
    Told,
    log_posterior,
    parts,
    scales_at,
    told,
)


class Effects(NamedTuple):
    """Effects (c, a_1..a_A, b_1..b_A) of the population, its groups and their seeds."""

    population: Float[np.ndarray, "*draws effect"]
    groups: Float[np.ndarray, "*draws group effect"]
    seeds: Float[np.ndarray, "*draws seed effect"]


class Posterior(NamedTuple):
    """Draws of the effects and of the scales; for the effects of seeds only the posterior mean."""

    effects: Effects
    scales: Scales


class Diagnostics(NamedTuple):
    """Convergence of a fit: the worst R-hat and effective sample size over scales and curves."""

    rhat: float
    ess: float
    divergences: int
    draws: int

    def trouble(self) -> str:
        """The reason why the fit must not be used, in one clause, or ""."""
        if not (self.rhat <= 1.02):
            return f"the fit did not converge (R-hat {self.rhat:.3f}, allowed is 1.02)"
        if not (self.ess >= 400):
            return f"the fit has an effective sample size of {self.ess:.0f}, needed are 400"
        if self.divergences > self.draws // 100:
            return f"{self.divergences} of {self.draws} draws diverged, allowed is 1%"
        return ""


def draw_effects(
    given: Told,
    member: Float[np.ndarray, "seed group"],
    noise: Float[np.ndarray, "draw effect"],
    group_noise: Float[np.ndarray, "draw group latent"],
) -> Effects:
    """One exact draw of the effects for each draw of the scales, and the means of the seeds' effects given that draw.

    `member` gives the group of each seed; `noise` and `group_noise` are standard normal.
    """
    # On the host: compiled programs with batches of small triangular solves have been seen to hang
    # on the CPU, with all threads waiting.
    leaves = (np.asarray(leaf, dtype=float) for leaf in given)
    group_G, group_h, group_factor, seed_G, seed_h, seed_factor = leaves
    factor = group_factor[:, None]
    across = np.swapaxes(factor, -1, -2) @ group_G
    inner = np.linalg.solve(np.eye(factor.shape[-1]) + across @ factor, across)
    # Information from all groups about the population, by Woodbury's identity.
    precision = (group_G - np.swapaxes(across, -1, -2) @ inner).sum(axis=1)
    h = (group_h - np.einsum("dglp,dgl->dgp", inner, _times(factor, group_h))).sum(axis=1)
    precision = precision + np.eye(precision.shape[-1]) / POPULATION_SD**2
    population = _normal(precision, h, noise)
    above = np.broadcast_to(population[:, None], group_h.shape)
    groups = above + _deviations(group_G, group_h, above, factor, group_noise)
    above = np.einsum("sg,dgp->dsp", member, groups)
    factor = seed_factor[:, None]
    zero = np.zeros((*above.shape[:2], factor.shape[-1]))
    seeds = above + _deviations(seed_G, seed_h, above, factor, zero)
    return Effects(population, groups, seeds)


def _times(factor: np.ndarray, h: np.ndarray) -> np.ndarray:
    """factor' h, for factor (..., effect, latent) and h (..., effect)."""
    return np.einsum("...pl,...p->...l", np.broadcast_to(factor, (*h.shape, factor.shape[-1])), h)


def _normal(precision: np.ndarray, h: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """precision^-1 h plus `noise` given the covariance precision^-1."""
    root = np.swapaxes(np.linalg.cholesky(precision), -1, -2)
    mean = np.linalg.solve(precision, h[..., None])
    return (mean + np.linalg.solve(root, noise[..., None]))[..., 0]


def _deviations(
    G: np.ndarray, h: np.ndarray, above: np.ndarray, factor: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """A draw of factor @ u, the deviation of each unit from the effects of the level above, given these effects."""
    k = np.eye(factor.shape[-1]) + np.swapaxes(factor, -1, -2) @ G @ factor
    residual = h - np.einsum("...pq,...q->...p", G, above)
    return (factor @ _normal(k, _times(factor, residual), noise)[..., None])[..., 0]


_density = jax.jit(jax.vmap(jax.value_and_grad(log_posterior, argnums=1), (None, 0)))


_told = jax.jit(jax.vmap(told, (None, 0)))


def _cpu() -> Any:
    """The CPU, or None in a process that was started for another platform only."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return None


def sample(
    points: Points, seed: int = 0, chains: int = 8, warmup: int = 200, draws: int = 500
) -> tuple[Posterior, Diagnostics]:
    """Posterior of a study's frontiers; the same seed gives the same draws.

    Runs on the CPU (the arrays are small), in float64 (precisions of many checkpoints are added and subtracted) and
    with broadcasting between ranks allowed.
    """
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"), jax.default_device(_cpu()):
        points = Points(*(jnp.asarray(leaf, dtype=jnp.float64) for leaf in points))

        def density(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            value, gradient = _density(points, z)
            return np.asarray(value), np.asarray(gradient)

        dimension = sum(parts(points).values())
        found = sampler.sample(density, dimension, seed, chains, warmup, draws)
        z = found.positions.reshape(-1, dimension)
        effects = _effects(points, z, np.random.default_rng([seed, 1]))
        scales = jax.device_get(scales_at(points, jnp.asarray(z)))
    curves = [np.reshape(own, (chains, draws, -1)) for own in effects[:2]]
    monitored = np.concatenate([found.positions, *curves], axis=-1)
    # A variable that never moves gives 0/0, i.e. NaN: the fit has failed, and the checks reject NaN.
    with np.errstate(all="ignore"):
        rhat = np.max(split_gelman_rubin(monitored))
        ess = np.min(effective_sample_size(monitored))
    return Posterior(effects, scales), Diagnostics(
        float(rhat), float(ess), int(found.diverging.sum()), chains * draws
    )


def _effects(
    points: Points,
    z: Float[np.ndarray, "draw dimension"],
    rng: np.random.Generator,
    batch: int = 250,
) -> Effects:
    """Draws of the effects of the population and of the groups for draws of the scales, and the means of the seeds'
    effects.

    Works in batches of equal size, because each draw holds tables of all runs and seeds.
    """
    arms, member = points.arm.shape[1], np.asarray(points.group)
    found = []
    for start in range(0, len(z), batch):
        own = z[start : start + batch]
        filled = np.concatenate([own, np.tile(own[:1], (batch - len(own), 1))])
        held = _told(points, scales_at(points, jnp.asarray(filled)))
        leaves: list[Any] = [np.asarray(leaf)[: len(own)] for leaf in held]
        noise = rng.normal(size=(len(own), 1 + 2 * arms))
        group_noise = rng.normal(size=(len(own), member.shape[1], 3 + 2 * arms))
        found.append(draw_effects(Told(*leaves), member, noise, group_noise))
    population, groups, seeds = (np.concatenate(leaves) for leaves in zip(*found, strict=True))
    return Effects(population, groups, seeds.mean(axis=0))
