"""Thousands of runs: studies, grids, placement on devices, results and the command line."""
