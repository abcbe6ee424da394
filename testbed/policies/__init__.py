"""Kinds of policies other than the plain transformer, and the selection of their trained parameters."""
