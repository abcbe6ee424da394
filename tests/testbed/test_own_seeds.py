"""Seeds of golden reward, writers, labels and training: what they redraw, and what runs share."""

import jax
import numpy as np
import pytest
from helpers import PREPARED, Silence, cache_directory, experiment, worlds

from envs.chat import Chat
from envs.enumerable import Enumerable
from envs.helpful import Helpful
from envs.neural import Neural
from envs.summarize import Summarize
from sweeps.population import host
from sweeps.population.plan import Chunk, Layout, plan
from sweeps.population.world_builder import WorldBuilder
from sweeps.study import Point
from testbed import config
from testbed.cache import Cache
from testbed.environment import AbstractTask, World
from testbed.errors import InvalidInput
from testbed.recorded_runs.recorded_run import Recorded
from testbed.seeds import Seeds, UsedSeeds
from testbed.sources.generated import Generated
from testbed.stages.stages import fingerprints
from testbed.stages.world_config import WorldConfig
from testbed.train import OnlineRun

RECORDED = {"source": Generated(recorded=Recorded(OnlineRun(steps=6, batch_size=8)))}


def addresses(**settings) -> dict[str, str]:
    return fingerprints(WorldConfig.of(experiment(**settings)))


def same(first, second) -> bool:
    """Whether all arrays of two trees are equal."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_seeds_by_hand() -> None:
    assert Seeds().of(103) == UsedSeeds(103, 103, 103, 103)
    assert [Seeds(families=4).of(seed).golden for seed in range(99, 105)] == [
        96, 100, 100, 100, 100, 104,
    ]  # fmt: skip
    assert Seeds(families=4).of(103) == UsedSeeds(100, 100, 103, 103)
    assert Seeds(golden=1, writers=2, labels=3, training=4, families=4).of(9) == (1, 2, 3, 4)
    assert Seeds(training_shift=1000).of(7) == UsedSeeds(7, 7, 7, 1007)


def test_seeds_that_cannot_be_used_are_refused() -> None:
    class Together(Neural):
        """A task that draws all of a world from one key."""

        def world(self, key: jax.Array) -> World:
            return super().world(key)

    assert not Together.draws_writers_apart()
    assert not AbstractTask.draws_writers_apart()
    for task in (Neural, Chat, Enumerable, Helpful, Summarize):
        assert task.draws_writers_apart()
    own = Together(vocabulary=7, prompt_length=4, response_length=5, writers=2)
    experiment(task=own, seeds__families=2, seed=1)
    with pytest.raises(InvalidInput, match="draws both together"):
        experiment(task=own, seeds__golden=1)
    with pytest.raises(InvalidInput, match=r"seeds.training_shift must be at most 2\^31 - 1"):
        experiment(seed=1, seeds__training_shift=2**31 - 1)
    with pytest.raises(InvalidInput, match="must be 0 where training is set"):
        Seeds(training=1, training_shift=1)
    with pytest.raises(InvalidInput, match="golden must be none or between 0 and"):
        Seeds(golden=-1)
    with pytest.raises(InvalidInput, match="families must be at least 1"):
        Seeds(families=0)


def test_names_and_worlds_of_runs_that_leave_them_are_those_without_them() -> None:
    run = experiment(seed=5)
    assert "seeds" not in config.canonical(run)
    assert config.fingerprint(experiment(seed=5, seeds__families=1)) == config.fingerprint(run)
    assert config.fingerprint(experiment(seed=5, seeds__training=5)) != config.fingerprint(run)
    assert addresses(seed=5) == addresses(seed=5, seeds__training=5, seeds__golden=5)


def test_a_family_shares_its_world_and_nothing_else(tmp_path) -> None:
    """Seeds 4 and 6 of one family of four: one world, which seed 4 has without families too; other texts, and so
    another SFT policy."""
    configs = [WorldConfig.of(experiment(seed=seed, seeds__families=4)) for seed in (4, 6)]
    alone, other = (WorldConfig.of(experiment(seed=seed)) for seed in (4, 6))
    assert fingerprints(alone) == fingerprints(configs[0])
    first, second = map(fingerprints, configs)
    assert first["world"] == second["world"] != fingerprints(other)["world"]
    shared = {"material", "world"}
    assert {name for name in first if first[name] == second[name]} == shared
    builder = WorldBuilder(Cache(tmp_path), Silence())
    wanted = shared | {"texts"}
    builder.prepare([*configs, other], wanted)
    made = [builder.made(one, wanted) for one in (*configs, other)]
    assert same(made[0]["world"].golden, made[1]["world"].golden)
    assert same(made[0]["world"].writers, made[1]["world"].writers)
    assert not same(made[1]["world"].golden, made[2]["world"].golden)
    prompts = [one["texts"].corpus.prompts for one in made]
    assert not same(prompts[0], prompts[1])
    # Prompts of one seed are the same, whoever answers them.
    assert same(prompts[1], prompts[2])


NETWORKS = {"vocabulary": 7, "prompt_length": 4, "response_length": 5, "writers": 2}
TASKS = (Neural(**NETWORKS), Helpful(), Summarize())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_writers_of_another_world(task: AbstractTask) -> None:
    """Golden reward of one key, and the population of the other key's own world."""

    @jax.jit
    def draw():
        keys = jax.random.key(1), jax.random.key(2)
        return (
            *map(task.world, keys),
            task.world_with(None, *keys),
            task.world_with(None, *keys[:1] * 2),
        )

    one, two, mixed, again = draw()
    assert same(again, one)
    if isinstance(task, Neural):
        assert same(mixed.writers, two.writers)
        assert same(mixed.golden.goldens[0].trunk, one.golden.goldens[0].trunk)
    else:
        assert same(mixed.writers.habits, two.writers.habits)
        assert same(mixed.golden, one.golden)
        assert not same(mixed.writers.habits, one.writers.habits)


def test_labels_may_be_redrawn_alone() -> None:
    before, after = addresses(), addresses(seeds__labels=7)
    assert {name for name in before if before[name] == after[name]} == {
        "material", "world", "texts", "sft", "start", "base", "golden", "pool", "baseline",
    }  # fmt: skip


def test_another_training_seed_reuses_every_stage_of_the_world() -> None:
    assert addresses() == addresses(seeds__training=7) == addresses(seeds__training_shift=9)
    # A recorded run is the run of an experiment with the same plan: it is trained from the same seed.
    before, after = addresses(**RECORDED), addresses(**RECORDED, seeds__training=7)
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {"recorded", "stream", "prepared"}


def test_a_control_trains_another_policy_in_the_same_world() -> None:
    """The same arm twice: one world of the plan, equal at step 0 in all that is not sampled, and then apart; with the
    seed's own number as training seed nothing changes."""
    runs = [PREPARED[0]]
    runs += [config.replace(PREPARED[0], "seeds.training", seed) for seed in (PREPARED[0].seed, 7)]
    points = [Point(config.fingerprint(run), "online", run.seed, {}, run) for run in runs]
    assert len({point.run for point in points}) == 3
    made = plan(points)
    assert (len(made.worlds), len(made.chunks)) == (1, 1)
    world = WorldConfig.of(runs[0])
    whole = Chunk(tuple(points), (world,), (0, 0, 0), Layout(2, 1), 0, 2, False, None)
    assert cache_directory().exists()
    rows = host.run_chunk(whole, worlds(), Silence()).rows
    checks = np.asarray(rows["policy_checksum"]).reshape(3, 3)
    wins = np.asarray(rows["win_rate"]).reshape(3, 3)
    assert np.array_equal(checks[0], checks[1])
    assert np.array_equal(wins[0], wins[1])
    assert checks[0, 0] == checks[2, 0]
    assert not np.any(checks[0, 1:] == checks[2, 1:])
