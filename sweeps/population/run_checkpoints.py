"""Checkpoints of unfinished runs on disk: an interrupted run continues at the step it had reached. The trained policies
of complete runs are kept too, for later inspection."""

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
from testbed.stages.world_config import WorldConfig

#: The code that trains and measures. A run also depends on its config's classes and on the stages that made its world.
_MODULES = ("testbed.train", "testbed.metrics", "testbed.stages.world_config")


class Paused(NamedTuple):
    """A run between two steps: the next evaluation, the number of steps since the previous one, the measurements so far
    (a row per evaluation), the outcomes by prompt that it keeps (evaluation, outcome, prompt), and its
    `testbed.train.TrainState`."""

    index: int
    done: int
    values: np.ndarray
    by_prompt: np.ndarray | None
    state: PyTree


class RunCheckpoints:
    """Checkpoints of unfinished runs and policies of complete runs, stored by everything that a run depends on.
    ``code`` is the code of this process by default."""

    def __init__(self, code: Code | None = None) -> None:
        self._code = code or installed()
        self._paused = Cache(cache_directory() / "underway")
        self._learnt = Cache(cache_directory() / "policies")
        self._identities: dict[WorldConfig, str] = {}
        # Usually there are no paused runs: then thousands of look-ups are saved.
        self._empty = not any(self._paused.directory.glob("*"))

    def pause(self, point: Point, paused: Paused) -> None:
        """Store the state of a run. Raises `Unfinished` if the disk refuses."""
        self._paused.save(self._address(point), paused)
        self._empty = False

    def paused(self, point: Point) -> Paused | None:
        """The stored state of a run; None if there is none."""
        return None if self._empty else self._paused.load(self._address(point))

    def finish(self, point: Point) -> None:
        """Delete the stored state of a run."""
        if not self._empty:
            self._paused.remove(self._address(point))

    def keep(self, point: Point, policy: PyTree) -> None:
        """Store the trained part of a run's policy. Raises `Unfinished` if the disk refuses."""
        self._learnt.save(self._address(point), policy)

    def learnt(self, point: Point) -> PyTree | None:
        """The trained part of a run's last policy; None if it was not stored."""
        return self._learnt.load(self._address(point))

    def _address(self, point: Point) -> str:
        """An address from the run's world, its training, and the code of both: a user's loss may change between two
        commands."""
        world_config, told = WorldConfig.of(point.experiment), user_code.sources([point.experiment])
        if world_config not in self._identities:
            self._identities[world_config] = stages.identity(world_config, self._code)
        reached = self._code.hash_of(_MODULES, classes_in(point.experiment), told)
        return config.fingerprint(point.run, self._identities[world_config], reached, *told)
