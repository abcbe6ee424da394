"""How the checkpoints here were made: once, with PyTorch and transformers, which tests do not need.

    python3.11 -m venv /tmp/made && /tmp/made/bin/pip install torch==2.13.0 transformers==4.57.3 gguf==0.19.0
    /tmp/made/bin/python tests/checkpoints/make.py

Each directory holds a tiny random model as ``save_pretrained`` writes it, or a GGUF file, and ``expected.npz``: token
ids, and transformers' log-probabilities of the whole vocabulary at every position, in float64 from the weights as
stored.
"""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers

HERE = Path(__file__).parent
SPECIAL = ["<|end|>", "<|start|>", "<|pad|>"]
TEXTS = ["the cat sat on the mat", "12 dogs and 345 cats", "a dog, the mat; the end"] * 4
SHARED = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 40}
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
TIME = 20


def tokenizer() -> tokenizers.Tokenizer:
    """Byte pairs of a few texts."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=272, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough for every mistake to show."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            if "norm" in name or "ln_" in name:
                weight.copy_(0.2 * noise + (0.0 if name.endswith("bias") else 1.0))
            elif weight.ndim == 1:
                weight.copy_(0.3 * noise)
            elif "embed" in name or "wte" in name or "wpe" in name:
                weight.copy_(0.7 * noise)
            else:
                # The shorter side is the number of inputs or close to it.
                weight.copy_(1.5 * noise / min(weight.shape) ** 0.5)


def expect(model: torch.nn.Module, vocabulary: int, directory: Path) -> None:
    """Write the log-probabilities of two sequences."""
    tokens = np.random.default_rng(0).integers(0, vocabulary, (2, TIME))
    with torch.no_grad():
        logits = model.double().eval()(torch.as_tensor(tokens)).logits
    logprobs = torch.log_softmax(logits, dim=-1).numpy().astype(np.float32)
    np.savez_compressed(directory / "expected.npz", tokens=tokens, logprobs=logprobs)


def save(
    name: str, config: transformers.PretrainedConfig, kind: torch.dtype, **how: object
) -> Path:
    """One model in the form of Hugging Face, with what transformers makes of the weights as stored."""
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    randomise(model, len(name))
    model.to(kind).save_pretrained(directory, **how)
    # Read anew: rounding the weights rounded the rotary frequencies too.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    expect(model, config.vocab_size, directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    tokenizer().save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return directory


def rewrite(directory: Path, drop: tuple[str, ...] = (), **fields: object) -> None:
    """Change fields of a saved config, which another version of transformers spells differently."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config = {name: value for name, value in config.items() if name not in drop} | fields
    path.write_text(json.dumps(config, indent=2) + "\n")


def save_gguf(vocabulary: int) -> None:
    """Llama's GGUF form: rows of queries and keys permuted, matrices quantised to 8 bits, Llama 3.1's divisors."""
    directory = HERE / "llama_gguf"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    scaling = LLAMA3 | {"rope_type": "llama3", "original_max_position_embeddings": 8192}
    config = transformers.LlamaConfig(
        **{**SHARED, "intermediate_size": 64},
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocabulary,
        rope_theta=50_000.0,
        rope_scaling=scaling,
        rms_norm_eps=1e-5,
        max_position_embeddings=32_768,
    )
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager")
    randomise(model, 9)
    writer = gguf.GGUFWriter(directory / "model.gguf", "llama")
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(32_768)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(50_000.0)
    writer.add_rope_dimension_count(8)
    write_tokens(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            stored = weight.numpy()
            for part, heads in (("q_proj", 4), ("k_proj", 2)):
                if part in name:
                    halves = stored.reshape(heads, 2, stored.shape[0] // heads // 2, -1)
                    stored = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(stored.shape))
            kind = gguf.GGMLQuantizationType.F32
            if stored.ndim == 2:
                kind = gguf.GGMLQuantizationType.Q8_0
                if "embed" in name:
                    kind = gguf.GGMLQuantizationType.F16
            packed = gguf.quants.quantize(stored, kind)
            writer.add_tensor(names.get_name(name, (".weight",)), packed, raw_dtype=kind)
            plain = gguf.quants.dequantize(packed, kind).reshape(stored.shape)
            for part, heads in (("q_proj", 4), ("k_proj", 2)):
                if part in name:
                    pairs = plain.reshape(heads, stored.shape[0] // heads // 2, 2, -1)
                    plain = pairs.swapaxes(1, 2).reshape(stored.shape)
            weight.copy_(torch.as_tensor(np.ascontiguousarray(plain)))
    plain = 50_000.0 ** (-np.arange(0, 8, 2) / 8)
    divisors = plain / model.model.rotary_emb.inv_freq.numpy()
    writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expect(model, vocabulary, directory)


def write_tokens(writer: gguf.GGUFWriter) -> None:
    """The tokenizer's tokens and merges."""
    model = json.loads(tokenizer().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_eos_token_id(tokens.index("<|end|>"))


def main() -> None:
    """Make them all."""
    vocabulary = tokenizer().get_vocab_size()
    shared = SHARED | {"vocab_size": vocabulary, "max_position_embeddings": 64}
    scaling = LLAMA3 | {"original_max_position_embeddings": 16}
    four = {"num_attention_heads": 4, "num_key_value_heads": 2}
    scaled = {"rope_theta": 100.0, "rope_scaling": scaling | {"rope_type": "llama3"}}
    save(
        "llama",
        transformers.LlamaConfig(**shared, **four, **scaled, tie_word_embeddings=True),
        torch.float32,
    )
    old = save(
        "llama_old",
        transformers.LlamaConfig(**shared, **four, **scaled),
        torch.float16,
        max_shard_size="30KB",
    )
    rewrite(old, drop=("head_dim",), rope_scaling=scaling | {"type": "llama3"})
    qwen2 = save(
        "qwen2",
        transformers.Qwen2Config(
            **shared, num_attention_heads=4, num_key_value_heads=1, rope_theta=1000.0
        ),
        torch.bfloat16,
    )
    parameters = {"rope_type": "default", "rope_theta": 1000.0}
    rewrite(qwen2, drop=("rope_theta", "rope_scaling"), rope_parameters=parameters)
    save(
        "qwen3",
        transformers.Qwen3Config(**shared, **four, head_dim=12, tie_word_embeddings=True),
        torch.bfloat16,
    )
    save(
        "gpt2",
        transformers.GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=64
        ),
        torch.float16,
    )
    save_gguf(vocabulary)


if __name__ == "__main__":
    main()
