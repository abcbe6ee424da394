"""The seeds of a study's worlds: a number N for the seeds 0 to N - 1, or a range ``first:end``, whose end is left out.

Worlds of other seeds are other worlds, so a result can be confirmed on a range that nobody has seen (docs/seeds.md).
"""

from collections.abc import Sequence
from typing import TypeAlias

from testbed.errors import InvalidInput

SeedsLike: TypeAlias = int | range | Sequence[int] | str
#: The most seeds of a study, and one more than the largest.
MOST = 2**31


def parsed(given: SeedsLike) -> range:
    """Seeds from a number, a range, its first seed and end, or a text such as ``16`` or ``100:116``.

    Raises `InvalidInput` for an empty or unordered range, negative seeds, and texts of another form."""
    first, end = _bounds(given)
    if first == 0 and end < 1 and str(end) == str(given).strip():
        raise InvalidInput(f"seeds must be at least 1, got {end}")
    if not 0 <= first < end <= MOST:
        shown = given if isinstance(given, int | str) else f"{first}:{end}"
        raise InvalidInput(
            f"seeds must be a number of at least 1, or a range such as 100:116 with 0 <= first < end, got {shown}"
        )
    return range(first, end)


def _bounds(given: SeedsLike) -> tuple[int, int]:
    """The first seed, and the end."""
    if isinstance(given, range) and given.step == 1:
        return given.start, given.stop
    if isinstance(given, int):
        return 0, given
    parts: Sequence[int | str] = given.split(":") if isinstance(given, str) else list(given)
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and isinstance(given, str):
        return 0, numbers[0]
    if len(numbers) == 2 and not isinstance(given, range):
        return numbers[0], numbers[1]
    return 0, 0 if isinstance(given, str) else -1


def stored(seeds: range) -> int | list[int]:
    """Seeds as JSON-able data, which `parsed` reads."""
    return [seeds.start, seeds.stop] if seeds.start else seeds.stop


def spelt(seeds: range) -> str:
    """Seeds as the command line takes them."""
    return f"{seeds.start}:{seeds.stop}" if seeds.start else str(seeds.stop)
