"""Proxy reward models, one a file."""
