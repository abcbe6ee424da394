"""Tokens as they read inside of a text, begin tokens and end tokens, of tokenizers of several kinds."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from envs.goldens.sentiment import Sentiment
from envs.prompts import Form, ids
from testbed.errors import InvalidInput
from testbed.llm import load
from testbed.llm.tokenizer import Tokenizer
from testbed.policies import pretrained

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
LLAMA = CHECKPOINTS / "llama"
GGUF = CHECKPOINTS / "llama_gguf" / "model.gguf"
WORDS = ("▁", "▁good", "▁bad", "good", "▁not", "ness", "▁movie", "a", "▁a", "▁café")
SPECIAL = {"eos_token": "</s>", "bos_token": "<s>"}


def wrapped(backend: tokenizers.Tokenizer, **settings: Any) -> Tokenizer:
    return Tokenizer(backend, SPECIAL | settings, Path("somewhere"))


def sentencepiece(style: str) -> Tokenizer:
    """A tokenizer as Llama 2 has it, in its older or its newer form, or with the decoder of T5 and others."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    names += sorted(set("goodbatnesmvi.é") - set(names))
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={name: number for number, name in enumerate(names)},
            merges=[],
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
            ignore_merges=True,
        )
    )
    if style == "legacy":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    if style == "metaspace":
        backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.add_special_tokens(["<s>", "</s>"])
    return wrapped(backend)


def wordpiece() -> Tokenizer:
    names = ["[UNK]", "<s>", "</s>", "a", "good", "##ness", "##a", "movie", ".", "bad"]
    backend = tokenizers.Tokenizer(
        models.WordPiece(
            vocab={name: number for number, name in enumerate(names)}, unk_token="[UNK]"
        )
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.add_special_tokens(["<s>", "</s>"])
    return wrapped(backend)


def word(tokenizer: Tokenizer, name: str) -> str:
    number = tokenizer.backend.token_to_id(name)
    assert number is not None
    return tokenizer.words()[number]


@pytest.mark.parametrize("style", ["legacy", "first", "metaspace"])
def test_words_of_sentencepiece_have_their_spaces(style: str) -> None:
    tokenizer = sentencepiece(style)
    found = {name: word(tokenizer, name) for name in (*WORDS, "</s>")}
    assert found == {name: name.replace("▁", " ") for name in found}
    if style != "metaspace":
        assert word(tokenizer, "<0x0A>") == "\n"
        assert word(tokenizer, "<0xE2>") == "\ufffd"
    golden = Sentiment.of(tokenizer.words(), {"good": 1.9, "bad": -2.5})
    of = tokenizer.backend.token_to_id
    assert float(golden.valence[of("▁good")]) == pytest.approx(1.9)
    assert float(golden.valence[of("▁bad")]) == pytest.approx(-2.5)
    assert float(golden.valence[of("good")]) == 0.0
    assert np.count_nonzero(golden.valence) == 2
    inner = {name: bool(golden.inner[of(name)]) for name in ("▁movie", "▁good", "ness", "good")}
    assert inner == {"▁movie": False, "▁good": False, "ness": True, "good": True}
    assert bool(golden.negation[of("▁not")])


def test_words_of_other_kinds() -> None:
    tokenizer = wordpiece()
    found = [word(tokenizer, name) for name in ("good", "##ness", "movie", "##a", "a")]
    assert found == [" good", "ness", " movie", "a", " a"]
    bytes_ = Tokenizer.read(LLAMA)
    assert [word(bytes_, name) for name in ("Ġthe", "at", "<|end|>")] == [" the", "at", "<|end|>"]


def test_words_of_a_large_vocabulary_are_there_soon() -> None:
    """128,256 as Llama 3 has, some ids without a token."""
    names = {f"{'▁' if i % 2 else ''}w{i}": i for i in range(128_000)} | {"a": 128_001}
    backend = tokenizers.Tokenizer(models.BPE(vocab=names, merges=[]))
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["</s>"])
    began = time.process_time()
    words = wrapped(backend).words()
    assert time.process_time() - began < 20  # a decoder asked once for each id takes minutes
    assert words[:2] == ("w0", " w1")
    assert words[128_000] == ""
    assert words[127_999] == " w127999"


@pytest.mark.parametrize("style", ["legacy", "first", "metaspace", "wordpiece"])
def test_a_response_reads_as_behind_its_prompt(style: str) -> None:
    """With the space that it begins with; a whole text has none."""
    tokenizer = wordpiece() if style == "wordpiece" else sentencepiece(style)
    named = ("good", "movie") if style == "wordpiece" else ("▁good", "▁movie")
    given = [tokenizer.backend.token_to_id(name) for name in named]
    assert tokenizer.decode(given) == "good movie"
    assert tokenizer.continuation(given) == " good movie"
    assert tokenizer.continuation([]) == ""
    end = tokenizer.ends[0]
    renumbered = pretrained.Tokenizer(tokenizer)
    ids = pretrained.exchanged([*given, end, *given], end).tolist()
    assert renumbered.decode(ids) == " good movie"
    assert renumbered.decode_prompt(ids).startswith("good movie")
    assert renumbered.decode_prompt(ids).replace(" ", "").endswith("</s>goodmovie")


def copied(made: Path, processor: Any = None, **settings: Any) -> pretrained.Tokenizer:
    """The tokenizer of a copy of ``llama`` with a post-processor."""
    shutil.copytree(LLAMA, made)
    backend = tokenizers.Tokenizer.from_file(str(made / "tokenizer.json"))
    if processor is not None:
        backend.post_processor = processor
        backend.save(str(made / "tokenizer.json"))
    fields = {"eos_token": "<|end|>"} | settings
    (made / "tokenizer_config.json").write_text(json.dumps(fields))
    return pretrained.Tokenizer(Tokenizer.read(made))


def around(text: str, *special: tuple[str, int]) -> Any:
    return processors.TemplateProcessing(single=text, special_tokens=list(special))


START, END, PAD = ("<|start|>", 1), ("<|end|>", 0), ("<|pad|>", 2)
ASKED = Form(False, "", 64)


@pytest.mark.parametrize(
    ("processor", "settings", "expected"),
    [
        (None, {}, [261, 267]),
        (around("<|start|> $A", START), {}, [1, 261, 267]),
        (around("<|start|> $A <|end|>", START, END), {}, [1, 261, 267]),
        (around("$A <|end|>", END), {}, [261, 267]),
        (around("<|pad|> <|start|> $A", PAD, START), {}, [2, 1, 261, 267]),
        (
            processors.Sequence([processors.ByteLevel(), around("<|start|> $A", START)]),
            {},
            [1, 261, 267],
        ),
        (None, {"add_bos_token": True, "bos_token": "<|start|>"}, [1, 261, 267]),
        (None, {"add_bos_token": True}, [261, 267]),
        (around("<|start|> $A", START), {"add_bos_token": False}, [261, 267]),
    ],
)
def test_prompts_begin_as_the_tokenizer_says(
    tmp_path: Path, processor: Any, settings: dict, expected: list[int]
) -> None:
    tokenizer = copied(tmp_path / "made", processor, **settings)
    assert ids(tokenizer, "the cat", ASKED) == expected
    assert tokenizer.encode("the cat") == [261, 267]
    assert tokenizer.responses(["the cat"], 3).tokens.tolist() == [[261, 267, 0]]


def test_never_two_begin_tokens(tmp_path: Path) -> None:
    """Neither under a template that writes one, nor where a prompt spells it; under one that writes none there is
    none, as in transformers."""
    processor = around("<|start|> $A", START)
    source = "{{ bos_token }}{{ messages[0].content }}"
    settings = {"bos_token": "<|start|>", "chat_template": source}
    tokenizer = copied(tmp_path / "a", processor, **settings)
    asked = Form(True, "", 64)
    assert ids(tokenizer, "the cat", asked) == [1, 261, 267]
    assert ids(tokenizer, [{"role": "user", "content": "the cat"}], ASKED) == [1, 261, 267]
    assert ids(tokenizer, "<|start|>the cat", ASKED) == [1, 261, 267]
    bare = settings | {"chat_template": "{{ messages[0].content }}"}
    assert ids(copied(tmp_path / "b", processor, **bare), "the cat", asked) == [261, 267]


def test_begin_tokens_are_renumbered(tmp_path: Path) -> None:
    """Where the begin token is token 0 it changes places with the end token."""
    settings = {"eos_token": "<|pad|>", "bos_token": "<|end|>", "add_bos_token": True}
    tokenizer = copied(tmp_path / "made", None, **settings)
    assert tokenizer.begin == (2,)
    assert ids(tokenizer, "the cat", ASKED) == [2, 261, 267]


GENERATION, CONFIG = "generation_config.json", "config.json"


@pytest.mark.parametrize(
    ("settings", "files", "ends"),
    [
        ({"eos_token": "<|end|>"}, {}, (0,)),
        ({"eos_token": "<|end|>"}, {GENERATION: [1, 0, 2]}, (0, 1, 2)),
        ({"eos_token": "<|end|>"}, {GENERATION: 2}, (0, 2)),
        ({"eos_token": "<|pad|>"}, {GENERATION: [1]}, (2, 1)),
        ({}, {GENERATION: [1, 5]}, (1, 5)),
        ({"eos_token": "<|end|>"}, {CONFIG: [2, 1]}, (0, 2, 1)),
        ({"eos_token": "<|end|>"}, {CONFIG: 2}, (0,)),
        ({"eos_token": "<|end|>"}, {GENERATION: [2], CONFIG: [1, 7]}, (0, 2)),
        ({"eos_token": "<|end|>"}, {GENERATION: [], CONFIG: [1, 7]}, (0, 1, 7)),
        ({}, {CONFIG: 2}, (2,)),
    ],
)
def test_all_tokens_that_end_a_response(
    tmp_path: Path, settings: dict, files: dict[str, Any], ends: tuple[int, ...]
) -> None:
    made = tmp_path / "made"
    shutil.copytree(LLAMA, made)
    (made / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, listed in files.items():
        path = made / name
        fields = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(fields | {"eos_token_id": listed}))
    model, tokenizer = load(made)
    assert tokenizer.ends == ends
    assert tokenizer.ends[0] == ends[0]
    assert model.ends == ()


@pytest.mark.parametrize("listed", [True, -1, "2", 2.0, [0, None], [[0]], [0, 272], {}])
def test_lists_of_end_tokens_that_cannot_be_used(tmp_path: Path, listed: Any) -> None:
    made = tmp_path / "made"
    shutil.copytree(LLAMA, made)
    (made / GENERATION).write_text(json.dumps({"eos_token_id": listed}))
    with pytest.raises(InvalidInput, match=r"\.json: ") as refused:
        Tokenizer.read(made)
    assert "\n" not in str(refused.value)


def gguf_with(path: Path, **fields: int | bool | str) -> Path:
    """A copy of the test's GGUF file with further fields of its tokenizer."""
    reader = gguf.GGUFReader(GGUF)
    writer = gguf.GGUFWriter(path, "llama")
    known = {name.removeprefix("tokenizer.ggml."): field for name, field in reader.fields.items()}
    for name, field in known.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in fields:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, inner)
    for name, value in fields.items():
        key = f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_int32(key, value)
        else:
            writer.add_string(key, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_special_tokens_of_gguf_files(tmp_path: Path) -> None:
    """End tokens of texts, turns and messages; begin tokens where the file asks for them, or llama.cpp adds them
    unasked."""
    path = tmp_path / "model.gguf"
    tokenizer = load(gguf_with(path, eot_token_id=2, eom_token_id=7))[1]
    assert (tokenizer.ends, tokenizer.begin) == ((0, 2, 7), ())
    assert load(gguf_with(path, eot_token_id=0))[1].ends == (0,)
    assert load(gguf_with(path, bos_token_id=1, add_bos_token=True))[1].begin == (1,)
    assert load(gguf_with(path, bos_token_id=1))[1].begin == ()
    assert load(gguf_with(path, bos_token_id=1, pre="llama-bpe"))[1].begin == (1,)
    given = {"bos_token_id": 1, "pre": "llama-bpe", "add_bos_token": False}
    assert load(gguf_with(path, **given))[1].begin == ()


@pytest.mark.parametrize("name", ["eot", "eom", "eos", "bos", "padding"])
@pytest.mark.parametrize("number", [272, -1])
def test_special_tokens_of_gguf_files_that_are_not_there(
    tmp_path: Path, name: str, number: int
) -> None:
    path = gguf_with(tmp_path / "model.gguf", **{f"{name}_token_id": number})
    with pytest.raises(
        InvalidInput, match=f"{name}_token_id must be between 0 and 271, the ids of tokens, got"
    ):
        load(path)
