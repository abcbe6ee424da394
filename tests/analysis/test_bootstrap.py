"""A study's results simulated anew: with the curves, scatter and noise that they had, and the effects that are said."""

from typing import Any

import numpy as np
import pytest
from simulated_multiverse import ARMS, study_of_lines

from analysis.load import Results
from analysis.verdicts import bootstrap
from analysis.verdicts.bootstrap import Simulated
from analysis.verdicts.evidence import Pool
from sweeps.claims import Claim, Test
from sweeps.estimands import Change, MatchedDifference
from sweeps.rules import More

SLOPES = (0.5, 0.3)
MIDDLE = (0.5**0.5 + 3**0.5) / 2


def simulated(results: Results) -> Simulated:
    study = Pool(results.table, results.arms, results.axes, results.families)
    return Simulated.of("Neural", results.task("Neural"), study, ["golden_reward"])


def test_simulated_worlds_are_like_the_measured_ones() -> None:
    """Slopes of single runs, over 40 simulated studies of 8 worlds: their mean, their scatter between worlds (0.1, of
    both settings of an arm alike, which the results have by chance a little of) and the KL values of the runs."""
    results = study_of_lines(SLOPES, worlds=8, noise=0.02, scatter=0.1)
    of, rng = simulated(results), np.random.default_rng(3)

    def slopes(table: Any) -> Any:
        d = np.sqrt(table["kl"])
        rows = table.assign(xy=d * table["golden_reward"], xx=d * d)
        sums = rows.groupby(["arm", "setting", "seed"])[["xy", "xx"]].sum()
        return (sums["xy"] / sums["xx"]).unstack("seed")

    measured = slopes(results.table)
    drawn = [of.evidence(of.weights(rng), rng).table for _ in range(40)]
    assert all((table["kl"] == results.table["kl"]).all() for table in drawn)
    assert all((table.loc[table["evaluation"] == 0, "golden_reward"] == 0).all() for table in drawn)
    values = np.stack([slopes(table) for table in drawn])
    scatter = measured.std(axis=1, ddof=1).to_numpy()
    np.testing.assert_allclose(
        values.mean(axis=(0, 2)), measured.mean(axis=1), atol=4 * 0.15 / np.sqrt(320)
    )
    np.testing.assert_allclose(values.std(axis=2, ddof=1).mean(axis=0), scatter, rtol=0.25)


@pytest.mark.slow
def test_true_effects_and_rates() -> None:
    """The true effect is the difference of the mean lines; at most six of 30 intervals miss it (by chance once in 40 at
    90%), and an effect far above the ROPE is reproduced nearly always."""
    results = study_of_lines(SLOPES, worlds=8, scatter=0.05)
    found: Any = bootstrap.bootstrap(results, replications=30)
    row = found.iloc[0]
    assert len(found) == 1
    fitted = results.table.assign(d=np.sqrt(results.table["kl"]))
    arms = {
        arm: float((rows["d"] * rows["golden_reward"]).sum() / (rows["d"] ** 2).sum())
        for arm, rows in fitted.groupby("arm")
    }
    assert row["true"] == pytest.approx((arms[ARMS[0]] - arms[ARMS[1]]) * MIDDLE, abs=0.01)
    assert row["replications"] == 30
    assert row["covered"] >= 0.8
    assert row["reproduced"] > 0.9
    assert row[["reproduced", "contradicted", "undecided"]].sum() == pytest.approx(1.0)
    assert 0 < row["half_width"] < 0.1


def test_only_what_curves_decide_is_simulated() -> None:
    results = study_of_lines(SLOPES, worlds=3)
    table = results.table.assign(winner_logprob_change=-1.0 - 0.1 * results.table["seed"])
    tests = (
        Test(Change("winner_logprob_change", ARMS[0], -1), More(0.1)),
        Test(MatchedDifference(*ARMS), More(0.07)),
        Test(MatchedDifference(*ARMS, low=20.0, high=30.0), More(0.07)),
    )
    claim = Claim("X1", "text", tests, "against")
    header = dict(results.study) | {"claims": [claim.describe()]}
    found: Any = bootstrap.bootstrap(Results(header, table), replications=2)
    assert found["test"].tolist() == [1]
    one: Any = bootstrap.bootstrap(study_of_lines(SLOPES, worlds=1), replications=2)
    assert one.empty
