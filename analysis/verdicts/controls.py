"""The study `controls`, judged in groups of worlds: as many studies of the usual size as its worlds make.

`python -m analysis.verdicts.controls DIR [SIZE]` prints every group's intervals and verdicts as CSV, a group being SIZE
(16) worlds of consecutive seeds, and a summary: how many intervals of the negative controls exclude 0, how many of
their verdicts say that there is an effect, and in how many groups every positive control is reproduced.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.load import Results, Table, load
from analysis.verdicts import verdict
from sweeps.rules import Same
from testbed.errors import InvalidInput

SIZE = 16


def groups(results: Results, size: int = SIZE) -> dict[str, Results]:
    """The results of each ``size`` seeds in order, by "first to last"; seeds that fill no group are left out.
    Raises `InvalidInput` for a size below 1."""
    if size < 1:
        raise InvalidInput(f"SIZE must be at least 1, got {size}")
    seeds = sorted(int(seed) for seed in results.table["seed"].unique())
    found = {}
    for first in range(0, len(seeds) - size + 1, size):
        members = seeds[first : first + size]
        rows = results.table[results.table["seed"].isin(members)]
        # Runs of other groups are not missing in this one.
        header = {**results.study, "planned": {}}
        found[f"{members[0]} to {members[-1]}"] = dataclasses.replace(
            results, study=header, table=rows
        )
    return found


def judge(results: Results, size: int = SIZE) -> Table:
    """Every test of every group: group, task, claim, control ("negative" for claims that there is practically no
    effect, else "positive"), effect, estimate, low, high (90% interval), rope, verdict, and beyond: whether the
    interval lies wholly outside of the ROPE on one side (negative) or above it (positive)."""
    rows = []
    for name, part in groups(results, size).items():
        negative = {
            claim.id: all(isinstance(test.rule, Same) for test in claim.tests)
            for claim, _ in verdict.paired(part)
        }
        for entry in verdict.decide(part):
            for test in map(verdict.flat, entry["tests"]):
                numbers = {key: test[key] for key in ("effect", "estimate", "low", "high", "rope")}
                kind = "negative" if negative[entry["claim"]] else "positive"
                begins = {"group": name, "task": entry["task"], "claim": entry["claim"]}
                rows.append({**begins, "control": kind, **numbers, "verdict": test["verdict"]})
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    numbers = ["estimate", "low", "high", "rope"]
    table[numbers] = table[numbers].astype(float)
    above, below = table["low"] > table["rope"], table["high"] < -table["rope"]
    return table.assign(beyond=above | (below & (table["control"] == "negative")))


def summary(table: Table) -> str:
    """The sentence of a table of `judge`."""
    negative, positive = (table[table["control"] == name] for name in ("negative", "positive"))
    off = int(((negative["low"] > 0) | (negative["high"] < 0)).sum())
    groups = (positive["verdict"] == "reproduced").groupby([positive["group"], positive["task"]])
    decided = int(groups.all().sum())
    return (
        f"Of {len(negative)} intervals of the negative controls {off} exclude 0 and {int(negative['beyond'].sum())} "
        f"lie beyond the ROPE; the positive controls are reproduced in {decided} of {groups.ngroups} groups."
    )


def main(arguments: Sequence[str]) -> None:
    """The command: DIR [SIZE]."""
    directory, *size = arguments
    table = judge(load(Path(directory)), int(size[0]) if size else SIZE)
    if table.empty:
        print("there are not enough worlds for one group")
        return
    print(table.round(4).to_csv(index=False), end="")
    print(summary(table))


if __name__ == "__main__":
    main(sys.argv[1:])
