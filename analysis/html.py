"""Pieces of HTML pages: numbers in words, sentences, tables. All text from data is escaped."""

import html
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markdown_it import MarkdownIt

VERDICTS = ("reproduced", "contradicted", "undecided")
SYMBOLS = {"reproduced": "●", "contradicted": "■", "undecided": "○"}
"""A shape for each verdict, so that verdicts can be told apart without colour."""
# Pages load nothing from elsewhere, so there are no images.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).disable("image")


class Html(str):
    """HTML text in which all text from data is escaped."""


def escape(value: Any) -> Html:
    """Any value as text that is safe inside HTML and attributes; HTML stays as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value), quote=True))


def element(tag: str, *parts: Any, **attributes: Any) -> Html:
    """An element with its content, escaped where it is not HTML. Attributes are named with underscores for dashes, and
    one at the end where Python reserves the name."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
    )
    return Html(f"<{tag}{named}>{''.join(map(escape, parts))}</{tag}>")


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


def number(value: float | int, unit: str = "", signed: bool = False) -> str:
    """A number as displayed: percentage points for differences of probability, a real minus sign."""
    scaled = scale_of(unit) * value
    size = abs(scaled)
    digits = 0 if size >= 100 else 1 if size >= 10 or unit == "probability" else 2
    if unit.startswith("share"):
        digits = 0
    elif 0 < size < 0.095 and unit not in ("probability", "SFT standard deviations"):
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


def paragraph(*sentences: str) -> Html:
    """Sentences as a paragraph; nothing if there are none."""
    text = " ".join(filter(None, sentences))
    return element("p", text) if text else Html("")


def written(text: str) -> Html:
    """A text in Markdown, such as a docstring, as HTML. HTML tags in the text are shown as characters, and images as
    links."""
    return Html(_MARKDOWN.render(inspect.cleandoc(text)))


def link(target: str, text: str) -> Html:
    """A link to a place in the site."""
    return element("a", text, href=target)


def header(kicker: str, title: str, lead: str, *parts: str) -> Html:
    """The head of a page: the kind of page, its title, a lead sentence, and further parts."""
    first = element("p", kicker, class_="kicker"), element("h1", title)
    return element("header", *first, element("p", lead, class_="lead"), join(parts))


def warning(text: str) -> Html:
    """A highlighted paragraph; nothing if there is no text."""
    return element("p", text, class_="warning") if text else Html("")


def bullets(items: Iterable[str], **attributes: str) -> Html:
    """Texts as a list; nothing if there are none."""
    body = [element("li", item) for item in items]
    return element("ul", *body, **attributes) if body else Html("")


def heading(text: str, name: str, level: int = 2) -> Html:
    """A heading that can be linked to; `name` is the id of the element that it heads."""
    anchor = element("a", "#", class_="anchor", href=f"#{name}", aria_label="Link to this place")
    return element(f"h{level}", text, " ", anchor)


def section(name: str, title: str, *parts: str) -> Html:
    """A section with a heading that can be linked to; nothing if it has no parts."""
    body = join(parts)
    return element("section", heading(title, name), "\n", body, id=name) if body else body


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], numeric: int = 0, most: int | None = None
) -> Html:
    """A table whose last `numeric` columns are numbers, of the first `most` rows; nothing if there are no rows."""
    first, rows = len(header) - numeric, list(rows)
    if not rows:
        return Html("")

    def cells(kind: str, values: Sequence[Any]) -> Html:
        parts = (
            f"<{kind}{' class=n' if index >= first else ''}>{escape(value)}</{kind}>"
            for index, value in enumerate(values)
        )
        return element("tr", Html("".join(parts)))

    head = element("thead", cells("th", header))
    body = element("tbody", *(cells("td", row) for row in rows[:most]))
    shown = element("div", element("table", head, body), class_="scroll")
    left = len(rows) - len(rows[:most])
    return join([shown, paragraph(f"And {left} more.") if left else ""])


def definitions(pairs: Iterable[tuple[str, Any]]) -> Html:
    """A list of names and their definitions."""
    body = [Html(element("dt", name) + element("dd", value)) for name, value in pairs]
    return element("dl", *body) if body else Html("")


def details(summary: str, *parts: str) -> Html:
    """Parts that unfold when clicked; nothing if there are none."""
    body = join(parts)
    return element("details", element("summary", summary), "\n", body) if body else body


def preformatted(text: str) -> Html:
    """Text with its own line breaks, such as a command or JSON."""
    return element("pre", text)


def pill(verdict: str) -> Html:
    """A verdict as a word with its shape and colour."""
    return element("span", verdict, class_=f"pill {verdict}")


def tally(items: Iterable[tuple[str, Any, str]]) -> Html:
    """Large counts: (class, count, words)."""
    body = (element("li", element("b", n), " ", words, class_=kind) for kind, n, words in items)
    return element("ul", *body, class_="tally")
