"""The posterior of `analysis.worlds.pooled` by plain sums over one large grid that need not be placed: from a
thousandth of the smallest number given to ten thousand times the largest."""

from collections.abc import Sequence

import numpy as np

from analysis.worlds.pooled import NU, SCALE_LOG_SD


def _wide(middle: float, near: float, far: float, count: int) -> np.ndarray:
    return middle + near * np.sinh(np.linspace(-1, 1, count) * np.arcsinh(far / near))


def interval(
    values: Sequence[float],
    errors: Sequence[float],
    unit: float,
    families: Sequence[int] | None = None,
    scales: int = 60,
    places: int = 901,
) -> np.ndarray:
    """The 5%, 50% and 95% quantiles of the effect."""
    y, s = np.asarray(values, dtype=float), np.asarray(errors, dtype=float)
    names = np.arange(len(y)) if families is None else np.asarray(families)
    median, reach = np.log(3 * unit), 3.5 * SCALE_LOG_SD
    log_tau = np.linspace(median - reach, median + reach, scales)
    tau, prior = np.exp(log_tau), -0.5 * ((log_tau - median) / SCALE_LOG_SD) ** 2
    sigma = np.zeros(1) if families is None else tau
    near = 1e-3 * float(np.ptp(y))
    far = 1e4 * max(float(np.ptp(y)), float(s.max()))
    place = _wide(float(np.median(y)), near, far, places)
    total = np.zeros((places, scales, len(sigma)))
    total += prior[:, None] + (prior if families is not None else 0.0)
    for name in set(names.tolist()):
        own = np.flatnonzero(names == name)
        centre = place if families is None else _wide(float(y[own].mean()), near, far, places)
        each = np.zeros((places, scales))
        for world in own:
            scale = np.sqrt(tau**2 + s[world] ** 2)
            apart = (y[world] - centre)[:, None] / scale
            each += -(NU + 1) / 2 * np.log1p(apart**2 / NU) - np.log(scale)
        if families is None:
            total[..., 0] += each
            continue
        cell, top = np.gradient(centre), each.max(axis=0)
        for index, one in enumerate(sigma):
            width = np.hypot(one, cell / 2)
            kernel = np.exp(-0.5 * ((place[:, None] - centre) / width) ** 2) / width
            with np.errstate(divide="ignore"):
                total[..., index] += top + np.log(kernel @ (np.exp(each - top) * cell[:, None]))
    mass = (np.exp(total - total.max()) * np.gradient(place)[:, None, None]).sum(axis=(1, 2))
    below = np.cumsum(mass) - mass / 2
    return np.interp([0.05, 0.5, 0.95], below / mass.sum(), place)
