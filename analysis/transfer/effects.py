"""Pair the simulated and the real measurement of each effect, and measure their agreement.

Effects are paired by study, claim and estimand. Simulated and real results share no run, so their posteriors are
independent: the probability that two effects have the same sign follows from the two posteriors, and each simulated
draw may be combined with any real draw.
"""

import dataclasses
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.load import Collection, Results, load_all
from analysis.verdicts import verdict
from analysis.verdicts.verdict import lacks, rank
from sweeps.claims import Test
from sweeps.rules import Judgement, Side
from testbed import moved
from testbed.errors import InvalidInput

LEAST = 3
"""Fewest effects for which a rank correlation is given."""
_DRAWS = 4000
_MASS = 0.9


class Name(NamedTuple):
    """The identity of an effect, by which its simulated and its real measurement are paired."""

    study: str
    claim: str
    estimand: str


@dataclasses.dataclass(frozen=True)
class Measured:
    """One effect, simulated or real, on one task.

    Attributes:
        task: the task, or "all tasks".
        text: the claim.
        judgement: verdict, estimate, interval and the other results of the rule.
        values: draws (draws,), to be compared with those of other effects draw by draw; empty if
            there is no posterior. An effect known without error is a posterior of equal draws.
        open: sides of the draws on which the true effect may lie, with the reason.
    """

    task: str
    text: str
    judgement: Judgement
    values: np.ndarray
    open: Mapping[Side, str]

    @property
    def signs(self) -> np.ndarray:
        """Probabilities of a negative effect, of a zero effect, of a positive effect."""
        return np.array([np.mean(np.sign(self.values) == sign) for sign in (-1, 0, 1)])


@dataclasses.dataclass(frozen=True)
class Pair:
    """One effect, simulated and real."""

    name: Name
    simulated: Measured
    real: Measured

    @property
    def known(self) -> bool:
        """Whether both measurements have a posterior."""
        return bool(self.simulated.values.size and self.real.values.size)

    @property
    def same_sign(self) -> bool | None:
        """Whether the two medians have the same sign; None if one is missing."""
        first, second = (one.judgement.estimate for one in (self.simulated, self.real))
        if first is None or second is None:
            return None
        return bool(np.sign(first) == np.sign(second))

    @property
    def probability(self) -> float | None:
        """The probability that both effects have the same sign; None if one has no posterior."""
        return float(self.simulated.signs @ self.real.signs) if self.known else None

    @property
    def decided(self) -> bool:
        """Whether both measurements have a verdict."""
        return "undecided" not in (self.simulated.judgement.verdict, self.real.judgement.verdict)

    @property
    def same_verdict(self) -> bool:
        """Whether the two verdicts are the same."""
        return self.simulated.judgement.verdict == self.real.judgement.verdict


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Agreement of the effects of one simulated task with those of a real one: signs, verdicts, and order.

    Attributes:
        simulated_task, real_task: the tasks on which the effects were measured.
        unit: the unit of the effects; "" if they have several, and then each effect is divided by the root mean square
            of the medians of its unit, so that the size of the units has no influence.
        effects: how many have a posterior in both places.
        same_sign: how many of them have the same sign by their medians.
        expected: expected number of effects with the same sign, the mean over both posteriors.
        decided, same_verdict: how many are decided in both places, and how many of these have the same verdict.
        of_medians: Spearman's rank correlation of the posterior medians; None if there are too few effects, or
            all effects of one place are equal.
        estimate: the posterior median of the correlation, None in the same cases.
        interval: its central 90% interval. It tells how well these effects are known, not how other effects,
            which were not measured, would agree.
        probability: the probability that the correlation is positive.
        by_chance: how often effects in random order have a correlation of medians at least as high.
    """

    simulated_task: str
    real_task: str
    unit: str
    effects: int
    same_sign: int
    expected: float
    decided: int
    same_verdict: int
    of_medians: float | None = None
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    probability: float | None = None
    by_chance: float | None = None


@dataclasses.dataclass(frozen=True)
class TransferTable:
    """The transfer table: all effects with a simulated and a real measurement, and their agreement.

    ``pairs`` are in the order of claims, then of studies and tasks; the tests of a claim keep their order.
    ``lone`` names the claims that only one of the two directories judges, "simulated" or "real".
    """

    simulated: Collection
    real: Collection
    pairs: Sequence[Pair]
    agreements: Sequence[Agreement]
    lone: Mapping[str, Sequence[str]]


def compare(
    simulated: Path,
    real: Path,
    opened: tuple[Sequence[Any], Sequence[Any]] = ((), ()),
) -> TransferTable:
    """Judge the claims of both results directories and pair the effects that both have.

    ``opened`` are the directories' stores as `sweeps.store.store.read_stores` gives them. Raises InvalidInput if one
    holds no results, both are the same, or they have no effect in common.
    """
    if simulated.resolve() == real.resolve():
        raise InvalidInput(
            f"{real} is given twice: the first directory is that of the simulated runs, the second "
            "that of the runs on a language model"
        )
    collections = load_all(simulated, opened[0]), load_all(real, opened[1])
    asked = [_names(collection) for collection in collections]
    claims = [
        list(dict.fromkeys(f"{name.claim} ({name.study})" for name in names)) for names in asked
    ]
    shared = asked[0].keys() & asked[1].keys()
    if not shared:
        has = [", ".join(one) or "none" for one in claims]
        raise InvalidInput(
            f"{simulated} and {real} have no claim in common: the first judges {has[0]}, the second {has[1]}"
        )
    studies = {name.study for name in shared}
    first, second = (
        _measured(collection, place, studies)
        for place, collection in zip(("simulated", "real"), collections, strict=True)
    )
    pairs = [
        Pair(name, one, other)
        for name in asked[0]
        if name in shared
        for one in first[name]
        for other in second[name]
    ]
    lone = {
        place: [claim for claim in mine if claim not in others]
        for place, mine, others in (("simulated", *claims), ("real", *claims[::-1]))
    }
    ordered = sorted(pairs, key=lambda pair: (rank(pair.name.claim), pair.name.study))
    return TransferTable(*collections, ordered, list(_agreements(pairs)), lone)


def _names(collection: Collection) -> dict[Name, None]:
    """The effects that a directory's claims are about."""
    return {
        _name(results, claim.id, test): None
        for results in collection.studies
        for claim, _ in verdict.paired(results)
        for test in claim.tests
    }


def _name(results: Results, claim: str, test: Test) -> Name:
    return Name(results.name, claim, json.dumps(test.estimand.describe(), sort_keys=True))


def _measured(collection: Collection, place: str, studies: set[str]) -> dict[Name, list[Measured]]:
    """Every effect of these studies on every task. Fits the curves that the claims need."""
    measured: dict[Name, list[Measured]] = {}
    for results in collection.studies:
        if results.name in studies:
            for asked in verdict.questions(results, verdict.gather(results)):
                for test in asked.claim.tests:
                    name = _name(results, asked.claim.id, test)
                    measured.setdefault(name, []).append(_measure(place, name, asked, test))
    return measured


def _measure(place: str, name: Name, asked: verdict.Question, test: Test) -> Measured:
    draws = test.estimand.draws(asked.evidence, test.rule.rope)
    judgement = test.rule.judge(draws)
    if asked.lacking:
        reason = lacks(asked.lacking)
        judgement = dataclasses.replace(judgement, verdict="undecided", reason=reason)
    values = np.asarray(draws.values, dtype=float)
    if not np.all(np.isfinite(values)) or (values.size == 1 and not draws.exact):
        values = np.empty(0)
    # Draws are sorted by size; without shuffling, independent effects would appear correlated.
    values = _shuffled(values, (place, *name, asked.task))
    return Measured(asked.task, asked.claim.text, judgement, values, draws.open)


def _shuffled(values: np.ndarray, parts: Sequence[str]) -> np.ndarray:
    """The draws in an order that `parts` determine, as many as are compared."""
    if not values.size:
        return values
    order = np.random.default_rng(zlib.crc32("|".join(parts).encode())).permutation(values.size)
    return values[np.resize(order, _DRAWS)]


def by_unit(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The pairs by the unit of their effects."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.real.judgement.unit, []).append(pair)
    return groups


def _agreements(pairs: Sequence[Pair]) -> Iterator[Agreement]:
    """The agreement of each pair of tasks: for all effects, and for each unit with enough effects for a rank
    correlation."""
    places = dict.fromkeys((pair.simulated.task, pair.real.task) for pair in pairs)
    for place in places:
        known = [p for p in pairs if p.known and (p.simulated.task, p.real.task) == place]
        yield agreement(known, *place)
        groups = by_unit(known).values()
        if len(groups) > 1:
            yield from (agreement(some, *place) for some in groups if len(some) >= LEAST)


def agreement(pairs: Sequence[Pair], simulated_task: str, real_task: str) -> Agreement:
    """The agreement of the effects that have a posterior in both places."""
    units = {pair.real.judgement.unit for pair in pairs}
    decided = [pair for pair in pairs if pair.decided]
    counted = Agreement(
        simulated_task,
        real_task,
        units.pop() if len(units) == 1 else "",
        effects=len(pairs),
        same_sign=sum(bool(pair.same_sign) for pair in pairs),
        expected=sum(pair.probability or 0.0 for pair in pairs),
        decided=len(decided),
        same_verdict=sum(pair.same_verdict for pair in decided),
    )
    if len(pairs) < LEAST:
        return counted
    scales = _scales(pairs)
    values = [
        np.stack([one.values for one in side], axis=1) / scales
        for side in ([p.simulated for p in pairs], [p.real for p in pairs])
    ]
    medians = [np.median(draws, axis=0)[None] for draws in values]
    of_medians = spearman(*medians)[0]
    rho = spearman(*values)
    rho = rho[np.isfinite(rho)]
    if not np.isfinite(of_medians) or not rho.size:
        return counted
    tail = (1 - _MASS) / 2
    low, middle, high = np.quantile(rho, [tail, 0.5, 1 - tail]).tolist()
    return dataclasses.replace(
        counted,
        of_medians=float(of_medians),
        estimate=middle,
        interval=(low, high),
        probability=float(np.mean(rho > 0)),
        by_chance=_by_chance(medians[0][0], medians[1][0]),
    )


def _by_chance(first: np.ndarray, second: np.ndarray) -> float:
    """How often a random order of the first has a rank correlation at least as high; computed from all orders if they
    are few."""
    from scipy import stats

    test = stats.permutation_test(
        (first,),
        lambda own: spearman(own[None], second[None])[0],
        permutation_type="pairings",
        alternative="greater",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def _scales(pairs: Sequence[Pair]) -> np.ndarray:
    """The divisor of each effect, which makes effects of different units comparable in size."""
    units = [pair.real.judgement.unit for pair in pairs]
    medians = np.array([[np.median(p.simulated.values), np.median(p.real.values)] for p in pairs])
    squares = {unit: np.mean(medians[np.array(units) == unit] ** 2) for unit in units}
    return np.array([np.sqrt(squares[unit]) or 1.0 for unit in units])


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row of two arrays (row, effect); NaN where one is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=1) for values in (first, second)]
    centred = [one - one.mean(axis=1, keepdims=True) for one in ranks]
    norms = [np.sqrt((one**2).sum(axis=1)) for one in centred]
    with np.errstate(invalid="ignore"):
        return (centred[0] * centred[1]).sum(axis=1) / (norms[0] * norms[1])


__getattr__ = moved.renamed(__name__, Card="TransferTable")
