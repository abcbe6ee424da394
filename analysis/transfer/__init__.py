"""Comparison of simulated and real effects: the effects, their agreement, and both as tables and sentences."""

from testbed import moved

__getattr__ = moved.names(__name__, "effects")
