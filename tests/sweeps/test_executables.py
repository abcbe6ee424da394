"""Compiled programs that are found without tracing."""

import os
import pickle
import shutil
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import Array
from traps import trapped

from sweeps.population import devices, executable_cache
from sweeps.population.devices import Along
from sweeps.store import provenance
from testbed.losses.dpo import Dpo
from testbed.losses.ipo import Ipo
from testbed.methods.best_of_n import write_best


class OwnLoss(Ipo):
    """A loss of somebody else's."""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path) -> Iterator[Path]:
    """A compilation cache of its own."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    usual = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(tmp_path), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # which else keeps to the directory that it began with
    yield tmp_path / "programs"
    for name, value in zip(names, usual, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def never(loss: Any, x: Array) -> Array:
    raise AssertionError("traced")


def scaled(loss: Any, x: Array) -> tuple[Any, dict[str, Array]]:
    """A result with structure of its own: a module, and a dictionary."""
    return loss, {"scaled": loss.beta * x, "static": x + loss.length_normalised}


Program = Callable[[Any, Any], Any]


def made(loss: Any, x: Any, function: Program = scaled, name: str = "scaled") -> Any:
    """The program for arguments of these shapes, and what it makes of them: of the first of two rows."""
    rows = devices.place(devices.stacked([(loss, x)] * jax.device_count()))
    given = (devices.everywhere(()), *rows)
    program = devices.compiled(function, (Along.ROWS, Along.ROWS))
    found = executable_cache.compiled(name, program, devices.shapes_of(given))(*given)
    return jax.tree.map(lambda x: x[0], jax.device_get(found))


def test_a_kept_program_is_not_traced_again(directory: Path) -> None:
    x = np.arange(3, dtype=np.float32)
    loss, found = made(Ipo(beta=0.5), x)
    assert len(list(directory.iterdir())) == 2  # what was traced, and the program
    again, same = made(Ipo(beta=0.5), x, never)
    assert isinstance(again, Ipo)
    assert float(again.beta) == float(loss.beta) == 0.5
    np.testing.assert_array_equal(found["scaled"], [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(same["scaled"], found["scaled"])
    # Numbers are arguments: others go through the same program.
    np.testing.assert_array_equal(made(Ipo(beta=2.0), 2 * x, never)[1]["scaled"], [0, 4, 8])


@pytest.mark.parametrize(
    "other",
    [
        lambda x: made(Ipo(length_normalised=True), x, never),
        lambda x: made(Dpo(), x, never),
        lambda x: made(Ipo(), x.astype(np.int32), never),
        lambda x: made(Ipo(), x[1:], never),
        lambda x: made(Ipo(), x, never, name="other"),
    ],
    ids=["static part", "class", "type", "shape", "name"],
)
def test_what_differs_is_traced(other: Callable[[np.ndarray], Any]) -> None:
    x = np.arange(3, dtype=np.float32)
    made(Ipo(), x)
    with pytest.raises(AssertionError, match="traced"):
        other(x)


@pytest.mark.parametrize("what", ["code", "versions", "flags", "settings", "backend"])
def test_other_circumstances_are_other_programs(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(3, dtype=np.float32)
    made(Ipo(), x)
    if what == "code":
        monkeypatch.setattr(provenance, "source_hash", lambda: "changed")
    elif what == "versions":
        monkeypatch.setattr(provenance, "versions", lambda: {"jax": "0"})
    elif what == "flags":
        monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + " --xla_cpu_enable_fast_math=1")
    elif what == "backend":
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for known in (executable_cache._source, executable_cache._host):
        known.cache_clear()
    before = jax.config.values["jax_default_matmul_precision"]
    try:
        if what == "settings":
            jax.config.update("jax_default_matmul_precision", "bfloat16")
        with pytest.raises(AssertionError, match="traced"):
            made(Ipo(), x, never)
    finally:
        jax.config.update("jax_default_matmul_precision", before)
        for known in (executable_cache._source, executable_cache._host):
            known.cache_clear()


@pytest.mark.parametrize(
    "foreign", [OwnLoss(), jax.tree_util.Partial(never), jax.tree_util.Partial(write_best(2))]
)
def test_code_of_others_is_always_traced(foreign: Any, directory: Path) -> None:
    """A class and a function of a user's; a function that the address cannot tell from others of its name."""

    def function(loss: Any, x: Array) -> tuple[Any, dict[str, Array]]:
        traced.append(loss)
        return scaled(loss[0], x)

    traced: list[Any] = []
    x = np.arange(3, dtype=np.float32)
    for _ in range(2):
        before = len(traced)
        np.testing.assert_array_equal(made((Ipo(beta=1.0), foreign), x, function)[1]["scaled"], x)
        assert len(traced) > before
    assert len(list(directory.iterdir())) == 1  # the program, found by what tracing gave


def test_damage_and_a_full_disk_cost_nothing_but_time(directory: Path) -> None:
    x = np.arange(3, dtype=np.float32)
    made(Ipo(), x)
    for file in list(directory.iterdir()):
        whole = file.read_bytes()
        for damaged in (whole[:100], whole[:-200] + bytes(200), b""):
            file.write_bytes(damaged)
            np.testing.assert_array_equal(made(Ipo(beta=1.0), x)[1]["scaled"], x)
    shutil.rmtree(directory)
    directory.write_text("no directory can be made here")
    np.testing.assert_array_equal(made(Ipo(beta=1.0), x)[1]["scaled"], x)


@pytest.fixture
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """A pickle, and the test fails if it is read."""
    with trapped(tmp_path_factory.mktemp("trap")) as content:
        yield content


def recompiled(x: np.ndarray) -> bool:
    """Whether a kept program is compiled anew, by XLA itself: jax's own cache is emptied first. What comes out is
    right."""
    files = executable_cache._files()
    assert files is not None
    for file in files.cache.directory.parent.glob("*-cache"):
        file.unlink()
    jax.clear_caches()
    with executable_cache._FRESH:
        np.testing.assert_array_equal(made(Ipo(beta=1.0), x)[1]["scaled"], x)
    return executable_cache._FRESH.count > 0


def program_file(directory: Path) -> Path:
    """The larger of the two files: the other tells where it is."""
    return max(directory.iterdir(), key=lambda file: file.stat().st_size)


@pytest.mark.parametrize("dressed", ["bare", "compressed", "compressed and pickled"])
def test_a_planted_program_is_not_run(dressed: str, directory: Path, trap: bytes) -> None:
    """In none of the forms in which programs were ever kept, nor in place of what tells where the program is."""
    x = np.arange(3, dtype=np.float32)
    made(Ipo(), x)
    if dressed != "bare":
        trap = zlib.compress(trap)
    if dressed == "compressed and pickled":
        trap = pickle.dumps(trap)
    for file in list(directory.iterdir()):
        whole = file.read_bytes()
        for content in (trap, whole[:49] + trap):
            file.write_bytes(content)
            recompiled(x)
    assert not recompiled(x)


def test_a_program_with_a_flipped_bit_is_compiled_anew(directory: Path) -> None:
    x = np.arange(3, dtype=np.float32)
    made(Ipo(), x)
    assert not recompiled(x)
    file = program_file(directory)
    whole = file.read_bytes()
    for place in (0, 20, 60, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert recompiled(x)
        assert not recompiled(x)


def test_a_program_at_another_address_is_compiled_anew(directory: Path) -> None:
    """Though it was signed here: it computes something else."""
    x = np.arange(3, dtype=np.float32)
    made(Ipo(beta=1.0), x, lambda loss, x: (loss, {"scaled": x + 1.0}), "other")
    other = program_file(directory)
    content = other.read_bytes()
    other.unlink()
    made(Ipo(), x)
    program_file(directory).write_bytes(content)
    assert recompiled(x)


def key_of(directory: Path) -> Path:
    return directory.parent / "programs.key"


def test_the_key_is_this_users_alone(directory: Path) -> None:
    made(Ipo(), np.arange(3, dtype=np.float32))
    facts = key_of(directory).stat()
    assert (stat.S_IMODE(facts.st_mode), facts.st_size, facts.st_uid) == (0o600, 32, os.geteuid())


@pytest.mark.parametrize("what", ["open", "group", "short", "long", "lost", "link", "other"])
def test_programs_of_another_key_are_compiled_anew(what: str, directory: Path) -> None:
    """A key that others may read or have made is replaced by a new one."""
    x = np.arange(3, dtype=np.float32)
    made(Ipo(), x)
    key = key_of(directory)
    before = key.read_bytes()
    if what in ("open", "group"):
        key.chmod(0o644 if what == "open" else 0o620)
    elif what == "link":
        key.rename(key.with_name("elsewhere"))
        key.symlink_to(key.with_name("elsewhere"))
    else:
        key.unlink()
    if what in ("short", "long", "other"):
        key.write_bytes(
            before[:-1] if what == "short" else before + b"x" if what == "long" else before[::-1]
        )
        key.chmod(0o600)
    assert recompiled(x)
    assert not recompiled(x)
    assert not key.is_symlink()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32
    assert key.read_bytes() != before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_replaced(directory: Path) -> None:
    x = np.arange(3, dtype=np.float32)
    made(Ipo(), x)
    os.chown(key_of(directory), 65534, -1)
    assert recompiled(x)
    assert key_of(directory).stat().st_uid == os.geteuid()
    assert not recompiled(x)


def test_the_same_from_other_code_is_not_compiled_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced anew, for nothing else would show that it is the same; jax's own cache is empty."""
    x = np.arange(3, dtype=np.float32)
    made(Ipo(), x)
    for file in directory.parent.glob("*-cache"):
        file.unlink()
    monkeypatch.setattr(executable_cache, "_source", lambda: "changed")
    with executable_cache._FRESH:
        np.testing.assert_array_equal(made(Ipo(beta=1.0), x)[1]["scaled"], x)
    assert executable_cache._FRESH.count == 0
    assert len(list(directory.iterdir())) == 3
    np.testing.assert_array_equal(made(Ipo(beta=1.0), x, never)[1]["scaled"], x)


def test_programs_of_one_text_may_read_different_arguments() -> None:
    """Which ones they read is in no line of it."""

    def first(loss: Any, both: tuple[Array, Array]) -> Array:
        return 2.0 * both[0]

    def second(loss: Any, both: tuple[Array, Array]) -> Array:
        return 2.0 * both[1]

    both = (np.ones(3, np.float32), np.full(3, 2, np.float32))
    for _ in range(2):
        np.testing.assert_array_equal(made(Ipo(), both, first, "first"), [2, 2, 2])
        np.testing.assert_array_equal(made(Ipo(), both, second, "second"), [4, 4, 4])


def test_nothing_is_kept_where_jax_does_not_tell_what_is_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.arange(3, dtype=np.float32)
    assert executable_cache._read(jax.jit(lambda a, b: b + 1).lower(x, x)) == [1]
    assert executable_cache._read(object()) is None
    monkeypatch.setattr(executable_cache, "_read", lambda lowered: None)
    np.testing.assert_array_equal(made(Ipo(beta=1.0), x)[1]["scaled"], x)
    assert not directory.exists()


def test_what_jax_has_kept_is_not_kept_again(directory: Path) -> None:
    """XLA writes a program down that it has read itself, and refuses to run what it has written."""
    x = np.arange(1000, dtype=np.float32)
    made(Ipo(), x)
    shutil.rmtree(directory)
    jax.clear_caches()
    assert list(directory.parent.glob("*-cache"))
    for _ in range(3):
        np.testing.assert_array_equal(made(Ipo(beta=1.0), x)[1]["scaled"], x)
    assert len(list(directory.iterdir())) == 1  # what was traced


def test_a_program_without_results_runs_again(directory: Path) -> None:
    """A stage of a pretrained model may make nothing but names of its weights; XLA would write down a program that
    does not run on two devices."""
    for _ in range(2):
        assert made(None, np.float32(1.0), lambda _, x: (None, ())) == (None, ())
        jax.clear_caches()
    assert not directory.exists()


def test_shapes_are_worked_out_once() -> None:
    def found() -> Any:
        return jax.ShapeDtypeStruct((3,), np.float32), {"column": np.dtype(np.int32)}

    def refuse() -> Any:
        raise AssertionError("worked out again")

    by = (jax.eval_shape(Ipo), jax.ShapeDtypeStruct((2,), np.float32))
    assert executable_cache.worked_out("shapes", by, found) == found()
    assert executable_cache.worked_out("shapes", by, refuse) == found()
    with pytest.raises(AssertionError, match="again"):
        executable_cache.worked_out("other shapes", by, refuse)


OTHER_PROCESS = """
import jax, numpy as np
from sweeps import runtime
runtime.configure()
from sweeps.population import devices, executable_cache
from helpers import PREPARED
from testbed.stages.world_config import WorldConfig
given = devices.shapes((PREPARED[0].train, WorldConfig.of(PREPARED[0])), 2)
print(executable_cache._address("program", "any", given))
"""


def test_every_process_finds_the_same() -> None:
    """Addresses do not hang on the order of hashes, or on where things are in memory. (Whole configs: their strings
    and modules are shared in one place and not in another.)"""
    found = set()
    for seed in ("1", "2"):
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": f"{Path(__file__).parents[1] / 'support'}",
        }
        code = [sys.executable, "-c", OTHER_PROCESS]
        done = subprocess.run(code, env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    (address,) = found
    assert len(address.strip()) == 64
