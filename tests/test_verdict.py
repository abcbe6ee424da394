"""Verdicts on synthetic results, sound and damaged: never a traceback, never a silent drop."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis import verdict
from analysis.calibration import Truth, simulate
from analysis.load import results, trajectories
from sweeps.claims import (
    AllOf,
    Change,
    Claim,
    InteriorMaximum,
    MatchedGap,
    PairedDifference,
    PeakDifference,
    Rule,
)

ARMS = ("online", "offline")
RULE = Rule(rope=0.01)
CLAIMS = [
    Claim("C1", "rises, then falls", InteriorMaximum(ARMS), RULE, "no fall"),
    Claim("C2", "gap", MatchedGap(*ARMS), RULE, "no gap"),
    Claim("C3", "peaks", PeakDifference(*ARMS), RULE, "equal peaks"),
    Claim(
        "C9",
        "classifies better, generates worse",
        AllOf(
            (
                PairedDifference("data_accuracy", "offline", "online"),
                PairedDifference("win_rate", "online", "offline"),
            )
        ),
        RULE,
        "either reversed",
    ),
    Claim("C11", "winners fall", Change("winner_logprob_change", "offline", -1), RULE, "they rise"),
]
HEADER = {
    "study": "gap",
    "arms": {"online": {}, "offline": {}},
    "axes": {"setting": list(range(6))},
    "claims": [claim.describe() for claim in CLAIMS],
}


def make_table(task="Neural", **changes):
    """Results with a large gap; accuracy 0.9 offline and 0.6 online, winners down 5 nats."""
    truth = Truth(a=(2.2, 1.3), b=(1.6, 1.5), **changes)
    table = simulate(truth, np.random.default_rng(11), settings=6, evaluations=8)
    offline = table["arm"] == "offline"
    wiggle = 0.001 * table["seed"]
    return table.assign(
        task=task,
        data_accuracy=np.where(offline, 0.9, 0.6) + wiggle * np.where(offline, 1, 2),
        winner_logprob_change=-5.0 - wiggle,
    )


@pytest.fixture(scope="module")
def table():
    return make_table()


@pytest.fixture(scope="module")
def decided(table):
    return {row["claim"]: row for row in verdict.decide(results(HEADER, table))}


def test_large_effects_are_reproduced(decided):
    assert list(decided) == ["C1", "C2", "C3", "C9", "C11"]
    assert {row["verdict"] for row in decided.values()} == {"reproduced"}
    json.dumps(list(decided.values()), allow_nan=False)


def test_entries_carry_what_a_reader_needs(decided):
    row = decided["C2"]
    low, high = row["interval"]
    assert row["task"] == "Neural"
    assert low < row["estimate"] < high
    assert low > row["rule"]["rope"]
    assert row["against"] == "no gap"
    arms = row["details"]["arms"]
    assert arms["online"]["seeds"] == 3
    assert arms["online"]["runs"] == 18
    assert arms["offline"]["diverged"] == 0
    assert arms["online"]["peak"] > arms["offline"]["peak"]
    assert 0 < row["details"]["shared_kl"][0] < row["details"]["shared_kl"][1]


def test_paired_difference_by_hand(decided):
    part = decided["C9"]["details"]["parts"][0]
    # Seed s: 0.9 + 0.001 s - 0.6 - 0.002 s; mean 0.299, s.d. 0.001, t with 2 degrees of freedom.
    assert part["estimate"] == pytest.approx(0.299)
    assert part["interval"][0] == pytest.approx(0.299 - 2.92 * 0.001 / np.sqrt(3), abs=1e-5)
    assert part["details"]["pairs"] == 18


def test_reversed_claim_is_contradicted(table):
    swapped = Claim("X", "offline beats online", MatchedGap("offline", "online"), RULE, "reverse")
    header = HEADER | {"claims": [swapped.describe()]}
    (row,) = verdict.decide(results(header, table))
    assert row["verdict"] == "contradicted"
    assert row["estimate"] < 0


def test_diverged_runs_are_counted_and_left_out(table):
    run = table.loc[table["arm"] == "offline", "run"].iloc[0]
    broken = table.copy()
    broken.loc[broken["run"] == run, "diverged_step"] = 150
    broken.loc[(broken["run"] == run) & (broken["step"] >= 150), "data_accuracy"] = 0.0
    evidence = verdict.gather(results(HEADER, broken))["Neural"]
    assert evidence.describe_runs(ARMS)["arms"]["offline"] == {
        "seeds": 3,
        "runs": 18,
        "diverged": 1,
    }
    last = evidence.last("data_accuracy", "offline")
    assert len(last) == 17
    assert min(last.values()) > 0.8


def test_settings_of_one_arm_only_do_not_prevent_pairing(table):
    table = table.assign(refresh=np.where(table["arm"] == "online", 5.0, np.nan))
    evidence = verdict.gather(results(HEADER, table))["Neural"]
    shared = (
        evidence.last("win_rate", "online").keys() & evidence.last("win_rate", "offline").keys()
    )
    assert len(shared) == 18


def test_runs_of_different_length_are_one_trajectory(table):
    short = table[table["step"] <= 200].assign(run=table["run"] + "-short", steps=200)
    both = pd.concat([table.assign(steps=400), short], ignore_index=True)
    lengths = results(HEADER, both)
    names = both.assign(name=trajectories(both, lengths.axes))
    assert names["name"].nunique() == 2 * 3 * 6
    assert (names.groupby(["name", "seed"])["run"].nunique() == 2).all()
    assert trajectories(table, ("setting",)) == table["run"].tolist()


def judged(table, **header):
    return {row["claim"]: row for row in verdict.decide(results(HEADER | header, table))}


def test_one_seed_decides_nothing(table):
    rows = judged(table[table["seed"] == 0])
    assert {row["verdict"] for row in rows.values()} == {"undecided"}
    assert all("only one seed" in row["reason"] for row in rows.values())
    assert rows["C2"]["estimate"] is not None


def test_missing_arm_and_metric_decide_nothing(table):
    rows = judged(table[table["arm"] == "online"].drop(columns="data_accuracy"))
    assert {row["verdict"] for row in rows.values()} == {"undecided"}
    assert "offline" in rows["C2"]["reason"]
    assert rows["C2"]["estimate"] is None
    json.dumps(list(rows.values()), allow_nan=False)


@pytest.mark.parametrize("column", ["kl", "win_rate"])
def test_columns_of_nan_decide_nothing(table, column):
    rows = judged(table.assign(**{column: np.nan}))
    assert rows["C2"]["verdict"] == "undecided"
    assert "no usable checkpoints" in rows["C2"]["reason"]


def test_few_points_decide_nothing(table):
    rows = judged(table[table["step"] == 0])
    assert rows["C1"]["verdict"] == "undecided"
    assert rows["C1"]["reason"]


def test_all_diverged_decides_nothing(table):
    rows = judged(table.assign(diverged_step=0))
    assert {row["verdict"] for row in rows.values()} == {"undecided"}
    assert "diverging" in rows["C11"]["reason"]


def test_bad_fit_gives_its_reason_instead_of_a_verdict(table):
    evidence = verdict.gather(results(HEADER, table))["Neural"]
    fit = evidence.frontier
    stuck = fit.diagnostics._replace(rhat=1.2)
    object.__setattr__(fit, "diagnostics", stuck)
    judgement = CLAIMS[1].judge(evidence)
    assert judgement.verdict == "undecided"
    assert "R-hat 1.200" in judgement.reason
    assert stuck._replace(rhat=float("nan")).trouble()
    assert stuck._replace(rhat=1.0, ess=10.0).trouble()
    assert stuck._replace(rhat=1.0, divergences=100).trouble()


def test_every_task_is_judged(table):
    both = verdict.decide(results(HEADER, pd.concat([table, table.assign(task="Other")])))
    assert [(row["claim"], row["task"]) for row in both][:3] == [
        ("C1", "Neural"),
        ("C1", "Other"),
        ("C2", "Neural"),
    ]
