"""Claims judged: evidence, intervals, verdicts."""
