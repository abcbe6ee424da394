"""Analysis: turns stored results into curves, verdicts, figures and the report."""
