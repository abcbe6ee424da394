"""Rules that turn an interval into a verdict, one a file."""
