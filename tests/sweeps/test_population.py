"""Stacked runs against the same runs alone, padding, repeatability, and what shares a compiled program."""

import dataclasses
import functools
import operator
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PREPARED, Silence, built, cache_directory, experiment, measured, worlds
from jax.experimental.compilation_cache import compilation_cache

from envs.enumerable import Enumerable
from sweeps import runtime
from sweeps.population import devices, executable_cache, host, programs
from sweeps.population import plan as planning
from sweeps.population.compile_key import compile_key
from sweeps.population.plan import Chunk, Layout, plan, waves
from sweeps.population.world_builder import WorldBuilder
from sweeps.store import parquet
from sweeps.study import Point
from testbed import config, logprob, train
from testbed.cache import Cache
from testbed.errors import InvalidInput
from testbed.estimates.memory import footprint
from testbed.experiment import Experiment
from testbed.losses.dpo import Dpo
from testbed.recorded_runs.recorded_run import Recorded
from testbed.source import AbstractSource
from testbed.sources.generated import Generated
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.sources.replay import Replay
from testbed.stages import stages
from testbed.stages.world_config import WorldConfig
from testbed.streams import Stream, stream
from testbed.train import OnlineRun

#: Three runs, so that four lanes have one of padding; the second diverges at once.
RATES = (3e-3, 1e30, 1e-2)
SEEDS = (0, 1, 1)


def point(run: Experiment, arm: str = "online") -> Point:
    return Point(config.fingerprint(run), arm, run.seed, {}, run)


def points() -> list[Point]:
    changes = zip(SEEDS, RATES, strict=True)
    return [
        point(config.replace(PREPARED[seed], "optimiser.learning_rate", rate))
        for seed, rate in changes
    ]


def chunk(runs: list[Point], rows: int = 2, lanes: int = 2, stacks: bool = False) -> Chunk:
    """Runs in slots on the two devices of the test run."""
    owned = [WorldConfig.of(run.experiment) for run in runs]
    worlds = list(dict.fromkeys(owned))
    owners = tuple(map(worlds.index, owned))
    return Chunk(tuple(runs), tuple(worlds), owners, Layout(rows, lanes), 0, 2, stacks, None)


def taken(made: Chunk, standing: Any, progress: Any) -> tuple[list[dict[str, Any]], int]:
    """The rows of a chunk one by one, and how many of its runs diverged."""
    outcome = host.run_chunk(made, standing, progress)
    assert outcome.seconds > 0
    return one_by_one(outcome.rows), outcome.diverged


def one_by_one(columns: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@functools.cache
def stacked() -> tuple[list[dict[str, Any]], int, Silence]:
    progress = Silence()
    return *taken(chunk(points()), worlds(), progress), progress


@functools.cache
def alone(which: int) -> list[dict[str, float]]:
    """One run by itself on one device: the training loop and the evaluation, without `sweeps.population.host`."""
    run = points()[which].experiment
    artifacts = worlds()[WorldConfig.of(run)]
    key = stream(jax.random.key(run.seed), Stream.TRAINING)
    state = _start(run, artifacts)
    rows, every = [], run.steps // run.evaluation.points
    for index in range(run.evaluation.points + 1):
        steps = every if index else 0
        clock = (max(0, index - 1) * every, steps)
        state = _advance(run, artifacts, state, key, *map(jnp.asarray, clock))
        evaluation_inputs = artifacts.evaluation_inputs(run.evaluation)
        fresh = jax.random.fold_in(stream(key, Stream.EVALUATION), index)
        found = measured(state.policy, evaluation_inputs, fresh)
        found |= {"train_loss": state.loss, "gradient_norm": state.gradient_norm}
        rows.append({name: float(value) for name, value in found.items()})
    return rows


@jax.jit
def _start(run, artifacts):
    return train.init(run.train, artifacts.training_inputs())


@jax.jit
def _advance(run, artifacts, state, key, start, steps):
    return train.advance(run.train, artifacts.training_inputs(), state, key, start, steps)


def expect_alone(rows: list[dict[str, Any]], which: int) -> None:
    """The rows of one run of a stack agree with that run alone."""
    mine = [row for row in rows if row["run"] == points()[which].run]
    if mine[0]["diverged_step"] >= 0:
        # A frozen policy is measured once more, not at every evaluation.
        assert {**mine[2], "evaluation": 1, "step": 3, "answers": None} == mine[1]
        mine = mine[:2]
    for row, expected in zip(mine, alone(which), strict=False):
        # Bits of the parameters may differ in another program.
        for name in expected.keys() - {"policy_checksum"}:
            value = expected[name]
            np.testing.assert_allclose(row[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("which", range(3))
def test_a_stacked_run_equals_the_same_run_alone(which: int) -> None:
    expect_alone(stacked()[0], which)


def test_rows_come_in_order_and_padding_is_never_reported() -> None:
    rows, diverged, progress = stacked()
    runs = [p.run for p in points()]
    assert [(row["run"], row["evaluation"], row["step"]) for row in rows] == [
        (run, index, 3 * index) for run in runs for index in range(3)
    ]
    assert diverged == 1
    assert progress.steps == 6 * 3
    assert all((row["stack"], row["devices"]) == (2, 2) for row in rows)


def test_step_zero_is_the_reference() -> None:
    """KL is exactly 0 and every comparison of likelihoods a tie, in the program that trains."""
    rows, _, _ = stacked()
    for row in rows:
        if row["evaluation"] == 0:
            assert row["kl"] == row["kl_se"] == 0.0
            assert row["self_accuracy"] == row["data_accuracy"] == 0.5
            assert row["winner_logprob_change"] == row["loser_logprob_change"] == 0.0
            assert np.isnan(row["train_loss"])
            assert np.isnan(row["gradient_norm"])


def test_a_diverged_run_is_kept_marked_and_frozen() -> None:
    rows, _, _ = stacked()
    by_run = {p.run: [row for row in rows if row["run"] == p.run] for p in points()}
    good, bad, _ = by_run.values()
    assert all(row["diverged_step"] == 0 for row in bad)
    assert all(row["kl"] == 0.0 for row in bad)
    assert all(row["diverged_step"] == -1 for row in good)
    assert good[-1]["kl"] > 0.0
    assert np.isfinite(good[-1]["train_loss"])


def test_two_invocations_agree_bit_for_bit() -> None:
    rows, _, _ = stacked()
    again, _ = taken(chunk(points()), worlds(), Silence())
    assert [row.keys() for row in again] == [row.keys() for row in rows]
    for row, other in zip(rows, again, strict=True):
        for name in row:
            assert row[name] == other[name] or (np.isnan(row[name]) and np.isnan(other[name])), name


@pytest.fixture
def shared_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user's cache directory, with the stages that the tests have made."""
    worlds()
    (tmp_path / "stages").symlink_to(cache_directory())
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))


@pytest.mark.usefixtures("shared_cache")
def test_a_plan_runs_to_its_rows() -> None:
    """`execute` with the cache that already holds the stages: the same rows as the chunk by itself."""
    made = plan(points())
    assert [(len(c.points), c.layout, c.stack, c.devices) for c in made.chunks] == [
        (3, (2, 2), 2, 2)
    ]
    assert made.chunks[0].steps == 18
    assert made.chunks[0].bytes > 0
    assert len(made.worlds) == 2
    [row] = made.describe()
    assert (row["runs"], row["steps"], row["worlds x runs"]) == (3, 6, "2 x 2")
    progress, delivered = Silence(), []
    spent = host.execute(made, delivered.append, progress)
    assert not any("building" in text for text in progress.stages)
    assert (progress.runs, progress.diverged, progress.steps) == (3, 1, 18)
    assert spent.bytes > 0 == spent.shrunk
    expect_rows(delivered, stacked()[0])


@pytest.fixture
def fresh_programs(tmp_path: Path) -> Iterator[None]:
    """A compilation cache of its own, and nothing in memory: what jax has compiled before can be run, but not written
    down again."""
    jax.clear_caches()
    usual = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "xla"))
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", usual)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("shared_cache", "fresh_programs")
def test_programs_are_found_without_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process, as it were, traces neither training nor measuring, and finds the same to the last bit."""
    made, delivered = plan(points()), []
    assert host.plan(points()).compile_seconds > 0.0
    host.execute(made, delivered.append, Silence())
    assert host.plan(points()).compile_seconds == 0.0

    def refuse(*_: Any) -> Any:
        raise AssertionError("traced")

    for name in ("_train_on", "_measurements", "_state_and_columns"):
        monkeypatch.setattr(programs, name, refuse)
    for program in (programs.training_program, programs.measuring_program):
        program.cache_clear()
    try:
        host.execute(made, delivered.append, Silence())
    finally:
        for program in (programs.training_program, programs.measuring_program):
            program.cache_clear()
    first, second = delivered
    for name, column in first.items():
        np.testing.assert_array_equal(column, second[name], err_msg=name)


def expect_same_bits(row: dict[str, Any], other: dict[str, Any]) -> None:
    """All that was measured of two runs, numbers and texts and outcomes by prompt."""
    for name in row.keys() - {"run"}:
        same = row[name] == other[name] or (np.isnan(row[name]) and np.isnan(other[name]))
        assert same, name


def expect_rows(delivered: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """The same runs with the same results, in whatever order."""
    found = [row for columns in delivered for row in one_by_one(columns)]
    order = operator.itemgetter("run", "evaluation")
    for row, other in zip(sorted(found, key=order), sorted(rows, key=order), strict=True):
        for name in row.keys() - {"run", "stack", "policy_checksum", "answers", *parquet.VECTORS}:
            np.testing.assert_allclose(row[name], other[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.usefixtures("shared_cache")
def test_a_device_that_runs_out_of_memory_is_given_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA's own account of two lanes a device, and one byte less than that as the limit: one lane at a time is run, and
    the results are those of two."""
    made = plan(points())
    [two] = made.chunks
    parts = programs.needed(two, worlds()[two.worlds[0]]).parts
    needed = max(devices.needed_memory(executable_cache.compiled(*part)) or 0 for part in parts)
    monkeypatch.setenv(devices.LIMIT, str(needed - 1))
    progress, delivered = Silence(), []
    spent = host.execute(made, delivered.append, progress)
    assert spent.shrunk == 1
    assert any("out of memory: 2 instead of 4 runs" in text for text in progress.stages)
    assert 0 < spent.bytes / 2 < needed
    assert {row["stack"] for row in one_by_one(delivered[0])} == {1}
    expect_rows(delivered, stacked()[0])
    monkeypatch.setenv(devices.LIMIT, "10kB")
    with pytest.raises(InvalidInput, match="too little memory for one run of online"):
        host.execute(made, delivered.append, progress)


def test_errors_of_memory_are_told_from_others() -> None:
    class Failing:
        def __getitem__(self, config: Any) -> Any:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes.")

    with pytest.raises(devices.OutOfMemory, match="12 bytes"):
        host.run_chunk(chunk(points()), Failing(), Silence())
    with pytest.raises(KeyError):
        host.run_chunk(chunk(points()), {}, Silence())


@pytest.mark.parametrize("text", ["", "lots", "-3", "0", "6 XB"])
def test_a_memory_limit_is_a_size(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(devices.LIMIT, text)
    if not text:
        assert devices.memory_limit() > 1e8
        return
    with pytest.raises(InvalidInput, match="must be a size"):
        devices.memory_limit()


def test_slots_are_taken_by_the_next_runs() -> None:
    """Seven runs of two lengths and two worlds, one of which diverges at once, through two slots: the results of each
    are those that it has among others."""
    runs = points() + [
        point(config.replace_all(PREPARED[seed], {"optimiser.learning_rate": rate, **length}))
        for seed, rate in ((0, 1e-2), (1, 3e-3))
        for length in ({}, {"steps": 3, "evaluation.points": 1})
    ]
    assert len({compile_key(run.experiment) for run in runs}) == 1
    few, wide = Silence(), Silence()
    found, diverged = taken(chunk(runs, lanes=1), worlds(), few)
    others, _ = taken(chunk(runs, lanes=4), worlds(), wide)
    assert diverged == 1
    assert few.steps == wide.steps == 5 * 6 + 2 * 3
    assert [row["run"] for row in found] == [row["run"] for row in others]
    assert sum(row["evaluation"] == 2 for row in found) == 5
    for row, other in zip(found, others, strict=True):
        for name in row.keys() - {"run", "stack", "policy_checksum", "answers", *parquet.VECTORS}:
            np.testing.assert_allclose(row[name], other[name], rtol=1e-5, atol=1e-5, err_msg=name)
    mine = [row for row in found if row["run"] in {p.run for p in points()}]
    for which in range(3):
        expect_alone(mine, which)


class Counting:
    """Worlds that are made, and which were read when so many steps were done."""

    def __init__(self, progress: Silence) -> None:
        self._progress, self.read = progress, []

    def __getitem__(self, config: WorldConfig) -> Any:
        self.read.append((int(config.seed), self._progress.steps))
        return worlds()[config]


def test_worlds_are_read_when_their_turn_comes() -> None:
    """Four worlds, which are two in turn, through two rows: the third and fourth are not in memory with the others."""
    good, _, other = points()
    runs = [
        point(config.replace(run.experiment, "optimiser.learning_rate", rate))
        for rate in (1e-3, 2e-3)
        for run in (good, other)
    ]
    two = chunk(runs, lanes=1)
    four = dataclasses.replace(two, worlds=(*two.worlds, *two.worlds), owners=(0, 1, 2, 3))
    progress = Silence()
    counting = Counting(progress)
    found, _ = taken(four, counting, progress)
    assert counting.read[1:] == [(0, 0), (1, 0), (0, 12), (1, 12)]
    assert len(found) == 4 * 3
    again, _ = taken(two, worlds(), Silence())
    for row, expected in zip(found, again, strict=True):
        np.testing.assert_allclose(row["kl"], expected["kl"], rtol=1e-5, atol=1e-5)


def test_steps_of_a_chunk_that_ran_out_of_memory_do_not_count() -> None:
    """The device says so when a second world is put on it: what was told of the first is taken back."""
    good, _, other = points()
    two = chunk([good, other], rows=1, lanes=1)

    class Full(Counting):
        def __getitem__(self, config: WorldConfig) -> Any:
            if self._progress.steps:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes.")
            return worlds()[config]

    progress = Silence()
    two = dataclasses.replace(
        two,
        points=two.points * 2,
        worlds=two.worlds * 2,
        owners=(0, 1, 2, 3),
        layout=Layout(2, 1),
    )
    with pytest.raises(devices.OutOfMemory):
        host.run_chunk(two, Full(progress), progress)
    assert progress.steps == 0


def test_runs_are_cut_into_chunks_of_whole_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five worlds on two devices, in waves of two and three, the longer runs first: in a wave one chunk a length, or
    two where a chunk is short."""
    runs = [point(experiment(seed=seed, steps=steps)) for steps in (2, 4) for seed in range(5)]

    def cut() -> list[tuple[int, int]]:
        made = plan(runs)
        planned = [p.run for part in made.chunks for p in part.points]
        assert sorted(planned) == sorted(p.run for p in runs)
        assert {part.layout for part in made.chunks} == {(2, 1)}
        assert len({part.group for part in made.chunks}) == 1
        return [(part.points[0].experiment.steps, len(part.points)) for part in made.chunks]

    assert cut() == [(4, 2), (2, 2), (4, 3), (2, 3)]
    monkeypatch.setenv(planning.CHUNK_VARIABLE, "0")
    assert cut() == [(4, 2), (2, 2), (4, 2), (4, 1), (2, 2), (2, 1)]
    for text in ("soon", "-1", "inf"):
        monkeypatch.setenv(planning.CHUNK_VARIABLE, text)
        with pytest.raises(InvalidInput, match="must be a number of seconds"):
            cut()


def test_long_runs_come_first_within_a_chunk_too() -> None:
    """Evaluations are equally far apart, so that they share a chunk: no slot is left alone with a long run."""
    lengths = (2, 4, 8, 2)
    runs = [
        point(experiment(seed=0, steps=n, evaluation__points=n // 2, loss__beta=0.1 * (1 + k)))
        for k, n in enumerate(lengths)
    ]
    [made] = plan(runs).chunks
    assert [p.experiment.steps for p in made.points] == [8, 4, 2, 2]


def test_chunks_of_the_longest_runs_come_first_by_time_not_by_steps() -> None:
    small = [point(experiment(seed=0, steps=4))]
    large = [point(experiment(seed=0, steps=2, model__width=64))]
    made = plan([*small, *large])
    assert [chunk.points[0].experiment.steps for chunk in made.chunks] == [2, 4]


GPU = devices.Machine("gpu", 4, 100e9, 1e13)


def test_all_runs_of_the_first_seeds_come_first() -> None:
    """Every wave doubles the number of seeds; what cannot keep all devices busy joins the wave before."""
    pair = devices.Machine("cpu", 2, 100e9, 1e11)

    def sizes(seeds: range) -> list[int]:
        found = waves(seeds, pair)
        assert [found[seed] for seed in seeds] == sorted(found.values())
        return list(Counter(found.values()).values())

    assert sizes(range(100, 116)) == [2, 2, 4, 8]
    assert sizes(range(7, 10)) == [3]
    assert sizes(range(5)) == [2, 3]
    assert sizes(range(1)) == [1]
    assert set(waves(range(64), GPU).values()) == {0}
    runs = [point(experiment(seed=seed, steps=n)) for seed in range(5) for n in (2, 4)]
    made = plan(runs, pair)
    assert sorted(p.run for chunk in made.chunks for p in chunk.points) == sorted(
        run.run for run in runs
    )
    order = [(chunk.wave, {p.seed for p in chunk.points}) for chunk in made.chunks]
    assert [wave for wave, _ in order] == sorted(wave for wave, _ in order)
    assert all(seeds <= ({0, 1}, {2, 3, 4})[wave] for wave, seeds in order)
    assert len({chunk.layout for chunk in made.chunks}) == 1


def test_a_gpu_takes_all_runs_of_a_world_side_by_side() -> None:
    """Six worlds of 9 and 3 runs on four devices: two worlds on each, nine runs of each, what a world has is counted
    once for all of them; with little memory fewer runs, then fewer worlds."""
    runs = [
        point(experiment(seed=seed, optimiser__learning_rate=1e-3 * (1 + k)))
        for seed in range(6)
        for k in range(9 if seed % 2 else 3)
    ]
    [made] = plan(runs, GPU).chunks
    assert made.layout == (8, 9)
    assert (made.stack, made.devices, len(made.points), len(made.worlds)) == (18, 4, 36, 6)
    needs = footprint(runs[0].experiment)
    assert made.bytes == 4 * (2 * needs.world + 18 * (needs.run + needs.work))
    little = 2 * needs.world + 6 * (needs.run + needs.work)
    assert plan(runs, GPU._replace(memory=little)).chunks[0].layout == (8, 3)
    least = needs.world + needs.run + needs.work
    assert plan(runs, GPU._replace(memory=least)).chunks[0].layout == (4, 1)
    assert plan(runs, GPU._replace(memory=least / 1.4)).chunks[0].layout == (4, 1)


def test_slots_are_halved_lanes_first() -> None:
    sizes, layout = [], Layout(8, 5)
    while layout is not None:
        sizes.append(tuple(layout))
        layout = layout.halved(4)
    assert sizes == [(8, 5), (8, 3), (8, 2), (8, 1), (4, 1)]


def test_a_result_that_the_cache_has_lost_is_made_again(tmp_path: Path) -> None:
    worlds()
    for file in cache_directory().glob("*.safetensors"):
        shutil.copy(file, tmp_path)
    one = WorldConfig.of(PREPARED[0])
    (tmp_path / f"{stages.fingerprints(one)['golden']}.safetensors").unlink()
    progress = Silence()
    again = WorldBuilder(Cache(tmp_path), progress)[one]
    jax.tree.map(np.testing.assert_array_equal, again.world, worlds()[one].world)
    assert Cache(tmp_path).holds(stages.fingerprints(one)["golden"])


SAME_PROGRAM = {
    "loss__beta": 0.7,
    "optimiser__learning_rate": 0.5,
    "steps": 12,
    "evaluation__points": 1,
    "seed": 9,
    "sft__steps": 61,
    "proxy__fit__steps": 7,
    "baseline__steps": 5,
    "labeler__temperature": 2.0,
    "task__fluency_weight": 0.1,
}
OTHER_PROGRAM = {
    "loss": Dpo(),
    "loss__length_normalised": True,
    "source": Offline(),
    "batch_size": 4,
    "model__width": 32,
    "evaluation__prompts": 12,
    "evaluation__kl_prompts": 5,
    "evaluation__pairs": 9,
    "data__pairs": 64,
    "proxy__pairwise": False,
}


@pytest.mark.parametrize(("path", "value"), SAME_PROGRAM.items())
def test_numbers_share_a_program(path: str, value: Any) -> None:
    assert compile_key(experiment(**{path: value})) == compile_key(experiment())


@pytest.mark.parametrize(("path", "value"), OTHER_PROGRAM.items())
def test_shapes_and_kinds_do_not(path: str, value: Any) -> None:
    assert compile_key(experiment(**{path: value})) != compile_key(experiment())


def test_stages_that_are_there_are_not_made_again() -> None:
    progress = Silence()
    configs = [WorldConfig.of(run) for run in PREPARED]
    worlds()
    again = built(configs, Cache(cache_directory()), progress)
    assert progress.stages == []
    jax.tree.map(np.testing.assert_array_equal, again[configs[0]], worlds()[configs[0]])


def test_a_stage_s_program_is_made_once_for_all_worlds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three worlds on two devices are two batches; that nothing is kept on disk makes no difference."""
    names: list[str] = []
    begin_one = executable_cache.begin

    def counted(name: str, *arguments: Any) -> Any:
        names.append(name)
        return begin_one(name, *arguments)

    monkeypatch.setattr(executable_cache, "begin", counted)
    configs = [WorldConfig.of(config.replace(PREPARED[0], "seed", seed)) for seed in range(3)]
    WorldBuilder(Cache(tmp_path), Silence()).prepare(configs, {"material", "world"})
    assert names == ["world"]


@pytest.mark.slow
def test_lanes_of_a_vmap_equal_the_same_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stacking of a GPU, on this machine: one batched program instead of lane after lane."""
    worlds()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compiled = (
        devices.spread,
        programs.training_program,
        programs.measuring_program,
    )
    for program in compiled:
        program.cache_clear()
    rows, diverged = taken(chunk(points(), stacks=True), worlds(), Silence())
    for program in compiled:
        program.cache_clear()
    assert diverged == 1
    for which in range(3):
        expect_alone(rows, which)


def test_programs_are_let_go_and_come_back() -> None:
    """With too many memory maps compiled programs are dropped; results do not change."""
    program, x = jax.jit(lambda x: 2 * x), jnp.arange(3.0)
    before = program(x)
    assert not runtime.make_room(most=10**9)
    assert program._cache_size() == 1
    if Path("/proc/self/maps").exists():
        assert runtime.make_room(most=0)
        assert program._cache_size() == 0
    np.testing.assert_array_equal(program(x), before)


@functools.cache
def rows_of(*sources: AbstractSource) -> list[list[dict[str, Any]]]:
    """The rows of runs that differ in their source only, made as a study makes them."""
    return rows_made([config.replace(PREPARED[0], "source", source) for source in sources])[0]


def rows_made(runs: list[Experiment]) -> tuple[list[list[dict[str, Any]]], dict]:
    """The rows of runs, and what they stand on."""
    cache = Cache(cache_directory())
    made = built([WorldConfig.of(run) for run in runs], cache, Silence())
    rows = [taken(chunk([point(run)], lanes=1), made, Silence())[0] for run in runs]
    return rows, made


def test_a_golden_teacher_s_stream_is_right_and_classified() -> None:
    """An online arm that learns from golden labels is the run that a replay of such a stream names, to the last bit of
    its parameters. All labels of the stream are right, and the proxy errs on some; at the start the policy knows
    nothing of it."""
    run = config.replace(PREPARED[0], "teacher", "golden")
    plan = OnlineRun(run.loss, run.optimiser, run.steps, run.batch_size)
    recorded = Recorded(plan, teacher="golden")
    runs = [
        config.replace_all(run, {"source": source, "evaluation.stream": recorded})
        for source in (Online(), Replay(recorded))
    ]
    (online, replayed), made = rows_made(runs)
    for row, other in zip(online, replayed, strict=True):
        expect_same_bits(row, other)
    checksums = [row["policy_checksum"] for row in online]
    assert len(set(checksums)) == 3
    assert checksums[0] != rows_of(Online())[0][-1]["policy_checksum"] != checksums[-1]
    artifacts = made[WorldConfig.of(runs[1])]
    # A right label, up to rounding of texts that are worth the same.
    assert np.all(np.asarray(artifacts.prepared.golden_margin) > -1e-5)
    np.testing.assert_allclose(
        artifacts.prepared.reward_margin, artifacts.prepared.golden_margin, atol=1e-4
    )
    assert artifacts.stream is not None
    pairs = artifacts.stream.pairs
    margins = jax.jit(lambda proxy, p: proxy.margin(p.prompt, p.winner, p.loser))
    margin = np.asarray(margins(artifacts.proxy, pairs))
    truth = np.sign(np.asarray(artifacts.stream.golden_margin))
    inside = np.asarray(artifacts.stream.inside)
    right = (0.5 + 0.5 * np.sign(margin) * truth).reshape(inside.shape)
    accuracy = [row[kept].mean() for row, kept in zip(right, inside, strict=True)]
    found = [online[0][f"ground.proxy_stream_accuracy_{k}"] for k in range(1, 11)]
    np.testing.assert_allclose(found, accuracy, atol=1e-5)
    assert min(found) < 1.0
    assert [online[0][f"stream_accuracy_{k}"] for k in range(1, 11)] == [0.5] * 10
    assert any(online[-1][f"stream_accuracy_{k}"] > 0.5 for k in range(1, 11))
    assert "stream_accuracy_1" not in rows_of(Online())[0][0]


def test_an_arm_that_replays_in_order_is_the_online_arm() -> None:
    """Every measured number, to the last bit (claim C4 of arXiv 2405.08448); shuffled it is another run; data from its
    checkpoints are learnt from too."""
    run = PREPARED[0]
    recorded = Recorded(OnlineRun(run.loss, run.optimiser, run.steps, run.batch_size))
    online, replayed, shuffled, generated = rows_of(
        Online(), Replay(recorded), Replay(recorded, 3.0), Generated(recorded=recorded)
    )
    for row, other in zip(online, replayed, strict=True):
        assert other.keys() - row.keys() == {"ground.recorded_diverged_step"}
        expect_same_bits(row, other)
    for other in (shuffled, generated):
        assert other[0]["kl"] == online[0]["kl"]
        assert other[-1]["kl"] != online[-1]["kl"]
    assert shuffled[-1]["tokens_sampled"] == online[-1]["tokens_sampled"] > 0
    assert generated[-1]["labels_bought"] > 0 == generated[-1]["judgements"]


def test_the_forecast_counts_how_many_worlds_are_built_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One world more than there are devices takes twice as long as one alone."""
    monkeypatch.setattr(devices, "matrix_peak", lambda: 1e9)
    monkeypatch.setattr(planning, "cache_directory", lambda: tmp_path)
    count_of_devices = jax.device_count()
    seconds = {
        count: plan(
            [Point(str(s), "arm", s, {}, experiment(seed=s)) for s in range(count)]
        ).stage_seconds
        for count in (1, count_of_devices, count_of_devices + 1)
    }
    assert seconds[1] > 0
    assert seconds[count_of_devices] == pytest.approx(seconds[1])
    assert seconds[count_of_devices + 1] == pytest.approx(2 * seconds[1])


def test_data_of_any_two_checkpoints_share_a_program() -> None:
    pairs = ((0.0, 0.2), (0.2, 1.0), (1.0, 1.0))
    runs = [experiment(source=Generated(first, second)) for first, second in pairs]
    assert len({compile_key(run) for run in runs}) == 1
    assert compile_key(config.replace(runs[0], "source.judge", "proxy")) != compile_key(runs[0])


def test_a_policy_of_another_size_meets_the_same_data_proxy_and_opponent() -> None:
    """All that an experiment of the baseline's size has made is found again: only what is the policy's own is built."""
    small = PREPARED[0]
    large = config.replace_all(
        small, {"model.width": 24, "baseline_model": small.model, "proxy.model": small.model}
    )
    configs = [WorldConfig.of(run) for run in (small, large)]
    worlds()
    progress = Silence()
    made = built(configs, Cache(cache_directory()), progress)
    names = [text.split()[1] for text in progress.stages]
    assert names == ["sft", "start", "scores"]
    own, other = made[configs[0]], made[configs[1]]
    for part in ("world", "proxy", "opponent"):
        jax.tree.map(np.testing.assert_array_equal, getattr(own, part), getattr(other, part))
    jax.tree.map(np.testing.assert_array_equal, own.data.pairs, other.data.pairs)
    scores = jax.jit(logprob.score_pairs)(other.sft, other.data.pairs)
    np.testing.assert_allclose(other.data.reference.winner, scores.winner, atol=1e-5)
    assert np.max(np.abs(other.data.reference.winner - own.data.reference.winner)) > 1e-2
    for run, artifacts in ((small, own), (large, other)):
        expected = run.model.parameters(run.task.vocabulary)
        assert float(artifacts.facts["parameters"]) == expected
    assert compile_key(large) != compile_key(small)
    proxy_only = config.replace(small, "proxy.model", large.model)
    assert compile_key(proxy_only) != compile_key(small)


def test_a_table_is_another_program() -> None:
    run = experiment(task=Enumerable(vocabulary=3, prompt_length=2, response_length=2))
    assert compile_key(config.replace(run, "tabular", True)) != compile_key(run)
