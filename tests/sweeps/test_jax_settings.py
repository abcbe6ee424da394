"""jax's own settings: those under which the testbed works, and one sentence for the others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from sweeps.api import jax_settings
from testbed.errors import InvalidInput

#: Settings of the environment that are refused, and a part of the sentence. docs/cli.md has them too.
REFUSED = {
    "JAX_PLATFORMS=cuda": "jax finds no device: JAX_PLATFORMS is cuda",
    "JAX_PLATFORMS=nonsense": "jax finds no device: JAX_PLATFORMS is nonsense",
    "JAX_ENABLE_X64=1": "JAX_ENABLE_X64 is True, must be False: the testbed computes in 32 bits",
    "JAX_ENABLE_X64=maybe": "invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'",
    "JAX_DEBUG_NANS=1": "JAX_DEBUG_NANS is True",
    "JAX_DEBUG_INFS=1": "JAX_DEBUG_INFS is True",
    "JAX_DEBUG_KEY_REUSE=1": "JAX_DEBUG_KEY_REUSE is True",
    "JAX_NUMPY_DTYPE_PROMOTION=strict": "JAX_NUMPY_DTYPE_PROMOTION is strict, must be standard",
    "JAX_NUMPY_DTYPE_PROMOTION=x": "jax refuses a setting of the environment",
    "JAX_DISABLE_JIT=1": "JAX_DISABLE_JIT is True",
    "JAX_CHECK_TRACER_LEAKS=1": "JAX_CHECK_TRACER_LEAKS is True",
    "JAX_DISABLE_MOST_OPTIMIZATIONS=1": "JAX_DISABLE_MOST_OPTIMIZATIONS is True",
    "JAX_TRANSFER_GUARD=disallow": "JAX_TRANSFER_GUARD is disallow",
    "XLA_FLAGS=--xla_nonsense=1": "XLA cannot start with XLA_FLAGS=--xla_nonsense=1 (Unknown flag",
    "XLA_FLAGS=/a/file": "XLA_FLAGS must hold flags",
}
#: Settings that are taken.
TAKEN = (
    "JAX_ENABLE_X64=0",
    "JAX_NUMPY_RANK_PROMOTION=raise",
    "JAX_LOG_COMPILES=0",
    "JAX_TRANSFER_GUARD=log",
    "JAX_TRACEBACK_FILTERING=off",
    "XLA_FLAGS=--xla_cpu_prefer_vector_width=256 --xla_dump_to=dumped",
    "XLA_PYTHON_CLIENT_PREALLOCATE=false",
)
PROGRAM = (
    "import sys\nfrom sweeps import runtime\nfrom sweeps.api import jax_settings\n"
    "from testbed.errors import InvalidInput\n"
    "try:\n    runtime.configure()\n    jax_settings.require()\n"
    "except InvalidInput as problem:\n    sys.exit(f'testbed: {problem}')\n"
)


def started(setting: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """What a process that begins as commands do says under a setting."""
    name, _, value = setting.partition("=")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    env = {**clean, "JAX_PLATFORMS": "cpu", name: value, "PYTHONPATH": os.getcwd()}
    words = [sys.executable, "-c", PROGRAM]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)


@pytest.mark.parametrize("setting", REFUSED)
def test_a_setting_that_does_not_work_is_refused_in_one_sentence(
    setting: str, tmp_path: Path
) -> None:
    done = started(setting, tmp_path)
    assert done.returncode == 1
    assert REFUSED[setting] in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("setting", TAKEN)
def test_other_settings_are_taken(setting: str, tmp_path: Path) -> None:
    done = started(setting, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_refuses_before_anything_is_written(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "sweeps.cli.main", "run", "gap", "--preset=smoke", "--out"]
    done = subprocess.run(
        [*words, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_ENABLE_X64": "1"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("testbed: JAX_ENABLE_X64 is True, must be False")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_settings_of_a_running_jax_count_too() -> None:
    """Whoever calls from Python sets them without the environment."""
    with (
        jax.debug_nans(True),
        pytest.raises(InvalidInput, match=r"jax_debug_nans of jax.config is True.*set it back"),
    ):
        jax_settings.require(devices=False)
    jax_settings.require()


@pytest.mark.parametrize("name", jax_settings.REQUIRED)
def test_every_required_setting_is_one_of_jax_with_that_default(name: str) -> None:
    assert jax.config.values[name] == jax_settings.REQUIRED[name].allowed[0]


def test_the_table_of_the_documentation_is_whole() -> None:
    text = Path("docs/cli.md").read_text(encoding="utf-8")
    table = set(re.findall(r"`((?:JAX|XLA)_\w+)", text))
    named = {setting.partition("=")[0] for setting in (*REFUSED, *TAKEN)}
    assert named | {name.upper() for name in jax_settings.REQUIRED} <= table
