"""Worlds, built in cached stages."""
