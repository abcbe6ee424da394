"""Independent implementations of the pairwise losses in plain float64 numpy, written from the papers' formulas.

Each takes a loss's hyper-parameters by name (``o``) and an array of pairs (``x``), and shares nothing with `testbed`.
"""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

STEP = 1e-6


class Pairs(NamedTuple):
    """Log-probabilities of winner and loser under policy (``w``, ``l``) and reference (``rw``, ``rl``), lengths, the
    label's preference, the reward's margin, the KL and the target's log-probability; float64, a pair an entry."""

    w: np.ndarray
    l: np.ndarray  # noqa: E741
    rw: np.ndarray
    rl: np.ndarray
    nw: np.ndarray
    nl: np.ndarray
    p: np.ndarray
    margin: np.ndarray
    kl: np.ndarray
    target: np.ndarray

    @property
    def rho_w(self):
        return self.w - self.rw

    @property
    def rho_l(self):
        return self.l - self.rl

    @property
    def h(self):
        return self.rho_w - self.rho_l


def log_sigmoid(z):
    return -np.logaddexp(0.0, -z)


def sigmoid(z):
    return np.exp(log_sigmoid(z))


def ipo(o, x):
    if o.length_normalised:
        return (x.rho_w / x.nw - x.rho_l / x.nl - 0.5 / o.beta) ** 2
    return (x.h - 0.5 / o.beta) ** 2


def dpo(o, x):
    return np.logaddexp(0.0, -o.beta * x.h)


def best_of_two(o, x):
    return -x.w


def gpo(o, x):
    z = o.beta * x.h
    if o.function == "logistic":
        return np.logaddexp(0.0, -z)
    if o.function == "hinge":
        return np.maximum(0.0, 1.0 - z)
    if o.function == "square":
        return z**2 - 2.0 * z + 1.0
    if o.function == "exponential":
        tangent = np.exp(80.0) * (-79.0 - z)
        return np.where(z < -80.0, tangent, np.exp(np.minimum(-z, 80.0)))
    if o.function == "truncated_square":
        return np.where(z < 1.0, (1.0 - z) ** 2, 0.0)
    return np.exp(-2.0 * np.logaddexp(0.0, z))


def slic(o, x):
    target = {"winner": x.w, "data": x.target}[o.target]
    return np.maximum(0.0, o.delta - x.w + x.l) - o.weight * target


def conservative_dpo(o, x):
    z, e = o.beta * x.h, o.smoothing
    return -(1.0 - e) * log_sigmoid(z) - e * log_sigmoid(-z)


def robust_dpo(o, x):
    z, e = o.beta * x.h, o.flips
    return (-(1.0 - e) * log_sigmoid(z) + e * log_sigmoid(-z)) / (1.0 - 2.0 * e)


def dpo_positive(o, x):
    penalty = o.weight * np.maximum(0.0, x.rw - x.w)
    if o.penalty == "outside":
        return -log_sigmoid(o.beta * x.h) + penalty
    return -log_sigmoid(o.beta * (x.h - penalty))


def sim_po(o, x):
    margin = o.gamma * o.beta if o.ratio else o.gamma
    return -log_sigmoid(o.beta / x.nw * x.w - o.beta / x.nl * x.l - margin)


def orpo(o, x):
    def log_odds(mean):
        mean = np.minimum(mean, -1e-6)
        return mean - np.log(-np.expm1(mean))

    mean_w, mean_l = x.w / x.nw, x.l / x.nl
    return -mean_w + o.weight * np.logaddexp(0.0, log_odds(mean_l) - log_odds(mean_w))


def kto(o, x):
    """lambda_y - v(x, y), with the value function spelt out."""
    good = o.desirable * sigmoid(o.beta * (x.rho_w - x.kl))
    bad = o.undesirable * sigmoid(o.beta * (x.kl - x.rho_l))
    return (o.desirable - good + o.undesirable - bad) / 2.0


def exo(o, x):
    """KL(policy's choice || label's choice), summed over the two responses."""
    total = 0.0
    for sign, p in ((1.0, x.p), (-1.0, 1.0 - x.p)):
        log_policy = log_sigmoid(sign * o.beta * x.h)
        label = p + o.smoothing * (1.0 - 2.0 * p)
        total = total + np.exp(log_policy) * (log_policy - np.log(label))
    return total


def sppo(o, x):
    eta = 1.0 / o.beta
    return (x.rho_w - eta * (1.0 - 0.5)) ** 2 + (x.rho_l - eta * (0.0 - 0.5)) ** 2


def rebel(o, x):
    eta = 1.0 / o.beta
    return (x.h / eta - x.margin) ** 2


def weighted_sft(o, x):
    """Weights exp(r / beta), normalised within the pair."""
    weights = np.exp(
        np.stack([x.margin, np.zeros_like(x.margin)]) / o.beta - np.maximum(x.margin, 0) / o.beta
    )
    weights = weights / weights.sum(axis=0)
    return -weights[0] * x.w - weights[1] * x.l


REFERENCES = {
    "Ipo": ipo,
    "Dpo": dpo,
    "BestOfTwo": best_of_two,
    "Gpo": gpo,
    "Slic": slic,
    "ConservativeDpo": conservative_dpo,
    "RobustDpo": robust_dpo,
    "DpoPositive": dpo_positive,
    "SimPo": sim_po,
    "Orpo": orpo,
    "Kto": kto,
    "Exo": exo,
    "Sppo": sppo,
    "Rebel": rebel,
    "WeightedSft": weighted_sft,
}


# Those of a loss that was added: a file of its own with another ``REFERENCES``.
for _path in sorted(Path(__file__).parent.glob("reference_loss_*.py")):
    REFERENCES |= importlib.import_module(_path.stem).REFERENCES


def value_and_slopes(name, options, x, otherwise=None):
    """Six rows: the loss, and its derivatives by w, l, rw, rl and the target, by central differences; of ``otherwise``,
    a function like those of `REFERENCES`, for a loss that has none there."""
    loss, o = REFERENCES.get(name, otherwise), SimpleNamespace(**options)
    rows = [loss(o, x)]
    for field in ("w", "l", "rw", "rl", "target"):
        up, down = (x._replace(**{field: getattr(x, field) + step}) for step in (STEP, -STEP))
        rows.append((loss(o, up) - loss(o, down)) / (2.0 * STEP))
    return np.stack(rows)
