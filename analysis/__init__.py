"""Analysis: turns stored results into curves, verdicts, figures and the report."""

from analysis.load import Results, load

__all__ = ["Results", "load"]
