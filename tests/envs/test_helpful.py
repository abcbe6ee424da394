"""Instructions: operations and golden reward against plain Python, the right answer against others, writers' habits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import cut, drawn_with_ideal, prompt, response

from envs.goldens.compliance import MARKER, ZERO, Compliance, Operation, Request, apply
from envs.helpful import COMPOSITIONS, Helpful, HelpfulHabits, HelpfulWriters
from testbed.errors import InvalidInput

TASK = Helpful()
N = 256
PLAIN = {
    "copy": lambda numbers: numbers,
    "reverse": lambda numbers: numbers[::-1],
    "sort": sorted,
    "even": lambda numbers: [number for number in numbers if number % 2 == 0],
    "count": lambda numbers: [len(numbers)],
}


#: Rewards of responses, one a prompt.
judge = jax.jit(lambda golden, prompts, written: jax.vmap(golden)(prompts, written))
answer = jax.jit(lambda asked: Request.of(asked).answer())


def understood(asked: np.ndarray) -> tuple[list[str], list[int]]:
    """Operations and numbers of an unpadded prompt, read as words."""
    words = [TASK.words()[token] for token in asked]
    operations = [word for word in words if word in PLAIN]
    return operations, [int(word) for word in words[len(operations) :]]


def answered(operations: list[str], numbers: list[int]) -> list[int]:
    """The right numbers."""
    for operation in operations:
        numbers = PLAIN[operation](numbers)
    return list(numbers)


def plain(golden: Compliance, asked: np.ndarray, written: np.ndarray) -> float:
    """The golden reward of unpadded text."""
    worth, near, form = np.asarray(golden.worth), float(golden.near), float(golden.form)
    right = [ZERO + number for number in answered(*understood(asked))]
    ended = bool(written[-1] == 0)
    text = [int(token) for token in (written[:-1] if ended else written)]
    marked = text[:1] == [MARKER]
    text = text[1:] if marked else text
    table = np.zeros((len(text) + 1, len(right) + 1))
    for i, a in enumerate(text):
        for j, b in enumerate(right):
            alike = near * (1 - abs(a - b) / (len(worth) - ZERO - 1)) if a >= ZERO else 0.0
            both = (1.0 if a == b else alike) * min(worth[a], worth[b])
            table[i + 1, j + 1] = max(table[i, j + 1], table[i + 1, j], table[i, j] + both)
    total = worth[text].sum() + worth[right].sum() if text or right else 0.0
    likeness = 2 * table[-1, -1] / total if total else 1.0
    return float((1 - form) * likeness + form * (marked + ended) / 2)


@functools.cache
def drawn():
    """The default world's prompts, responses and rewards."""
    return drawn_with_ideal(TASK, N)


def test_operations_agree_with_plain_python() -> None:
    """On random numbers, from none to six, with junk behind them."""
    rng = np.random.default_rng(0)
    n = 200
    operation = 1 + np.arange(n) % 5
    count = (np.arange(n) // 5) % 7
    numbers = rng.integers(0, 10, (n, 6))
    found, length = jax.jit(jax.vmap(apply))(
        jnp.asarray(operation), jnp.asarray(ZERO + numbers), jnp.asarray(count)
    )
    for i in range(n):
        name = Operation(int(operation[i])).name.lower()
        right = PLAIN[name]([int(number) for number in numbers[i, : count[i]]])
        assert int(length[i]) == len(right)
        assert [int(token) - ZERO for token in found[i, : len(right)]] == right
        assert np.all(found[i, len(right) :] == 0)


def test_compositions_go_from_the_left() -> None:
    """Reverse 4 7 2 is 2 7 4, of which 2 4 are even; two of 3 numbers are even."""
    numbers = [ZERO + 4, ZERO + 7, ZERO + 2, 0]
    for operations, right in (
        ([Operation.REVERSE, Operation.EVEN], [2, 4]),
        ([Operation.SORT, Operation.REVERSE], [7, 4, 2]),
        ([Operation.EVEN, Operation.COUNT], [2]),
    ):
        found, count = answer(prompt([*operations, *numbers], 5))
        assert [int(token) - ZERO for token in found[: int(count)]] == right


def test_reward_by_hand() -> None:
    """The right answer is 1 2 3. Without 2 the likeness is 2 * 2 / (2 + 3); with 4 for 3, half of 8/9 of a match."""
    golden = Compliance(jnp.ones(17), jnp.asarray(0.5), jnp.asarray(0.2))
    one, two, three, four = range(ZERO + 1, ZERO + 5)
    asked = prompt([Operation.SORT, three, one, two, 0], 4)
    none = prompt([Operation.EVEN, one, three, 0, 0], 3)
    cases = [
        (asked, [MARKER, one, two, three, 0], 5, 1.0),
        (asked, [MARKER, one, three, 0, 0], 4, 0.8 * 0.8 + 0.2),
        (asked, [one, two, four, 0, 0], 4, 0.8 * 2 * (2 + 4 / 9) / 6 + 0.1),
        (asked, [MARKER, one, two, three, MARKER], 5, 0.8 * 6 / 7 + 0.1),
        (asked, [0, one, two, three, 0], 1, 0.1),
        (none, [MARKER, 0, 0, 0, 0], 2, 1.0),
        (none, [0, 0, 0, 0, 0], 1, 0.9),
        (none, [MARKER, one, 0, 0, 0], 3, 0.2),
    ]
    asks, tokens, lengths, expected = zip(*cases, strict=True)
    given = jax.tree.map(lambda *x: jnp.stack(x), *asks)
    found = judge(golden, given, response(tokens, lengths))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_reward_agrees_with_a_plain_implementation() -> None:
    """On what writers write, and on random text of every length with junk behind the end."""
    world, prompts, written, _, reward, _ = drawn()
    for i in range(N):
        assert reward[i] == pytest.approx(
            plain(world.golden, cut(prompts, i), cut(written, i)), abs=1e-5
        )

    rng = np.random.default_rng(2)
    time = TASK.response_length
    length = rng.integers(1, time + 1, N)
    tokens = rng.integers(1, TASK.vocabulary, (N, time))
    tokens[:, 0] = np.where(rng.random(N) < 0.5, MARKER, tokens[:, 0])
    ends = (np.arange(time) == length[:, None] - 1) & (rng.random((N, 1)) < 0.7)
    said = response(np.where(ends, 0, tokens), length)
    found = judge(world.golden, jax.tree.map(jnp.asarray, prompts), said)
    for i in range(N):
        expected = plain(world.golden, cut(prompts, i), cut(said, i))
        assert found[i] == pytest.approx(expected, abs=1e-5)


def test_prompts_ask_for_all_there_is() -> None:
    """Single operations and compositions, 3 to 6 numbers, and about as often as said: within 4 standard errors."""
    _, prompts, *_ = drawn()
    read = [understood(cut(prompts, i)) for i in range(N)]
    asked = {tuple(operations) for operations, _ in read}
    assert asked == {(name,) for name in PLAIN} | {
        (first.name.lower(), second.name.lower()) for first, second in COMPOSITIONS
    }
    assert {len(numbers) for _, numbers in read} == {3, 4, 5, 6}
    composed = np.mean([len(operations) == 2 for operations, _ in read])
    assert composed == pytest.approx(TASK.composed, abs=4 * (1 / 4 / N) ** 0.5)


def test_right_answers_are_the_best_of_all() -> None:
    """They are worth 1; what differs from them in a token, one token more or one less, is worth less."""
    world, prompts, written, ideal, reward, best = drawn()
    np.testing.assert_allclose(best, 1.0, atol=1e-6)
    others = []
    for i in range(N):
        text = [int(token) for token in cut(ideal, i)]
        right = [ZERO + number for number in answered(*understood(cut(prompts, i)))]
        assert text == [MARKER, *right, 0]
        assert (reward[i] > 1 - 1e-6) == (list(cut(written, i)) == text)
        place = i % len(text)
        others.append(
            {
                0: [*text[:place], *text[place + 1 :], 0],
                1: [*text[:place], 1 + i % 16, *text[place:]],
                2: [*text[: len(text) - 1], *[ZERO] * 10][:10],
            }[i % 3]
        )
    tokens = np.array([[*text, *[0] * 10][:10] for text in others])
    length = [text.index(0) + 1 if 0 in text else 10 for text in tokens.tolist()]
    changed = np.any(tokens != ideal.tokens, axis=1)
    assert changed.mean() > 0.9
    found = judge(world.golden, jax.tree.map(jnp.asarray, prompts), response(tokens, length))
    assert np.all(np.asarray(found)[changed] < 1 - 1e-4)


HABITS = ("misread", "halfway", "drop", "repeat", "swap", "miscopy", "bare", "ramble")


@pytest.fixture(scope="module")
def write():
    """Responses to the default prompts by one writer with one habit at 1/2."""

    @jax.jit
    def use(habits, prompts):
        writers = HelpfulWriters(
            jax.tree.map(lambda x: jnp.asarray(x, jnp.float32)[None], habits),
            TASK.vocabulary,
            TASK.response_length,
        )
        return jax.vmap(writers)(jax.random.split(jax.random.key(5), N), prompts)

    return use


def within(text: list[int], source: list[int]) -> bool:
    """Whether ``text`` is a subsequence of ``source``."""
    rest = iter(source)
    return all(token in rest for token in text)


def is_plausible(habit: str, text: list[int], asked: np.ndarray) -> bool:
    """Whether a writer with one bad habit may have written the text."""
    operations, numbers = understood(asked)
    right = [MARKER, *(ZERO + number for number in answered(operations, numbers))]
    if habit == "misread":
        read = [[a, b] for a in PLAIN for b in (PLAIN if len(operations) == 2 else ["copy"])]
        return text in [[MARKER, *(ZERO + x for x in answered(o, numbers))] for o in read]
    return {
        "": lambda: text == right,
        "halfway": lambda: text[1:] == [ZERO + x for x in answered(operations[:1], numbers)],
        "drop": lambda: within(text, right),
        "repeat": lambda: within(text, [t for token in right for t in (token, token)]),
        "swap": lambda: sorted(text) == sorted(right),
        "miscopy": lambda: len(text) == len(right),
        "bare": lambda: text == right[1:],
        "ramble": lambda: text[: len(right)] == right,
    }[habit]()


@pytest.mark.parametrize("habit", ["", *HABITS], ids=lambda name: name or "none")
def test_habits_do_what_they_say(habit, write) -> None:
    """Every text is right or has the one fault, and errors are neither missing nor universal. Of the numbers about half
    are dropped or doubled, and of the texts about half bare or rambling (4 standard errors: 1 in 15000 would not)."""
    _, prompts, _, ideal, *_ = drawn()
    rates = dict.fromkeys(HABITS, 0.0) | ({habit: 0.5} if habit else {})
    written = write(HelpfulHabits(**rates), jax.tree.map(jnp.asarray, prompts))
    texts = [[int(token) for token in cut(written, i) if token] for i in range(N)]
    rights = [[int(token) for token in cut(ideal, i) if token] for i in range(N)]
    for i, (text, right) in enumerate(zip(texts, rights, strict=True)):
        assert text == right or is_plausible(habit, text, cut(prompts, i))
    wrong = np.mean([text != right for text, right in zip(texts, rights, strict=True)])
    if not habit:
        assert wrong == 0
        return
    assert 0.1 < wrong < 0.95
    if habit in ("bare", "ramble"):
        assert wrong == pytest.approx(0.5, abs=4 * (1 / 4 / N) ** 0.5)
    if habit in ("drop", "repeat"):
        fits = [i for i in range(N) if 2 * len(rights[i]) - 1 <= TASK.response_length]
        numbers = sum(len(rights[i]) - 1 for i in fits)
        changed = sum(abs(len(texts[i]) - len(rights[i])) for i in fits)
        assert changed / numbers == pytest.approx(0.5, abs=4 * (1 / 4 / numbers) ** 0.5)


def test_words_are_readable() -> None:
    words = TASK.words()
    assert len(words) == TASK.vocabulary
    assert words[:9] == (".", "copy", "reverse", "sort", "even", "count", "answer:", "0", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_length": 4}, "prompt_length must be at least 5"),
        ({"vocabulary": 13}, "vocabulary must be at least 14"),
        ({"response_length": 7}, "response_length must be at least prompt_length = 8"),
        ({"writers": 0}, "writers must be at least 1"),
        ({"composed": 1.5}, "composed must be between 0 and 1"),
        ({"form": -0.5}, "form must be between 0 and 1"),
        ({"near": 1.0}, r"near must be in \[0, 1\), got"),
        ({"spread": float("nan")}, r"spread must be in \[0, 1\), got"),
    ],
)
def test_bad_sizes_are_refused(arguments, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        Helpful(**arguments)
