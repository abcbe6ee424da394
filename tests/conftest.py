"""Settings of the whole test run: strict JAX, two CPU devices, a compilation cache, checked shapes.

The settings go through the environment, before JAX is imported, so that programs started by a
test run under the same ones.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alignment-testbed"

# Broadcasting between ranks must be spelled out; it hides most shape mistakes.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Compiling is most of the suite's time. The smallest programs are kept too: they are most programs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Where no bytecode may stand beside the sources, every process that a test starts would compile jax's again, for
# seconds: bytecode is kept in the cache there.
if sys.dont_write_bytecode or "PYTHONDONTWRITEBYTECODE" in os.environ:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(_CACHE / "bytecode"))
    sys.dont_write_bytecode = False
# As commands do (`sweeps.cli.main`): many small matrices, in tests that run side by side.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tables are as wide as in logs, whatever terminal the tests were started from.
os.environ.pop("COLUMNS", None)
# Two CPU devices, so that placement is exercised on any machine.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=2".strip()

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["testbed", "envs", "sweeps", "analysis"], "typechecker.check")

from sweeps import runtime  # noqa: E402

# Else as commands set them up, with whose programs tests share what is compiled.
runtime.configure()

import jax  # noqa: E402

#: Files that take a minute or more with nothing compiled, the longest first. They begin first, so that no process is
#: left alone with one at the end.
LONG = (
    "system/test_faults.py",
    "sweeps/test_cluster.py",
    "sweeps/test_population.py",
    "contracts/test_contracts.py",
    "sweeps/test_language.py",
    "testbed/test_measures.py",
    "testbed/test_methods.py",
    "contracts/test_own_classes.py",
    "system/test_docs.py",
    "system/test_benchmarks.py",
    "system/test_examples.py",
    "envs/test_labelers.py",
    "sweeps/test_damaged.py",
    "sweeps/test_runner.py",
    "testbed/test_stages.py",
    "testbed/test_cache.py",
    "testbed/test_losses.py",
    "testbed/test_estimators.py",
    "testbed/test_sources.py",
    "testbed/test_train.py",
    "testbed/test_exact.py",
    "analysis/test_calibration.py",
    "analysis/test_report.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files: the `LONG` ones, then all others as they were."""
    place = {Path(__file__).parent / file: rank for rank, file in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """Refuse implicit promotion between dtypes, for tests of our own numerics.

    It cannot be on everywhere: the optimisers of optax, gymnax's environments and NumPyro's
    samplers mix int32 counters with floats and raise under it.
    """
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps() -> Iterator[None]:
    """One process compiles the programs of all modules, more than it can hold at once."""
    yield
    runtime.make_room()


@pytest.fixture(autouse=True)
def users_files_unloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Unload users' files that a test has loaded: they would be sent to the workers that later tests start."""
    modules, folders, written = set(sys.modules), list(sys.path), tmp_path_factory.getbasetemp()
    yield
    sys.path[:] = [
        folder for folder in sys.path if folder in folders or not _below(folder, written)
    ]
    for name in set(sys.modules) - modules:
        if _below(getattr(sys.modules[name], "__file__", None), written):
            del sys.modules[name]


def _below(file: str | None, folder: Path) -> bool:
    return file is not None and Path(file).is_relative_to(folder)
