"""The shape of a transformer: widths, depth, and variants of the families of checkpoints."""

import math
from typing import Literal

import equinox as eqx

from testbed.config import ranges
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput
from testbed.nn.matmul import Precision
from testbed.nn.rotary import Llama3Scaling


class TransformerConfig(eqx.Module):
    """Shape of a transformer; every field is static, so it is part of the compile key.

    Attributes:
        width: residual stream. heads: query heads. key_value_heads: key and value heads (divides ``heads``).
        mlp_width: hidden units; 0 means four times ``width`` and for SwiGLU 8/3 of it, rounded up to a multiple of 8,
            which costs the same floating-point operations.
        attention_bias: of queries, keys and values.
        temperature: divides the logits in both sampling and scoring, because it belongs to the policy.
        precision: of matrix products; parameters stay float32. bfloat16 is for GPUs: a product reads half as many
            bytes.
        head_width: of one attention head; 0 means ``width / heads``.
        head_norms: RMSNorm of every query and key head (as in Qwen3).
        norm: "rms", or "layer" for LayerNorm with a shift (as in GPT-2).
        mlp: "swiglu", or "gelu" for two layers without a gate (as in GPT-2).
        output_bias: of attention's output and of both layers of a "gelu" MLP.
        learned_positions: size of a table of learned positions that is added to the embeddings; 0 means rotary
            positions.
        rope_scaling: of rotary frequencies.
        context: positions that the weights were trained for; 0 if no limit is known. It changes no number: longer texts
            are refused (`room`).
        checkpointing: for the backward pass keep only the input of each block, and compute the rest again: a third more
            products for less memory (Chen et al. 2016, arXiv 1604.06174).
    """

    width: int = hyper(64, least=1, static=True)
    layers: int = hyper(2, least=1, static=True)
    heads: int = hyper(4, least=1, static=True)
    key_value_heads: int = hyper(4, least=1, static=True)
    mlp_width: int = hyper(0, least=0, static=True)
    rope_base: float = hyper(10_000.0, above=0, static=True)
    norm_epsilon: float = hyper(1e-5, above=0, static=True)
    tied: bool = eqx.field(static=True, default=False)
    attention_bias: bool = eqx.field(static=True, default=False)
    temperature: float = hyper(1.0, above=0, static=True)
    precision: Precision = eqx.field(static=True, default="float32")
    head_width: int = hyper(0, least=0, static=True)
    head_norms: bool = eqx.field(static=True, default=False)
    norm: Literal["rms", "layer"] = eqx.field(static=True, default="rms")
    mlp: Literal["swiglu", "gelu"] = eqx.field(static=True, default="swiglu")
    output_bias: bool = eqx.field(static=True, default=False)
    learned_positions: int = hyper(0, least=0, static=True)
    rope_scaling: Llama3Scaling | None = None
    context: int = hyper(0, least=0, static=True)
    checkpointing: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        ranges.check(self)
        if self.head_width == 0 and self.width % (2 * self.heads):
            raise InvalidInput(
                f"heads must divide width into heads of even size (rotary positions turn pairs), "
                f"got heads={self.heads} for width={self.width}"
            )
        if self.heads % self.key_value_heads:
            raise InvalidInput(
                f"key_value_heads must divide heads={self.heads}, got {self.key_value_heads}"
            )
        if self.head_width % 2:
            raise InvalidInput(
                f"head_width must be 0 (width / heads) or even and positive, got {self.head_width}"
            )
        if self.output_bias and self.mlp != "gelu":
            raise InvalidInput(f"output_bias goes with mlp=gelu, got output_bias with {self.mlp}")
        if self.learned_positions and self.rope_scaling is not None:
            raise InvalidInput(
                "rope_scaling is of rotary positions, and goes with learned_positions=0, "
                f"got {self.learned_positions}"
            )

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_width or self.width // self.heads

    @property
    def room(self) -> int | None:
        """The longest text that may be read, in tokens; None if there is no limit."""
        return min(filter(None, (self.context, self.learned_positions)), default=None)

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_size

    @property
    def key_width(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.key_value_heads * self.head_size

    @property
    def hidden(self) -> int:
        """Hidden units of the MLP."""
        usual = 8 * math.ceil(self.width / 3) if self.mlp == "swiglu" else 4 * self.width
        return self.mlp_width or usual

    @property
    def mlp_products(self) -> int:
        """Matrices of the MLP, each of ``width * hidden`` weights."""
        return 3 if self.mlp == "swiglu" else 2

    def parameters(self, vocabulary: int) -> int:
        """Number of parameters of a `Transformer` of this shape."""
        projected = self.query_width + 2 * self.key_width
        norm = self.width * (2 if self.norm == "layer" else 1)
        block = self.width * (projected + self.query_width + self.mlp_products * self.hidden)
        block += 2 * norm
        block += projected if self.attention_bias else 0
        block += 2 * self.width + self.hidden if self.output_bias else 0
        block += 2 * self.head_size if self.head_norms else 0
        tables = vocabulary * (1 if self.tied else 2) + self.learned_positions
        return self.layers * block + norm + tables * self.width


def _size(width: int, layers: int, heads: int) -> TransformerConfig:
    return TransformerConfig(width=width, layers=layers, heads=heads, key_value_heads=heads)


#: A ladder of sizes: each has about four times the parameters of the one before.
SIZES: dict[str, TransformerConfig] = {
    "XS": _size(32, 2, 2),
    "S": _size(64, 2, 4),
    "M": _size(128, 2, 4),
    "L": _size(192, 4, 6),
    "XL": _size(320, 6, 10),
}
