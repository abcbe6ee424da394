"""Texts longer than a network has positions for, and trunks of more blocks than there are, are refused before anything
is built; only what runs is held against the size of the data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import text_runs
import tiny
from helpers import PROMPT, TIME, experiment

from envs.goldens.human_rating import HumanTaste
from envs.goldens.length import LengthTaste
from envs.goldens.random_head import RandomTaste
from envs.text import Text
from sweeps.cli import main as cli
from testbed.config import replace_all
from testbed.errors import InvalidInput
from testbed.llm import load
from testbed.optimiser import FitConfig
from testbed.policies import pretrained
from testbed.policies.pretrained import register
from testbed.proxies.linear_head import HeadConfig
from testbed.proxies.reader import ProxyConfig
from testbed.stages.world_config import WorldConfig
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
FIT = FitConfig(steps=20, batch_size=8)
#: A table of positions that is too short for any text of `helpers.experiment`.
SHORT = TransformerConfig(width=8, layers=1, learned_positions=5)


@pytest.fixture
def own_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Checkpoints that a test registers are forgotten."""
    monkeypatch.setattr(pretrained, "_LOADED", {})
    yield
    tiny.loaded.cache_clear()


def small(**settings: Any) -> TransformerConfig:
    return replace_all(tiny.CONFIG, settings)


def task(shape: TransformerConfig, prompt_length: int, response_length: int, **more: Any) -> Text:
    """A text world on random weights of a shape, registered as ``limited``."""
    drawn = Transformer.init(jax.random.key(0), shape, tiny.VOCABULARY)
    register("limited", drawn, tiny.Pieces())
    fields = {
        "vocabulary": tiny.VOCABULARY,
        "checkpoint": "limited",
        "golden": LengthTaste(),
        "prompt_length": prompt_length,
        "response_length": response_length,
    }
    return Text(**(fields | more))


@pytest.mark.parametrize("limit", [{"learned_positions": 10}, {"context": 10}])
@pytest.mark.usefixtures("own_names")
def test_a_text_world_has_room_in_its_checkpoint(limit: dict) -> None:
    """Ten positions are enough for 4 + 6 tokens and not for 4 + 7."""
    assert task(small(**limit), 4, 6).loaded()[0].model.config.room == 10
    with pytest.raises(InvalidInput) as problem:
        task(small(**limit), 4, 7).loaded()
    for word in ("prompt_length", "response_length", "limited", "10 positions", "4 + 7 = 11"):
        assert word in str(problem.value)


@pytest.mark.usefixtures("own_names")
def test_behind_the_last_position_rewards_are_not_numbers() -> None:
    """Why such a world is refused."""
    long = jnp.zeros(11, jnp.int32)
    with pytest.raises(InvalidInput, match="at most 10 tokens"):
        Transformer.init(jax.random.key(0), small(learned_positions=10), 17)(long)
    model = Transformer.init(jax.random.key(0), small(learned_positions=10), 17)
    states, _ = model.hidden(long, jnp.arange(11), jnp.tril(jnp.ones((11, 11), bool)))
    assert np.isnan(states).any()


@pytest.mark.parametrize(
    ("golden", "found"), [(RandomTaste(), "got 15"), (HumanTaste(layers=4), "got 4")]
)
@pytest.mark.usefixtures("own_names")
def test_a_golden_reward_names_its_blocks(golden: Any, found: str) -> None:
    with pytest.raises(InvalidInput, match=f"golden.layers must be between 1 and the 3.*{found}"):
        task(tiny.CONFIG, 4, 6, golden=golden).loaded()


@pytest.mark.usefixtures("own_names")
def test_rated_texts_have_room() -> None:
    """They are up to 48 tokens behind an end token."""
    enough = task(small(context=49), 4, 6, golden=HumanTaste(layers=1))
    assert enough.loaded()[0].model.config.room == 49
    with pytest.raises(InvalidInput, match=r"HumanTaste.* 49 tokens.* 48"):
        task(small(context=48), 4, 6, golden=HumanTaste(layers=1)).loaded()


def test_contexts_of_checkpoints() -> None:
    """As their files have them: GPT-2's table, trained positions with scaling counted, a GGUF file's context."""
    for name, room in (("gpt2", 64), ("llama", 64), ("llama_gguf/model.gguf", 32768)):
        assert load(CHECKPOINTS / name)[0].config.room == room


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model__learned_positions": PROMPT + TIME - 1}, "model must have room for the 9"),
        ({"model__context": PROMPT + TIME - 1}, "model must have room for the 9 .*context=8"),
        (
            {"baseline_model": SHORT},
            "baseline_model must have room for the 9",
        ),
        (
            {"task__writer": SHORT},
            "task.writer must have room for the 9",
        ),
        (
            {"task__golden": SHORT},
            "task.golden must have room for the 9",
        ),
        # A pairwise proxy reads prompt, two responses and a token that is read out: 15 of them.
        ({"model__learned_positions": 14}, "proxy.model must .*15 tokens.*got 14"),
        (
            {"proxy": ProxyConfig(model=SHORT, fit=FIT)},
            "proxy.model must .*15 tokens.*got 5",
        ),
        ({"proxy": HeadConfig(fit=FIT)}, "proxy.layers must be between 1 and the 1 .*got 15"),
    ],
)
def test_networks_have_room_for_the_texts_of_any_task(fields: dict, named: str) -> None:
    run = experiment(**fields)
    with pytest.raises(InvalidInput, match=named):
        WorldConfig.of(run)


def test_networks_with_just_enough_room() -> None:
    WorldConfig.of(experiment(model__learned_positions=15))
    one = experiment(model__learned_positions=10, proxy__pairwise=False)
    WorldConfig.of(one)
    WorldConfig.of(experiment(model__context=9, proxy=HeadConfig(layers=1, fit=FIT)))


def test_a_trunk_on_the_base_policy() -> None:
    """The proxy's trunk are blocks of the policy that the data stand on, which may have more than the policy."""
    base = TransformerConfig(width=16, layers=3, heads=2, key_value_heads=1)
    WorldConfig.of(experiment(proxy=HeadConfig(layers=3, fit=FIT), baseline_model=base))


def test_only_what_runs_is_held_against_the_data(tmp_path: Path) -> None:
    """A text world brings its policy, and nothing is fine-tuned."""
    run = text_runs.run(tmp_path, data__pairs=16, sft__batch_size=64)
    assert run.sft.batch_size == 64
    with pytest.raises(InvalidInput, match=r"sft.batch_size must be between 1 and data.pairs=32"):
        experiment(sft__batch_size=64)
    for name in ("batch_size", "baseline__batch_size", "proxy__fit__batch_size"):
        with pytest.raises(InvalidInput, match=name.replace("__", ".")):
            text_runs.run(tmp_path, **{name: 64})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("prompt_length=40", "at most the 64 positions that checkpoint"),
        ("response_length=16", "golden.layers must be between 1 and the 2 of the model, got 15"),
    ],
)
def test_a_dry_run_refuses(capsys: Any, tmp_path: Path, settings: str, said: str) -> None:
    world = f"text(checkpoint='{CHECKPOINTS / 'gpt2'}', vocabulary=272, {settings})"
    command = ["run", "gap", "--task", world, "--dry-run", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
