"""Curves over KL as the paper draws them."""
