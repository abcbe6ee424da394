"""Estimates as the paper makes them, for comparison with ours: envelopes, quantiles, best checkpoints.

Every function here pools the usable trained checkpoints of all runs (`analysis.worlds.measured.usable`) of one task, or
of a task at one level of its strata. These estimates have no intervals, and all of them grow with the number
of checkpoints: use them to compare with the paper's figures, not to decide claims.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.load import Table

BINS = 24
QUANTILE = 0.9


def envelope(trained: Table, arms: Sequence[str], bins: int = BINS) -> Table:
    """Upper envelope of each arm over KL: one row per arm and bin that holds checkpoints of the arm.

    Columns: arm, kl (geometric centre of the bin, nats), low and high (its ends), best (highest win rate in the bin),
    win_rate (the highest up to and including the bin: the win rate that the KL budget buys), checkpoints. Bins are of
    equal width in log KL, the same for all arms, over the range of all checkpoints with a KL above 0.
    """
    columns = ["arm", "kl", "low", "high", "best", "win_rate", "checkpoints"]
    rows = trained[trained["arm"].isin(arms) & (trained["kl"] > 0)]
    if rows.empty:
        return pd.DataFrame({name: [] for name in columns})
    log_kl = np.log(rows["kl"].to_numpy(dtype=float))
    edges = np.linspace(log_kl.min(), log_kl.max(), bins + 1)
    place = np.clip(np.searchsorted(edges, log_kl, side="right") - 1, 0, bins - 1)
    rows = rows.assign(bin=place)
    parts = []
    for arm in arms:
        rates = rows[rows["arm"] == arm].groupby("bin")["win_rate"]
        best = rates.max().astype(float)
        index = best.index.to_numpy(dtype=int)
        parts.append(
            pd.DataFrame(
                {
                    "arm": arm,
                    "kl": np.exp((edges[index] + edges[index + 1]) / 2),
                    "low": np.exp(edges[index]),
                    "high": np.exp(edges[index + 1]),
                    "best": best.to_numpy(),
                    "win_rate": best.cummax().to_numpy(),
                    "checkpoints": rates.size().to_numpy(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)[columns]


def summary(trained: Table, arms: Sequence[str], share: float = QUANTILE) -> Table:
    """One row per arm with checkpoints: its best checkpoint, and a high quantile of its win rates.

    Columns: arm, best (win rate), best_kl (nats), quantile (the 90% quantile of the win rates, the measure of the
    paper's figure 11).
    """
    records = []
    for arm in arms:
        own = trained[trained["arm"] == arm]
        if own.empty:
            continue
        top = own.loc[own["win_rate"].astype(float).idxmax()]
        records.append(
            {
                "arm": arm,
                "best": float(top["win_rate"]),
                "best_kl": float(top["kl"]),
                "quantile": float(own["win_rate"].astype(float).quantile(share)),
            }
        )
    return pd.DataFrame(records)
