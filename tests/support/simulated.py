"""Results of a made-up study, with curves that a test knows."""

import dataclasses

import numpy as np
import pandas as pd


@dataclasses.dataclass(frozen=True)
class Truth:
    """Golden reward of each arm over d = sqrt(KL): a parabola that is 0 at d = 0, and has its height at its place.

    Worlds move the height of both arms by ``shared`` and of each arm by ``own`` (standard deviations); ``noise`` is
    that of a measurement. Runs go as far as ``reach``.
    """

    height: tuple[float, ...] = (1.2, 0.6)
    place: tuple[float, ...] = (2.0, 2.0)
    reach: tuple[float, ...] = (3.0, 3.0)
    shared: float = 0.1
    own: float = 0.05
    noise: float = 0.02
    arms: tuple[str, ...] = ("online", "offline")

    def reward(self, arm, d, height=None):
        height = self.height[arm] if height is None else height
        return height * (1 - ((d - self.place[arm]) / self.place[arm]) ** 2)


def simulate(truth, rng, seeds=3, settings=6, evaluations=8, prompts=512):
    """Rows of one task's results: every setting of every arm in every seed, each run at its own speed, evaluated before
    training and `evaluations` times after it. Win rates are linear in the golden reward."""
    rows = []
    for seed in range(seeds):
        start, shared = 0.1 * rng.normal(), truth.shared * rng.normal()
        for arm, name in enumerate(truth.arms):
            height = truth.height[arm] + shared + truth.own * rng.normal()
            for setting in range(settings):
                speed = truth.reach[arm] * (setting + 1) / settings
                d = speed * np.linspace(0, 1, evaluations + 1) ** 0.6
                reward = truth.reward(arm, d, height) + truth.noise * rng.normal(size=d.shape) * (
                    d > 0
                )
                rows.append(
                    pd.DataFrame(
                        {
                            "run": f"{name}-{seed}-{setting}",
                            "arm": name,
                            "seed": seed,
                            "setting": setting,
                            "step": np.arange(evaluations + 1) * 50,
                            "evaluation": np.arange(evaluations + 1),
                            "diverged_step": -1,
                            "prompts": prompts,
                            "kl": d**2,
                            "golden_reward": start + reward,
                            "win_rate": np.clip(0.4 + 0.25 * reward, 0, 1),
                            "length": 10.0,
                        }
                    )
                )
    return pd.concat(rows, ignore_index=True)
