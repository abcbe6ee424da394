"""Summaries: the golden reward against a plain implementation, the best summary against all, the writers' habits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import cut, drawn_with_ideal, prompt, response

from envs import edits
from envs.goldens.coverage import Coverage
from envs.summarize import Summarize, SummaryHabits, SummaryWriters
from testbed.errors import InvalidInput

TASK = Summarize()
#: Small enough to try every response; so dear to read that some salient tokens are not worth it.
SMALL = Summarize(vocabulary=7, prompt_length=4, response_length=3, salient=4, facts=3, brevity=0.3)
N = 256

#: Rewards of responses, one a prompt.
judge = jax.jit(lambda golden, prompts, written: jax.vmap(golden)(prompts, written))


def common(first: list[int], second: list[int], worth) -> float:
    """Weight of the heaviest common subsequence, by the textbook's table."""
    table = np.zeros((len(first) + 1, len(second) + 1))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            both = table[i, j] + worth[a] if a == b else 0.0
            table[i + 1, j + 1] = max(table[i, j + 1], table[i + 1, j], both)
    return float(table[-1, -1])


def plain(golden: Coverage, asked: np.ndarray, written: np.ndarray) -> float:
    """The golden reward of unpadded text."""
    salience, effort = np.asarray(golden.salience), np.asarray(golden.effort)
    text = [int(token) for token in written if token != 0]
    total = sum(float(salience[token]) for token in asked)
    covered = common(text, [int(token) for token in asked], salience) / total if total else 0.0
    inventions = sum(token not in asked for token in text)
    tedium = sum(float(effort[token]) for token in text)
    return covered - float(golden.brevity) * tedium - float(golden.faithfulness) * inventions


@functools.cache
def drawn():
    """The default world's prompts, responses and rewards."""
    return drawn_with_ideal(TASK, N)


def test_in_order_matching_is_the_longest_common_subsequence() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, (64, 7)), rng.integers(0, 4, (64, 9))
    worth = rng.uniform(0, 2, 4).astype(np.float32)
    same = first[:, :, None] == second[:, None]
    found = jax.jit(jax.vmap(edits.in_order))(jnp.asarray(same * worth[first][:, :, None]))
    expected = [common(list(a), list(b), worth) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_in_order_matching_weighs_every_pair() -> None:
    """Against all sets of pairs in order, gains any non-negative numbers."""
    gain = np.random.default_rng(1).uniform(0, 1, (3, 4)).astype(np.float32)
    best = max(
        sum(gain[i, j] for i, j in zip(rows, columns, strict=True))
        for size in range(4)
        for rows in itertools.combinations(range(3), size)
        for columns in itertools.combinations(range(4), size)
    )
    assert float(edits.in_order(jnp.asarray(gain))) == pytest.approx(float(best), rel=1e-5)


def test_reward_by_hand() -> None:
    """A is worth 1 and B 3. "B A x" covers 3 of 4 in order, costs 3 tokens and invents one; where
    there is nothing to cover, a filler token is read and another token invented."""
    golden = Coverage(
        jnp.array([0.0, 1.0, 3.0, 0.0, 0.0]),
        jnp.array([0.0, 1.0, 1.0, 1.0, 1.0]),
        jnp.asarray(0.1),
        jnp.asarray(0.2),
    )
    asked = prompt([[1, 3, 2], [1, 3, 2], [1, 3, 2], [3, 1, 2]], [3, 3, 3, 1])
    said = response([[2, 1, 4, 0], [1, 2, 0, 0], [0, 1, 2, 0], [3, 1, 0, 0]], [4, 3, 1, 3])
    expected = [0.75 - 0.3 - 0.2, 1.0 - 0.2, 0.0, -0.2 - 0.2]
    np.testing.assert_allclose(judge(golden, asked, said), expected, atol=1e-6)


def test_reward_agrees_with_a_plain_implementation() -> None:
    """On what writers write, and on random text of every length with junk behind the end."""
    world, prompts, written, _, reward, _ = drawn()
    for i in range(N):
        expected = plain(world.golden, cut(prompts, i), cut(written, i))
        assert reward[i] == pytest.approx(expected, abs=1e-5)

    rng = np.random.default_rng(2)
    width, time = TASK.prompt_length, TASK.response_length
    asked = prompt(rng.integers(1, 32, (N, width)), rng.integers(1, width + 1, N))
    length = rng.integers(1, time + 1, N)
    tokens = np.where(
        rng.random((N, time)) < 0.6, asked.tokens[:, :time], rng.integers(1, 32, (N, time))
    )
    ends = (np.arange(time) == length[:, None] - 1) & (rng.random((N, 1)) < 0.7)
    said = response(np.where(ends, 0, tokens), length)
    found = judge(world.golden, asked, said)
    for i in range(N):
        assert found[i] == pytest.approx(plain(world.golden, cut(asked, i), cut(said, i)), abs=1e-5)


def small(key: jax.Array):
    """A small world and 32 of its prompts."""
    k_world, k_prompts = jax.random.split(key)
    world = SMALL.world(k_world)
    return world, jax.vmap(world.prompts)(jax.random.split(k_prompts, 32))


def test_best_summary_is_the_best_of_all() -> None:
    """All 259 responses of three small worlds to each of 32 prompts."""
    texts = [
        [*text, 0, 0, 0][:3] for n in range(4) for text in itertools.product(range(1, 7), repeat=n)
    ]
    lengths = [min(sum(token > 0 for token in text) + 1, 3) for text in texts]
    every = response(texts, lengths)
    assert len(texts) == 259

    @jax.jit
    def use(key):
        world, prompts = small(key)
        assert world.ideal is not None
        ideal = jax.vmap(world.ideal, (None, 0))(key, prompts)
        rewards = jax.vmap(lambda p: jax.vmap(lambda r: world.golden(p, r))(every))(prompts)
        return ideal, rewards, jax.vmap(world.golden)(prompts, ideal)

    sizes = set()
    for seed in range(3):
        ideal, rewards, found = use(jax.random.key(seed))
        np.testing.assert_allclose(found, np.max(rewards, axis=1), atol=1e-6)
        sizes |= set(np.sum(ideal.tokens > 0, axis=1).tolist())
    assert len(sizes) > 1


def test_best_summary_beats_the_writers() -> None:
    _, prompts, _, ideal, reward, best = drawn()
    assert np.all(best >= reward - 1e-6)
    for i in range(N):
        facts = [token for token in cut(prompts, i) if token <= TASK.salient]
        assert len(set(facts)) == len(facts) == TASK.facts
        assert [token for token in cut(ideal, i) if token] == facts


#: Habits, one at a time.
ALONE = {"miss": 0.5, "filler": 0.5, "swap": 0.5, "invent": 0.5, "ramble": 0.5, "": 0.0}


@pytest.fixture(scope="module")
def write():
    """Responses to the default prompts by one writer with the given habits."""

    @jax.jit
    def use(habits, salience, prompts):
        writers = SummaryWriters(
            jax.tree.map(lambda x: jnp.asarray(x, jnp.float32)[None], habits),
            salience,
            TASK.response_length,
        )
        return jax.vmap(writers)(jax.random.split(jax.random.key(5), N), prompts)

    return use


@pytest.mark.parametrize("habit", ALONE, ids=lambda name: name or "none")
def test_habits_do_what_they_say(habit, write) -> None:
    """Frequencies lie within 4 standard errors (1 run in 15000 would not)."""
    world, prompts, *_ = drawn()
    none = dict.fromkeys(("miss", "filler", "swap", "invent", "ramble"), 0.0)
    rates = none | ({habit: ALONE[habit]} if habit else {})
    written = write(SummaryHabits(**rates), jnp.asarray(world.golden.salience), prompts)
    kept, changed, longer = [], [], []
    for i in range(N):
        asked = [int(token) for token in cut(prompts, i)]
        facts = [token for token in asked if token <= TASK.salient]
        text = [int(token) for token in cut(written, i) if token]
        kept.append(len(text))
        changed.append(sum(a != b for a, b in zip(text, facts, strict=False)))
        longer.append(len(text) > TASK.facts)
        if habit in ("miss", "filler"):
            source = facts if habit == "miss" else asked
            assert common(text, source, np.ones(32)) == len(text)
            assert habit == "miss" or set(facts) <= set(text)
        elif habit == "swap":
            assert sorted(text) == sorted(facts)
        elif habit == "invent":
            assert len(text) == TASK.facts
        elif habit == "ramble":
            assert text[: TASK.facts] == facts
        else:
            assert text == facts
    if habit in ("miss", "filler"):  # half of the 5 salient tokens, or all and half of the 5 others
        expected = 2.5 if habit == "miss" else 7.5
        assert np.mean(kept) == pytest.approx(expected, abs=4 * (5 / 4 / N) ** 0.5)
    if habit == "swap":  # two twos of 5 tokens, whichever token they start from
        assert np.mean(changed) == pytest.approx(2.0, abs=4 * (2.0 / N) ** 0.5)
    if habit == "invent":
        share = 0.5 * (1 - 1 / 31)
        assert np.mean(changed) == pytest.approx(5 * share, abs=4 * (5 / 4 / N) ** 0.5)
    if habit == "ramble":
        assert np.mean(longer) == pytest.approx(0.5, abs=4 * (1 / 4 / N) ** 0.5)


def test_population_has_the_mean_habits() -> None:
    """Exactly, and the writers differ."""
    habits = edits.population(jax.random.key(0), TASK.habits, 6)
    for name, rates in vars(habits).items():
        mean = getattr(TASK.habits, name)
        assert np.mean(rates) == pytest.approx(mean, rel=1e-5)
        assert np.all((rates > 0) & (rates < 2 * mean))
        assert np.std(rates) > 0.1 * mean


def test_words_tell_salient_tokens_from_filler() -> None:
    words = TASK.words()
    assert len(set(words)) == len(words) == TASK.vocabulary
    assert "".join(words) == ".ABCDEFGHIJKLMNOPabcdefghijklmno"
    assert Summarize(vocabulary=40, salient=28).words()[27:30] == ("A1", "B1", "a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"salient": 31}, "salient must be between 1 and vocabulary - 2 = 30"),
        ({"facts": 11}, "facts must be between 1 and 10"),
        ({"facts": 0}, "facts must be between 1 and 10"),
        ({"writers": 0}, "writers must be at least 1"),
        ({"brevity": -0.1}, "brevity must be 0 or more and finite"),
        ({"faithfulness": float("inf")}, "faithfulness must be 0 or more and finite"),
        ({"spread": 1.0}, r"spread must be in \[0, 1\), got"),
    ],
)
def test_bad_sizes_are_refused(arguments, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        Summarize(**arguments)


def test_bad_habits_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"miss must be between 0 and 0\.5, got 0\.6"):
        SummaryHabits(miss=0.6)
