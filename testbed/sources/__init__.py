"""Sources of pairs of responses, one a file, found by walking this package."""
