"""From stored results to curves, verdicts, figures and the report."""

from analysis.load import Results, load

__all__ = ["Results", "load"]
