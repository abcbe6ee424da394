"""Rows of results with a known truth: arms whose golden reward rises and falls with KL, in worlds that differ."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

ONLINE_BETTER: Mapping[str, float] = {"online": 1.0, "offline": 0.6}
"""For each arm the gain of golden reward at d = sqrt(KL) = 1, in SFT standard deviations."""


def simulated(
    gains: Mapping[str, float] = ONLINE_BETTER,
    worlds: int = 3,
    settings: int = 4,
    evaluations: int = 8,
    scatter: float = 0.05,
    reach: float = 3.0,
    seed: int = 2,
) -> pd.DataFrame:
    """One row per run and evaluation of one task, the first before training.

    An arm's golden reward at distance d is gain d (1 - d / 6), highest at d = 3; in each world the gains of the arms
    differ by ``scatter``. Settings reach different distances, up to ``reach``. The win rate follows the reward.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for world in range(worlds):
        start = 0.02 * rng.normal()
        for arm, gain in gains.items():
            own = gain + scatter * rng.normal()
            for setting in range(settings):
                end = reach * (1 - 0.5 * setting / settings)
                d = end * np.linspace(0, 1, evaluations + 1) ** 0.7
                reward = start + own * d * (1 - d / 6) + 0.01 * rng.normal(size=d.shape) * (d > 0)
                columns = {
                    "run": f"{arm}-{world}-{setting}",
                    "arm": arm,
                    "seed": world,
                    "setting": setting,
                    "step": np.arange(evaluations + 1) * 50,
                    "evaluation": np.arange(evaluations + 1),
                    "diverged_step": -1,
                    "prompts": 512,
                    "length": 12.0,
                    "kl": d**2,
                    "golden_reward": reward,
                    "win_rate": 1 / (1 + np.exp(1.5 - reward)),
                }
                parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)
