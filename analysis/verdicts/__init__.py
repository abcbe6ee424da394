"""Judgement of claims: evidence, intervals, verdicts."""
