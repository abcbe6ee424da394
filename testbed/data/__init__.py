"""Offline preference data: their specification and their collection."""

from testbed import moved

__getattr__ = moved.names(__name__, "spec")
