"""Readers of prompts, tokenizers and chat templates on inputs that are nearly right: they give the right thing or one
sentence, soon and in little memory. Inputs that once failed are in `tests/corpus` and tried again."""

import atexit
import functools
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_inputs import nearly, torn
from test_templates import WRITTEN
from test_tokens import sentencepiece, wordpiece

from envs import prompts
from envs.prompts import Form
from testbed.errors import InvalidInput
from testbed.llm.tokenizer import Tokenizer
from testbed.policies import pretrained

HERE = Path(__file__).parents[1]
LLAMA = HERE / "checkpoints" / "llama"
CORPUS = HERE / "corpus"
SECONDS, BYTES = 5.0, 1 << 30
#: As many as each reader is given.
TRIED = settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
)


@functools.cache
def directory() -> Path:
    """Where a tokenizer's files lie while they are read."""
    kept = tempfile.TemporaryDirectory(prefix="testbed-odd-")
    atexit.register(kept.cleanup)
    return Path(kept.name)


@functools.cache
def tokenizer() -> pretrained.Tokenizer:
    return pretrained.Tokenizer(Tokenizer.read(LLAMA))


def lay(name: str, content: bytes) -> Path:
    """A directory with the tokenizer of ``llama`` in which one file has another content."""
    made = directory() / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(LLAMA / file, made)
    (made / name).write_bytes(content)
    return made


def use(found: Tokenizer) -> None:
    """All that a tokenizer is asked for."""
    ids = found.encode("the 12 cats, <|end|>\n naïve 😀")
    assert all(0 <= i < found.vocabulary for i in (*ids, *found.begin, *found.ends))
    assert isinstance(found.decode(ids), str)
    assert isinstance(found.continuation(ids), str)
    assert len(found.words()) == found.vocabulary


def read_prompts(content: bytes) -> None:
    path = directory() / "p.jsonl"
    path.write_bytes(content)
    given = prompts.encoded(path, tokenizer(), Form(False, "", 64))
    assert given.length.min() > 0


def read_tokenizer(content: bytes) -> None:
    use(Tokenizer.read(lay("tokenizer.json", content)))


def read_settings(content: bytes, name: str = "tokenizer_config.json") -> None:
    found = Tokenizer.read(lay(name, content))
    use(found)
    found.chat("the cat", "meow")


def read_template(content: bytes) -> None:
    read_settings(content, "chat_template.jinja")


def read_generation(content: bytes) -> None:
    assert Tokenizer.read(lay("generation_config.json", content)).ends[0] == 0


READERS: dict[str, Callable[[bytes], None]] = {
    "prompts": read_prompts,
    "tokenizers": read_tokenizer,
    "settings": read_settings,
    "generation": read_generation,
    "templates": read_template,
}


def check(reader: str, content: bytes) -> None:
    """A right load or one sentence that can be printed, in time."""
    began = time.monotonic()
    try:
        READERS[reader](content)
    except InvalidInput as refused:
        message = str(refused)
        assert message
        assert "\n" not in message
        message.encode("utf-8")
    assert time.monotonic() - began < SECONDS


PROMPTS = (
    '{"prompt": "the cat sat é"}\n'
    '{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "\\u00e9 the"}]}\n'
    '{"prompt": "12 dogs \\ud83d\\ude00", "id": 3, "score": -1.5e3, "more": [null, true]}\n'
    '{"prompt": "on the mat"}\r\n\n{"prompt": "the end"}\n'
).encode()
CHATTING = {
    "eos_token": {"content": "<|end|>", "special": True},
    "bos_token": "<|start|>",
    "add_bos_token": True,
    "pad_token": None,
    "extra_special_tokens": {"image_token": "<|pad|>"},
    "chat_template": [
        {"name": "default", "template": WRITTEN["cases"][1]["settings"]["chat_template"]}
    ],
}
GENERATION = {
    "_from_model_config": True,
    "bos_token_id": 1,
    "eos_token_id": [2, 1, 7],
    "top_p": 0.9,
}


@functools.cache
def whole_tokenizers() -> list[dict]:
    """Tokenizers of four kinds."""
    byte_pairs = json.loads((LLAMA / "tokenizer.json").read_text(encoding="utf-8"))
    processor = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|start|>": {"id": "<|start|>", "ids": [1], "tokens": ["<|start|>"]}},
    }
    padding = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 2,
        "pad_type_id": 0,
        "pad_token": "<|pad|>",
    }
    others = [json.loads(t.backend.to_str()) for t in (sentencepiece("legacy"), wordpiece())]
    unigram = byte_pairs | {
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<|end|>", 0.0], ["a", -1.0]]},
        "normalizer": {"type": "Replace", "pattern": {"Regex": "a+b?"}, "content": "x"},
    }
    return [
        byte_pairs,
        byte_pairs | {"post_processor": processor, "padding": padding},
        *others,
        unigram,
    ]


def documents(name: str) -> st.SearchStrategy[bytes]:
    """Inputs of a reader that are nearly right."""
    if name == "prompts":
        lines = [json.loads(line) for line in PROMPTS.decode().split("\n") if line.strip()]
        mended = st.sampled_from(lines).flatmap(nearly)
        return st.one_of(torn(PROMPTS), mended.map(lambda line: PROMPTS + line + b"\n"))
    if name == "tokenizers":
        return st.sampled_from(whole_tokenizers()).flatmap(nearly)
    if name == "settings":
        return nearly(CHATTING)
    if name == "generation":
        return nearly(GENERATION)
    sources = [case["settings"]["chat_template"] for case in WRITTEN["cases"]]
    texts = [source.encode() for source in sources if isinstance(source, str)]
    return st.sampled_from(texts).flatmap(torn)


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """The process grows by less than 1 GiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < BYTES


@pytest.mark.parametrize("reader", READERS)
def test_inputs_that_are_nearly_right(reader: str) -> None:
    tried = 0

    @TRIED
    @given(documents(reader))
    def attempt(content: bytes) -> None:
        nonlocal tried
        tried += 1
        check(reader, content)

    attempt()
    assert tried >= 500


@pytest.mark.parametrize(
    "path",
    sorted(path for name in READERS for path in (CORPUS / name).glob("*")),
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_inputs_that_once_failed(path: Path) -> None:
    check(path.parent.name, path.read_bytes())
