"""Refuses plans that no machine like this one can hold, before anything is built."""

import contextlib
import math

from sweeps.population.devices import LIMIT, Machine
from sweeps.selection import Point
from testbed import config
from testbed.errors import InvalidInput
from testbed.estimates.memory import Footprint, footprint
from testbed.experiment import Experiment

#: A plan is refused if its forecast exceeds the available memory by this factor.
#: `tests/testbed/test_estimated_memory.py` holds forecasts to within a third of the compiler's figure, so that a run
#: needs at least 3/4 of its forecast. At 1.5 times the memory a run therefore needs at least 1.1 times the memory, and
#: would be refused when its program compiles.
CERTAIN = 1.5
#: Fields that decide how much memory a run needs; a refusal names the field with the largest effect.
_FIELDS = (
    "batch_size",
    "data.pairs",
    "evaluation.prompts",
    "evaluation.kl_prompts",
    "evaluation.pairs",
    "model.width",
    "model.layers",
    "task.vocabulary",
    "task.prompt_length",
    "task.response_length",
)


def alone(needs: Footprint) -> int:
    """Predicted bytes of one run that has a device for itself."""
    return needs.world + needs.run + needs.work


def refuse_too_large(point: Point, machine: Machine) -> None:
    """Refuse a run if the machine clearly cannot hold even one such run per device: raises `InvalidInput` with the
    bytes needed, the bytes available, and the field to make smaller."""
    needed = alone(footprint(point.experiment))
    if needed <= CERTAIN * machine.memory:
        return
    together = f" on each of {machine.devices} devices" if machine.devices > 1 else ""
    total, present = (
        _gigabytes(float(machine.devices * part)) for part in (needed, machine.memory)
    )
    raise InvalidInput(
        f"a run of arm {point.arm}{together} needs about {total} of memory, and {present} may be used here: make "
        f"{_weightiest(point.experiment)} smaller, or set {LIMIT}"
    )


def _gigabytes(count: float) -> str:
    digits = 0 if count >= 1e11 else 1 if count >= 1e9 else 3
    return f"{count / 1e9:,.{digits}f} GB"


def _weightiest(experiment: Experiment) -> str:
    """The field whose halving saves the most memory, of those that the run has and that admit the half; and its
    value."""
    saved = []
    for path in _FIELDS:
        with contextlib.suppress(InvalidInput, TypeError):
            value = config.get(experiment, path)
            half = config.replace(experiment, path, math.ceil(value / 2))
            saved.append((-alone(footprint(half)), path, value))
    if not saved:
        return "the model, batch_size or evaluation.prompts"
    _, path, value = max(saved)
    return f"{path} (now {value})"
