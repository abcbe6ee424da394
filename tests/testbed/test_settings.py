"""Settings of checkpoints are applied or refused: rotary frequencies, fields of public configs, GGUF metadata."""

import json
import math
from pathlib import Path
from typing import Any

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from test_checkpoints import CHECKPOINTS, change, copied, refused
from test_pretrained import SOURCES, expected, logprobs

from testbed.errors import InvalidInput
from testbed.llm import load
from testbed.llm.checkpoint import Checkpoint
from testbed.llm.families import read_shape
from testbed.nn.rotary import Llama3Scaling, rotary_angles
from testbed.transformer_config import TransformerConfig

__all__ = ["copied"]  # the fixture

ROPE = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 = ROPE | {"rope_type": "llama3", "original_max_position_embeddings": 16}
PLAIN = {"rope_type": "default", "rope_theta": 100.0}
YARN = {"rope_type": "yarn", "factor": 2.0}


def shape(**fields: Any) -> TransformerConfig:
    """The shape that the Llama checkpoint's config gives with other fields; None leaves one out."""
    whole = json.loads((CHECKPOINTS / "llama" / "config.json").read_text()) | fields
    return read(whole)


def read(config: dict[str, Any]) -> TransformerConfig:
    def none(name: str) -> np.ndarray:
        raise AssertionError(f"{name} was read")

    return read_shape(Checkpoint(Path("config.json"), config, {}, none))[1]


def by_hand(base: float, size: int) -> np.ndarray:
    """Frequencies of `LLAMA3` from wavelengths, one by one, as in the code that Meta published."""
    found = []
    for pair in range(size // 2):
        frequency = base ** (-2 * pair / size)
        wavelength = 2 * math.pi / frequency
        if wavelength > 16 / 1.0:
            frequency = frequency / 4.0
        elif wavelength >= 16 / 4.0:
            smooth = (16 / wavelength - 1.0) / (4.0 - 1.0)
            frequency = (1 - smooth) * frequency / 4.0 + smooth * frequency
        found.append(frequency)
    return np.asarray(found)


@pytest.mark.parametrize(
    ("fields", "base", "scaled"),
    [
        ({"rope_scaling": LLAMA3, "rope_parameters": {}}, 100.0, True),
        ({"rope_scaling": LLAMA3, "rope_parameters": None}, 100.0, True),
        ({"rope_scaling": {}, "rope_parameters": LLAMA3}, 100.0, True),
        ({"rope_scaling": None, "rope_parameters": LLAMA3}, 100.0, True),
        ({"rope_scaling": None, "rope_parameters": LLAMA3 | {"rope_theta": 7.0}}, 7.0, True),
        # The older name wins, wholly.
        ({"rope_scaling": LLAMA3, "rope_parameters": PLAIN | {"rope_theta": 7.0}}, 100.0, True),
        ({"rope_scaling": PLAIN, "rope_parameters": LLAMA3}, 100.0, False),
        (
            {"rope_theta": None, "rope_scaling": LLAMA3, "rope_parameters": PLAIN},
            10_000.0,
            True,
        ),
        ({"rope_scaling": PLAIN | {"rope_theta": 7.0}}, 7.0, False),
        ({"rope_scaling": {}, "rope_parameters": {}}, 100.0, False),
        ({"rope_theta": None, "rope_scaling": None}, 10_000.0, False),
        ({"rope_scaling": {"type": "llama3"} | LLAMA3}, 100.0, True),
        (
            {
                "rope_scaling": None,
                "rope_parameters": {"full_attention": LLAMA3, "sliding_attention": LLAMA3},
            },
            100.0,
            True,
        ),
        # A type that no layer is of.
        (
            {
                "rope_scaling": None,
                "layer_types": ["full_attention"] * 2,
                "rope_parameters": {"full_attention": LLAMA3, "sliding_attention": PLAIN},
            },
            100.0,
            True,
        ),
        # In front of what stands inside, as in transformers.
        (
            {
                "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 4},
                "original_max_position_embeddings": 16,
            },
            100.0,
            True,
        ),
    ],
)
def test_rotary_settings(fields: dict, base: float, scaled: bool) -> None:
    """The angles of a long text, against frequencies by hand."""
    found = shape(**fields)
    frequencies = by_hand(base, 8) if scaled else base ** (-np.arange(0, 8, 2) / 8)
    place = np.arange(60)
    cos, _ = rotary_angles(jnp.asarray(place), 8, found.rope_base, found.rope_scaling)
    np.testing.assert_allclose(cos[:, :4], np.cos(place[:, None] * frequencies), atol=1e-5)


def test_trained_length_of_a_scaling_is_the_context_where_none_is_given() -> None:
    assert shape(rope_scaling=ROPE | {"rope_type": "llama3"}).rope_scaling == Llama3Scaling(
        4.0, 1.0, 4.0, 64
    )


@pytest.mark.parametrize("empty", [{"rope_parameters": {}}, {"rope_parameters": None}])
def test_a_scaling_beside_an_empty_object_is_applied(copied: Any, empty: dict) -> None:
    """Equal to what transformers computes with the scaling, at every position."""
    directory = copied("llama")
    change(directory, **empty)
    tokens, wanted = expected("llama")
    np.testing.assert_allclose(logprobs(load(directory)[0], tokens), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rope_scaling": YARN, "rope_parameters": PLAIN}, ["rope_scaling", "'yarn'"]),
        ({"rope_scaling": LLAMA3, "rope_parameters": YARN}, ["rope_parameters", "'yarn'"]),
        ({"rope_scaling": LLAMA3 | {"type": "yarn"}}, ["rope_scaling.type", "'llama3'"]),
        ({"rope_scaling": LLAMA3 | {"beta_fast": 32}}, ["rope_scaling.beta_fast"]),
        ({"rope_scaling": PLAIN | {"factor": 8.0}}, ["rope_scaling.factor", "'default'", "8.0"]),
        ({"rope_scaling": PLAIN | {"mrope_section": [2, 1, 1]}}, ["mrope_section"]),
        ({"rope_scaling": PLAIN | {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor"]),
        ({"rope_scaling": LLAMA3 | {"factor": math.inf}}, ["rope_scaling.factor", "inf"]),
        ({"rope_scaling": LLAMA3 | {"factor": 10**400}}, ["rope_scaling.factor"]),
        ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 0.5}}, ["whole"]),
        ({"rope_theta": math.nan}, ["rope_theta", "nan"]),
        (
            {
                "rope_scaling": None,
                "rope_parameters": {"full_attention": LLAMA3, "sliding_attention": PLAIN},
            },
            ["rope_parameters", "the same for all layers"],
        ),
        (
            {"rope_scaling": None, "rope_parameters": {"full_attention": None}},
            ["rope_parameters.full_attention", "an object", "None"],
        ),
        (
            {"rope_scaling": None, "rope_parameters": {"full_attention": PLAIN, "factor": 2.0}},
            ["rope_parameters.factor"],
        ),
    ],
)
def test_rotary_settings_that_are_refused(fields: dict, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as problem:
        shape(**fields)
    for word in ["config.json", *words]:
        assert word in str(problem.value)


#: As their authors published them, in all but the sizes.
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 272,
}
COMMON = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0",
    "use_cache": True,
}
LLAMA = COMMON | SMALL | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
QWEN = COMMON | SMALL | {"bos_token_id": 151643, "max_window_layers": 28, "rms_norm_eps": 1e-06}
SCALED = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA_3_1 = LLAMA | {
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": SCALED,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
PUBLIC = {
    "Llama 2": LLAMA
    | {
        "_name_or_path": "meta-llama/Llama-2-7b-hf",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "max_position_embeddings": 4096,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": False,
    },
    "Llama 3.1": LLAMA_3_1,
    "Llama 3.2": LLAMA_3_1
    | {
        "head_dim": 8,
        "rope_scaling": SCALED | {"factor": 32.0},
        "tie_word_embeddings": True,
    },
    "TinyLlama": LLAMA
    | {"max_position_embeddings": 2048, "pretraining_tp": 1, "rms_norm_eps": 1e-05},
    "SmolLM2": LLAMA
    | {
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "pad_token_id": 2,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    },
    "Llama fine-tuned by unsloth": LLAMA_3_1
    | {"unsloth_fixed": True, "unsloth_version": "2025.3.1"},
    "Qwen2.5": QWEN
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "use_mrope": False,
        "use_sliding_window": False,
    },
    "Qwen3": QWEN
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "GPT-2": {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 32,
        "n_head": 4,
        "n_layer": 2,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 272,
    },
}
ROOM = {
    "Llama 2": 4096,
    "Llama 3.1": 131072,
    "Llama 3.2": 131072,
    "TinyLlama": 2048,
    "SmolLM2": 8192,
    "Llama fine-tuned by unsloth": 131072,
    "Qwen2.5": 32768,
    "Qwen3": 40960,
    "GPT-2": 1024,
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_configs_are_read(name: str) -> None:
    found = read(PUBLIC[name])
    assert found.room == ROOM[name]
    assert found.width == 32


def test_what_public_configs_say() -> None:
    assert read(PUBLIC["Llama 3.2"]).rope_scaling == Llama3Scaling(32.0, 1.0, 4.0, 8192)
    assert read(PUBLIC["Llama 3.2"]).rope_base == 500_000.0
    assert read(PUBLIC["SmolLM2"]).rope_base == 100_000.0
    assert read(PUBLIC["SmolLM2"]).tied
    assert read(PUBLIC["Qwen2.5"]).attention_bias
    assert read(PUBLIC["Qwen3"]).head_size == 128
    assert read(PUBLIC["Qwen3"]).head_norms
    assert read(PUBLIC["GPT-2"]).learned_positions == 1024


MISTRAL = LLAMA | {
    "architectures": ["MistralForCausalLM"],
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "sliding_window": 4096,
}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MISTRAL, ["architecture", "MistralForCausalLM"]),
        (MISTRAL | {"architectures": ["LlamaForCausalLM"]}, ["model_type", "'mistral'"]),
        (
            MISTRAL | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
            ["sliding_window", "4096", "32768"],
        ),
        (LLAMA | {"quantization_config": {"quant_method": "gptq"}}, ["quantization_config"]),
        (LLAMA | {"logit_scale": 0.5}, ["logit_scale", "0.5"]),
        (LLAMA | {"final_logit_softcapping": 30.0}, ["final_logit_softcapping", "left out"]),
        (LLAMA | {"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping"]),
        (LLAMA | {"query_pre_attn_scalar": 256}, ["query_pre_attn_scalar"]),
        (LLAMA | {"attention_multiplier": 0.5}, ["attention_multiplier"]),
        (LLAMA | {"residual_multiplier": 0.22}, ["residual_multiplier", "1.0"]),
        (LLAMA | {"embedding_multiplier": 12.0}, ["embedding_multiplier"]),
        (LLAMA | {"num_local_experts": 8}, ["num_local_experts"]),
        (LLAMA | {"no_rope_layers": [1, 0]}, ["no_rope_layers"]),
        (LLAMA | {"rope_interleaved": True}, ["rope_interleaved"]),
        (LLAMA | {"use_qk_norm": True}, ["use_qk_norm"]),
        (LLAMA | {"auto_map": {"AutoModelForCausalLM": "modeling.Own"}}, ["auto_map"]),
        (LLAMA | {"per_layer_config": {"0": {}}}, ["per_layer_config", "not known"]),
        (LLAMA | {"rope_thetas": 5.0}, ["rope_thetas", "not known"]),
        (LLAMA | {"layer_types": ["linear_attention"] * 2}, ["layer_types"]),
        (LLAMA | {"layer_types": ["sliding_attention"] * 2, "sliding_window": 8}, ["window"]),
        (PUBLIC["Qwen2.5"] | {"attention_bias": False}, ["attention_bias"]),
        (PUBLIC["Qwen2.5"] | {"layer_types": ["sliding_attention"] * 2}, ["layer_types"]),
        (PUBLIC["Qwen2.5"] | {"use_mrope": True}, ["use_mrope"]),
        (PUBLIC["Qwen3"] | {"attention_bias": True}, ["attention_bias"]),
        (PUBLIC["Qwen3"] | {"max_window_layers": "1"}, ["max_window_layers", "'1'"]),
        (PUBLIC["GPT-2"] | {"hidden_size": 64}, ["hidden_size", "n_embd (32)", "64"]),
        (PUBLIC["GPT-2"] | {"n_ctx": 512}, ["n_ctx", "n_positions (1024)"]),
        (PUBLIC["GPT-2"] | {"scale_attn_weights": False}, ["scale_attn_weights"]),
        (PUBLIC["GPT-2"] | {"rope_theta": 100.0}, ["rope_theta"]),
    ],
)
def test_configs_that_are_refused_for_a_field(config: dict, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as problem:
        read(config)
    assert "\n" not in str(problem.value)
    for word in words:
        assert word in str(problem.value)


def test_names_that_gpt2_shares_with_others() -> None:
    config = dict(PUBLIC["GPT-2"])
    config |= {"hidden_size": config.pop("n_embd"), "num_hidden_layers": config.pop("n_layer")}
    assert (read(config).width, read(config).layers) == (32, 2)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_tied_checkpoint_may_hold_the_head_alone(copied: Any, name: str) -> None:
    directory = copied(name)
    file = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    embedding = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}[name]
    tensors["lm_head.weight"] = tensors.pop(embedding)
    safetensors.numpy.save_file(tensors, file, {"format": "pt", embedding: "lm_head.weight"})
    model, _ = load(directory)
    assert model.head is None
    tokens, wanted = expected(name)
    np.testing.assert_allclose(logprobs(model, tokens), wanted, atol=1e-4)
    change(directory, tie_word_embeddings=False)
    refused(directory, str(directory), "no tensor", embedding.removeprefix("transformer."))


def test_more_blocks_than_are_stored_are_refused_at_once(copied: Any) -> None:
    for name, field in (("llama", "num_hidden_layers"), ("gpt2", "n_layer")):
        directory = copied(name)
        change(directory, **{field: 10**9})
        refused(directory, field, "1000000000", "no tensor")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(copied: Any, value: float) -> None:
    directory = copied("llama")
    file = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    tensors["model.norm.weight"][3] = value
    safetensors.numpy.save_file(tensors, file)
    refused(directory, str(directory), "model.norm.weight", "finite")
    tensors["model.norm.weight"] = np.full(32, 1e300)
    safetensors.numpy.save_file(tensors, file)
    refused(directory, str(directory), "model.norm.weight", "finite")


def rewritten(path: Path, drop: tuple[str, ...] = (), **changes: Any) -> Path:
    """The GGUF checkpoint with other metadata, ``__`` for a dot."""
    reader = gguf.GGUFReader(SOURCES["llama_gguf"])
    writer = gguf.GGUFWriter(path, "llama")
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if name not in changed and name not in drop:
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    for name, value in changed.items():
        kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}
        writer.add_key_value(name, value, gguf.GGUFValueType[kinds[type(value)]])
    for tensor in reader.tensors:
        if tensor.name not in drop:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


HARMLESS = {
    "general__author": "nobody",
    "general__license": "none",
    "llama__expert_count": 0,
    "llama__rope__scaling__factor": 1.0,
    "quantize__imatrix__file": "none",
    "tokenizer__ggml__add_space_prefix": False,
    "llama__attention__sliding_window": 32768,
}


def test_gguf_metadata_that_change_nothing(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "model.gguf", **HARMLESS)
    tokens, wanted = expected("llama_gguf")
    np.testing.assert_allclose(logprobs(load(path)[0], tokens), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # A factor without a type is a linear scaling in llama.cpp.
        ("llama.rope.scaling.factor", 2.0),
        ("llama.rope.scale_linear", 2.0),
        ("llama.rope.scaling.type", "linear"),
        ("llama.rope.scaling.attn_factor", 0.5),
        ("llama.attention.scale", 0.5),
        ("llama.attention.sliding_window", 8),
        ("llama.attention.causal", False),
        ("llama.logit_scale", 0.5),
        ("llama.residual_scale", 0.5),
        ("llama.embedding_scale", 12.0),
        ("llama.final_logit_softcapping", 30.0),
        ("llama.expert_count", 8),
        ("llama.something", 1),
        ("tokenizer.ggml.add_eos_token", True),
        ("tokenizer.ggml.normalizer", "nfc"),
        ("general.type", "adapter"),
        ("split.count", 3),
        ("llama.rope.freq_base", -1.0),
        ("llama.attention.layer_norm_rms_epsilon", math.inf),
        ("tokenizer.ggml.eos_token_id", 272),
        ("tokenizer.ggml.bos_token_id", 4_000_000_000),
        ("tokenizer.ggml.pre", "default"),
        ("tokenizer.ggml.pre", "qwen2"),
        ("tokenizer.ggml.tokens", 3),
        ("tokenizer.ggml.token_type", "none"),
    ],
)
def test_gguf_metadata_that_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    path = rewritten(tmp_path / "model.gguf", **{name.replace(".", "__"): value})
    said = {"llama.attention.sliding_window": "sliding_window"}.get(name, name)
    refused(path, str(path), said, str(value))


def test_a_gguf_tokenizer_says_how_it_splits(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "model.gguf", drop=("tokenizer.ggml.pre",))
    refused(path, str(path), "tokenizer.ggml.pre", "None", "convert the model again")
    load(rewritten(path, tokenizer__ggml__pre="llama-bpe"))


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ("gpt-2", [" 12345", " We", "'LL", "!", "\n\n"]),
        ("smollm", [" ", "1", "2", "3", "4", "5", " We", "'LL", "!", "\n\n"]),
        ("llama-bpe", [" ", "123", "45", " We", "'LL", "!\n\n"]),
    ],
)
def test_splits_are_those_of_llama_cpp(split: str, parts: list[str]) -> None:
    """By hand from the regular expressions in llama.cpp's src/llama-vocab.cpp: GPT-2's, the same behind one that takes
    digits one by one, and Llama 3's, which takes up to three and knows 'LL in capitals."""
    from testbed.llm.tokenizer import byte_pair_backend

    backend = byte_pair_backend(["a", "b", "ab"], [1, 1, 1], ["a b"], split)
    text = " 12345 We'LL!\n\n"
    found = [text[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text)]
    if split != "llama-bpe":
        # Theirs has the apostrophe apart from letters in capitals.
        parts = [each for part in parts for each in (("'", "LL") if part == "'LL" else (part,))]
    assert found == parts
