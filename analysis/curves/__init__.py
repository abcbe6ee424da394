"""Fitted curves of win rate over KL divergence."""
