"""Worlds, built in cached stages."""

from testbed import moved

__getattr__ = moved.names(__name__, "stages")
