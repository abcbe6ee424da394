"""Plans on a cluster: the results of one process, whatever is killed meanwhile. Real processes, on this machine."""

import functools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import types
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import Silence, experiment

from sweeps import runtime
from sweeps.cli import main as cli
from sweeps.cluster import driver, workers
from sweeps.cluster.driver import Cluster
from sweeps.cluster.queue import Item, Queue
from sweeps.cluster.workers import Failed, Told, WorkerHandle, Workers
from sweeps.population import host
from sweeps.population import plan as planning
from sweeps.population.devices import Machine
from sweeps.store import parquet
from sweeps.store.store import Store
from sweeps.study import Point
from testbed import config
from testbed.errors import InvalidInput, Unfinished
from testbed.stages.world_config import WorldConfig

# Nobody else on the network may use the hosts of these tests: they have a token of their own. Ray reads it once, when
# it is imported, and also that it is not to start workers by `uv run`, which the driver says when it imports it.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings(
    # Ray starts processes by fork, and leaves files and sockets of theirs to the garbage collector.
    r"ignore:os\.fork\(\) was called",
    "ignore:unclosed:ResourceWarning",
    "ignore:subprocess .* is still running:ResourceWarning",
)
#: So many that a worker tells of its progress before it is done.
STEPS = 5000


def addresses(directory: Path) -> set[str]:
    """Of the stages in caches below a directory."""
    return {file.stem for file in directory.rglob("stages/*.safetensors")}


class Hosts:
    """A cluster of two simulated hosts of two cores, with caches of their own."""

    def __init__(self, directory: Path) -> None:
        from ray.cluster_utils import Cluster as Simulated

        self._directory = directory
        self._cluster = Simulated(initialize_head=True, head_node_args={"num_cpus": 0})
        self.nodes = [self.add() for _ in range(2)]
        self.address = self._cluster.address

    def add(self) -> Any:
        cache = self._directory / str(len(list(self._directory.iterdir())))
        cache.mkdir()
        return self._cluster.add_node(num_cpus=2, env_vars={"TESTBED_CACHE": str(cache)})

    def lose(self) -> bool:
        """A host goes, with all its processes."""
        self._cluster.remove_node(self.nodes.pop(), allow_graceful=False)
        return True

    def close(self) -> None:
        self._cluster.shutdown()

    def stages(self) -> set[str]:
        """Addresses of what they have built."""
        return addresses(self._directory)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # What a study file imports must be there on the hosts, here `helpers`.
        paths = (str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", ""))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        # A lost host is noticed soon.
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        found = Hosts(tmp_path_factory.mktemp("hosts"))
        patch.setenv("RAY_ADDRESS", found.address)
        yield found
        found.close()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many runs in a chunk as there are devices."""
    monkeypatch.setattr(planning, "CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(planning, "CPU_LANES", 1)


@functools.cache
def points() -> list[Point]:
    """Five runs in two worlds: chunks of two, two and one."""
    length = {"steps": STEPS, "evaluation__points": 20}
    runs = [
        experiment(seed=seed, optimiser__learning_rate=rate, **length)
        for seed, rate in ((0, 1e-4), (0, 2e-4), (1, 1e-4), (1, 2e-4), (1, 3e-4))
    ]
    return [Point(config.fingerprint(run), "online", run.seed, {}, run) for run in runs]


Results = dict[tuple[str, int], dict[str, Any]]


def by_run(delivered: list[dict[str, Any]]) -> Results:
    """Rows by run and evaluation."""
    rows = [
        dict(zip(columns, row, strict=True))
        for columns in delivered
        for row in zip(*columns.values(), strict=True)
    ]
    return {(row["run"], row["evaluation"]): row for row in rows}


@pytest.fixture(scope="module")
def local_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module")
def undisturbed(local_cache: Path) -> Results:
    """What this process makes of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTBED_CACHE", str(local_cache))
        patch.setattr(planning, "CHUNK_SECONDS", 0.0)
        patch.setattr(planning, "CPU_LANES", 1)
        delivered: list[dict[str, Any]] = []
        host.execute(host.plan(points()), delivered.append, Silence())
        return by_run(delivered)


class Disturbed(Silence):
    """A progress display by which something happens once, in the middle of a chunk; it says whether it could."""

    def __init__(self, happen: Callable[[], bool]) -> None:
        super().__init__()
        self._happen, self.happened = happen, False

    def advance(self, run_steps: int) -> None:
        super().advance(run_steps)
        if run_steps > 0 and not self.happened:
            self.happened = self._happen()


def executed(engine: Cluster, progress: Silence) -> Results:
    plan = engine.plan(points())
    assert [len(chunk.points) for chunk in plan.chunks] == [2, 2, 1]
    delivered: list[dict[str, Any]] = []
    spent = engine.execute(plan, delivered.append, progress)
    assert 0 < spent.busy_seconds <= spent.run_seconds
    return by_run(delivered)


def expect_equal(found: Results, expected: Results) -> None:
    assert found.keys() == expected.keys()
    for key, row in found.items():
        for name in row.keys() - {"run", "policy_checksum", "answers", *parquet.VECTORS}:
            np.testing.assert_allclose(
                row[name], expected[key][name], rtol=1e-4, atol=1e-4, err_msg=name
            )


def signal_busy(engine: Cluster, what: int) -> bool:
    """A signal for the process of a worker that is in the middle of a chunk, if there is one."""
    assert engine.workers is not None
    busy = [
        worker.about.pid for worker in engine.workers.ready if worker.item and worker.told.steps
    ]
    for pid in busy[:1]:
        os.kill(pid, what)
    return bool(busy)


@pytest.mark.slow
def test_two_hosts_make_what_one_process_makes(
    hosts: Hosts, undisturbed: Results, local_cache: Path
) -> None:
    """Each with a cache of its own: worlds are sent from one to the other. The code is this process's, so that what is
    built is found at the same addresses."""
    progress = Silence()
    with Cluster("ray://auto") as engine:
        expect_equal(executed(engine, progress), undisturbed)
        assert engine.workers is None
    assert hosts.stages() == addresses(local_cache)
    assert progress.steps == 5 * STEPS
    assert progress.runs == 5
    assert any(text.count("chunk") == 2 for text in progress.stages)


@pytest.mark.slow
def test_a_killed_workers_chunk_is_run_again(hosts: Hosts, undisturbed: Results) -> None:
    with Cluster("ray://auto") as engine:
        progress = Disturbed(lambda: signal_busy(engine, signal.SIGKILL))
        expect_equal(executed(engine, progress), undisturbed)
    assert progress.happened
    assert any("lost: " in text for text in progress.stages)
    assert progress.steps == 5 * STEPS


@pytest.mark.slow
def test_a_worker_that_hangs_counts_as_lost(hosts: Hosts, undisturbed: Results) -> None:
    """It is stopped, so that it neither works nor dies; nobody waits for it for ever."""
    with Cluster("ray://auto", silence=20.0) as engine:
        progress = Disturbed(lambda: signal_busy(engine, signal.SIGSTOP))
        expect_equal(executed(engine, progress), undisturbed)
    assert progress.happened
    assert any("lost: " in text for text in progress.stages)
    assert progress.steps == 5 * STEPS


@pytest.mark.slow
def test_a_lost_hosts_chunk_is_run_elsewhere(hosts: Hosts, undisturbed: Results) -> None:
    progress = Disturbed(hosts.lose)
    with Cluster("ray://auto") as engine:
        expect_equal(executed(engine, progress), undisturbed)
    assert any("lost: " in text for text in progress.stages)
    assert progress.steps == 5 * STEPS


STUDY = textwrap.dedent('''
    """A loss that fails while a file is there."""
    import os
    from pathlib import Path

    from helpers import experiment
    from sweeps.grid import Axis
    from sweeps.study import Arm, Preset, Study
    from testbed.losses.base import AbstractLoss
    from testbed.losses.ipo import Ipo

    class Trap(AbstractLoss):
        """Something, or an error."""

        beta: float = 0.1

        def __call__(self, pair):
            # Not where the study is read and tried: only where chunks are computed.
            if Path({trap!r}).exists() and os.getpid() != {reader}:
                raise FileExistsError("the trap is closed")
            return pair.margin() ** 2

    study = Study("traps", "Traps", "?", experiment(),
                  (Arm("good", {{"loss": Ipo()}}), Arm("bad", {{"loss": Trap()}})),
                  Axis("optimiser.learning_rate", (1e-4, 2e-4)), (), {{"laptop": Preset(seeds=1)}})
''')


@pytest.mark.slow
def test_a_chunk_that_fails_three_times_is_reported_and_the_rest_is_saved(
    hosts: Hosts,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss is one of a user's study file, which only this process can read."""
    monkeypatch.setattr(runtime, "configure", lambda: None)
    trap, study, out = tmp_path / "trap", tmp_path / "traps.py", tmp_path / "out"
    trap.touch()
    study.write_text(STUDY.format(trap=str(trap), reader=os.getpid()))
    command = ["run", str(study), "--cluster", "ray://auto", "--out", str(out)]
    assert cli.main(command) == 1
    told = capsys.readouterr()
    assert "1 of 2 chunks failed 3 times, the others are saved" in told.err
    assert "(bad), 2 runs: FileExistsError: the trap is closed (traps.py:" in told.err
    assert "2 of 4 runs are saved" in told.out
    assert set(Store.open(out).read()["arm"]) == {"good"}
    trap.unlink()
    assert cli.main(command) == 0
    assert "4 runs, 2 of them stored already" in capsys.readouterr().out
    assert set(Store.open(out).read()["arm"]) == {"good", "bad"}


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a command that must exit with status 2."""
    status = cli.main(["run", "gap", "--preset", "smoke", "--dry-run", *words])
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    return error


def test_mistakes_in_addresses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "configure", lambda: None)
    for address in ("slurm", "ray:", "ray://", "ray://host:port", "ray://:10001"):
        assert f"ray://HOST:PORT, got '{address}'" in refused(capsys, "--cluster", address)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"ray://localhost:{free.getsockname()[1]}"
        assert f"--cluster {address} cannot be reached" in refused(capsys, "--cluster", address)
        monkeypatch.setenv("RAY_ADDRESS", address.removeprefix("ray://"))
        told = refused(capsys, "--cluster", "ray://auto")
        assert "--cluster ray://auto cannot be reached" in told
        assert f"RAY_ADDRESS names {os.environ['RAY_ADDRESS']}: " in told
        monkeypatch.delenv("RAY_ADDRESS")
    assert "--workers must be at least 1, got 0" in refused(
        capsys, "--cluster", "ray", "--workers", "0"
    )
    assert "--workers needs --cluster" in refused(capsys, "--workers", "2")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "uv sync --extra cluster" in refused(capsys, "--cluster", "ray")


def items(*kinds: str, needs: dict[int, set[int]] | None = None) -> list[Item]:
    wanted = needs or {}
    return [
        Item(number, f"item {number}", None, kind, frozenset(wanted.get(number, ())))
        for number, kind in enumerate(kinds)
    ]


def began(queue: Queue, *arguments: Any) -> Item:
    item = queue.next(*arguments)
    assert item is not None
    queue.begin(item)
    return item


def test_workers_stay_with_what_they_have_compiled() -> None:
    queue = Queue(items("a", "b", "a", "b", "a"))
    first = began(queue)
    second = began(queue, None, {"a"})
    assert (first.number, second.number) == (0, 1)
    assert began(queue, "b", {"a"}).number == 3
    assert began(queue, "b", {"a"}).number == 2
    assert began(queue, "b").number == 4
    assert queue.next("a") is None
    assert not queue.over


def test_items_wait_for_what_they_need() -> None:
    queue = Queue(items("worlds", "a", "b", needs={1: {0}}))
    worlds = began(queue)
    assert began(queue).number == 2
    assert queue.next() is None
    queue.finish(worlds)
    assert began(queue).number == 1


def test_what_fails_is_tried_three_times_before_others() -> None:
    queue = Queue(items("a", "b"))
    for attempt in range(3):
        item = began(queue, "b" if attempt else None)
        assert item.number == 0
        queue.fail(item, f"error {attempt}")
        assert bool(queue.failures) == (attempt == 2)
    assert [(failure.item.number, failure.error) for failure in queue.failures] == [(0, "error 2")]
    queue.finish(began(queue))
    assert queue.over


def test_what_failed_is_tried_elsewhere_where_there_is_an_elsewhere() -> None:
    """A broken host that fails at once, beside a good one that is busy: no item is tried on it twice."""
    queue, hosts = Queue(items("a", "a")), {"broken", "good"}
    first = began(queue, None, (), "broken", hosts)
    queue.fail(first, "no disk", "broken")
    second = began(queue, None, (), "broken", hosts)
    assert second.number == 1
    queue.fail(second, "no disk", "broken")
    assert queue.next(None, (), "broken", hosts) is None
    assert began(queue, None, (), "good", hosts).number == 1
    # The good one is lost: there is no elsewhere any more.
    assert began(queue, None, (), "broken", {"broken"}).number == 0
    assert queue.failures == []


def test_the_loss_of_a_host_is_no_attempt_unless_it_goes_on() -> None:
    """Ten hosts may go; an item that then takes further hosts with it has three more."""
    queue = Queue(items("a", "b"))
    for _ in range(10):
        item = began(queue)
        assert item.number == 0
        queue.fail(item, "lost", with_host=True)
        assert not queue.failures
    for attempt in range(3):
        queue.fail(began(queue), "lost", with_host=True)
        assert bool(queue.failures) == (attempt == 2)
    assert queue.failures[0].error == "lost"


def test_what_needs_an_item_that_was_given_up_is_given_up_too() -> None:
    queue = Queue(items("worlds", "a", "b", needs={1: {0}}))
    for _ in range(3):
        queue.fail(began(queue), "no memory")
    assert queue.failures[1] == (items("", "a", needs={1: {0}})[1], "item 0 failed: no memory")
    assert began(queue).number == 2


def test_worlds_that_share_stages_are_built_together() -> None:
    """Three worlds, of one of which there are two kinds of labels, for two workers of two devices."""
    runs = [experiment(seed=seed) for seed in range(3)]
    runs.append(experiment(seed=1, labeler__temperature=1.0))
    worlds = [WorldConfig.of(run) for run in runs]
    batches = [batch for _, batch in driver._batches(worlds, 2, 2)]
    assert batches == [[worlds[0], worlds[1], worlds[3]], [worlds[2]]]
    assert [len(batch) for _, batch in driver._batches(worlds, 2, 3)] == [1, 2, 1]
    assert [len(batch) for _, batch in driver._batches(worlds, 1, 1)] == [1, 2, 1]


def test_a_chunk_fits_itself_to_other_devices() -> None:
    machine = Machine("cpu", 3, 1e9, 1e11)
    [first, *_] = planning.plan(points(), machine).chunks
    assert (first.layout, first.devices) == ((3, 1), 3)
    fitted = workers._fitted(first)
    assert jax.device_count() == 2
    assert (fitted.layout, fitted.devices, fitted.points) == ((4, 1), 2, first.points)


def test_an_error_is_told_in_a_line_with_its_place() -> None:
    @workers.described()
    def fail() -> None:
        jax.numpy.zeros(3) + jax.numpy.zeros(4)

    @workers.described()
    def refuse() -> None:
        raise InvalidInput("steps must be > 0")

    with pytest.raises(Unfinished) as caught:
        fail()
    error = str(caught.value)
    assert error.startswith("TypeError: ")
    assert "(test_cluster.py:" in error
    assert "\n" not in error
    with pytest.raises(InvalidInput, match=r"^steps must be > 0$"):
        refuse()


def test_a_worker_has_the_cores_it_is_given() -> None:
    program = (
        "from sweeps import runtime\nfrom sweeps.population import devices\nruntime.configure(3)\nimport jax\n"
        "print(jax.device_count(), runtime.cores(), devices.memory_limit() * 3)"
    )
    inherited = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=inherited)
    count, cores, memory = done.stdout.split()
    assert (int(count), int(cores)) == (3, 3)
    assert float(memory) > 0


class Empty:
    """A Ray without hosts."""

    def remote(self, made: type) -> type:
        return made

    def nodes(self) -> list[Any]:
        return []

    def kill(self, actor: Any) -> None:
        """There is nothing to kill."""


def test_a_cluster_without_workers_is_told() -> None:
    found = Workers(Empty(), 1, patience=-1.0)
    with pytest.raises(Unfinished, match="no host with CPUs or GPUs left"):
        found.start()


class Answering(Empty):
    """A Ray in which a worker has answered everything that it was asked."""

    exceptions = types.SimpleNamespace(RayTaskError=KeyError, RayError=LookupError)

    def wait(self, asked: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return asked, []

    def get(self, reference: Any, **_: Any) -> Any:
        return reference


class Method:
    """A method of a worker that has its answer at once."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def options(self, **_: Any) -> "Method":
        return self

    def remote(self, *_: Any) -> Any:
        return self._answer


def test_what_was_told_of_an_earlier_attempt_is_forgotten() -> None:
    """Else its steps would count as steps of the present attempt, which never does them again."""
    worker = WorkerHandle(None, "node", 0, "host")
    [item] = items("a")
    worker.give(item, "done")
    worker.told = Told(0, 70, "")
    worker.give(item, "done")
    assert worker.told.steps == 0


def test_a_worker_without_a_word_is_lost() -> None:
    found = Workers(Answering(), 1, silence=-1.0)
    actor = types.SimpleNamespace(told=Method(Told(0, 70, "")))
    found.handles.append(WorkerHandle(actor, "node", 0, "host", item=items("a")[0]))
    told, lost = [event for _, event in found.events()]
    assert told == Told(0, 70, "")
    assert isinstance(lost, Failed)
    assert lost.error == "the worker on host was lost: it has not said a word for -1 seconds"
    assert found.handles == []


def test_workers_that_die_when_they_are_asked_what_they_have_are_not_replaced_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Dying(Answering):
        def nodes(self) -> list[Any]:
            return [{"NodeID": "node", "Alive": True, "Resources": {"CPU": 1.0}}]

        def get(self, reference: Any, **_: Any) -> Any:
            raise LookupError("it died because its driver is broken")

    def started(self: Workers, host: dict[str, Any], slot: int) -> WorkerHandle:
        return WorkerHandle(None, host["NodeID"], slot, "host", "about")

    monkeypatch.setattr(Workers, "_started", started)
    found = Workers(Dying(), 1)
    with pytest.raises(Unfinished, match="no worker can be started on any host: its driver is bro"):
        found.machine()
    assert found.lost == ["host"] * 3


def test_worlds_are_let_go_when_no_chunk_needs_them_any_more() -> None:
    plan = planning.plan(points(), Machine("cpu", 2, 1e9, 1e11))
    sweep = driver._Execution(plan, Workers(Empty(), 1), lambda rows: None, Silence())
    sweep._sent = {config: "reference" for chunk in plan.chunks for config in chunk.worlds}
    assert len(sweep._sent) == 2
    left = []
    for chunk in plan.chunks:
        sweep._release(chunk)
        left.append(len(sweep._sent))
    assert left[-1] == 0
    assert left == sorted(left, reverse=True)


def test_a_host_may_come_back_after_the_last_one_was_lost_while_a_worker_was_starting() -> None:
    """What went wrong in starting says nothing of a cluster whose hosts are gone: patience has the last word."""
    found = Workers(Empty(), 1, patience=60.0)
    starting = WorkerHandle(None, "node", 0, "host")
    found.handles.append(starting)
    found.dismiss(starting, "its node has died")
    found.start()
    assert found.lost == ["host"]


class Headless(Empty):
    """A Ray whose head is gone: every call fails, as those of its client do."""

    exceptions = types.SimpleNamespace(RaySystemError=KeyError)

    def nodes(self) -> list[Any]:
        raise ConnectionError("GRPC connection failed")

    def shutdown(self) -> None:
        """It is not there."""


def test_a_lost_cluster_is_told() -> None:
    made = Cluster("ray")
    made._ray, made.workers = Headless(), Workers(Empty(), 1)
    made.workers._ray = made._ray
    made.workers.handles.append(WorkerHandle(None, "node", 0, "host"))
    plan = planning.plan(points(), Machine("cpu", 2, 1e9, 1e11))
    with pytest.raises(Unfinished, match=r"the cluster was lost \(GRPC connection failed\)"):
        made.execute(plan, lambda rows: None, Silence())
    assert made.workers is None
