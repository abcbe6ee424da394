"""Golden rewards, one a file."""
