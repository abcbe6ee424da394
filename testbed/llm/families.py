"""The architectures whose checkpoints are read: shapes from configs, parameters from tensors.

Names of fields and tensors, and what a missing field means, are those of Hugging Face's transformers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from testbed.config import unknown
from testbed.errors import InvalidInput
from testbed.llm.checkpoint import Checkpoint
from testbed.llm.fields import Fields, Tensors
from testbed.norms import LayerNorm
from testbed.positions import Llama3Scaling
from testbed.transformer import Block, OutputBiases, Transformer, TransformerConfig


class Family(NamedTuple):
    """How one architecture is read."""

    shape: Callable[[Fields], TransformerConfig]
    parameters: Callable[[Checkpoint, TransformerConfig, int], Transformer]


def build(checkpoint: Checkpoint) -> Transformer:
    """The transformer of a checkpoint, in float32.

    Raises `InvalidInput` for an architecture, a feature of it or a tensor that cannot be used, by name."""
    fields = Fields(checkpoint)
    names = fields.get("architectures")
    if not isinstance(names, list) or len(names) != 1:
        raise fields.refusal("architectures", names, f"a list of one of {', '.join(FAMILIES)}")
    if names[0] not in FAMILIES:
        raise InvalidInput(f"{checkpoint.path}: {unknown('architecture', names[0], FAMILIES)}")
    family = FAMILIES[names[0]]
    vocabulary = fields.whole("vocab_size")
    try:
        config = family.shape(fields)
    except InvalidInput as problem:
        if str(checkpoint.path) in str(problem):
            raise
        raise InvalidInput(f"{checkpoint.path}: {problem}") from problem
    return family.parameters(checkpoint, config, vocabulary)


def _llama(fields: Fields, **special: Any) -> TransformerConfig:
    """Llama; what its relatives have besides is ``special``."""
    fields.require("hidden_act", ("silu", "swish"), "silu")
    fields.require("attention_bias", (False,), False)
    fields.require("mlp_bias", (False,), False)
    fields.require("partial_rotary_factor", (1.0,), 1.0)
    width, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    base, scaling = _rotary(fields)
    size = fields.whole("head_dim", special.pop("head_width", None) or max(1, width // heads))
    return TransformerConfig(
        width=width,
        layers=fields.whole("num_hidden_layers"),
        heads=heads,
        key_value_heads=fields.whole("num_key_value_heads", heads),
        mlp_width=fields.whole("intermediate_size"),
        rope_base=base,
        norm_epsilon=fields.number("rms_norm_eps", 1e-6),
        tied=fields.flag("tie_word_embeddings", False),
        head_width=0 if size * heads == width else size,
        rope_scaling=scaling,
        **special,
    )


def _qwen2(fields: Fields) -> TransformerConfig:
    """Qwen2: Llama with biases of queries, keys and values."""
    _require_whole_context(fields)
    return _llama(fields, attention_bias=True)


def _qwen3(fields: Fields) -> TransformerConfig:
    """Qwen3: Llama with normed queries and keys."""
    _require_whole_context(fields)
    return _llama(fields, head_norms=True, head_width=128)


def _require_whole_context(fields: Fields) -> None:
    """Refuse windows of attention, if any layer has one that is shorter than the context."""
    if not fields.flag("use_sliding_window", False):
        return
    window, layers = fields.get("sliding_window", 4096), fields.whole("num_hidden_layers")
    kinds = fields.get("layer_types")
    windowed = (
        fields.get("max_window_layers", 28) < layers
        if kinds is None
        else "sliding_attention" in kinds
    )
    if windowed and window < fields.get("max_position_embeddings", 32768):
        raise fields.refusal("use_sliding_window", True, "false: windows are not computed here")


def _rotary(fields: Fields) -> tuple[float, Llama3Scaling | None]:
    """Base and scaling of rotary frequencies: of late in one field, before in two."""
    joint = fields.get("rope_parameters")
    name = "rope_scaling" if joint is None else "rope_parameters"
    given = fields.get(name, {})
    if not isinstance(given, dict):
        raise fields.refusal(name, given, "an object")
    share = given.get("partial_rotary_factor", 1.0)
    if share != 1.0:
        raise fields.refusal(f"{name}.partial_rotary_factor", share, "1.0")
    base = given.get("rope_theta", fields.get("rope_theta", 10_000.0))
    base = fields.positive("rope_theta", base)
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise fields.refusal(f"{name}.rope_type", kind, "'default' or 'llama3'")
    factor, low, high = (
        fields.positive(f"{name}.{part}", given.get(part))
        for part in ("factor", "low_freq_factor", "high_freq_factor")
    )
    context = given.get("original_max_position_embeddings")
    if context is None:
        context = fields.get("max_position_embeddings")
    context = fields.positive(f"{name}.original_max_position_embeddings", context)
    return base, Llama3Scaling(factor, low, high, int(context))


def _gpt2(fields: Fields) -> TransformerConfig:
    """GPT-2: LayerNorm, learned positions, GELU, biases everywhere."""
    fields.require("activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
    fields.require("scale_attn_weights", (True,), True)
    fields.require("scale_attn_by_inverse_layer_idx", (False,), False)
    fields.require("add_cross_attention", (False,), False)
    width, heads = fields.whole("n_embd"), fields.whole("n_head")
    return TransformerConfig(
        width=width,
        layers=fields.whole("n_layer"),
        heads=heads,
        key_value_heads=heads,
        mlp_width=fields.whole("n_inner", 4 * width),
        norm_epsilon=fields.number("layer_norm_epsilon", 1e-5),
        tied=fields.flag("tie_word_embeddings", True),
        attention_bias=True,
        norm="layer",
        mlp="gelu",
        output_bias=True,
        learned_positions=fields.whole("n_positions", 1024),
    )


def _of_llama(checkpoint: Checkpoint, config: TransformerConfig, vocabulary: int) -> Transformer:
    tensors, width, hidden = Tensors(checkpoint), config.width, config.hidden
    outs = {"q": config.query_width, "k": config.key_width, "v": config.key_width}

    def block(index: int) -> Block:
        at = f"model.layers.{index}"
        own = f"{at}.self_attn"
        query, key, value = (
            tensors.turned(f"{own}.{part}_proj.weight", out, width) for part, out in outs.items()
        )
        biases = norms = None
        if config.attention_bias:
            of_query, of_key, of_value = (
                tensors.take(f"{own}.{part}_proj.bias", out) for part, out in outs.items()
            )
            biases = of_query, of_key, of_value
        if config.head_norms:
            size = config.head_size
            norms = (
                tensors.take(f"{own}.q_norm.weight", size),
                tensors.take(f"{own}.k_norm.weight", size),
            )
        return Block(
            attention_norm=tensors.take(f"{at}.input_layernorm.weight", width),
            query=query,
            key=key,
            value=value,
            biases=biases,
            head_norms=norms,
            attention_out=tensors.turned(f"{own}.o_proj.weight", width, config.query_width),
            mlp_norm=tensors.take(f"{at}.post_attention_layernorm.weight", width),
            gate=tensors.turned(f"{at}.mlp.gate_proj.weight", hidden, width),
            up=tensors.turned(f"{at}.mlp.up_proj.weight", hidden, width),
            down=tensors.turned(f"{at}.mlp.down_proj.weight", width, hidden),
            output_biases=None,
            config=config,
        )

    embedding = tensors.take("model.embed_tokens.weight", vocabulary, width)
    model = Transformer(
        embedding=embedding,
        positions=None,
        blocks=tuple(block(index) for index in range(config.layers)),
        norm=tensors.take("model.norm.weight", width),
        head=_head(checkpoint, tensors, config, embedding),
        config=config,
    )
    tensors.require_all_taken(ignored=(".rotary_emb.inv_freq",))
    return model


def _of_gpt2(checkpoint: Checkpoint, config: TransformerConfig, vocabulary: int) -> Transformer:
    tensors, width, hidden = Tensors(checkpoint, "transformer."), config.width, config.hidden

    def norm(name: str) -> LayerNorm:
        return LayerNorm(tensors.take(f"{name}.weight", width), tensors.take(f"{name}.bias", width))

    def layer(name: str, width: int, out: int) -> tuple[Array, Array]:
        return tensors.take(f"{name}.weight", width, out), tensors.take(f"{name}.bias", out)

    def block(index: int) -> Block:
        at = f"h.{index}"
        joint, bias = layer(f"{at}.attn.c_attn", width, 3 * width)
        query, key, value = jnp.split(joint, 3, axis=1)
        of_query, of_key, of_value = jnp.split(bias, 3)
        mixed, of_mixed = layer(f"{at}.attn.c_proj", width, width)
        up, of_up = layer(f"{at}.mlp.c_fc", width, hidden)
        down, of_down = layer(f"{at}.mlp.c_proj", hidden, width)
        return Block(
            attention_norm=norm(f"{at}.ln_1"),
            query=query,
            key=key,
            value=value,
            biases=(of_query, of_key, of_value),
            head_norms=None,
            attention_out=mixed,
            mlp_norm=norm(f"{at}.ln_2"),
            gate=None,
            up=up,
            down=down,
            output_biases=OutputBiases(of_mixed, of_up, of_down),
            config=config,
        )

    embedding = tensors.take("wte.weight", vocabulary, width)
    model = Transformer(
        embedding=embedding,
        positions=tensors.take("wpe.weight", config.learned_positions, width),
        blocks=tuple(block(index) for index in range(config.layers)),
        norm=norm("ln_f"),
        head=_head(checkpoint, tensors, config, embedding),
        config=config,
    )
    # Causal masks, which old files hold beside the weights.
    tensors.require_all_taken(ignored=(".attn.bias", ".attn.masked_bias"))
    return model


def _head(
    checkpoint: Checkpoint, tensors: Tensors, config: TransformerConfig, embedding: Array
) -> Array | None:
    """The head, or None if it is the embedding; a copy of the embedding may be stored in its place."""
    name = "lm_head.weight"
    if not config.tied:
        return tensors.turned(name, *embedding.shape)
    if name in tensors and not jnp.array_equal(tensors.take(name, *embedding.shape), embedding):
        raise InvalidInput(
            f"{checkpoint.path}: tensor {name} must equal the embedding, since the config has "
            "tie_word_embeddings"
        )
    return None


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(_llama, _of_llama),
    "Qwen2ForCausalLM": Family(_qwen2, _of_llama),
    "Qwen3ForCausalLM": Family(_qwen3, _of_llama),
    "GPT2LMHeadModel": Family(_gpt2, _of_gpt2),
}
