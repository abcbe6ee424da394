"""What is known of programs before anything is traced: which are shared, which must be compiled, and for how long."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from helpers import PREPARED

from sweeps.population import compile_times, foresight, plan
from sweeps.population.devices import Machine
from sweeps.population.stage_programs import BY_NAME, kind_of
from sweeps.runtime import cores
from sweeps.study import Point
from testbed import config
from testbed.cache import Cache
from testbed.experiment import Experiment
from testbed.lora import Lora
from testbed.sources.offline import Offline
from testbed.stages import stages
from testbed.stages.world_config import WorldConfig
from testbed.transformer_config import TransformerConfig

A = WorldConfig.of(PREPARED[0])
#: A config that differs from `A` in most fields.
B = WorldConfig.of(
    config.replace_all(
        PREPARED[0],
        {
            "model": TransformerConfig(width=16, layers=1, heads=2, key_value_heads=2),
            "lora": Lora(rank=1),
            "data.pairs": 48,
            "data.held_out": 8,
            "sft.steps": 3,
            "labeler.temperature": 2.0,
            "baseline.steps": 7,
            "evaluation.prompts": 9,
            "evaluation.opponent_answers": 2,
            "seed": 5,
        },
    )
)


@pytest.fixture
def no_programs(tmp_path: Path) -> Iterator[Path]:
    """A compilation cache that is empty, and stays so."""
    usual = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", usual)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_a_stage_depends_on_nothing_but_the_fields_it_reaches(name: str) -> None:
    """With all other fields taken from another config, a stage's result keeps its address, and its kind."""
    fields = stages.reached(name)
    assert any(getattr(A, field) != getattr(B, field) for field in vars(A).keys() - fields)
    mixed = A.only(fields)
    for field in vars(A).keys() - fields:
        object.__setattr__(mixed, field, getattr(B, field))
    assert stages.fingerprints(mixed)[name] == stages.fingerprints(A)[name]
    assert kind_of(BY_NAME[name], mixed) == kind_of(BY_NAME[name], A)


def test_worlds_share_the_programs_of_stages_that_do_not_tell_them_apart() -> None:
    """A policy of another shape, and other data, have the same world and another SFT policy."""
    same = {name for name in BY_NAME if kind_of(BY_NAME[name], A) == kind_of(BY_NAME[name], B)}
    assert "world" in same
    assert {"texts", "sft", "start", "data", "proxy"}.isdisjoint(same)
    assert jax.tree.structure(A) != jax.tree.structure(B)


def points(*runs: Experiment) -> list[Point]:
    return [Point(str(number), "arm", run.seed, {}, run) for number, run in enumerate(runs)]


def test_a_forecast_counts_programs_that_are_not_stored(no_programs: Path) -> None:
    """One program for each stage that these worlds need, but SFT once for the policy and the baseline, and two for each
    source; a program that was compiled before takes as long again."""
    online = PREPARED[0]
    runs = (
        online,
        config.replace(online, "source", Offline()),
        config.replace(online, "loss.beta", 0.7),
    )
    made = plan.plan(points(*runs), Machine("cpu", 2, 1e9, 1e11))
    needed = {name for name, stage in BY_NAME.items() if stage.needed(WorldConfig.of(online))}
    count = len(needed - {"material", "base"}) + 2 * 2
    empty = Cache(no_programs / "stages")
    expected = count * plan.COMPILING / cores()
    # The task's material is made on the host, so that its shapes are not known yet either.
    assert foresight.compile_seconds(made, empty) == pytest.approx(expected)
    compile_times.note("sft", 30.0)
    compile_times.note("train Offline Ipo", 1.0)
    more = (30.0 + 1.0 - 2 * plan.COMPILING) / cores()
    assert foresight.compile_seconds(made, empty) == pytest.approx(expected + more)
    assert list(no_programs.rglob("*.program")) == []


def test_how_long_programs_took_is_kept_and_told(no_programs: Path) -> None:
    assert compile_times.said("sft") == "compiling sft"
    compile_times.note("sft", 61.234)
    compile_times.note("proxy", 2.0)
    assert compile_times.seconds() == {"sft": 61.23, "proxy": 2.0}
    assert compile_times.said("sft") == "compiling sft (1:01 last time)"
    (no_programs / compile_times.FILE).write_text('{"sft": "long"}')
    assert compile_times.seconds() == {}
    compile_times.note("sft", 3.0)
    assert compile_times.seconds() == {"sft": 3.0}
