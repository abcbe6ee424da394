"""The seeds of a study's worlds: a number N for the seeds 0 to N - 1, or a range ``first:end``, whose end is left out.

Worlds of other seeds are other worlds, so a result can be confirmed on a range that nobody has seen (docs/seeds.md).
"""

from collections.abc import Sequence
from typing import TypeAlias

from testbed.errors import InvalidInput

SeedsLike: TypeAlias = int | range | Sequence[int] | str
#: The most seeds of a study, and one more than the largest.
MOST = 2**31


def seeds_from(given: SeedsLike) -> range:
    """Seeds from a number, a range, its first seed and end, or a text such as ``16`` or ``100:116``.

    Raises `InvalidInput` for an empty or unordered range, negative seeds, and texts of another form."""
    bounds = _numbers(given)
    if len(bounds) == 1:
        if bounds[0] < 1:
            raise InvalidInput(f"seeds must be at least 1, got {bounds[0]}")
        bounds = [0, *bounds]
    if len(bounds) != 2 or not 0 <= bounds[0] < bounds[1] <= MOST:
        raise InvalidInput(
            f"seeds must be a number of at least 1, or a range such as 100:116 with 0 <= first < end, got {given}"
        )
    return range(*bounds)


def _numbers(given: SeedsLike) -> Sequence[int]:
    """A number alone, or the first seed and the end; no numbers for any other form."""
    if isinstance(given, int):
        return [given]
    if isinstance(given, range):
        return [given.start, given.stop] if given.step == 1 else []
    if isinstance(given, str):
        try:
            return [int(part) for part in given.split(":")]
        except ValueError:
            return []
    return given if len(given) == 2 else []


def stored_seeds(seeds: range) -> int | list[int]:
    """Seeds as JSON-able data, which `seeds_from` reads."""
    return [seeds.start, seeds.stop] if seeds.start else seeds.stop


def spelt_seeds(seeds: range) -> str:
    """Seeds as the command line takes them."""
    return f"{seeds.start}:{seeds.stop}" if seeds.start else str(seeds.stop)
