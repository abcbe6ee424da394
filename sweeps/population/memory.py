"""Plans that no machine like this one can hold, refused before anything is built."""

import math
from collections.abc import Iterator

from sweeps.population.devices import LIMIT, Machine
from sweeps.selection import Point
from testbed import config
from testbed.errors import InvalidInput
from testbed.estimates.memory import Footprint, footprint
from testbed.experiment import Experiment

#: How far a forecast must exceed the memory there is to be believed. `tests/testbed/test_estimated_memory.py` holds
#: forecasts to within a third of the compiler's figure, so that a run needs at least 3/4 of its forecast: at 1.5
#: times the memory that is still 1.1 times of what there is, and would be refused when its program is compiled.
CERTAIN = 1.5
#: Fields that decide how much memory a run needs, of which a refusal names the weightiest.
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
    """Predicted bytes of one run on a device of its own."""
    return needs.world + needs.run + needs.work


def refuse_too_large(point: Point, machine: Machine) -> None:
    """Refuse a run of which the machine cannot hold one a device by far: raises `InvalidInput` with the bytes needed,
    the bytes there are, and the field to make smaller."""
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
    """The field that takes most of the memory with it when it is halved, and its value."""
    saved = list(_halvings(experiment))
    if not saved:
        return "the model, batch_size or evaluation.prompts"
    _, path = max(saved)
    return f"{path} (now {config.get(experiment, path)})"


def _halvings(experiment: Experiment) -> Iterator[tuple[int, str]]:
    """By how many bytes a run needs less with half of each field, where it has that field and admits the half."""
    whole = alone(footprint(experiment))
    for path in _FIELDS:
        try:
            value = config.get(experiment, path)
            half = config.replace(experiment, path, math.ceil(value / 2))
            yield whole - alone(footprint(half)), path
        except (InvalidInput, TypeError):
            continue
