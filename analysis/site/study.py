"""One study's page: the main figure with the finding, verdicts, further figures, design, runs and their cost, and the
background last."""

from collections.abc import Sequence

from analysis import html
from analysis.figures.style import CaptionedFigure
from analysis.html import Html, element
from analysis.load import Results, counts
from analysis.site import design, findings, pairing, verdicts
from analysis.site.page import Place, document, figure, navigation
from analysis.site.study_data import StudyData
from sweeps.store.file_names import figure_stem, study_stem


def page(
    study_data: StudyData, captioned_figures: Sequence[CaptionedFigure], places: Sequence[Place]
) -> str:
    """The whole page as HTML."""
    results = study_data.results
    central = [captioned for captioned in captioned_figures if captioned.central]
    other = [captioned for captioned in captioned_figures if not captioned.central]
    answers, name = design.answers(results), html.slug(results.name)
    body = [
        navigation(places, file_name(results)),
        _head(study_data),
        main(study_data, captioned_figures),
        _contents(study_data, central[1:], other, bool(answers)),
        verdicts.in_full(study_data.entries),
        *(_shown(study_data, captioned) for captioned in central[1:]),
        design.estimates(study_data.estimates),
        *(_shown(study_data, captioned) for captioned in other),
        answers,
        design.design(results),
        design.worlds(results),
        design.runs(results, study_data.left_out),
        design.consumed(results),
        pairing.section(results),
        html.section(
            "repeat",
            "How to repeat it",
            design.repeat(results, study_data.directory),
            element(
                "p",
                "See ",
                html.link(f"provenance.html#{name}", "where the numbers come from"),
                " and ",
                html.link(f"methods.html#fits-{name}", "how smooth the curves are"),
                ".",
            ),
        ),
        design.background(results),
    ]
    return document(str(results.study.get("title", results.name)), body)


def file_name(results: Results) -> str:
    """The file of a study's page in the site."""
    return f"{study_stem(results.name)}.html"


def _head(study_data: StudyData) -> Html:
    """Title, question, counts of verdicts and runs, missing runs."""
    results = study_data.results
    study = results.study
    ends = counts(results.runs())
    items = verdicts.tally_items(study_data.entries)
    items += [("", f"{ends['runs']:,}", f"runs, {ends['diverged']} diverged")]
    items += [("", ends["seeds"], "seeds" if ends["seeds"] > 1 else "seed")]
    kicker = f"Study {results.name} · preset {study.get('preset', '?')} · {html.listed(list(results.tasks))}"
    warnings = (design.missing(results), design.versions(results), _newer(study_data))
    warnings += tuple(html.warning(said) for said in design.looked_at(results))
    title, question = study.get("title", results.name), study.get("question", "")
    return html.header(kicker, title, question, html.tally(items), *warnings)


def _newer(study_data: StudyData) -> Html:
    """A warning if rules were changed after the run."""
    claims = list(dict.fromkeys(row["claim"] for row in study_data.entries if row["newer"]))
    if not claims:
        return Html("")
    verb = "was" if len(claims) == 1 else "were"
    return html.warning(
        f"{html.plural(len(claims), 'claim')} ({html.listed(claims)}) {verb} judged by rules newer than the data."
    )


def _contents(
    study_data: StudyData,
    central: Sequence[CaptionedFigure],
    other: Sequence[CaptionedFigure],
    answers: bool,
) -> Html:
    """Links to the page's sections."""
    names = [("verdicts", "Verdicts")] if study_data.entries else []
    names += [(html.slug(e.name), e.heading.rstrip("?")) for e in (*central, *other)]
    names += [("answers", "What do they answer")] if answers else []
    names += [("design", "What was run"), ("runs", "Runs"), ("cost", "Cost")]
    names += [("background", "Background")] if study_data.results.study.get("background") else []
    links = html.bullets(html.link(f"#{name}", words) for name, words in names)
    return element("nav", links, class_="contents", aria_label="On this page")


def main(study_data: StudyData, captioned_figures: Sequence[CaptionedFigure]) -> Html:
    """The finding of a study in one sentence, with its main figure."""
    found = findings.sentence(study_data)
    said = element("p", found, class_="lead finding") if found else ""
    central = [captioned for captioned in captioned_figures if captioned.central]
    return html.join([said, *(_shown(study_data, captioned) for captioned in central[:1])])


def _shown(study_data: StudyData, captioned: CaptionedFigure) -> Html:
    """A figure's section."""
    name = html.slug(captioned.name)
    stem = f"figures/{figure_stem(study_data.results.name, captioned.name)}"
    words = [html.paragraph(said) for said in study_data.words.get(captioned.name, ())]
    return html.section(name, captioned.heading, html.join(words), figure(captioned, stem))
