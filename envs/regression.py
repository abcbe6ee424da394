"""Prediction of people's ratings of how positive a text is, by ridge regression on activations.

The method is ridge regression (Hoerl and Kennard 1970) of mean human ratings (`envs.ratings`) on mean activations of a
trunk.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from envs.ratings import KINDS, Snippet
from testbed.policies.features import alone, features
from testbed.policies.pretrained import Pretrained, Tokenizer
from testbed.proxies.linear_head import Head
from testbed.types import Response

#: Penalties, per snippet, among which cross-validation chooses: 0.001 to 10.
PENALTIES: Final = tuple(10.0 ** (k / 4) for k in range(-12, 5))
FOLDS: Final = 5
#: Texts are padded to the smallest of these numbers of tokens that they fit into, and cut at the largest. Then the
#: number of texts in a batch.
WIDTHS: Final = (16, 32, 48)
BATCH: Final = 64


class Split(NamedTuple):
    """Number of snippets to learn from, and number of other snippets for the test; all kinds have equal shares."""

    learning: int
    testing: int


#: The split behind the golden reward of `envs.goldens.human_rating`.
STANDARD: Final = Split(learning=3200, testing=800)


class Fitted(NamedTuple):
    """A head, and how well it predicts the ratings of unseen snippets.

    Attributes:
        penalty: chosen by cross-validation. correlation: with held-out snippets' mean ratings.
        pair_accuracy: share of held-out pairs of snippets that the head orders as their mean ratings do.
        slope: least-squares slope of held-out mean ratings on predictions; 1 if the predictions have the right size.
    """

    head: Head
    penalty: float
    correlation: float
    pair_accuracy: float
    slope: float


def learn(
    trunk: Pretrained, tokenizer: Tokenizer, snippets: Sequence[Snippet], split: Split
) -> Fitted:
    """Ridge regression of snippets' mean ratings, and its test on other snippets."""
    learning, testing = chosen(snippets, split)
    used = [snippets[i] for i in (*learning, *testing)]
    found = read_alone(trunk, tokenizer, [snippet.text for snippet in used])
    means = np.asarray([snippet.mean for snippet in used])
    size = len(learning)
    return fit_head(found[:size], means[:size], found[size:], means[size:])


def read_alone(
    trunk: Pretrained, tokenizer: Tokenizer, texts: Sequence[str]
) -> Float[np.ndarray, "text width"]:
    """Features of whole texts, (text, width)."""
    everything = tokenizer.responses(texts, WIDTHS[-1])
    lengths = np.asarray(everything.length)
    run = jax.jit(lambda model, given: features(model, *alone(given, tokenizer.begin)))
    found = np.zeros((len(texts), trunk.model.config.width), np.float32)
    shorter = 0
    for width in WIDTHS:
        rows = np.flatnonzero((lengths > shorter) & (lengths <= width))
        shorter = width
        for start in range(0, len(rows), BATCH):
            # The last batch is filled up with its first text, so that all batches have the same shape.
            chunk = rows[start : start + BATCH]
            padded = np.concatenate([chunk, np.full(BATCH - len(chunk), chunk[0])])
            part = jax.tree.map(lambda x, at=padded: x[at], everything)
            part = Response(part.tokens[:, :width], part.length)
            found[chunk] = run(trunk.model, part)[: len(chunk)]
    return found


def chosen(snippets: Sequence[Snippet], split: Split) -> tuple[list[int], list[int]]:
    """The snippets to learn from and the held-out ones; the held-out ones do not depend on the number to learn from."""
    parts: tuple[list[int], list[int]] = [], []
    train, test = (-(-size // len(KINDS)) for size in split)
    for number, kind in enumerate(KINDS):
        of_kind = np.asarray([i for i, snippet in enumerate(snippets) if snippet.kind == kind])
        order = np.random.default_rng(number).permutation(of_kind).tolist()
        parts[0].extend(order[test : test + train])
        parts[1].extend(order[:test])
    return parts


def ridge(
    found: Float[np.ndarray, "n width"], ratings: Float[np.ndarray, " n"], penalty: float
) -> tuple[Float[np.ndarray, " width"], float]:
    """Weights and constant that minimise mean squared error + ``penalty`` |weights|^2, in closed form."""
    centre, mean = found.mean(axis=0), ratings.mean()
    x = found - centre
    gram = x.T @ x / len(x) + penalty * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (ratings - mean) / len(x))
    return weights, float(mean - centre @ weights)


def cross_validated(found: Float[np.ndarray, "n width"], ratings: Float[np.ndarray, " n"]) -> float:
    """The penalty of `PENALTIES` with the least squared error over `FOLDS` folds."""
    fold = np.arange(len(found)) % FOLDS
    errors = np.zeros(len(PENALTIES))
    for left_out in range(FOLDS):
        train, test = fold != left_out, fold == left_out
        for i, penalty in enumerate(PENALTIES):
            weights, constant = ridge(found[train], ratings[train], penalty)
            errors[i] += np.sum((found[test] @ weights + constant - ratings[test]) ** 2)
    return PENALTIES[int(np.argmin(errors))]


def fit_head(
    found: Float[np.ndarray, "n width"],
    ratings: Float[np.ndarray, " n"],
    held_out: Float[np.ndarray, "m width"],
    held_out_ratings: Float[np.ndarray, " m"],
) -> Fitted:
    """Ridge regression of ``n`` mean ratings on features (n, width), and its test; the penalty is chosen on these ``n``
    alone."""
    centre, spread = found.mean(axis=0), found.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    inputs = ((found - centre) / scale).astype(np.float64)
    # The order is random, so that every fold holds all kinds of snippets.
    order = np.random.default_rng(0).permutation(len(inputs))
    penalty = cross_validated(inputs[order], ratings[order])
    weights, constant = ridge(inputs, ratings, penalty)
    predicted = ((held_out - centre) / scale) @ weights + constant
    gaps = np.subtract.outer(held_out_ratings, held_out_ratings)
    agree = np.sign(gaps) == np.sign(np.subtract.outer(predicted, predicted))
    covariance = np.cov(predicted, held_out_ratings)
    head = Head(
        *(jnp.asarray(x, jnp.float32) for x in (centre, scale)),
        mix=None,
        readout=jnp.asarray(weights, jnp.float32),
        constant=jnp.asarray(constant, jnp.float32),
    )
    return Fitted(
        head,
        penalty,
        float(np.corrcoef(predicted, held_out_ratings)[0, 1]),
        float(agree[gaps != 0].mean()),
        float(covariance[0, 1] / covariance[0, 0]),
    )
