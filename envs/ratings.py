"""Human sentiment ratings of short texts (Hutto and Gilbert 2014, ICWSM: VADER).

The archive hutto_ICWSM_2014.tar.gz, in the source distribution of vaderSentiment 3.3.2, holds four kinds of snippets,
each rated by 15 to 99 people from -4 (extremely negative) to 4: movie reviews, product reviews, tweets and editorials.
Each kind has two files, tab-separated, UTF-8, some with a byte-order mark: texts by an identifier, and ratings by the
same identifiers in another order. Texts hold HTML entities, which are decoded. Means are computed from the ratings,
because the means in the text files differ from them for 199 tweets.
"""

import ast
import functools
import html
import io
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from testbed.errors import InvalidInput

#: SHA-256 of the archive.
CHECKSUM: Final = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
#: Prefixes of the files' names, by kind of snippet.
KINDS: Final = {
    "movie": "movieReviewSnippets",
    "product": "amazonReviewSnippets",
    "tweet": "tweets",
    "editorial": "nytEditorialSnippets",
}
LOWEST, HIGHEST = -4, 4


class Snippet(NamedTuple):
    """A text of one of `KINDS`, with the rating by each person."""

    kind: str
    text: str
    ratings: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean rating."""
        return float(np.mean(self.ratings))

    @property
    def deviation(self) -> float:
        """Standard deviation of the ratings (divided by their number)."""
        return float(np.std(self.ratings))


def spread(snippets: Sequence[Snippet]) -> float:
    """Standard deviation of one person's rating of a snippet, pooled over snippets: the square root of the summed
    squared deviations from each snippet's mean over their degrees of freedom."""
    squares = sum(len(s.ratings) * s.deviation**2 for s in snippets)
    return float(np.sqrt(squares / sum(len(s.ratings) - 1 for s in snippets)))


@functools.cache
def read(archive: Path) -> tuple[Snippet, ...]:
    """All snippets of the archive, kind by kind, in the order of its text files.

    Raises `InvalidInput` for a file that is missing or cannot be read; `testbed.llm.fetch.ratings` tests its SHA-256.
    """
    names = [
        f"{name}_{part}" for name in KINDS.values() for part in ("GroundTruth", "anonDataRatings")
    ]
    files = _unpacked(archive, names)
    pairs = zip(KINDS, files[::2], files[1::2], strict=True)
    return tuple(snippet for kind, *both in pairs for snippet in parse(kind, *both))


@functools.cache
def lexicon(archive: Path) -> dict[str, float]:
    """VADER's lexicon, which is in the same archive: the mean of ten people's ratings of each word, from -4 to 4.

    Raises what `read` raises.
    """
    (content,) = _unpacked(archive, ["vader_sentiment_lexicon"])
    lines = _lines("lexicon", content, 4, "latin-1")
    return {word: float(mean) for _, (word, mean, *_) in lines}


def _unpacked(archive: Path, names: Sequence[str]) -> list[bytes]:
    """Contents of some text files of the archive."""
    try:
        content = archive.read_bytes()
    except OSError as error:
        raise InvalidInput(f"ratings archive {archive} cannot be read: {error.strerror}") from error
    files = []
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as packed:
            for name in names:
                file = packed.extractfile(f"hutto_ICWSM_2014/{name}.txt")
                files.append(b"" if file is None else file.read())
    except (tarfile.TarError, EOFError, OSError, zlib.error, KeyError) as error:
        raise InvalidInput(f"ratings archive {archive} cannot be unpacked: {error}") from error
    return files


def parse(kind: str, texts: bytes, ratings: bytes) -> list[Snippet]:
    """The snippets of a kind from its two files. Raises `InvalidInput`, naming kind and line."""
    by_name: dict[str, tuple[int, ...]] = {}
    for number, (name, *_, listed) in _lines(f"{kind} ratings", ratings, 4):
        try:
            points = tuple(ast.literal_eval(listed))
        except (ValueError, SyntaxError, TypeError):
            points = ()
        if not points or not all(isinstance(r, int) and LOWEST <= r <= HIGHEST for r in points):
            raise InvalidInput(
                f"{kind} ratings, line {number}: ratings must be a list of whole numbers between {LOWEST} and "
                f"{HIGHEST}, got '{listed}'"
            )
        by_name[name] = points
    snippets = []
    for number, (name, _, text) in _lines(f"{kind} texts", texts, 3):
        if name not in by_name:
            raise InvalidInput(f"{kind} texts, line {number}: there are no ratings of '{name}'")
        snippets.append(Snippet(kind, html.unescape(text).strip(), by_name[name]))
    return snippets


def _lines(
    file: str, content: bytes, fields: int, encoding: str = "utf-8-sig"
) -> list[tuple[int, list[str]]]:
    """Number and tab-separated fields of every line that is not empty."""
    try:
        lines = content.decode(encoding).replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} must be UTF-8: {error}") from error
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line]
    for number, row in rows:
        if len(row) != fields:
            raise InvalidInput(f"{file}, line {number}: needs {fields} fields, got {len(row)}")
    return rows
