"""Instructions: prompts ask for one or two operations on numbers, and for an answer in a fixed format."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from envs import edits
from envs.goldens.compliance import MARKER, ZERO, Compliance, Operation, Request, apply
from testbed.config import ranges
from testbed.config.ranges import hyper
from testbed.environment import AbstractPrompts, AbstractTask, AbstractWriters, World
from testbed.errors import InvalidInput
from testbed.types import END_TOKEN, Prompt, Response, Scalar, within

#: Pairs of operations in a prompt: no copying, no repetition, and a count only at the end.
COMPOSITIONS = tuple(
    (first, second)
    for first in (Operation.REVERSE, Operation.SORT, Operation.EVEN)
    for second in (Operation.REVERSE, Operation.SORT, Operation.EVEN, Operation.COUNT)
    if first != second
)
#: Fewest numbers in a prompt.
FEWEST = 3


class Instructions(AbstractPrompts):
    """One operation, or two with chance ``composed``, then numbers; both the numbers and their count are uniform."""

    composed: Scalar
    vocabulary: int = eqx.field(static=True)
    length: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray) -> Prompt:
        """Draw one prompt."""
        k_two, k_one, k_pair, k_count, k_numbers = jax.random.split(key, 5)
        two = jax.random.bernoulli(k_two, self.composed)
        one = jax.random.choice(k_one, jnp.asarray(list(Operation)))
        pair = jax.random.choice(k_pair, jnp.asarray(COMPOSITIONS))
        count = jax.random.randint(k_count, (), FEWEST, self.length - 1)
        numbers = jax.random.randint(k_numbers, (self.length - 2,), ZERO, self.vocabulary)
        short = jnp.concatenate([one[None], numbers, jnp.full(1, END_TOKEN)])
        tokens = jnp.where(two, jnp.concatenate([pair, numbers]), short)
        length = jnp.where(two, 2, 1) + count
        there = within(length, self.length)
        return Prompt(jnp.where(there, tokens, END_TOKEN).astype(jnp.int32), length)


class HelpfulHabits(edits.AbstractHabits):
    """Errors in answers, as mean chances between 0 and 1/2.

    Attributes:
        misread: of taking an operation for any of them. halfway: of stopping after the first of two operations.
        drop, repeat: of leaving out a number, of writing it twice. swap: of exchanging two neighbours.
        miscopy: of writing any number instead of the right one. bare: of forgetting the marker.
        ramble: of one more number before the end.
    """

    misread: float = 0.35
    halfway: float = 0.5
    drop: float = 0.25
    repeat: float = 0.15
    swap: float = 0.2
    miscopy: float = 0.3
    bare: float = 0.45
    ramble: float = 0.4


class HelpfulWriters(AbstractWriters):
    """Each response comes from one of several writers, picked at random; every writer has other habits (leading
    axis)."""

    habits: HelpfulHabits
    vocabulary: int = eqx.field(static=True)
    limit: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray, prompt: Prompt) -> Response:
        """Write one answer."""
        k_who, k_read, k_half, k_swap, k_copy, k_stutter, k_bare, k_ramble = jax.random.split(
            key, 8
        )
        writers = jax.tree.leaves(self.habits)[0].shape[0]
        who = jax.random.randint(k_who, (), 0, writers)
        habits = jax.tree.map(lambda x: x[who], self.habits)
        request = Request.of(prompt)
        asked = jnp.stack([request.first, request.second])
        read = edits.replace(k_read, asked, habits.misread, min(Operation), max(Operation) + 1)
        done = (request.second != Operation.COPY) & ~jax.random.bernoulli(k_half, habits.halfway)
        second = jnp.where(done, read[1], Operation.COPY)
        numbers, count = apply(second, *apply(read[0], request.numbers, request.count))
        numbers = edits.swap(k_swap, numbers, count, habits.swap)
        numbers = edits.replace(k_copy, numbers, habits.miscopy, ZERO, self.vocabulary)
        numbers, count = edits.stutter(k_stutter, numbers, count, habits.drop, habits.repeat)
        marked = ~jax.random.bernoulli(k_bare, habits.bare)
        text, count = _opened(numbers, count, marked)
        return edits.ramble(k_ramble, text, count, habits.ramble, ZERO, self.vocabulary, self.limit)


class PerfectAnswers(AbstractWriters):
    """The right answer in the right format, which fits into ``limit`` tokens."""

    limit: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray, prompt: Prompt) -> Response:
        """The answer; ``key`` is not used."""
        numbers, count = Request.of(prompt).answer()
        text, count = _opened(numbers, count, jnp.asarray(True))
        return edits.respond(text, count, self.limit)


def _opened(
    numbers: Int[Array, " size"], count: Int[Array, ""], marked: Bool[Array, ""]
) -> tuple[Int[Array, " longer"], Int[Array, ""]]:
    """The text, with the marker before it if ``marked``."""
    bare = jnp.concatenate([numbers, jnp.full(1, END_TOKEN, numbers.dtype)])
    opened = jnp.concatenate([jnp.full(1, MARKER, numbers.dtype), numbers])
    return jnp.where(marked, opened, bare), count + marked


class Helpful(AbstractTask):
    """Carry out one or two operations on a few numbers and answer in the format ``answer: ... .``.

    Tokens are the operations, the marker ``answer:`` and the numbers 0, 1, ..., as many as the vocabulary holds. The
    worth of a number is drawn with the world: uniform around 1, with half-width ``spread``.

    Attributes:
        vocabulary: token ids, the end token included. prompt_length, response_length: tokens; a prompt holds 3 to
            ``prompt_length - 2`` numbers.
        composed: chance of two operations instead of one.
        writers: how many. habits: how often they err.
        near: credit for a wrong number next to the right one, in shares of the right one.
        form: share of the format in the reward; the rest is the share of the result.
    """

    vocabulary: int = eqx.field(static=True, default=17)
    prompt_length: int = hyper(8, least=FEWEST + 2, static=True)
    response_length: int = eqx.field(static=True, default=10)
    composed: float = hyper(0.5, least=0, most=1)
    writers: int = hyper(6, least=1, static=True)
    habits: HelpfulHabits = HelpfulHabits()
    near: float = hyper(0.2, least=0, below=1)
    form: float = hyper(0.3, least=0, most=1)
    spread: float = hyper(0.3, least=0, below=1)

    def __check_init__(self) -> None:
        ranges.check(self)
        if self.vocabulary < ZERO + self.prompt_length - 1:
            raise InvalidInput(
                f"vocabulary must be at least {ZERO + self.prompt_length - 1}, so that the numbers "
                f"of a prompt can be counted, got {self.vocabulary}"
            )
        if self.response_length < self.prompt_length:
            raise InvalidInput(
                f"response_length must be at least prompt_length = {self.prompt_length}, "
                f"so that every answer fits, got {self.response_length}"
            )

    def world(self, key: PRNGKeyArray) -> World:
        """Draw the worth of tokens, and writers."""
        return self.world_with(None, key, key)

    def world_with(self, material: None, key: PRNGKeyArray, writers: PRNGKeyArray) -> World:
        """`world` with the writers' habits of another world."""
        k_worth, k_writers = jax.random.split(key)[0], jax.random.split(writers)[1]
        noise = jax.random.uniform(k_worth, (self.vocabulary,), minval=-1.0)
        golden = Compliance(
            1.0 + self.spread * noise,
            jnp.asarray(self.near, jnp.float32),
            jnp.asarray(self.form, jnp.float32),
        )
        habits = edits.population(k_writers, self.habits, self.writers)
        return World(
            Instructions(
                jnp.asarray(self.composed, jnp.float32), self.vocabulary, self.prompt_length
            ),
            HelpfulWriters(habits, self.vocabulary, self.response_length),
            golden,
            ideal=PerfectAnswers(self.response_length),
        )

    def words(self) -> tuple[str, ...]:
        """Operations, the marker and numbers by name."""
        numbers = (str(number) for number in range(self.vocabulary - ZERO))
        return (".", *(operation.name.lower() for operation in Operation), "answer:", *numbers)
