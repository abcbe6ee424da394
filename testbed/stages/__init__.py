"""Stages that build worlds and everything else that training needs; their results are cached."""

from testbed import moved

__getattr__ = moved.names(__name__, "stages")
