"""Figures of effects over the levels of a setting, such as the size of the policy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.figures import effects, inputs, learning, sizes
from analysis.figures.inputs import Exhibit, Material
from analysis.figures.style import Drawing
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
        whose = f", {top} = 100%" if tops else " of win rates"
        words = (inputs.axis_words(path, material), f"90% quantile{whose}")
        own = inputs.level_names(material.results, path, places)
        names = [own[level] for level in places]
        ranked = inputs.places_named(places)
        yield Exhibit(
            Drawing(
                f"levels-{path}",
                f"High quantile of the win rates at every level of {path}, by arm.",
                lambda width, table=table, column=column, words=words, ranked=ranked, names=names: (
                    sizes.by_level(table, material.arms, column, words[1], width, names)
                    if ranked
                    else sizes.along(table, material.arms, column, words, width, percents=True)
                ),
                table,
            ),
            f"How does the comparison change with {inputs.level_words(path, material)}?",
            "The 90% quantile of the win rates of an arm’s checkpoints"
            + (f", relative to that of {top}" if tops else "")
            + ". Small marks are seeds, large ones their mean; a paper-style estimate, without a "
            "model.",
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
            Drawing(
                f"places-{path}",
                f"KL at the fitted peak of every arm at every level of {path}, with intervals.",
                lambda width, table=table, words=words: sizes.peak_places(
                    table, material.arms, words, width
                ),
                table,
            ),
            f"Does the peak’s KL change with {inputs.level_words(path, material)}?",
            "KL at the peak of a typical seed’s curve, with 90% intervals, on a square-root scale. "
            "Hollow marks: the best is at an end of the observed range.",
            central=any(
                one["kind"].startswith("PeakPlace") and one.get("path") == path for one in spoken
            ),
        )


def along_figures(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    """Distance to the exact optimum over every swept or measured number that varies."""
    metric = "optimum_distance"
    last = inputs.finished(material.results)
    if metric not in last or last[metric].isna().all():
        return
    last = last[last[metric].notna()]
    facts = [f"{FACTS}data_support_mass", f"{FACTS}coverage"]
    own = [
        name
        for name in dict.fromkeys([*inputs.numeric_axes(material, last), *facts])
        if name in last
    ]
    for path in own:
        if last[path].nunique() < 2:
            continue
        groups = last.groupby(["task", "arm", "seed", path])[metric].mean().reset_index()
        table = groups.rename(columns={path: "size"}).assign(path=path)
        words = (
            inputs.axis_words(path, material),
            f"{inputs.capital(metric)} ({declared(metric).unit})",
        )
        scattered = path.startswith(FACTS)
        yield Exhibit(
            Drawing(
                f"distance-{path}",
                f"Distance of the trained policies to the exact optimum over {path}, by arm.",
                lambda width, table=table, words=words, scattered=scattered: (
                    learning.scatter(table, material.arms, ("size", metric), words,
                                     (False, False), width)
                    if scattered
                    else sizes.along(table, material.arms, metric, words, width)
                ),
                table,
            ),
            f"How near to the exact optimum, by {inputs.path_words(path)}?",
            "Total variation between the trained policy and the optimum that theory gives, mean "
            "over prompts, at the last checkpoint, averaged over the other settings. Small marks "
            + ("are settings and seeds, large ones" if scattered else "are seeds, large ones")
            + " means.",
            central=not scattered,
        )  # fmt: skip


def each_level_figures(material: Material, spoken: Spoken) -> Iterator[Exhibit]:
    """One figure of effects by level, for claims that test every level of a path."""
    rows = effects.level_effects(material.entries)
    if not rows:
        return
    yield Exhibit(
        Drawing(
            "every-level",
            "Effects at each level, with 90% intervals and the region of practical equivalence.",
            lambda width: effects.forest(rows, width),
            effects.effects_table(rows),
        ),
        "How large are the effects at each level?",
        "What claims say of every level, level by level: posterior medians and 90% intervals. The "
        "verdict rests on the smallest.",
    )
