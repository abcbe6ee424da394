"""Tastes: configs of the golden rewards of text worlds, which are built on a checkpoint."""

import abc
from typing import ClassVar

from jaxtyping import PRNGKeyArray, PyTree

from testbed.config.ranges import Checked
from testbed.environment import AbstractGolden
from testbed.policies.pretrained import Pretrained, Tokenizer
from testbed.transformer_config import TransformerConfig
from testbed.types import Prompt, Response


class AbstractTaste(Checked):
    """A kind of golden reward; each kind is in the file of the golden reward that it makes."""

    family: ClassVar[str] = "envs.goldens"

    def refuse(self, model: TransformerConfig) -> None:
        """Raise `InvalidInput`, before anything is built, if a checkpoint of this shape cannot be used."""

    def learn(self, model: Pretrained, tokenizer: Tokenizer) -> PyTree:
        """Data that must be loaded or learnt before worlds can be drawn, on the host; small arrays, None for
        nothing."""
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
        """Draw a golden reward, given the result of `learn`; ``samples`` are ``each`` responses of the model to each of
        ``n`` prompts, (n, each)."""
