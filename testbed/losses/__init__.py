"""Preference losses, one a file, found by walking this package."""
