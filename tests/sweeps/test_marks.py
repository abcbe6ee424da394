"""Steps at which runs are evaluated: worked by hand, and the same policies whatever the steps are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PREPARED, Silence, cache_directory, experiment, worlds

from sweeps import throttle
from sweeps.population import chunk_runner, host
from sweeps.population.compile_key import compile_key
from sweeps.population.plan import Chunk, Layout, plan
from sweeps.population.run_checkpoints import RunCheckpoints
from sweeps.store import parquet
from sweeps.study import Point
from testbed import config
from testbed.errors import InvalidInput
from testbed.experiment import EvaluationConfig, Experiment
from testbed.stages.world_config import WorldConfig


@pytest.mark.parametrize(
    ("points", "first", "steps", "expected"),
    [
        (4, None, 8, (0, 2, 4, 6, 8)),
        (1, None, 3, (0, 3)),
        # 10 times 1, 4, 16, 64.
        (4, 10, 640, (0, 10, 40, 160, 640)),
        # 2 times 6 ** (0, 1/3, 2/3, 1) = 2, 3.63, 6.60, 12.
        (4, 2, 12, (0, 2, 4, 7, 12)),
        # 1, 1.43, 2.04, 2.91, 4.15, 5.92, 8.45, 12.06, 17.20, 24.55, 35.04, 50: no step twice.
        (12, 1, 50, (0, 1, 2, 3, 4, 5, 6, 8, 12, 17, 25, 35, 50)),
        (5, 1, 5, (0, 1, 2, 3, 4, 5)),
        (5, 3, 7, (0, 3, 4, 5, 6, 7)),
        (1, 5, 7, (0, 7)),
    ],
)
def test_marks(points: int, first: int | None, steps: int, expected: tuple[int, ...]) -> None:
    assert EvaluationConfig(points=points, first=first).marks(steps) == expected


def test_marks_increase_to_the_last_step_whatever_the_numbers() -> None:
    for points in range(1, 14):
        for first in range(1, 9):
            for steps in range(first + points - 1, 120, 7):
                marks = EvaluationConfig(points=points, first=first).marks(steps)
                assert len(marks) == points + 1
                assert np.all(np.diff(marks) > 0)
                assert (marks[0], marks[-1]) == (0, steps)
                assert points == 1 or marks[1] == first


def test_steps_that_leave_no_room_are_refused() -> None:
    assert experiment(steps=7, evaluation__points=3, evaluation__first=2).marks == (0, 2, 4, 7)
    with pytest.raises(
        InvalidInput, match=r"evaluation\.first \+ evaluation\.points - 1 = 6, got 5"
    ):
        experiment(steps=5, evaluation__points=5, evaluation__first=2)
    with pytest.raises(InvalidInput, match=r"multiple of evaluation\.points=3, got 7"):
        experiment(steps=7, evaluation__points=3)
    with pytest.raises(InvalidInput, match="first must be none or at least 1, got 0"):
        EvaluationConfig(first=0)


#: The same run, measured after every two steps, and at steps 2, 4, 7 and 12.
EVEN, EARLY = (
    config.replace_all(PREPARED[0], {"steps": 12, "evaluation.points": points, **more})
    for points, more in ((6, {}), (4, {"evaluation.first": 2}))
)


def point(run: Experiment) -> Point:
    return Point(config.fingerprint(run), "online", run.seed, {}, run)


def chunk(runs: list[Point], seconds: float | None = None) -> Chunk:
    """Runs of one world, one on each of the two devices of the test run."""
    world = WorldConfig.of(runs[0].experiment)
    owners = (0,) * len(runs)
    return Chunk(tuple(runs), (world,), owners, Layout(2, 1), 0, 2, False, seconds)


def rows(made: Chunk, progress: Any) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(x) for name, x in host.run_chunk(made, worlds(), progress).rows.items()
    }


def test_the_same_policies_are_measured_at_other_steps() -> None:
    """Side by side and through one program: equal bits where both are measured, and losses are means over a run's own
    intervals."""
    assert compile_key(EVEN) == compile_key(EARLY)
    progress = Silence()
    found = rows(chunk([point(EVEN), point(EARLY)]), progress)
    assert progress.steps == 24
    even, early = (found["run"] == point(run).run for run in (EVEN, EARLY))
    assert found["step"][even].tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert found["step"][early].tolist() == [0, 2, 4, 7, 12]
    assert found["evaluation"][early].tolist() == [0, 1, 2, 3, 4]
    checksums = [
        dict(zip(found["step"][own].tolist(), found["policy_checksum"][own], strict=True))
        for own in (even, early)
    ]
    for step in (0, 2, 4, 12):
        assert checksums[0][step] == checksums[1][step], step
    assert len(set(checksums[0].values())) == 7
    # Steps 5 to 12: three means over 2 steps after the first one here, one of 3 and one of 5 there.
    losses = [found["train_loss"][own] for own in (even, early)]
    assert np.isclose(2 * losses[0][3:].sum(), 3 * losses[1][3] + 5 * losses[1][4], rtol=1e-5)


def test_a_run_goes_on_in_the_middle_of_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the fifth of the last five steps but one: the same results to the last bit."""
    (tmp_path / "stages").symlink_to(cache_directory())
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    monkeypatch.setattr(chunk_runner, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(throttle, "SHARE", 1e9)
    run = point(EARLY)
    undisturbed = rows(chunk([run]), Silence())

    class Interrupted(Silence):
        def advance(self, steps: int) -> None:
            super().advance(steps)
            if self.steps >= 10:
                raise KeyboardInterrupt

    # One step a call, since a step is expected to take long.
    slow = chunk([run], seconds=1e6)
    with pytest.raises(KeyboardInterrupt):
        rows(slow, Interrupted())
    paused = RunCheckpoints().paused(run)
    assert paused is not None
    assert (paused.index, paused.done, paused.values.shape[0]) == (4, 2, 4)
    assert paused.by_prompt is not None
    assert paused.by_prompt.shape == (4, 2, 16)
    progress = Silence()
    found = rows(slow, progress)
    assert progress.steps == 12
    for name, column in undisturbed.items():
        np.testing.assert_array_equal(found[name], column, err_msg=name)


def test_outcomes_by_prompt_are_those_that_rows_are_means_of() -> None:
    """A run that keeps them beside one that does not: through one program, and all else is equal to the last bit."""
    without = point(config.replace(EARLY, "evaluation.by_prompt", False))
    assert compile_key(EARLY) == compile_key(without.experiment)
    made = host.run_chunk(chunk([point(EARLY), without]), worlds(), Silence()).rows
    size = len(EARLY.marks)
    for name, column in made.items():
        kept, other = column[:size], column[size:]
        if name in parquet.VECTORS:
            assert all(cell is None for cell in other)
        elif name != "run":
            np.testing.assert_array_equal(np.asarray(kept), np.asarray(other), err_msg=name)
    reward, win = (
        np.array([np.frombuffer(cell, "<f2") for cell in made[name][:size]], float)
        for name in parquet.VECTORS
    )
    assert reward.shape == win.shape == (size, EARLY.evaluation.prompts)
    assert np.std(reward) > 0.1
    # A reward is rounded by at most 2^-11 of its size, a win of 0, 1/2 or 1 not at all.
    np.testing.assert_allclose(
        reward.mean(1), made["golden_reward"][:size], atol=np.abs(reward).max() / 2048
    )
    np.testing.assert_allclose(
        reward.std(1, ddof=1) / 4, made["golden_reward_se"][:size], rtol=2e-3
    )
    np.testing.assert_array_equal(win.mean(1), made["win_rate"][:size])


def test_outcomes_of_a_diverged_run_stand_for_its_later_evaluations() -> None:
    run = point(config.replace(EARLY, "optimiser.learning_rate", 1e30))
    made = host.run_chunk(chunk([run]), worlds(), Silence()).rows
    for name in parquet.VECTORS:
        first, *later = made[name][1:]
        assert len(first) == 2 * EARLY.evaluation.prompts
        assert later == [first] * 3


def test_a_diverged_run_reports_the_steps_that_it_is_spared() -> None:
    run = point(config.replace(EARLY, "optimiser.learning_rate", 1e30))
    progress = Silence()
    found = rows(chunk([run]), progress)
    assert progress.steps == 12
    assert found["step"].tolist() == [0, 2, 4, 7, 12]
    assert set(found["diverged_step"].tolist()) == {0}


def test_runs_that_are_measured_at_the_same_steps_share_a_chunk() -> None:
    early = [config.replace(EARLY, "loss.beta", beta) for beta in (0.1, 0.2)]
    made = plan([point(run) for run in (*early, EVEN)])
    assert sorted(len(part.points) for part in made.chunks) == [1, 2]
    assert len({part.group for part in made.chunks}) == 1
