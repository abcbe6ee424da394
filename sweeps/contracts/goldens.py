"""Requirements on golden rewards, and their check."""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sweeps.contracts.sentences import computed, named, ours, require_traced
from testbed.environment import AbstractGolden
from testbed.errors import InvalidInput
from testbed.types import Prompt, Response, within

#: Number of prompts for which all responses are tried.
ASKED = 4
#: Largest difference between two rewards of one text that counts as rounding, as a share of the largest reward.
ROUNDING = 1e-3

Text = TypeVar("Text", Prompt, Response)


_ALONE = "a reward of the text alone: use"
#: The ways in which rewards are computed again, and what a golden reward needs whose rewards are then others.
_AGAIN = {
    "computed a second time and alone": "the same reward of the same text at any time, so no random numbers of numpy",
    "with other tokens behind the end of the prompt": f"{_ALONE} `prompt.length`",
    "with other tokens behind the end of the response": f"{_ALONE} `response.mask`",
}


def check_golden(
    golden: AbstractGolden,
    prompts: Prompt,
    texts: Response,
    vocabulary: int,
    rewards: Float[np.ndarray, " text"],
) -> None:
    """Check the rewards of responses to as many prompts, computed by one program with `jax.vmap`. Rewards must be
    finite; the same when they are computed again, one text at a time and in another program; independent of tokens
    behind the end of a prompt or a response; different between responses to one prompt. Raises `InvalidInput`."""
    check_rewards(golden, texts, rewards)
    one_by_one = functools.partial(_one_by_one, vocabulary)
    repeats, answers = computed(golden, "", one_by_one, golden, prompts, texts)
    for again, (kind, advice) in zip(repeats, _AGAIN.items(), strict=True):
        require_same(golden, rewards, again, kind, advice)
    if np.max(np.ptp(answers, axis=1)) <= 1e-6 * np.max(np.abs(rewards)):
        raise InvalidInput(
            f"{_named(golden)} gives all of {rewards.size} responses to a prompt the same reward, for each of {ASKED} "
            "prompts: needs rewards that differ between responses to one prompt"
        )


def _one_by_one(
    vocabulary: int, golden: AbstractGolden, prompts: Prompt, texts: Response
) -> tuple[Float[Array, "way text"], Float[Array, "asked text"]]:
    """Rewards of the texts in the ways of `_AGAIN`, and rewards of all responses to each of `ASKED` prompts. One loop
    computes all of them, so that the golden reward is compiled only once."""
    count = texts.length.shape[0]
    asked = jnp.arange(ASKED) * count // ASKED
    first, second = jnp.repeat(asked, count), jnp.tile(jnp.arange(count), ASKED)
    take: Callable = lambda text, rows: jax.tree.map(lambda x: x[rows], text)  # noqa: E731
    groups = [
        (prompts, texts),
        (_junk(prompts, vocabulary), texts),
        (prompts, _junk(texts, vocabulary)),
        (take(prompts, first), take(texts, second)),
    ]
    rows = jax.tree.map(lambda *parts: jnp.concatenate(parts), *groups)
    rewards = jax.lax.map(lambda pair: golden(*pair), rows)
    repeats, answers = jnp.split(rewards, [len(_AGAIN) * count])
    return repeats.reshape(-1, count), answers.reshape(ASKED, count)


def _junk(text: Text, vocabulary: int) -> Text:
    """The same texts, with tokens behind their ends that are not end tokens."""
    size = text.tokens.shape[1]
    other = jnp.broadcast_to(1 + jnp.arange(size) % (vocabulary - 1), text.tokens.shape)
    return type(text)(jnp.where(within(text.length, size), text.tokens, other), text.length)


def require_same(
    golden: AbstractGolden,
    rewards: Float[np.ndarray, " text"],
    again: Float[np.ndarray, " text"],
    kind: str,
    advice: str,
) -> None:
    """Refuse rewards that differ by more than rounding from those of the same texts."""
    apart = np.abs(np.asarray(again, np.float64) - rewards)
    # NaN counts as a difference.
    worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
    if not apart[worst] <= ROUNDING * np.max(np.abs(rewards)):
        raise InvalidInput(
            f"{_named(golden)} is {rewards[worst]:.6g} for a text and {again[worst]:.6g} for the same text {kind}: "
            f"needs {advice}"
        )


def check_golden_shape(golden: AbstractGolden, prompt: Prompt, response: Response) -> None:
    """The reward must be one floating-point number per text. Raises `InvalidInput`."""
    use: Callable = lambda g, p, r: g(p, r)  # noqa: E731
    require_traced(golden, "", (), "one number a response", use, golden, prompt, response)


def check_rewards(
    golden: AbstractGolden, texts: Response, rewards: Float[np.ndarray, " text"]
) -> None:
    """Golden rewards of texts must be finite for any text that a policy may write, and not all the same. Raises
    `InvalidInput`."""
    what, rewards = _named(golden), np.asarray(rewards, np.float64)
    bad = np.flatnonzero(~np.isfinite(rewards))
    if bad.size:
        row = bad[0]
        tokens = np.asarray(texts.tokens)[row][: int(texts.length[row])].tolist()
        raise InvalidInput(
            f"{what} is {rewards[row]} for {bad.size} of {rewards.size} texts, such as the response of tokens "
            f"{tokens}: needs a finite number for every text"
        )
    if np.ptp(rewards) <= 1e-6 * np.max(np.abs(rewards)):
        raise InvalidInput(
            f"{what} is {rewards[0]:.6g} for all of {rewards.size} texts: needs rewards that differ between texts"
        )


def _named(golden: AbstractGolden) -> str:
    """The name of a golden reward, with users' golden rewards that a golden reward of the testbed contains."""
    inside = [type(part).__name__ for part in parts(golden) if not ours(type(part))]
    return named(golden) + (f" of {', '.join(inside)}" if ours(type(golden)) and inside else "")


def parts(golden: AbstractGolden) -> list[AbstractGolden]:
    """A golden reward and the golden rewards inside it, at any depth."""
    leaves = jax.tree.leaves(
        golden, is_leaf=lambda x: isinstance(x, AbstractGolden) and x is not golden
    )
    inside = [part for part in leaves if isinstance(part, AbstractGolden)]
    return [golden, *(each for part in inside for each in parts(part))]
