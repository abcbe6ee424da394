"""Results on disk."""

from testbed import moved

__getattr__ = moved.names(__name__, "store")
