"""Verdicts: judge every claim of a study on every task, by the rules in the study's file, and also by the rules stored
before the run where the two differ."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.load import Results
from analysis.verdicts import many
from analysis.verdicts.evidence import ALL_TASKS, Pool, TaskEvidence, TypicalEvidence
from sweeps.claims import Claim, Ruling
from sweeps.claims import Test as Part
from sweeps.estimands import Evidence
from sweeps.rules import Judgement

PAPER = tuple(f"C{number}" for number in range(1, 18))
"""Ids of the paper's claims; ids that start otherwise are questions beyond it."""


def base(claim: str) -> str:
    """The claim to which a part belongs: C6 for C6.window."""
    match = re.match(r"[A-Za-z]+\d+", claim)
    return match[0] if match else claim


def rank(claim: str) -> tuple[int, str, int, str]:
    """Sort key of claims: the paper's claims first, numbers in numerical order."""
    match = re.match(r"([A-Za-z]*)(\d*)", claim)
    letters, digits = match.groups() if match else (claim, "")
    return (0 if base(claim) in PAPER else 1, letters, int(digits or 0), claim)


def gather(results: Results) -> dict[str, TaskEvidence]:
    """Evidence by task. Fits nothing yet."""
    pool = Pool.of(results)
    return {task: TaskEvidence(task, results.task(task), pool) for task in results.tasks}


def decide(
    results: Results, evidence: Mapping[str, TaskEvidence] | None = None
) -> list[dict[str, Any]]:
    """All verdicts as JSON-able entries, claim by claim and task by task.

    A claim whose tests are all about effects of worlds is also judged for a typical task ("all tasks") if there are two
    or more tasks. If the study's file states tests or rules of a
    claim differently from those stored with the results, the claim is judged by the file, and the entry says so
    (`newer`) and gives the verdict by the stored rule; changed words alone change only the words. `evidence` may be
    given to reuse its fits. Raises InvalidInput if a stored claim cannot be read.
    """
    evidence = gather(results) if evidence is None else evidence
    entries = []
    for asked in questions(results, evidence):
        claim, stored, facts = asked.claim, asked.stored, asked.evidence
        newer = stored is None or not stored.decides_like(claim)
        ruling = _held_back(claim.judge(facts), asked.lacking)
        before = (
            _held_back(stored.judge(facts), asked.lacking).verdict if newer and stored else None
        )
        beside = claim.judge_beside(facts)
        entries.append(entry(claim, asked.task, ruling, newer, before, beside))
    return entries


class Question(NamedTuple):
    """One claim on one task: the claim in the study's file, the claim as stored before the run (None: it was not
    stored), the evidence of the task, and the number of missing planned runs of the claim's arms."""

    claim: Claim
    stored: Claim | None
    task: str
    evidence: Evidence
    lacking: int


def questions(results: Results, evidence: Mapping[str, TaskEvidence]) -> Iterator[Question]:
    """Every claim on every task, and on a typical one where `decide` says so."""
    tasks: dict[str, Evidence] = dict(evidence)
    pooled: dict[str, Evidence] = {}
    if len(evidence) > 1:
        pooled = {ALL_TASKS: TypicalEvidence(evidence)}
    for claim, stored in paired(results):
        lacking = sum(results.missing.get(arm, 0) for arm in claim.arms_used())
        for task, known in (tasks | pooled if claim.of_worlds else tasks).items():
            yield Question(claim, stored, task, known, lacking)


def _held_back(ruling: Ruling, lacking: int) -> Ruling:
    """The ruling, but undecided while runs are missing: the existing runs may not be a fair sample of the settings."""
    if not lacking:
        return ruling
    return dataclasses.replace(ruling, verdict="undecided", reason=lacks(lacking))


def lacks(lacking: int) -> str:
    """The reason why nothing is decided while planned runs are missing; "" if none are missing."""
    return f"{lacking} planned runs of its arms are missing" if lacking else ""


def paired(results: Results) -> Iterator[tuple[Claim, Claim | None]]:
    """Claims to judge by, each with the claim stored before the run (None if there was none).

    Stored claims come first, in the stored order, each as the study's file states it now if the file can be read.
    Claims added to the file follow; claims removed from the file stay as they were stored.
    """
    stored = {claim.id: claim for claim in results.claims}
    present = {claim.id: claim for claim in results.present_claims or ()}
    for name, claim in stored.items():
        yield present.get(name, claim), claim
    for name, claim in present.items():
        if name not in stored:
            yield claim, None


def entry(
    claim: Claim,
    task: str,
    ruling: Ruling,
    newer: bool = False,
    stored: str | None = None,
    beside: Sequence[Judgement] = (),
) -> dict[str, Any]:
    """One row of verdicts.json. Numbers that do not exist are null, never NaN.

    The effect, numbers and rule at the top level are those of the deciding test; `beside` are effects that decide
    nothing. `close`: see `analysis.verdicts.many.is_close`.
    """
    tests = [_test(test, part) for test, part in zip(claim.tests, ruling.parts, strict=True)]
    deciding = tests[ruling.deciding]
    row = {
        "claim": claim.id,
        "task": task,
        "text": claim.text,
        **deciding,
        "verdict": ruling.verdict,
        "close": many.is_close(ruling.verdict, tests),
        "reason": ruling.reason,
        "against": claim.against,
        "note": claim.note,
        "tests": tests,
        "beside": [_numbers(part) for part in beside],
        "newer": newer,
        "stored_verdict": stored,
    }
    return _plain(row)


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `entry`, or one of its tests, with the interval and the rule in columns of their own."""
    low, high = row["interval"] or (None, None)
    return {**row, **row["rule"], "low": low, "high": high, "rule": row["rule"]["kind"]}


def _test(test: Part, part: Judgement) -> dict[str, Any]:
    """One test's judgement."""
    row = {
        "verdict": part.verdict,
        **_numbers(part),
        "probability": part.probability,
        "rule": test.rule.describe() | {"words": test.rule.sentence()},
    }
    row["details"]["half_widths"] = many.half_widths(row)
    return row


def _numbers(part: Judgement) -> dict[str, Any]:
    """An effect with its interval."""
    return {
        "effect": part.label,
        "unit": part.unit,
        "estimate": part.estimate,
        "interval": part.interval,
        "reason": part.reason,
        "details": dict(part.details),
    }


def _plain(value: Any) -> Any:
    """JSON-able copy: plain numbers, lists for tuples, null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
