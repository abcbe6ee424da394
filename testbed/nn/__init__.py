"""Layers and products that policies are made of."""
