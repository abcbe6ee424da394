"""Hyper-parameters that know what they admit: a field of a config, its range, and the check of all of them."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import equinox as eqx

from testbed.errors import InvalidInput

_RANGE = "range"
Number = float | int


class Range(NamedTuple):
    """The numbers between two ends; ``open`` ends are left out. Never infinite, never NaN."""

    low: Number = -math.inf
    high: Number = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: object) -> bool:
        number = float(value)  # pyright: ignore[reportArgumentType]
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return math.isfinite(number) and above and below

    def __str__(self) -> str:
        """In words: ``> 0``, ``1 or more``, ``between 0 and 1``, ``in [0, 1)``, ``finite``."""
        if math.isinf(self.high):
            if math.isinf(self.low):
                return "finite"
            return f"> {self.low:g}" if self.open_low else f"{self.low:g} or more"
        if not (self.open_low or self.open_high):
            return f"between {self.low:g} and {self.high:g}"
        ends = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"in {ends[0]}{self.low:g}, {self.high:g}{ends[1]}"


def hyper(
    default: Number,
    *,
    above: Number | None = None,
    least: Number | None = None,
    below: Number | None = None,
    most: Number | None = None,
    static: bool = False,
) -> Any:
    """A numeric field with its range: ``above`` and ``below`` are left out of it, ``least`` and ``most`` are in."""
    low = next((end for end in (above, least) if end is not None), -math.inf)
    high = next((end for end in (below, most) if end is not None), math.inf)
    range = Range(low, high, open_low=above is not None, open_high=below is not None)
    return eqx.field(default=default, static=static, metadata={_RANGE: range})


def admitted(field: dataclasses.Field) -> Range | None:
    """What a field made by `hyper` admits; None for any other."""
    return field.metadata.get(_RANGE)


def check(config: eqx.Module) -> None:
    """Refuse values out of range. Raises `InvalidInput`."""
    for name, allowed in _ranges(type(config)):
        value = object.__getattribute__(config, name)
        if value not in allowed:
            # Of whole numbers it goes without saying.
            open_ended = isinstance(value, float) and math.isinf(allowed.high)
            finite = " and finite" if open_ended and math.isfinite(allowed.low) else ""
            raise InvalidInput(f"{name} must be {allowed}{finite}, got {value}")


@functools.cache
def _ranges(kind: type) -> tuple[tuple[str, Range], ...]:
    """The fields of a class that have a range."""
    found = ((field.name, admitted(field)) for field in dataclasses.fields(kind))
    return tuple((name, allowed) for name, allowed in found if allowed is not None)
