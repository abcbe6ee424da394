"""Forecasts of what a run costs: floating-point operations and memory."""
