"""GGUF files (llama.cpp's format) of the Llama architecture, as if Hugging Face had written them.

Weights may be quantised; they are read as the float32 numbers that they stand for.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from testbed.errors import InvalidInput, said
from testbed.llm.checkpoint import Checkpoint
from testbed.llm.optional import package
from testbed.llm.tokenizer import Tokenizer, byte_pair_backend
from testbed.positions import Llama3Scaling

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
#: Special tokens by what ``tokenizer_config.json`` and GGUF files call them.
_SPECIAL = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
}
#: Divisors of rotary frequencies, which files of Llama 3.1 and later hold in place of the numbers they come from.
_DIVISORS = "rope_freqs.weight"


class GgufFile:
    """An opened file. Raises `InvalidInput` if it is not whole, or of another architecture than Llama."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reader = package("gguf").GGUFReader(path)
            self._fields = {name: field.contents() for name, field in reader.fields.items()}
        except (ValueError, IndexError, KeyError, OverflowError, OSError) as problem:
            raise InvalidInput(
                f"{path} is not a whole GGUF file ({said(problem)}): download it again"
            ) from problem
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        found = self.get("general.architecture")
        if found != "llama":
            raise InvalidInput(f"{path}: general.architecture must be 'llama', got {found!r}")

    def get(self, name: str, default: Any = None) -> Any:
        """A field of the file's metadata; ``default`` if it is not there."""
        return self._fields.get(name, default)

    def checkpoint(self) -> Checkpoint:
        """The weights under Hugging Face's names; they are dequantised when they are asked for."""
        stored = {_renamed(name): name for name in self._tensors if name != _DIVISORS}
        shapes = {
            name: tuple(int(size) for size in reversed(self._tensors[old].shape))
            for name, old in stored.items()
        }
        config = self._config()
        heads = {
            "q_proj.weight": config["num_attention_heads"],
            "k_proj.weight": config["num_key_value_heads"],
        }

        def read(name: str) -> np.ndarray:
            weight = self._dequantised(stored[name])
            for end, count in heads.items():
                if name.endswith(end):
                    return _unpermuted(weight, count)
            return weight

        return Checkpoint(self.path, config, shapes, read)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer whose tokens and merges are in the file."""
        kind, split = self.get("tokenizer.ggml.model"), self.get("tokenizer.ggml.pre", "default")
        if kind != "gpt2":
            raise InvalidInput(
                f"{self.path}: tokenizer.ggml.model must be 'gpt2' (byte pairs), got {kind!r}"
            )
        tokens = self.get("tokenizer.ggml.tokens", [])
        kinds = self.get("tokenizer.ggml.token_type", [1] * len(tokens))
        try:
            backend = byte_pair_backend(tokens, kinds, self.get("tokenizer.ggml.merges", []), split)
        except InvalidInput as problem:
            raise InvalidInput(f"{self.path}: {problem}") from problem
        settings: dict[str, Any] = {
            f"{name}_token": tokens[number]
            for name, key in _SPECIAL.items()
            if (number := self._token_id(key)) is not None
        }
        # As llama.cpp has it: files say so themselves, and tokenizers of Llama 3 begin texts where they do not.
        settings["add_bos_token"] = self.get("tokenizer.ggml.add_bos_token", split == "llama-bpe")
        settings["chat_template"] = self.get("tokenizer.chat_template")
        return Tokenizer(backend, settings, self.path, self._ends())

    def _token_id(self, name: str) -> int | None:
        """The id of a special token; None if the file names none. Raises `InvalidInput` for one that no token has."""
        key, count = f"tokenizer.ggml.{name}_token_id", len(self.get("tokenizer.ggml.tokens", []))
        found = self.get(key)
        if found is not None and not (type(found) is int and 0 <= found < count):
            raise InvalidInput(f"{self.path}: {key} must be an id below {count}, got {found!r}")
        return found

    def _ends(self) -> list[int]:
        """Ids of the tokens that end a response, each once: of a text, of a turn, of a message."""
        found = (self._token_id(name) for name in ("eos", "eot", "eom"))
        return list(dict.fromkeys(number for number in found if number is not None))

    def _config(self) -> dict[str, Any]:
        """The fields of a ``config.json``."""

        def own(name: str, default: Any = None) -> Any:
            return self.get(f"llama.{name}", default)

        if own("expert_count"):
            raise InvalidInput(f"{self.path}: llama.expert_count must be 0, got experts")
        heads, width = own("attention.head_count"), own("embedding_length")
        if not isinstance(heads, int) or not isinstance(width, int):
            raise InvalidInput(f"{self.path} lacks its count of heads or its embedding length")
        size = own("attention.key_length", width // heads)
        turned = own("rope.dimension_count", size)
        if turned != size or own("attention.value_length", size) != size:
            raise InvalidInput(
                f"{self.path}: heads must be {size} wide in keys, values and rotations alike, "
                f"got {own('attention.value_length', size)} in values and {turned} in rotations"
            )
        embedding = self._tensors.get("token_embd.weight")
        ends = self._ends()
        rows = int(embedding.shape[-1]) if embedding is not None else own("vocab_size")
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": width,
            "intermediate_size": own("feed_forward_length"),
            "num_hidden_layers": own("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": own("attention.head_count_kv", heads),
            "head_dim": size,
            "max_position_embeddings": own("context_length"),
            # Stored in 32 bits; the shortest decimal that means them is what was meant.
            "rms_norm_eps": float(str(np.float32(own("attention.layer_norm_rms_epsilon", 1e-5)))),
            "rope_theta": own("rope.freq_base", 10_000.0),
            "rope_scaling": self._scaling(size, own("rope.freq_base", 10_000.0)),
            "tie_word_embeddings": "output.weight" not in self._tensors,
            "vocab_size": rows,
            "bos_token_id": self._token_id("bos"),
            "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        }

    def _scaling(self, size: int, base: float) -> dict[str, Any] | None:
        """Scaling of rotary frequencies, found again from the divisors it gave."""
        kind = self.get("llama.rope.scaling.type", "none")
        if kind != "none":
            raise InvalidInput(f"{self.path}: llama.rope.scaling.type must be 'none', got {kind!r}")
        if _DIVISORS not in self._tensors:
            return None
        divisors = self._dequantised(_DIVISORS)
        scaling = Llama3Scaling(factor=float(np.round(divisors.max(), 4)))
        frequencies = jnp.asarray(base ** (-np.arange(0, size, 2) / size), jnp.float32)
        expected = np.asarray(frequencies / scaling(frequencies))
        if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4):
            raise InvalidInput(
                f"{self.path}: tensor {_DIVISORS} must hold the divisors of Llama 3.1's scaling"
            )
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.context,
        }

    def _dequantised(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        try:
            found = package("gguf").quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as problem:
            raise InvalidInput(
                f"{self.path}: tensor {name} is of type {tensor.tensor_type.name}, which the "
                "package gguf does not dequantise"
            ) from problem
        return np.asarray(found, dtype=np.float32)


def _renamed(name: str) -> str:
    """Hugging Face's name of a tensor; one that has none keeps its own."""
    stem, _, kind = name.rpartition(".")
    if stem.startswith("blk."):
        _, index, part = stem.split(".", 2)
        return f"model.layers.{index}.{_NAMES.get(part, part)}.{kind}"
    return f"{_NAMES.get(stem, stem)}.{kind}"


def _unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in half-split order: the format has the two rows that are turned together one behind the
    other."""
    out, width = weight.shape
    pairs = weight.reshape(heads, out // heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(out, width)
