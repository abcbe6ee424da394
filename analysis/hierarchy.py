"""The statistical model of one task's frontier: win rate over d = sqrt(KL(policy || SFT)), by arm.

Curve. Gao et al. 2023 (arXiv 2210.10760, section 3.1) describe the golden reward of RL-trained
policies by R(d) = d (alpha - beta log d). Here R is the change of the log-odds of winning against
the baseline. With x = d / `unit` (the mean d of the trained checkpoints, so that coefficients have
the size of a typical change of log-odds), a = unit (alpha - beta log unit) and b = unit beta:

    logit w = c + x (a - b log x),    maximum where log x = a / b - 1 (if b > 0).

Levels. Checkpoint, run, seed and population are nested, each a draw around the level above:

    population   m = (c, a_1..a_A, b_1..b_A)                       A arms
    seed         c varies; a and b vary by a part shared by the arms and a part of each arm's own.
                 All arms of a seed share c: at d = 0 every policy is SFT.
    run          one hyper-parameter setting in one seed: a shift of its own, so the checkpoints of a
                 run are correlated, that grows from 0 at d = 0 to its full size (`shift`) and no
                 further; runs that differ only in their number of steps are one
    checkpoint   a residual (per arm) plus the binomial noise of the measured win rate

A run gets a shift rather than coefficients of its own because settings reach different distances:
with free slopes, the curve of a typical run is an extrapolation where only a few settings go, and
passes far from every checkpoint there. A bounded shift ties the curve to the checkpoints at each d.

The evaluation prompts of a seed are fixed, so part of the binomial noise is common to its
checkpoints: that part falls into the seed's effects, and counting it as independent errs on the
side of wider intervals. The few nats' uncertainty of KL itself is left to the residual.

Inference. Measured log-odds enter as empirical logits log((k + 1/2) / (n - k + 1/2)) with their
delta-method variance (Gart and Zweifel 1967). Given the scales, everything is linear and Gaussian,
so all effects are integrated out in closed form, level by level (`absorb`); NUTS samples only the
scales, and the population's curve is drawn exactly given each of them.

Priors. m: normal(0, 2.5) a coefficient, i.e. SFT win rates from 1% to 99% and changes by five
logits at the typical distance are unremarkable. Scales: log-normal with the medians in `PRIORS` and
a log standard deviation of 1, i.e. 95% within a factor of 7: the order of magnitude is what is
unknown. Two or three seeds say little about a scale, so its prior shows in every interval. Over the
plausible range this one is close to the 1/scale of Jeffreys' prior, under which the mean of n seeds
has the classical t interval with n - 1 degrees of freedom; a flat or half-normal prior gives n - 2,
at three seeds Cauchy tails, and covered 60 of 60 true gaps with its "90%" intervals
(`analysis.calibration`).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS

POPULATION_SD = 2.5
SCALE_LOG_SD = 1.0
PRIORS: dict[str, tuple[float, str]] = {
    "seed_start": (0.3, "SFT's log-odds, between seeds"),
    "seed_shared": (0.2, "curve coefficients, between seeds, all arms alike"),
    "seed_arm": (0.15, "curve coefficients, between seeds, one arm"),
    "run": (0.2, "log-odds far from SFT, between runs of a seed"),
    "checkpoint": (0.1, "residual of a checkpoint"),
}
"""Median of each scale's log-normal prior, in logits, and what the scale is of."""


class Points(NamedTuple):
    """One task's measurements, padded to a rectangle of runs x checkpoints.

    `x` is d in units of `unit`; `logit` and `variance` are empirical logits and their sampling
    variance; `mask` is 1 where there is a measurement. `arm` and `seed` are one-hot. The win rate
    of SFT itself is one measurement a seed: all its runs start from that same policy.
    """

    x: Float[Array, "run checkpoint"]
    logit: Float[Array, "run checkpoint"]
    variance: Float[Array, "run checkpoint"]
    mask: Float[Array, "run checkpoint"]
    arm: Float[Array, "run arm"]
    seed: Float[Array, "run seed"]
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
    """Standard deviations of the levels, in logits; index 0 of "coefficient" is a, 1 is b."""

    seed_start: Float[Array, ""]
    seed_shared: Float[Array, " coefficient"]
    seed_arm: Float[Array, " coefficient"]
    run: Float[Array, " arm"]
    checkpoint: Float[Array, " arm"]


class Posterior(NamedTuple):
    """Draws of the population's effects and of the scales, chains first."""

    effects: Float[Array, "chain draw effect"]
    seeds: Float[Array, "seed effect"]
    scales: Scales
    diverging: Bool[Array, "chain draw"]


class Diagnostics(NamedTuple):
    """Convergence of a fit: the worst R-hat and effective sample size over scales and curves."""

    rhat: float
    ess: float
    divergences: int
    draws: int

    def trouble(self) -> str:
        """Why the fit must not be used, in one clause, or ""."""
        if not (self.rhat <= 1.02):
            return f"the fit did not converge (R-hat {self.rhat:.3f}, allowed is 1.02)"
        if not (self.ess >= 400):
            return f"the fit has an effective sample size of {self.ess:.0f}, needed are 400"
        if self.divergences > self.draws // 100:
            return f"{self.divergences} of {self.draws} draws diverged, allowed is 1%"
        return ""


def basis(x: Float[Array, "*shape"]) -> Float[Array, "*shape 3"]:
    """Columns (1, x, -x log x) that multiply (c, a, b); x log x is 0 at x = 0."""
    safe = jnp.where(x > 0, x, 1.0)
    return jnp.stack([jnp.ones_like(x), x, -x * jnp.log(safe)], axis=-1)


def shift(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """How much of a run's shift is in effect: 0 at SFT, 63% at a third of the typical distance."""
    return -jnp.expm1(-3.0 * x)


def absorb(information: Information, factor: Float[Array, "*batch effect latent"]) -> Information:
    """Integrate out deviations factor @ u, u ~ normal(0, I), that are added to the effects.

    One column at a time (Sherman and Morrison 1950): for a column l with s = G l and k = 1 + l's,
    G, h, q and log k change by rank one. In NUTS' inner loop these elementwise operations run, and
    compile, several times faster than Cholesky factors of many small matrices.
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

    return jax.lax.scan(step, information, jnp.moveaxis(factor, -1, 0), unroll=2)[0]


def run_information(points: Points, scales: Scales) -> Information:
    """What each run says about its seed's (c, a, b) in its arm, run effects integrated out."""
    columns = jnp.concatenate(
        [basis(points.x), shift(points.x)[..., None], points.logit[..., None]], axis=-1
    )
    rows, cols = np.triu_indices(5)
    # Constant across draws, so the compiler lifts it out of the sampling loop.
    products = columns[..., rows] * columns[..., cols]
    weight = points.mask / (points.variance + ((points.arm @ scales.checkpoint) ** 2)[:, None])
    sums = jnp.einsum("re,ref->rf", weight, products)
    symmetric = np.zeros((5, 5), dtype=int)
    symmetric[rows, cols] = symmetric[cols, rows] = np.arange(len(rows))
    table = sums[:, symmetric]
    logdet = -jnp.sum(points.mask * jnp.log(jnp.where(points.mask > 0, weight, 1.0)), axis=1)
    own = Information(table[:, :4, :4], table[:, :4, 4], table[:, 4, 4], logdet)
    sd = points.arm @ scales.run
    rest = absorb(own, jnp.eye(4)[:, 3:] * sd[:, None, None])
    # What is left of the run's own shift, now that it is integrated out, is its mean: nothing.
    return Information(rest.G[:, :3, :3], rest.h[:, :3], rest.q, rest.logdet)


def seed_information(points: Points, scales: Scales) -> Information:
    """What each seed says about its own (c, a_1..a_A, b_1..b_A)."""
    runs = run_information(points, scales)
    arms = points.arm.shape[1]
    cell = (points.seed[:, :, None] * points.arm[:, None, :]).reshape(points.arm.shape[0], -1)
    shape = (points.seed.shape[1], arms)

    def total(leaf: Float[Array, "run *rest"]) -> Float[Array, "seed arm *rest"]:
        """Sum over the runs of each seed and arm."""
        flat = cell.T @ leaf.reshape(leaf.shape[0], -1)
        return flat.reshape(shape + leaf.shape[1:])

    place = np.zeros((arms, 3, 1 + 2 * arms))
    for arm in range(arms):
        place[arm, [0, 1, 2], [0, 1 + arm, 1 + arms + arm]] = 1.0
    precision = points.sft_mask / points.sft_variance
    return Information(
        jnp.einsum("saij,aip,ajq->spq", total(runs.G), place, place).at[:, 0, 0].add(precision),
        jnp.einsum("sai,aip->sp", total(runs.h), place).at[:, 0].add(precision * points.sft_logit),
        jnp.sum(total(runs.q), axis=1) + precision * points.sft_logit**2,
        jnp.sum(total(runs.logdet), axis=1) + points.sft_mask * jnp.log(points.sft_variance),
    )


def seed_factor(scales: Scales, arms: int) -> Float[Array, "effect latent"]:
    """Factor L of the covariance L L' of a seed's effects around the population's."""
    effects = 1 + 2 * arms
    shared = np.zeros((effects, 2))
    shared[1 : 1 + arms, 0] = shared[1 + arms :, 1] = 1.0
    start = jnp.zeros((effects, 1)).at[0, 0].set(scales.seed_start)
    own = jnp.repeat(scales.seed_arm, arms, total_repeat_length=2 * arms)
    arm = np.eye(effects)[:, 1:] * own[None, :]
    return jnp.concatenate([start, shared * scales.seed_shared[None, :], arm], axis=1)


def population_information(points: Points, scales: Scales) -> Information:
    """What all seeds together say about the population's effects."""
    seeds = seed_information(points, scales)
    factor = seed_factor(scales, points.arm.shape[1])
    rest = absorb(seeds, jnp.broadcast_to(factor, (points.seed.shape[1], *factor.shape)))
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), rest)


def log_marginal(points: Points, scales: Scales) -> Float[Array, ""]:
    """log p(logits | scales), all effects integrated out."""
    rest = population_information(points, scales)
    rest = absorb(rest, POPULATION_SD * jnp.eye(rest.h.shape[-1]))
    count = jnp.sum(points.mask) + jnp.sum(points.sft_mask)
    return -0.5 * (rest.q + rest.logdet + count * jnp.log(2 * jnp.pi))


def effects_given_scales(
    points: Points, scales: Scales, noise: Float[Array, " effect"]
) -> tuple[Float[Array, " effect"], Float[Array, "seed effect"]]:
    """One exact draw of the population's effects, and the seeds' mean effects given that draw."""
    total = population_information(points, scales)
    root = jnp.linalg.cholesky(total.G + jnp.eye(noise.shape[0]) / POPULATION_SD**2)
    mean = jax.scipy.linalg.cho_solve((root, True), total.h)
    effects = mean + jax.scipy.linalg.solve_triangular(root, noise, lower=True, trans=1)
    seeds = seed_information(points, scales)
    factor = seed_factor(scales, points.arm.shape[1])
    k = jnp.eye(factor.shape[1]) + factor.T @ seeds.G @ factor
    residual = seeds.h - seeds.G @ effects
    latent = jnp.linalg.solve(k, (residual @ factor)[..., None])[..., 0]
    return effects, effects[None, :] + latent @ factor.T


def model(points: Points) -> None:
    """NumPyro model of the scales; every other unknown is integrated out."""
    arms = points.arm.shape[1]
    shapes = {"seed_start": (), "seed_shared": (2,), "seed_arm": (2,)}
    shapes |= {"run": (arms,), "checkpoint": (arms,)}
    scales = {}
    for name, (median, _) in PRIORS.items():
        prior = dist.LogNormal(np.log(median), SCALE_LOG_SD).expand(shapes[name])
        scales[name] = numpyro.sample(name, prior.to_event(len(shapes[name])))
    numpyro.factor("logits", log_marginal(points, Scales(**scales)))


@partial(jax.jit, static_argnames=("chains", "warmup", "draws"))
def _sample(key: Array, points: Points, chains: int, warmup: int, draws: int) -> Posterior:
    def chain(key: Array) -> tuple[Scales, Bool[Array, " draw"]]:
        sampler = MCMC(NUTS(model), num_warmup=warmup, num_samples=draws, progress_bar=False)
        sampler.run(key, points, extra_fields=("diverging",))
        return Scales(**sampler.get_samples()), sampler.get_extra_fields()["diverging"]

    # One chain after the other: vectorised chains wait for the longest tree among them and pay for
    # both branches of every choice, and took three times as long on a CPU.
    scales, diverging = jax.lax.map(chain, jax.random.split(jax.random.fold_in(key, 0), chains))
    shape = (chains, draws, 1 + 2 * points.arm.shape[1])
    noise = jax.random.normal(jax.random.fold_in(key, 1), shape)
    effects, seeds = jax.vmap(jax.vmap(partial(effects_given_scales, points)))(scales, noise)
    return Posterior(effects, jnp.mean(seeds, axis=(0, 1)), scales, diverging)


def _cpu() -> Any:
    """The CPU, or None in a process that was started for another platform only."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return None


def sample(
    points: Points, seed: int = 0, chains: int = 4, warmup: int = 500, draws: int = 1000
) -> tuple[Posterior, Diagnostics]:
    """Posterior of one task's frontier by NUTS on the scales; the same seed gives the same draws.

    Runs on the CPU (the arrays are too small for anything else), in float64 (precisions of many
    checkpoints are added and subtracted) and with broadcasting between ranks allowed, which NumPyro
    relies on.
    """
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"), jax.default_device(_cpu()):
        points = Points(*(jnp.asarray(leaf, dtype=jnp.float64) for leaf in points))
        posterior = jax.device_get(_sample(jax.random.key(seed), points, chains, warmup, draws))
    leaves = [np.asarray(leaf).reshape(chains, draws, -1) for leaf in posterior.scales]
    monitored = np.concatenate([*leaves, posterior.effects], axis=-1)
    # A variable that never moves gives 0/0: that fit has failed, and NaN fails the checks.
    with np.errstate(all="ignore"):
        rhat = np.max(split_gelman_rubin(monitored))
        ess = np.min(effective_sample_size(monitored))
    return posterior, Diagnostics(
        float(rhat), float(ess), int(posterior.diverging.sum()), chains * draws
    )
