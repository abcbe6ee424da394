"""The study of controls, judged in groups: an arm that is the same twice, and one that is better."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated_multiverse import study_of_lines

from analysis.load import Results, results
from analysis.verdicts import controls
from sweeps.studies.controls import AGAIN, GOLDEN, ONLINE, SHIFT
from sweeps.study import load_study
from testbed.errors import InvalidInput


def made(worlds: int, again: float = 0.3) -> Results:
    """The arms of the study, with lines as curves: of slope 0.3 online, and 0.5 with the golden teacher."""
    pair = study_of_lines((0.5, 0.3), worlds).table
    twice = study_of_lines((again, 0.3), worlds).table
    table = pd.concat(
        [pair.replace({"arm": {"first": GOLDEN, "second": ONLINE}}),
         twice[twice["arm"] == "first"].assign(arm=AGAIN)],
        ignore_index=True,
    )  # fmt: skip
    table["seed"] += 1000
    claims = [claim.describe() for claim in load_study("controls").claims]
    arms: dict[str, Any] = {arm: {} for arm in (ONLINE, AGAIN, GOLDEN)}
    return results({"study": "controls", "arms": arms, "claims": claims}, table)


def test_groups_are_judged_one_by_one() -> None:
    found: Any = controls.judge(made(13), size=6)
    assert list(dict.fromkeys(found["group"])) == ["1000 to 1005", "1006 to 1011"]
    assert found.groupby("control").size().to_dict() == {"negative": 4, "positive": 4}
    assert not found.loc[found["control"] == "negative", "beyond"].any()
    assert (found["verdict"] == "reproduced").all()
    assert np.isfinite(found[["low", "high"]]).all(axis=None)
    assert controls.summary(found).startswith("Of 4 intervals of the negative controls")
    assert "0 lie beyond the ROPE; the positive controls are reproduced in 2 of 2 groups" in (
        controls.summary(found)
    )


def test_a_control_that_fails_is_counted() -> None:
    """ "online again" that is worse by 0.2 d: intervals exclude 0 and lie beyond the ROPE."""
    found: Any = controls.judge(made(6, again=0.1), size=6)
    assert found.loc[found["control"] == "negative", "beyond"].all()
    assert "Of 2 intervals of the negative controls 2 exclude 0 and 2 lie beyond" in (
        controls.summary(found)
    )
    assert controls.judge(made(5), size=6).empty


def test_groups_of_one_world_have_no_intervals() -> None:
    found: Any = controls.judge(made(2), size=1)
    assert found["low"].isna().all()
    assert controls.summary(found).startswith("Of 4 intervals of the negative controls 0 exclude 0")
    assert "in 0 of 0 groups" in controls.summary(found[found["control"] == "negative"])
    with pytest.raises(InvalidInput, match="SIZE must be at least 1, got 0"):
        controls.groups(made(2), 0)


def test_the_arms_differ_in_training_alone() -> None:
    """The same world, SFT policy, data and proxy; another key of training in every world of the study."""
    points = load_study("controls").points("smoke", seeds=range(1000, 1003))
    by_arm = {arm: [p.experiment for p in points if p.arm == arm] for arm in (ONLINE, AGAIN)}
    used = [{e.used_seeds.training for e in by_arm[arm]} for arm in (ONLINE, AGAIN)]
    assert used == [{1000, 1001, 1002}, {1000 + SHIFT, 1001 + SHIFT, 1002 + SHIFT}]
    for one, other in zip(by_arm[ONLINE], by_arm[AGAIN], strict=True):
        assert one.used_seeds._replace(training=0) == other.used_seeds._replace(training=0)
        assert one.seed == other.seed


def test_presets_are_one_group_and_six() -> None:
    presets = load_study("controls").presets
    assert presets["paper"].seeds == 96
    assert presets["laptop"].seeds == controls.SIZE
