"""One decoder-only transformer for policies, writers, rewards, proxies and real checkpoints.

Its blocks are pre-norm with RMSNorm (arXiv 1910.07467), rotary positions (2104.09864, half-split layout), grouped-query
attention (2305.13245) and SwiGLU (2002.05202). Fields of the config select the variants and additions of pretrained
families, such as GPT-2's LayerNorm and learned positions; see `testbed.llm`.

This is the one part of the system that takes batches natively instead of being written for one example: every leading
axis is folded into the rows of two-dimensional matrix products, whose gradients XLA computes 1.6 times as fast on a CPU
as those of the three-dimensional products that `jax.vmap` makes.
"""

import functools
import math
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from testbed.end_tokens import merged_logits
from testbed.errors import InvalidInput
from testbed.nn.activations import gelu, softmax, swiglu
from testbed.nn.matmul import LowRank, contract, dtype, linear
from testbed.nn.norms import LayerNorm, Norm, normalise, rms_norm
from testbed.nn.rotary import rotary_angles, rotate
from testbed.transformer_config import TransformerConfig


class Cache(eqx.Module):
    """Keys and values of one block for every position written so far."""

    keys: Float[Array, "*n kv capacity size"]
    values: Float[Array, "*n kv capacity size"]


class OutputBiases(eqx.Module):
    """Biases of attention's output projection, and of an MLP without a gate."""

    attention_out: Float[Array, " width"]
    up: Float[Array, " hidden"]
    down: Float[Array, " width"]


class Block(eqx.Module):
    """One pre-norm block: attention, then the MLP, which has no ``gate`` if it is not SwiGLU. Matrices may have
    adapters (`testbed.lora`)."""

    attention_norm: Norm
    query: Float[Array, "width q_width"] | LowRank
    key: Float[Array, "width kv_width"] | LowRank
    value: Float[Array, "width kv_width"] | LowRank
    biases: (
        tuple[Float[Array, " q_width"], Float[Array, " kv_width"], Float[Array, " kv_width"]] | None
    )
    head_norms: tuple[Float[Array, " size"], Float[Array, " size"]] | None
    attention_out: Float[Array, "q_width width"] | LowRank
    mlp_norm: Norm
    gate: Float[Array, "width hidden"] | LowRank | None
    up: Float[Array, "width hidden"] | LowRank
    down: Float[Array, "hidden width"] | LowRank
    output_biases: OutputBiases | None
    config: TransformerConfig

    @classmethod
    def init(cls, key: PRNGKeyArray, config: TransformerConfig) -> Self:
        """Normal weights of variance 1/fan-in; weights that write to the residual stream are scaled by depth."""
        width, hidden = config.width, config.hidden
        q_width, kv_width, size = config.query_width, config.key_width, config.head_size
        k_query, k_key, k_value, k_out, k_gate, k_up, k_down = jax.random.split(key, 7)
        residual = 1.0 / math.sqrt(2 * config.layers)
        return cls(
            attention_norm=_norm(config),
            query=_normal(k_query, (width, q_width)),
            key=_normal(k_key, (width, kv_width)),
            value=_normal(k_value, (width, kv_width)),
            biases=(jnp.zeros(q_width), jnp.zeros(kv_width), jnp.zeros(kv_width))
            if config.attention_bias
            else None,
            head_norms=(jnp.ones(size), jnp.ones(size)) if config.head_norms else None,
            attention_out=residual * _normal(k_out, (q_width, width)),
            mlp_norm=_norm(config),
            gate=_normal(k_gate, (width, hidden)) if config.mlp == "swiglu" else None,
            up=_normal(k_up, (width, hidden)),
            down=residual * _normal(k_down, (hidden, width)),
            output_biases=OutputBiases(jnp.zeros(width), jnp.zeros(hidden), jnp.zeros(width))
            if config.output_bias
            else None,
            config=config,
        )

    def project(
        self, x: Float[Array, "rows width"], n: int = 1, skip: int = 0
    ) -> tuple[Array, Array, Array]:
        """Queries, keys and values, each (rows, heads * size); each row depends only on itself. The first ``skip`` rows
        of each of ``n`` sequences have no query. The method computes three products, not one: splitting a joint product
        costs more in its gradient than it saves."""
        normed = normalise(x, self.attention_norm, self.config.norm_epsilon)
        asking = _behind(normed, n, skip)
        query, key, value = (
            linear(rows, weight, self.config.precision)
            for rows, weight in ((asking, self.query), (normed, self.key), (normed, self.value))
        )
        if self.biases is not None:
            for_query, for_key, for_value = (bias[None] for bias in self.biases)
            query, key, value = query + for_query, key + for_key, value + for_value
        if self.head_norms is not None:
            for_queries, for_keys = self.head_norms
            query, key = self._normed(query, for_queries), self._normed(key, for_keys)
        return query, key, value

    def _normed(self, rows: Float[Array, "rows all"], scale: Float[Array, " size"]) -> Array:
        """RMSNorm of each head of queries or keys, in float32 like every norm."""
        heads = rows.reshape(-1, self.config.head_size).astype(jnp.float32)
        return rms_norm(heads, scale, self.config.norm_epsilon).reshape(rows.shape)

    def __call__(
        self,
        x: Float[Array, "rows width"],
        projected: tuple[Array, Array, Array] | None,
        rotary: tuple[Array, Array] | None,
        mask: Bool[Array, "n time keys"],
        cache: Cache | None = None,
        offset: Int[Array, ""] | int = 0,
        skip: int = 0,
    ) -> tuple[Float[Array, "kept width"], Cache]:
        """Apply the block to ``n * time`` rows; ``projected`` is the result of `project` for these rows, computed here
        if it is None. ``rotary`` rotates queries and keys; it is None if ``x`` already contains position embeddings.
        With a cache, new keys and values are written from ``offset`` on, and attention covers all positions of the
        cache that ``mask`` allows. The first ``skip`` positions give keys and values only, and have no query."""
        n = mask.shape[0]
        queries, keys, values = projected or self.project(x, n, skip)
        precision, kind = self.config.precision, dtype(self.config.precision)
        keys = rotate(self._heads(keys, n), rotary).astype(kind)
        values = self._heads(values, n).astype(kind)
        if cache is not None:
            keys = jax.lax.dynamic_update_slice_in_dim(cache.keys, keys, offset, axis=2)
            values = jax.lax.dynamic_update_slice_in_dim(cache.values, values, offset, axis=2)
        x, mask = _behind(x, n, skip), mask[:, skip:]
        if rotary is not None:
            rotary = (rotary[0][:, skip:], rotary[1][:, skip:])
        queries = rotate(self._heads(queries, n), rotary) * self.config.head_size**-0.5
        mixed = self._attend(queries, keys, values, mask)
        x = x + linear(mixed, self.attention_out, precision, jnp.float32)
        if self.output_biases is not None:
            x = x + self.output_biases.attention_out[None]
        return x + self._mlp(x), Cache(keys, values)

    def _mlp(self, x: Float[Array, "rows width"]) -> Float[Array, "rows width"]:
        """The output of the MLP, to be added to the residual stream."""
        precision, biases = self.config.precision, self.output_biases
        inner = normalise(x, self.mlp_norm, self.config.norm_epsilon)
        if self.gate is not None:
            opened = swiglu(*(linear(inner, weight, precision) for weight in (self.gate, self.up)))
        else:
            closed = linear(inner, self.up, precision)
            opened = gelu(closed if biases is None else closed + biases.up[None])
        out = linear(opened, self.down, precision, jnp.float32, turn=False)
        return out if biases is None else out + biases.down[None]

    def _heads(self, rows: Array, n: int) -> Float[Array, "n heads time size"]:
        """Queries, keys or values of rows, arranged by head."""
        size = self.config.head_size
        return rows.reshape(n, -1, rows.shape[-1] // size, size).swapaxes(1, 2)

    def _attend(
        self,
        queries: Float[Array, "n heads time size"],
        keys: Float[Array, "n kv keys size"],
        values: Float[Array, "n kv keys size"],
        mask: Bool[Array, "n time keys"],
    ) -> Float[Array, "rows width"]:
        """Values weighted by attention; query head i reads key head i // group."""
        group = self.config.heads // self.config.key_value_heads
        if group > 1:
            keys, values = (jnp.repeat(a, group, axis=1) for a in (keys, values))
        precision = self.config.precision
        logits = contract("nhqd,nhkd->nhqk", queries, keys, precision, jnp.float32)
        weights = softmax(logits, mask[:, None])
        mixed = contract("nhqk,nhkd->nhqd", weights, values, precision).swapaxes(1, 2)
        return mixed.reshape(-1, self.config.query_width)


class Transformer(eqx.Module):
    """Embedding, blocks, final norm and next-token head.

    ``model(tokens)`` maps token ids ``(time,)`` to next-token logits ``(time, vocabulary)`` under a causal mask;
    `hidden` is the general form with explicit positions, mask and cache.

    ``ends`` are tokens that end a response in addition to token 0, which gets their probability (`testbed.end_tokens`).
    """

    embedding: Float[Array, "vocabulary width"]
    positions: Float[Array, "room width"] | None
    blocks: tuple[Block, ...]
    norm: Norm
    head: Float[Array, "width vocabulary"] | None
    config: TransformerConfig
    ends: tuple[int, ...] = eqx.field(static=True, default=())

    @classmethod
    def init(cls, key: PRNGKeyArray, config: TransformerConfig, vocabulary: int) -> Self:
        """Random parameters; see `Block.init`."""
        k_embed, k_head, *k_blocks = jax.random.split(key, 2 + config.layers)
        embedding = jax.random.normal(k_embed, (vocabulary, config.width))
        spread = config.width**-0.5 if config.tied else 1.0
        positions = None
        if config.learned_positions:
            shape = (config.learned_positions, config.width)
            positions = spread * jax.random.normal(jax.random.fold_in(key, 0), shape)
        return cls(
            embedding=embedding * spread,
            positions=positions,
            blocks=tuple(Block.init(k, config) for k in k_blocks),
            norm=_norm(config),
            head=None if config.tied else _normal(k_head, (config.width, vocabulary)),
            config=config,
        )

    @property
    def vocabulary(self) -> int:
        """Number of token ids, the end token included."""
        return self.embedding.shape[-2]

    def hidden(
        self,
        tokens: Int[Array, "*n time"],
        positions: Int[Array, "*n time"],
        mask: Bool[Array, "*n time keys"],
        caches: tuple[Cache, ...] | None = None,
        offset: Int[Array, ""] | int = 0,
        extra: Float[Array, "*n time width"] | None = None,
        skip: int = 0,
        table: Float[Array, "entries width"] | None = None,
    ) -> tuple[Float[Array, "*n kept width"], tuple[Cache, ...]]:
        """Final normalised hidden states, and every block's keys and values.

        ``caches`` has the same leading axes as ``tokens``, which are embedded by ``table``, by default `embedding`;
        ``extra`` is added. The states of the first ``skip`` positions are not computed: the last block needs neither
        their queries nor their MLP."""
        lead = tokens.shape[:-1]
        if self.positions is not None:
            # NaN for a position beyond the table's end: a clamped position would silently be another one.
            placed = self.positions.at[positions].get(mode="fill", fill_value=jnp.nan)
            extra = placed if extra is None else placed + extra
        x, projected = self._embedded(tokens.reshape(-1), table, extra)
        mask = mask.reshape(-1, *mask.shape[-2:])
        rotary = self._rotary(positions.reshape(-1, positions.shape[-1]), mask.shape[-1])
        written = []
        for index, block in enumerate(self.blocks):
            cache = None
            if caches is not None:
                cache = jax.tree.map(lambda a: a.reshape(-1, *a.shape[-3:]), caches[index])
            spared = skip if index == len(self.blocks) - 1 else 0
            given = None
            if index == 0:
                given = (_behind(projected[0], mask.shape[0], spared), *projected[1:])
            apply = functools.partial(Block.__call__, offset=offset, skip=spared)
            if self.config.checkpointing and caches is None:
                apply = jax.checkpoint(apply)
            x, cache = apply(block, x, given, rotary, mask, cache)
            written.append(jax.tree.map(lambda a: a.reshape(*lead, *a.shape[1:]), cache))
        x = normalise(x, self.norm, self.config.norm_epsilon)
        return x.reshape(*lead, -1, self.config.width), tuple(written)

    def _rotary(
        self, positions: Int[Array, "n time"], keys: int
    ) -> tuple[Float[Array, "n time size"], Float[Array, "n time size"]] | None:
        """Angles of positions, as cosine and sine; None if positions are learned."""
        if self.positions is not None:
            return None
        config = self.config
        # Positions stay below the number of keys, so a table of that length holds every angle.
        angles = rotary_angles(
            jnp.arange(keys), config.head_size, config.rope_base, config.rope_scaling
        )
        return angles[0][positions], angles[1][positions]

    def _embedded(
        self,
        rows: Int[Array, " rows"],
        table: Float[Array, "entries width"] | None,
        extra: Float[Array, "*n width"] | None,
    ) -> tuple[Float[Array, "rows width"], tuple[Array, Array, Array]]:
        """Embeddings of tokens, and the first block's queries, keys and values. If the table has fewer entries than
        there are rows, every entry is projected once, and the gradient is summed by entry before it is multiplied."""
        table = self.embedding if table is None else table
        x, project = table[rows], self.blocks[0].project
        if extra is not None:
            x = x + extra.reshape(x.shape)
        elif table.shape[0] <= rows.shape[0]:
            query, key, value = project(table)
            return x, (query[rows], key[rows], value[rows])
        return x, project(x)

    def logits(self, hidden: Float[Array, "*n width"]) -> Float[Array, "*n vocabulary"]:
        """Next-token logits of hidden states, divided by the policy's temperature."""
        head = self.embedding.T if self.head is None else self.head
        rows = hidden.reshape(-1, self.config.width)
        logits = linear(rows, head, self.config.precision, jnp.float32)
        logits = logits.reshape(*hidden.shape[:-1], -1)
        if self.config.temperature != 1.0:
            logits = logits / self.config.temperature
        return merged_logits(logits, self.ends) if self.ends else logits

    def __call__(self, tokens: Int[Array, "*n time"]) -> Float[Array, "*n time vocabulary"]:
        """Next-token logits at every position under a causal mask. Raises `InvalidInput` if there are more positions
        than were learned."""
        room = self.config.learned_positions
        if room and tokens.shape[-1] > room:
            raise InvalidInput(
                f"a sequence must have at most {room} tokens, for which positions were learned, "
                f"got {tokens.shape[-1]}"
            )
        index = jnp.arange(tokens.shape[-1])
        positions = jnp.broadcast_to(index, tokens.shape)
        mask = jnp.broadcast_to(index[:, None] >= index[None], (*tokens.shape, tokens.shape[-1]))
        return self.logits(self.hidden(tokens, positions, mask)[0])


def _behind(x: Float[Array, "rows width"], n: int, skip: int) -> Float[Array, "kept width"]:
    """The rows from ``skip`` on of each of ``n`` sequences; computed with `split`, because its gradient is a
    concatenation."""
    if not skip:
        return x
    return jnp.split(x.reshape(n, -1, x.shape[-1]), [skip], axis=1)[1].reshape(-1, x.shape[-1])


def _norm(config: TransformerConfig) -> Norm:
    scale = jnp.ones(config.width)
    return scale if config.norm == "rms" else LayerNorm(scale, jnp.zeros(config.width))


def _normal(key: PRNGKeyArray, shape: tuple[int, int]) -> Array:
    return shape[0] ** -0.5 * jax.random.normal(key, shape)
