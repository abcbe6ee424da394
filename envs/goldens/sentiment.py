"""The sentiment of a text's words by a lexicon: a cheap reward for smoke tests."""

from collections.abc import Mapping, Sequence
from typing import Final, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from envs.pretrained_rewards import AbstractTaste
from envs.ratings import lexicon
from testbed.environment import AbstractGolden
from testbed.policies.pretrained import Pretrained, Tokenizer
from testbed.types import Prompt, Response, Scalar

#: As in VADER: the factor of a negation on a valence, the number of tokens it reaches, and the square of the sum that
#: gets score 1/sqrt(2).
NEGATED: Final = -0.74
REACH: Final = 3
HALF: Final = 15.0
NEGATIONS: Final = frozenset(
    ("not", "no", "never", "nothing", "neither", "nor", "without", "hardly", "cannot", "'t")
)


class Sentiment(AbstractGolden):
    """s / sqrt(s^2 + 15), where s sums the valences of a response's different words; between -1 and 1 (after Hutto and
    Gilbert 2014).

    A word counts if it is one token, is not the beginning of a longer word, and occurs for the first time: repetition
    is worth nothing. A negation among the three tokens before a word reverses its valence (times -0.74).

    Attributes:
        valence: of each token, 0 if it is no word of the lexicon. negation: which tokens negate. inner: which tokens
            continue a word.
    """

    valence: Float[Array, " vocabulary"]
    negation: Bool[Array, " vocabulary"]
    inner: Bool[Array, " vocabulary"]

    @classmethod
    def of(cls, words: Sequence[str], lexicon: Mapping[str, float]) -> Self:
        """The reward for a vocabulary: ``words`` are the texts of all tokens, a leading space included, and ``lexicon``
        gives the valences of lower-case words."""
        bare = [word.strip().lower() for word in words]
        # A word at the beginning of a text has no leading space and is missed: such texts are rare, and need no rule.
        starts = [word[:1].isspace() for word in words]
        return cls(
            jnp.asarray(
                [
                    lexicon.get(word, 0.0) if start else 0.0
                    for word, start in zip(bare, starts, strict=True)
                ]
            ),
            jnp.asarray([word.replace("’", "'") in NEGATIONS for word in bare]),
            jnp.asarray(
                [
                    word[:1].isalpha() and not start
                    for word, start in zip(words, starts, strict=True)
                ]
            ),
        )

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Compound valence."""
        tokens, mask = response.tokens, response.mask
        index = np.arange(tokens.shape[0])
        going_on = self.inner[jnp.roll(tokens, -1)] & jnp.roll(mask, -1).at[-1].set(False)
        counted = mask & (self.valence[tokens] != 0) & ~going_on
        same = (tokens[:, None] == tokens[None]) & counted[None]
        before = jnp.asarray(index[:, None] > index[None])
        again = jnp.any(same & before, axis=1)
        near = before & jnp.asarray(index[:, None] - index[None] <= REACH)
        negated = jnp.any(near & (self.negation[tokens] & mask)[None], axis=1)
        worth = self.valence[tokens] * jnp.where(negated, NEGATED, 1.0)
        total = jnp.sum(jnp.where(counted & ~again, worth, 0.0))
        return total / jnp.sqrt(total**2 + HALF)


class LexiconTaste(AbstractTaste):
    """Positive words (`Sentiment`) by VADER's lexicon; the checkpoint only provides the tokens."""

    def learn(self, model: Pretrained, tokenizer: Tokenizer) -> Sentiment:
        """The valence of every token; downloads the lexicon if necessary."""
        # Imported when used, like everything that only pretrained models need.
        from testbed.llm import fetch

        words = tokenizer.words(model.model.vocabulary)
        return Sentiment.of(words, lexicon(fetch.ratings()))

    def golden(
        self,
        key: PRNGKeyArray,
        model: Pretrained,
        learnt: Sentiment,
        prompts: Prompt,
        samples: Response,
    ) -> Sentiment:
        """The same golden reward in every world."""
        return learnt
