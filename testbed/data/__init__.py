"""Offline preference data: what is asked for, and its collection."""

from testbed import moved

__getattr__ = moved.names(__name__, "spec")
