"""Figures of effects over the levels of a setting, such as the size of the policy."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.figures import effects, inputs, learning, sizes
from analysis.figures.inputs import Material
from analysis.figures.style import Exhibit
from testbed.metric_table import FACTS, declared

Spoken = Sequence[Mapping[str, Any]]


def relative_figures(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    """Win rates over the levels of each stratum, relative to the reference arm that claims name."""
    for path, places in material.sizes.items():
        tops = [one["top"] for one in spoken if one.get("path") == path and "top" in one]
        top = tops[0] if tops else material.arms[0]
        table = sizes.relative_table(material.results.table, path, top, places)
        if table.empty:
            continue
        column = "relative" if tops else "quantile"
        words = f"90% quantile{f', {top} = 100%' if tops else ' of win rates'}"
        shown = table, material.arms, column
        if inputs.places_named(places):
            names = inputs.level_names(material.results, path, places)
            draw = functools.partial(sizes.by_level, *shown, words, [names[at] for at in places])
        else:
            both = inputs.axis_words(path, material), words
            draw = functools.partial(sizes.along, *shown, both, percents=True)
        yield Exhibit(
            f"levels-{path}",
            f"How does the comparison change with {inputs.level_words(path, material)}?",
            f"High quantile of the win rates at every level of {path}, by arm.",
            "The 90% quantile of the win rates of an arm’s checkpoints"
            + (f", relative to that of {top}" if tops else "")
            + ". Small marks are seeds, large ones their mean; a paper-style estimate, without a model.",
            draw,
            table,
        )


def peak_place_figures(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    """KL at the fitted peaks over the levels of each stratum."""
    if not material.fits:
        return
    peaks = effects.peaks_table(material.fits)
    for path, places in material.sizes.items():
        at = [material.where[panel][1].get(path) for panel in peaks["panel"]]
        if inputs.places_named(places) or any(level not in places for level in at):
            continue
        tasks = [material.where[panel][0] for panel in peaks["panel"]]
        table = peaks.assign(task=tasks, level=at, size=[places[level] for level in at])
        words = inputs.axis_words(path, material)
        yield Exhibit(
            f"places-{path}",
            f"Does the peak’s KL change with {inputs.level_words(path, material)}?",
            f"KL at the fitted peak of every arm at every level of {path}, with intervals.",
            "KL at the peak of a typical seed’s curve, with 90% intervals, on a square-root scale. "
            "Hollow marks: the best is at an end of the observed range.",
            functools.partial(sizes.peak_places, table, material.arms, words),
            table,
            any(one["kind"].startswith("PeakPlace") and one.get("path") == path for one in spoken),
        )


def along_figures(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    """Distance to the exact optimum over every swept or measured number that varies."""
    metric = "optimum_distance"
    last = inputs.finished(material.results)
    if metric not in last or last[metric].isna().all():
        return
    last = last[last[metric].notna()]
    facts = [f"{FACTS}data_support_mass", f"{FACTS}coverage"]
    for path in dict.fromkeys([*inputs.numeric_axes(material, last), *facts]):
        if path not in last or last[path].nunique() < 2:
            continue
        groups = last.groupby(["task", "arm", "seed", path])[metric].mean().reset_index()
        table = groups.rename(columns={path: "size"}).assign(path=path)
        words = (
            inputs.axis_words(path, material),
            f"{inputs.capital(metric)} ({declared(metric).unit})",
        )
        scattered = path.startswith(FACTS)
        shown = table, material.arms
        draw = (
            functools.partial(learning.scatter, *shown, ("size", metric), words, (False, False))
            if scattered
            else functools.partial(sizes.along, *shown, metric, words)
        )
        yield Exhibit(
            f"distance-{path}",
            f"How near to the exact optimum, by {inputs.path_words(path)}?",
            f"Distance of the trained policies to the exact optimum over {path}, by arm.",
            "Total variation between the trained policy and the optimum that theory gives, mean over prompts, at the "
            "last checkpoint, averaged over the other settings. Small marks "
            f"{'are settings and seeds, large ones' if scattered else 'are seeds, large ones'} means.",
            draw,
            table,
            not scattered,
        )


def each_level_figures(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    """One figure of effects by level, for claims that test every level of a path."""
    rows = effects.level_effects(material.entries)
    if rows:
        yield Exhibit(
            "every-level",
            "How large are the effects at each level?",
            "Effects at each level, with 90% intervals and the region of practical equivalence.",
            "What claims say of every level, level by level: posterior medians and 90% intervals. The verdict rests on "
            "the smallest.",
            functools.partial(effects.forest, rows),
            effects.effects_table(rows),
        )
