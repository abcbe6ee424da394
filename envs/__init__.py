"""Worlds whose golden reward is known exactly, one task a file."""
