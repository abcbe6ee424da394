"""Curves of win rate over KL divergence, fitted."""
