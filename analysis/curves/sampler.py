"""Hamiltonian Monte Carlo for a smooth density with a few dozen dimensions and a scale of about one.

Neal 2011 (arXiv 1206.1901). Momenta are preconditioned by the curvature at the mode, then by the sample covariance of
the warm-up. All chains take the same number of leapfrog steps, so that one batched gradient serves all chains. The loop
runs on the host and calls one compiled function.

NumPyro's samplers are slower here; tests check that this sampler agrees with NumPyro. On a study's posterior of 16
scales this sampler took 12 s with compiling and 3 s without for an effective sample size of 2,190, NumPyro's NUTS 46 s
and 18 s for 1,150, its HMC 20 s and 10 s for 320 (8 vectorised chains of 500 draws, measured on two shared cores at the
same time). A report makes half a dozen fits, a calibration hundreds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize

Density = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From positions (chain, dimension) to log densities (chain,) and gradients (chain, dimension)."""

TARGET = 0.85
"""Acceptance probability at which the tuning of the step size aims."""
DIVERGED = 1000.0
"""Error of the energy beyond which a trajectory counts as diverged (as in Stan)."""


class Chains(NamedTuple):
    """Positions after the warm-up, and whether the trajectory proposed there diverged."""

    positions: Float[np.ndarray, "chain draw dimension"]
    diverging: Bool[np.ndarray, "chain draw"]


class _State(NamedTuple):
    position: Float[np.ndarray, "chain dimension"]
    value: Float[np.ndarray, " chain"]
    gradient: Float[np.ndarray, "chain dimension"]


def sample(
    density: Density,
    dimension: int,
    seed: int,
    chains: int = 8,
    warmup: int = 200,
    draws: int = 500,
) -> Chains:
    """Draws from `density`; the search for its mode starts at 0. The same seed gives the same draws."""
    rng = np.random.default_rng(seed)
    mode = _mode(density, dimension, chains)
    root = _curvature_root(density, mode, chains)
    place = mode + rng.normal(size=(chains, dimension)) @ root.T
    state = _State(place, *density(place))
    step = 1.2 * dimension**-0.25
    half = warmup // 2
    state, step, seen = _adapt(density, state, root, step, half, rng)
    root = _pooled_root(seen[:, half // 3 :], root)
    state, step, _ = _adapt(density, state, root, step, warmup - half, rng)
    positions, diverging = [], []
    for _ in range(draws):
        state, _, bad = _transition(density, state, root, step, rng)
        positions.append(state.position)
        diverging.append(bad)
    return Chains(np.stack(positions, axis=1), np.stack(diverging, axis=1))


def _mode(density: Density, dimension: int, chains: int) -> Float[np.ndarray, " dimension"]:
    """Position of the largest density. The batch is filled with copies, so that one compiled shape serves."""

    def down(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = density(np.tile(z, (chains, 1)))
        return -float(value[0]), -gradient[0]

    return optimize.minimize(down, np.zeros(dimension), jac=True, method="L-BFGS-B").x


def _curvature_root(
    density: Density, mode: Float[np.ndarray, " dimension"], chains: int
) -> Float[np.ndarray, "dimension dimension"]:
    """Root of the inverse Hessian at the mode, by central differences of the gradient."""
    dimension, h = len(mode), 1e-3
    places = np.concatenate([mode + h * np.eye(dimension), mode - h * np.eye(dimension)])
    padded = np.concatenate([places, np.tile(mode, (-len(places) % chains, 1))])
    gradients = np.concatenate([density(b)[1] for b in padded.reshape(-1, chains, dimension)])
    hessian = (gradients[dimension : 2 * dimension] - gradients[:dimension]) / (2 * h)
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    # Where the density is not concave at its mode, use the assumed scale of one.
    return vectors / np.sqrt(np.where(np.isfinite(values) & (values > 0.3), values, 1.0))


def _pooled_root(
    seen: Float[np.ndarray, "chain draw dimension"], root: Float[np.ndarray, "dimension dimension"]
) -> Float[np.ndarray, "dimension dimension"]:
    """Root of the covariance of all chains' positions, shrunk towards the present root."""
    flat = seen.reshape(-1, seen.shape[-1])
    before = 3.0 * seen.shape[-1]
    weight = len(flat) / (len(flat) + before)
    return np.linalg.cholesky(weight * np.cov(flat.T) + (1 - weight) * root @ root.T)


def _adapt(
    density: Density,
    state: _State,
    root: Float[np.ndarray, "dimension dimension"],
    step: float,
    count: int,
    rng: np.random.Generator,
) -> tuple[_State, float, Float[np.ndarray, "chain draw dimension"]]:
    """Transitions that tune the step size (Robbins and Monro 1951); the result is averaged over the last of them."""
    trace, seen = [], []
    for index in range(count):
        state, accepted, _ = _transition(density, state, root, step, rng)
        step *= float(np.exp((accepted.mean() - TARGET) * 2 / (index + 2) ** 0.6))
        trace.append(np.log(step))
        seen.append(state.position)
    return state, float(np.exp(np.mean(trace[count // 2 :]))), np.stack(seen, axis=1)


def _transition(
    density: Density,
    state: _State,
    root: Float[np.ndarray, "dimension dimension"],
    step: float,
    rng: np.random.Generator,
) -> tuple[_State, Float[np.ndarray, " chain"], Bool[np.ndarray, " chain"]]:
    """One trajectory of each chain: the state after it, acceptance probabilities, divergences.

    The length of a trajectory is drawn around a quarter turn, which gives independent draws for a normal density.
    """
    momentum = rng.normal(size=state.position.shape)
    length = rng.uniform(0.5, 1.5) * np.pi / 2
    steps = int(np.clip(np.ceil(length / step), 1, 64))
    size = min(step, length / steps)
    p, new = momentum + 0.5 * size * state.gradient @ root, state
    with np.errstate(all="ignore"):
        for index in range(steps):
            place = new.position + size * p @ root.T
            new = _State(place, *density(place))
            p = p + (0.5 if index == steps - 1 else 1.0) * size * new.gradient @ root
        change = new.value - state.value - 0.5 * np.sum(p**2 - momentum**2, axis=1)
        lost = ~np.isfinite(change) | ~np.isfinite(new.gradient).all(axis=1)
        accepted = np.where(lost, 0.0, np.exp(np.minimum(np.where(lost, 0.0, change), 0.0)))
    taken = rng.uniform(size=len(accepted)) < accepted
    kept = _State(
        np.where(taken[:, None], new.position, state.position),
        np.where(taken, new.value, state.value),
        np.where(taken[:, None], new.gradient, state.gradient),
    )
    return kept, accepted, lost | (change < -DIVERGED)
