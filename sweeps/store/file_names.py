"""Names of files and directories for arbitrary texts: short, readable, and different for different texts.

A text that is a valid name is used unchanged. For any other text, invalid characters are replaced, the end is cut, and
a hash of the whole text follows ``~``, a character that no other name contains. A text's name therefore does not depend
on which other texts there are.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

#: Most bytes of a name; file systems allow 255, some of them 143.
MOST_BYTES = 100
_HASH = 8
#: Names that Windows reserves for devices, with any ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def file_name(text: str) -> str:
    """The name of one file or directory for a text: ASCII letters, digits and ``_.=,()+-``, any other character as
    ``_``.

    Two texts have the same name only if they are equal; "", "." and ".." have names too.
    """
    return _name(
        text, lambda letter: letter.isascii() and (letter.isalnum() or letter in _MARKS), "_"
    )


_MARKS = "_.=,()+-"


def stem(*parts: str) -> str:
    """The name, without its ending, of a web site's file for texts: letters of any script, digits, ``_`` and ``-``, any
    other character as ``-``."""
    return _name("-".join(parts), lambda letter: letter.isalnum() or letter in "_-", "-")


#: Pages of a report that do not belong to a study, and the beginnings of the report's other file names.
_PAGES = re.compile(r"(index|methods|provenance|transfer)(-|$)", re.IGNORECASE)


def study_stem(study: str) -> str:
    """The name, without its ending, of a study's page in a report."""
    return marked(stem(study), study) if _PAGES.match(study) else stem(study)


def figure_stem(study: str, drawing: str) -> str:
    """The name, without its ending, of a figure of a study; ``drawing`` may be a path of the config, whose dots become
    dashes."""
    return figure_prefix(study) + stem(drawing.replace(".", "-"))


def figure_prefix(study: str) -> str:
    """The beginning of the names of all figures of a study."""
    return f"{study_stem(study)}-"


def _name(text: str, kept: Callable[[str], bool], other: str) -> str:
    name = "".join(letter if kept(letter) else other for letter in text)
    fits = len(name.encode("utf-8")) <= MOST_BYTES
    # Names that begin with a dot are hidden, and Windows drops a dot at the end.
    plain = name == text and name == name.strip(".") and not _DEVICES.match(name)
    return name if name and fits and plain else marked(name.strip("."), text)


def marked(name: str, text: str) -> str:
    """A name, cut if necessary, with a hash of the text that it stands for."""
    mark = "~" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
    room = MOST_BYTES - len(mark)
    return (name.encode("utf-8")[:room].decode("utf-8", "ignore") or "_") + mark


def told_apart(
    names: Sequence[str], things: Sequence[Hashable], taken: Sequence[str] = ()
) -> list[str]:
    """Names for things, in their order. Names that differ at most in case, and names in ``taken``, get a hash of their
    thing's ``repr`` as well."""
    counts = Counter(name.casefold() for name in (*names, *taken))
    told = []
    for name, thing in zip(names, things, strict=True):
        folder, slash, last = name.rpartition("/")
        distinct = marked(last, repr(thing)) if counts[name.casefold()] > 1 else last
        told.append(f"{folder}{slash}{distinct}")
    return told
