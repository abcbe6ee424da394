"""Quantities of worlds that are small enough to enumerate all responses."""

from testbed import moved

__getattr__ = moved.names(__name__, "quantities")
