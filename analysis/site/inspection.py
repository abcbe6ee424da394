"""The page on a task: its description, sample texts, distributions of rewards, and properties of its data and proxy.

`build` writes inspect.html, inspect.json and the figure; `show` prints the same content on a terminal. Every number has
a line that explains it.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from analysis import html
from analysis.figures.style import CaptionedFigure
from analysis.html import Html, element
from analysis.site.design import named
from analysis.site.inspection_figure import alternative_text, draw
from analysis.site.page import document, figure, write_whole
from sweeps import inspection
from sweeps.inspection import Inspection
from sweeps.store import files
from testbed import config

UNIT = (
    "Golden rewards are in standard deviations over samples of the SFT policy, whose mean is 0: "
    "+1 is a response one standard deviation better than SFT usually writes."
)


MEANING = {
    inspection.WRITERS: "the people that the data come from",
    inspection.SFT: "the policy that imitates them, from which every run starts",
    inspection.BEST: f"the best of {inspection.BEST_OF} SFT samples to each prompt, by golden reward",
    inspection.WORST: f"the worst of {inspection.BEST_OF}",
    inspection.IDEAL: "the best response that is known",
    inspection.EMPTY: "nothing but the end token",
    inspection.REPEATED: "the best such policy: {}, whatever the prompt",
    inspection.COPIED: "the prompt itself, as much of it as fits",
}
"""The source of each response, in words, with a placeholder for the repeated token."""


COLUMNS = ("source", "mean", "SD", "1%", "50%", "99%", "length")


CAPTION = (
    "Left (above on a narrow page): golden rewards of single responses, a row a source; dots are "
    "means, lines span the 1st to 99th percentile, and the dotted line is the writers’ 99th "
    "percentile, which no response that ignores the prompt should reach on average. Right (below): "
    "of pairs whose golden rewards are so far apart, how often the better one is preferred, by the "
    "labels of the data and by the proxy on pairs it has not seen, with its 90% band; half is "
    "guessing."
)


def facts(seen: Inspection) -> list[tuple[str, str, str]]:
    """Name, value and meaning of every measured number of the world."""
    f, data = seen.facts, seen.experiment.data
    exact = seen.experiment.task.enumerable
    how = "exact" if exact else "an estimate"
    source = how if exact else f"an estimate from {data.candidates} responses a prompt"
    share, plain = html.percent, html.number
    rows = [
        ("within_prompt_variance", "variance within prompts", share,
         "of SFT samples’ golden reward: what an answer can change; the rest differs between prompts"),
        ("proxy_accuracy", "proxy accuracy, held out", share,
         "of new pairs that the learnt preference model orders as the golden reward does; 50% is guessing"),
        ("proxy_train_accuracy", "proxy accuracy, on its data", share,
         "the same on pairs it was trained on: much more than held out is learning by heart"),
        ("label_noise", "wrong labels", share,
         "of the data’s pairs whose label prefers the response of lower golden reward"),
        ("label_confidence", "confidence of labels", share,
         "mean probability that labels give to the winner: below 100% if there are ties or soft labels"),
        ("labelled", "pairs labelled", share, "the others were skipped by the labeler"),
        ("data_quality", "quality of the data", plain,
         "mean golden reward of the data’s responses, in SFT standard deviations; SFT writes 0"),
        ("data_quantile", "quantile of the data", share,
         "of SFT samples that a response of the data beats on average"),
        ("coverage", "coverage", share,
         "how far the data cover the target (SFT tilted towards reward, by one nat an SD): 100% if they are just that, "
         f"0% if part of it is missing altogether; 1 / (1 + chi-square), {source}"),
        ("chi_square", "chi-square", plain,
         f"of the target from the data: the larger, the harder to learn from these data alone; {how}"),
        ("max_ratio", "largest ratio", plain,
         f"of a response’s probability in the target to that in the data; {how}"),
        ("support", "support", share,
         f"of what the target writes that can be in the data at all; {how}"),
        ("data_prompts", "different prompts", lambda x: f"{x:.0f}", f"in {data.pairs} pairs of data"),
        ("data_responses", "different responses a prompt", plain, "in the data"),
        ("sft_loss", "SFT loss", plain,
         "nats a token by which the SFT policy misses what writers write next"),
    ]  # fmt: skip
    return [(name, say(f[key]), why) for key, name, say, why in rows if key in f]


def build(seen: Inspection, directory: Path, origin: Mapping[str, Any]) -> Path:
    """Write inspect.html, inspect.json and figures/ into the directory; returns the page's path.

    ``origin`` is the result of `sweeps.store.provenance.session`, and the command. Raises `InvalidInput` if the
    directory cannot be written.
    """
    captioned = CaptionedFigure(
        "inspect",
        "How good are the responses?",
        alternative_text(seen),
        CAPTION,
        lambda width: draw(seen, width),
    )
    text = json.dumps(config.jsonable(seen.describe() | dict(origin)), indent=1)
    page = document(f"{seen.kind}: what the task looks like", list(_body(seen, captioned, origin)))
    try:
        (directory / "figures").mkdir(parents=True, exist_ok=True)
        captioned.save(directory / "figures")
        write_whole(directory / "inspect.json", text + "\n")
        return write_whole(directory / "inspect.html", page)
    except OSError as problem:
        raise files.refused(directory, problem) from problem


def story(seen: Inspection) -> list[str]:
    """The task's docstrings as paragraphs: its module's, then its class's."""
    text = inspect.cleandoc(sys.modules[type(seen.experiment.task).__module__].__doc__ or "")
    text += "\n\n" + _doc(seen).partition("\n\nAttributes:")[0]
    text = re.sub(r"``(.+?)``", r"“\1”", text, flags=re.DOTALL).replace("`", "")
    return [" ".join(part.split()) for part in text.split("\n\n")]


def knobs(seen: Inspection) -> list[tuple[str, str]]:
    """The task's fields and their values; values that differ from the default are marked."""
    task = seen.experiment.task
    kind: Any = type(task)
    default = kind()
    pairs = []
    for name in config.field_names(task):
        value, usual = (config.spell(config.get(one, name)) for one in (task, default))
        pairs.append((name, value if value == usual else f"{value} (default {usual})"))
    return pairs


def _rows(seen: Inspection) -> list[tuple[str, ...]]:
    """The distributions as text, in the order of `COLUMNS`."""
    rows = []
    for row in seen.distributions():
        numbers = (
            html.number(row[name], signed=name != "sd")
            for name in ("mean", "sd", "p1", "median", "p99")
        )
        rows.append((row["source"], *numbers, f"{row['length']:.1f}"))
    return rows


def _meaning(seen: Inspection, source: str) -> str:
    return MEANING[source].format(seen.repeated)


def _quick(seen: Inspection) -> list[str]:
    words = (
        "A quick look: fewer pairs and shorter fits, so that the proxy’s accuracy is lower than at "
        "the default size, and SFT a poorer imitation."
    )
    return [words] if seen.quick else []


def _key(seen: Inspection) -> str:
    end = seen.experiment.task.words()[0]
    return (
        f"“{end}” is the end token; a response without it was cut at the limit of "
        f"{seen.experiment.task.response_length} tokens."
    )


def _body(
    seen: Inspection, captioned: CaptionedFigure, origin: Mapping[str, Any]
) -> Iterator[Html]:
    """The page's sections."""
    lead, *rest = story(seen)
    size = f"seed {seen.experiment.seed}" + (" · quick" if seen.quick else "")
    values = seen.facts
    tally = [
        ("", html.percent(values["proxy_accuracy"]), "proxy accuracy"),
        ("", html.percent(values["within_prompt_variance"]), "variance within prompts"),
        ("", html.percent(values["coverage"]), "coverage"),
        ("", html.number(values["data_quality"], signed=True), "quality of the data, SD"),
    ]
    more = [html.paragraph(part) for part in [*rest, *_quick(seen)]]
    yield html.header(f"Task {seen.kind} · {size}", seen.kind, lead, *more, html.tally(tally))
    yield _examples(seen)
    rows = [(source, _meaning(seen, source), *numbers) for source, *numbers in _rows(seen)]
    yield html.section(
        "rewards",
        captioned.heading,
        html.paragraph(UNIT),
        figure(captioned),
        html.table(("source", "who", *COLUMNS[1:]), rows, numeric=len(COLUMNS) - 1),
    )
    checks = [("yes" if holds else "no", words) for words, holds in seen.checks()]
    listing = html.table(("", "what a useful world has"), checks)
    yield html.section("checks", "Is it a useful world?", listing)
    listing = html.table(("number", "here", "what it is"), facts(seen))
    yield html.section("facts", "What are the data and the proxy like?", listing)
    meaning = html.details("What they mean", html.preformatted(_doc(seen)))
    yield html.section("knobs", "Size and knobs", html.definitions(knobs(seen)), meaning)
    yield _provenance(seen, origin)


def _doc(seen: Inspection) -> str:
    return inspect.cleandoc(type(seen.experiment.task).__doc__ or "")


def _examples(seen: Inspection) -> Html:
    """Prompts with responses from best to worst."""
    parts = []
    for example in seen.examples:
        rows = [
            (text.source, text.words, html.number(text.reward, signed=True))
            for text in example.responses
        ]
        parts.append(element("h3", "Prompt: ", element("code", example.prompt)))
        parts.append(html.table(("written by", "response", "golden reward"), rows, numeric=1))
    words = html.paragraph("Responses from best to worst.", _key(seen), UNIT)
    return html.section("examples", "What does it look like?", words, *parts)


def _provenance(seen: Inspection, origin: Mapping[str, Any]) -> Html:
    """Configuration, machine, versions, and the command."""
    described = seen.describe()["config"]
    pairs = [(name, named(origin[name])) for name in ("machine", "versions") if name in origin]
    pairs += [(name, origin[name]) for name in ("created", "source") if name in origin]
    text = json.dumps(config.jsonable(described), indent=2)
    return html.section(
        "provenance",
        "Where it comes from, and how to repeat it",
        html.definitions(pairs),
        html.preformatted(origin.get("command", "")),
        html.details("Configuration", html.preformatted(text)),
    )


def show(seen: Inspection, console: Console) -> None:
    """Print the content of the page on a terminal."""

    def heading(words: str) -> None:
        console.print()
        console.rule(Text(words, style="bold"), align="left")

    def say(words: str, style: str = "") -> None:
        console.print(Text(words, style=style))

    heading(f"{seen.kind}, seed {seen.experiment.seed}")
    for part in [*_quick(seen), *story(seen)]:
        say(part)
        console.print()
    say("  ".join(f"{name}={value}" for name, value in knobs(seen)), "dim")
    heading("What does it look like?")
    say(f"Responses from best to worst. {_key(seen)} {UNIT}")
    for example in seen.examples:
        console.print()
        say(f"Prompt: {example.prompt}", "bold")
        table = Table.grid(padding=(0, 2))
        table.add_column(justify="right")
        for text in example.responses:
            cells = (html.number(text.reward, signed=True), text.source, text.words)
            table.add_row(*map(Text, cells))
        console.print(Padding(table, (0, 0, 0, 2)))
    heading("How good are the responses?")
    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "source" else "right")
    table.add_column("who")
    for row in _rows(seen):
        table.add_row(*map(Text, row), Text(_meaning(seen, row[0]), style="dim"))
    console.print(table)
    say(
        f"{inspection.PROMPTS} prompts; mean, standard deviation, percentiles; length in tokens.",
        "dim",
    )
    heading("What are the data and the proxy like?")
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value, meaning in facts(seen):
        table.add_row(Text(name), Text(value, style="bold"), Text(meaning, style="dim"))
    console.print(table)
    heading("Is it a useful world?")
    for words, holds in seen.checks():
        say(f"{'yes' if holds else 'NO '}  {words}", "" if holds else "yellow")
