"""A tabular policy: one logit for every response to every prompt of a task small enough to enumerate.

It can be used wherever a transformer can: `testbed.logprob` and `testbed.decode` score, sample and compare it with the
versions of their functions that this module registers.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from testbed import decode, logprob
from testbed.environment import AbstractTask
from testbed.errors import InvalidInput
from testbed.exact import quantities
from testbed.exact.enumeration import (
    all_prompts,
    all_responses,
    count_responses,
    prompt_index,
    response_index,
)
from testbed.logprob import Policy
from testbed.nn.activations import MASKED
from testbed.types import END_TOKEN, Prompt, Response


class Tabular(eqx.Module):
    """A softmax over whole responses; prompts have full length.

    Attributes:
        logits: of every response (in the order of `testbed.exact.enumeration.all_responses`) to every prompt (in that
            of ``all_prompts``). The log-probabilities of any policy are valid logits of that policy. -inf for a
            probability of 0.
        vocabulary: token ids, the end token included. time: the length limit in tokens.
    """

    logits: Float[Array, "*stack prompt response"]
    vocabulary: int = eqx.field(static=True)
    time: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        expected = count_responses(self.vocabulary, self.time)
        if self.logits.shape[-1] != expected:
            raise InvalidInput(
                f"logits must have {expected} responses a prompt for vocabulary={self.vocabulary} and "
                f"time={self.time}, got {self.logits.shape[-1]}"
            )

    def rows(self, prompts: Prompt) -> Float[Array, "n response"]:
        """The logits of ``n`` prompts."""
        return self.logits[prompt_index(prompts, self.vocabulary)]


def tabulated(policy: Policy, task: AbstractTask) -> Tabular:
    """The same policy as a table, for a task that can be enumerated."""
    vocabulary, time = task.vocabulary, task.response_length
    prompts, every = all_prompts(vocabulary, task.prompt_length), all_responses(vocabulary, time)
    return Tabular(quantities.log_table(policy, prompts, every), vocabulary, time)


@logprob.response_logits.register(Tabular)
def response_logits(
    model: Tabular, prompts: Prompt, responses: Response
) -> Float[Array, "n count response vocabulary"]:
    """Logits of the table's conditional distributions: for each token, the log of the summed weight of all responses
    that continue with it. Behind an end only the end token is possible; the others' logits are very low but finite."""
    vocabulary, time = model.vocabulary, model.time
    place = nodes(responses, vocabulary)
    found = jax.vmap(lambda row, place: tree(row, vocabulary, time)[place])(
        model.rows(prompts), place
    )
    ended = jnp.where(jnp.arange(vocabulary) == END_TOKEN, 0.0, MASKED)
    return jnp.where(responses.mask[..., None], found, ended[None, None, None])


def tree(
    row: Float[Array, " response"], vocabulary: int, time: int
) -> Float[Array, "node vocabulary"]:
    """Next-token logits at every unfinished prefix, shorter prefixes first, from the logits of all responses to one
    prompt."""
    levels, below = [], jnp.maximum(row, MASKED)[None]
    for _ in range(time):
        # Below a prefix: the response that ends there, followed by a block for every token that may come next.
        ended, rest = below[:, :1], below[:, 1:].reshape(below.shape[0], vocabulary - 1, -1)
        levels.append(jnp.concatenate([ended, jax.nn.logsumexp(rest, axis=-1)], axis=-1))
        below = rest.reshape(below.shape[0] * (vocabulary - 1), -1)
    return jnp.concatenate(levels)


def nodes(responses: Response, vocabulary: int) -> Int[Array, "*n response"]:
    """Index in `tree` of the prefix before each token of a response; 0 behind the end."""
    time, branches = responses.tokens.shape[-1], vocabulary - 1
    steps = jnp.maximum(responses.tokens - 1, 0)
    # Token i of a prefix of t tokens is a digit of weight branches ** (t - 1 - i).
    weight = [[branches ** (t - 1 - i) if i < t else 0 for t in range(time)] for i in range(time)]
    start = np.cumsum([0, *(branches**t for t in range(time - 1))])
    weight, start = jnp.asarray(weight, jnp.int32), jnp.asarray(start, jnp.int32)
    place = steps @ weight + jnp.expand_dims(start, range(responses.length.ndim))
    return jnp.where(responses.mask, place, 0)


@logprob.score.register(Tabular)
def score(model: Tabular, prompts: Prompt, responses: Response) -> Float[Array, "n count"]:
    """log pi(y|x) in nats, read from the table."""
    rows = prompt_index(prompts, model.vocabulary)[:, None]
    return jax.nn.log_softmax(model.logits)[rows, response_index(responses, model.vocabulary)]


@logprob.value_head.register(Tabular)
def value_head(model: Tabular) -> Float[Array, "prompt node"]:
    """One value for every prompt and unfinished prefix, all 0."""
    count = count_responses(model.vocabulary, model.time - 1)
    return jnp.zeros((model.logits.shape[0], count))


@logprob.response_values.register(Tabular)
def response_values(
    model: Tabular,
    head: Float[Array, "prompt node"],
    prompts: Prompt,
    responses: Response,
    shared: bool,
) -> tuple[Float[Array, "n count response vocabulary"], Float[Array, "n count response"]]:
    """Logits, and values read from a separate table: nothing is shared with the policy."""
    place = nodes(responses, model.vocabulary)
    rows = prompt_index(prompts, model.vocabulary)[:, None, None]
    return response_logits(model, prompts, responses), head[rows, place]


@decode.sample.register(Tabular)
def sample(
    model: Tabular, prompts: Prompt, keys: Key[Array, " n"], time: int, count: int
) -> decode.Sample:
    """Draw whole responses, one random number each, with the keys of the transformer's sampling.

    Raises `InvalidInput` if ``time`` is not the table's.
    """
    if time != model.time:
        raise InvalidInput(f"time must be {model.time}, as in the table, got {time}")
    keys = jax.vmap(lambda key: jax.random.split(key, count))(keys)
    numbers = jax.vmap(jax.vmap(lambda key: decode.uniform(key, jnp.asarray(0))))(keys)
    draws = jax.vmap(decode.draw, in_axes=(0, None))
    index = jax.vmap(draws)(numbers, model.rows(prompts))
    every = all_responses(model.vocabulary, time)
    response = jax.tree.map(lambda x: x[index], every)
    logits = response_logits(model, prompts, response)
    return decode.Sample(response, logprob.token_logprobs(logits, response))


@logprob.exact_kl.register(Tabular)
def exact_kl(policy: Tabular, reference: Tabular, prompts: Prompt) -> Float[Array, " n"]:
    """The KL divergence, summed over all responses."""
    ours, theirs = (jax.nn.log_softmax(model.rows(prompts)) for model in (policy, reference))
    return jax.vmap(quantities.kl)(ours, theirs)
