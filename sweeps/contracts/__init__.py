"""Requirements on the members of each family, and the checks of these requirements.

The same requirements hold for all classes. The contract tests check the testbed's classes. Every command that uses a
user's class checks it here before anything is built: first shapes and types without computing (`jax.eval_shape`), then
values on a few small samples. An error is one sentence that names the class.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax

from sweeps.contracts.judging import check_estimand, check_rule
from sweeps.contracts.learning import (
    check_loss,
    check_objective,
    check_proxy,
    check_reference,
    check_source,
)
from sweeps.contracts.samples import MadeUpEvidence, Sizes
from sweeps.contracts.sentences import named, ours
from sweeps.contracts.worlds import check_labeler, check_task
from sweeps.estimands import Estimand
from sweeps.selection import Selection
from testbed.config import ranges
from testbed.config.canonical_form import names_of, read
from testbed.environment import AbstractTask
from testbed.experiment import Experiment
from testbed.losses.base import AbstractLoss
from testbed.objective import AbstractObjective
from testbed.preference import AbstractLabeler
from testbed.proxies.base import AbstractProxyConfig
from testbed.references.base import AbstractReference
from testbed.source import AbstractSource

#: Receives a message before each check begins: checks of worlds and methods may take some seconds.
Tell = Callable[[str], None]


def check(selections: Sequence[Selection], tell: Tell | None = None) -> None:
    """Check every class in a command's selections that does not come with the testbed, once for each class and
    structure of its fields, and refuse numbers that float32 cannot represent. Raises `InvalidInput`."""
    tried = _Tried(tell)
    for selection in selections:
        for point in selection.points():
            # Experiments that differ only in their seed are the same for the checks.
            if point.seed == 0:
                tried.look_at(point.experiment)
        evidence = None
        for claim in selection.claims:
            for test in claim.tests:
                for estimand in _estimands(test.estimand):
                    if not ours(type(estimand)):
                        evidence = evidence or MadeUpEvidence(selection)
                        tried.tell(estimand)
                        check_estimand(estimand, evidence)
                if not ours(type(test.rule)):
                    tried.tell(test.rule)
                    check_rule(test.rule)


def check_experiment(experiment: Any, tell: Tell | None = None) -> None:
    """`check` for one experiment."""
    _Tried(tell).look_at(experiment)


def check_member(member: Any, experiment: Experiment) -> None:
    """Check one config, from the testbed or from a user, as it is used in an experiment. A config of no family is not
    checked. Raises `InvalidInput`."""
    task = experiment.task
    sizes = Sizes.of(task)
    match member:
        case AbstractTask():
            check_task(member)
        case AbstractLabeler():
            check_labeler(member, task)
        case AbstractLoss():
            check_loss(member, sizes)
        case AbstractObjective():
            check_objective(member, sizes)
        case AbstractSource():
            check_source(member, sizes)
        case AbstractReference():
            check_reference(member, sizes)
        case AbstractProxyConfig():
            check_proxy(member, sizes, experiment.model, task)


class _Tried:
    """The members that one command has checked already."""

    def __init__(self, tell: Tell | None) -> None:
        self._tell = tell or (lambda text: None)
        # Objects are compared by identity, which is valid only while the object exists: so the objects are kept.
        self._seen: dict[int, Any] = {}
        self._kinds: set[Any] = set()

    def tell(self, thing: Any) -> None:
        """Announce the check of a member."""
        self._tell(f"Checking {named(thing)}")

    def look_at(self, experiment: Any) -> None:
        """Check the new members of an experiment. Experiments of a study share most of their modules."""
        if not isinstance(experiment, Experiment):
            return
        for name in names_of(Experiment):
            value = read(experiment, name)
            if id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            for path, part in _parts(value, name):
                ranges.refuse_lost(part, path)
            for _, part in _parts(value, name):
                if isinstance(part, eqx.Module) and not ours(type(part)):
                    self._try(part, experiment)

    def _try(self, member: Any, experiment: Experiment) -> None:
        key = type(member), jax.tree.structure(member), jax.tree.structure(experiment.task)
        if key in self._kinds:
            return
        self._kinds.add(key)
        self.tell(member)
        # On the CPU: the programs are small, and compiling for an accelerator would take longer.
        with jax.default_device(_processor()):
            check_member(member, experiment)


def _processor() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS excludes the CPU
        return None


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """A field's value and everything inside it, with their paths."""
    yield path, value
    if isinstance(value, eqx.Module):
        for name in names_of(type(value)):
            yield from _parts(read(value, name), f"{path}.{name}")
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _parts(item, path)


def _estimands(estimand: Estimand) -> Iterable[Estimand]:
    """An estimand and the estimands inside it."""
    yield estimand
    for value in vars(estimand).values():
        if isinstance(value, Estimand):
            yield from _estimands(value)
