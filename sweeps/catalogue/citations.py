"""BibTeX entries of the methods that a study's runs used: the papers that the docstrings of these methods name.

Entries are in ``references.bib`` beside this file, or in the text ``BIBTEX`` of a class's own file. An entry belongs to
a class if the docstring of the class, or of its file, names the entry's arXiv number or, for an entry without one, its
authors and year (``Rao and Kupper 1967``).
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sweeps import user_files
from sweeps.catalogue import families
from sweeps.store.parquet import config_in
from sweeps.store.store import Store
from testbed import config
from testbed.errors import InvalidInput
from testbed.lora import Lora

_FILE = Path(__file__).parent / "references.bib"
#: Entries for every study: the testbed, the setup that its studies start from, and the form of its curves.
_ALWAYS = ("alignment-testbed", "tang2024gap", "gao2022overoptimization")


class Entry(NamedTuple):
    """A BibTeX entry: its key, its text, and the name by which docstrings refer to it."""

    key: str
    text: str
    name: str

    def named_in(self, text: str) -> bool:
        """Whether a text names the entry."""
        return re.search(rf"(?<![\w.]){re.escape(self.name)}(?!\w)", text) is not None


def entries_of(known: Iterable[type]) -> tuple[Entry, ...]:
    """The entries of ``references.bib``, then those in the files of some classes, each once, in their order."""
    theirs = (getattr(sys.modules[kind.__module__], "BIBTEX", "") for kind in known)
    texts = dict.fromkeys([_FILE.read_text(encoding="utf-8"), *theirs])
    entries = [entry for text in texts for entry in _entries(text)]
    return tuple({entry.key: entry for entry in reversed(entries)}.values())[::-1]


def _entries(text: str) -> Iterator[Entry]:
    return (_entry(part) for part in re.split(r"\n\s*\n(?=@)", text.strip()) if part)


def _entry(text: str) -> Entry:
    fields = _fields(text)
    if not {"author", "year"} <= fields.keys():
        raise InvalidInput(
            f"BIBTEX must be entries with author and year, separated by empty lines, got {text[:60]!r}"
        )
    authors = [name.split(",")[0] for name in fields["author"].split(" and ")]
    who = f"{authors[0]} et al." if len(authors) > 2 else " and ".join(authors)
    name = fields.get("eprint") or f"{who} {fields['year']}"
    return Entry(text.split("{")[1].split(",")[0], text, name)


def _fields(text: str) -> dict[str, str]:
    """The fields of an entry, whose values stand in braces or quotes or are numbers, in lines or on one."""
    value = r"\{((?:[^{}]|\{[^{}]*\})*)\}|\"([^\"]*)\"|(\d+)"
    found = re.findall(rf"(\w+)\s*=\s*(?:{value})", text)
    return {name.lower(): " ".join("".join(parts).split()) for name, *parts in found}


def said(kind: type) -> str:
    """The docstrings of a class and of its file, on one line."""
    texts = (kind.__doc__, sys.modules[kind.__module__].__doc__)
    return " ".join(" ".join(inspect.cleandoc(text or "").split()) for text in texts)


def kinds() -> dict[str, type]:
    """Classes that a config may name and that stand for a method, by name: members of the testbed's families, and
    classes of users' loaded files. Parts of every run, such as the policy's architecture, are not included."""
    methods: dict[str, type] = {Lora.__name__: Lora}
    for base, packages in families.FAMILIES.values():
        methods |= config.members(base, packages)
    for file in user_files.loaded():
        module = sys.modules[file.name]
        methods |= {
            name: kind
            for name, kind in vars(module).items()
            if inspect.isclass(kind) and kind.__module__ == file.name
        }
    return methods


def bibliography(opened: Sequence[tuple[Store, pd.DataFrame]]) -> str:
    """BibTeX entries of the methods that stored runs used, and of the estimands and rules of their claims."""
    used = {
        name
        for _, table in opened
        for text in table["config"].unique()
        for name in _named(config_in(text))
    }
    used |= {name for store, _ in opened for name in _named(store.header["claims"])}
    known = kinds()
    chosen = [known[name] for name in sorted(used & known.keys())]
    together = "\n".join(map(said, chosen))
    cited = (
        entry.text
        for entry in entries_of(chosen)
        if entry.key in _ALWAYS or entry.named_in(together)
    )
    return "\n\n".join(cited) + "\n"


def _named(data: Any) -> Iterator[str]:
    """Kinds that a config names, at any depth."""
    if isinstance(data, Mapping):
        if isinstance(data.get("kind"), str):
            yield data["kind"]
        for value in data.values():
            yield from _named(value)
    elif isinstance(data, list):
        for value in data:
            yield from _named(value)
