"""Results as TensorBoard logs."""

from testbed import moved

__getattr__ = moved.names(__name__, "writer")
