"""The preference data, and the dials that set how widely it covers, how good it is, and how near it is to SFT.

Without dials the data are what the writers wrote. With them, every pair is drawn from a *data policy*: over a pool of
candidate responses y to a prompt it is

    mu(y) = (1 - proximity) w(y) + proximity sft(y),    w(y) ~ writers(y) exp(kappa l(y) + lambda r(y)) 1[y supported],

with l the log-likelihood of y, kappa = 1/temperature - 1, and r the golden reward in SFT standard deviations. Where a
task can be enumerated the pool holds every response and everything below is exact. Elsewhere the writers' part of the
pool is a sample of theirs, drawn from again by importance (sampling importance resampling, Rubin 1988), l is taken
under the SFT policy, and for *measuring* coverage the SFT policy is taken to write as the writers do: an estimate.

Coverage is that of the target pi*(y) ~ sft(y) exp(r(y)), the optimum of reward less KL at one SFT standard deviation a
nat: with C = E_x sum_y pi*(y)^2 / mu(y) = 1 + chi-square(pi* || mu), the concentrability of offline learning,
``coverage = 1/C``: 1 if the data policy is the target, 0 if the data leave out anything that the target may write.
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
#: How far the solver may go: tilts by reward, and log-temperatures as kappa = 1/temperature - 1.
TILTS = (-60.0, 60.0)
KAPPAS = (-0.9, 9.0)
#: A requested value counts as reached within these: SFT standard deviations, and a share of the coverage asked for.
QUALITY_TOLERANCE = 0.05
COVERAGE_TOLERANCE = 0.05
_GRID, _HALVINGS = 24, 30


class TextCounts(NamedTuple):
    """How many texts the writers write, see `DataSpec`."""

    pairs: int
    held_out: int
    candidates: int


class PoolSpec(NamedTuple):
    """The texts that a data policy chooses from, see `DataSpec`."""

    rows: int
    candidates: int
    dialled: bool
    mixed: bool


class DataSpec(eqx.Module):
    """The preference data D_golden. Dials are off by default (``none``): the data are then the writers' own.

    Attributes:
        pairs: how many; ``held_out`` more, always as written, to test the proxy on.
        prompts: different prompts that the pairs are spread over, 0 for one a pair; ``prompts / pairs`` is the share
            of prompts covered.
        responses: at most so many different responses a prompt, 0 for no limit; counts where a prompt has many pairs.
        temperature: of the data policy around the writers, > 0; below 1 it keeps to what is likely.
        support: share of the writers' mass that is kept, the most likely first; in (0, 1].
        coverage: coverage to be hit, in (0, 1], by setting the temperature.
        quality: mean golden reward of the data to be hit, in SFT standard deviations, by tilting.
        proximity: share of responses drawn from the SFT policy, in [0, 1].
        candidates: responses a prompt that a data policy chooses from, where responses cannot be enumerated.
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
        """Whether pairs are drawn from a data policy instead of taken as written."""
        names = ("temperature", "support", "coverage", "quality", "proximity")
        counted = self.prompts not in (0, self.pairs) or self.responses > 0
        return counted or any(getattr(self, name) is not None for name in names)

    @property
    def mixed(self) -> bool:
        """Whether SFT samples are mixed in."""
        return self.proximity is not None

    @property
    def rows(self) -> int:
        """Different prompts in the data."""
        return self.prompts or self.pairs

    @property
    def counts(self) -> TextCounts:
        """The part that the writers' texts depend on."""
        return TextCounts(self.pairs, self.held_out, self.candidates)

    @property
    def pool(self) -> PoolSpec:
        """The part that the pool of candidates depends on."""
        return PoolSpec(self.rows, self.candidates, self.dialled, self.mixed)


class Pool(eqx.Module):
    """Texts that data may be drawn from, a row a prompt, and what the dials act on. Logarithms are natural.

    Attributes:
        texts: the candidates. reward: golden, in SFT standard deviations.
        likelihood: what the temperature acts on, up to a constant a row.
        writers, sft: log-probability of drawing a text for either part of the data policy.
        writers_density, sft_density: the same when coverage is measured: what each part gives to every text.
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
        """A pool whose first ``written`` texts a row are the writers' and whose others are the SFT policy's."""
        rows, count = reward.shape
        index = jnp.arange(count)

        def row(log_probability: Array) -> Array:
            return jnp.broadcast_to(log_probability, (rows, count))

        of_writers = jnp.where(index < written, -math.log(written), -jnp.inf)
        others = max(1, count - written)
        of_sft = jnp.where(index >= written, -math.log(others), -jnp.inf)
        every = row(jnp.full(count, -math.log(count)))
        # Without SFT samples their part is never drawn from; it must still be a distribution.
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
    """Where the dials stand: ``kappa`` = 1/temperature - 1, and ``tilt``, nats a standard deviation of reward."""

    kappa: Scalar
    tilt: Scalar


class DataPolicy(eqx.Module):
    """Log-probabilities of every text of a pool: for drawing, and for measuring coverage."""

    drawing: Float[Array, "row text"]
    density: Float[Array, "row text"]


def data_policy(spec: DataSpec, pool: Pool, dials: Dials) -> DataPolicy:
    """mu at these dials; the module's docstring has the formula."""
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
    """Which texts of a row are at least as likely as the last of the smallest set of likely ones that holds ``share``
    of the mass."""
    order = jnp.argsort(-likelihood)
    mass = jnp.cumsum(jnp.exp(log_probability)[order])
    last = jnp.minimum(jnp.sum(mass < share - 1e-6), mass.shape[0] - 1)
    return likelihood >= likelihood[order][last]


def quality(pool: Pool, policy: DataPolicy) -> Scalar:
    """Mean golden reward of the data policy, in SFT standard deviations."""
    return jnp.mean(jnp.sum(jnp.exp(policy.drawing) * pool.reward, axis=-1))


class Coverage(eqx.Module):
    """How a data policy covers the target, averaged over prompts.

    Attributes:
        coverage: 1 / concentrability, 0 where that is infinite. chi_square: of the target from the data policy.
        max_ratio: the largest pi*(y)/mu(y) of a prompt. support: mass of the target where there are data.
    """

    coverage: Scalar
    chi_square: Scalar
    max_ratio: Scalar
    support: Scalar


def covers(pool: Pool, log_density: Float[Array, "row text"]) -> Coverage:
    """Coverage of the target by a data policy: exact on an enumerated pool, an estimate elsewhere."""
    chi_square, max_ratio, support = (
        jnp.mean(jax.vmap(measure)(pool.target, log_density))
        for measure in (quantities.chi_square, quantities.max_ratio, quantities.support)
    )
    return Coverage(1.0 / (1.0 + chi_square), chi_square, max_ratio, support)


def solve(spec: DataSpec, pool: Pool) -> Dials:
    """Dials at which the data policy has the quality and coverage that were asked for, or the nearest there is.

    Quality rises with the tilt at any temperature (its slope is a variance), so bisection finds it. Along that curve
    coverage falls from its largest value as the temperature falls; a grid finds the top, bisection the rest.
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
        """First the grid's top, then bisection from there on: one loop, as its body is long to compile."""
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
    """Where ``go_up`` turns from true to false between ``low`` and ``high``; the nearer end if it never does."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        up = go_up(middle)
        return jnp.where(up, middle, low), jnp.where(up, high, middle)

    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
    return 0.5 * (low + high)


class Drawn(eqx.Module):
    """Two responses a pair, and the data policy they came from, limited to the responses kept a prompt."""

    first: Response
    second: Response
    density: Float[Array, "row text"]


def draw(spec: DataSpec, pool: Pool, policy: DataPolicy, rows: Array, key: PRNGKeyArray) -> Drawn:
    """Draw the two responses of every pair independently from its row's data policy.

    With a limit on responses, so many are drawn for each row first; a pair takes two different ones of these draws.
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
    """Raise `InvalidInput` if quality or coverage that was asked for is out of the data policy's reach."""
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
