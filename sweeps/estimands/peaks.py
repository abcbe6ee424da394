"""Bounds on where a curve peaks, shared by estimands of peaks."""

from sweeps.estimands.base import Peak
from sweeps.rules import Side


def place_bounds(peak: Peak, weight: float, what: str) -> dict[Side, str]:
    """Sides on which `weight` times the place of a peak is open, with the reason."""
    start, end = peak.outside()
    bound: dict[Side, str] = {}
    if end:
        bound["higher" if weight > 0 else "lower"] = _unreached(what)
    if start:
        bound["lower" if weight > 0 else "higher"] = (
            f"no peak inside: {what} may be best before the smallest KL it was observed at"
        )
    return bound


def _unreached(arm: str) -> str:
    return f"peak not reached: {arm} still rises at the end of its observed range"
