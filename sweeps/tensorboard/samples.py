"""Answers of policies: of each arm, beside the SFT policy's answers to the same prompts."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from sweeps.store import json_files
from sweeps.store.columns import ANSWERS
from sweeps.tensorboard.events import Table
from testbed.errors import InvalidInput


class Said(NamedTuple):
    """A prompt, and the answers of SFT and of a policy at the end of its training."""

    task: str
    arm: str
    prompt: str
    before: str
    after: str


def said(results: Table) -> Iterator[Said]:
    """The answers of one run of each arm on each task: among the runs with the lowest seed that did not diverge, the
    run with the highest final win rate. Nothing for results without stored answers."""
    if ANSWERS not in results:
        return
    kept = results[results[ANSWERS].notna() & (results["diverged_step"] < 0)]
    tasks = kept.groupby("task")
    groups = ((task, *pair) for task, rows in tasks for pair in rows.groupby("arm", sort=False))
    for task, arm, group in groups:
        last = group[(group["seed"] == group["seed"].min()) & (group["evaluation"] > 0)]
        if last.empty:
            continue
        best = last.loc[last["win_rate"].fillna(-1.0).idxmax()]
        first = group[(group["run"] == best["run"]) & (group["evaluation"] == 0)]
        if len(first) != 1:
            continue
        for (prompt, before), (_, after) in zip(_pairs(first.iloc[0]), _pairs(best), strict=False):
            yield Said(str(task), str(arm), prompt, before, after)


def _pairs(row: Any) -> list[list[str]]:
    """Prompts with answers from one row of the results. Raises `InvalidInput` if the row's text is something else."""
    try:
        pairs = json.loads(row[ANSWERS])
    except (ValueError, RecursionError) as problem:
        raise InvalidInput(
            f"the answers of run {row['run']} in the results are not JSON"
        ) from problem
    wrong = json_files.misfit(pairs, [[str, str]])
    if wrong is not None:
        raise InvalidInput(
            f"the answers of run {row['run']} in the results are not pairs of texts ({wrong})"
        )
    return pairs
