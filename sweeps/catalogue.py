"""What there is to choose from: the members of each family, found by walking their packages."""

import dataclasses
from typing import Any

from testbed import config
from testbed.environment import AbstractGolden, AbstractTask
from testbed.losses.base import AbstractLoss
from testbed.preference import AbstractLabeler
from testbed.sources.base import AbstractSource

FAMILIES: dict[str, Any] = {
    "tasks": AbstractTask,
    "labelers": AbstractLabeler,
    "goldens": AbstractGolden,
    "losses": AbstractLoss,
    "sources": AbstractSource,
}


def rows(what: str) -> list[dict[str, str]]:
    """Name, first sentence, and fields with their defaults of every member of one of `FAMILIES`."""
    base = FAMILIES[what]
    found = config.members(base, base.family)
    return [
        {
            what.removesuffix("s") if what != "losses" else "loss": name,
            "what it is": first_sentence(kind.__doc__ or ""),
            "fields": ", ".join(_field(field) for field in dataclasses.fields(kind) if field.init),
        }
        for name, kind in sorted(found.items())
    ]


def first_sentence(docstring: str) -> str:
    """Up to the first full stop that ends a sentence, on one line."""
    text = " ".join(docstring.split("\n\n")[0].split()).replace("`", "")
    sentence, stop, _ = text.partition(". ")
    return sentence + stop.strip()


def _field(field: dataclasses.Field) -> str:
    """``name=default``, or the name alone where the world must give a value."""
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.name}={config.spell(field.default_factory())}"
    if field.default is dataclasses.MISSING:
        return field.name
    return f"{field.name}={config.spell(field.default)}"
