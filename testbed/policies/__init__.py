"""Kinds of policies beside the plain transformer, and what is trained of them."""
