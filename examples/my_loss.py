"""A user's own loss in one file, and the first study, `gap`, with this loss: online against offline.

    testbed run examples/my_loss.py --preset smoke
    testbed run examples/my_loss.py --preset smoke --set "loss=HuberIpo(width=0.5)"

If the file is moved to `testbed/losses/`, every study can use the loss, and the tests of its family include it.
"""

import jax.numpy as jnp

from sweeps.studies import gap
from testbed.config.ranges import hyper
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.types import Scalar

BIBTEX = """@article{huber1964robust,
  title = {Robust Estimation of a Location Parameter},
  author = {Huber, Peter J.},
  journal = {The Annals of Mathematical Statistics},
  year = {1964},
}"""


class HuberIpo(AbstractLoss):
    """e^2 where |e| <= width, width (2 |e| - width) beyond, e = h - 1/(2 beta): Huber's distance of IPO's margin from
    its target, so that no pair pulls harder than 2 width (Huber 1964).

    As width grows, the loss becomes `Ipo`.

    Attributes:
        beta: strength of the KL regularisation, > 0; larger stays closer to the reference.
        width: distance from the target in nats beyond which a pair pulls no harder, > 0.
    """

    beta: float = hyper(0.1, above=0)
    width: float = hyper(2.0, above=0)

    def __call__(self, pair: ScoredPair) -> Scalar:
        """The loss of one pair."""
        off = jnp.abs(pair.margin() - 1.0 / (2.0 * self.beta))
        near = jnp.minimum(off, self.width)
        return near**2 + 2.0 * self.width * (off - near)


study = gap.study.derived(
    "my_loss", "Online against offline, under Huber's distance", loss=HuberIpo(beta=0.1)
)
