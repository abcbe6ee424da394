"""Teacher-forced log-probabilities: the only module that defines how a response is scored.

A prompt is run once for all responses to it. The sequence is packed as *context* (the prompt without its last token)
followed by one *segment* a response: the prompt's last token, then the response without its last token. So position
``t`` of a segment predicts response token ``t``, wherever a padded prompt ends, and the same layout serves sampling
(`testbed.decode`). Segments see the context and themselves, not each other.

`response_logits`, `score`, `value_head` and `response_values` are written for transformers; another kind of policy
registers its own versions of these functions.
"""

import functools
import math
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from testbed.batches import in_portions
from testbed.transformer import Transformer
from testbed.types import Pair, PairScores, Prompt, Response, within

#: A model that can be trained, sampled and measured: a transformer, or a module of any kind that is registered with
#: `response_logits`, `score` and `testbed.decode.sample`.
Policy: TypeAlias = eqx.Module


class Packed(NamedTuple):
    """One sequence: token ids, rotary positions, and which key each query sees."""

    tokens: Int[Array, "*n time"]
    positions: Int[Array, "*n time"]
    mask: Bool[Array, "*n time time"]


def context(prompt: Prompt) -> Packed:
    """One prompt without its last token. Padding is causal too, and invisible to segments."""
    index = jnp.arange(prompt.tokens.shape[0] - 1)
    return Packed(prompt.tokens[:-1], index, index[:, None] >= index[None])


def last_token(prompt: Prompt) -> Int[Array, ""]:
    """The last token of one prompt, from which a response's first token is predicted."""
    return prompt.tokens[prompt.length - 1]


def visible_context(prompt: Prompt) -> Bool[Array, " context"]:
    """Mask of the context positions of one prompt that hold a token of the prompt."""
    return within(prompt.length - 1, prompt.tokens.shape[0] - 1)


def pack(prompt: Prompt, responses: Response) -> Packed:
    """Context and a segment for each of the stacked ``responses`` (leading axis: response) to one prompt."""
    count, time = responses.tokens.shape
    front = context(prompt)
    first = jnp.broadcast_to(last_token(prompt), (count, 1))
    segments = jnp.concatenate([first, responses.tokens[:, :-1]], axis=1)
    step = jnp.tile(jnp.arange(time), count)
    owner = jnp.repeat(jnp.arange(count), time)
    own = (owner[:, None] == owner[None]) & (step[:, None] >= step[None])
    seen = jnp.broadcast_to(visible_context(prompt), (count * time, front.tokens.shape[0]))
    unseen = jnp.zeros((front.tokens.shape[0], count * time), dtype=bool)
    return Packed(
        jnp.concatenate([front.tokens, segments.reshape(-1)]),
        jnp.concatenate([front.positions, prompt.length - 1 + step]),
        jnp.block([[front.mask, unseen], [seen, own]]),
    )


def response_hidden(
    model: Transformer, prompts: Prompt, responses: Response
) -> Float[Array, "n rows width"]:
    """Final hidden states of a transformer before each token of ``count`` responses; one row per token, the responses
    to a prompt one after the other."""
    packed = jax.vmap(pack)(prompts, responses)
    segments, _ = model.hidden(*packed, skip=prompts.tokens.shape[1] - 1)
    return segments


@functools.singledispatch
def response_logits(
    model: Transformer, prompts: Prompt, responses: Response
) -> Float[Array, "n count response vocabulary"]:
    """Logits that predict each token of ``count`` responses to each of ``n`` prompts."""
    hidden = response_hidden(model, prompts, responses)
    return model.logits(hidden).reshape(*responses.tokens.shape, -1)


@functools.singledispatch
def value_head(model: Transformer) -> PyTree:
    """Parameters of a value function of prompt and prefix, whose values are all 0. For a transformer: one weight for
    each component of the final hidden state, and a constant."""
    return jnp.zeros(model.config.width), jnp.zeros(())


@functools.singledispatch
def response_values(
    model: Transformer, head: PyTree, prompts: Prompt, responses: Response, shared: bool
) -> tuple[Float[Array, "n count response vocabulary"], Float[Array, "n count response"]]:
    """`response_logits`, and the value before each token, from one pass. The values have a gradient with respect to the
    policy only if ``shared``."""
    hidden, (weight, constant) = response_hidden(model, prompts, responses), head
    logits = model.logits(hidden).reshape(*responses.tokens.shape, -1)
    read = hidden if shared else jax.lax.stop_gradient(hidden)
    return logits, (read @ weight + constant).reshape(responses.tokens.shape)


def token_logprobs(
    logits: Float[Array, "*n response vocabulary"], responses: Response
) -> Float[Array, "*n response"]:
    """Log-probability (nats) of each response token; 0 behind the end. The target's logit less the log-sum-exp
    avoids writing a full log-softmax."""
    target = jnp.take_along_axis(logits, responses.tokens[..., None], axis=-1)[..., 0]
    return jnp.where(responses.mask, target - jax.nn.logsumexp(logits, axis=-1), 0.0)


def score_tokens(
    model: Policy, prompts: Prompt, responses: Response
) -> Float[Array, "n count response"]:
    """Log-probability (nats) of each token of ``count`` responses to each of ``n`` prompts; 0 behind the end."""
    return token_logprobs(response_logits(model, prompts, responses), responses)


@functools.singledispatch
def score(model: Transformer, prompts: Prompt, responses: Response) -> Float[Array, "n count"]:
    """log pi(y|x) in nats of ``count`` responses to each of ``n`` prompts: summed over tokens, end token included,
    padding excluded."""
    return jnp.sum(score_tokens(model, prompts, responses), axis=-1)


def score_pairs(model: Policy, pairs: Pair) -> PairScores:
    """log pi of both responses of ``n`` pairs (nats, summed over tokens)."""
    both = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1), pairs.winner, pairs.loser)
    scores = in_portions(
        lambda texts: score(model, *texts), (pairs.prompt, both), logits_size(model, both)
    )
    return PairScores(scores[:, 0], scores[:, 1])


def logits_size(model: Policy, responses: Response) -> int:
    """Bytes of the logits for all responses to one prompt; 0 for a policy that is no transformer."""
    vocabulary = model.vocabulary if isinstance(model, Transformer) else 0
    return 4 * math.prod(responses.tokens.shape[1:]) * vocabulary


@functools.singledispatch
def exact_kl(policy: Policy, reference: Policy, prompts: Prompt) -> Float[Array, " n"] | None:
    """KL(policy || reference) in nats for each of ``n`` prompts, for policies where it can be summed exactly; None for
    a transformer."""
    return None
