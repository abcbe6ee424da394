"""Golden rewards on a pretrained trunk: a head on mean activations over the response."""

import equinox as eqx
import jax

from testbed.environment import AbstractGolden
from testbed.policies.features import features
from testbed.policies.pretrained import Pretrained
from testbed.proxies.linear_head import Head
from testbed.types import Prompt, Response, Scalar


class AbstractHeaded(AbstractGolden):
    """A frozen head's value of `testbed.policies.features.features`; the response is read behind the prompt."""

    trunk: eqx.AbstractVar[Pretrained]
    head: eqx.AbstractVar[Head]

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Reward in the head's unit."""
        one = jax.tree.map(lambda x: x[None], (prompt, response))
        return self.head(features(self.trunk.model, *one))[0]
