"""Checks that the configs of several labelers share."""

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
