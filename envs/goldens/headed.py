"""What golden rewards on a pretrained trunk share: a head on mean activations over the response."""

import equinox as eqx
import jax

from testbed.environment import AbstractGolden
from testbed.features import features
from testbed.heads import Head
from testbed.pretrained import Pretrained
from testbed.types import Prompt, Response, Scalar


class AbstractHeaded(AbstractGolden):
    """A frozen head's value of `testbed.features.features`, read behind the prompt."""

    trunk: eqx.AbstractVar[Pretrained]
    head: eqx.AbstractVar[Head]

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Reward in the head's unit."""
        one = jax.tree.map(lambda x: x[None], (prompt, response))
        return self.head(features(self.trunk.model, *one))[0]
