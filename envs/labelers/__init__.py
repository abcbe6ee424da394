"""Labelers that turn golden rewards into preferences, one a file."""
