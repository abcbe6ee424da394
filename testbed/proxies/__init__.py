"""Proxy reward models, one a file."""

from testbed import moved

__getattr__ = moved.names(__name__, "base", "reader")
