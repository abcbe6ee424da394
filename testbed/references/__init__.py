"""Reference policies of a run, one a file."""

from testbed import moved

__getattr__ = moved.names(__name__, "base", "fixed", "refreshed", "averaged")
