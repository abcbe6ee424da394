"""Checks that several configs share; each raises `InvalidInput`."""

import math

import equinox as eqx

from testbed.errors import InvalidInput


def non_negative(config: eqx.Module, *names: str) -> None:
    """Refuse fields that are negative or not finite."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            raise InvalidInput(f"{name} must be 0 or more and finite, got {value}")


def finite(config: eqx.Module, *names: str) -> None:
    """Refuse fields that are not finite."""
    for name in names:
        value = getattr(config, name)
        if not math.isfinite(value):
            raise InvalidInput(f"{name} must be finite, got {value}")


def share(config: eqx.Module, *names: str) -> None:
    """Refuse fields outside 0 to 1."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise InvalidInput(f"{name} must be between 0 and 1, got {value}")


def sum_to_one(config: eqx.Module, name: str, counted: str) -> None:
    """Refuse weights unless there are none, or one for each item of ``counted``, and they sum to one."""
    weights, count = getattr(config, name), getattr(config, counted)
    if not weights:
        return
    if len(weights) != count:
        raise InvalidInput(
            f"{name} must be one for each of the {counted}={count} or none, got {len(weights)}"
        )
    for weight in weights:
        if not weight >= 0:
            raise InvalidInput(f"{name} must be 0 or more, got {weight}")
    total = math.fsum(weights)
    if not abs(total - 1) <= 1e-6:
        raise InvalidInput(f"{name} must sum to one, got a sum of {total:g}")
