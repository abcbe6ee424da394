"""The page on methods: definitions, the model, the rules, and the quality of every fit."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import sweeps.estimands as known
from analysis import html
from analysis.curves.hierarchy import POPULATION_SD, PRIORS, SCALE_LOG_SD
from analysis.figures.inputs import estimands
from analysis.html import Html, escape
from analysis.site.page import Place, document, navigation
from analysis.site.study_data import StudyData

MODEL = (
    "Win rate is modelled on the logit scale as c + d (α − β d) with d = √KL, the simpler of the two "
    "forms that Gao et al. (2023) found for reward under optimisation. Tasks (and the levels of what makes a world "
    "of its own, such as the policy’s size), seeds and checkpoints are nested levels of variation, "
    "the arms of a seed start from the same SFT policy, and the binomial noise of each win rate is "
    "known. All checkpoints of one run count as one observation. Curves, peaks and gaps are those "
    "of a typical seed of a task; under “all tasks”, those of a typical task. None is read outside "
    "the range in which an arm was observed, and none decides if it misses a fifth of its arm’s "
    "checkpoints by more than five points on average.",
    "Differences of last checkpoints are averaged within a seed; the seeds are the sample of a "
    "Student t posterior. A seed counts once, however many settings and checkpoints it has.",
)
WORDS = (
    ("KL", "KL(policy ‖ SFT) of whole responses in nats, mean over prompts: the sum over positions "
     "of the exact divergence of the next token, sampled from the policy"),
    ("win rate", "share of fixed prompts on which the golden reward prefers the policy’s response "
     "to the golden baseline’s"),
    ("golden baseline", "the online run that learns from the golden reward itself, at the base "
     "configuration"),
    ("D_golden", "pairs by the writers, labelled by the labeler"),
    ("coverage", "measured concentrability of the target over the data"),
    ("seed", "a redraw of world, data and training: the unit of replication"),
    ("diverged", "loss or parameters stopped being finite: the run is frozen there, kept and counted"),
    ("90% quantile", "of the win rates of all of an arm’s checkpoints: the paper’s measure in its "
     "comparison of sizes"),
    ("upper envelope", "the best win rate of an arm’s checkpoints up to a KL, in bins of log KL"),
)  # fmt: skip
RULES = (
    ("More", "the claim says that the effect exceeds the region of practical equivalence (rope)"),
    ("NoMore", "the claim says that the effect is at most the rope: negligible or reversed"),
    ("Same", "the claim says that the effect lies within the rope on both sides: equivalence"),
)


def page(all_study_data: Sequence[StudyData], places: Sequence[Place]) -> str:
    """The whole page as HTML."""
    body = [
        navigation(places, "methods.html"),
        html.header(
            "Methods",
            "How the numbers were made",
            "Definitions, the model of the curves, the rules that decide, and how well every fit did.",
        ),
        html.section("words", "Words", html.definitions(WORDS)),
        html.section("model", "The model", *(html.paragraph(part) for part in MODEL), _priors()),
        html.section("rules", "The rules", *_rules()),
        html.section("effects", "The effects", _effects(all_study_data)),
        *(_fits(study_data) for study_data in all_study_data),
    ]
    return document("How the numbers were made", body)


def _priors() -> Html:
    words = (
        f"Coefficients are normal with standard deviation {POPULATION_SD:g} logits at the mean "
        f"distance, scales log-normal with log standard deviation {SCALE_LOG_SD:g} around:"
    )
    rows = [(words_of, f"{median:g}") for median, words_of in PRIORS.values()]
    return html.details(
        "Priors",
        html.paragraph(words),
        html.table(("standard deviation of", "median, logits"), rows, 1),
    )


def _rules() -> Iterator[Html]:
    yield html.paragraph(
        "A rule was stored with the study before its runs. “Reproduced”: its condition holds "
        "with posterior probability of at least the confidence, 0.95 unless said otherwise; "
        "“contradicted”: it fails with that probability; “undecided”: neither. Intervals are "
        "central, of mass 2 × confidence − 1, so that a one-sided verdict means exactly that the "
        "whole interval lies on one side. A claim with several tests is reproduced if all hold "
        "and contradicted if one fails. Where an effect is only known to be at least or at most "
        "something (a peak that was not reached), verdicts that the rest could overturn are not "
        "given. A fit that did not converge gives no verdict."
    )
    yield html.definitions(RULES)


def _effects(all_study_data: Sequence[StudyData]) -> Html:
    """The definition of each kind of effect in use."""
    kinds = {
        one["kind"]: None for study_data in all_study_data for one in estimands(study_data.results)
    }
    pairs = []
    for kind in sorted(kinds):
        estimand = getattr(known, kind, None)
        text = inspect.getdoc(estimand) if estimand is not None else None
        if text:
            parts = (" ".join(part.split()) for part in text.split("\n\n"))
            pairs.append((kind, Html("<br>".join(escape(part.replace("`", "")) for part in parts))))
    return html.definitions(pairs)


def _fits(study_data: StudyData) -> Html:
    """Convergence, scales, and distances between curves and points, panel by panel."""
    name = study_data.results.name
    place, title = f"fits-{html.slug(name)}", f"Fits of study {name}"
    if not study_data.fits and not study_data.unfitted:
        why = html.paragraph("No curve was fitted: no claim of this study speaks of one.")
        return html.section(place, title, why)
    together: dict[Any, list[str]] = {}
    for panel, fit in study_data.fits.items():
        together.setdefault(fit.diagnostics, []).append(panel)
    rows = [
        (
            "; ".join(panels),
            d.trouble() or "good",
            f"{d.rhat:.3f}",
            f"{d.ess:.0f}",
            f"{d.divergences} of {d.draws}",
        )
        for d, panels in together.items()
    ]
    rows += [(panel, html.sentence(why), "", "", "") for panel, why in study_data.unfitted.items()]
    columns = ("fitted together", "fit", "R-hat", "effective draws", "divergences")
    return html.section(place, title, html.table(columns, rows, numeric=3), _closer(study_data))


def _closer(study_data: StudyData) -> Html:
    """Scales of every panel, and the place where its curves miss the points most."""
    scales, misfits = [], []
    for panel, fit in study_data.fits.items():
        scales += _scales(panel, fit)
        for arm in fit.arms:
            worst, where = fit.misfit(arm)
            points = html.number(worst, "probability", signed=True)
            misfits.append((panel, arm, f"{points} points", f"{where**2:.2g}"))
    if not misfits:
        return Html("")
    words = (
        "Entries with several numbers are slope and curvature (by arm, where there is one an arm). "
        "Below: the largest mean difference of observed and fitted win rate over a fifth of an arm’s "
        "checkpoints, ordered by KL."
    )
    return html.details(
        "Levels of variation, and fit to the points",
        html.table(("", "standard deviation of", "posterior, logits"), scales),
        html.paragraph(words),
        html.table(("", "arm", "difference", "at KL"), misfits, numeric=2),
    )


def _scales(title: str, fit: Any) -> list[tuple[str, str, str]]:
    rows = []
    scales: Mapping[str, Any] = fit.scales
    for name, (_, words) in PRIORS.items():
        if name not in scales or np.size(scales[name]) == 0:
            continue
        draws = np.asarray(scales[name]).reshape(fit.diagnostics.draws, -1)
        low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95], axis=0)
        said = "; ".join(
            f"{m:.2f} ({lo:.2f} to {hi:.2f})" for lo, m, hi in zip(low, middle, high, strict=True)
        )
        rows.append((title, words, said))
    return rows
