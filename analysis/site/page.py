"""The frame of every page: style, navigation, figures with their files. Pages load no files from other sites."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from analysis.figures.style import NARROW, WIDE, CaptionedFigure
from analysis.html import Html, bullets, element, escape, join, link
from sweeps.store import files

_NAVIGATION, _END = '<nav aria-label="Pages"><ul>', "</ul></nav>"


class Place(NamedTuple):
    """A page of the site: its file, and its name in the navigation."""

    file: str
    name: str


def document(title: str, body: Sequence[str], wide: bool = False) -> str:
    """A page in the testbed's style; ``body`` must be escaped already. ``wide``: for large tables."""
    style = resources.files("analysis").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body{' class=wide' if wide else ''}>\n{join(body)}\n</body>\n</html>\n"
    )


def navigation(places: Sequence[Place], here: str) -> Html:
    """Links to all pages of the site, with the present one marked."""
    items = [
        element("span", place.name, aria_current="page")
        if place.file == here
        else link(place.file, place.name)
        for place in places
    ]
    return element("nav", bullets(items), aria_label="Pages")


def add_link(folder: Path, place: Place) -> None:
    """Add a link to ``place`` to the site's existing pages that do not have it yet."""
    item = element("li", link(place.file, place.name))
    for path in sorted(folder.glob("*.html")):
        try:
            text = path.read_text(encoding="utf-8")
        except ValueError:
            continue  # the page is damaged: the next report writes it again
        if path.name != place.file and item not in text and _NAVIGATION in text:
            head, start, rest = text.partition(_NAVIGATION)
            write_whole(path, head + start + rest.replace(_END, item + _END, 1))


def figure(captioned: CaptionedFigure, stem: str = "") -> Html:
    """A figure in both versions, one of which the style sheet shows, and links to its files.

    `stem` is the address of its files without their endings; "" if the page has no files of the figure beside it.
    """
    cuts = [
        element("div", Html(captioned.inline(width)), class_=kind)
        for kind, width in (("wide", WIDE), ("narrow", NARROW))
    ]
    caption = [captioned.caption]
    if stem:
        links = " ".join(link(f"{stem}.{kind}", kind.upper()) for kind in captioned.kinds)
        caption += [" ", element("span", Html(links), class_="files")]
    return element("figure", *cuts, element("figcaption", *caption))


def write_whole(path: Path, text: str) -> Path:
    """Write a file completely or not at all."""
    # File names may hold bytes that are not Unicode.
    data = text.encode("utf-8", errors="backslashreplace")
    files.write(path, data, path.with_name(f".{path.name}.tmp"))
    return path
