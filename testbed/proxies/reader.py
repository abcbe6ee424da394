"""ProxyConfig: a proxy that reads whole texts, a transformer with a scalar head, trained as a whole.

The proxy is a pairwise preference model or a pointwise reward model.
"""

import dataclasses
from typing import Any, Self, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from testbed.environment import AbstractTask
from testbed.errors import InvalidInput
from testbed.optimiser import FitConfig, OptimiserConfig, fit
from testbed.proxies.base import AbstractProxy, AbstractProxyConfig, Reading, cross_entropy
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import END_TOKEN, Pair, Prompt, Response, within


class Reader(eqx.Module):
    """A transformer that reads several parts of text in sequence and gives one score.

    The parts are padded on the right. An embedding for each part marks its tokens, positions continue over the padding,
    and a read-out token behind the last part sees every token of every part.
    """

    trunk: Transformer
    marks: Float[Array, "mark width"]
    readout: Float[Array, " width"]

    @classmethod
    def init(
        cls, key: PRNGKeyArray, config: TransformerConfig, vocabulary: int, parts: int
    ) -> Self:
        """Random parameters for ``parts`` parts; the head starts at zero, and so does every score."""
        k_trunk, k_marks = jax.random.split(key)
        return cls(
            trunk=Transformer.init(k_trunk, config, vocabulary),
            marks=jax.random.normal(k_marks, (parts + 1, config.width)),
            readout=jnp.zeros(config.width),
        )

    def __call__(self, *parts: Prompt | Response) -> Float[Array, " n"]:
        """Scores of ``n`` texts."""
        n = parts[0].length.shape[0]
        end = jnp.full((n, 1), END_TOKEN, dtype=parts[0].tokens.dtype)
        tokens = jnp.concatenate([*(part.tokens for part in parts), end], axis=1)
        widths = [*(part.tokens.shape[1] for part in parts), 1]
        lengths = [*(part.length for part in parts), jnp.ones(n, dtype=jnp.int32)]
        starts = jnp.cumsum(jnp.stack(lengths), axis=0) - jnp.stack(lengths)
        positions = [s[:, None] + jnp.arange(w)[None] for s, w in zip(starts, widths, strict=True)]
        valid = [within(length, width) for length, width in zip(lengths, widths, strict=True)]
        size = tokens.shape[1]
        causal, diagonal = jnp.tri(size, dtype=bool)[None], jnp.eye(size, dtype=bool)[None]
        # A padded query sees at least itself: its output is never read, but its softmax must stay finite.
        mask = (causal & jnp.concatenate(valid, axis=1)[:, None]) | diagonal
        # Each token marked for each part: so few combinations that the trunk may treat them as its vocabulary.
        marked = self.marks[:, None] + self.trunk.embedding[None]
        part = jnp.asarray(np.repeat(np.arange(len(widths), dtype=np.int32), widths))
        hidden, _ = self.trunk.hidden(
            part[None] * self.trunk.vocabulary + tokens,
            jnp.concatenate(positions, axis=1),
            mask,
            skip=size - 1,
            table=marked.reshape(-1, marked.shape[-1]),
        )
        return hidden[:, 0] @ self.readout


class PairwiseProxy(AbstractProxy):
    """r(x, y1, y2) in [0, 1] (arXiv 2405.08448, appendix A): reads prompt, first and second.

    The model is trained in both orders (the paper's eq. 5). A positional bias remains that an online policy would
    exploit, so a comparison uses the order-antisymmetric score, whose sign is that of r(x, y1, y2) - r(x, y2, y1) (the
    paper's appendix A.2).
    """

    reader: Reader

    def log_odds(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """logit r(x, first, second): log-odds that the first is preferred, in this order of reading."""
        return self.reader(prompts, first, second)

    def margin(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """Half the difference of log-odds between the two orders of reading."""
        forward, backward = jnp.split(
            self.log_odds(
                _joined(prompts, prompts), _joined(first, second), _joined(second, first)
            ),
            2,
        )
        return 0.5 * (forward - backward)

    def loss(self, pairs: Pair) -> Float[Array, " n"]:
        """Cross-entropy of both orders of reading, half each (arXiv 2405.08448, eq. 5)."""
        forward = self.log_odds(pairs.prompt, pairs.winner, pairs.loser)
        backward = self.log_odds(pairs.prompt, pairs.loser, pairs.winner)
        p = pairs.preference
        return 0.5 * (cross_entropy(forward, p) + cross_entropy(-backward, p))


class PointwiseProxy(AbstractProxy):
    """A Bradley-Terry reward model r(x, y) (Christiano et al. 2017, arXiv 1706.03741, eq. 1)."""

    reader: Reader

    def margin(self, prompts: Prompt, first: Response, second: Response) -> Float[Array, " n"]:
        """Difference of rewards, in log-odds."""
        left, right = jnp.split(self.reader(_joined(prompts, prompts), _joined(first, second)), 2)
        return left - right

    def loss(self, pairs: Pair) -> Float[Array, " n"]:
        """-log sigmoid(r_w - r_l), in expectation over the label."""
        margin = self.margin(pairs.prompt, pairs.winner, pairs.loser)
        return cross_entropy(margin, pairs.preference)


Text = TypeVar("Text", Prompt, Response)


def _joined(first: Text, second: Text) -> Text:
    """Two batches concatenated."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)


class ProxyConfig(AbstractProxyConfig):
    """How the proxy is built and trained.

    Attributes:
        pairwise: `PairwiseProxy`, as in arXiv 2405.08448; otherwise `PointwiseProxy`.
        fit: its training on D_golden.
        model: its shape; none: the policy's.
    """

    pairwise: bool = eqx.field(static=True, default=True)
    fit: FitConfig = FitConfig(
        steps=600, batch_size=64, optimiser=OptimiserConfig(learning_rate=1e-3, weight_decay=0.1)
    )
    model: TransformerConfig | None = None

    def refuse(self, model: TransformerConfig, base: TransformerConfig, task: AbstractTask) -> None:
        """See `AbstractProxyConfig`: a table of learned positions must be long enough for everything that is read at
        once."""
        tokens = self.reading(model, task, 0).tokens
        room = (self.model or model).learned_positions
        if 0 < room < tokens:
            raise InvalidInput(
                f"proxy.model must have learned_positions for the {tokens} tokens that the proxy "
                f"reads (prompt_length {task.prompt_length}, response_length "
                f"{task.response_length}, pairwise={self.pairwise}), got {room}"
            )

    def form(self, model: TransformerConfig) -> tuple[Any, ...]:
        """The proxy's kind and shape."""
        return self.pairwise, self.model or model

    def trained_by(self, model: TransformerConfig) -> tuple[Any, ...]:
        """This config with the proxy's shape filled in."""
        return (dataclasses.replace(self, model=self.model or model),)

    def train(
        self, key: PRNGKeyArray, model: TransformerConfig, sft: Transformer, pairs: Pair
    ) -> PairwiseProxy | PointwiseProxy:
        """A proxy trained as a whole, from random parameters."""
        k_init, k_fit = jax.random.split(key)
        proxy = self.init(k_init, self.model or model, sft.vocabulary)

        def loss(model: AbstractProxy, pairs: Pair) -> Float[Array, " n"]:
            return pairs.weight * model.loss(pairs)

        return fit(loss, proxy, pairs, self.fit, k_fit)[0]

    def reading(self, model: TransformerConfig, task: AbstractTask, pairs: int) -> Reading:
        """One reading is the whole text with a read-out token; training reads forward and back, as often as ``fit``
        says."""
        responses = 2 if self.pairwise else 1
        shape = self.model or model
        return Reading(
            shape,
            tokens=task.prompt_length + responses * task.response_length + 1,
            wanted=1,
            outputs=1,
            # Each token as marked in each part, for the two readings together.
            embedded=(responses + 2) * task.vocabulary,
            parameters=shape.parameters(task.vocabulary),
            learning=3 * self.fit.cost,
        )

    def init(
        self, key: PRNGKeyArray, config: TransformerConfig, vocabulary: int
    ) -> PairwiseProxy | PointwiseProxy:
        """A proxy with random parameters; every comparison starts as a fair coin."""
        kind, parts = (PairwiseProxy, 3) if self.pairwise else (PointwiseProxy, 2)
        return kind(Reader.init(key, config, vocabulary, parts))
