"""Reference policies of a run, one a file."""
