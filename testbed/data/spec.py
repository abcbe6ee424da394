"""The preference data, and the dials that set its coverage, its quality and its proximity to SFT.

Without dials the data are the texts that the writers wrote. With dials, every pair is drawn from a *data policy*. Over
a pool of candidate responses y to a prompt the data policy is

    mu(y) = (1 - proximity) w(y) + proximity sft(y),    w(y) ~ writers(y) exp(kappa l(y) + lambda r(y)) 1[y supported],

with l the log-likelihood of y, kappa = 1/temperature - 1, and r the golden reward in SFT standard deviations. If all
responses of a task can be enumerated, the pool holds every response and all quantities below are exact. Otherwise they
are estimates: the writers' part of the pool is a sample of their texts, from which the data are resampled by importance
(sampling importance resampling, Rubin 1988); l is the log-likelihood under the SFT policy; and for *measuring* coverage
the SFT policy stands for the writers.

Coverage refers to the target pi*(y) ~ sft(y) exp(r(y)), which maximises reward minus KL when one nat costs one SFT
standard deviation of reward. Let C = E_x sum_y pi*(y)^2 / mu(y) = 1 + chi-square(pi* || mu) be the concentrability of
offline learning. Then ``coverage = 1/C``: 1 if the data policy is the target, 0 if the data leave out any response that
the target may write.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from testbed.config import ranges
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput
from testbed.exact import quantities
from testbed.streams import Stream, stream
from testbed.types import Response, Scalar

#: Golden reward, in SFT standard deviations, that costs the target policy one nat.
TARGET = 1.0
#: Search ranges of the solver: tilts by reward, and temperatures as kappa = 1/temperature - 1.
TILTS = (-60.0, 60.0)
KAPPAS = (-0.9, 9.0)
#: Tolerances within which a requested value counts as reached: in SFT standard deviations, and as a share of the
#: requested coverage.
QUALITY_TOLERANCE = 0.05
COVERAGE_TOLERANCE = 0.05
_GRID, _HALVINGS = 24, 30


class TextCounts(NamedTuple):
    """The number of texts that the writers write, see `DataSpec`; ``candidates`` for each of the first ``rows``
    prompts."""

    pairs: int
    held_out: int
    rows: int
    candidates: int


class PoolSpec(NamedTuple):
    """The texts from which a data policy chooses, see `DataSpec`."""

    rows: int
    candidates: int
    dialled: bool
    mixed: bool


class DataSpec(eqx.Module):
    """The preference data D_golden. Dials are off by default (``none``): the data are then the writers' texts.

    Attributes:
        pairs: number of pairs; ``held_out`` is the number of further pairs, always as written, on which the proxy is
            tested.
        prompts: number of different prompts of the pairs, 0 for one prompt per pair; ``prompts / pairs`` is the share
            of prompts covered.
        responses: largest number of different responses per prompt, 0 for no limit; it matters where a prompt has many
            pairs.
        temperature: of the data policy around the writers, > 0; below 1 it prefers likely responses.
        support: share of the writers' mass that is kept, the most likely first; in (0, 1].
        coverage: requested coverage, in (0, 1], reached by setting the temperature.
        quality: requested mean golden reward of the data, in SFT standard deviations, reached by tilting.
        proximity: share of responses drawn from the SFT policy, in [0, 1].
        candidates: responses per prompt from which a data policy chooses, where responses cannot be enumerated.
        coverage_prompts: number of prompts on which coverage is estimated, from as many ``candidates``, if the data are
            the writers' texts and it cannot be computed exactly; 0: it is not, and no candidate is written.
    """

    pairs: int = hyper(4096, least=1, static=True)
    held_out: int = hyper(512, least=1, static=True)
    prompts: int = hyper(0, least=0, static=True)
    responses: int = hyper(0, least=0, static=True)
    temperature: float | None = hyper(None, above=0)
    support: float | None = hyper(None, above=0, most=1)
    coverage: float | None = hyper(None, above=0, most=1)
    quality: float | None = hyper(None)
    proximity: float | None = hyper(None, least=0, most=1)
    candidates: int = hyper(16, least=2, static=True)
    coverage_prompts: int = hyper(128, least=0, static=True, later=True)

    def __check_init__(self) -> None:
        ranges.check(self)
        if self.prompts > self.pairs:
            raise InvalidInput(
                f"prompts must be between 0 (one a pair) and pairs={self.pairs}, got {self.prompts}"
            )
        if self.responses == 1:
            raise InvalidInput(
                f"responses must be 0 (no limit) or at least 2, as a pair needs two, got {self.responses}"
            )
        if self.support is not None and not self.support * self.candidates > 1:
            raise InvalidInput(
                f"support must be more than 1/candidates=1/{self.candidates}, as a pair needs two "
                f"responses, got {self.support}"
            )
        for name in ("temperature", "support", "responses"):
            if self.coverage is not None and getattr(self, name):
                raise InvalidInput(
                    f"coverage is hit by setting the temperature over full support: "
                    f"leave {name} out, got coverage={self.coverage} and {name}={getattr(self, name)}"
                )

    @property
    def dialled(self) -> bool:
        """Whether pairs are drawn from a data policy instead of used as written."""
        names = ("temperature", "support", "coverage", "quality", "proximity")
        counted = self.prompts not in (0, self.pairs) or self.responses > 0
        return counted or any(getattr(self, name) is not None for name in names)

    @property
    def mixed(self) -> bool:
        """Whether SFT samples are mixed in."""
        return self.proximity is not None

    @property
    def rows(self) -> int:
        """Number of different prompts in the data."""
        return self.prompts or self.pairs

    @property
    def counts(self) -> TextCounts:
        """The part of the spec on which the writers' texts depend."""
        rows = min(self.coverage_prompts, self.pairs)
        return TextCounts(self.pairs, self.held_out, rows, self.candidates)

    @property
    def pool(self) -> PoolSpec:
        """The part of the spec on which the pool of candidates depends."""
        return PoolSpec(self.rows, self.candidates, self.dialled, self.mixed)


class Pool(eqx.Module):
    """Texts from which data may be drawn, a row per prompt, and the quantities on which the dials act. Logarithms are
    natural.

    Attributes:
        texts: the candidates. reward: golden, in SFT standard deviations.
        likelihood: the log-likelihood on which the temperature acts, up to a constant per row.
        writers, sft: log-probability of drawing a text for either part of the data policy.
        writers_density, sft_density: log-probability that each part gives to a text, for measuring coverage.
    """

    texts: Response
    reward: Float[Array, "row text"]
    likelihood: Float[Array, "row text"]
    writers: Float[Array, "row text"]
    sft: Float[Array, "row text"]
    writers_density: Float[Array, "row text"]
    sft_density: Float[Array, "row text"]

    @classmethod
    def sampled(
        cls,
        texts: Response,
        reward: Float[Array, "row text"],
        likelihood: Float[Array, "row text"],
        written: int,
    ) -> "Pool":
        """A pool in which the first ``written`` texts of a row come from the writers and the others from the SFT
        policy."""
        rows, count = reward.shape
        index = jnp.arange(count)

        def row(log_probability: Array) -> Array:
            return jnp.broadcast_to(log_probability, (rows, count))

        of_writers = jnp.where(index < written, -math.log(written), -jnp.inf)
        others = max(1, count - written)
        of_sft = jnp.where(index >= written, -math.log(others), -jnp.inf)
        every = row(jnp.full(count, -math.log(count)))
        # Without SFT samples, no text is drawn from the SFT part; the part must still be a distribution.
        sft = row(of_sft) if count > written else every
        return cls(texts, reward, likelihood, row(of_writers), sft, every, every)

    @classmethod
    def enumerated(
        cls,
        texts: Response,
        reward: Float[Array, "row text"],
        writers: Float[Array, "row text"],
        sft: Float[Array, "row text"],
    ) -> "Pool":
        """A pool of every response, with its exact log-probabilities."""
        return cls(texts, reward, writers, writers, sft, writers, sft)

    @property
    def target(self) -> Float[Array, "row text"]:
        """Log-probabilities of the target policy pi* ~ sft exp(r / TARGET)."""
        return jax.nn.log_softmax(self.sft_density + self.reward / TARGET, axis=-1)


class Dials(eqx.Module):
    """Values of the dials: ``kappa`` = 1/temperature - 1, and ``tilt``, in nats per standard deviation of reward."""

    kappa: Scalar
    tilt: Scalar


class DataPolicy(eqx.Module):
    """Log-probabilities of every text of a pool: for drawing, and for measuring coverage."""

    drawing: Float[Array, "row text"]
    density: Float[Array, "row text"]


def data_policy(spec: DataSpec, pool: Pool, dials: Dials) -> DataPolicy:
    """mu at these dials; the formula is in the module's docstring."""
    factor = dials.kappa * pool.likelihood + dials.tilt * pool.reward
    if spec.support is not None:
        tempered = jax.nn.log_softmax(pool.writers + dials.kappa * pool.likelihood, axis=-1)
        kept = jax.vmap(nucleus, (0, 0, None))(tempered, pool.likelihood, spec.support)
        factor = jnp.where(kept, factor, -jnp.inf)

    def mixed(writers: Array, sft: Array) -> Array:
        written = jax.nn.log_softmax(writers + factor, axis=-1)
        if spec.proximity is None:
            return written
        share = jnp.asarray(spec.proximity)
        return jnp.logaddexp(jnp.log1p(-share) + written, jnp.log(share) + sft)

    return DataPolicy(mixed(pool.writers, pool.sft), mixed(pool.writers_density, pool.sft_density))


def nucleus(
    log_probability: Float[Array, " text"], likelihood: Float[Array, " text"], share: float | Array
) -> Array:
    """Marks the texts of the smallest set of most likely texts that holds ``share`` of the mass, and texts as likely as
    the least likely text of this set."""
    order = jnp.argsort(-likelihood)
    mass = jnp.cumsum(jnp.exp(log_probability)[order])
    last = jnp.minimum(jnp.sum(mass < share - 1e-6), mass.shape[0] - 1)
    return likelihood >= likelihood[order][last]


def quality(pool: Pool, policy: DataPolicy) -> Scalar:
    """Mean golden reward of the data policy, in SFT standard deviations."""
    return jnp.mean(jnp.sum(jnp.exp(policy.drawing) * pool.reward, axis=-1))


class Coverage(eqx.Module):
    """Coverage of the target by a data policy, averaged over prompts.

    Attributes:
        coverage: 1 / concentrability, 0 where that is infinite. chi_square: of the target from the data policy.
        max_ratio: the largest pi*(y)/mu(y) of a prompt. support: mass of the target where there are data.
    """

    coverage: Scalar
    chi_square: Scalar
    max_ratio: Scalar
    support: Scalar


def covers(pool: Pool, log_density: Float[Array, "row text"]) -> Coverage:
    """Coverage of the target by a data policy: exact on an enumerated pool, otherwise an estimate."""
    chi_square, max_ratio, support = (
        jnp.mean(jax.vmap(measure)(pool.target, log_density))
        for measure in (quantities.chi_square, quantities.max_ratio, quantities.support)
    )
    return Coverage(1.0 / (1.0 + chi_square), chi_square, max_ratio, support)


def solve(spec: DataSpec, pool: Pool) -> Dials:
    """Dials at which the data policy has the requested quality and coverage, or the nearest possible values.

    Quality rises with the tilt at any temperature (its slope is a variance), so bisection finds the tilt. Along the
    curve of requested quality, coverage falls from its largest value as the temperature falls; a grid finds the largest
    value, bisection the requested one.
    """
    wanted_quality, wanted_coverage = spec.quality, spec.coverage
    fixed = jnp.asarray(0.0 if spec.temperature is None else 1.0 / spec.temperature - 1.0)

    def at(kappa: Array) -> Dials:
        if wanted_quality is None:
            return Dials(kappa, jnp.zeros(()))

        def below(tilt: Array) -> Array:
            reached = quality(pool, data_policy(spec, pool, Dials(kappa, tilt)))
            return reached < jnp.asarray(wanted_quality)

        return Dials(kappa, _bisect(below, jnp.asarray(TILTS[0]), jnp.asarray(TILTS[1])))

    if wanted_coverage is None:
        return at(fixed)
    grid = jnp.linspace(*KAPPAS, _GRID)

    def search(step: Array, found: tuple) -> tuple:
        """First the grid's maximum, then bisection from there: one loop, because its body is slow to compile."""
        best, top, low, high = found
        scanning = step < _GRID
        low = jnp.where(step == _GRID, top, low)
        kappa = jnp.where(scanning, grid[jnp.minimum(step, _GRID - 1)], 0.5 * (low + high))
        coverage = covers(pool, data_policy(spec, pool, at(kappa)).density).coverage
        better = scanning & (coverage > best)
        best, top = jnp.where(better, coverage, best), jnp.where(better, kappa, top)
        above = coverage > jnp.asarray(wanted_coverage)
        low = jnp.where(~scanning & above, kappa, low)
        return best, top, low, jnp.where(scanning | above, high, kappa)

    ends = jnp.asarray(KAPPAS[0]), jnp.asarray(KAPPAS[1])
    found = jax.lax.fori_loop(0, _GRID + _HALVINGS, search, (-jnp.inf, ends[0], *ends))
    return at(found[2])


def _bisect(go_up, low: Array, high: Array) -> Array:
    """The point between ``low`` and ``high`` where ``go_up`` turns from true to false; without such a point, the nearer
    end of the interval."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        up = go_up(middle)
        return jnp.where(up, middle, low), jnp.where(up, high, middle)

    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
    return 0.5 * (low + high)


class Drawn(eqx.Module):
    """Two responses per pair, and the data policy they were drawn from, limited to the responses kept per prompt."""

    first: Response
    second: Response
    density: Float[Array, "row text"]


def draw(spec: DataSpec, pool: Pool, policy: DataPolicy, rows: Array, key: PRNGKeyArray) -> Drawn:
    """Draw the two responses of every pair independently from its row's data policy.

    With a limit on responses, the limited number of responses is drawn for each row first; a pair takes two different
    draws among them.
    """
    k_kept, k_pairs = stream(key, Stream.SAMPLES), stream(key, Stream.FIRST_RESPONSE)
    if not spec.responses:
        picks = _pick(k_pairs, policy.drawing[rows], 2)
        return Drawn(*_texts(pool, rows, picks), policy.density)
    kept = _pick(k_kept, policy.drawing, spec.responses)
    keys = jax.random.split(k_pairs, rows.shape[0])
    slots = jax.vmap(lambda k: jax.random.choice(k, spec.responses, (2,), replace=False))(keys)
    picks = jnp.take_along_axis(kept[rows], slots, axis=1)
    counts = jax.vmap(lambda row: jnp.bincount(row, length=policy.drawing.shape[1]))(kept)
    return Drawn(*_texts(pool, rows, picks), jnp.log(counts / spec.responses))


def _pick(key: PRNGKeyArray, log_probability: Float[Array, "n text"], count: int) -> Array:
    """``count`` independent draws from each row."""
    shape = (count, log_probability.shape[0])
    return jax.random.categorical(key, log_probability, axis=-1, shape=shape).T


def _texts(pool: Pool, rows: Array, picks: Array) -> tuple[Response, Response]:
    first, second = (
        jax.tree.map(lambda x, i=i: x[rows, picks[:, i]], pool.texts) for i in range(2)
    )
    return first, second


def refuse_unreached(spec: DataSpec, quality: float, coverage: float, where: str) -> None:
    """Raise `InvalidInput` if the data policy cannot reach the requested quality or coverage."""
    asked = {
        "quality": (spec.quality, quality, QUALITY_TOLERANCE),
        "coverage": (spec.coverage, coverage, COVERAGE_TOLERANCE * (spec.coverage or 0.0)),
    }
    for name, (wanted, reached, tolerance) in asked.items():
        if wanted is not None and not abs(reached - wanted) <= tolerance:
            raise InvalidInput(
                f"data.{name}={wanted:g} cannot be reached {where}: the nearest is {reached:.3g} "
                "with the other dials as they are"
            )
