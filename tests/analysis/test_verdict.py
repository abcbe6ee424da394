"""Verdicts on synthetic results, sound and damaged: never a traceback, never a silent drop."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from simulated import Truth, simulate

from analysis.load import Results, results, trajectories
from analysis.verdicts import verdict
from analysis.verdicts.evidence import Pool
from analysis.worlds.smoother import Hyperparameters
from sweeps.claims import Claim, Test
from sweeps.estimands import (
    AtEvery,
    BestDifference,
    Change,
    Evidence,
    Identical,
    InteriorMaximum,
    MatchedDifference,
    PairedDifference,
    PeakPlace,
    RankCorrelation,
    RelativeBest,
    Trend,
    Unanswerable,
)
from sweeps.rules import More, Same
from sweeps.study import load_study

ARMS = ("online", "offline")
RULE = More(rope=0.01)


def claim(name, *estimands, rule=RULE, text="text", against="against"):
    return Claim(name, text, tuple(Test(estimand, rule) for estimand in estimands), against)


CLAIMS = [
    claim("C1", *(InteriorMaximum(arm, end) for arm in ARMS for end in ("start", "end"))),
    claim("C2", MatchedDifference(*ARMS), against="no gap"),
    claim("C3", BestDifference(*ARMS)),
    claim(
        "C9",
        PairedDifference("data_accuracy", "offline", "online"),
        PairedDifference("win_rate", "online", "offline"),
    ),
    claim("C11", Change("winner_logprob_change", "offline", -1)),
]
HEADER = {
    "study": "of this test",
    "arms": {"online": {}, "offline": {}},
    "axes": {"setting": list(range(6))},
    "claims": [claim.describe() for claim in CLAIMS],
}


def make_table(task="Neural", **changes):
    """Results with a large gap; accuracy 0.9 offline and 0.6 online, winners down 5 nats."""
    table = simulate(Truth(**changes), np.random.default_rng(11))
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
    assert row["rule"]["words"] == RULE.sentence()
    assert row["rule"]["kind"] == "More"
    assert (row["newer"], row["stored_verdict"]) == (False, None)
    assert row["tests"][0]["estimate"] == row["estimate"]
    arms = row["details"]["arms"]
    assert arms["online"]["seeds"] == 3
    assert arms["online"]["runs"] == 18
    assert arms["offline"]["diverged"] == 0
    worlds = row["details"]["worlds"]
    assert [world["seed"] for world in worlds] == [0, 1, 2]
    assert all(0 < world["error"] < 0.1 for world in worlds)
    assert row["details"]["scatter"] > 0


def test_window_and_best_find_the_truth(decided):
    """Parabolas of heights 1.2 and 0.6 at d = 2: their best differ by 0.6, and in the window by 0.6 times the mean of a
    parabola of height 1. Ninety percent intervals of three worlds; the key is fixed."""
    low, high = np.sqrt([0.5, 3.0])
    d = np.linspace(low, high, 1001)
    for name, expected in (("C2", 0.6 * np.mean(1 - ((d - 2) / 2) ** 2)), ("C3", 0.6)):
        assert decided[name]["interval"][0] < expected < decided[name]["interval"][1]
        assert decided[name]["estimate"] == pytest.approx(expected, abs=0.1)


def test_effects_beside_a_claim_decide_nothing(table):
    beside = (MatchedDifference(*ARMS, low=3.0, high=8.0), BestDifference(*ARMS, outcome="nothing"))
    asked = dataclasses.replace(CLAIMS[1], beside=beside)
    header = HEADER | {"claims": [asked.describe()]}
    (row,) = verdict.decide(results(header, table))
    assert row["verdict"] == "reproduced"
    far, missing = row["beside"]
    assert far["interval"][0] < far["estimate"] < far["interval"][1]
    assert (far["reason"], far["unit"]) == ("", row["unit"])
    assert missing["reason"] == "the results have no metric nothing"
    assert Claim.from_dict(json.loads(json.dumps(asked.describe()))) == asked


def test_paired_difference_by_hand(decided):
    part = decided["C9"]["tests"][0]
    # Seed s: 0.9 + 0.001 s - 0.6 - 0.002 s; mean 0.299, s.d. 0.001. The interval is nearly that of t with 2 degrees of
    # freedom, a little wider: its worlds may have heavier tails than the normal.
    assert part["estimate"] == pytest.approx(0.299, abs=1e-5)
    assert 0.299 - part["interval"][0] == pytest.approx(2.92 * 0.001 / np.sqrt(3), rel=0.25)
    assert part["details"]["pairs"] == 18


def test_reversed_claim_is_contradicted(table):
    swapped = claim("X", MatchedDifference("offline", "online"))
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
    online, offline = (evidence.last("win_rate", arm, ARMS) for arm in ARMS)
    assert len(online.keys() & offline.keys()) == 18


def test_a_third_arm_without_a_setting_does_not_blur_the_pairing_of_two(table):
    """The third arm has no `setting`; the first two are paired at each of its six values all the same."""
    third = table[(table["arm"] == "online") & (table["setting"] == 0)]
    third = third.assign(arm="third", setting=np.nan, run="third " + third["run"])
    evidence = verdict.gather(results(HEADER, pd.concat([table, third])))["Neural"]
    paired = PairedDifference("win_rate", "online", "offline").draws(evidence)
    assert paired.details["pairs"] == 18
    assert len(evidence.last("win_rate", "online", ("online", "third"))) == 3


def test_missing_runs_leave_the_claims_of_their_arms_undecided(table):
    have = {arm: sorted(set(table.loc[table["arm"] == arm, "run"])) for arm in ARMS}
    planned = {**have, "offline": [*have["offline"], "a run that was stopped"]}
    whole = verdict.decide(results({**HEADER, "planned": have}, table))
    part = verdict.decide(results({**HEADER, "planned": planned}, table))
    assert {row["verdict"] for row in whole} == {"reproduced"}
    assert {row["verdict"] for row in part} == {"undecided"}
    assert part[0]["reason"] == "1 planned runs of its arms are missing"
    assert part[0]["estimate"] == whole[0]["estimate"]


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
    assert all("only one world" in row["reason"] for row in rows.values())
    assert rows["C2"]["estimate"] is not None


def test_missing_arm_and_metric_decide_nothing(table):
    rows = judged(table[table["arm"] == "online"].drop(columns="data_accuracy"))
    assert {row["verdict"] for row in rows.values()} == {"undecided"}
    assert "offline" in rows["C2"]["reason"]
    assert rows["C2"]["estimate"] is None
    json.dumps(list(rows.values()), allow_nan=False)


@pytest.mark.parametrize("column", ["kl", "golden_reward"])
def test_columns_of_nan_decide_nothing(table, column):
    rows = judged(table.assign(**{column: np.nan}))
    assert rows["C2"]["verdict"] == "undecided"
    assert rows["C2"]["reason"]
    assert rows["C2"]["estimate"] is None


def test_few_points_decide_nothing(table):
    rows = judged(table[table["step"] == 0])
    assert rows["C1"]["verdict"] == "undecided"
    assert rows["C1"]["reason"]


def test_all_diverged_decides_nothing(table):
    rows = judged(table.assign(diverged_step=0))
    assert {row["verdict"] for row in rows.values()} == {"undecided"}
    assert "diverging" in rows["C11"]["reason"]


def test_curves_that_miss_their_points_give_their_reason_instead_of_a_verdict(table, monkeypatch):
    """In all worlds online's checkpoints in the window lie above a curve that is too stiff to follow them."""
    stiff = Hyperparameters(1.0, 0.1, 0.01, 0.05, 20.0)
    monkeypatch.setattr(Pool, "hyperparameters", lambda *_: stiff)
    inside = (table["kl"].between(0.5, 3)) & (table["arm"] == "online")
    lifted = table.assign(golden_reward=table["golden_reward"] + np.where(inside, 1.0, 0.0))
    row = judged(lifted)["C2"]
    assert row["verdict"] == "undecided"
    assert "miss the checkpoints" in row["reason"]


def test_arms_are_compared_at_settings_that_both_took_into_the_window(table):
    """Offline comes so far with its last setting only, in which both arms are lifted by 1: the difference is that of
    this setting, and not of online's other ones."""
    last = table["setting"] == 5
    short = (table["arm"] == "offline") & ~last & (table["kl"] > 0.3)
    lifted = table.assign(
        golden_reward=table["golden_reward"] + np.where(last & (table["kl"] > 0), 1.0, 0.0)
    )
    row = judged(lifted[~short])["C2"]
    assert row["estimate"] == pytest.approx(judged(table)["C2"]["estimate"], abs=0.15)


def test_worlds_that_lack_an_effect_bar_a_verdict(table):
    """Two worlds of three never come to the window."""
    table = table[(table["seed"] == 0) | (table["kl"] < 0.3) | (table["arm"] == "offline")]
    row = judged(table)["C2"]
    assert row["verdict"] == "undecided"


@pytest.mark.parametrize("name", ["C2", "C9", "C11"])
def test_worlds_without_any_run_of_an_arm_bar_a_verdict(table, name):
    """Offline diverges at its first step in two worlds of three: what is left may be other worlds."""
    lost = (table["arm"] == "offline") & (table["seed"] > 0)
    row = judged(table.assign(diverged_step=np.where(lost, 1, -1)))[name]
    assert row["verdict"] == "undecided"
    assert "2 of 3 worlds lack it: an arm has no run there that did not diverge" in row["reason"]
    assert row["details"]["worlds_lacking"] == 2


def test_a_world_whose_sft_was_not_measured_is_lacking_alone(table):
    first = (table["seed"] == 1) & (table["evaluation"] == 0)
    lacking = table.assign(golden_reward=table["golden_reward"].where(~first))
    evidence = verdict.gather(results(HEADER, lacking))["Neural"]
    assert set(evidence.curves("online", "golden_reward")) == {0, 2}


@pytest.mark.parametrize(
    ("changes", "families"),
    [
        ({}, 1),
        ({"base": {"seeds": None}}, 1),
        ({"base": {"seeds": {"families": 4}}}, 4),
        ({"settings": {"seeds.families": "4"}}, 4),
        ({"arms": {"online": {"seeds.families": 2}, "offline": {}}}, 2),
        ({"axes": {"seeds.families": [1, 4]}}, 4),
    ],
)
def test_families_are_those_that_were_asked_for(table, changes, families):
    """In the base or its changes, for one arm, or along an axis: the most that share."""
    found = results(HEADER | changes, table)
    assert found.families == families
    assert verdict.gather(found)["Neural"].study.families == families


def test_worlds_of_one_family_decide_nothing(table):
    """All three share their golden reward: how effects differ between golden rewards is known from the prior alone."""
    rows = judged(table, base={"seeds": {"families": 8}})
    assert {row["verdict"] for row in rows.values()} == {"undecided"}
    assert "only one family" in rows["C2"]["reason"]


def test_families_of_a_stored_study():
    asked = load_study("gap").select_texts("smoke", 4, ["seeds.families=2"], [])
    assert results(asked.describe(), pd.DataFrame({"task": []})).families == 2


def test_correlations_of_a_typical_task_are_correlations(table):
    """The medians of the tasks are given in the unit of the effect."""
    wiggle = np.random.default_rng(0).normal(size=len(table))
    two = pd.concat(
        [table.assign(task=name, other=table["kl"] + wiggle) for name in ("A", "B")],
        ignore_index=True,
    )
    asked = [claim("C10", RankCorrelation("other", "kl", "online")).describe()]
    rows = {row["task"]: row for row in verdict.decide(results(HEADER | {"claims": asked}, two))}
    tasks = rows["all tasks"]["details"]["tasks"]
    assert tasks["A"] == pytest.approx(rows["A"]["estimate"], abs=1e-6)


@pytest.fixture(scope="module")
def two_tasks(table):
    return pd.concat([table, table.assign(task="Other")], ignore_index=True)


def test_every_task_is_judged_and_a_typical_one(two_tasks):
    rows = verdict.decide(results(HEADER, two_tasks))
    every = ["Neural", "Other", "all tasks"]
    expected = [(name, task) for name in ("C1", "C2", "C3") for task in every]
    expected += [(name, task) for name in ("C9", "C11") for task in every]
    assert [(row["claim"], row["task"]) for row in rows] == expected
    by_task = {row["task"]: row for row in rows if row["claim"] == "C2"}
    widths = {task: np.ptp(row["interval"]) for task, row in by_task.items()}
    # Two tasks with the same effect say more of a typical one than one of them, but less than twice as many worlds.
    assert widths["all tasks"] > widths["Neural"] / np.sqrt(2)
    assert list(by_task["all tasks"]["details"]["tasks"]) == ["Neural", "Other"]
    json.dumps(rows, allow_nan=False)


def test_what_bars_a_task_bars_the_typical_one(two_tasks):
    one_seed = two_tasks[(two_tasks["task"] == "Neural") | (two_tasks["seed"] == 0)]
    rows = verdict.decide(results(HEADER | {"claims": [CLAIMS[1].describe()]}, one_seed))
    assert [row["verdict"] for row in rows] == ["reproduced", "undecided", "undecided"]
    assert "only one world" in rows[1]["reason"]
    assert "fewer than two tasks" in rows[2]["reason"]


class Today(Results):
    """Results whose study file has been edited since the run."""

    present = ()

    @property
    def present_claims(self):
        return self.present


def edited(table, *claims):
    before = results(HEADER | {"claims": [c.describe() for c in CLAIMS[3:]]}, table)
    today = Today(before.study, before.table)
    today.__class__ = type("Edited", (Today,), {"present": claims})
    return {row["claim"]: row for row in verdict.decide(today)}


def test_rules_newer_than_the_data_are_told_of(table):
    strict = dataclasses.replace(
        CLAIMS[4], tests=(Test(CLAIMS[4].tests[0].estimand, More(rope=50.0)),)
    )
    further = claim("C12", Change("winner_logprob_change", "online", -1))
    rows = edited(table, CLAIMS[3], strict, further)
    assert list(rows) == ["C9", "C11", "C12"]
    assert (rows["C9"]["newer"], rows["C9"]["stored_verdict"]) == (False, None)
    assert rows["C11"]["verdict"] == "contradicted"
    assert rows["C11"]["rule"]["rope"] == 50.0
    assert (rows["C11"]["newer"], rows["C11"]["stored_verdict"]) == (True, "reproduced")
    assert (rows["C12"]["newer"], rows["C12"]["stored_verdict"]) == (True, None)


def test_new_words_are_not_a_new_rule_and_lost_claims_stay(table):
    rows = edited(table, dataclasses.replace(CLAIMS[3], text="in other words"))
    assert list(rows) == ["C9", "C11"]
    assert rows["C9"]["text"] == "in other words"
    assert not any(row["newer"] for row in rows.values())


@pytest.fixture(scope="module")
def by_size():
    """Three sizes; the gap is small at the largest. Parameters 1, 2 and 8 thousand."""
    truths = {"S": (1.2, 0.4), "M": (1.2, 0.6), "L": (1.2, 1.1)}
    parts = [
        simulate(Truth(height=height), np.random.default_rng(3)).assign(
            model=size, **{"ground.parameters": parameters}
        )
        for (size, height), parameters in zip(truths.items(), (1e3, 2e3, 8e3), strict=True)
    ]
    return pd.concat(parts, ignore_index=True).assign(task="Neural")


def sized(table, *claims):
    header = HEADER | {
        "strata": ["model"],
        "axes": HEADER["axes"] | {"model": ["S", "M", "L"]},
        "claims": [claim.describe() for claim in claims],
    }
    return results(header, table)


def test_levels_have_curves_of_their_own(by_size):
    gap, trend = AtEvery("model", BestDifference(*ARMS)), Trend(PeakPlace("online"), "model")
    closing = Trend(BestDifference(*ARMS), "model")
    found = sized(by_size, claim("B6", gap), claim("C15", trend), claim("C14", closing))
    evidence = verdict.gather(found)
    rows = {row["claim"]: row for row in verdict.decide(found, evidence)}
    own = evidence["Neural"]
    assert isinstance(own, Evidence)
    assert own.levels("model") == ("S", "M", "L")
    assert [own.size("model", level) for level in own.levels("model")] == [1e3, 2e3, 8e3]
    assert rows["B6"]["details"]["smallest"] == "L"
    assert rows["B6"]["estimate"] == pytest.approx(0.1, abs=0.1)
    assert rows["C15"]["details"]["sizes"] == pytest.approx([1e3, 2e3, 8e3])
    low, high = rows["C15"]["interval"]
    assert low < 0.0 < high
    # Gaps of 0.8, 0.6 and 0.1 at 0, 1 and 3 doublings.
    slope = np.polyfit([0, 1, 3], [0.8, 0.6, 0.1], 1)[0]
    assert rows["C14"]["estimate"] == pytest.approx(slope, abs=0.05)


def test_policies_of_other_sizes_begin_at_another_sft(by_size):
    """Rewards that are higher by a constant for each size change no curve and no smoothness."""
    higher = by_size["model"].map({"S": 0.0, "M": 1.0, "L": 2.0})
    moved = by_size.assign(golden_reward=by_size["golden_reward"] + higher)
    evidence = [verdict.gather(sized(rows))["Neural"] for rows in (by_size, moved)]
    assert_alike(*(one.study.hyperparameters("Neural", "golden_reward") for one in evidence))
    curves = [one.at("model", "L").curves("online", "golden_reward")[0] for one in evidence]
    assert_alike(*(one.window(0.7, 1.7) for one in curves))


def assert_alike(first, second):
    np.testing.assert_allclose(first, second, rtol=0.02)


def test_each_size_is_smoothed_by_itself():
    """Curves of other heights at other sizes are no effect of settings."""
    parts = [
        simulate(
            Truth(height=(height, height), own=0.0, shared=0.0), np.random.default_rng(seed)
        ).assign(model=size, task="Neural", **{"ground.parameters": parameters})
        for seed, (size, height, parameters) in enumerate((("S", 0.4, 1e3), ("L", 3.0, 8e3)))
    ]
    by = verdict.gather(sized(pd.concat(parts, ignore_index=True)))["Neural"].study.hyperparameters(
        "Neural", "golden_reward"
    )
    assert by.setting < 0.1


def test_levels_of_a_path_without_strata(table):
    table = table.assign(loss=np.where(table["setting"] % 2 == 0, "Ipo", "Dpo"))
    worse = (table["loss"] == "Dpo") & (table["arm"] == "online")
    table = table.assign(win_rate=np.where(worse, table["win_rate"] - 0.2, table["win_rate"]))
    effect = AtEvery("loss", PairedDifference("win_rate", *ARMS))
    header = HEADER | {"axes": HEADER["axes"] | {"loss": ["Ipo", "Dpo"]}}
    (row,) = verdict.decide(results(header | {"claims": [claim("B6", effect).describe()]}, table))
    levels = row["details"]["levels"]
    assert levels["Ipo"]["estimate"] > levels["Dpo"]["estimate"]
    assert row["estimate"] == pytest.approx(levels["Dpo"]["estimate"], abs=1e-3)
    evidence = verdict.gather(results(header, table))["Neural"]
    with pytest.raises(Unanswerable, match="not swept"):
        evidence.levels("temperature")
    with pytest.raises(Unanswerable, match="no size"):
        evidence.size("loss", "Ipo")


def test_trend_over_the_numbers_of_a_path(by_size):
    """Quantiles of win rates by size, against pandas."""
    table = by_size.assign(width=by_size["ground.parameters"]).drop(columns="ground.parameters")
    header = HEADER | {"axes": HEADER["axes"] | {"width": [1e3, 2e3, 8e3]}}
    effect = Trend(RelativeBest("offline", "online"), "width")
    (row,) = verdict.decide(results(header | {"claims": [claim("C14", effect).describe()]}, table))
    trained = table[table["evaluation"] > 0]
    high = trained.groupby(["arm", "seed", "width"])["win_rate"].quantile(0.9).unstack()
    ratios = high.loc["offline"] / high.loc["online"]
    slopes = [np.polyfit(np.log2([1e3, 2e3, 8e3]), own, 1)[0] for own in ratios.to_numpy()]
    assert [world["estimate"] for world in row["details"]["worlds"]] == pytest.approx(slopes)
    assert row["estimate"] == pytest.approx(np.mean(slopes), abs=0.01)


def test_best_win_rate_of_a_run(table):
    evidence = verdict.gather(results(HEADER, table))["Neural"]
    trained = table[(table["evaluation"] > 0) & (table["arm"] == "online")]
    best = trained.groupby("run")["win_rate"].max()
    found = evidence.last("best_win_rate", "online")
    assert sorted(found.values()) == pytest.approx(sorted(best))


def test_checkpoints_pair_by_what_the_compared_arms_have(table):
    """An arm without a path does not keep others from being paired by it."""
    third = table[table["arm"] == "online"].assign(arm="other", setting=np.nan)
    table = pd.concat([table, third], ignore_index=True)
    table["policy_checksum"] = table["step"] * 100.0 + table["setting"].fillna(0) + table["seed"]
    header = HEADER | {"arms": {"online": {}, "offline": {}, "other": {}}}
    claims = [
        claim("C4", Identical(*ARMS), rule=Same(0.0)),
        claim("C10", RankCorrelation("win_rate", "kl", "online")),
    ]
    data = results(header | {"claims": [claim.describe() for claim in claims]}, table)
    same, rank = verdict.decide(data)
    assert (same["verdict"], same["probability"], same["interval"]) == ("reproduced", 1.0, None)
    assert same["details"]["compared"] == 3 * 6 * 8
    assert rank["details"]["points"] == {"0": 48, "1": 48, "2": 48}
    changed = table.assign(
        policy_checksum=table["policy_checksum"]
        + (table["arm"].eq("offline") & table["step"].eq(400))
    )
    row = verdict.decide(results(header | {"claims": [claims[0].describe()]}, changed))[0]
    assert (row["verdict"], row["estimate"]) == ("contradicted", pytest.approx(1 / 8))


def test_divergence_cuts_a_run_short(table):
    run = table.loc[table["arm"] == "offline", "run"].iloc[0]
    broken = table.assign(diverged_step=np.where(table["run"] == run, 150, -1))
    evidence = verdict.gather(results(HEADER, broken))["Neural"]
    (found,) = evidence.checkpoints(("step",), ("offline",))
    lengths = sorted(len(rows) for runs in found.values() for rows in runs)
    assert lengths[0] == 2
    assert set(lengths[1:]) == {8}


def test_texts_are_no_metrics(table):
    evidence = verdict.gather(results(HEADER, table))["Neural"]
    with pytest.raises(Unanswerable, match="run is not a number"):
        evidence.last("run", "online")
    with pytest.raises(Unanswerable, match="kl or run is not a number"):
        evidence.checkpoints(("kl", "run"), ("online",))
