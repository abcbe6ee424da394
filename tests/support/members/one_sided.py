"""Only what falls short of a target costs."""

import jax.numpy as jnp

from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar

BIBTEX = """@article{doe2099onesided,
  title = {A loss that nobody needs},
  author = {Doe, Jane and Roe, Richard},
  journal = {Tests of the testbed},
  year = {2099},
  eprint = {2999.00001},
}"""


class OneSided(AbstractLoss):
    """max(0, 1/(2 beta) - h)^2 (Doe and Roe 2099, arXiv 2999.00001).

    Attributes:
        beta: strength of the KL regularisation, > 0.
    """

    beta: float = hyper(0.1, above=0)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        return jnp.maximum(0.0, 1.0 / (2.0 * self.beta) - pair.margin()) ** 2
