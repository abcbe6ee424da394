"""What is liked in a text world: configs of golden rewards that stand on a checkpoint."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import PRNGKeyArray, PyTree

from testbed.environment import AbstractGolden
from testbed.policies.pretrained import Pretrained, Tokenizer
from testbed.transformer_config import TransformerConfig
from testbed.types import Prompt, Response


class AbstractTaste(eqx.Module):
    """A kind of golden reward; each is in the file of what it makes."""

    family: ClassVar[str] = "envs.goldens"

    def refuse(self, model: TransformerConfig) -> None:
        """Raise `InvalidInput`, before anything is built, if a checkpoint of this shape is not enough."""

    def learn(self, model: Pretrained, tokenizer: Tokenizer) -> PyTree:
        """What has to be loaded or learnt before worlds can be drawn, on the host; small arrays, None for nothing."""
        return None

    @abc.abstractmethod
    def golden(
        self,
        key: PRNGKeyArray,
        model: Pretrained,
        learnt: PyTree,
        prompts: Prompt,
        samples: Response,
    ) -> AbstractGolden:
        """Draw a golden reward from what was learnt; ``samples`` are ``each`` responses of the model to each of ``n``
        prompts, (n, each)."""
