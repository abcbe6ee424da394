"""What there is to choose from, and whom to cite for it."""

from testbed import moved

__getattr__ = moved.names(__name__, "families")
