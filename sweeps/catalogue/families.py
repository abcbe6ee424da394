"""The members of each family of configs, found in the family's packages, with the descriptions in their docstrings."""

import dataclasses
import inspect
import re
from typing import Any, NamedTuple

from sweeps.estimands import Estimand
from sweeps.rules import Rule
from sweeps.store import columns
from sweeps.study import list_studies
from testbed import config
from testbed.config import ranges
from testbed.config.canonical_form import default_of, fields_of
from testbed.environment import AbstractGolden, AbstractTask
from testbed.losses.base import AbstractLoss
from testbed.objective import AbstractObjective
from testbed.preference import AbstractLabeler
from testbed.proxies.base import AbstractProxyConfig
from testbed.references.base import AbstractReference
from testbed.source import AbstractSource

#: Each family's base class, and the packages that are walked for it.
FAMILIES: dict[str, tuple[Any, str]] = {
    "tasks": (AbstractTask, AbstractTask.family),
    "labelers": (AbstractLabeler, AbstractLabeler.family),
    "goldens": (AbstractGolden, AbstractGolden.family),
    "losses": (AbstractLoss, "testbed.losses"),
    "methods": (AbstractObjective, "testbed.methods"),
    "sources": (AbstractSource, AbstractSource.family),
    "references": (AbstractReference, AbstractReference.family),
    "proxies": (AbstractProxyConfig, AbstractProxyConfig.family),
    "estimands": (Estimand, "sweeps.estimands"),
    "rules": (Rule, "sweeps.rules"),
}


class Parameter(NamedTuple):
    """A field: its default as text (empty if a value is required), the values that it admits, and its meaning."""

    name: str
    default: str
    admits: str
    meaning: str


class Entry(NamedTuple):
    """A member of a family: its formula or description, its source in the literature, and its fields."""

    name: str
    formula: str
    citation: str
    parameters: tuple[Parameter, ...]

    def describe(self) -> dict[str, Any]:
        """The entry as JSON-able data."""
        return self._asdict() | {"parameters": [field._asdict() for field in self.parameters]}


def members(what: str) -> list[dict[str, Any]]:
    """The studies, the columns of the results, or the members of one of `FAMILIES`, as JSON-able data."""
    if what == "columns":
        return [{"column": name, "meaning": text} for name, text in columns.MEANINGS.items()]
    if what != "studies":
        return [entry.describe() for entry in entries(what)]
    return [
        {
            "study": study.name,
            "title": study.title,
            "question": study.question,
            "claims": [claim.id for claim in study.claims],
            "default": study.default,
            "presets": {preset: study.select(preset).size for preset in study.presets},
        }
        for study in list_studies()
    ]


def entries(what: str) -> list[Entry]:
    """All members of one of `FAMILIES`, by name, then configs that they contain and that no family lists."""
    base, package = FAMILIES[what]
    kinds = [kind for _, kind in sorted(config.members(base, package).items())]
    parts = dict.fromkeys(part for kind in kinds for part in config.parts(kind))
    return [entry(kind) for kind in (*kinds, *parts)]


def entry(kind: type) -> Entry:
    """The entry of a class: the docstring's first paragraph is the formula, and ends with the citation in brackets."""
    formula, citation = cited(first_paragraph(kind))
    meant = meanings(kind)
    parameters = tuple(
        Parameter(field.name, _default(field), _admits(kind, field), meant.get(field.name, ""))
        for field in fields_of(kind)
    )
    return Entry(kind.__name__, formula, citation, parameters)


def first_paragraph(kind: type) -> str:
    """The first paragraph of the docstring, on one line, without backquotes."""
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].split()).replace("`", "")


def cited(text: str) -> tuple[str, str]:
    """A text without the brackets at its end, and the content of the brackets; no citation if they hold no year."""
    stripped = text.rstrip(". ")
    if not stripped.endswith(")"):
        return text, ""
    depth, start = 0, len(stripped)
    while start and (depth or start == len(stripped)):
        start -= 1
        depth += {")": 1, "(": -1}.get(stripped[start], 0)
    citation = stripped[start + 1 : -1]
    return (stripped[:start].rstrip(), citation) if re.search(r"\d{4}", citation) else (text, "")


def meanings(kind: type) -> dict[str, str]:
    """The meaning of each field from ``Attributes:`` of the class, or of the nearest base class that describes the
    field: ``name: meaning``, or ``first, second: meaning`` for several."""
    base = next(filter(dataclasses.is_dataclass, kind.__mro__[1:]), None)
    inherited = meanings(base) if isinstance(base, type) else {}
    _, _, text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:")
    text = " ".join(text.split()).replace("`", "")
    names = "|".join(re.escape(field.name) for field in dataclasses.fields(kind))
    marks = list(re.finditer(rf"(?:^|(?<= ))((?:{names})(?:, (?:{names}))*): ", text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return inherited | {
        name: text[mark.end() : end].strip(" .")
        for mark, end in zip(marks, ends, strict=False)
        for name in mark[1].split(", ")
    }


def _default(field: dataclasses.Field) -> str:
    """The default in the command line's spelling; empty if a value is required."""
    default = default_of(field)
    return "" if default is dataclasses.MISSING else config.spell(default)


def _admits(kind: type, field: dataclasses.Field) -> str:
    """The range of a number, or the other values that are allowed."""
    allowed = ranges.admitted(field)
    words = config.admits(kind, field.name) if allowed is None else str(allowed)
    words += " or none" if allowed is not None and field.default is None else ""
    return re.sub(r"\bAbstract(\w+)", lambda base: f"a kind of {base[1].lower()}", words)
