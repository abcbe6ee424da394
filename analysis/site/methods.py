"""The page on methods: definitions, the model, the rules, and the quality of every fit."""

import contextlib
import inspect
from collections.abc import Iterator, Sequence

import sweeps.estimands as known
from analysis import html
from analysis.figures.inputs import estimands, metric_words
from analysis.html import Html, escape, unit_name
from analysis.site.page import Place, document, navigation
from analysis.site.study_data import StudyData
from analysis.verdicts.evidence import LACKING
from analysis.worlds.pooled import NU
from analysis.worlds.smoother import PRIORS
from sweeps.estimands import Unanswerable
from testbed.metric_table import declared

MODEL = (
    "Within a world. The change of an outcome since SFT at an arm’s checkpoints is smoothed over d = √KL by a Gaussian "
    "process (Matérn 5/2, nothing at d = 0), with a deviation of each setting, a wandering of each run, which makes "
    "its checkpoints correlated, and noise. The standard deviations of these parts and the length of the kernel are "
    "those of a task and outcome, at their most probable values; given them, the mean of a curve over a window of KL "
    "and its standard error are exact. The difference of two arms in a world is one estimate with a standard error.",
    "Between worlds. The estimates of worlds are pooled by random effects: each is normal around the effect of its "
    f"world, and these scatter around the effect of the task like Student’s t with {NU:g} degrees of freedom, so that "
    "an odd world moves the interval little. Each effect on each task has a scale of its own, its prior is wide. "
    "Worlds that share a golden reward scatter around a common value. The posterior is computed on a grid, without "
    "Monte Carlo error. Effects of tasks scatter around that of a typical one (“all tasks”) in the same way. Values of "
    "last checkpoints are averaged over the settings of a world, and pooled likewise.",
    "What is compared. Arms are compared in fixed windows of KL, and by their best within a budget of KL or of steps: "
    "neither moves with the settings that happened to be run. The golden reward decides, in standard deviations of "
    "SFT’s; its variance is 5 to 8 times smaller than that of win rates, which stand beside it and decide nothing.",
    "Misfit. Where the checkpoints of a world lie on one side of its curve by more than twice the standard deviation "
    "that the model gives their mean, this mean is added to the world’s error. No verdict is given if the mean misfit "
    f"of all worlds exceeds what the rule calls practically nothing, if more than {100 * LACKING:.0f}% of the worlds "
    "lack the effect, or from a single world.",
)
WORDS = (
    ("KL", "KL(policy ‖ SFT) of whole responses in nats, mean over prompts: the sum over positions "
     "of the exact divergence of the next token, sampled from the policy"),
    ("golden reward", "mean over fixed prompts of the reward that labels and judges, in standard deviations over SFT "
     "samples, whose mean is 0"),
    ("win rate", "share of these prompts on which the golden reward prefers the policy’s response "
     "to the opponent’s: SFT’s, or the golden baseline’s where one was trained"),
    ("golden baseline", "the online run that learns from the golden reward itself, at the base "
     "configuration"),
    ("D_golden", "pairs by the writers, labelled by the labeler"),
    ("coverage", "measured concentrability of the target over the data"),
    ("world", "a redraw of golden reward, writers, data and training by a seed: the unit of replication"),
    ("diverged", "loss or parameters stopped being finite: the run is frozen there, kept and counted"),
    ("90% quantile", "of the win rates of all of an arm’s checkpoints: the paper’s measure in its "
     "comparison of sizes"),
    ("upper envelope", "the best win rate of an arm’s checkpoints up to a KL, in bins of log KL"),
)  # fmt: skip
PARTS = {
    "curve": "s.d. of curves",
    "setting": "s.d. of settings",
    "run": "s.d. of runs",
    "noise": "s.d. of noise",
    "length": "length, √nats",
}
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
            "Definitions, the model of worlds and their curves, the rules that decide, the smoothness of curves.",
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
        "Log-normal, with these medians, in units of the root mean square of a task’s changes (the length in √nats), "
        "and log standard deviations:"
    )
    rows = [(PARTS[name], f"{median:g}", f"{width:g}") for name, (median, width) in PRIORS.items()]
    return html.details(
        "Priors of the curves",
        html.paragraph(words),
        html.table(("", "median", "log s.d."), rows, 2),
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
        "given."
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
    """The scales of the curves of every outcome, task by task."""
    name = study_data.results.name
    place, title = f"fits-{html.slug(name)}", f"Curves of study {name}"
    rows = []
    for outcome in study_data.outcomes:
        for task in study_data.results.tasks:
            with contextlib.suppress(Unanswerable):
                evidence = next(at for at in study_data.panels.values() if at.task == task)
                by = evidence.study.hyperparameters(task, outcome.metric)
                unit = declared(outcome.metric).unit
                scales = [html.number(value, unit) for value in by[:-1]]
                said = metric_words(outcome.metric)
                rows.append((said, unit_name(unit), task, *scales, f"{by.length:.2g}"))
    if not rows:
        why = html.paragraph("No curve was fitted: no claim of this study speaks of one.")
        return html.section(place, title, why)
    header = ("outcome", "unit", "task", *PARTS.values())
    return html.section(place, title, html.table(header, rows, numeric=len(PARTS)))
