"""The model architectures that can be read: shapes from configs, parameters from tensors.

Names of fields and tensors, and defaults of missing fields, are those of Hugging Face's transformers. A config field
that no reader here uses is refused, unless `testbed.llm.known_settings` says that it changes nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from testbed.config import unknown
from testbed.errors import InvalidInput
from testbed.llm import rope_settings
from testbed.llm.checkpoint import Checkpoint, shown
from testbed.llm.fields import Fields, Tensors
from testbed.llm.known_settings import HARMLESS, NEUTRAL
from testbed.nn.norms import LayerNorm
from testbed.transformer import Block, OutputBiases, Transformer
from testbed.transformer_config import TransformerConfig


class Family(NamedTuple):
    """How one architecture is read; ``kind`` is its ``model_type``."""

    kind: str
    shape: Callable[[Fields], TransformerConfig]
    parameters: Callable[[Checkpoint, TransformerConfig, int], Transformer]


def build(checkpoint: Checkpoint) -> Transformer:
    """The transformer of a checkpoint, in float32.

    Raises `InvalidInput` for an architecture, a feature of it or a tensor that cannot be used; the message names it."""
    family, config, vocabulary = read_shape(checkpoint)
    return family.parameters(checkpoint, config, vocabulary)


def read_shape(checkpoint: Checkpoint) -> tuple[Family, TransformerConfig, int]:
    """The family, shape and vocabulary that the config of a checkpoint states; no tensor is read.

    Raises `InvalidInput` for a field that is not applied and could change numbers; the message names the field."""
    fields = Fields(checkpoint)
    names = fields.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise fields.refusal("architectures", names, f"a list of one of {', '.join(FAMILIES)}")
    if names[0] not in FAMILIES:
        problem = unknown("architecture", shown(names[0]), FAMILIES)
        raise InvalidInput(f"{checkpoint.path}: {problem}")
    family = FAMILIES[names[0]]
    fields.require("model_type", (family.kind,), family.kind)
    vocabulary = fields.whole("vocab_size")
    try:
        config = family.shape(fields)
    except InvalidInput as problem:
        if str(checkpoint.path) in str(problem):
            raise
        raise InvalidInput(f"{checkpoint.path}: {problem}") from problem
    fields.require_all_known(HARMLESS, NEUTRAL)
    return family, config, vocabulary


def _llama(fields: Fields, **special: Any) -> TransformerConfig:
    """Llama; ``special`` holds the additional features of related architectures."""
    fields.require("hidden_act", ("silu", "swish"), "silu")
    fields.require("mlp_bias", (False,), False)
    if not special.get("attention_bias"):
        fields.require("attention_bias", (False,), False)
    width, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    switched = special.pop("switched_windows", False)
    context = fields.whole("max_position_embeddings", 32768 if switched else 2048)
    _require_whole_context(fields, context, switched)
    rotary = rope_settings.read(fields)
    size = fields.whole("head_dim", special.pop("head_width", None) or max(1, width // heads))
    return TransformerConfig(
        width=width,
        layers=fields.whole("num_hidden_layers"),
        heads=heads,
        key_value_heads=fields.whole("num_key_value_heads", heads),
        mlp_width=fields.whole("intermediate_size"),
        rope_base=rotary.base,
        norm_epsilon=fields.number("rms_norm_eps", 1e-6),
        tied=fields.flag("tie_word_embeddings", False),
        head_width=0 if size * heads == width else size,
        rope_scaling=rotary.scaling,
        context=context,
        **special,
    )


def _qwen2(fields: Fields) -> TransformerConfig:
    """Qwen2: Llama with biases of queries, keys and values."""
    fields.require("attention_bias", (True,), True)
    return _llama(fields, attention_bias=True, switched_windows=True)


def _qwen3(fields: Fields) -> TransformerConfig:
    """Qwen3: Llama with normed queries and keys."""
    return _llama(fields, head_norms=True, head_width=128, switched_windows=True)


def _require_whole_context(fields: Fields, context: int, switched: bool) -> None:
    """Refuse windows of attention that are shorter than the context, if any layer has one.

    Qwen's windows are ``switched`` on by ``use_sliding_window``. Llama has no windows; if its config has a window,
    another reader wrote it."""
    used = fields.flag("use_sliding_window", not switched)
    window = fields.whole("sliding_window", 4096 if switched else context)
    first = fields.whole("max_window_layers", 28 if switched else 0, least=0)
    layers, kinds = fields.whole("num_hidden_layers"), fields.get("layer_types")
    if kinds is None:
        windowed = used and first < layers
    else:
        known = ("full_attention", "sliding_attention")
        if not isinstance(kinds, list) or any(kind not in known for kind in kinds):
            allowed = "a list of 'full_attention' and 'sliding_attention'"
            raise fields.refusal("layer_types", kinds, allowed)
        windowed = "sliding_attention" in kinds
    if not windowed:
        return
    if not used:
        raise fields.refusal("layer_types", kinds, "'full_attention' without use_sliding_window")
    if window < context and switched:
        raise fields.refusal("use_sliding_window", True, "false: windows are not computed here")
    if window < context:
        allowed = f"left out or at least {context} (windows are not computed here)"
        raise fields.refusal("sliding_window", window, allowed)


def _gpt2(fields: Fields) -> TransformerConfig:
    """GPT-2: LayerNorm, learned positions, GELU, biases everywhere."""
    fields.require("activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
    fields.require("scale_attn_weights", (True,), True)
    fields.require("scale_attn_by_inverse_layer_idx", (False,), False)
    fields.require("add_cross_attention", (False,), False)
    width = fields.whole(fields.called("n_embd", "hidden_size"))
    heads = fields.whole(fields.called("n_head", "num_attention_heads"))
    places = fields.called("n_positions", "max_position_embeddings", "n_ctx")
    return TransformerConfig(
        width=width,
        layers=fields.whole(fields.called("n_layer", "num_hidden_layers")),
        heads=heads,
        key_value_heads=heads,
        mlp_width=fields.whole("n_inner", 4 * width),
        norm_epsilon=fields.number("layer_norm_epsilon", 1e-5),
        tied=fields.flag("tie_word_embeddings", True),
        attention_bias=True,
        norm="layer",
        mlp="gelu",
        output_bias=True,
        learned_positions=fields.whole(places, 1024),
    )


def _of_llama(checkpoint: Checkpoint, config: TransformerConfig, vocabulary: int) -> Transformer:
    tensors, width, hidden = Tensors(checkpoint), config.width, config.hidden
    tensors.require_count("model.layers.", config.layers, "num_hidden_layers")
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

    embedding = _embedding(tensors, "model.embed_tokens.weight", config, vocabulary)
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
    tensors.require_count("h.", config.layers, "n_layer")

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

    embedding = _embedding(tensors, "wte.weight", config, vocabulary)
    model = Transformer(
        embedding=embedding,
        positions=tensors.take("wpe.weight", config.learned_positions, width),
        blocks=tuple(block(index) for index in range(config.layers)),
        norm=norm("ln_f"),
        head=_head(checkpoint, tensors, config, embedding),
        config=config,
    )
    # Causal masks, which old files store beside the weights.
    tensors.require_all_taken(ignored=(".attn.bias", ".attn.masked_bias"))
    return model


_HEAD = "lm_head.weight"


def _embedding(tensors: Tensors, name: str, config: TransformerConfig, vocabulary: int) -> Array:
    """The embedding. If the head is the same matrix, a file may store it under the head's name alone: safetensors'
    ``save_model`` keeps the first name of a shared tensor."""
    stored = _HEAD if config.tied and name not in tensors and _HEAD in tensors else name
    return tensors.take(stored, vocabulary, config.width)


def _head(
    checkpoint: Checkpoint, tensors: Tensors, config: TransformerConfig, embedding: Array
) -> Array | None:
    """The head, or None if it is the embedding; the file may hold a copy of the embedding as the head."""
    if not config.tied:
        return tensors.turned(_HEAD, *embedding.shape)
    if _HEAD in tensors and not jnp.array_equal(tensors.take(_HEAD, *embedding.shape), embedding):
        raise InvalidInput(
            f"{checkpoint.path}: tensor {_HEAD} must equal the embedding, since the config has "
            "tie_word_embeddings"
        )
    return None


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family("llama", _llama, _of_llama),
    "Qwen2ForCausalLM": Family("qwen2", _qwen2, _of_llama),
    "Qwen3ForCausalLM": Family("qwen3", _qwen3, _of_llama),
    "GPT2LMHeadModel": Family("gpt2", _gpt2, _of_gpt2),
}
