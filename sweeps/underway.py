"""Runs on their way, kept on disk: a run that takes hours goes on at the step where it was, and what it has learnt can
be looked at afterwards."""

from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree

from sweeps.runtime import cache_directory
from testbed import config, stages
from testbed.ground import GroundConfig
from testbed.stages import Cache


class Paused(NamedTuple):
    """A run between two steps: the evaluation it comes to, steps since the one before, what was measured so far (a row
    an evaluation), and its `testbed.train.TrainState`."""

    index: int
    done: int
    values: np.ndarray
    state: PyTree


class Underway:
    """Runs by their ids and the grounds they stand on: where they are, and what those that are complete have learnt."""

    def __init__(self) -> None:
        self._paused = Cache(cache_directory() / "underway")
        self._learnt = Cache(cache_directory() / "policies")
        self._identities: dict[GroundConfig, str] = {}
        # Most often there is nothing: then nobody has to ask for each of thousands of runs.
        self._empty = not any(self._paused.directory.glob("*"))

    def pause(self, run: str, ground: GroundConfig, paused: Paused) -> None:
        """Keep where a run is. Raises `Unfinished` if the disk refuses."""
        self._paused.save(self._address(run, ground), paused)
        self._empty = False

    def paused(self, run: str, ground: GroundConfig) -> Paused | None:
        """Where a run is; None if it has not begun."""
        return None if self._empty else self._paused.load(self._address(run, ground))

    def finish(self, run: str, ground: GroundConfig) -> None:
        """Forget where a run was."""
        if not self._empty:
            self._paused.remove(self._address(run, ground))

    def keep(self, run: str, ground: GroundConfig, policy: PyTree) -> None:
        """Keep what a run has learnt: the trained part of its policy. Raises `Unfinished` if the disk refuses."""
        self._learnt.save(self._address(run, ground), policy)

    def learnt(self, run: str, ground: GroundConfig) -> PyTree | None:
        """The trained part of a run's last policy; None if it was not kept."""
        return self._learnt.load(self._address(run, ground))

    def _address(self, run: str, ground: GroundConfig) -> str:
        if ground not in self._identities:
            self._identities[ground] = stages.identity(ground)
        return config.fingerprint(run, self._identities[ground])
