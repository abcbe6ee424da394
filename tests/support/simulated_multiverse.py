"""A study of two arms whose curves are straight lines in d = sqrt(KL)."""

import numpy as np
import pandas as pd

from analysis.load import Results, results
from sweeps.claims import Claim, Test
from sweeps.estimands import MatchedDifference
from sweeps.rules import More

ARMS = ("first", "second")


def study_of_lines(
    slopes: tuple[float, float], worlds: int, noise: float = 0.01, scatter: float = 0.01
) -> Results:
    """Results in which the golden reward is a slope times d, a world's slope differs from it by ``scatter``, and every
    evaluation has ``noise``: one run of two settings each, evaluated at d of 0 to 3."""
    rng, rows = np.random.default_rng(7), []
    d = np.linspace(0, 3, 9)
    for world in range(worlds):
        for arm, slope in zip(ARMS, slopes, strict=True):
            for setting in (0, 1):
                line = (slope + scatter * rng.normal()) * d + noise * rng.normal(size=len(d)) * (
                    d > 0
                )
                rows.append(
                    pd.DataFrame(
                        {
                            "study": "lines", "arm": arm, "task": "Neural", "seed": world,
                            "run": f"{arm}-{world}-{setting}", "setting": setting,
                            "evaluation": np.arange(len(d)), "step": 10 * np.arange(len(d)),
                            "diverged_step": -1, "kl": d**2, "golden_reward": line, "length": 12.0,
                        }
                    )
                )  # fmt: skip
    test = Test(MatchedDifference(*ARMS), More(0.07))
    claim = Claim("X1", "The first arm is better.", (test,), "It is not.")
    header = {"study": "lines", "arms": {arm: {} for arm in ARMS}, "claims": [claim.describe()]}
    return results(header, pd.concat(rows, ignore_index=True))
