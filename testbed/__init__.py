"""The engine: one policy learning from preferences."""

from testbed import moved

moved.install()
