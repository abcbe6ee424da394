"""The engine: one policy learning from preferences."""
