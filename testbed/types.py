"""The pytrees that all modules share, and the names of array axes.

Axes: ``prompt`` (prompt positions), ``response`` (response positions, length limit ``T``), ``time`` (positions of a
packed sequence), ``vocabulary``, ``width``. A leading ``pair``, ``sample`` or ``n`` axis comes from `jax.vmap` and is
named where it appears. Token 0 is the end token: it closes a response, is scored like any other token, and also fills
the space behind it, so masks come from lengths, never from tokens.
"""

from typing import Final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

END_TOKEN: Final = 0

Scalar = Float[Array, ""]


class Prompt(eqx.Module):
    """A prompt, padded on the right."""

    tokens: Int[Array, "*n prompt"]
    length: Int[Array, "*n"]


class Response(eqx.Module):
    """A response, padded on the right; ``length`` counts the end token if there is one."""

    tokens: Int[Array, "*n response"]
    length: Int[Array, "*n"]

    @property
    def mask(self) -> Bool[Array, "*n response"]:
        """True at scored positions: every token up to and including the end token."""
        return within(self.length, self.tokens.shape[-1])


class Label(eqx.Module):
    """A comparison's label: the probability that the first response is the better one (1 or 0 if the label is certain,
    1/2 for a tie), and its weight in training (0 if the comparison was skipped)."""

    preference: Float[Array, "*n"]
    weight: Float[Array, "*n"]


class Pair(eqx.Module):
    """A prompt with the preferred (``winner``) and the other (``loser``) response.

    ``preference``, between 1/2 and 1, is the probability that the winner is the better one according to the label: 1
    unless labels are soft. ``weight`` multiplies the pair's loss.
    """

    prompt: Prompt
    winner: Response
    loser: Response
    preference: Float[Array, "*n"]
    weight: Float[Array, "*n"]


class PairScores(eqx.Module):
    """Log-probabilities (nats) of one pair under one model, summed over scored tokens."""

    winner: Float[Array, "*n"]
    loser: Float[Array, "*n"]


def within(length: Int[Array, "*n"], size: int) -> Bool[Array, "*n size"]:
    """Mask of the positions, out of ``size``, that are before ``length``."""
    return jnp.expand_dims(jnp.arange(size), range(length.ndim)) < length[..., None]


def response_length(tokens: Int[Array, "*n response"]) -> Int[Array, "*n"]:
    """Number of tokens up to and including the first end token, or all of them if there is none."""
    ended = tokens == END_TOKEN
    return jnp.where(
        jnp.any(ended, axis=-1), jnp.argmax(ended, axis=-1) + 1, tokens.shape[-1]
    ).astype(jnp.int32)


def closed(tokens: Int[Array, "*n response"]) -> Response:
    """Written tokens as a response: tokens up to and including the first end token count; all later tokens become
    padding."""
    length = response_length(tokens)
    return Response(jnp.where(within(length, tokens.shape[-1]), tokens, END_TOKEN), length)


def each_with_prompt(prompts: Prompt, texts: Response) -> tuple[Prompt, Response]:
    """``count`` texts to each of ``n`` prompts, (n, count), as one list of texts, each with its prompt."""
    count = texts.length.shape[1]
    return (
        jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), prompts),
        jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), texts),
    )


def arrange(label: Label, prompt: Prompt, first: Response, second: Response) -> Pair:
    """A `Pair` of two responses, ordered by a label."""
    first_wins = label.preference > 0.5

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(first_wins, a, b)

    winner = Response(pick(first.tokens, second.tokens), pick(first.length, second.length))
    loser = Response(pick(second.tokens, first.tokens), pick(second.length, first.length))
    return Pair(prompt, winner, loser, pick(label.preference, 1.0 - label.preference), label.weight)


def certain(first_wins: Bool[Array, "*n"]) -> Label:
    """Labels that are certain who wins."""
    preference = first_wins.astype(jnp.float32)
    return Label(preference, jnp.ones_like(preference))
