"""Effects world by world, and what they say about a further world: the replications of a study are its worlds."""
