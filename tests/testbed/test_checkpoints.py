"""Checkpoints that cannot be used are refused in one sentence that names the file and what is wrong with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.numpy

from testbed.errors import InvalidInput, Unfinished
from testbed.llm import load

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
WEIGHTS = "model.safetensors"


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint that a test may damage."""

    def copy(name: str) -> Path:
        made = tmp_path / name
        shutil.copytree(CHECKPOINTS / name, made)
        return made

    return copy


def refused(source: Path | str, *words: str, kind: type = InvalidInput) -> str:
    with pytest.raises(kind) as problem:
        load(source)
    message = str(problem.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def change(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(directory: Path, edit: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = safetensors.numpy.load_file(directory / WEIGHTS)
    edit(tensors)
    safetensors.numpy.save_file(tensors, directory / WEIGHTS)


LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
WINDOWED = {"use_sliding_window": True, "sliding_window": 8}


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("llama", {"architectures": ["MistralForCausalLM"]}, ["MistralForCausalLM", "Qwen2"]),
        ("llama", {"architectures": None}, ["architectures"]),
        ("llama", {"hidden_act": "gelu"}, ["hidden_act", "'gelu'", "'silu'"]),
        ("llama", {"attention_bias": True}, ["attention_bias"]),
        ("llama", {"mlp_bias": True}, ["mlp_bias"]),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, ["rope_type", "'yarn'"]),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, ["rope_type", "'linear'"]),
        ("llama", {"rope_parameters": {"rope_type": "dynamic"}}, ["rope_parameters", "'dynamic'"]),
        ("llama", {"rope_scaling": "llama3"}, ["rope_scaling", "'llama3'"]),
        ("llama", {"rope_scaling": LLAMA3 | {"factor": None}}, ["rope_scaling.factor"]),
        (
            "llama",
            {"rope_scaling": LLAMA3 | {"low_freq_factor": 9.0}},
            ["low must be less than high=4.0"],
        ),
        ("llama", {"rope_theta": -1.0}, ["rope_theta", "-1.0"]),
        ("llama", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ("llama", {"hidden_size": "32"}, ["hidden_size", "'32'"]),
        ("llama", {"hidden_size": None}, ["hidden_size", "None"]),
        ("llama", {"tie_word_embeddings": "yes"}, ["tie_word_embeddings", "'yes'"]),
        ("llama", {"rms_norm_eps": 0}, ["rms_norm_eps"]),
        ("llama", {"num_key_value_heads": 3}, ["key_value_heads", "3"]),
        ("llama", {"vocab_size": 300}, ["model.embed_tokens.weight", "(300, 32)", "(272, 32)"]),
        ("llama", {"num_hidden_layers": 3}, ["no tensor model.layers.2"]),
        ("llama", {"num_hidden_layers": 1}, ["no place", "model.layers.1"]),
        ("qwen2", WINDOWED | {"layer_types": ["sliding_attention"] * 2}, ["use_sliding_window"]),
        ("qwen3", WINDOWED | {"layer_types": None, "max_window_layers": 1}, ["use_sliding_window"]),
        ("qwen3", {"head_dim": 8}, ["q_proj", "(32, 32)", "(48, 32)"]),
        ("gpt2", {"activation_function": "relu"}, ["activation_function", "'relu'"]),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx"]),
        ("gpt2", {"add_cross_attention": True}, ["add_cross_attention"]),
        ("gpt2", {"n_positions": 32}, ["wpe.weight", "(32, 32)", "(64, 32)"]),
    ],
)
def test_fields(copied: Any, name: str, fields: dict, words: list[str]) -> None:
    directory = copied(name)
    change(directory, **fields)
    refused(directory, str(directory), *words)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.pop(NORM), ["no tensor", NORM]),
        (lambda t: t.update({"model.extra": t[NORM]}), ["no place", "model.extra"]),
        (lambda t: t.update({NORM: t[NORM][:-1]}), [NORM, "(32,)", "(31,)"]),
        (lambda t: t.update({NORM: t[NORM].astype(np.int8)}), [NORM, "I8", "BF16"]),
    ],
    ids=["missing", "extra", "another shape", "another type"],
)
def test_tensors(copied: Any, edit: Callable, words: list[str]) -> None:
    directory = copied("llama")
    change_tensors(directory, edit)
    refused(directory, str(directory), *words)


def test_files_that_are_not_whole(copied: Any) -> None:
    directory = copied("llama_old")
    shard = directory / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    for size in (len(whole) - 1, 100, 0):
        shard.write_bytes(whole[:size])
        refused(directory, str(shard), "not a whole safetensors file", "again")
    shard.unlink()
    refused(directory, str(shard), "missing")
    shard.write_bytes((directory / "model-00001-of-00003.safetensors").read_bytes())
    refused(directory, str(shard), "holds no tensor", "index")
    index = directory / "model.safetensors.index.json"
    index.write_text(index.read_text()[:-20])
    refused(directory, str(index), "JSON")
    index.write_text("{}")
    refused(directory, str(index), "weight_map")
    index.unlink()
    refused(directory, str(directory), "neither")
    (directory / "config.json").write_text("[]")
    refused(directory, "config.json", "list")
    (directory / "config.json").unlink()
    refused(directory, str(directory / "config.json"), "missing")


def test_tokenizers(copied: Any) -> None:
    directory = copied("llama")
    file = directory / "tokenizer.json"
    whole = json.loads(file.read_text())
    whole["added_tokens"].append(whole["added_tokens"][0] | {"id": 272, "content": "<|more|>"})
    file.write_text(json.dumps(whole))
    refused(directory, str(directory), "tokenizer", "272")
    file.write_text(file.read_text()[:-100])
    refused(directory, str(file), "not a whole tokenizer")
    file.unlink()
    refused(directory, str(file), "missing")
    shutil.copy(CHECKPOINTS / "llama" / "tokenizer.json", file)
    (directory / "tokenizer_config.json").write_text('{"eos_token": "<|nothing|>"}')
    refused(directory, "tokenizer_config.json", "eos_token", "'<|nothing|>'")
    (directory / "tokenizer_config.json").unlink()
    change(directory, eos_token_id=[2, 1])
    assert load(directory)[1].ends[0] == 2


def written(path: Path, architecture: str, **fields: Any) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in fields.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_tensor("token_embd.weight", np.ones((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_files(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    whole = (CHECKPOINTS / "llama_gguf" / "model.gguf").read_bytes()
    for size in (len(whole) - 1000, len(whole) // 4, 20, 0):
        path.write_bytes(whole[:size])
        refused(path, str(path), "not a whole GGUF file")
    path.write_bytes(b"nothing of the kind" * 100)
    refused(path, str(path), "not a whole GGUF file")
    refused(written(path, "falcon"), str(path), "'falcon'")
    refused(written(path, "llama"), str(path), "heads")
    shape = {"embedding_length": 8, "head_count": 2}
    refused(written(path, "llama", **shape), str(path), "num_hidden_layers")
    refused(written(path, "llama", **shape, expert_count=2), str(path), "expert_count")
    refused(written(path, "llama", **shape, rope_dimension_count=2), str(path), "2 in rotations")
    yarn = gguf.RopeScalingType.YARN
    refused(written(path, "llama", **shape, rope_scaling_type=yarn), str(path), "'yarn'")


@pytest.mark.parametrize(
    ("field", "old", "new", "allowed"),
    [("model", "gpt2", "bert", "'gpt2'"), ("pre", "smollm", "falcon", "smollm, gpt-2")],
)
def test_gguf_tokenizers(tmp_path: Path, field: str, old: str, new: str, allowed: str) -> None:
    """The same file with a text in its head replaced by another of the same length."""
    path, name = tmp_path / "model.gguf", f"tokenizer.ggml.{field}".encode()
    whole = (CHECKPOINTS / "llama_gguf" / "model.gguf").read_bytes()
    head, tail = whole.split(name, maxsplit=1)
    path.write_bytes(head + name + tail.replace(old.encode(), new.encode(), 1))
    refused(path, str(path), f"tokenizer.ggml.{field}", f"'{new}'", allowed)


def test_names() -> None:
    refused("smolm2", "'smolm2'", "smollm2", "OWNER/NAME")
    refused("a/b/c", "'a/b/c'", "OWNER/NAME")


def test_a_name_on_the_hub_without_a_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("nobody/nothing", "nobody/nothing", "downloaded", kind=Unfinished)
