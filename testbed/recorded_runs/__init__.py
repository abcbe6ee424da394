"""Runs whose pairs are recorded, for sources that replay them."""
