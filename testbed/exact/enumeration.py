"""Lists of all prompts and all responses of a small task, and the position of each in its list.

Responses are in lexicographic order, token 0 (the end) before all others: with tokens {end, 1, 2} and at most two of
them, ``end``, ``1 end``, ``1 1``, ``1 2``, ``2 end``, ``2 1``, ``2 2``. So responses with the same beginning are
neighbours, and a table over whole responses can be read as a tree over tokens (`testbed.policies.tabular`).
"""

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from testbed.errors import InvalidInput
from testbed.types import END_TOKEN, Prompt, Response

#: Largest ``vocabulary ** response_length``.
LIMIT = 4096
#: Largest number of entries of a table over all prompts and all responses: 16 MiB of float32.
TABLE_LIMIT = 2**22


def check(vocabulary: int, prompt_length: int, response_length: int) -> None:
    """Refuse a task that is too large to enumerate. Raises `InvalidInput`."""
    if vocabulary < 2:
        raise InvalidInput(f"vocabulary must be at least 2, got {vocabulary}")
    for name, value in (("prompt_length", prompt_length), ("response_length", response_length)):
        if value < 1:
            raise InvalidInput(f"{name} must be at least 1, got {value}")
    # Logarithms first: for absurd sizes, computing the power takes much longer than refusing it.
    if response_length * np.log2(vocabulary) > 64 or vocabulary**response_length > LIMIT:
        raise InvalidInput(
            f"vocabulary ** response_length must be at most {LIMIT} to enumerate responses, "
            f"got vocabulary={vocabulary} and response_length={response_length}"
        )
    responses = count_responses(vocabulary, response_length)
    too_many = prompt_length * np.log2(vocabulary - 1) > 64
    if too_many or responses * count_prompts(vocabulary, prompt_length) > TABLE_LIMIT:
        raise InvalidInput(
            f"(vocabulary - 1) ** prompt_length times {responses} responses must be at most {TABLE_LIMIT} to hold a "
            f"table of all of them, got vocabulary={vocabulary} and prompt_length={prompt_length}"
        )


def count_responses(vocabulary: int, time: int) -> int:
    """Number of distinct responses of at most ``time`` tokens: of k tokens before the end for every k < ``time``, and
    of ``time`` tokens without an end. 1 (the empty response) if ``time`` is 0."""
    return sum((vocabulary - 1) ** k for k in range(time + 1))


def count_prompts(vocabulary: int, length: int) -> int:
    """Number of prompts of exactly ``length`` tokens."""
    return (vocabulary - 1) ** length


def all_responses(vocabulary: int, time: int) -> Response:
    """Every distinct response of at most ``time`` tokens (leading axis: response), in lexicographic order."""
    texts = [
        [*text, *[END_TOKEN] * (time - size)]
        for size in range(time + 1)
        for text in itertools.product(range(1, vocabulary), repeat=size)
    ]
    tokens = np.asarray(sorted(texts), dtype=np.int32).reshape(-1, time)
    written = np.sum(tokens != END_TOKEN, axis=1)
    length = np.minimum(written + 1, time).astype(np.int32)
    return Response(jnp.asarray(tokens), jnp.asarray(length))


def response_index(responses: Response, vocabulary: int) -> Int[Array, "*n"]:
    """The position of each response in `all_responses` of the same length limit. Tokens behind an end are ignored.

    For every token except the end, the index moves past the response that ends here, and past all responses that
    continue with a smaller token.
    """
    time = responses.tokens.shape[-1]
    below = np.asarray([count_responses(vocabulary, time - 1 - t) for t in range(time)], np.int32)
    below = jnp.expand_dims(jnp.asarray(below), range(responses.length.ndim))
    written = responses.mask & (responses.tokens != END_TOKEN)
    passed = jnp.where(written, 1 + (responses.tokens - 1) * below, 0)
    return jnp.sum(passed, axis=-1, dtype=jnp.int32)


def all_prompts(vocabulary: int, length: int) -> Prompt:
    """Every prompt of exactly ``length`` tokens, none of them the end token, in lexicographic order."""
    texts = list(itertools.product(range(1, vocabulary), repeat=length))
    tokens = jnp.asarray(np.asarray(texts, dtype=np.int32))
    return Prompt(tokens, jnp.full(len(texts), length, dtype=jnp.int32))


def prompt_index(prompts: Prompt, vocabulary: int) -> Int[Array, "*n"]:
    """The position of each full-length prompt in `all_prompts` of the same length."""
    length = prompts.tokens.shape[-1]
    place = np.asarray([(vocabulary - 1) ** (length - 1 - t) for t in range(length)], np.int32)
    place = jnp.expand_dims(jnp.asarray(place), range(prompts.length.ndim))
    return jnp.sum((prompts.tokens - 1) * place, axis=-1, dtype=jnp.int32)
