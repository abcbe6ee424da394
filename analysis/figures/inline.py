"""A figure as an element of a page: matplotlib's SVG with the same picture in a quarter of its bytes.

Matplotlib repeats style and clipping for every line and mark, names every group, and writes coordinates to a millionth
of a point. Here groups without a meaning disappear, neighbours of one style become a group that has this style, and the
lines of a path are written as steps of a tenth of a point, which nobody sees.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple
from xml.etree import ElementTree

_LEFT_OUT = {"metadata", "style", "title"}
_SHARED = ("style", "clip-path")
"""Attributes that a group has for its members."""
_NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
_LINES = re.compile(r"([MLz])(?: (\S+) (\S+))?\s*")
_STRAIGHT = re.compile(r"(?:[ML] \S+ \S+\s*|z\s*)*")
_REFERENCE = re.compile(r"(?<![^(])#([\w-]+)")
"""An address in a page: the whole value, or in brackets. Colours stand elsewhere."""


class Node(NamedTuple):
    """An element: its name, attributes, text and children."""

    name: str
    attributes: Mapping[str, str]
    text: str = ""
    children: Sequence["Node"] = ()

    def written(self) -> str:
        """The element as a text."""
        attributes = "".join(f' {key}="{escape(x)}"' for key, x in self.attributes.items())
        inner = escape(self.text, quote=False) + "".join(one.written() for one in self.children)
        head = f"<{self.name}{attributes}"
        return f"{head}>{inner}</{self.name}>" if inner else f"{head}/>"


def inlined(svg: str, prefix: str, alt: str) -> str:
    """An ``<svg>`` element of matplotlib's SVG, with live text. ``prefix`` makes its identifiers unique in a page, and
    ``alt`` describes it."""
    root = ElementTree.fromstring(svg[svg.index("<svg") :])
    found = dict.fromkeys(
        name
        for element in root.iter()
        for value in element.attrib.values()
        if "#" in value
        for name in _REFERENCE.findall(value)
    )
    names = {name: f"{prefix}{index}" for index, name in enumerate(found)}
    attributes = {
        "role": "img",
        "aria-label": alt,
        "viewBox": root.attrib["viewBox"],
        "style": "stroke-linejoin:round;stroke-linecap:butt",
    }
    return Node("svg", attributes, "", list(_children(root, names))).written()


def _children(element: ElementTree.Element, names: Mapping[str, str]) -> Iterator[Node]:
    """The children of an element in short form, neighbours of one style in a group."""
    nodes = (node for child in element for node in _shortened(child, names))

    def shared(node: Node) -> tuple[str, ...]:
        return (node.name, *(node.attributes.get(key, "") for key in _SHARED))

    for (name, *values), alike in itertools.groupby(nodes, shared):
        members = list(alike)
        common = {key: x for key, x in zip(_SHARED, values, strict=True) if x}
        if len(members) == 1 or not common or name == "defs":
            yield from members
            continue
        own = [
            node._replace(attributes={k: x for k, x in node.attributes.items() if k not in common})
            for node in members
        ]
        yield Node("g", common, "", own)


def _shortened(element: ElementTree.Element, names: Mapping[str, str]) -> Iterator[Node]:
    """An element in short form: nothing if nobody sees it, and the members of a group that has no attributes."""
    name = element.tag.rpartition("}")[2]
    if name in _LEFT_OUT:
        return
    attributes = {}
    for key, value in element.attrib.items():
        key = key.rpartition("}")[2]
        if key == "id" and value not in names:
            continue
        attributes[key] = _value(key, value, names)
    if attributes.get("transform", "").startswith(("rotate(0 ", "rotate(-0 ")):
        del attributes["transform"]
    unseen = attributes.get("style", "").startswith("fill:none") and "id" not in attributes
    if unseen and "stroke:" not in attributes["style"]:
        return
    children = list(_children(element, names))
    if name in ("g", "defs") and not children:
        return
    if name == "g" and not attributes:
        yield from children
        return
    yield Node(name, attributes, "" if children else element.text or "", children)


def _value(key: str, value: str, names: Mapping[str, str]) -> str:
    """An attribute's value in short form."""
    if key == "id":
        return names[value]
    if key == "style":
        return _style(value)
    if key in ("href", "clip-path"):
        # An image's data have no identifiers.
        return (
            value
            if value.startswith("data:")
            else _REFERENCE.sub(lambda m: f"#{names[m[1]]}", value)
        )
    if key == "d":
        return _path(value)
    return (
        _NUMBER.sub(_short, value) if key in ("x", "y", "width", "height", "transform") else value
    )


def _style(style: str) -> str:
    """A style without fonts, which are the page's. Opacity is made that of lines and areas, which a group's members
    inherit one by one."""
    parts = dict(part.strip().split(": ", 1) for part in style.split(";") if part.strip())
    parts.pop("font-family", None)
    opacity = parts.pop("opacity", None)
    if opacity is not None:
        kinds = [kind for kind in ("fill", "stroke") if parts.get(kind, "none") != "none"]
        parts |= {f"{kind}-opacity": opacity for kind in kinds or ("fill",)}
    return ";".join(f"{key}:{x}" for key, x in parts.items())


def _short(number: re.Match[str]) -> str:
    """A number to a tenth, or a small one, which may belong to a mark, to a hundredth."""
    value = float(number[0])
    return _text(round(value, 1 if abs(value) >= 10 else 2))


def _text(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".").replace("-0.", "-.").removeprefix("0") or "0"


def _path(d: str) -> str:
    """A path: one of straight lines as steps from point to point, in tenths of a point."""
    numbers = [abs(float(one)) for one in _NUMBER.findall(d)]
    if not _STRAIGHT.fullmatch(d) or max(numbers, default=0.0) < 10:
        return re.sub(r"\s*([A-Za-z])\s*", r"\1", _NUMBER.sub(_short, d)).replace("\n", " ").strip()
    parts, x, y, before = [], 0, 0, ""
    for command, *place in _LINES.findall(d):
        if command == "z":
            parts.append("z")
            before = ""
            continue
        new_x, new_y = (round(10 * float(one)) for one in place)
        if command == "M":
            parts.append(f"M{_text(new_x / 10)} {_text(new_y / 10)}")
        elif (new_x, new_y) == (x, y):
            # Steps that nobody sees are left out, except the only one of a dot.
            if before != "M":
                continue
            parts.append("h0")
        else:
            parts.append(_step((new_x - x) / 10, (new_y - y) / 10, before == "l"))
        x, y, before = (
            new_x,
            new_y,
            "M" if command == "M" else "l" if parts[-1][0] not in "hv" else "h",
        )
    return "".join(parts)


def _step(dx: float, dy: float, again: bool) -> str:
    """A step of a line; ``again``: the step before was of the same kind."""
    if not dy:
        return f"h{_text(dx)}"
    if not dx:
        return f"v{_text(dy)}"
    x, y = _text(dx), _text(dy)
    text = f"{x}{'' if y.startswith('-') else ' '}{y}"
    return text if again and x.startswith("-") else f" {text}" if again else f"l{text}"
