"""Where pairs of responses come from, one source a file, found by walking this package."""
