"""What pairing by prompt and common random numbers buy: worked by hand, from a store."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from store_rows import columns

from analysis.load import Results, load, results
from analysis.site import pairing
from analysis.worlds import by_prompt, common_numbers
from analysis.worlds.by_prompt import Pairing
from sweeps.claims import Claim, Test
from sweeps.estimands import MatchedDifference, Unanswerable
from sweeps.rules import More
from sweeps.store.parquet import VECTORS, packed
from sweeps.store.store import Store

#: Means 3 and 2. Sums of squared deviations 4 + 1 + 0 + 9 = 14 and 4 + 0 + 0 + 4 = 8, of products 4 + 0 + 0 + 6 = 10;
#: the differences 1, 0, 1, 2 have 2.
ONE, OTHER = [1.0, 2.0, 3.0, 6.0], [0.0, 2.0, 2.0, 4.0]
BY_HAND = Pairing(2 / 3 / 4, 22 / 3 / 4, 10 / math.sqrt(14 * 8))
HEADER: dict[str, Any] = {
    "study": "pairs",
    "preset": "all",
    "seeds": 2,
    "base": {"kind": "Small"},
    "settings": {},
    "arms": {"online": {}, "offline": {}, "base": {}},
    "axes": {},
    "claims": [
        Claim(
            "C2", "more", (Test(MatchedDifference("online", "offline"), More(0.1)),), "no"
        ).describe()
    ],
    "source": "abc",
    "created": "2024-01-01T00:00:00+00:00",
}


def run(
    arm: str, seed: int, kl: list[float], rewards: list[Any], name: str = ""
) -> list[dict[str, Any]]:
    """The rows of a run, SFT first."""
    return [
        {
            "run": name or f"{arm}{seed}",
            "study": "pairs",
            "arm": arm,
            "task": "Neural",
            "seed": seed,
        }
        | {"evaluation": k, "step": 10 * k, "diverged_step": -1, "config": json.dumps({})}
        | {"kl": at, "golden_reward": None if own is None else float(np.mean(own))}
        | {VECTORS[0]: None if own is None else packed(np.array(own))}
        for k, (at, own) in enumerate(zip([0.0, *kl], [ONE, *rewards], strict=True))
    ]


def stored(directory: Path, *runs: list[dict[str, Any]]) -> Results:
    with Store.create_or_open(directory, HEADER) as store:
        store.append(columns([row for one in runs for row in one]))
    return load(directory)


def expect(found: Pairing, wanted: Pairing) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_two_policies_by_hand() -> None:
    found = by_prompt.compare(np.array(ONE), np.array(OTHER))
    expect(found, BY_HAND)
    assert found.ratio == pytest.approx(1 / 11)
    # Equal policies have no difference; opposed ones twice the variance.
    assert by_prompt.compare(np.array(ONE), np.array(ONE)).ratio == pytest.approx(0.0)
    assert by_prompt.compare(np.array(ONE), -np.array(ONE)).ratio == pytest.approx(2.0)
    # The prompts that only one of them answered do not count.
    expect(by_prompt.compare(np.array([*ONE, 9.0, 9.0]), np.array(OTHER)), BY_HAND)
    still = by_prompt.compare(np.ones(4), np.array(OTHER))
    assert math.isnan(still.correlation)
    assert still.ratio == 1.0
    assert math.isnan(by_prompt.compare(np.ones(4), np.zeros(4)).ratio)


def test_checkpoints_at_about_the_same_kl_are_compared(tmp_path: Path) -> None:
    """sqrt(KL) of online: 1, 1.5, and 0.6 and 1.9 outside of the window; of offline 1.2 and 1.8. 1.0 is next to 1.2;
    1.5 is 0.3 from both, too far. World 1 has no offline run, world 2's checkpoints are apart."""
    wrong = [9.0, -9.0, 9.0, -9.0]
    found = stored(
        tmp_path,
        run("online", 0, [0.36, 1.0, 2.25, 3.61], [wrong, ONE, wrong, wrong]),
        run("offline", 0, [1.44, 3.24], [OTHER, wrong]),
        run("online", 1, [1.0], [ONE]),
        run("online", 2, [1.0], [ONE]),
        run("offline", 2, [2.0], [OTHER]),
    )
    pairings = by_prompt.in_worlds(found, "Neural", ("online", "offline"))
    assert pairings.keys() == {(0,)}
    expect(pairings[0,], BY_HAND)
    # A wider window takes 1.9 with 1.8 too, which are equal there: a mean over both pairs.
    both = by_prompt.in_worlds(found, "Neural", ("online", "offline"), high=4.0)[0,]
    expect(
        both,
        Pairing(
            BY_HAND.paired / 2,
            (BY_HAND.unpaired + 2 * 108 / 4) / 2,
            (BY_HAND.correlation + 1) / 2,
            2,
        ),
    )
    page = pairing.section(found)
    # Standard errors sqrt(1/6) and sqrt(11/6).
    for cell in ("online − offline", "0.408", "1.354", "0.09", "0.94"):
        assert f">{cell}<" in page


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    """Arms may share runs: online's is base's, so that the nearest other run is taken."""
    found = stored(
        tmp_path,
        run("online", 0, [1.0], [ONE], "same"),
        run("base", 0, [1.0], [ONE], "same"),
        run("base", 0, [1.1], [OTHER], "other"),
    )
    expect(by_prompt.in_worlds(found, "Neural", ("online", "base"))[0,], BY_HAND)


def test_results_without_outcomes_by_prompt_have_no_table(tmp_path: Path) -> None:
    plain = [
        {key: value for key, value in row.items() if key not in VECTORS}
        for arm in ("online", "offline")
        for row in run(arm, 0, [1.0], [ONE])
    ]
    found = stored(tmp_path, plain)
    assert by_prompt.in_worlds(found, "Neural", ("online", "offline")) == {}
    assert pairing.section(found) == ""
    assert results(HEADER, found.table).by_prompt(VECTORS[0]) == {}


def test_common_random_numbers_by_hand() -> None:
    """Two worlds, two seeds. Variances of the seeds 2 and 0 (first), 8 and 2 (second): means 1 and 5. Differences with
    the same seed are 0 and -2, and 1 and -1: variance 2 in both worlds, so the covariance is (1 + 5 - 2) / 2 = 2. Over
    worlds: 0 and 1, -2 and -1, 1/2 each; with other seeds -4 and -1, and 2 and 1: 9/2 and 1/2."""
    first, second = np.array([[1.0, 3.0], [2.0, 2.0]]), np.array([[1.0, 5.0], [1.0, 3.0]])
    found = common_numbers.compare(first, second)
    np.testing.assert_allclose(found, (2.0, 6.0, 0.5, 2.5, 2 / math.sqrt(5), 2, 2))
    alone = common_numbers.compare(first[:1], second[:1])
    assert alone.shared == 2.0
    assert math.isnan(alone.over_worlds)


def test_common_random_numbers_from_rows() -> None:
    """The reward at 1 nat lies between checkpoints at 1/4 and 4 nats, a third of the way in sqrt(KL); world 1 does not
    come to 1 nat."""
    ends = {("online", 0): 4.0, ("online", 7): 10.0, ("offline", 0): 1.0, ("offline", 7): 4.0}
    rows = pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "seeds.training_shift": shift, "run": f"{arm}{shift}{seed}"}
            | {"evaluation": k, "step": k, "diverged_step": -1, "kl": kl, "golden_reward": reward}
            for (arm, shift), end in ends.items()
            for seed in (0, 1)
            for k, (kl, reward) in enumerate(((0.0, 5.0), (0.25, 1.0), (4.0 - 3.5 * seed, end)))
        ]
    )
    found = common_numbers.in_results(rows, ("online", "offline"))
    # At 1 nat 2 and 4 online, 1 and 2 offline: variances 2 and 1/2, of the differences 1 and 2 1/2.
    np.testing.assert_allclose(found[:2], (0.5, 2.5))
    assert (found.worlds, found.seeds) == (1, 2)
    assert found.correlation == pytest.approx(1.0)
    last = common_numbers.in_results(rows, ("online", "offline"), kl=None)
    # Differences of the ends 3 and 6 in both worlds: variances 18 and 9/2, of the differences 9/2.
    np.testing.assert_allclose(last[:2], (4.5, 22.5))
    assert (last.worlds, last.seeds) == (2, 2)
    for rows_, problem in (
        (rows.drop(columns="seeds.training_shift"), "does not sweep seeds.training_shift"),
        (rows[rows["seed"] == 1], "no world has both arms"),
    ):
        with pytest.raises(Unanswerable, match=problem):
            common_numbers.in_results(rows_, ("online", "offline"))
