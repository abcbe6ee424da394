"""One self-contained page for a results directory: verdicts, figures, design, provenance.

`build` fits, decides, draws and writes everything. The page loads nothing from elsewhere, follows
the reader's light or dark theme, and reads on a phone and in print.
"""

import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from analysis import figures, prose, verdict
from analysis.figures import Drawing
from analysis.load import Results, load
from analysis.prose import Html, escape, join
from analysis.verdict import TaskEvidence
from testbed.errors import InvalidInput

WIDE, NARROW = 7.2, 3.7
FIGURES = ("frontier", "classification", "logprob", "verdicts")


def build(directory: Path) -> Path:
    """Analyse a results directory; writes verdicts.json, figures/ and report.html into it.

    Returns the path of report.html. The same results give the same files, byte for byte, with the
    same library versions. Raises InvalidInput if the directory holds no results or cannot be
    written.
    """
    directory = Path(directory)
    results = load(directory)
    evidence = verdict.gather(results)
    verdicts = verdict.decide(results, evidence)
    drawings = figures.drawings(results, evidence, verdicts)
    html = page(results, evidence, verdicts, drawings, directory.name)
    try:
        folder = directory / "figures"
        folder.mkdir(exist_ok=True)
        for name in FIGURES:
            for kind in ("png", "svg"):
                (folder / f"{name}.{kind}").unlink(missing_ok=True)
        for drawing in drawings:
            drawing.save(folder)
        text = json.dumps(verdicts, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(directory / "verdicts.json", text + "\n")
        return write_whole(directory / "report.html", html)
    except OSError as problem:
        raise InvalidInput(
            f"results directory {directory} cannot be written ({problem.strerror or problem}): "
            "copy it to where you may write"
        ) from problem


def write_whole(path: Path, text: str) -> Path:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path


def page(
    results: Results,
    evidence: Mapping[str, TaskEvidence],
    verdicts: Sequence[Mapping[str, Any]],
    drawings: Sequence[Drawing],
    name: str,
) -> str:
    """The whole page as HTML; `name` is the directory's."""
    by_name = {drawing.name: drawing for drawing in drawings}
    shown = {
        "frontier": (
            "How far does each regime get, and at what distance?",
            prose.frontier(results, evidence),
            prose.CAPTIONS["frontier"],
        ),
        "classification": (
            "Does telling good from bad make a good writer?",
            prose.classification(results),
            prose.CAPTIONS["classification"],
        ),
        "logprob": (
            "What happens to the answers in the data?",
            prose.logprob(results),
            prose.CAPTIONS["logprob"],
        ),
        "verdicts": (
            "How large are the effects?",
            Html(""),
            prose.CAPTIONS["verdicts"],
        ),
    }
    body = [prose.head(results, verdicts), prose.scoreboard(verdicts)]
    body += [section(key, by_name.get(key), *words) for key, words in shown.items()]
    body += [
        prose.design(results),
        prose.worlds(results),
        prose.runs(results, evidence),
        prose.consumed(results),
        prose.inference(evidence),
        prose.provenance(results, name),
    ]
    return document(results.study.get("title", results.study.get("study", "Results")), body)


def document(title: str, body: Sequence[str]) -> str:
    """A page in the testbed's style that loads nothing from elsewhere; ``body`` is escaped already."""
    style = resources.files("analysis").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{join(body)}\n</body>\n</html>\n"
    )


def section(name: str, drawing: Drawing | None, heading: str, sentence: Html, caption: str) -> Html:
    """A heading, a sentence, and the figure in both cuts, of which style sheets show one.

    Without a figure the sentence stands alone; with neither there is no section.
    """
    if drawing is None and not sentence:
        return Html("")
    figure = ""
    if drawing is not None:
        cuts = "".join(
            f'<div class="{kind}">{drawing.inline(width)}</div>'
            for kind, width in (("wide", WIDE), ("narrow", NARROW))
        )
        figure = f"<figure>{cuts}<figcaption>{escape(caption)}</figcaption></figure>"
    return Html(f'<section id="{name}"><h2>{escape(heading)}</h2>{sentence}{figure}</section>')
