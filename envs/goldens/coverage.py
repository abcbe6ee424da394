"""The reward of a summary: it should cover the salient tokens of its prompt in order, be brief, and invent nothing."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from envs.edits import in_order
from testbed.environment import AbstractGolden
from testbed.types import END_TOKEN, Prompt, Response, Scalar, within


class Coverage(AbstractGolden):
    """Covered share of the prompt's salience - brevity x effort - faithfulness x number of inventions.

    The covered share is a weighted longest common subsequence of prompt and response, divided by the salience of the
    whole prompt (recall of ROUGE-L, Lin 2004, with weighted tokens). Effort is the cost of reading all of the
    response's tokens; the end token costs nothing. An invention is a token that the prompt does not contain.

    Attributes:
        salience: worth of each token, 0 or more; 0 for filler. effort: what each token costs to read.
        brevity: price of one unit of effort. faithfulness: price of one invention; both prices are in shares of
            salience.
    """

    salience: Float[Array, " vocabulary"]
    effort: Float[Array, " vocabulary"]
    brevity: Scalar
    faithfulness: Scalar

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Reward, at most 1."""
        source = within(prompt.length, prompt.tokens.shape[0])
        text = response.mask & (response.tokens != END_TOKEN)
        worth = jnp.where(source, self.salience[prompt.tokens], 0.0)
        same = response.tokens[:, None] == prompt.tokens[None]
        same &= text[:, None] & source[None]
        total = jnp.sum(worth)
        covered = in_order(same * worth[None]) / jnp.where(total > 0, total, 1.0)
        effort = jnp.sum(jnp.where(text, self.effort[response.tokens], 0.0))
        inventions = jnp.sum(text & ~jnp.any(same, axis=1))
        return covered - self.brevity * effort - self.faithfulness * inventions
