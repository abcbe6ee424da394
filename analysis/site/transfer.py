"""The page of the transfer table: the result, every effect simulated and real, and the sources of the numbers."""

from collections.abc import Sequence

from analysis import html
from analysis.figures.style import CaptionedFigure
from analysis.html import Html, element
from analysis.load import Collection, counts
from analysis.site.page import Place, document, figure, navigation
from analysis.transfer import table as words
from analysis.transfer.effects import TransferTable
from sweeps.store.file_names import study_stem

READING = (
    ("effect", "posterior median with the interval of its rule; ● reproduced, ■ contradicted, ○ undecided there; "
     "≥ or ≤: the true effect may be larger or smaller than the numbers, for example because a peak was not reached"),
    ("P(same sign)", "that both effects are positive, both negative or both nothing at all; the places share "
     "no run, so it follows from the posteriors of each. Where an effect is only a bound, so is what it says"),
    ("same sign (expected)", "how many effects with a posterior in both places have medians of the same sign, and how "
     "many would in the mean over both posteriors; same verdict: of those decided in both"),
    ("rank correlation", "Spearman’s ρ of the effects in the two places, from joint draws of both. Effects of several "
     "units are first divided by the root mean square of those of their unit; noise in the effects pulls it "
     "towards nought, so that of the medians stands beside it, and how often effects in random order have one at "
     "least as high. " + words.CAUTION),
)  # fmt: skip


def page(
    table: TransferTable, captioned_figures: Sequence[CaptionedFigure], places: Sequence[Place]
) -> str:
    """The whole page as HTML; `places` are the existing pages."""
    files = {place.file for place in places}
    body = [
        navigation(places, "transfer.html"),
        _head(table),
        html.section(
            "summary",
            "What came out",
            html.table(words.AGREEMENT, map(words.agreement, table.agreements)),
            html.bullets([words.CAUTION, *words.withheld(table)]),
        ),
        *(
            html.section(one.name, one.heading, figure(one, f"figures/{one.name}"))
            for one in captioned_figures
        ),
        html.section("effects", "Every effect", _effects(table, files), _reasons(table)),
        html.section("alone", "Measured in one place only", html.bullets(words.alone(table))),
        html.section("reading", "How to read it", html.definitions(READING)),
        html.section(
            "sources",
            "Where the numbers are from",
            html.definitions(
                [("simulated", _source(table.simulated)), ("real", _source(table.real))]
            ),
            element("p", "For programs: ", html.link("transfer.json", "transfer.json"), "."),
        ),
    ]
    return document("Transfer", body, wide=True)


def _head(table: TransferTable) -> Html:
    whole = {(one.simulated_task, one.real_task): one for one in reversed(table.agreements)}
    items = [
        ("", f"{one.same_sign} of {one.effects}", f"same sign on {simulated}")
        for (simulated, _), one in reversed(whole.items())
    ]
    tasks = dict.fromkeys(pair.simulated.task for pair in table.pairs)
    real = dict.fromkeys(pair.real.task for pair in table.pairs)
    kicker = f"{html.listed(list(tasks))} · {html.listed(list(real))}"
    lead = "Every effect that was measured in simulation and on a language model, side by side."
    return html.header(kicker, "What carries over?", lead, html.tally(items))


def _effects(table: TransferTable, files: set[str]) -> Html:
    rows = []
    for pair in table.pairs:
        claim, *rest = words.cells(pair)
        target = f"{study_stem(pair.name.study)}.html"
        linked = html.link(f"{target}#{html.slug(claim)}", claim) if target in files else claim
        rows.append((linked, *rest))
    return html.table(words.HEADER, rows, numeric=1)


def _reasons(table: TransferTable) -> Html:
    """Reasons why effects are undecided: each reason once for the simulated and once for the real results."""
    rows = dict.fromkeys(
        (pair.name.claim, one.judgement.label, one.task, one.judgement.reason)
        for pair in table.pairs
        for one in (pair.simulated, pair.real)
        if one.judgement.reason
    )
    shown = html.table(("claim", "effect", "task", "why"), rows)
    return html.details("Why effects are undecided", shown)


def _source(collection: Collection) -> str:
    parts = []
    for results in collection.studies:
        ends, preset = counts(results.runs()), results.study.get("preset", "?")
        size = f"{ends['runs']:,} runs, {ends['seeds']} seeds"
        parts.append(f"{results.name} (preset {preset}, {size})")
    return f"{collection.directory}: {html.listed(parts)}"
