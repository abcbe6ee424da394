"""GGUF files (llama.cpp's format) of the Llama architecture, presented like Hugging Face's checkpoints.

Weights may be quantised; they are read as the float32 numbers that they stand for. Metadata that no reader here uses
are refused, unless `testbed.llm.known_settings` says that they change nothing.
"""

from pathlib import Path
from typing import Any, Final

import jax.numpy as jnp
import numpy as np

from testbed.errors import InvalidInput
from testbed.llm import gguf_format
from testbed.llm.checkpoint import Checkpoint, finite, shown
from testbed.llm.known_settings import GGUF_HARMLESS, GGUF_HARMLESS_PREFIXES, GGUF_NEUTRAL
from testbed.llm.tokenizer import Tokenizer, byte_pair_backend
from testbed.nn.rotary import Llama3Scaling

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
#: Names of special tokens in ``tokenizer_config.json`` and in GGUF files.
_SPECIAL = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
}
#: Divisors of rotary frequencies. Files of Llama 3.1 and later hold them instead of the settings they are computed
#: from.
_DIVISORS = "rope_freqs.weight"
#: Metadata that this module reads, behind ``llama.`` and behind ``tokenizer.ggml.``.
_APPLIED: Final = frozenset(
    [
        f"{prefix}.{name}"
        for prefix, names in (
            (
                "llama",
                "attention.head_count attention.head_count_kv attention.key_length "
                "attention.layer_norm_rms_epsilon attention.sliding_window attention.value_length "
                "block_count context_length embedding_length feed_forward_length "
                "rope.dimension_count rope.freq_base vocab_size",
            ),
            (
                "tokenizer.ggml",
                "add_bos_token bos_token_id eom_token_id eos_token_id eot_token_id merges model pre "
                "token_type tokens",
            ),
        )
        for name in names.split()
    ]
)


class GgufFile:
    """An opened GGUF file. Raises `InvalidInput` if the file is incomplete, or of another architecture than Llama."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fields, self._tensors = gguf_format.read(path)
        found = self.get("general.architecture")
        if found != "llama":
            raise self._refusal("general.architecture", "'llama'")
        for name, value in self._fields.items():
            allowed = GGUF_NEUTRAL.get(name)
            if allowed is not None:
                if value not in allowed:
                    raise self._refusal(name, " or ".join(map(repr, allowed)))
            elif name not in _APPLIED | GGUF_HARMLESS and not name.startswith(
                GGUF_HARMLESS_PREFIXES
            ):
                raise self._refusal(name, "left out: the setting is not known here")

    def _refusal(self, name: str, allowed: str) -> InvalidInput:
        found = self.get(name)
        found = shown(repr(found) if isinstance(found, str) else found)
        return InvalidInput(f"{self.path}: {shown(name)} must be {allowed}, got {found}")

    def get(self, name: str, default: Any = None) -> Any:
        """A field of the file's metadata; ``default`` if it is missing."""
        return self._fields.get(name, default)

    def checkpoint(self) -> Checkpoint:
        """The weights under Hugging Face's names; a weight is dequantised when it is requested."""
        stored = {_renamed(name): name for name in self._tensors if name != _DIVISORS}
        shapes = {name: self._tensors[old].shape for name, old in stored.items()}
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
        """The tokenizer whose tokens and merges are in the file.

        Raises `InvalidInput` if the file does not say how texts are split before pairs are merged: in this case
        llama.cpp warns, and splits texts in a way that no model was trained with."""
        if self.get("tokenizer.ggml.model") != "gpt2":
            raise self._refusal("tokenizer.ggml.model", "'gpt2' (byte pairs)")
        split = self.get("tokenizer.ggml.pre")
        if not isinstance(split, str) or split == "default":
            raise self._refusal(
                "tokenizer.ggml.pre",
                "the name of what texts are split by, as smollm, gpt-2 or llama-bpe (convert the "
                "model again, or name it with gguf_new_metadata.py --pre-tokenizer)",
            )
        tokens = self._list("tokens", str)
        if len(set(tokens)) < len(tokens):
            raise InvalidInput(f"{self.path}: tokenizer.ggml.tokens must hold each token once")
        kinds = self._list("token_type", int, [1] * len(tokens))
        if len(kinds) != len(tokens):
            raise InvalidInput(
                f"{self.path}: tokenizer.ggml.token_type must hold one number for each of "
                f"{len(tokens)} tokens, got {len(kinds)}"
            )
        merges = self._list("merges", str)
        try:
            backend = byte_pair_backend(tokens, kinds, merges, split)
        except InvalidInput as problem:
            raise InvalidInput(f"{self.path}: {problem}") from problem
        settings: dict[str, Any] = {
            f"{name}_token": tokens[number]
            for name, key in _SPECIAL.items()
            if (number := self._token_id(key)) is not None
        }
        # As in llama.cpp: the file's setting counts; without one, only tokenizers of Llama 3 add a begin token.
        settings["add_bos_token"] = self.get("tokenizer.ggml.add_bos_token", split == "llama-bpe")
        settings["chat_template"] = self.get("tokenizer.chat_template")
        return Tokenizer(backend, settings, self.path, self._ends())

    def _token_id(self, name: str) -> int | None:
        """The id of a special token; None if the file names none. Raises `InvalidInput` for an id that no token has."""
        field, tokens = f"tokenizer.ggml.{name}_token_id", self.get("tokenizer.ggml.tokens")
        found = self.get(field)
        if not isinstance(tokens, list):
            return None  # `tokenizer` refuses this
        if found is not None and not (type(found) is int and 0 <= found < len(tokens)):
            raise self._refusal(field, f"between 0 and {len(tokens) - 1}, the ids of tokens")
        return found

    def _ends(self) -> list[int]:
        """Ids of the tokens that end a response, each once: end of text, end of turn, end of message."""
        found = (self._token_id(name) for name in ("eos", "eot", "eom"))
        return list(dict.fromkeys(number for number in found if number is not None))

    def _list(self, name: str, kind: type, default: list[Any] | None = None) -> list[Any]:
        """A list in the tokenizer's metadata, with items of one type; an empty list is refused like a missing one."""
        field = f"tokenizer.ggml.{name}"
        found = self.get(field, default)
        if not isinstance(found, list) or not found or not all(type(x) is kind for x in found):
            what = {str: "a list of texts", int: "a list of whole numbers"}[kind]
            raise self._refusal(field, what)
        return found

    def _config(self) -> dict[str, Any]:
        """The fields of a ``config.json``."""

        def own(name: str, default: Any = None) -> Any:
            return self.get(f"llama.{name}", default)

        heads, width = own("attention.head_count"), own("embedding_length")
        if not _count(heads) or not _count(width):
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
        rows = embedding.shape[0] if embedding is not None else own("vocab_size")
        window, base = own("attention.sliding_window"), own("rope.freq_base", 10_000.0)
        epsilon = own("attention.layer_norm_rms_epsilon", 1e-5)
        for name, value in (
            ("rope.freq_base", base),
            ("attention.layer_norm_rms_epsilon", epsilon),
        ):
            if not isinstance(value, float) or not 0 < value < float(np.finfo(np.float32).max):
                raise self._refusal(f"llama.{name}", "a number above 0")
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
            # The file stores 32 bits; the shortest decimal with this float32 value is the intended number.
            "rms_norm_eps": float(str(np.float32(epsilon))),
            "rope_theta": base,
            "rope_scaling": self._scaling(size, base),
            "tie_word_embeddings": "output.weight" not in self._tensors,
            "vocab_size": rows,
            "bos_token_id": self._token_id("bos"),
            "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        } | ({"sliding_window": window} if window else {})

    def _scaling(self, size: int, base: float) -> dict[str, Any] | None:
        """Scaling of rotary frequencies, recovered from the stored divisors."""
        if _DIVISORS not in self._tensors:
            return None
        problem = InvalidInput(
            f"{self.path}: tensor {_DIVISORS} must hold the divisors of Llama 3.1's scaling"
        )
        # Compared before the frequencies are computed: their number is known only from the file, which may be wrong.
        if not _count(size) or self._tensors[_DIVISORS].shape != (-(-size // 2),):
            raise problem
        divisors = self._dequantised(_DIVISORS)
        if divisors.max() < 1:
            raise problem
        scaling = Llama3Scaling(factor=round(float(divisors.max()), 4))
        with np.errstate(all="ignore"):  # a base out of range fails the comparison below
            frequencies = jnp.asarray(base ** (-np.arange(0, size, 2) / size), jnp.float32)
        expected = np.asarray(frequencies / scaling(frequencies))
        if not np.allclose(divisors, expected, rtol=1e-4):
            raise problem
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.context,
        }

    def _dequantised(self, name: str) -> np.ndarray:
        found = gguf_format.numbers(self.path, name, self._tensors[name])
        return finite(found, self.path, name)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _renamed(name: str) -> str:
    """Hugging Face's name of a tensor; a tensor without such a name keeps its own."""
    stem, _, kind = name.rpartition(".")
    if stem.startswith("blk.") and stem.count(".") >= 2:
        _, index, part = stem.split(".", 2)
        return f"model.layers.{index}.{_NAMES.get(part, part)}.{kind}"
    return f"{_NAMES.get(stem, stem)}.{kind}"


def _unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in half-split order: GGUF stores the two rows of a rotated pair next to each other."""
    out, width = weight.shape
    pairs = weight.reshape(heads, out // heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(out, width)
