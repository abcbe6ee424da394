"""Labelers: the rules of the family, hand-worked likelihoods, limits, and frequencies against stated probabilities."""

import functools
import itertools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    SumTask,
    cut,
    experiment,
    prompts,
    response,
    responses,
    sum_reward,
    world,
)

from envs.labelers import style
from envs.labelers.annotators import Annotator, AnnotatorPool
from envs.labelers.biased import Biased
from envs.labelers.bradley_terry import BradleyTerry
from envs.labelers.deterministic import Deterministic
from envs.labelers.flips import Flips
from envs.labelers.intransitive import Intransitive
from envs.labelers.myopic import Myopic
from envs.labelers.raters import Raters
from envs.labelers.recency import Recency
from envs.labelers.skips import Skips
from envs.labelers.soft import Soft
from envs.labelers.ties import Ties
from sweeps import contracts
from testbed.config import describe, members, parse, replace, replace_all, spell
from testbed.environment import World
from testbed.errors import InvalidInput
from testbed.preference import AbstractLabeler, Outcome, View

pytestmark = pytest.mark.usefixtures("strict_dtypes")

LABELERS = members(AbstractLabeler, AbstractLabeler.family)
N = 48
#: Of the labelers whose likelihood has no place for a tie or a skip.
NOTHING = (0.0, 0.0)


@jax.jit
def outcomes(labeler: AbstractLabeler, first: View, second: View):
    return jax.vmap(labeler.outcomes)(first, second)


@jax.jit
def draw(labeler: AbstractLabeler, keys, first: View, second: View):
    """Answers and labels of the same keys."""
    return jax.vmap(labeler.answer)(keys, first, second), jax.vmap(labeler)(keys, first, second)


@jax.jit
def _perceive(labeler: AbstractLabeler, world: World, prompts, responses):
    return jax.vmap(functools.partial(labeler.view, world))(prompts, responses)


def perceive(labeler: AbstractLabeler, junk: int = 0) -> View:
    """The view of `N` responses to as many prompts."""
    return _perceive(labeler, world(), prompts(N), responses(N, 5, junk=junk))


@jax.jit
def prefer(labeler: AbstractLabeler, everyone: View):
    """P(one beats the other) for all pairs."""
    return jax.vmap(jax.vmap(labeler.preference, (None, 0)), (0, None))(everyone, everyone)


@jax.jit
def by_each(pool: AnnotatorPool, first: View, second: View):
    """The answers' probabilities of every annotator."""

    def of(annotator: Annotator):
        return jax.vmap(annotator.outcomes)(first, second)

    return jax.vmap(of)(pool.draw())


@functools.cache
def views(seed: int, junk: int = 0) -> View:
    """`N` responses of every length with made-up rewards; some rewards are equal for seeds 0 and 1."""
    reward = np.random.default_rng(seed).normal(size=N).astype(np.float32)
    reward[:4] = [0.0, 0.5, 1.0, -2.0]
    reward[4:8] = [10.0, -10.0, 3.0, 0.25] if seed else [-10.0, 10.0, 2.5, 0.75]
    return jax.vmap(View)(jnp.asarray(reward), responses(N, seed, junk=junk))


def one(view: View, i: int) -> tuple[float, list[int]]:
    """Reward and tokens of one response in plain numbers."""
    return float(view.reward[i]), [int(token) for token in cut(view.response, i)]


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def turned(labeler: AbstractLabeler) -> AbstractLabeler:
    """The labeler without a position bias."""
    return replace(labeler, "position_bias", 0.0) if hasattr(labeler, "position_bias") else labeler


def test_the_family_is_complete() -> None:
    expected = (
        "AnnotatorPool Biased BradleyTerry Deterministic Flips Intransitive Myopic Raters Recency Skips "
        "Soft Ties"
    )
    assert set(expected.split()) <= set(LABELERS)


@pytest.mark.parametrize("kind", LABELERS.values(), ids=LABELERS)
def test_contract(kind: type) -> None:
    """Every labeler, by default: documented, probabilities that sum to one and are symmetric in the two responses
    unless position counts, blind to what stands behind the end, and finite where rewards are far apart."""
    labeler, first, second = kind(), views(0), views(1)
    contracts.check_member(labeler, replace(experiment(), "task", SumTask()))
    assert kind.__doc__
    forward = np.asarray(outcomes(labeler, first, second))
    assert forward.shape == (N, len(Outcome))
    assert np.all((forward >= 0) & (forward <= 1))
    np.testing.assert_allclose(forward.sum(axis=1), 1.0, atol=1e-6)
    assert np.all(np.argmax(forward, axis=1)[4:6] == [Outcome.SECOND, Outcome.FIRST])
    one_way = np.asarray(outcomes(turned(labeler), first, second))
    other_way = np.asarray(outcomes(turned(labeler), second, first))
    np.testing.assert_allclose(one_way, other_way[:, [1, 0, 2, 3]], atol=1e-6)
    np.testing.assert_array_equal(forward, outcomes(labeler, views(0, junk=3), views(1, junk=5)))
    far = eqx.tree_at(lambda view: view.reward, first, first.reward * 1e6)
    assert np.all(np.isfinite(outcomes(labeler, far, second)))


@pytest.mark.parametrize("zero", [False, True], ids=["default", "temperature 0"])
@pytest.mark.parametrize("kind", LABELERS.values(), ids=LABELERS)
def test_gradients_are_finite(kind: type, zero: bool) -> None:
    """With respect to parameters and rewards, at ties too; also at temperature 0, where the noisy branch is not taken
    but is differentiated."""
    labeler = kind()
    if zero and not hasattr(labeler, "temperature"):
        return
    labeler = jax.tree.map(jnp.asarray, replace(labeler, "temperature", 0.0) if zero else labeler)
    slopes = jax.jit(
        jax.grad(lambda *given: jnp.sum(outcomes(*given)[:, 0]), argnums=(0, 1, 2), allow_int=True)
    )(labeler, views(0), views(1))
    floats = [leaf for leaf in jax.tree.leaves(slopes) if leaf.dtype == jnp.float32]
    assert len(floats) >= 2
    assert all(np.all(np.isfinite(leaf)) for leaf in floats)


@pytest.mark.parametrize("kind", LABELERS.values(), ids=LABELERS)
def test_answers_have_the_stated_frequencies(kind: type) -> None:
    """10,000 answers to each of 8 comparisons, every frequency within 5 binomial standard errors (and half an answer)
    of its probability: a correct labeler fails at one of its 32 with probability below 2e-5; at the fixed key."""
    n, labeler = 10_000, kind()
    several = jax.tree.map(lambda x: jnp.tile(x[:8], (n,) + (1,) * (x.ndim - 1)), (views(0), views(1)))  # fmt: skip
    answers, labels = draw(labeler, jax.random.split(jax.random.key(0), 8 * n), *several)
    chance = np.asarray(outcomes(labeler, views(0), views(1)), np.float64)[:8]
    drawn = np.asarray(answers).reshape(n, 8)
    for outcome in Outcome:
        frequency, expected = np.mean(drawn == outcome, axis=0), chance[:, outcome]
        error = np.sqrt(np.maximum(expected * (1 - expected), 0.0) / n)
        assert np.all(np.abs(frequency - expected) <= 5 * error + 0.5 / n)
    if kind is not Soft:
        meaning = np.array([1.0, 0.0, 0.5, 0.5], np.float32)
        np.testing.assert_array_equal(labels.preference, meaning[answers])
        np.testing.assert_array_equal(labels.weight, np.asarray(answers) != Outcome.SKIP)


@pytest.mark.parametrize("kind", LABELERS.values(), ids=LABELERS)
def test_text_round_trip(kind: type) -> None:
    """What `spell` writes, the command line reads back."""
    changed = {"temperature": 0.5, "rate": 0.25, "discount": 0.0, "labeler": Ties(), "seed": 3}
    labeler = replace_all(kind(), {k: v for k, v in changed.items() if hasattr(kind(), k)})
    assert parse(experiment(), "labeler", spell(labeler)) == labeler
    assert parse(experiment(), "labeler", kind.__name__) == kind()
    assert describe(labeler)["kind"] == kind.__name__


def test_nested_labelers_from_the_command_line() -> None:
    base = experiment()
    found = parse(base, "labeler", "Flips(labeler=BradleyTerry(temperature=0.5), rate=0.2)")
    assert found == Flips(BradleyTerry(0.5), 0.2)
    base = replace(base, "labeler", found)
    base = replace(base, "labeler.labeler.temperature", 0.25)
    base = replace(base, "labeler.rate", parse(base, "labeler.rate", "0.3"))
    assert base.labeler == Flips(BradleyTerry(0.25), 0.3)
    pool = parse(base, "labeler", "AnnotatorPool(annotators=2, weights=(0.25, 0.75))")
    assert pool == AnnotatorPool(annotators=2, weights=(0.25, 0.75))
    assert parse(base, "labeler", "Skips(scale=inf)") == Skips(scale=math.inf)


def by_ties(d: float, temperature: float, threshold: float) -> tuple[float, ...]:
    """Rao and Kupper (1967) in their own terms: worths pi and the parameter theta."""
    first, second = math.exp(d / temperature), 1.0
    theta = math.exp(threshold / temperature)
    wins, loses = first / (first + theta * second), second / (second + theta * first)
    return wins, loses, 1.0 - wins - loses, 0.0


def by_skips(d: float) -> tuple[float, ...]:
    skipped = 0.8 * math.exp(-abs(d) / 0.7)
    wins = sigmoid(d / 0.5)
    return (1 - skipped) * wins, (1 - skipped) * (1 - wins), 0.0, skipped


def by_flips_of_ties(d: float) -> tuple[float, ...]:
    wins, loses, tie, skip = by_ties(d, 2.0, 0.3)
    return 0.8 * wins + 0.2 * loses, 0.8 * loses + 0.2 * wins, tie, skip


def phase(tokens: list[int]) -> float:
    """Argument of the mean of exp(2 pi i phi token)."""
    golden = (1 + 5**0.5) / 2
    return float(np.angle(np.mean(np.exp(2j * math.pi * golden * np.array(tokens)))))


def only(wins: float) -> tuple[float, ...]:
    return wins, 1.0 - wins, *NOTHING


Formula = Callable[[float, list[int], list[int]], tuple[float, ...]]
WORKED: dict[str, tuple[AbstractLabeler, Formula]] = {
    "deterministic": (Deterministic(), lambda d, a, b: only(0.5 * (1 + np.sign(d)))),
    "bradley-terry": (BradleyTerry(0.25), lambda d, a, b: only(sigmoid(d / 0.25))),
    "flips": (Flips(BradleyTerry(2.0), 0.3), lambda d, a, b: only(0.3 + 0.4 * sigmoid(d / 2))),
    "flips of ties": (Flips(Ties(2.0, 0.3), 0.2), lambda d, a, b: by_flips_of_ties(d)),
    "ties": (Ties(0.6, 0.4), lambda d, a, b: by_ties(d, 0.6, 0.4)),
    "hard ties": (
        Ties(0.0, 0.5),
        lambda d, a, b: (
            float(d > 0.5) + 0.5 * (d == 0.5),
            float(d < -0.5) + 0.5 * (d == -0.5),
            float(abs(d) < 0.5) + 0.5 * (abs(d) == 0.5),
            0.0,
        ),
    ),
    "skips": (Skips(BradleyTerry(0.5), 0.8, 0.7), lambda d, a, b: by_skips(d)),
    "skips at random": (
        Skips(Deterministic(), 0.8, math.inf),
        lambda d, a, b: (0.1 * (1 + np.sign(d)), 0.1 * (1 - np.sign(d)), 0.0, 0.8),
    ),
    "biased": (
        Biased(0.7, -0.2, 0.3),
        lambda d, a, b: only(sigmoid((d - 0.2 * (len(a) - len(b)) + 0.3) / 0.7)),
    ),
    "biased without noise": (
        Biased(0.0, 0.4, -0.3),
        lambda d, a, b: only(float(d + 0.4 * (len(a) - len(b)) - 0.3 > 0)),
    ),
    "intransitive": (
        Intransitive(0.8, 0.3),
        lambda d, a, b: only(sigmoid((0.7 * d + 0.6 * math.sin(phase(a) - phase(b))) / 0.8)),
    ),
    "soft": (Soft(BradleyTerry(0.4)), lambda d, a, b: only(sigmoid(d / 0.4))),
    # Phi(d / (spread sqrt(2 / raters))), by the error function.
    "raters": (Raters(0.7), lambda d, a, b: only(0.5 * (1 + math.erf(d / (2 * 0.7))))),
    "nine raters": (Raters(1.5, 9), lambda d, a, b: only(0.5 * (1 + math.erf(d / (2 * 0.5))))),
}


@pytest.mark.parametrize(("labeler", "formula"), WORKED.values(), ids=WORKED)
def test_likelihoods_by_hand(labeler: AbstractLabeler, formula: Formula) -> None:
    """Every comparison against the formula in float64."""
    found = outcomes(labeler, views(0), views(1))
    for i in range(N):
        (r1, tokens1), (r2, tokens2) = one(views(0), i), one(views(1), i)
        np.testing.assert_allclose(found[i], formula(r1 - r2, tokens1, tokens2), atol=2e-5)


def test_likelihoods_in_round_numbers() -> None:
    """d = log 3 is won with 3/4; theta = 2 and d = 0 make thirds."""

    def chance(labeler: AbstractLabeler, d: float) -> np.ndarray:
        worth = jnp.full(N, d + 1.0, jnp.float32)
        first, second = (
            eqx.tree_at(lambda view: view.reward, view, reward)
            for view, reward in ((views(0), worth), (views(1), jnp.ones(N)))
        )
        return np.asarray(outcomes(labeler, first, second))[0]

    np.testing.assert_allclose(chance(BradleyTerry(), math.log(3)), [0.75, 0.25, 0, 0], atol=1e-6)
    np.testing.assert_allclose(chance(Flips(rate=0.2), math.log(3)), [0.65, 0.35, 0, 0], atol=1e-6)
    np.testing.assert_allclose(
        chance(Ties(1.0, math.log(2)), 0.0), [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-6
    )
    np.testing.assert_allclose(
        chance(Skips(rate=0.6, scale=math.log(3) / math.log(2)), math.log(3)),
        [0.525, 0.175, 0, 0.3],
        atol=1e-6,
    )


def test_raters_are_much_like_bradley_terry() -> None:
    """To within a hundredth, and no closer."""
    raters = Raters(0.8, 3)
    found = outcomes(raters, views(0), views(1))
    other = outcomes(raters.nearest(), views(0), views(1))
    np.testing.assert_allclose(found, other, atol=0.01)
    assert np.any(np.abs(np.asarray(found) - other) > 0.005)


EQUALS: dict[str, tuple[AbstractLabeler, AbstractLabeler]] = {
    "temperature 0": (BradleyTerry(0.0), Deterministic()),
    "no spread": (Raters(0.0), Deterministic()),
    "no flips": (Flips(Ties(), 0.0), Ties()),
    "no threshold": (Ties(0.6, 0.0), BradleyTerry(0.6)),
    "no threshold, temperature 0": (Ties(0.0, 0.0), Deterministic()),
    "no skips": (Skips(Ties(), 0.0), Ties()),
    "no biases": (Biased(0.6, 0.0, 0.0), BradleyTerry(0.6)),
    "no cycles": (Intransitive(0.6, 0.0), BradleyTerry(0.6)),
    "soft": (Soft(Skips()), Skips()),
    "alike": (
        AnnotatorPool(
            3,
            temperature=0.6,
            temperature_spread=0.0,
            position_bias=0.0,
            length_bias=0.0,
            taste=0.0,
        ),
        BradleyTerry(0.6),
    ),
    "alike, temperature 0": (
        AnnotatorPool(3, temperature=0.0, position_bias=0.0, length_bias=0.0, taste=0.0),
        Deterministic(),
    ),
}


@pytest.mark.parametrize(("labeler", "other"), EQUALS.values(), ids=EQUALS)
def test_limits(labeler: AbstractLabeler, other: AbstractLabeler) -> None:
    np.testing.assert_allclose(
        outcomes(labeler, views(0), views(1)), outcomes(other, views(0), views(1)), atol=1e-6
    )


def test_at_the_largest_flip_rate_answers_say_nothing() -> None:
    found = outcomes(Flips(Deterministic(), 0.5), views(0), views(1))
    np.testing.assert_allclose(found, np.tile([0.5, 0.5, 0, 0], (N, 1)), atol=1e-7)


def test_rare_ties_keep_their_digits() -> None:
    """At a threshold of 1e-6, P(tie) is threshold times twice the logistic density."""
    d = np.asarray(views(0).reward - views(1).reward, np.float64)[8:]
    expected = 2e-6 / (2 + np.exp(d) + np.exp(-d))
    found = outcomes(Ties(1.0, 1e-6), views(0), views(1))[8:, Outcome.TIE]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def impressions(i: int) -> list[float]:
    """Rewards of the prefixes of one response, by hand."""
    prompt, tokens = cut(prompts(N), i), cut(responses(N, 5), i)
    return [sum_reward(prompt, tokens[: t + 1]) for t in range(len(tokens))]


@pytest.mark.parametrize("discount", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", [Myopic, Recency])
def test_perceived_rewards_by_hand(kind: type, discount: float) -> None:
    """The weighted mean over prefixes; junk behind the end is not read."""
    labeler = kind(discount=discount)
    found = perceive(labeler, junk=4)
    for i in range(N):
        each = impressions(i)
        ages = range(len(each)) if kind is Myopic else reversed(range(len(each)))
        expected = np.average(each, weights=[discount**age for age in ages])
        assert float(found.reward[i]) == pytest.approx(expected, abs=1e-5)
        if discount == 0.0:
            assert float(found.reward[i]) == pytest.approx(each[0 if kind is Myopic else -1])
    np.testing.assert_array_equal(found.response.tokens, responses(N, 5, junk=4).tokens)


@pytest.mark.parametrize("kind", [Myopic, Recency])
@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_perceived_rewards_have_finite_slopes(kind: type, discount: float) -> None:
    """At the ends of the range of the discount; against a difference quotient inside it."""
    slope = jax.grad(lambda labeler: jnp.sum(perceive(labeler).reward))

    def at(value: float) -> AbstractLabeler:
        return jax.tree.map(jnp.asarray, kind(discount=value))

    assert np.isfinite(slope(at(discount)).discount)
    higher, lower = (perceive(at(d)).reward.sum() for d in (0.51, 0.49))
    assert float(slope(at(0.5)).discount) == pytest.approx(float(higher - lower) / 0.02, rel=1e-2)


@pytest.mark.parametrize("wrapper", [Flips, Skips, Soft])
def test_wrappers_see_what_the_inner_labeler_sees(wrapper: type) -> None:
    inner = Recency(discount=0.5)
    np.testing.assert_array_equal(
        perceive(wrapper(labeler=wrapper(labeler=inner))).reward,
        perceive(inner).reward,
    )


def test_soft_labels_are_probabilities() -> None:
    """P(first) + P(tie)/2 among answered comparisons, whose share is the weight; the key counts for nothing."""
    inner = Skips(Ties(0.7, 0.4), 0.6)
    keys = jax.random.split(jax.random.key(0), (2, N))
    labels, again = (draw(Soft(inner), k, views(0), views(1))[1] for k in keys)
    chance = np.asarray(outcomes(inner, views(0), views(1)), np.float64)
    answered = chance[:, :3].sum(axis=1)
    np.testing.assert_allclose(labels.weight, answered, atol=1e-6)
    expected = (chance[:, 0] + 0.5 * chance[:, 2]) / answered
    np.testing.assert_allclose(labels.preference, expected, atol=1e-6)
    np.testing.assert_array_equal(labels.preference, again.preference)
    assert np.std(labels.preference) > 0.05


@pytest.mark.parametrize(("strength", "some"), [(0.0, False), (0.5, True), (1.0, True)])
def test_intransitive_preferences_go_round_in_circles(strength: float, some: bool) -> None:
    """Triples of responses each of which beats the next; without the cyclic term there are none."""
    count = 24
    everyone = jax.tree.map(lambda x: x[8 : 8 + count], views(0))
    beats = np.asarray(prefer(Intransitive(0.5, strength), everyone)) > 0.5 + 1e-6
    cycles = sum(
        bool(beats[a, b] and beats[b, c] and beats[c, a])
        for a, b, c in itertools.permutations(range(count), 3)
    )
    assert (cycles > 0.01 * count**3) == some
    assert bool(cycles) == some


def test_style_by_hand() -> None:
    """Means of sqrt(2) cos and sin of 2 pi k phi token, for tokens of a large vocabulary too."""
    golden = (1 + 5**0.5) / 2
    tokens = [3, 151_000, 0, 9, 9]
    found = jax.jit(style.features, static_argnums=1)(response(tokens, 3), 3)
    angle = 2 * np.pi * golden * np.outer([3.0, 151_000.0, 0.0], [1, 2, 3])
    expected = 2**0.5 * np.concatenate([np.cos(angle), np.sin(angle)], axis=1).mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    repeated = style.features(response([7] * 5, 5), 3)
    assert float(np.sum(np.asarray(repeated) ** 2)) == pytest.approx(6.0, abs=1e-4)


POOL = AnnotatorPool(annotators=3, weights=(0.5, 0.3, 0.2), seed=4, taste=1.5)


def test_a_pool_is_a_mixture_of_its_annotators() -> None:
    """`outcomes` by hand from the drawn parameters, and of each annotator."""
    team, found = POOL.draw(), outcomes(POOL, views(0), views(1))
    each = by_each(POOL, views(0), views(1))
    np.testing.assert_allclose(np.einsum("a,anx->nx", POOL.weights, each), found, atol=1e-6)
    features = jax.jit(jax.vmap(lambda r: style.features(r, 2)))
    text = [features(v.response) for v in (views(0), views(1))]
    lean = np.asarray(text[0] - text[1], np.float64) @ np.asarray(team.taste, np.float64).T
    longer = np.asarray(views(0).response.length - views(1).response.length, np.float64)
    d = np.asarray(views(0).reward - views(1).reward, np.float64)
    biases = np.outer(longer, team.length_bias) + np.asarray(team.position_bias)[None]
    expected = 1 / (1 + np.exp(-(d[:, None] + lean + biases) / np.asarray(team.temperature)))
    np.testing.assert_allclose(each[:, :, 0].T, expected, atol=1e-5)


def test_annotators_follow_their_population() -> None:
    """Of 4,000 annotators, means and standard deviations are within 5 standard errors of the stated ones (22 of them
    with normal errors: fails by chance with probability 1e-5), and the density is the stated one."""
    n = 4000
    pool = AnnotatorPool(n, (), 0.7, 0.4, 0.3, 0.05, 0.8, harmonics=4)
    team = pool.draw()
    columns = [(jnp.log(team.temperature), math.log(0.7), 0.4)]
    columns += [(team.position_bias, 0.0, 0.3), (team.length_bias, 0.0, 0.05)]
    columns += [(team.taste[:, k], 0.0, 0.8 / 8**0.5) for k in range(8)]
    for values, mean, spread in columns:
        assert abs(float(np.mean(values)) - mean) < 5 * spread / n**0.5
        assert abs(float(np.std(values)) - spread) < 5 * spread / (2 * n) ** 0.5
    correlations = np.corrcoef(np.stack([np.asarray(values) for values, _, _ in columns]))
    assert np.max(np.abs(correlations - np.eye(len(columns)))) < 6 / n**0.5
    x = 1.3
    density = math.exp(-0.5 * (math.log(x / 0.7) / 0.4) ** 2) / (x * 0.4 * math.sqrt(2 * math.pi))
    found = pool.population()["temperature"].log_prob(x)
    assert float(found) == pytest.approx(math.log(density), abs=1e-5)
    other = replace(pool, "seed", 1).draw()
    assert not any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.any(a == b)), team, other)))


REFUSED: dict[str, tuple[Callable[[], AbstractLabeler], str]] = {
    "BradleyTerry": (
        lambda: BradleyTerry(math.nan),
        "temperature must be 0 or more and finite, got nan",
    ),
    "Flips": (
        lambda: Flips(rate=0.6),
        "rate must be between 0 and 0.5, got 0.6",
    ),
    "Flips, negative": (
        lambda: Flips(rate=-0.1),
        "rate must be between 0 and 0.5, got -0.1",
    ),
    "Ties": (lambda: Ties(threshold=-1.0), "threshold must be 0 or more and finite, got -1.0"),
    "Ties, noise": (
        lambda: Ties(temperature=math.inf),
        "temperature must be 0 or more and finite, got inf",
    ),
    "Skips": (lambda: Skips(rate=1.1), "rate must be between 0 and 1, got 1.1"),
    "Skips, scale": (
        lambda: Skips(scale=0.0),
        "scale must be more than 0 (infinite too), got 0.0",
    ),
    "Skips, no scale": (
        lambda: Skips(scale=math.nan),
        "scale must be more than 0 (infinite too), got nan",
    ),
    "Biased": (lambda: Biased(length_bias=math.inf), "length_bias must be finite, got inf"),
    "Raters": (lambda: Raters(spread=-1.0), "spread must be 0 or more and finite, got -1.0"),
    "no raters": (lambda: Raters(raters=0), "raters must be at least 1, got 0"),
    "Myopic": (lambda: Myopic(discount=1.5), "discount must be between 0 and 1, got 1.5"),
    "Recency": (lambda: Recency(discount=math.nan), "discount must be between 0 and 1, got nan"),
    "Intransitive": (
        lambda: Intransitive(strength=2.0),
        "strength must be between 0 and 1, got 2.0",
    ),
    "pool": (lambda: AnnotatorPool(annotators=0), "annotators must be at least 1, got 0"),
    "pool, taste": (
        lambda: AnnotatorPool(taste=-0.5),
        "taste must be 0 or more and finite, got -0.5",
    ),
    "pool, seed": (
        lambda: AnnotatorPool(seed=-1),
        "seed must be between 0 and 2^31 - 1, got -1",
    ),
    "weights, number": (
        lambda: AnnotatorPool(annotators=3, weights=(0.5, 0.5)),
        "weights must be one for each of the annotators=3 or none, got 2",
    ),
    "weights, sign": (
        lambda: AnnotatorPool(annotators=2, weights=(1.5, -0.5)),
        "weights must be 0 or more, got -0.5",
    ),
    "weights, sum": (
        lambda: AnnotatorPool(annotators=2, weights=(0.5, 0.4)),
        "weights must sum to one, got a sum of 0.9",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), REFUSED.values(), ids=REFUSED)
def test_bad_parameters_are_refused_in_one_sentence(
    make: Callable[[], AbstractLabeler], sentence: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        make()
    assert str(caught.value) == sentence


def test_refusals_name_the_path() -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(replace(experiment(), "labeler", Flips()), "labeler.rate", 0.7)
    assert str(caught.value) == ("labeler: rate must be between 0 and 0.5, got 0.7")


def test_parameters_can_be_traced() -> None:
    """Labelers that differ in their numbers alone share one program: stacked and mapped over, nested ones too."""
    several = [Flips(Ties(0.5, 0.1), 0.1), Flips(Ties(0.0, 0.3), 0.4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *several)
    together = jax.jit(jax.vmap(lambda labeler: outcomes(labeler, views(0), views(1))))(stacked)
    for labeler, found in zip(several, together, strict=True):
        np.testing.assert_allclose(found, outcomes(labeler, views(0), views(1)), atol=1e-6)
