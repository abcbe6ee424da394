"""Offline preference data: what is asked for, and its collection."""
