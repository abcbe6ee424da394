"""Posterior draws of every effect that a claim tests or shows, and the effects of the worlds behind them, in a file for
ArviZ or pandas.

netCDF has the two groups that ArviZ knows (``arviz.from_netcdf``), each a data set of `xarray`:

    posterior       effect (chain, draw, test): draws of the effect of the task
    observed_data   estimate, error (test, world): effects of worlds and their standard errors, NaN where there is none

``test`` numbers the effects; the coordinates `LABELS` along it say which they are. ``world`` is a seed. Parquet has the
same as one table, a row a draw or a world (`as_table`), and needs no further package.

Draws are quantiles of a posterior that is computed on a grid: equally likely, without Monte Carlo error, in an order
that is random so that diagnostics of chains see no trend. Each effect has a posterior of its own, so that draws of
different effects belong together in no way.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis import table
from analysis.load import Results, Table, load_all
from analysis.verdicts.verdict import gather, questions
from sweeps.estimands import Estimand
from sweeps.rules import Draws
from sweeps.store import files
from sweeps.store.store import Store
from testbed.errors import InvalidInput, unknown

if TYPE_CHECKING:
    import xarray

LABELS = ("study", "claim", "task", "role", "number", "label", "unit", "rope")
"""What tells effects apart: ``role`` is "test" or "beside", ``number`` counts a claim's effects of one role from 0,
``rope`` is the largest effect that is practically nothing (NaN beside)."""
FORMS = ("nc", "parquet")


@dataclasses.dataclass(frozen=True)
class Effect:
    """An effect with draws: its `LABELS`, the draws (draw,), and the details of its estimate."""

    labels: Mapping[str, Any]
    values: np.ndarray
    details: Mapping[str, Any]

    @property
    def worlds(self) -> Sequence[Mapping[str, Any]]:
        """seed, estimate and error of every world; empty for a typical task."""
        return self.details.get("worlds", ())


def effects(results: Results) -> list[Effect]:
    """Every effect of a study that has an interval, claim by claim and task by task."""
    found = []
    for asked in questions(results, gather(results)):
        tests = [(test.estimand, test.rule.rope) for test in asked.claim.tests]
        beside = [(estimand, None) for estimand in asked.claim.beside]
        for role, parts in (("test", tests), ("beside", beside)):
            for number, (estimand, rope) in enumerate(parts):
                draws = _draws(estimand, asked.evidence, rope)
                if draws.values.size < 2 or draws.exact:
                    continue
                labels: dict[str, Any] = {
                    "study": results.name,
                    "claim": asked.claim.id,
                    "task": asked.task,
                    "role": role,
                    "number": number,
                    "label": draws.label,
                    "unit": draws.unit,
                    "rope": np.nan if rope is None else rope,
                }
                found.append(Effect(labels, _shuffled(draws.values), draws.details))
    return found


def _draws(estimand: Estimand, evidence: Any, rope: float | None) -> Draws:
    """The draws as `Test.judge` and `Claim.judge_beside` take them."""
    return estimand.draws(evidence) if rope is None else estimand.draws(evidence, rope)


def _shuffled(values: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.asarray(values, dtype=float))


def as_dataset(found: Sequence[Effect]) -> "xarray.DataTree":
    """The two groups, as this module says. Raises `InvalidInput` without xarray, or if there is no effect."""
    try:
        import xarray
    except ModuleNotFoundError as problem:
        raise InvalidInput(
            "netCDF needs the packages of the extra `arviz`: install alignment-testbed[arviz], or write .parquet"
        ) from problem
    if not found:
        raise InvalidInput("no effect has an interval, so there are no draws")
    along = {
        name: ("test", np.array([effect.labels[name] for effect in found])) for name in LABELS
    } | {"test": np.arange(len(found))}
    count = max(len(effect.values) for effect in found)
    draws = np.full((1, count, len(found)), np.nan)
    seeds = sorted({world["seed"] for effect in found for world in effect.worlds})
    known = {name: np.full((len(found), len(seeds)), np.nan) for name in ("estimate", "error")}
    for index, effect in enumerate(found):
        draws[0, : len(effect.values), index] = effect.values
        for world in effect.worlds:
            for name, values in known.items():
                values[index, seeds.index(world["seed"])] = world[name]
    posterior = xarray.Dataset(
        {"effect": (("chain", "draw", "test"), draws)},
        {"chain": np.arange(1), "draw": np.arange(count), **along},
    )
    observed = xarray.Dataset(
        {name: (("test", "world"), values) for name, values in known.items()},
        {"world": np.array(seeds, dtype=int), **along},
    )
    return xarray.DataTree.from_dict({"/posterior": posterior, "/observed_data": observed})


def as_table(found: Sequence[Effect]) -> Table:
    """One table: `LABELS`; group ("posterior" or "observed_data"); draw or world, the other is empty; value; error."""
    parts = [
        pd.DataFrame(rows).assign(**effect.labels) for effect in found for rows in _rows(effect)
    ]
    columns = [*LABELS, "group", "draw", "world", "value", "error"]
    if not parts:
        raise InvalidInput("no effect has an interval, so there are no draws")
    rows = pd.concat([part.reindex(columns=columns) for part in parts], ignore_index=True)
    return rows.astype({"draw": "Int64", "world": "Int64", "error": float})


def _rows(effect: Effect) -> Iterator[dict[str, Any]]:
    """Columns of an effect's draws, and of its worlds."""
    count = np.arange(len(effect.values))
    yield {"group": "posterior", "draw": count, "value": effect.values}
    if effect.worlds:
        of = {
            name: [world[name] for world in effect.worlds] for name in ("seed", "estimate", "error")
        }
        worlds = {"world": of["seed"], "value": of["estimate"], "error": of["error"]}
        yield {"group": "observed_data", **worlds}


def write(directory: Path, out: Path, opened: Sequence[tuple[Store, Any]] = ()) -> int:
    """Write the draws of all studies of a directory as netCDF (.nc) or Parquet (.parquet), and return the number of
    effects. ``opened`` are stores as `sweeps.store.store.read_stores` has read them.

    Raises `InvalidInput` for another suffix, without effects, or if the disk refuses.
    """
    form = out.suffix.removeprefix(".").lower()
    if form not in FORMS:
        raise unknown("format of draws", form, FORMS)
    found = [
        effect for results in load_all(directory, opened).studies for effect in effects(results)
    ]
    if form == "parquet":
        table.write(as_table(found), out)
        return len(found)
    tree = as_dataset(found)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tree.to_netcdf(temporary, engine="h5netcdf")
        temporary.replace(out)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise files.refused(out, problem) from problem
    return len(found)
