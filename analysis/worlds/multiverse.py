"""The multiverse of an effect: its estimate under every reasonable choice of the analysis.

A claim is tested in one window, by one outcome, one smoother and one model over worlds. `specifications` estimates the
difference of the same two arms under the alternatives (Simonsohn, Simmons and Nelson 2020, "Specification curve
analysis"; Steegen et al. 2016, "Increasing transparency through a multiverse analysis"):

    window     the windows and budgets of KL of `WINDOWS`
    outcome    golden reward and win rate, each in its own unit and judged by its own ROPE
    smoother   the Gaussian process of verdicts, straight lines between checkpoints, a parabola through SFT
    settings   all that each arm ran; those that both ran, in equal steps; each of these alone
    pooling    the model of verdicts (Student t, errors of worlds); the classical t interval over worlds
    worlds     all; each half; without the world that lies furthest from the median

The first four are crossed. Pooling and worlds vary one at a time from there, at the smoother and settings of verdicts,
so that a curve stays readable.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import stdtrit

from analysis.load import Results, Table, shared_axes, units
from analysis.worlds import measured, smoother
from analysis.worlds.pooled import pool_effects
from sweeps import paper
from sweeps.claims import Claim
from sweeps.estimands import (
    BestDifference,
    InWorlds,
    MatchedDifference,
    Seed,
    Unanswerable,
    WorldEstimate,
)
from sweeps.estimands.base import contrast
from sweeps.estimands.windows import Window

ROPES: Mapping[str, float] = {"golden_reward": paper.REWARD_ROPE, "win_rate": paper.ROPE}
"""Outcomes, each with the difference that is practically nothing."""
Smoothness: TypeAlias = Callable[[str, str], smoother.Hyperparameters]
"""The hyperparameters of a task and an outcome, which all pairs of arms share."""
USUAL = {"smoother": "Gaussian process", "settings": "all", "pooling": "t8 model", "worlds": "all"}
"""What verdicts use."""
EQUAL = "common, equal steps"
CHOICES = ("window", "outcome", "smoother", "settings", "pooling", "worlds")
SINGLE = 6
"""Most settings that are each tried alone."""
_NODES = 65


class Place(NamedTuple):
    """A window of KL from ``low`` to ``high`` nats or, if ``low`` is None, the best within ``high`` nats (infinite: by
    whatever the steps reached)."""

    low: float | None
    high: float
    per_token: bool = False

    def words(self) -> str:
        """The place in words."""
        if self.low is None:
            return f"best within {self.high:g} nats" if self.high < math.inf else "best, all steps"
        return Window(self.low, self.high, self.per_token).words()

    def read(self, curves: Sequence[Any]) -> list[WorldEstimate]:
        """The quantity of each arm's curve in one world, as estimands take it. May raise `Unanswerable`."""
        if self.low is None:
            return [curve.best(math.sqrt(self.high)) for curve in curves]
        return Window(self.low, self.high, self.per_token).read(curves)


WINDOWS = (
    Place(0.5, 3.0), Place(1.0, 4.0), Place(3.0, 8.0), Place(0.04, 0.25, per_token=True),
    Place(None, 4.0), Place(None, 8.0), Place(None, 16.0), Place(None, math.inf),
)  # fmt: skip


class ByRun:
    """The curve of every run of an arm in a world by itself, without a model over runs; read as
    `analysis.worlds.smoother.Curves`. Its errors are not known, and become a part of the scatter between worlds."""

    def __init__(
        self, points: smoother.Checkpoints, tokens: float, form: Callable[..., np.ndarray]
    ) -> None:
        self.tokens, self._form = tokens, form
        numbers = range(int(points.setting.max()) + 1)
        self.settings = points.names or tuple(numbers)
        self.reach = np.array([points.d[points.setting == one].max() for one in numbers])
        self._runs = [
            (points.d[points.run == run], points.change[points.run == run])
            for run in np.unique(points.run)
        ]
        self._setting = [
            self.settings[points.setting[points.run == run][0]] for run in np.unique(points.run)
        ]

    def window(
        self, low: float, high: float, settings: Collection[Any] | None = None
    ) -> WorldEstimate:
        """Mean change over a window, over the runs (of these settings) that reach its middle, each as far as it was
        observed."""
        means = []
        for (d, change), setting in zip(self._runs, self._setting, strict=True):
            end = min(high, float(d.max()))
            if (settings is None or setting in settings) and end >= (low + high) / 2:
                means.append(self._form(d, change, np.linspace(low, end, _NODES)).mean())
        if not means:
            raise Unanswerable(f"no checkpoint lies beyond a KL of {((low + high) / 2) ** 2:.2g}")
        return WorldEstimate(float(np.mean(means)))

    def best(self, within: float) -> WorldEstimate:
        """The largest change of all runs within a distance; at least 0, which is SFT."""
        tops = [
            self._form(d, change, np.linspace(0, min(within, float(d.max())), _NODES)).max()
            for d, change in self._runs
        ]
        return WorldEstimate(float(max(0.0, *tops)))

    def _no_typical_curve(self, *_: Any) -> Any:
        raise Unanswerable("single runs have no typical curve")

    difference = peak = typical = _no_typical_curve


def straight(
    d: Float[np.ndarray, " n"], change: Float[np.ndarray, " n"], at: Float[np.ndarray, " node"]
) -> Float[np.ndarray, " node"]:
    """Straight lines between checkpoints, from SFT on."""
    order = np.argsort(d)
    return np.interp(at, np.append(0.0, d[order]), np.append(0.0, change[order]))


def parabola(
    d: Float[np.ndarray, " n"], change: Float[np.ndarray, " n"], at: Float[np.ndarray, " node"]
) -> Float[np.ndarray, " node"]:
    """The parabola through SFT, d (a - b d), nearest to the checkpoints (Gao et al. 2023, best-of-n)."""
    (a, b), *_ = np.linalg.lstsq(np.stack([d, -(d**2)], axis=1), change, rcond=None)
    return at * (a - b * at)


SMOOTHERS: Mapping[str, Callable[..., np.ndarray] | None] = {
    USUAL["smoother"]: None,
    "straight lines": straight,
    "parabola": parabola,
}


def contrasts(results: Results) -> list[tuple[str, str]]:
    """The pairs of arms whose curves the study's claims compare: of its `MatchedDifference` and `BestDifference` tests,
    in the order of the claims."""
    tests = [test.estimand for claim in _claims(results) for test in claim.tests]
    pairs = [
        (one.first, one.second)
        for one in tests
        if isinstance(one, MatchedDifference | BestDifference)
    ]
    return list(dict.fromkeys(pairs))


def _claims(results: Results) -> Sequence[Claim]:
    """The claims as the study's file states them now, or as they were stored if there is no file."""
    return results.claims if results.present_claims is None else results.present_claims


def claimed(results: Results, pair: tuple[str, str], equal: str) -> set[tuple[str, str, str]]:
    """Window, outcome and settings of the tests and effects beside them that compare these arms. ``equal`` is the name
    of equal settings and steps: where both arms have no others, these are all."""
    found = set()
    for claim in _claims(results):
        for one in (*(test.estimand for test in claim.tests), *claim.beside):
            if isinstance(one, MatchedDifference) and (one.first, one.second) == pair:
                place = Place(one.low, one.high, one.per_token)
                found.add((place.words(), one.outcome, USUAL["settings"]))
            if isinstance(one, BestDifference) and (one.first, one.second) == pair:
                place = Place(None, math.inf if one.within is None else one.within)
                chosen = equal if one.equal else USUAL["settings"]
                found.add((place.words(), one.outcome, chosen))
    return found


def specifications(
    results: Results, smoothness: Smoothness, curve: Callable[..., Any] = smoother.Curves
) -> Table:
    """Every specification of every contrast on every task of a study.

    Args:
        results: of the study. smoothness: gives the hyperparameters of a task and an outcome. curve: makes the curves
            of an arm in one world as `smoother.Curves` does. Both are those of verdicts
            (`analysis.verdicts.evidence.Pool`), which share with the multiverse what they have in common.

    The columns are task, first, second, `CHOICES`, claimed (a claim of the study is tested, or shown, this way), number
    (of worlds), estimate, low and high (90% interval), rope, verdict ("reproduced" if the first arm is better by more
    than the ROPE, "contradicted" if it is not, "undecided"), each by P >= 0.95; where there is no estimate, reason
    says why. Outcomes that were not measured are left out. Empty for a study without such contrasts.
    """
    rows = []
    for task, pair in itertools.product(results.tasks, contrasts(results)):
        for outcome in ROPES:
            try:
                worlds = Worlds.of(results, task, pair, outcome, smoothness, curve)
            except Unanswerable:
                continue
            equal = EQUAL if EQUAL in worlds.checkpoints else USUAL["settings"]
            known = claimed(results, pair, equal)
            for found in _crossed(worlds, outcome):
                key = found["window"], outcome, found["settings"]
                usual = all(
                    found[name] == USUAL[name] for name in ("smoother", "pooling", "worlds")
                )
                begins = {"task": task, "first": pair[0], "second": pair[1]}
                rows.append({**begins, **found, "claimed": usual and key in known})
    return pd.DataFrame(rows)


@dataclasses.dataclass(frozen=True)
class Worlds:
    """The checkpoints of two arms on a task, by settings, and what is needed to smooth them."""

    checkpoints: Mapping[str, Mapping[tuple[Seed, str], smoother.Checkpoints]]
    pair: tuple[str, str]
    by: smoother.Hyperparameters
    tokens: Mapping[Seed, float]
    families: int
    curve: Callable[..., Any]

    @classmethod
    def of(
        cls,
        results: Results,
        task: str,
        pair: tuple[str, str],
        outcome: str,
        smoothness: Smoothness,
        curve: Callable[..., Any],
    ) -> "Worlds":
        """Raises `Unanswerable` for an outcome that was not measured, or without checkpoints of both arms."""
        needed = dict.fromkeys((*measured.NEEDED, *results.axes, "length", outcome))
        rows = results.task(task)
        rows = rows[[name for name in needed if name in rows]]
        everything = measured.checkpoints(rows, pair, results.axes, outcome)
        measured_arms = {arm for _, arm in everything}
        lacking = [arm for arm in pair if arm not in measured_arms]
        if lacking:
            raise Unanswerable(f"arm {lacking[0]} has no checkpoints after the first step")
        parts = {
            name: measured.checkpoints(chosen, pair, results.axes, outcome)
            for name, chosen in settings(rows, results.axes, pair).items()
            if name != USUAL["settings"]
        }
        parts = {USUAL["settings"]: everything, **parts}
        tokens = measured.starts(rows, "length") if "length" in rows else {}
        return cls(parts, pair, smoothness(task, outcome), tokens, results.families, curve)

    def curves(self, form: Callable[..., np.ndarray] | None, chosen: str) -> list[dict[Seed, Any]]:
        """The curves of both arms by world, to be read at every place."""
        curves: list[dict[Seed, Any]] = [{}, {}]
        for (world, arm), points in self.checkpoints[chosen].items():
            tokens = self.tokens.get(world, math.nan)
            curves[self.pair.index(arm)][world] = (
                self.curve(points, self.by, tokens) if form is None else ByRun(points, tokens, form)
            )
        return curves


def settings(rows: Table, axes: Sequence[str], pair: tuple[str, str]) -> dict[str, Table]:
    """The rows of two arms under the choices of settings: all; those that both ran, for as many steps as both took, if
    this leaves something out; and each of these alone, up to `SINGLE`, if there are several."""
    rows = rows[rows["arm"].isin(pair)]
    of_arm = [rows[rows["arm"] == arm] for arm in pair]
    shared = tuple(axis for axis in shared_axes(rows, pair, axes) if axis != "steps")
    keys = [[setting for _, setting in units(part, shared)] for part in of_arm]
    common = sorted(set(keys[0]) & set(keys[1]), key=str)
    found = {USUAL["settings"]: rows}
    steps = min(int(part["step"].max()) for part in of_arm)
    key = np.array([common.index(s) if s in common else -1 for _, s in units(rows, shared)])
    equal = (rows["step"] <= steps).to_numpy() & (key >= 0)
    if common and not equal.all():
        found[EQUAL] = rows[equal]
    if len(common) > 1:
        for index, setting in enumerate(common[:SINGLE]):
            named = zip(shared, setting, strict=True)
            words = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in named)
            found[words] = rows[equal & (key == index)]
    return found


def _crossed(worlds: Worlds, outcome: str) -> Iterator[dict[str, Any]]:
    """The rows of one outcome."""
    usual = {name: USUAL[name] for name in ("pooling", "worlds")}
    for chosen, (name, form) in itertools.product(worlds.checkpoints, SMOOTHERS.items()):
        curves = worlds.curves(form, chosen)
        for place in WINDOWS:
            row = {"window": place.words(), "outcome": outcome, "smoother": name}
            row |= {"settings": chosen, **usual}
            try:
                effects = contrast(curves, (1.0, -1.0), place.read, {})
            except Unanswerable as problem:
                yield row | _judged(None, outcome, 0, str(problem))
                continue
            yield row | _estimated(effects, outcome, worlds.families)
            if name == USUAL["smoother"] and chosen == USUAL["settings"]:
                yield row | {"pooling": "t interval"} | _classical(effects, outcome)
                for subset, some in subsets(effects).items():
                    yield row | {"worlds": subset} | _estimated(some, outcome, worlds.families)


def subsets(effects: InWorlds) -> dict[str, InWorlds]:
    """Choices of worlds other than all: the halves, of four or more; all but the one furthest from the median, of three
    or more."""
    worlds = sorted(effects.estimates)
    chosen: dict[str, list[Seed]] = {}
    if len(worlds) >= 4:
        half = len(worlds) // 2
        chosen = {"first half": worlds[:half], "second half": worlds[half:]}
    if len(worlds) >= 3:
        values = {world: effects.estimates[world].value for world in worlds}
        middle = float(np.median(list(values.values())))
        extreme = max(worlds, key=lambda world: abs(values[world] - middle))
        chosen["without the extreme one"] = [world for world in worlds if world != extreme]
    return {
        name: dataclasses.replace(
            effects, estimates={world: effects.estimates[world] for world in some}
        )
        for name, some in chosen.items()
    }


def _estimated(effects: InWorlds, outcome: str, families: int) -> dict[str, Any]:
    """Estimate and interval by the model of verdicts."""
    count = len(effects.estimates)
    if count < 2:
        return _judged(None, outcome, count, "only one world has it")
    posterior = pool_effects(effects, ROPES[outcome], families)
    if posterior is None:
        return _judged(None, outcome, count, "the worlds do not differ at all")
    return _judged(posterior.quantile(np.array([0.5, 0.05, 0.95])), outcome, count)


def _classical(effects: InWorlds, outcome: str) -> dict[str, Any]:
    """Mean over worlds and its t interval."""
    values = np.array([part.value for part in effects.estimates.values()])
    count = len(values)
    if count < 2:
        return _judged(None, outcome, count, "only one world has it")
    half = stdtrit(count - 1, 0.95) * values.std(ddof=1) / math.sqrt(count)
    return _judged(values.mean() + half * np.array([0.0, -1.0, 1.0]), outcome, count)


def _judged(
    found: Float[np.ndarray, " three"] | None, outcome: str, count: int, reason: str = ""
) -> dict[str, Any]:
    """Estimate, low, high and verdict, or the reason why there are none."""
    estimate, low, high = (math.nan,) * 3 if found is None else (float(x) for x in found)
    rope = ROPES[outcome]
    verdict = "undecided"
    if low > rope:
        verdict = "reproduced"
    elif high <= rope:
        verdict = "contradicted"
    numbers = {"number": count, "estimate": estimate, "low": low, "high": high, "rope": rope}
    return {**numbers, "verdict": verdict, "reason": reason}
