"""Summaries: prompts mix salient tokens with filler, and a good response consists of the salient tokens, in order."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from envs import edits
from envs.goldens.coverage import Coverage
from testbed.config import ranges
from testbed.config.ranges import hyper
from testbed.environment import AbstractPrompts, AbstractTask, AbstractWriters, World
from testbed.errors import InvalidInput
from testbed.types import Prompt, Response

#: Letters of the alphabet.
LETTERS = 26


class Notes(AbstractPrompts):
    """``facts`` different salient tokens in random order at random places, uniform filler between them."""

    vocabulary: int = eqx.field(static=True)
    length: int = eqx.field(static=True)
    salient: int = eqx.field(static=True)
    facts: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray) -> Prompt:
        """Draw one prompt."""
        k_facts, k_places, k_filler = jax.random.split(key, 3)
        facts = 1 + jax.random.permutation(k_facts, self.salient)[: self.facts]
        here = jax.random.permutation(k_places, self.length) < self.facts
        filler = jax.random.randint(k_filler, (self.length,), 1 + self.salient, self.vocabulary)
        tokens = jnp.where(here, facts[jnp.cumsum(here) - 1], filler)
        return Prompt(tokens.astype(jnp.int32), jnp.asarray(self.length))


class SummaryHabits(edits.AbstractHabits):
    """Errors in summaries, as mean chances between 0 and 1/2.

    Attributes:
        miss: of leaving out a salient token. filler: of keeping a filler token. swap: of exchanging two neighbours.
        invent: of writing any token instead of the right one. ramble: of one more (any) token before the end.
    """

    miss: float = 0.45
    filler: float = 0.35
    swap: float = 0.3
    invent: float = 0.12
    ramble: float = 0.3


class SummaryWriters(AbstractWriters):
    """Each response comes from one of several writers, picked at random; every writer has other habits (leading
    axis)."""

    habits: SummaryHabits
    salience: Float[Array, " vocabulary"]
    limit: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray, prompt: Prompt) -> Response:
        """Write one summary."""
        k_who, k_keep, k_swap, k_invent, k_ramble = jax.random.split(key, 5)
        vocabulary = self.salience.shape[0]
        writers = jax.tree.leaves(self.habits)[0].shape[0]
        who = jax.random.randint(k_who, (), 0, writers)
        habits = jax.tree.map(lambda x: x[who], self.habits)
        salient = self.salience[prompt.tokens] > 0
        chance = jnp.where(salient, 1.0 - habits.miss, habits.filler)
        keep = jax.random.bernoulli(k_keep, chance) & (prompt.tokens != 0)
        tokens, count = edits.compact(prompt.tokens, keep)
        tokens = edits.swap(k_swap, tokens, count, habits.swap)
        tokens = edits.replace(k_invent, tokens, habits.invent, 1, vocabulary)
        return edits.ramble(k_ramble, tokens, count, habits.ramble, 1, vocabulary, self.limit)


class PerfectSummaries(AbstractWriters):
    """The best summary of a prompt whose salient tokens all differ: the tokens worth reading, in order."""

    golden: Coverage
    limit: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray, prompt: Prompt) -> Response:
        """The summary; ``key`` is not used."""
        salience = self.golden.salience[prompt.tokens]
        share = salience / jnp.sum(salience)
        tokens, count = edits.compact(
            prompt.tokens, share > self.golden.brevity * self.golden.effort[prompt.tokens]
        )
        return edits.respond(tokens, count, self.limit)


class Summarize(AbstractTask):
    """Cover the salient tokens of the prompt, in order, briefly, without inventions.

    Tokens 1 to ``salient`` are salient (capital letters), the others filler (small letters). The salience of a token
    and its cost of reading are drawn with the world: both are uniform around 1, with half-width ``spread``.

    Attributes:
        vocabulary: token ids, the end token included. prompt_length, response_length: tokens.
        salient: salient token ids. facts: salient tokens in a prompt, all different.
        writers: how many. habits: how often they err.
        brevity: price of a token of mean length. faithfulness: price of a token that the prompt does not contain; the
            unit of both is the worth of covering everything.
    """

    vocabulary: int = eqx.field(static=True, default=32)
    prompt_length: int = eqx.field(static=True, default=10)
    response_length: int = hyper(10, least=1, static=True)
    salient: int = eqx.field(static=True, default=16)
    facts: int = eqx.field(static=True, default=5)
    writers: int = hyper(6, least=1, static=True)
    habits: SummaryHabits = SummaryHabits()
    brevity: float = hyper(0.05, least=0)
    faithfulness: float = hyper(0.1, least=0)
    spread: float = hyper(0.5, least=0, below=1)

    def __check_init__(self) -> None:
        ranges.check(self)
        if not 1 <= self.salient <= self.vocabulary - 2:
            raise InvalidInput(
                f"salient must be between 1 and vocabulary - 2 = {self.vocabulary - 2} "
                f"(the end token and one filler), got {self.salient}"
            )
        most = min(self.salient, self.prompt_length, self.response_length)
        if not 1 <= self.facts <= most:
            raise InvalidInput(
                f"facts must be between 1 and {most}, the least of salient, prompt_length and "
                f"response_length, got {self.facts}"
            )

    def world(self, key: PRNGKeyArray) -> World:
        """Draw saliences, efforts and writers."""
        return self.world_with(None, key, key)

    def world_with(self, material: None, key: PRNGKeyArray, writers: PRNGKeyArray) -> World:
        """`world` with the writers' habits of another world; they know the saliences of this one."""
        k_salience, k_effort, _ = jax.random.split(key, 3)
        k_writers = jax.random.split(writers, 3)[2]
        token = jnp.arange(self.vocabulary)
        salient = (token >= 1) & (token <= self.salient)

        def around_one(key: PRNGKeyArray) -> Float[Array, " vocabulary"]:
            return 1.0 + self.spread * jax.random.uniform(key, token.shape, minval=-1.0)

        golden = Coverage(
            jnp.where(salient, around_one(k_salience), 0.0),
            jnp.where(token > 0, around_one(k_effort), 0.0),
            jnp.asarray(self.brevity, jnp.float32),
            jnp.asarray(self.faithfulness, jnp.float32),
        )
        habits = edits.population(k_writers, self.habits, self.writers)
        people = SummaryWriters(habits, golden.salience, self.response_length)
        prompts = Notes(self.vocabulary, self.prompt_length, self.salient, self.facts)
        return World(prompts, people, golden, ideal=PerfectSummaries(golden, self.response_length))

    def words(self) -> tuple[str, ...]:
        """Salient tokens as capitals, filler as small letters, numbered after the end of the alphabet."""
        filler = self.vocabulary - 1 - self.salient
        return (".", *_letters("A", self.salient), *_letters("a", filler))


def _letters(first: str, count: int) -> list[str]:
    """``count`` different words from the alphabet that starts with ``first``."""
    return [
        chr(ord(first) + i % LETTERS) + (str(i // LETTERS) if i >= LETTERS else "")
        for i in range(count)
    ]
