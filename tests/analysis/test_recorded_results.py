"""Results of `testbed run gap` that were recorded before the models of `analysis.worlds` were written: three worlds a
task, seeds 0 to 2. They are opened and read as they are."""

from pathlib import Path

import numpy as np
import pytest

from analysis.load import Results, load_all
from analysis.verdicts import verdict
from analysis.worlds import smoother
from analysis.worlds.measured import checkpoints
from analysis.worlds.pooled import pool
from sweeps.estimands import Unanswerable

RECORDED = Path(__file__).parents[1] / "recorded" / "gap-three-worlds"


@pytest.fixture(scope="module")
def results() -> Results:
    [found] = load_all(RECORDED).studies
    return found


@pytest.mark.parametrize("task", ["Neural", "Summarize"])
def test_a_further_world_could_be_any_of_the_three(results: Results, task: str) -> None:
    """Each world's own estimate lies in the 90% predictive interval for a further world: of the difference near SFT, at
    larger KL, and of the best points within 8 nats. The three worlds' best points on `Summarize` differ by 0.9 SFT
    standard deviations, which the curves of all worlds together had taken for noise."""
    measured = checkpoints(results.task(task), results.arms, results.axes)
    worlds = sorted({seed for seed, _ in measured})
    assert worlds == [0, 1, 2]
    by = smoother.fit(list(measured.values()))
    fitted = {key: smoother.Curves(points, by) for key, points in measured.items()}
    quantities = {
        "near": lambda curve: curve.window(0.5**0.5, 3**0.5),
        "far": lambda curve: curve.window(3**0.5, 8**0.5),
        "best": lambda curve: curve.best(8**0.5),
    }
    for name, measure in quantities.items():
        pairs = [[measure(fitted[seed, arm]) for arm in ("online", "offline")] for seed in worlds]
        values = np.array([first[0] - second[0] for first, second in pairs])
        errors = np.array([np.hypot(first[1], second[1]) for first, second in pairs])
        further = pool(values, errors, 0.07).further(float(errors.mean()))
        low, high = np.quantile(further, [0.05, 0.95])
        assert np.all((low <= values) & (values <= high)), (task, name)


def test_changes_are_from_sft_and_runs_of_one_setting_share_a_curve(results: Results) -> None:
    """Offline's longer runs have the setting of shorter ones, and are runs of their own."""
    rows = results.task("Neural")
    found = checkpoints(rows, results.arms, results.axes)[1, "offline"]
    own = rows[(rows["seed"] == 1) & (rows["arm"] == "offline")]
    start = own.loc[own["evaluation"] == 0, "golden_reward"].to_numpy(dtype=float)
    assert np.ptp(start) < 1e-6
    trained = own[own["evaluation"] > 0]
    np.testing.assert_allclose(found.change, trained["golden_reward"] - start[0], atol=1e-6)
    np.testing.assert_allclose(found.d**2, trained["kl"], rtol=1e-6, atol=1e-9)
    assert len(set(found.run)) == trained["run"].nunique() == 7
    assert len(set(found.setting)) == 6


def test_metrics_that_were_not_stored_are_named(results: Results) -> None:
    rows = results.task("Neural")
    with pytest.raises(Unanswerable, match="no metric nothing"):
        checkpoints(rows, results.arms, results.axes, "nothing")
    with pytest.raises(Unanswerable, match="no evaluation of SFT"):
        checkpoints(rows[rows["evaluation"] > 0], results.arms, results.axes)


FRESH = RECORDED.parent / "gap-classification-100-115"


@pytest.mark.parametrize(
    ("claim", "verdicts", "points"),
    [
        ("C2", ("contradicted", "contradicted"), 2.0),
        ("C3", ("contradicted", "contradicted"), 2.0),
        ("C3.8", ("reproduced", "contradicted"), 4.0),
    ],
)
def test_what_the_docs_say_of_sixteen_worlds(
    claim: str, verdicts: tuple[str, str], points: float
) -> None:
    """Verdicts on `Neural` and `Summarize`, and half widths that are at most what was asked for, in points of 0.035 SFT
    standard deviations."""
    results = next(one for one in load_all(FRESH).studies if one.name == "gap")
    evidence = verdict.gather(results)
    [asked] = [one for one in results.claims if one.id == claim]
    for task, expected in zip(("Neural", "Summarize"), verdicts, strict=True):
        ruling = asked.judge(evidence[task])
        assert ruling.verdict == expected
        low, high = ruling.parts[0].interval or (np.nan, np.nan)
        assert (high - low) / 2 / 0.035 <= points
