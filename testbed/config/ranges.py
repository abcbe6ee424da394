"""Ranges of hyper-parameters: a numeric config field declares the numbers it admits, and `check` tests all of them.

Programs compute in float32, so a range holds for the number as a program will see it: 1e-46 is 0 there, and 1 - 1e-9 is
1.
"""

import ctypes
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import equinox as eqx

from testbed.config.canonical_form import LATER
from testbed.errors import InvalidInput

_RANGE = "range"
Number = float | int

#: Smallest normal number of float32: XLA treats smaller ones as 0. Largest whole number of int32.
_TINY, _MOST = 2.0**-126, 2**31 - 1


class Range(NamedTuple):
    """The numbers between two ends; an ``open`` end is excluded. Infinities and NaN are never admitted."""

    low: Number = -math.inf
    high: Number = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: object) -> bool:
        # Whole numbers are compared as they are: float() refuses those of more than 308 digits.
        number = value if isinstance(value, int) else float(value)  # pyright: ignore[reportArgumentType]
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return (isinstance(number, int) or math.isfinite(number)) and above and below

    def __str__(self) -> str:
        """In words: ``> 0``, ``0 or more``, ``at least 1``, ``between 0 and 1``, ``in [0, 1)``, ``finite``."""
        if math.isinf(self.high):
            if math.isinf(self.low):
                return "finite"
            if self.open_low:
                return f"> {self.low:g}"
            return f"at least {self.low:g}" if self.low > 0 else f"{self.low:g} or more"
        if not (self.open_low or self.open_high):
            return f"between {self.low:g} and {self.high:g}"
        ends = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"in {ends[0]}{self.low:g}, {self.high:g}{ends[1]}"


def hyper(
    default: Any = dataclasses.MISSING,
    *,
    above: Number | None = None,
    least: Number | None = None,
    below: Number | None = None,
    most: Number | None = None,
    static: bool = False,
    later: bool = False,
) -> Any:
    """A numeric field with its range: ``above`` and ``below`` are exclusive bounds, ``least`` and ``most`` are
    inclusive. With a default of None the field may be none; without a default a value is required. ``later``: see
    `testbed.config.canonical_form.later`."""
    low = next((end for end in (above, least) if end is not None), -math.inf)
    high = next((end for end in (below, most) if end is not None), math.inf)
    range = Range(low, high, open_low=above is not None, open_high=below is not None)
    return eqx.field(default=default, static=static, metadata={_RANGE: range, LATER: later})


def admitted(field: dataclasses.Field) -> Range | None:
    """The range of a field made by `hyper`; None for any other field."""
    return field.metadata.get(_RANGE)


def check(config: Any) -> None:
    """Refuse values out of range. Raises `InvalidInput`."""
    for name, allowed, optional in _ranges(type(config)):
        value = object.__getattribute__(config, name)
        if optional and value is None:
            continue
        seen = in_program(value)
        given = value in allowed
        if not given or seen not in allowed:
            # Whole numbers are always finite, so their message does not mention it.
            open_ended = isinstance(value, float) and math.isinf(allowed.high)
            finite = " and finite" if open_ended and math.isfinite(allowed.low) else ""
            rounded = _in_float32(seen) if given else ""
            none = "none or " if optional else ""
            raise InvalidInput(f"{name} must be {none}{allowed}{finite}, got {value}{rounded}")
        refuse_lost(value, name)


class Checked(eqx.Module):
    """A config whose numbers are checked against their ranges when it is made."""

    def __check_init__(self) -> None:
        check(self)


def in_program(value: Any) -> Any:
    """A number as a compiled program sees it: a float as float32, with magnitudes below its smallest normal number as
    0; any other value unchanged."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    single = ctypes.c_float(value).value
    return single if abs(single) >= _TINY else 0.0


def refuse_lost(value: Any, name: str) -> None:
    """Raise `InvalidInput`, naming the field, for a finite number that becomes 0 or infinite in float32 and was not so
    before, or that int32 cannot hold."""
    if isinstance(value, int) and abs(value) > _MOST:
        raise InvalidInput(f"{name} must be at most {_MOST} in size, got {value}")
    if not isinstance(value, float) or not math.isfinite(value):
        return
    seen = in_program(value)
    if math.isinf(seen) or (value != 0 and seen == 0):
        raise InvalidInput(
            f"{name} must be 0 or between {_TINY:.2g} and 3.4e+38 in size, which float32 can hold, got {value}"
            f"{_in_float32(seen)}"
        )


def _in_float32(seen: Number) -> str:
    return f", which is {seen:g} in float32"


@functools.cache
def _ranges(kind: type) -> tuple[tuple[str, Range, bool], ...]:
    """The fields of a class that have a range, and whether each may be none."""
    return tuple(
        (field.name, allowed, field.default is None)
        for field in dataclasses.fields(kind)
        if (allowed := admitted(field)) is not None
    )
