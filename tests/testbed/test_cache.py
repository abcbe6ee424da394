"""The cache: what is read is what was kept, to the last bit; nothing in a file runs; damage counts as missing."""

import ast
import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import text_runs
from helpers import BATCH, Silence, experiment, training_inputs, world
from test_layout import PACKAGE_FILES, name
from traps import trapped

from envs.enumerable import Enumerable
from envs.labelers.bradley_terry import BradleyTerry
from sweeps.population.run_checkpoints import Paused, RunCheckpoints
from sweeps.population.world_builder import WorldBuilder
from sweeps.study import Point
from testbed import train
from testbed.cache import Cache
from testbed.config import members, replace
from testbed.environment import AbstractTask
from testbed.experiment import Experiment
from testbed.lora import Lora
from testbed.losses.ipo import Ipo
from testbed.objective import AbstractObjective
from testbed.optimiser import FitConfig, OptimiserConfig
from testbed.policies import shared_weights
from testbed.policies.shared_weights import Weights
from testbed.preference import GoldenPreference
from testbed.proxies.linear_head import HeadConfig
from testbed.recorded_runs.recorded_run import Given, Recorded
from testbed.references.base import AbstractReference
from testbed.references.fixed import Fixed
from testbed.source import AbstractSource, TrainingInputs
from testbed.sources.generated import Generated
from testbed.sources.online import Online
from testbed.sources.replay import Replay
from testbed.stages import online_run
from testbed.stages.stages import STAGES, fingerprints
from testbed.stages.world_config import WorldConfig
from testbed.train import OnlineRun, TrainConfig

ADDRESS = "a" * 16
RECORDED = Recorded(OnlineRun(steps=2, batch_size=8))


def filled(shapes: Any) -> Any:
    """Arrays of the shapes, of random bits: numbers that are none among them."""
    rng = np.random.default_rng(0)

    def fill(shape: Any) -> Any:
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return jax.random.key(rng.integers(2**31))
        if shape.dtype == bool:
            return rng.integers(0, 2, shape.shape).astype(bool)
        size = int(np.prod(shape.shape)) * np.dtype(shape.dtype).itemsize
        return np.frombuffer(rng.bytes(size), shape.dtype).reshape(shape.shape).copy()

    return jax.tree.map(fill, shapes)


def same(found: Any, kept: Any) -> None:
    """The very same structure, static fields in it, and the very same arrays."""
    assert jax.tree.structure(found) == jax.tree.structure(kept)
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(kept), strict=True):
        assert type(new) is type(old)
        if isinstance(old, jax.Array):
            assert new.dtype == old.dtype
            new, old = map(jax.random.key_data, (new, old))
        if not isinstance(old, np.ndarray | np.generic | jax.Array):
            assert repr(new) == repr(old)
            continue
        assert (new.dtype, new.shape) == (old.dtype, old.shape)
        assert np.asarray(new).tobytes() == np.asarray(old).tobytes()


def read_back(cache: Cache, tree: Any) -> Any:
    """A pytree as it is read, by another object than the one that kept it."""
    cache.save(ADDRESS, tree)
    return Cache(cache.directory).load(ADDRESS)


def worked_out(run: Experiment, last: str) -> dict[str, Any]:
    """The results of stages up to the last in shapes alone, filled with random bits. What the host makes is made, and
    weights are left out, as `sweeps.population.world_builder` does."""
    world_config = WorldConfig.of(run)
    made: dict[str, Any] = {}
    for stage in STAGES:
        result = None
        if stage.needed(world_config) and stage.host:
            result = shared_weights.left_out(stage.make(world_config, made))
        elif stage.needed(world_config):
            given = world_config, made
            missing = Weights.of(shared_weights.missing(given))
            result = jax.eval_shape(shared_weights.sharing(stage.make), missing, *given)
        made[stage.name] = result
        if stage.name == last:
            break
    return {name: result if name == "material" else filled(result) for name, result in made.items()}


ENUMERABLE = Enumerable(vocabulary=5, prompt_length=2, response_length=3)
FIT = FitConfig(steps=2, batch_size=8)


def text_run(directory: Path) -> Experiment:
    """On a checkpoint, whose weights are left out."""
    return text_runs.run(directory)


def neural_run(directory: Path) -> Experiment:
    """Adapters, an SFT policy of another shape for the data, data written by a recorded run, and windows of it."""
    return experiment(
        lora=Lora(rank=2),
        baseline_model=replace(experiment().model, "width", 8),
        source=Generated(recorded=replace(RECORDED, "checkpoints", (0.5, 1.0))),
        evaluation__stream=replace(RECORDED, "checkpoints", (0.5, 1.0)),
        proxy=HeadConfig(layers=1, fit=FIT),
    )


def tabular_run(directory: Path) -> Experiment:
    """A table for a policy, an optimum, and a stream replayed."""
    return experiment(
        task=ENUMERABLE, tabular=True, evaluation__optimum_beta=0.5, source=Replay(RECORDED)
    )


@pytest.fixture(scope="module", params=[text_run, neural_run, tabular_run])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Experiment, dict[str, Any]]:
    """How a run is made, the run, and the results of all its stages."""
    run = request.param(tmp_path_factory.mktemp("made"))
    return request.param.__name__, run, worked_out(run, STAGES[-1].name)


def test_every_stage_is_read_as_it_was_kept(made: Any, tmp_path: Path) -> None:
    make, _, results = made
    lacking = {name for name, result in results.items() if result is None}
    assert (
        lacking
        == {
            "text_run": {"scores", "optimum", "recorded", "stream", "prepared"},
            "neural_run": {"material", "optimum"},
            "tabular_run": {"material", "scores", "stream"},
        }[make]
    )
    for result in results.values():
        if result is not None:
            same(read_back(Cache(tmp_path), result), jax.device_get(result))
    assert bool(shared_weights.missing(results)) == (make == "text_run")


OTHER_PROCESS = """
import pickle, sys
from pathlib import Path
config, addresses = pickle.load(sys.stdin.buffer)
import sweeps.population.world_builder
from testbed.cache import Cache
cache = Cache(Path(sys.argv[1]))
print(*(name for name, address in addresses.items() if cache.load(address) is not None))
"""


def test_a_process_that_has_only_the_config_reads_every_stage(made: Any, tmp_path: Path) -> None:
    """All classes of the results are loaded with those of the config."""
    _, run, results = made
    cache, config = Cache(tmp_path), WorldConfig.of(run)
    addresses = fingerprints(config)
    kept = {stage for stage, result in results.items() if result is not None}
    for stage in kept:
        cache.save(addresses[stage], results[stage])
    command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    content = pickle.dumps((config, addresses))
    done = subprocess.run(
        command, env=environment, input=content, stdout=subprocess.PIPE, check=True
    )
    assert set(done.stdout.decode().split()) == kept


@pytest.mark.parametrize("task", [*members(AbstractTask, AbstractTask.family).values()])
def test_the_world_of_every_task_is_read_as_it_was_kept(task: Any, tmp_path: Path) -> None:
    run = text_run(tmp_path) if task.checkpointed else experiment(task=task())
    for result in worked_out(run, "world").values():
        same(read_back(Cache(tmp_path), result), jax.device_get(result))


@functools.cache
def drawn_on(kind: type[AbstractSource]) -> TrainingInputs:
    """Shapes of what a source of this kind draws on."""
    plain, key, golden = training_inputs(), jax.random.key(1), GoldenPreference(world())
    run = Recorded(OnlineRun(steps=4, batch_size=BATCH))
    made = jax.eval_shape(online_run.make, run, plain, golden, key)
    given = Given(plain, made, world(), BradleyTerry(), key)
    prepared, _ = jax.eval_shape(lambda source, given: source.prepare(given), kind(), given)
    return TrainingInputs(plain.data, plain.reference, plain.teacher, prepared)


SOURCES = members(AbstractSource, AbstractSource.family)
OBJECTIVES = members(AbstractObjective, AbstractObjective.family)
REFERENCES = members(AbstractReference, AbstractReference.family)
STATES = [
    *((source(), Ipo(), Fixed()) for source in SOURCES.values()),
    *((Online(), objective(), Fixed()) for objective in OBJECTIVES.values()),
    *((Online(), Ipo(), reference()) for reference in REFERENCES.values()),
]


@pytest.mark.parametrize(
    "parts", STATES, ids=lambda parts: "-".join(type(p).__name__ for p in parts)
)
def test_a_run_under_way_is_read_as_it_was_kept(parts: tuple[Any, ...], tmp_path: Path) -> None:
    source, objective, reference = parts
    plan = TrainConfig(source, objective, OptimiserConfig(), BATCH, reference)
    state = filled(jax.eval_shape(train.init, plan, drawn_on(type(source))))
    values = np.full((2, 3), np.nan)
    kept = Paused(1, 3, values, values.astype(np.float16), state)
    same(read_back(Cache(tmp_path), kept), kept)
    assert (state.reference is not None) == reference.moves


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[bytes]:
    """A pickle, and the test fails if it is read."""
    with trapped(tmp_path) as content:
        yield content


def damaged(whole: bytes) -> Iterator[bytes]:
    """A file cut, emptied, and with a bit of it flipped."""
    middle = len(whole) // 2
    yield from (b"", whole[:5], whole[:middle], whole[:-1], whole + b"\0", bytes(len(whole)))
    for place in (0, 9, 60, middle, len(whole) - 1):
        yield whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]


def test_damage_counts_as_missing(tmp_path: Path, trap: bytes) -> None:
    """And goes, so that what asks for it makes it again."""
    cache = Cache(tmp_path / "stages")
    for content in (trap, *damaged(written(cache))):
        file = only_file(cache)
        file.write_bytes(content)
        assert cache.holds(ADDRESS)
        assert cache.load(ADDRESS) is None
        assert not cache.holds(ADDRESS)
        written(cache)
        same(cache.load(ADDRESS), TREE)


TREE = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "n": (1, None, "text")}


def written(cache: Cache) -> bytes:
    """The file of `TREE`."""
    cache.save(ADDRESS, TREE)
    return only_file(cache).read_bytes()


def only_file(cache: Cache) -> Path:
    (file,) = cache.directory.iterdir()
    return file


def test_a_file_of_another_address_counts_as_missing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    written(cache)
    file = only_file(cache)
    file.rename(file.with_name(file.name.replace(ADDRESS, "b" * 16)))
    assert cache.load("b" * 16) is None


def test_a_file_that_cannot_be_read_counts_as_missing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    written(cache)
    file = only_file(cache)
    file.unlink()
    file.mkdir()
    assert cache.load(ADDRESS) is None


def test_a_damaged_stage_is_made_again_and_is_the_same(tmp_path: Path, trap: bytes) -> None:
    """Two stages of a world and all that stands on them."""
    run = WorldConfig.of(experiment())
    wanted = {"material", "world", "texts", "sft", "base"}
    cache = Cache(tmp_path / "stages")
    worlds = WorldBuilder(cache, Silence())
    worlds.prepare([run], wanted)
    addresses = fingerprints(run)
    kept = {stage: cache.load(addresses[stage]) for stage in ("world", "sft")}
    for stage, result in kept.items():
        (file,) = cache.directory.glob(f"{addresses[stage]}.*")
        for content in (file.read_bytes()[:-9], b"", trap):
            file.write_bytes(content)
            again = WorldBuilder(cache, Silence())
            again.prepare([run], wanted)
            same(jax.device_get(again.made(run, wanted)[stage]), result)
            same(cache.load(addresses[stage]), result)


@pytest.mark.parametrize("what", ["paused", "learnt"])
def test_a_planted_run_is_not_run(
    what: str, tmp_path: Path, trap: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    point, policy = Point("0", "arm", 0, {}, experiment()), {"weights": np.ones(3)}
    RunCheckpoints().pause(point, Paused(1, 2, np.zeros((1, 2)), None, policy))
    RunCheckpoints().keep(point, policy)
    same(RunCheckpoints().learnt(point), policy)
    found = list((tmp_path / "cache").rglob("*.*"))
    assert len(found) == 2
    for file in found:
        file.write_bytes(trap)
    assert getattr(RunCheckpoints(), what)(point) is None


#: What runs code of a file that is read, by what it is called.
RUNS = {
    "pickle": {"load", "loads", "Unpickler", "_load", "_loads", "_Unpickler"},
    "marshal": {"load", "loads"},
    "shelve": {"open", "Shelf", "DbfilenameShelf"},
    "joblib": {"load"},
    "dill": {"load", "loads"},
    "cloudpickle": {"load", "loads"},
    "torch": {"load"},
    "pandas": {"read_pickle"},
    "equinox": {"tree_deserialise_leaves"},
}


def readers_that_run(source: str) -> list[str]:
    """Where a module reads files by what could run them, or lets numpy do so."""
    found, tree = [], ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            wanted = {alias.name for alias in node.names}
            found += [f"{node.module}.{n}" for n in wanted & RUNS.get(node.module or "", set())]
        if isinstance(node, ast.Attribute):
            ours = {known for names in RUNS.values() for known in names} - {"load", "loads", "open"}
            base = ast.unparse(node.value)
            if node.attr in ours or node.attr in RUNS.get(base, ()):
                found.append(f"{base}.{node.attr}")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found += ["allow_pickle"] * (ast.unparse(node.value) != "False")
        if isinstance(node, ast.Import):
            renamed = [a.name for a in node.names if a.asname and a.name in ("pickle", "marshal")]
            found += [f"{name} by another name" for name in renamed]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)",
        "from pickle import loads",
        "import pickle as p",
        "class A(pickle.Unpickler): ...",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=yes)",
        "eqx.tree_deserialise_leaves(f, x)",
        "import joblib\njoblib.load(f)",
        "pd.read_pickle(f)",
    ],
)
def test_the_rule_is_sharp(source: str) -> None:
    assert readers_that_run(source)


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name)
def test_nothing_reads_files_by_what_could_run_them(path: Path) -> None:
    assert readers_that_run(path.read_text()) == []


def test_the_rule_admits_what_is_safe() -> None:
    assert not readers_that_run("import pickle\nclass A(pickle.Pickler): ...")
    assert not readers_that_run("np.load(f)\njson.load(f)\nnp.load(f, allow_pickle=False)")
