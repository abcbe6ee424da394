"""One decoder-only transformer for policies, writers, rewards, proxies and real checkpoints.

Pre-norm blocks with RMSNorm (arXiv 1910.07467), rotary positions (2104.09864, half-split layout), grouped-query
attention (2305.13245) and SwiGLU (2002.05202). The one part of the system that takes batches natively instead of being
written for one example: every leading axis is folded into the rows of two-dimensional matrix products, whose
gradients XLA computes 1.6 times as fast on a CPU as those of the three-dimensional ones `jax.vmap` makes.
"""

import functools
import math
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from testbed.arithmetic import LowRank, Precision, contract, dtype, linear
from testbed.errors import InvalidInput

#: Attention logit of an invisible key: finite, so that a row that sees nothing has no NaN in its gradient.
MASKED = -1e30


class TransformerConfig(eqx.Module):
    """Shape of a transformer; every field is static, so it is part of the compile key.

    Attributes:
        width: residual stream. heads: query heads. key_value_heads: key and value heads (divides ``heads``).
        mlp_width: hidden units of SwiGLU; 0 means 8/3 of ``width``, rounded up to a multiple of 8, which costs the
            floating-point operations of a plain MLP four times as wide.
        temperature: divides the logits in sampling and scoring alike: it belongs to the policy.
        precision: of matrix products; parameters stay float32. bfloat16 is for GPUs: it halves what a product reads.
        checkpointing: keep of each block only its input for the backward pass, which computes the rest again: a third
            more products for less memory (Chen et al. 2016, arXiv 1604.06174).
    """

    width: int = eqx.field(static=True, default=64)
    layers: int = eqx.field(static=True, default=2)
    heads: int = eqx.field(static=True, default=4)
    key_value_heads: int = eqx.field(static=True, default=4)
    mlp_width: int = eqx.field(static=True, default=0)
    rope_base: float = eqx.field(static=True, default=10_000.0)
    norm_epsilon: float = eqx.field(static=True, default=1e-5)
    tied: bool = eqx.field(static=True, default=False)
    attention_bias: bool = eqx.field(static=True, default=False)
    temperature: float = eqx.field(static=True, default=1.0)
    precision: Precision = eqx.field(static=True, default="float32")
    checkpointing: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        for name in ("width", "layers", "heads", "key_value_heads"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % (2 * self.heads):
            raise InvalidInput(
                f"heads must divide width into heads of even size (rotary positions turn pairs), "
                f"got heads={self.heads} for width={self.width}"
            )
        if self.heads % self.key_value_heads:
            raise InvalidInput(
                f"key_value_heads must divide heads={self.heads}, got {self.key_value_heads}"
            )
        if self.mlp_width < 0:
            raise InvalidInput(f"mlp_width must be 0 (default ratio) or more, got {self.mlp_width}")
        for name in ("rope_base", "norm_epsilon", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInput(f"{name} must be > 0 and finite, got {getattr(self, name)}")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Hidden units of the SwiGLU layer."""
        return self.mlp_width or 8 * math.ceil(self.width / 3)

    def parameters(self, vocabulary: int) -> int:
        """Number of parameters of a `Transformer` of this shape."""
        projected = (self.heads + 2 * self.key_value_heads) * self.head_size
        block = self.width * (projected + self.width + 3 * self.hidden + 2)
        block += projected if self.attention_bias else 0
        return self.layers * block + self.width + vocabulary * self.width * (1 if self.tied else 2)


def _size(width: int, layers: int, heads: int) -> TransformerConfig:
    return TransformerConfig(width=width, layers=layers, heads=heads, key_value_heads=heads)


#: The ladder of sizes, each about four times the parameters of the one before.
SIZES: dict[str, TransformerConfig] = {
    "XS": _size(32, 2, 2),
    "S": _size(64, 2, 4),
    "M": _size(128, 2, 4),
    "L": _size(192, 4, 6),
    "XL": _size(320, 6, 10),
}


def rms_norm(x: Float[Array, "rows width"], scale: Float[Array, " width"], epsilon: float) -> Array:
    """Divide by the root mean square over the last axis and scale (arXiv 1910.07467, eq. 4)."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * scale[None]


def rotary_angles(
    positions: Int[Array, " time"], head_size: int, base: float
) -> tuple[Float[Array, "time size"], Float[Array, "time size"]]:
    """Cosine and signed sine of position times inverse frequency (arXiv 2104.09864, eq. 15), for both halves."""
    frequency = base ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
    angle = positions.astype(jnp.float32)[:, None] * frequency[None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)


def rotate(x: Float[Array, "n heads time size"], cos: Array, sin: Array) -> Array:
    """Turn the pairs (x_i, x_{i+size/2}) of every head by their position's angles.

    Written with a roll: (l, r) cos + (-r, l) sin is one fused loop, two concatenated halves are not."""
    return x * cos[:, None] + jnp.roll(x, x.shape[-1] // 2, axis=-1) * sin[:, None]


@jax.custom_vjp
def softmax(x: Float[Array, "*n keys"]) -> Float[Array, "*n keys"]:
    """Softmax over the last axis. Its gradient is spelt out because the library's compiles to a reduction that
    costs XLA's CPU backend a tenth of a training step; a test compares the two."""
    unnormalised = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return unnormalised / jnp.sum(unnormalised, axis=-1, keepdims=True)


def _softmax_forward(x: Array) -> tuple[Array, Array]:
    y = softmax(x)
    return y, y


def _softmax_backward(y: Array, g: Array) -> tuple[Array]:
    return (y * (g - jnp.sum(y * g, axis=-1, keepdims=True)),)


softmax.defvjp(_softmax_forward, _softmax_backward)


@jax.custom_vjp
def swiglu(
    gate: Float[Array, "rows hidden"], up: Float[Array, "rows hidden"]
) -> Float[Array, "rows hidden"]:
    """silu(gate) * up (arXiv 2002.05202). For its gradient it keeps the sigmoid alone; the library keeps, and so writes
    and reads, silu(gate) too."""
    return _swiglu_forward(gate, up)[0]


def _swiglu_forward(gate: Array, up: Array) -> tuple[Array, tuple[Array, ...]]:
    opened = jax.nn.sigmoid(gate)
    return gate * opened * up, (gate, up, opened)


def _swiglu_backward(kept: tuple[Array, ...], g: Array) -> tuple[Array, Array]:
    gate, up, opened = kept
    passed = g * opened
    return up * passed * (1.0 + gate * (1.0 - opened)), gate * passed


swiglu.defvjp(_swiglu_forward, _swiglu_backward)


class Cache(eqx.Module):
    """Keys and values of one block for every position written so far."""

    keys: Float[Array, "*n kv capacity size"]
    values: Float[Array, "*n kv capacity size"]


class Block(eqx.Module):
    """One pre-norm block: attention, then SwiGLU."""

    attention_norm: Float[Array, " width"]
    query: Float[Array, "width width"] | LowRank
    key: Float[Array, "width kv_width"] | LowRank
    value: Float[Array, "width kv_width"] | LowRank
    biases: (
        tuple[Float[Array, " width"], Float[Array, " kv_width"], Float[Array, " kv_width"]] | None
    )
    attention_out: Float[Array, "width width"] | LowRank
    mlp_norm: Float[Array, " width"]
    gate: Float[Array, "width hidden"] | LowRank
    up: Float[Array, "width hidden"] | LowRank
    down: Float[Array, "hidden width"] | LowRank
    config: TransformerConfig

    @classmethod
    def init(cls, key: PRNGKeyArray, config: TransformerConfig) -> Self:
        """Normal weights of variance 1/fan-in; what adds to the residual stream is scaled by depth."""
        width, hidden = config.width, config.hidden
        kv_width = config.key_value_heads * config.head_size
        k_query, k_key, k_value, k_out, k_gate, k_up, k_down = jax.random.split(key, 7)
        residual = 1.0 / math.sqrt(2 * config.layers)
        return cls(
            attention_norm=jnp.ones(width),
            query=_normal(k_query, (width, width)),
            key=_normal(k_key, (width, kv_width)),
            value=_normal(k_value, (width, kv_width)),
            biases=(jnp.zeros(width), jnp.zeros(kv_width), jnp.zeros(kv_width))
            if config.attention_bias
            else None,
            attention_out=residual * _normal(k_out, (width, width)),
            mlp_norm=jnp.ones(width),
            gate=_normal(k_gate, (width, hidden)),
            up=_normal(k_up, (width, hidden)),
            down=residual * _normal(k_down, (hidden, width)),
            config=config,
        )

    def project(
        self, x: Float[Array, "rows width"], n: int = 1, skip: int = 0
    ) -> tuple[Array, Array, Array]:
        """Queries, keys and values, each (rows, heads * size), of which a row knows nothing but itself. The first
        ``skip`` of each of ``n`` sequences have no query. Three products, not one: splitting a joint one costs more in
        its gradient than it saves."""
        normed = rms_norm(x, self.attention_norm, self.config.norm_epsilon)
        asking = _behind(normed, n, skip)
        query, key, value = (
            linear(rows, weight, self.config.precision)
            for rows, weight in ((asking, self.query), (normed, self.key), (normed, self.value))
        )
        if self.biases is None:
            return query, key, value
        for_query, for_key, for_value = (bias[None] for bias in self.biases)
        return query + for_query, key + for_key, value + for_value

    def __call__(
        self,
        x: Float[Array, "rows width"],
        projected: tuple[Array, Array, Array],
        rotary: tuple[Array, Array],
        mask: Bool[Array, "n time keys"],
        cache: Cache | None = None,
        offset: Int[Array, ""] | int = 0,
        skip: int = 0,
    ) -> tuple[Float[Array, "kept width"], Cache]:
        """Apply the block to ``n * time`` rows, given also as `project`ed. With a cache, new keys and values are
        written from ``offset`` on and all of its positions are attended to, as far as ``mask`` allows. The first
        ``skip`` positions give keys and values only, and have no query."""
        n = mask.shape[0]
        queries, keys, values = projected
        precision, kind = self.config.precision, dtype(self.config.precision)
        keys = rotate(self._heads(keys, n), *rotary).astype(kind)
        values = self._heads(values, n).astype(kind)
        if cache is not None:
            keys = jax.lax.dynamic_update_slice_in_dim(cache.keys, keys, offset, axis=2)
            values = jax.lax.dynamic_update_slice_in_dim(cache.values, values, offset, axis=2)
        x, mask = _behind(x, n, skip), mask[:, skip:]
        rotary = (rotary[0][:, skip:], rotary[1][:, skip:])
        queries = rotate(self._heads(queries, n), *rotary) * self.config.head_size**-0.5
        mixed = self._attend(queries, keys, values, mask)
        x = x + linear(mixed, self.attention_out, precision, jnp.float32)
        inner = rms_norm(x, self.mlp_norm, self.config.norm_epsilon)
        opened = swiglu(*(linear(inner, weight, precision) for weight in (self.gate, self.up)))
        x = x + linear(opened, self.down, precision, jnp.float32, turn=False)
        return x, Cache(keys, values)

    def _heads(self, rows: Array, n: int) -> Float[Array, "n heads time size"]:
        """Queries, keys or values of rows, head by head."""
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
        weights = softmax(jnp.where(mask[:, None], logits, MASKED))
        mixed = contract("nhqk,nhkd->nhqd", weights, values, precision).swapaxes(1, 2)
        return mixed.reshape(-1, self.config.width)


class Transformer(eqx.Module):
    """Embedding, blocks, final norm and next-token head.

    ``model(tokens)`` maps token ids ``(time,)`` to next-token logits ``(time, vocabulary)`` under a causal mask;
    `hidden` is the general form with explicit positions, mask and cache.
    """

    embedding: Float[Array, "vocabulary width"]
    blocks: tuple[Block, ...]
    norm: Float[Array, " width"]
    head: Float[Array, "width vocabulary"] | None
    config: TransformerConfig

    @classmethod
    def init(cls, key: PRNGKeyArray, config: TransformerConfig, vocabulary: int) -> Self:
        """Random parameters; see `Block.init`."""
        k_embed, k_head, *k_blocks = jax.random.split(key, 2 + config.layers)
        embedding = jax.random.normal(k_embed, (vocabulary, config.width))
        return cls(
            embedding=embedding * (config.width**-0.5 if config.tied else 1.0),
            blocks=tuple(Block.init(k, config) for k in k_blocks),
            norm=jnp.ones(config.width),
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

        ``caches`` has the same leading axes as ``tokens``, which are embedded by ``table``, by default
        `embedding`; ``extra`` is added. The states of the first ``skip`` positions are not wanted: the
        last block spares their queries and its MLP."""
        lead = tokens.shape[:-1]
        x, projected = self._embedded(tokens.reshape(-1), table, extra)
        mask = mask.reshape(-1, *mask.shape[-2:])
        # Positions stay below the number of keys, so a table of that length holds every angle.
        angles = rotary_angles(
            jnp.arange(mask.shape[-1]), self.config.head_size, self.config.rope_base
        )
        flat = positions.reshape(-1, positions.shape[-1])
        rotary = (angles[0][flat], angles[1][flat])
        written = []
        for index, block in enumerate(self.blocks):
            cache = None
            if caches is not None:
                cache = jax.tree.map(lambda a: a.reshape(-1, *a.shape[-3:]), caches[index])
            spared = skip if index == len(self.blocks) - 1 else 0
            given = None
            if index == 0:
                given = (_behind(projected[0], mask.shape[0], spared), *projected[1:])
            apply = functools.partial(_applied, offset=offset, skip=spared)
            if self.config.checkpointing and caches is None:
                apply = jax.checkpoint(apply)
            x, cache = apply(block, x, given, rotary, mask, cache)
            written.append(jax.tree.map(lambda a: a.reshape(*lead, *a.shape[1:]), cache))
        x = rms_norm(x, self.norm, self.config.norm_epsilon)
        return x.reshape(*lead, -1, self.config.width), tuple(written)

    def _embedded(
        self,
        rows: Int[Array, " rows"],
        table: Float[Array, "entries width"] | None,
        extra: Float[Array, "*n width"] | None,
    ) -> tuple[Float[Array, "rows width"], tuple[Array, Array, Array]]:
        """Embeddings of tokens, and what the first block projects them to. Of a table with fewer entries than there are
        rows every entry is projected once, and the gradient is summed by entry before it is multiplied."""
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
        return logits if self.config.temperature == 1.0 else logits / self.config.temperature

    def __call__(self, tokens: Int[Array, "*n time"]) -> Float[Array, "*n time vocabulary"]:
        """Next-token logits at every position under a causal mask."""
        index = jnp.arange(tokens.shape[-1])
        positions = jnp.broadcast_to(index, tokens.shape)
        mask = jnp.broadcast_to(index[:, None] >= index[None], (*tokens.shape, tokens.shape[-1]))
        return self.logits(self.hidden(tokens, positions, mask)[0])


def _applied(
    block: Block,
    x: Float[Array, "rows width"],
    projected: tuple[Array, Array, Array] | None,
    rotary: tuple[Array, Array],
    mask: Bool[Array, "n time keys"],
    cache: Cache | None,
    offset: Int[Array, ""] | int,
    skip: int,
) -> tuple[Float[Array, "kept width"], Cache]:
    """`Block.__call__` of rows that it projects itself, if they are not given as projected."""
    if projected is None:
        projected = block.project(x, mask.shape[0], skip)
    return block(x, projected, rotary, mask, cache, offset, skip)


def _behind(x: Float[Array, "rows width"], n: int, skip: int) -> Float[Array, "kept width"]:
    """Of ``n`` sequences the rows from ``skip`` on; `split`, because its gradient is a concatenation."""
    if not skip:
        return x
    return jnp.split(x.reshape(n, -1, x.shape[-1]), [skip], axis=1)[1].reshape(-1, x.shape[-1])


def _normal(key: PRNGKeyArray, shape: tuple[int, int]) -> Array:
    return shape[0] ** -0.5 * jax.random.normal(key, shape)
