"""Fluency: how likely the human writers are to have written the response."""

from envs.writers import TransformerWriters
from testbed.environment import AbstractGolden
from testbed.types import Prompt, Response, Scalar


class Fluency(AbstractGolden):
    """The writers' log-likelihood per token (nats): unlikely text costs."""

    writers: TransformerWriters

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """Mean log-likelihood of the response's tokens."""
        return self.writers.log_likelihood(prompt, response) / response.length
