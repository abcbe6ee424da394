"""RankCorrelation: whether two columns order checkpoints alike."""

import dataclasses

import numpy as np

from sweeps.estimands.base import Estimand, Evidence, Unanswerable, mean_draws, pooled, words_of
from sweeps.rules import Draws


@dataclasses.dataclass(frozen=True)
class RankCorrelation(Estimand):
    """Spearman's rank correlation of two metrics over the trained checkpoints of an arm (C10).

    Each seed has one correlation, over the checkpoints of all its runs. The seeds are the sample: a t posterior of the
    mean of Fisher's z = artanh(rho), transformed back. (Checkpoints of a run are dependent, so the textbook error
    1/sqrt(n - 3) would be much too small.)
    """

    x: str
    y: str
    arm: str

    def words(self) -> tuple[str, str]:
        names = f"{words_of(self.x)[0]} and {words_of(self.y)[0]}"
        return f"rank correlation of {names}, {self.arm}", "Spearman’s ρ"

    def _measure(self, evidence: Evidence) -> Draws:
        (runs,) = evidence.checkpoints((self.x, self.y), (self.arm,))
        z, counts = {}, {}
        for seed, points in pooled(runs).items():
            points = points[np.isfinite(points).all(axis=1)]
            counts[str(seed)] = len(points)
            if len(points) >= 4 and np.ptp(points, axis=0).min() > 0:
                rho = float(np.corrcoef(_ranks(points).T)[0, 1])
                # Perfect agreement of n points is infinite in z; it is limited to 1 - 1/n.
                limit = 1 - 1 / len(points)
                z[seed] = float(np.arctanh(np.clip(rho, -limit, limit)))
        if not z:
            raise Unanswerable(
                f"no seed of {self.arm} has four checkpoints at which {self.x} and {self.y} vary"
            )
        details = evidence.describe_runs((self.arm,)) | {"checkpoints": counts}
        draws = mean_draws(*self.words(), z, details)
        rhos = {seed: float(np.tanh(value)) for seed, value in draws.details["seed_means"].items()}
        return dataclasses.replace(
            draws, values=np.tanh(draws.values), details={**draws.details, "seed_means": rhos}
        )


def _ranks(points: np.ndarray) -> np.ndarray:
    """Ranks by column; tied values have the mean of their ranks."""
    # Imported here, because scipy.stats takes longer to import than all other modules that a study needs, except jax.
    from scipy.stats import rankdata

    return rankdata(points, axis=0)
