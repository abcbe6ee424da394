"""Pieces of HTML pages: numbers in words, sentences, tables. All text from data is escaped."""

import html
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NewType

from markdown_it import MarkdownIt

Html = NewType("Html", str)
"""HTML text in which all text from data is escaped."""

VERDICTS = ("reproduced", "contradicted", "undecided")
SYMBOLS = {"reproduced": "●", "contradicted": "■", "undecided": "○"}
"""A shape for each verdict, so that verdicts can be told apart without colour."""
# Pages load nothing from elsewhere, so there are no images.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).disable("image")


def escape(value: Any) -> str:
    """Any value as text that is safe inside HTML and attributes."""
    return html.escape(str(value), quote=True)


def join(parts: Iterable[str]) -> Html:
    """Escaped parts, one after the other."""
    return Html("\n".join(part for part in parts if part))


def scale_of(unit: str) -> float:
    """Factor by which numbers of a unit are multiplied for display: 100 for proportions."""
    return 100.0 if unit.split(" ")[0] in ("probability", "share") else 1.0


def unit_words(unit: str) -> str:
    """A unit as written after a number: " points", "%", " nats"."""
    first, _, rest = unit.partition(" ")
    names = {"probability": " points", "share": "%", "units": ""}
    words = names.get(first, f" {first}" if first else "")
    return f"{words} {rest}" if rest else words


def unit_name(unit: str) -> str:
    """A unit by itself, as on an axis: "percentage points", "percent", "nats"."""
    words = {" points": "percentage points", "%": "percent"}.get(unit_words(unit))
    return words or unit_words(unit).replace("%", "percent").strip()


def number(value: float, unit: str = "", signed: bool = False) -> str:
    """A number as displayed: percentage points for differences of probability, a real minus sign."""
    scaled = scale_of(unit) * value
    size = abs(scaled)
    digits = 0 if size >= 100 else 1 if size >= 10 or unit == "probability" else 2
    if unit.startswith("share"):
        digits = 0
    elif 0 < size < 0.095 and unit != "probability":
        digits = 3
    text = f"{scaled:{'+' if signed else ''}z.{digits}f}"
    return text.replace("-", "−")


def amount(value: float, unit: str, signed: bool = True) -> str:
    """A number with its unit: +6.1 points, 62%, −0.3 nats. Shares are not changes and have no plus sign."""
    return f"{number(value, unit, signed and not unit.startswith('share'))}{unit_words(unit)}"


def between(row: Mapping[str, Any]) -> str:
    """The interval of a verdict or test, as "low to high"; "" if there is none."""
    if row["interval"] is None:
        return ""
    low, high = (number(bound, row["unit"]) for bound in row["interval"])
    return f"{low} to {high}"


def effect(row: Mapping[str, Any]) -> str:
    """Estimate and interval of a verdict or a test in words."""
    if row["estimate"] is None:
        return "no estimate"
    text = amount(row["estimate"], row["unit"])
    if row["interval"] is None:
        return f"{text}, no interval"
    mass = 100 * (2 * row["rule"]["confidence"] - 1) if "rule" in row else 90
    return f"{text} ({mass:.0f}% interval {between(row)})"


def percent(value: float) -> str:
    """A proportion as a percentage."""
    return f"{100 * value:.0f}%"


def duration(seconds: float) -> str:
    """Seconds as a duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def plural(count: int, singular: str) -> str:
    """1 run, 2 runs."""
    return f"{count:,} {singular}{'' if count == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def sentence(text: str) -> str:
    """Text with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def slug(*parts: str) -> str:
    """A name for links and files made from any texts: letters, digits, dashes."""
    kept = "-".join(parts)
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in kept)


def paragraph(sentences: Sequence[str]) -> Html:
    """Sentences as a paragraph; nothing if there are none."""
    return Html(f"<p>{escape(' '.join(sentences))}</p>") if sentences else Html("")


def written(text: str) -> Html:
    """A text in Markdown, such as a docstring, as HTML. HTML tags in the text are shown as characters, and images as
    links."""
    return Html(_MARKDOWN.render(inspect.cleandoc(text)))


def link(target: str, text: str) -> Html:
    """A link to a place in the site."""
    return Html(f'<a href="{escape(target)}">{escape(text)}</a>')


def header(kicker: str, title: str, lead: str, *parts: str) -> Html:
    """The head of a page: the kind of page, its title, a lead sentence, and further parts."""
    return Html(
        f'<header><p class="kicker">{escape(kicker)}</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(lead)}</p>{join(parts)}</header>'
    )


def warning(text: str) -> Html:
    """A highlighted paragraph; nothing if there is no text."""
    return Html(f'<p class="warning">{escape(text)}</p>' if text else "")


def bullets(items: Iterable[str]) -> Html:
    """Texts as a list; nothing if there are none."""
    body = "".join(f"<li>{escape(item)}</li>" for item in items)
    return Html(f"<ul>{body}</ul>" if body else "")


def heading(text: str, name: str, level: int = 2) -> Html:
    """A heading that can be linked to; `name` is the id of the element that it heads."""
    return Html(
        f'<h{level}>{escape(text)} <a class="anchor" href="#{escape(name)}" '
        f'aria-label="Link to this place">#</a></h{level}>'
    )


def section(name: str, title: str, *parts: str) -> Html:
    """A section with a heading that can be linked to; nothing if it has no parts."""
    body = join(parts)
    if not body:
        return Html("")
    return Html(f'<section id="{escape(name)}">{heading(title, name)}\n{body}</section>')


def cell(value: Any) -> str:
    """The content of a table's cell: escaped, unless it is HTML already."""
    return value.text if isinstance(value, Rich) else escape(value)


class Rich:
    """A table's cell that is HTML already."""

    def __init__(self, text: str) -> None:
        self.text = text


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], numeric: int = 0) -> Html:
    """A table whose last `numeric` columns are numbers."""
    first = len(header) - numeric

    def cells(kind: str, values: Sequence[Any]) -> str:
        return "".join(
            f"<{kind}{' class=n' if index >= first else ''}>{cell(value)}</{kind}>"
            for index, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return Html(
        f'<div class="scroll"><table><thead><tr>{cells("th", header)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def definitions(pairs: Iterable[tuple[str, Any]]) -> Html:
    """A list of names and their definitions."""
    body = "".join(f"<dt>{escape(k)}</dt><dd>{cell(v)}</dd>" for k, v in pairs)
    return Html(f"<dl>{body}</dl>")


def details(summary: str, *parts: str) -> Html:
    """Parts that unfold when clicked; nothing if there are none."""
    body = join(parts)
    if not body:
        return Html("")
    return Html(f"<details><summary>{escape(summary)}</summary>\n{body}</details>")


def pill(verdict: str) -> Html:
    """A verdict as a word with its shape and colour."""
    return Html(f'<span class="pill {escape(verdict)}">{escape(verdict)}</span>')


def tally(items: Iterable[tuple[str, Any, str]]) -> Html:
    """Large counts: (class, count, words)."""
    body = "".join(
        f'<li class="{escape(name)}"><b>{escape(count)}</b> {escape(words)}</li>'
        for name, count, words in items
    )
    return Html(f'<ul class="tally">{body}</ul>')
