"""Runs on their way, kept on disk: a run that takes hours goes on at the step where it was, and what it has learnt can
be looked at afterwards."""

from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree

from sweeps.runtime import cache_directory
from sweeps.study import Point
from testbed import config
from testbed.cache import Cache
from testbed.config import user_code
from testbed.stages import stages
from testbed.stages.code import Code, classes_in, installed
from testbed.stages.world_config import GroundConfig

#: The code that trains and measures; a run's config names further classes, and stages made what the run stands on.
_MODULES = ("testbed.train", "testbed.metrics", "testbed.stages.world_config")


class Paused(NamedTuple):
    """A run between two steps: the evaluation it comes to, steps since the one before, what was measured so far (a row
    an evaluation), and its `testbed.train.TrainState`."""

    index: int
    done: int
    values: np.ndarray
    state: PyTree


class Underway:
    """Runs by all that they depend on: where they are, and what those that are complete have learnt. ``code`` is that
    of this process by default."""

    def __init__(self, code: Code | None = None) -> None:
        self._code = code or installed()
        self._paused = Cache(cache_directory() / "underway")
        self._learnt = Cache(cache_directory() / "policies")
        self._identities: dict[GroundConfig, str] = {}
        # Most often there is nothing: then nobody has to ask for each of thousands of runs.
        self._empty = not any(self._paused.directory.glob("*"))

    def pause(self, point: Point, paused: Paused) -> None:
        """Keep where a run is. Raises `Unfinished` if the disk refuses."""
        self._paused.save(self._address(point), paused)
        self._empty = False

    def paused(self, point: Point) -> Paused | None:
        """Where a run is; None if it has not begun."""
        return None if self._empty else self._paused.load(self._address(point))

    def finish(self, point: Point) -> None:
        """Forget where a run was."""
        if not self._empty:
            self._paused.remove(self._address(point))

    def keep(self, point: Point, policy: PyTree) -> None:
        """Keep what a run has learnt: the trained part of its policy. Raises `Unfinished` if the disk refuses."""
        self._learnt.save(self._address(point), policy)

    def learnt(self, point: Point) -> PyTree | None:
        """The trained part of a run's last policy; None if it was not kept."""
        return self._learnt.load(self._address(point))

    def _address(self, point: Point) -> str:
        """Names what a run stands on, how the run is trained, and the code of both: a user's own loss may change
        between two commands."""
        ground, told = GroundConfig.of(point.experiment), user_code.sources([point.experiment])
        if ground not in self._identities:
            self._identities[ground] = stages.identity(ground, self._code)
        reached = self._code.hash_of(_MODULES, classes_in(point.experiment), told)
        return config.fingerprint(point.run, self._identities[ground], reached, *told)
