"""Simulated and real effects side by side: the effects and how well they agree, and both as tables and sentences."""

from testbed import moved

__getattr__ = moved.names(__name__, "effects")
