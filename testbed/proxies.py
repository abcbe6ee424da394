"""Learned proxies of the golden preference: a pairwise preference model and a pointwise reward model.

Both are the policies' transformer with a scalar head read at the last token.
"""

import abc
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from testbed.optimiser import FitConfig, OptimizerConfig
from testbed.preference import AbstractPreference
from testbed.transformer import Transformer, TransformerConfig
from testbed.types import Pair, Prompt, Response, within


class AbstractProxy(AbstractPreference):
    """A preference model that can be trained on labelled pairs."""

    @classmethod
    @abc.abstractmethod
    def init(cls, key: PRNGKeyArray, config: TransformerConfig, vocabulary: int) -> Self:
        """Random parameters."""

    @abc.abstractmethod
    def loss(self, pairs: Pair) -> Float[Array, " n"]:
        """Negative log-likelihood (nats) of each label."""


class PairwiseProxy(AbstractProxy):
    """r(x, y1, y2) in [0, 1] (arXiv 2405.08448, appendix A): reads ``prompt | first | second``.

    Trained in both orders (its eq. 5). A positional bias remains that an online policy would exploit, so a comparison
    uses the order-antisymmetric score, whose sign is that of r(x, y1, y2) - r(x, y2, y1) (its appendix A.2).
    """

    trunk: Transformer
    segments: Float[Array, "segment width"]
    readout: Float[Array, " width"]

    @classmethod
    def init(cls, key: PRNGKeyArray, config: TransformerConfig, vocabulary: int) -> Self:
        """Random parameters; the head starts at zero, so every comparison starts as a fair coin."""
        k_trunk, k_segments = jax.random.split(key)
        return cls(
            trunk=Transformer.init(k_trunk, config, vocabulary),
            segments=jax.random.normal(k_segments, (3, config.width)),
            readout=jnp.zeros(config.width),
        )

    def log_odds(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """logit r(x, first, second): log-odds that the first is preferred, in this order of reading."""
        widths = [prompts.tokens.shape[1], first.tokens.shape[1], second.tokens.shape[1]]
        offsets = [
            jnp.zeros_like(prompts.length),
            prompts.length,
            prompts.length + first.length,
        ]
        lengths = [prompts.length, first.length, second.length]
        tokens = jnp.concatenate([prompts.tokens, first.tokens, second.tokens], axis=1)
        index = jnp.arange(tokens.shape[1])
        positions = jnp.concatenate(
            [o[:, None] + jnp.arange(w)[None] for o, w in zip(offsets, widths, strict=True)], axis=1
        )
        valid = jnp.concatenate(
            [within(n, w) for n, w in zip(lengths, widths, strict=True)], axis=1
        )
        # A padded query may see itself alone: nobody reads it, and its softmax stays finite.
        mask = ((index[:, None] >= index[None])[None] & valid[:, None]) | (index[:, None] == index[None])[None]
        extra = jnp.repeat(self.segments, jnp.asarray(widths), axis=0, total_repeat_length=len(index))
        hidden, _ = self.trunk.hidden(
            tokens, positions, mask, extra=jnp.broadcast_to(extra, (*tokens.shape, extra.shape[1]))
        )
        last = widths[0] + widths[1] + second.length - 1
        return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0] @ self.readout

    def margin(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """Half the difference of log-odds between the two orders of reading."""
        twice = jax.tree.map(lambda a: jnp.concatenate([a, a]), prompts)
        left = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
        right = jax.tree.map(lambda a, b: jnp.concatenate([b, a]), first, second)
        forward, backward = jnp.split(self.log_odds(twice, left, right), 2)
        return 0.5 * (forward - backward)

    def loss(self, pairs: Pair) -> Float[Array, " n"]:
        """Both orders of reading, half each (arXiv 2405.08448, eq. 5)."""
        forward = self.log_odds(pairs.prompt, pairs.winner, pairs.loser)
        backward = self.log_odds(pairs.prompt, pairs.loser, pairs.winner)
        return -0.5 * (jax.nn.log_sigmoid(forward) + jax.nn.log_sigmoid(-backward))


class PointwiseProxy(AbstractProxy):
    """A Bradley-Terry reward model r(x, y) (Christiano et al. 2017, arXiv 1706.03741, eq. 1)."""

    trunk: Transformer
    readout: Float[Array, " width"]

    @classmethod
    def init(cls, key: PRNGKeyArray, config: TransformerConfig, vocabulary: int) -> Self:
        """Random parameters; the head starts at zero."""
        return cls(Transformer.init(key, config, vocabulary), jnp.zeros(config.width))

    def reward(self, prompts: Prompt, responses: Response) -> Float[Array, " n"]:
        """Reward in log-odds."""
        width = prompts.tokens.shape[1]
        tokens = jnp.concatenate([prompts.tokens, responses.tokens], axis=1)
        index = jnp.arange(tokens.shape[1])
        step = jnp.arange(responses.tokens.shape[1])
        positions = jnp.concatenate(
            [
                jnp.broadcast_to(index[:width], prompts.tokens.shape),
                prompts.length[:, None] + step[None],
            ],
            axis=1,
        )
        valid = within(prompts.length, len(index)) | (index >= width)[None]
        mask = ((index[:, None] >= index[None])[None] & valid[:, None]) | (index[:, None] == index[None])[None]
        hidden, _ = self.trunk.hidden(tokens, positions, mask)
        last = (width + responses.length - 1)[:, None, None]
        return jnp.take_along_axis(hidden, last, axis=1)[:, 0] @ self.readout

    def margin(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """Difference of rewards."""
        twice = jax.tree.map(lambda a: jnp.concatenate([a, a]), prompts)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
        left, right = jnp.split(self.reward(twice, both), 2)
        return left - right

    def loss(self, pairs: Pair) -> Float[Array, " n"]:
        """-log sigmoid(r_w - r_l)."""
        return -jax.nn.log_sigmoid(self.margin(pairs.prompt, pairs.winner, pairs.loser))


class ProxyConfig(eqx.Module):
    """How the proxy is built and trained.

    Attributes:
        pairwise: `PairwiseProxy`, as in arXiv 2405.08448; otherwise `PointwiseProxy`.
        fit: its training on D_golden.
    """

    pairwise: bool = eqx.field(static=True, default=True)
    fit: FitConfig = FitConfig(
        steps=600, batch_size=64, optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.1)
    )

    def init(
        self, key: PRNGKeyArray, config: TransformerConfig, vocabulary: int
    ) -> PairwiseProxy | PointwiseProxy:
        """An untrained proxy."""
        kind = PairwiseProxy if self.pairwise else PointwiseProxy
        return kind.init(key, config, vocabulary)
