"""The text world on a tiny checkpoint: prompts, what it is made of, its rewards; and a slow test of the real one."""

import functools
import json
import pickle
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from helpers import cut, experiment, prompts, response, responses

import envs.prompts
from envs.goldens.length import Length, LengthTaste
from envs.goldens.random_head import RandomTaste
from envs.goldens.residual import Residual, rewards
from envs.goldens.sentiment import Sentiment
from envs.prompts import OPENINGS, REQUESTS, Form, is_held_out
from envs.text import Text
from testbed.config import fingerprint, parse, replace
from testbed.environment import AbstractGolden
from testbed.errors import InvalidInput
from testbed.policies import shared_weights
from testbed.policies.pretrained import restored
from testbed.types import Prompt, Response, Scalar

ROOM = 8


def written(path: Path, *rows: object) -> Path:
    """A file of prompts; texts are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def plain(*texts: str) -> list[dict[str, str]]:
    return [{"prompt": text} for text in texts]


def talk(*turns: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_prompts_become_tokens(tmp_path: Path) -> None:
    """Openings as they are, conversations by the checkpoint's template, with a system prompt of their own or given."""
    asked = talk(("user", "film"))
    path = written(
        tmp_path / "p.jsonl",
        *plain("the film", "a"),
        "",
        asked,
        talk(("system", "bad"), ("user", "a")),
    )
    tokenizer = tiny.loaded()[1]

    def rows(chat: bool, system: str | None = "") -> list[list[int]]:
        found = envs.prompts.encoded(path, tokenizer, Form(chat, system, ROOM))
        assert found.tokens.shape == (4, ROOM)
        return [cut(found, i).tolist() for i in range(4)]

    own = [10, 0, 1, 4, 0, 3]
    assert rows(False) == [[5, 6], [4], [1, 6, 0, 3], own]
    assert rows(True)[:2] == [[1, 5, 6, 0, 3], [1, 4, 0, 3]]
    assert rows(True, "very")[0] == [12, 1, 5, 6, 0, 3]
    assert rows(True, None)[2] == [12, 11, 1, 6, 0, 3]
    assert rows(True, "very")[3] == rows(True, None)[3] == own


GOOD = plain("a", "the", "film")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"p.jsonl, line 4: not valid JSON: .+"),
        ("[1]", r"line 4: needs one of 'prompt' and 'messages', got \[1\]"),
        ({"text": "a"}, r"line 4: needs one of 'prompt' and 'messages', got \{.text.: .a.\}"),
        ({"prompt": "a", "messages": []}, "line 4: needs one of"),
        ({"prompt": "  "}, "line 4: 'prompt' must be text that is not empty"),
        ({"prompt": 7}, "line 4: 'prompt' must be text that is not empty, got 7"),
        ({"messages": []}, "line 4: 'messages' must be a list of messages"),
        (talk(("user", "")), "line 4: a message needs"),
        (talk(("judge", "a")), "line 4: a message needs a 'role' .system, user, assistant."),
        (talk(("user", "a"), ("assistant", "a")), "line 4: the last message must be the user's"),
        ({"prompt": "a " * 9}, "line 4: the prompt has 9 tokens and prompt_length is 8; .* has 9"),
    ],
)
def test_prompts_that_cannot_be_used(tmp_path: Path, row: object, message: str) -> None:
    path = written(tmp_path / "p.jsonl", *GOOD, row, *GOOD)
    with pytest.raises(InvalidInput, match=message):
        envs.prompts.encoded(path, tiny.loaded()[1], Form(False, "", ROOM))


def test_prompt_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"missing.jsonl cannot be read: No such file"):
        envs.prompts.read(tmp_path / "missing.jsonl")
    with pytest.raises(InvalidInput, match=r"p.jsonl must hold at least 4 prompts .*, got 3"):
        envs.prompts.read(written(tmp_path / "p.jsonl", *GOOD))
    (tmp_path / "p.jsonl").write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match=r"p.jsonl must be UTF-8"):
        envs.prompts.read(tmp_path / "p.jsonl")


def test_own_prompts_are_many_and_different() -> None:
    everything = [row.prompt for path in (OPENINGS, REQUESTS) for row in envs.prompts.read(path)]
    assert len(everything) == len({json.dumps(prompt) for prompt in everything}) == 132
    assert is_held_out(9).tolist() == [False, False, False, True] * 2 + [False]


class Tokens(AbstractGolden):
    """Token 5 counts ten, all others one; plus the prompt's first token times 100."""

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        worth = jnp.where(response.tokens == 5, 10.0, 1.0)
        return jnp.sum(jnp.where(response.mask, worth, 0.0)) + 100.0 * prompt.tokens[0]


def samples(n: int, each: int) -> tuple[Prompt, Response]:
    texts = responses(n * each, 1)
    return prompts(n), jax.tree.map(lambda x: x.reshape(n, each, *x.shape[1:]), texts)


def test_residual_by_hand() -> None:
    """Mean 0, variance 1 and no slope on length, all within prompts; the same of texts that were not among the
    samples, from coefficients fitted on those."""
    asked, texts = samples(6, 12)
    golden = Residual.standardised(Tokens(), asked, texts, without_length=True)
    raw = np.asarray(rewards(Tokens(), asked, texts), float)
    length = np.asarray(texts.length, float)
    x, y = (a - a.mean(axis=1, keepdims=True) for a in (length, raw))
    slope = (x * y).sum() / (x * x).sum()
    rest = raw - slope * length
    expected = (rest - rest.mean()) / np.sqrt(rest.var(axis=1, ddof=1).mean())
    found = np.asarray(rewards(golden, asked, texts))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    within = found - found.mean(axis=1, keepdims=True)
    assert abs((x * within).sum()) < 1e-4 * np.sqrt((x * x).sum() * (within * within).sum())
    plain = Residual.standardised(Tokens(), asked, texts, without_length=False)
    assert float(plain.slope) == 0.0


def test_residual_of_a_constant_reward_is_finite() -> None:
    asked, texts = samples(6, 12)
    longest = jax.tree.map(lambda x: x, texts)
    same = eqx.tree_at(lambda t: t.length, longest, jnp.full_like(texts.length, 3))
    golden = Residual.standardised(Length(), asked, same, without_length=True)
    np.testing.assert_array_equal(rewards(golden, asked, same), np.zeros((6, 12)))


def test_sentiment_by_hand() -> None:
    """Each word once; negated by not, three tokens back and no further; not as the beginning of a longer word."""
    words = tiny.loaded()[1].words(tiny.VOCABULARY)
    golden = Sentiment.of(
        words, {"great": 3.0, "bad": -2.0, "fine": 1.0, "ness": 4.0, "<pad>": 9.0}
    )
    texts = {
        "great bad": 1.0,
        "great great great": 3.0,
        "not great": -0.74 * 3.0,
        "not a the great": -0.74 * 3.0,
        "not a the film great": 3.0,
        "great not": 3.0,
        "badness fine": 1.0,
        "bad <pad>": -2.0,
        "a": 0.0,
    }
    given = tiny.loaded()[1].responses(list(texts), 5)
    found = jax.jit(jax.vmap(golden))(prompts(len(texts)), given)
    total = np.asarray(list(texts.values()))
    np.testing.assert_allclose(found, total / np.sqrt(total**2 + 15.0), atol=1e-6)
    # Behind the end nothing is read.
    junk = response([[9, 0, 10, 10, 10], [10, 0, 16, 9, 9]], [2, 2])
    by_hand = np.array([3.0, -2.0])
    np.testing.assert_allclose(
        jax.vmap(golden)(prompts(2), junk), by_hand / np.sqrt(by_hand**2 + 15.0), atol=1e-6
    )


@functools.cache
def directory() -> Path:
    import atexit
    import tempfile

    kept = tempfile.TemporaryDirectory(prefix="testbed-prompts-")
    atexit.register(kept.cleanup)
    return Path(kept.name)


def task(**changes: object) -> Text:
    """A text world of the tiny checkpoint."""
    tiny.loaded()
    path = written(
        directory() / "p.jsonl", *plain("a film", "the film was", "we", "not", "but a", "very")
    )
    fields = {
        "vocabulary": tiny.VOCABULARY,
        "prompt_length": 4,
        "response_length": 6,
        "checkpoint": tiny.NAME,
        "golden": RandomTaste(layers=2, units=8),
        "prompts": str(path),
    }
    return Text(**(fields | changes))


draw = eqx.filter_jit(lambda task, material, key: task.world_on(material, key))


def test_world_is_made_of_its_material() -> None:
    """The same from the same key; prompts are those that are not held out; rewards are standardised within prompts."""
    text = task()
    material = text.material()
    assert material.prompts.length.tolist() == [2, 3, 1, 2, 1]
    assert material.held_out.tokens[0].tolist() == [tiny.WORDS.index("not"), 0, 0, 0]
    world = draw(text, material, jax.random.key(0))
    again = text.world(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, world, again)
    other = draw(text, material, jax.random.key(1))
    assert np.any(other.golden.golden.head.readout != world.golden.golden.head.readout)
    drawn = jax.vmap(world.prompts)(jax.random.split(jax.random.key(2), 200))
    held = {tuple(row) for row in material.held_out.tokens.tolist()}
    seen = {tuple(row) for row in drawn.tokens.tolist()}
    assert len(seen) == 5
    assert not seen & held


def test_writers_are_the_model() -> None:
    """Their likelihood of each text sums to one over what they can write: of all first tokens, by hand."""
    text = task(response_length=1)
    world = draw(text, text.material(), jax.random.key(0))
    asked = jax.tree.map(lambda x: x[0], text.material().prompts)
    every = response(np.arange(tiny.VOCABULARY)[:, None], np.ones(tiny.VOCABULARY))
    likelihood = jax.jit(jax.vmap(world.writers.log_likelihood, (None, 0)))(asked, every)
    assert float(jnp.sum(jnp.exp(likelihood))) == pytest.approx(1.0, abs=1e-5)
    keys = jax.random.split(jax.random.key(1), 4000)
    tokens = jax.jit(jax.vmap(world.writers, (0, None)))(keys, asked).tokens[:, 0]
    share = np.bincount(np.asarray(tokens), minlength=tiny.VOCABULARY) / 4000
    np.testing.assert_allclose(share, np.exp(likelihood), atol=0.04)


def test_stored_worlds_hold_no_weights() -> None:
    """A world as it is stored leaves out what its writers and its reward share; put back, it is the same."""
    text, model = task(), tiny.loaded()[0].model
    material = shared_weights.left_out(text.material())
    given = shared_weights.Weights.of(shared_weights.missing(material))
    drawn = jax.jit(shared_weights.sharing(text.world_on))(given, material, jax.random.key(0))
    assert shared_weights.missing(drawn) == shared_weights.missing(shared_weights.left_out(model))
    found = restored(pickle.loads(pickle.dumps(jax.device_get(drawn))))
    assert found.writers.model.model.embedding is model.embedding
    assert found.golden.golden.trunk.model.embedding is model.embedding
    assert found.writers.model.model.config.temperature == text.temperature


def test_task_is_a_config() -> None:
    """Named by content, changed from the command line, described without loading anything."""
    assert fingerprint(Text()) != fingerprint(Text(golden=LengthTaste()))
    assert parse(Text(), "golden", "RandomTaste(units=8)") == RandomTaste(units=8)
    assert parse(Text(), "system", "none") is None
    assert Text.checkpointed
    with pytest.raises(
        InvalidInput, match="vocabulary must be that of checkpoint tiny, 17, got 18"
    ):
        task(vocabulary=18).material()
    with pytest.raises(InvalidInput, match="temperature must be > 0 and finite, got 0"):
        Text(temperature=0.0)
    assert task().words()[:2] == ("<end>", "<user>")


def test_content_follows_the_files() -> None:
    text = task()
    before = text.content()
    (directory() / "p.jsonl").write_text('{"prompt": "a"}\n' * 4)
    assert text.content() != before


def test_an_experiment_on_text_loads_nothing() -> None:
    """A checkpoint that nobody has is asked for only when a world is made."""
    run = replace(experiment(), "task", Text(checkpoint="nobody/has-it"))
    assert run.task.checkpoint == "nobody/has-it"
    assert run.lora is None
