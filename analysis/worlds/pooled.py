"""Pool the estimates of one effect over worlds: a random-effects meta-analysis with heavy tails.

Every world gives an estimate y with a standard error s, measured within that world. Worlds are redrawn for every
seed, so the effects of worlds scatter around the effect of the task:

    y_w     ~ normal(theta_w, s_w)                       measurement within a world
    theta_w ~ Student t(`NU`; mu + phi_f, tau)           worlds of one family f
    phi_f   ~ normal(0, sigma)                           families: worlds that share a golden reward and its writers

`mu` is the effect of the task, about which claims are made. `tau` belongs to one effect on one task: no scale is
shared with other effects or other tasks, because effects scatter very differently. The level of families exists only
where some worlds share a family. The convolution of the first two lines is approximated by a Student t of scale
sqrt(tau^2 + s^2). This is exact where s = 0; elsewhere its variance is too large, by s^2 / 3, so that intervals are up
to a tenth wider where worlds differ by their errors alone.

Tails. With `NU` = 8 degrees of freedom one odd world in ten moves the interval little, and worlds that scatter
normally lose less than 3% of its width (`analysis.worlds.calibration` has the coverage under both).

Priors. `mu` is uniform: worlds decide, not what a claim would like. log tau and log sigma are normal around the log
of three times ``unit`` (an effect that is practically nothing) with a standard deviation of `SCALE_LOG_SD`: within a
factor of 50 in 81% of cases, of 360 in 95%. Over the plausible range this is Jeffreys' 1/tau, under which the interval
of normal worlds without measurement error is the classical t interval.

Inference. Three numbers remain per effect, so the posterior is computed on a grid, without Monte Carlo error. The grid
moves to where the posterior is: places are dense there and reach far into the tails, scales begin with all of their
prior's range. Tests compare with NumPyro's NUTS on the same model, and with an integration on a much finer grid.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from sweeps.estimands import InWorlds

NU = 8.0
"""Degrees of freedom of the scatter between worlds."""
SCALE_LOG_SD = 3.0
"""Prior standard deviation of the log of a scale."""
FLOOR = 0.01
"""Smallest scale, as a share of an effect that is practically nothing: effects that are exactly 0 in most worlds, such
as a fall after a peak at the end, would otherwise have an interval of no width."""
_PLACES, _CENTRES, _SCALES, _FAMILY_SCALES = 161, 121, 41, 25
_REACH = 1200.0
"""Places lie as far from the middle as so many times the width in which they are dense: posteriors of two worlds have
tails like a Cauchy distribution."""
_PRIOR_RANGE = 3.3
"""Scales lie within so many prior standard deviations of the prior's median, or near the estimates' own spread."""
_PASSES = 12
_TINY = 1e-9
"""Smallest probability of which a normal score is taken."""
_DRAWS = 4000
_FACTORS = 4
"""Factors of a product that cannot overflow: each is below 1e76 for places within 1e38 scales of an estimate."""


@dataclasses.dataclass(frozen=True)
class Pooled:
    """Posterior of the effect of a task.

    Attributes:
        place: values of ``mu``, increasing, further apart in the tails. mass: posterior mass (place, tau, sigma), sums
            to 1.
        tau, sigma: values of the scales; ``sigma`` is (0,) where no worlds share a family.
    """

    place: Float[np.ndarray, " place"]
    tau: Float[np.ndarray, " tau"]
    sigma: Float[np.ndarray, " sigma"]
    mass: Float[np.ndarray, "place tau sigma"]

    def quantile(self, share: Float[np.ndarray, " share"]) -> Float[np.ndarray, " share"]:
        """Quantiles of the effect of the task."""
        return _quantile(self.place, self.mass.sum(axis=(1, 2)), share)

    def draws(self, count: int = _DRAWS) -> Float[np.ndarray, " count"]:
        """Equally likely values of the effect of the task, in increasing order: no key, no Monte Carlo error."""
        return self.quantile((np.arange(count) + 0.5) / count)

    @property
    def scatter(self) -> float:
        """Posterior median of the scale of the scatter between worlds."""
        log_tau = np.log(self.tau)
        return float(np.exp(_quantile(log_tau, self.mass.sum(axis=(0, 2)), np.array([0.5]))[0]))

    def further(
        self, error: float = 0.0, count: int = _DRAWS, seed: int = 0
    ) -> Float[np.ndarray, " count"]:
        """Draws of the estimate that a further world would give, with its standard error ``error``."""
        rng = np.random.default_rng(seed)
        flat = rng.choice(self.mass.size, size=count, p=self.mass.ravel())
        place, tau, sigma = np.unravel_index(flat, self.mass.shape)
        scale = np.hypot(self.tau[tau], error)
        family = self.sigma[sigma] * rng.normal(size=count)
        return self.place[place] + family + scale * rng.standard_t(NU, size=count)


def pool(
    values: Sequence[float] | Float[np.ndarray, " world"],
    errors: Sequence[float] | Float[np.ndarray, " world"],
    unit: float,
    families: Sequence[Hashable] | Int[np.ndarray, " world"] | None = None,
) -> Pooled:
    """The posterior of an effect from its estimates in two or more worlds.

    Args:
        values, errors: estimates and their standard errors, of one unit.
        unit: an effect that is practically nothing, > 0, in the same unit.
        families: the family of each world; None if no worlds share anything.

    Raises:
        ValueError: for fewer than two worlds, values that are not finite, negative errors or a ``unit`` of 0.
    """
    y, s = np.asarray(values, dtype=float), np.asarray(errors, dtype=float)
    if y.ndim != 1 or y.shape != s.shape or len(y) < 2:
        raise ValueError(
            f"values and errors must be of two or more worlds, got {y.shape} and {s.shape}"
        )
    if not (np.isfinite(y).all() and np.isfinite(s).all() and (s >= 0).all() and unit > 0):
        raise ValueError("values must be finite, errors finite and at least 0, unit above 0")
    names = list(range(len(y))) if families is None else list(families)
    members = [
        np.array([i for i, name in enumerate(names) if name == own]) for own in dict.fromkeys(names)
    ]
    # Quartiles and medians: one odd world, or one that was hardly measured, says nothing about the others' spread.
    low, middle, high = np.quantile(y, [0.25, 0.5, 0.75])
    spread = max(float(high - low), float(np.median(s)), unit / 100)
    between = _Scales.around(spread, unit, _SCALES)
    shared = len(members) < len(y)
    return _located(
        lambda place, tau, sigma: _log_likelihoods(y, s, members, place, tau, sigma),
        float(middle),
        spread / np.sqrt(len(members)),
        (between, dataclasses.replace(between, count=_FAMILY_SCALES) if shared else None),
    )


def pool_effects(effects: InWorlds, negligible: float, families: int = 1) -> Pooled | None:
    """The posterior of an effect as verdicts use it: a world's misfit widens its error. See `pool_worlds`."""
    errors = [float(np.hypot(part.error, part.misfit)) for part in effects.estimates.values()]
    values = [part.value for part in effects.estimates.values()]
    return pool_worlds(list(effects.estimates), values, errors, negligible, families)


def pool_worlds(
    seeds: Sequence[int],
    values: Sequence[float],
    errors: Sequence[float],
    negligible: float,
    families: int = 1,
) -> Pooled | None:
    """The posterior of an effect from its estimates in two or more worlds, named by their seeds.

    Args:
        negligible: an effect that is practically nothing; 0 if no such size is known, which is then taken from the
            scatter of the worlds.
        families: how many worlds of consecutive seeds share their golden reward and writers.

    Returns:
        None if the worlds do not differ at all. Raises `ValueError` as `pool` does.
    """
    if np.ptp(values) == 0 and not np.any(errors):
        return None
    scale = max(float(np.std(values)), float(np.mean(errors)))
    members = [seed // families for seed in seeds]
    return pool(
        np.asarray(values),
        np.asarray(errors),
        negligible or scale / 3,
        members if len(set(members)) < len(members) else None,
    )


@dataclasses.dataclass(frozen=True)
class _Scales:
    """A grid of a scale: the range of its log, the number of its values, and the log of the prior's median."""

    low: float
    high: float
    count: int
    median: float

    @classmethod
    def around(cls, spread: float, unit: float, count: int) -> "_Scales":
        """All of the prior's range from `FLOOR` on, and what estimates of this spread may have."""
        median, reach = float(np.log(3 * unit)), _PRIOR_RANGE * SCALE_LOG_SD
        return cls(
            float(np.log(FLOOR * unit)),
            max(median + reach, float(np.log(spread * 30))),
            count,
            median,
        )

    @property
    def values(self) -> Float[np.ndarray, " scale"]:
        return np.exp(np.linspace(self.low, self.high, self.count))

    @property
    def log_prior(self) -> Float[np.ndarray, " scale"]:
        return (
            -0.5
            * ((np.linspace(self.low, self.high, self.count) - self.median) / SCALE_LOG_SD) ** 2
        )

    def near(self, mass: Float[np.ndarray, " scale"]) -> "_Scales":
        """A grid over the values that have mass."""
        logs, some = np.log(self.values), np.flatnonzero(mass > 1e-6 * mass.max())
        first, last = max(some[0] - 1, 0), min(some[-1] + 1, self.count - 1)
        return dataclasses.replace(self, low=float(logs[first]), high=float(logs[last]))


_LogLikelihood = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Log likelihood (place, tau, sigma) at values of mu, tau and sigma."""


def _located(
    log_likelihood: _LogLikelihood,
    middle: float,
    width: float,
    scales: tuple[_Scales, _Scales | None],
) -> Pooled:
    """The posterior on a grid that lies where the posterior is.

    From a first guess of ``middle`` and ``width`` the places move until they are dense where the posterior is, with all
    values of the scales; the scales are then narrowed to those that have mass.
    """
    narrowed = False
    for _ in range(_PASSES):
        place = _places(middle, width / 4, _REACH)
        first, second = scales
        sigma = np.zeros(1) if second is None else second.values
        total = (
            log_likelihood(place, first.values, sigma) + np.log(np.gradient(place))[:, None, None]
        )
        total = total + first.log_prior[:, None] + (0.0 if second is None else second.log_prior)
        mass = np.exp(total - total.max())
        found = Pooled(place, first.values, sigma, mass / mass.sum())
        low, centre, high = found.quantile(np.array([0.25, 0.5, 0.75]))
        settled = abs(centre - middle) < width / 4 and 0.5 < (high - low) / width < 2
        if settled and narrowed:
            break
        middle, width = float(centre), float(high - low)
        if settled:
            narrowed = True
            near = first.near(found.mass.sum(axis=(0, 2)))
            scales = near, second and second.near(found.mass.sum(axis=(0, 1)))
    return found


def _places(
    middle: float, width: float, reach: float, count: int = _PLACES
) -> Float[np.ndarray, " place"]:
    """Values around a middle: dense within ``width``, from there on in even steps of the log, up to ``reach`` times
    the width."""
    return middle + width * np.sinh(np.linspace(-1, 1, count) * np.arcsinh(reach))


def _apart(
    place: Float[np.ndarray, " place"],
    centre: Float[np.ndarray, " centre"],
    scale: float,
) -> Float[np.ndarray, "place centre"]:
    """Density at places of normal deviations from centres. A centre stands for a cell around it, and is as wide."""
    wide = np.hypot(scale, np.gradient(centre) / 2)
    return np.exp(-0.5 * ((place[:, None] - centre) / wide) ** 2) / wide


def _log_likelihoods(
    y: Float[np.ndarray, " world"],
    s: Float[np.ndarray, " world"],
    members: Sequence[np.ndarray],
    place: Float[np.ndarray, " place"],
    tau: Float[np.ndarray, " tau"],
    sigma: Float[np.ndarray, " sigma"],
) -> Float[np.ndarray, "place tau sigma"]:
    """Log likelihood of (mu, tau, sigma) on the grid, up to a constant; the centres of families are integrated out."""
    if len(sigma) == 1:
        return _log_likelihood(y, s, place, tau)[..., None]
    total = np.zeros((len(place), len(tau), len(sigma)))
    for own in members:
        # As dense as the narrowest likelihood of the centre, and as far as the widest.
        narrow = float(np.hypot(tau[0], s[own].min())) / np.sqrt(len(own)) / 2
        far = 20 * float(np.hypot(tau[-1], s[own].max())) + float(np.ptp(y[own]))
        centre = _places(float(np.median(y[own])), narrow, far / narrow, _CENTRES)
        each = _log_likelihood(y[own], s[own], centre, tau)
        top = each.max(axis=0)
        weights = np.exp(each - top) * np.gradient(centre)[:, None]
        for index, scale in enumerate(sigma):
            with np.errstate(divide="ignore"):
                total[..., index] += top + np.log(_apart(place, centre, scale) @ weights)
    return total


def _log_likelihood(
    y: Float[np.ndarray, " world"],
    s: Float[np.ndarray, " world"],
    place: Float[np.ndarray, " place"],
    tau: Float[np.ndarray, " tau"],
) -> Float[np.ndarray, "place tau"]:
    """Log likelihood of some worlds' estimates, all with one centre, for every centre and scale."""
    variance = tau**2 + s[:, None] ** 2
    squares = (y[:, None] - place) ** 2 / NU
    total = np.zeros((len(place), len(tau))) - 0.5 * np.log(variance).sum(axis=0)
    for first in range(0, len(y), _FACTORS):
        some = slice(first, first + _FACTORS)
        # One logarithm of a product instead of many of its factors.
        product = np.ones_like(total)
        for square, inverse in zip(squares[some], 1 / variance[some], strict=True):
            product *= 1 + np.multiply.outer(square, inverse)
        total -= 0.5 * (NU + 1) * np.log(product)
    return total


def typical(parts: Sequence[Pooled], unit: float) -> Pooled:
    """The posterior of the effect of a typical task, from the posteriors of two or more tasks.

    The effects of tasks are normal around it, with a scale of the same prior as those between worlds. Raises
    `ValueError` for fewer than two tasks.
    """
    if len(parts) < 2:
        raise ValueError("a typical task needs two or more tasks")
    medians = np.array([part.quantile(np.array([0.5]))[0] for part in parts])
    widths = [float(np.diff(part.quantile(np.array([0.05, 0.95])))[0]) for part in parts]
    spread = max(float(np.std(medians, ddof=1)), float(np.mean(widths)) / 3.3, unit / 100)
    alongs = [part.mass.sum(axis=(1, 2)) for part in parts]

    def log_likelihood(place: np.ndarray, omega: np.ndarray, _: np.ndarray) -> np.ndarray:
        total = np.zeros((len(place), len(omega), 1))
        for part, along in zip(parts, alongs, strict=True):
            density = np.stack([_apart(place, part.place, one) @ along for one in omega], axis=1)
            total[..., 0] += np.log(np.maximum(density, 1e-300))
        return total

    scales = _Scales.around(spread, unit, _SCALES), None
    return _located(log_likelihood, float(np.mean(medians)), spread / np.sqrt(len(parts)), scales)


def _quantile(
    place: Float[np.ndarray, " place"],
    mass: Float[np.ndarray, " place"],
    share: Float[np.ndarray, " share"],
) -> Float[np.ndarray, " share"]:
    """Quantiles of a distribution with these masses in cells around increasing places. Between the borders of cells
    the normal score of the distribution is straight, as it is for a normal distribution."""
    edges = np.concatenate([[0.0], np.cumsum(mass / mass.sum())])
    inner = (place[1:] + place[:-1]) / 2
    borders = np.concatenate([[2 * place[0] - inner[0]], inner, [2 * place[-1] - inner[-1]]])
    scores = special.ndtri(np.clip(edges, _TINY, 1 - _TINY))
    return np.interp(special.ndtri(share), scores, borders)
