"""Figures of the report, one kind per module."""
