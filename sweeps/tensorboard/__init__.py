"""Results as TensorBoard logs: event files made from the store, with charts, texts, figures and HPARAMS."""

from testbed import moved

__getattr__ = moved.names(__name__, "writer")
