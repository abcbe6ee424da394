"""Quantities of worlds that are small enough to enumerate all responses."""
