"""The sampling error of a difference of two arms in one world, paired by prompt and unpaired.

All policies of a world answer the same evaluation prompts. An arm's mean golden reward has a sampling error because
prompts differ and answers are sampled; the part that both arms share cancels in their difference. Runs that keep their
outcomes by prompt (`evaluation.by_prompt`) show how large this part is. Nothing here decides a verdict.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float

from analysis.load import Results, Table
from analysis.worlds.measured import usable

#: Checkpoints of two arms are compared if their distances, sqrt(KL), differ by at most this many sqrt(nats); of a world
#: at most so many pairs of checkpoints, the nearest ones.
APART, MOST_PAIRS = 0.25, 8
#: A world: its seed, and the levels of the swept paths that change worlds.
World = tuple[Any, ...]
#: A checkpoint: its run and the number of the evaluation.
Checkpoint = tuple[str, int]


class Pairing(NamedTuple):
    """Variances of the difference of two policies' means over n prompts, that are due to prompts and sampled answers.

    Attributes:
        paired: from the differences prompt by prompt: the variance of the difference as it is measured.
        unpaired: the sum of the variances of both means: what the variance would be with prompts of its own for each.
        correlation: over prompts, between the outcomes of the two; NaN if one of them does not vary.
        pairs: how many pairs of checkpoints these numbers are means over.
    """

    paired: float
    unpaired: float
    correlation: float
    pairs: int = 1

    @property
    def ratio(self) -> float:
        """Paired variance by unpaired variance; NaN if nothing varies."""
        return self.paired / self.unpaired if self.unpaired else math.nan

    @classmethod
    def mean(cls, each: Sequence[Self]) -> Self:
        """The mean over pairs of checkpoints, or over worlds."""
        paired, unpaired, correlation = np.mean([one[:3] for one in each], axis=0).tolist()
        return cls(paired, unpaired, correlation, sum(one.pairs for one in each))


def compare(
    first: Float[np.ndarray, " prompt"], second: Float[np.ndarray, " other_prompt"]
) -> Pairing:
    """The pairing of two policies from their outcomes on the same prompts. If one of them answered more prompts, the
    first ones are those of both."""
    count = min(len(first), len(second))
    covariance = np.cov(first[:count].astype(float), second[:count].astype(float))
    (one, shared), (_, other) = covariance.tolist()
    scale = math.sqrt(one * other)
    return Pairing(
        (one + other - 2 * shared) / count,
        (one + other) / count,
        shared / scale if scale else math.nan,
    )


def in_worlds(
    results: Results,
    task: str,
    arms: tuple[str, str],
    low: float = 0.5,
    high: float = 3.0,
    outcome: str = "golden_reward_by_prompt",
) -> dict[World, Pairing]:
    """The pairing of two arms in every world of a task, from pairs of checkpoints at about the same KL between ``low``
    and ``high`` nats. Worlds without such a pair, or without outcomes by prompt, are left out."""
    rows = usable(results.task(task), "golden_reward")
    rows = rows[rows["arm"].isin(arms) & (rows["evaluation"] > 0)]
    matched = {
        world: _matches(own, arms, low, high)
        for world, own in rows.groupby(["seed", *results.strata], dropna=False)
    }
    wanted = {one for pairs in matched.values() for pair in pairs for one in pair}
    outcomes = results.by_prompt(outcome, wanted)
    found: dict[World, Pairing] = {}
    for world, pairs in matched.items():
        known = [pair for pair in pairs if all(one in outcomes for one in pair)]
        each = [compare(*(outcomes[one] for one in pair)) for pair in known]
        if each:
            found[world] = Pairing.mean(each)
    return found


def _matches(
    rows: Table, arms: tuple[str, str], low: float, high: float
) -> list[tuple[Checkpoint, Checkpoint]]:
    """For each checkpoint of the first arm in a window of KL the nearest one of the second arm that is another run's:
    the nearest pairs of one world."""
    first, second = (list(_checkpoints(rows[rows["arm"] == arm])) for arm in arms)
    pairs = []
    for distance, one in first:
        others = [(abs(d - distance), other) for d, other in second if other[0] != one[0]]
        if math.sqrt(low) <= distance <= math.sqrt(high) and others:
            apart, other = min(others)
            pairs.append((apart, one, other))
    return [(one, other) for apart, one, other in sorted(pairs) if apart <= APART][:MOST_PAIRS]


def _checkpoints(rows: Table) -> Iterator[tuple[float, Checkpoint]]:
    """The distance from SFT, sqrt(KL), of every checkpoint."""
    kl = np.sqrt(np.maximum(rows["kl"].to_numpy(dtype=float), 0.0))
    return zip(
        kl.tolist(), zip(rows["run"], rows["evaluation"].astype(int), strict=True), strict=True
    )
