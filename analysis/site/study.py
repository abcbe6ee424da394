"""One study's page: question, verdicts, figures, design, runs and their cost."""

from collections.abc import Sequence

from analysis import html
from analysis.figures.style import Exhibit
from analysis.html import Html, element
from analysis.load import Results, counts
from analysis.site import design, verdicts
from analysis.site.page import Place, document, figure, navigation
from analysis.site.study_data import Chapter
from sweeps.store.file_names import figure_stem, study_stem


def page(chapter: Chapter, exhibits: Sequence[Exhibit], places: Sequence[Place]) -> str:
    """The whole page as HTML."""
    results = chapter.results
    central = [exhibit for exhibit in exhibits if exhibit.central]
    other = [exhibit for exhibit in exhibits if not exhibit.central]
    answers, name = design.answers(results), html.slug(results.name)
    body = [
        navigation(places, file_name(results)),
        _head(chapter),
        _contents(chapter, central, other, bool(answers)),
        verdicts.in_full(chapter.entries),
        design.background(results),
        *(_shown(chapter, exhibit) for exhibit in central),
        design.estimates(chapter.estimates),
        *(_shown(chapter, exhibit) for exhibit in other),
        answers,
        design.design(results),
        design.worlds(results),
        design.runs(results, chapter.left_out),
        design.consumed(results),
        html.section(
            "repeat",
            "How to repeat it",
            design.repeat(results, chapter.directory.name),
            element(
                "p",
                "See ",
                html.link(f"provenance.html#{name}", "where the numbers come from"),
                " and ",
                html.link(f"methods.html#fits-{name}", "how well the curves fit"),
                ".",
            ),
        ),
    ]
    return document(str(results.study.get("title", results.name)), body)


def file_name(results: Results) -> str:
    """The file of a study's page in the site."""
    return f"{study_stem(results.name)}.html"


def _head(chapter: Chapter) -> Html:
    """Title, question, counts of verdicts and runs, missing runs."""
    results = chapter.results
    study = results.study
    ends = counts(results.runs())
    items = verdicts.tally_items(chapter.entries)
    items += [("", f"{ends['runs']:,}", f"runs, {ends['diverged']} diverged")]
    items += [("", ends["seeds"], "seeds" if ends["seeds"] > 1 else "seed")]
    kicker = f"Study {results.name} · preset {study.get('preset', '?')} · {html.listed(list(results.tasks))}"
    warnings = (design.missing(results), design.versions(results), _newer(chapter))
    title, question = study.get("title", results.name), study.get("question", "")
    return html.header(kicker, title, question, html.tally(items), *warnings)


def _newer(chapter: Chapter) -> Html:
    """A warning if rules were changed after the run."""
    claims = list(dict.fromkeys(row["claim"] for row in chapter.entries if row["newer"]))
    if not claims:
        return Html("")
    verb = "was" if len(claims) == 1 else "were"
    return html.warning(
        f"{html.plural(len(claims), 'claim')} ({html.listed(claims)}) {verb} judged by rules newer than the data."
    )


def _contents(
    chapter: Chapter, central: Sequence[Exhibit], other: Sequence[Exhibit], answers: bool
) -> Html:
    """Links to the page's sections."""
    names = [("verdicts", "Verdicts")] if chapter.entries else []
    names += [(html.slug(e.name), e.heading.rstrip("?")) for e in (*central, *other)]
    names += [("answers", "What do they answer")] if answers else []
    names += [("design", "What was run"), ("runs", "Runs"), ("cost", "Cost")]
    links = html.bullets(html.link(f"#{name}", words) for name, words in names)
    return element("nav", links, class_="contents", aria_label="On this page")


def _shown(chapter: Chapter, exhibit: Exhibit) -> Html:
    """A figure's section."""
    name = html.slug(exhibit.name)
    stem = f"figures/{figure_stem(chapter.results.name, exhibit.name)}"
    words = [html.paragraph(said) for said in chapter.words.get(exhibit.name, ())]
    return html.section(name, exhibit.heading, html.join(words), figure(exhibit, stem))
