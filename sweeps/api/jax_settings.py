"""Settings of jax: which values the testbed works with; other values are refused before anything is built.

Settings come from the environment (``JAX_ENABLE_X64=1``) or from ``jax.config.update``. The table in ``docs/cli.md``
lists them, and says which problems were found by running a study.
"""

import logging
import os
import subprocess
import sys
from typing import Any, NamedTuple

from sweeps import runtime
from testbed.errors import InvalidInput, said

#: Flags that the testbed itself puts into XLA_FLAGS.
OURS = ("--xla_force_host_platform_device_count=", "--xla_cpu_prefer_vector_width=")
#: Files that exist where NVIDIA's driver is installed, on Linux and on Linux under Windows.
_GPUS = ("/dev/nvidiactl", "/dev/dxg")


class Required(NamedTuple):
    """The values that a setting may have, the default first, and the reason."""

    allowed: tuple[Any, ...]
    why: str


_SLOW = "building and compiling take many times as long under it"
_NUMBERS = "other values change the numbers that runs compute"
_STOPS = "it stops programs at values that are meant to occur, as in runs that diverge"
_FAILS = "the testbed's programs, or libraries that it uses, fail under it"
#: Settings of which only a few values are allowed, by jax's names for them.
REQUIRED: dict[str, Required] = {
    "jax_enable_x64": Required((False,), "the testbed computes in 32 bits"),
    "jax_debug_nans": Required((False,), _STOPS),
    "jax_debug_infs": Required((False,), _STOPS),
    "jax_numpy_dtype_promotion": Required(("standard",), _FAILS),
    "jax_debug_key_reuse": Required((False,), _FAILS),
    "jax_disable_jit": Required((False,), "programs must be compiled before they run"),
    "jax_check_tracer_leaks": Required((False,), _SLOW),
    "jax_no_tracing": Required((False,), "programs must be traced before they run"),
    "jax_no_execution": Required((False,), "programs must be executed"),
    "jax_high_dynamic_range_gumbel": Required((False,), _NUMBERS),
    "jax_softmax_custom_jvp": Required((False,), _NUMBERS),
    **{
        f"jax_transfer_guard{way}": Required((None, "allow", "log", "log_explicit"), _FAILS)
        for way in ("", "_host_to_device", "_device_to_device", "_device_to_host")
    },
    "jax_disable_most_optimizations": Required((False,), _NUMBERS),
}


def ready(devices: bool = True) -> None:
    """Prepare this process for jax, and import it; see `require`."""
    runtime.configure()
    require(devices)


def require(devices: bool = True) -> None:
    """Import jax, and refuse settings under which the testbed does not work.

    Call this function after `sweeps.runtime.configure`. ``devices``: also find the devices, which takes memory on
    accelerators. Raises `InvalidInput`, which names the setting to drop.
    """
    try:
        import jax  # noqa: F401 (to see whether the import works)
    except ValueError as problem:
        raise InvalidInput(
            f"jax refuses a setting of the environment ({said(problem)}): correct or unset that variable"
        ) from problem
    for name, required in REQUIRED.items():
        value = _value(name, required.allowed[0])
        if value not in required.allowed:
            where, remedy = f"{name} of jax.config", "set it back"
            if name.upper() in os.environ:
                where, remedy = name.upper(), "unset the variable"
            allowed = " or ".join(str(value) for value in required.allowed if value is not None)
            raise InvalidInput(f"{where} is {value}, must be {allowed}: {required.why}; {remedy}")
    if devices:
        _require_flags()
        _require_devices()


def _value(name: str, default: Any) -> Any:
    """A setting's present value; the default if this version of jax does not have it."""
    import jax

    # Some settings are attributes, which follow contexts (``jax.debug_nans(True)``); others are only in `values`.
    return getattr(jax.config, name, jax.config.values.get(name, default))


def _require_devices() -> None:
    import jax

    logger = logging.getLogger("jax._src.xla_bridge")
    logger.addFilter(_on_one_line)
    try:
        jax.devices()
    # The exception depends on the platform and on jax's version: RuntimeError, or a bare AssertionError for cuda.
    except Exception as problem:
        chosen = getattr(jax.config, "jax_platforms", None)
        reason = said(problem) or "no such device was found"
        asked = f"JAX_PLATFORMS is {chosen}" if chosen else "JAX_PLATFORMS is not set"
        raise InvalidInput(
            f"jax finds no device: {asked} ({reason}); unset it to take what there is, or set it to cpu"
        ) from problem
    finally:
        logger.removeFilter(_on_one_line)


def _on_one_line(record: logging.LogRecord) -> bool:
    """Shorten jax's message that a kind of device cannot be used to one line without a traceback; drop the message if
    it is about GPUs and the machine has none."""
    if record.exc_info:
        if "cuda" in record.getMessage() and not any(map(os.path.exists, _GPUS)):
            return False
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[1]}", ()
        record.exc_info = record.exc_text = None
    return True


def _require_flags() -> None:
    """Try XLA_FLAGS in a separate process, because XLA ends the process if a flag is unknown."""
    flags = os.environ.get("XLA_FLAGS", "")
    theirs = [flag for flag in flags.split() if not flag.startswith(OURS)]
    if not theirs or flags in _tried:
        return
    program = "from jaxlib import xla_client; xla_client.make_cpu_client()"
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environ,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [
            line.partition("] ")[2] for line in done.stderr.splitlines() if "XLA_FLAGS" in line
        ]
        reason = lines[0] if lines else f"it ends with status {done.returncode}"
        raise InvalidInput(
            f"XLA cannot start with XLA_FLAGS={' '.join(theirs)} ({reason.strip()}): correct or unset XLA_FLAGS"
        )
    _tried.add(flags)


#: Values of XLA_FLAGS with which XLA has started successfully.
_tried: set[str] = set()
