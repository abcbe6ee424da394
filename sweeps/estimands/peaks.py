"""Bounds on where a curve peaks, shared by estimands of peaks."""

from sweeps.estimands.base import Peak
from sweeps.rules import Side


def place_bounds(peak: Peak, weight: float, what: str) -> dict[Side, str]:
    """Sides on which `weight` times the place of a peak is open, with the reason."""
    start, end = peak.outside()
    bound: dict[Side, str] = {}
    if end:
        bound["higher" if weight > 0 else "lower"] = not_reached(what)
    if start:
        bound["lower" if weight > 0 else "higher"] = (
            f"no peak inside: {what} may be best before the smallest KL it was observed at"
        )
    return bound


def not_reached(arm: str) -> str:
    """Why a higher peak of an arm may lie beyond its observed range."""
    return f"peak not reached: {arm} still rises at the end of its observed range"
