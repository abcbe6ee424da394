"""Pretrained families: tiny random checkpoints against transformers' log-probabilities, stored beside them."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from test_flops import weighted

from testbed import config, decode, logprob
from testbed.errors import InvalidInput
from testbed.estimates import flops
from testbed.llm import load
from testbed.nn.rotary import Llama3Scaling
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import Prompt

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
SOURCES = {name: CHECKPOINTS / name for name in ("llama", "llama_old", "qwen2", "qwen3", "gpt2")}
SOURCES["llama_gguf"] = CHECKPOINTS / "llama_gguf" / "model.gguf"
every = pytest.mark.parametrize("name", SOURCES)
sample = jax.jit(decode.sample, static_argnums=(3, 4))


@jax.jit
def logprobs(model: Transformer, tokens: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(model(tokens))


def expected(name: str) -> tuple[np.ndarray, np.ndarray]:
    stored = np.load(CHECKPOINTS / name / "expected.npz")
    return stored["tokens"], stored["logprobs"]


@every
def test_logprobs_equal_those_of_transformers(name: str) -> None:
    """At every position over the whole vocabulary; the spread says that a mistake would show."""
    model, _ = load(SOURCES[name])
    tokens, wanted = expected(name)
    found = logprobs(model, tokens)
    assert found.dtype == jnp.float32
    assert wanted.std() > 1.0
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(logprobs(model, tokens[0]), wanted[0], atol=1e-4)


def test_what_tells_the_families_apart_is_in_the_checkpoints() -> None:
    configs = {name: load(source)[0].config for name, source in SOURCES.items()}
    llama, old, gguf = configs["llama"], configs["llama_old"], configs["llama_gguf"]
    assert llama.rope_scaling == old.rope_scaling == Llama3Scaling(4.0, 1.0, 4.0, 16)
    assert gguf.rope_scaling == Llama3Scaling(4.0, 1.0, 4.0, 8192)
    assert llama.tied
    assert not old.tied
    assert (llama.heads, llama.key_value_heads) == (4, 2)
    assert (gguf.rope_base, gguf.norm_epsilon) == (50_000.0, 1e-5)
    qwen2, qwen3, gpt2 = configs["qwen2"], configs["qwen3"], configs["gpt2"]
    assert (qwen2.rope_base, qwen2.attention_bias, qwen2.key_value_heads) == (1000.0, True, 1)
    assert (qwen3.head_size, qwen3.query_width, qwen3.width, qwen3.head_norms) == (12, 48, 32, True)
    assert (gpt2.learned_positions, gpt2.mlp, gpt2.norm, gpt2.hidden) == (64, "gelu", "layer", 128)


def test_gpt2_without_its_prefix_and_with_its_masks(tmp_path: Path) -> None:
    """As the first files of GPT-2 are."""
    made = tmp_path / "gpt2"
    shutil.copytree(SOURCES["gpt2"], made)
    file = made / "model.safetensors"
    tensors = {
        name.removeprefix("transformer."): value
        for name, value in safetensors.numpy.load_file(file).items()
    }
    masks = {f"h.{i}.attn.bias": np.ones((1, 1, 64, 64), np.float32) for i in range(2)}
    safetensors.numpy.save_file(tensors | masks, file)
    tokens, wanted = expected("gpt2")
    np.testing.assert_allclose(logprobs(load(made)[0], tokens), wanted, atol=1e-4)


def test_a_copy_of_the_embedding_may_be_stored_as_the_head(tmp_path: Path) -> None:
    made = tmp_path / "llama"
    shutil.copytree(SOURCES["llama"], made)
    file = made / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file(
        tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, file
    )
    assert load(made)[0].head is None
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(InvalidInput, match=r"lm_head\.weight must equal the embedding"):
        load(made)


def test_a_window_as_long_as_the_context_is_none(tmp_path: Path) -> None:
    made = tmp_path / "qwen2"
    shutil.copytree(SOURCES["qwen2"], made)
    fields = json.loads((made / "config.json").read_text())
    window = {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 64}
    del fields["layer_types"]
    (made / "config.json").write_text(json.dumps(fields | window))
    tokens, wanted = expected("qwen2")
    np.testing.assert_allclose(logprobs(load(made)[0], tokens), wanted, atol=1e-4)


@pytest.mark.slow
@every
def test_cached_decoding_equals_teacher_forcing(name: str) -> None:
    """Prompts of different lengths, padded on the right; and the short ones give alone what they give among others."""
    model, _ = load(SOURCES[name])
    tokens, _ = expected(name)
    prompts = Prompt(
        jnp.asarray(tokens.reshape(8, 5), jnp.int32), jnp.array([5, 2, 3, 5, 4, 2, 5, 3])
    )
    keys = jax.random.split(jax.random.key(0), 8)
    found = sample(model, prompts, keys, 6, 2)
    forced = jax.jit(logprob.score_tokens)(model, prompts, found.response)
    np.testing.assert_allclose(found.logprobs, forced, atol=1e-4)
    assert len(np.unique(found.response.tokens)) > 20
    short = np.flatnonzero(np.asarray(prompts.length) == 2)
    alone = Prompt(prompts.tokens[short, :2], prompts.length[short])
    again = sample(model, alone, keys[short], 6, 2)
    np.testing.assert_array_equal(again.response.tokens, found.response.tokens[short])
    np.testing.assert_allclose(again.logprobs, found.logprobs[short], atol=1e-4)


@every
def test_parameters_and_operations_are_counted_exactly(name: str) -> None:
    model, _ = load(SOURCES[name])
    shape, vocabulary, rows = model.config, model.vocabulary, 20
    counted = shape.parameters(vocabulary)
    assert sum(leaf.size for leaf in jax.tree.leaves(model)) == counted
    drawn = jax.eval_shape(lambda: Transformer.init(jax.random.key(0), shape, vocabulary))
    assert jax.tree.structure(drawn) == jax.tree.structure(model)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, model)
    program = jax.make_jaxpr(lambda m: m(jnp.zeros(rows, jnp.int32)))(model)
    assert weighted(program.jaxpr) == flops.forward(shape, rows, 0, vocabulary)


def test_attention_is_counted_by_the_width_of_the_heads() -> None:
    shape = TransformerConfig(width=8, layers=3, heads=2, key_value_heads=1, head_width=10)
    difference = flops.forward(shape, 5, 7) - flops.forward(shape, 5, 0)
    assert difference == 2 * 3 * 5 * 2 * 7 * 20


def test_positions_beyond_the_learned_ones_are_refused_or_not_a_number() -> None:
    model, _ = load(SOURCES["gpt2"])
    with pytest.raises(InvalidInput, match=r"at most 64 tokens, .* got 65"):
        model(jnp.zeros(65, jnp.int32))
    token, mask = jnp.zeros(1, jnp.int32), jnp.ones((1, 1), bool)
    for place, finite in ((63, True), (64, False)):
        states, _ = model.hidden(token, jnp.array([place]), mask)
        assert bool(jnp.all(jnp.isfinite(states))) == finite


def test_scaled_frequencies_by_hand() -> None:
    """With 2 pi 100 positions a frequency of f makes 100 f turns: 5 are kept, half a turn is slowed by 8, 2.5 turns are
    in the middle of 1 and 4."""
    scaling = Llama3Scaling(factor=8.0, low=1.0, high=4.0, context=628)
    frequencies = jnp.array([5.0, 0.5, 2.5, 4.0, 1.0]) * 2 * np.pi / 628
    wanted = frequencies * jnp.array([1.0, 1 / 8, (1 + 1 / 8) / 2, 1.0, 1 / 8])
    np.testing.assert_allclose(scaling(frequencies), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"head_width": 7}, "head_width"),
        ({"head_width": -2}, "head_width"),
        ({"output_bias": True}, "output_bias"),
        ({"learned_positions": -1}, "learned_positions"),
        ({"learned_positions": 8, "rope_scaling": Llama3Scaling()}, "rope_scaling"),
    ],
)
def test_bad_shapes_are_refused_in_one_sentence(fields: dict, named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as refused:
        TransformerConfig(**fields)
    assert "\n" not in str(refused.value)


def test_kinds_and_scalings_in_words() -> None:
    plain = TransformerConfig()
    scaling = config.parse(plain, "rope_scaling", "Llama3Scaling(factor=32.0)")
    changed = config.replace_all(plain, {"rope_scaling": scaling, "norm": "layer", "mlp": "gelu"})
    assert changed.rope_scaling == Llama3Scaling(factor=32.0)
    assert changed.hidden == 4 * changed.width
    for name, known in (("norm", "rms"), ("mlp", "swiglu")):
        with pytest.raises(InvalidInput, match=f"{name} must be .*{known}.* got 'batch'"):
            config.replace(plain, name, "batch")


@pytest.mark.parametrize(
    "fields",
    [{"factor": 0.5}, {"low": 4.0}, {"low": 0.0}, {"high": float("inf")}, {"context": 0}],
)
def test_bad_scalings_are_refused(fields: dict) -> None:
    with pytest.raises(InvalidInput, match=next(iter(fields))):
        Llama3Scaling(**fields)
