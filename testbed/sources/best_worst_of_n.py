"""BestWorstOfN: pairs of the best and the worst of several fresh responses."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from testbed import config, logprob
from testbed.config.ranges import hyper
from testbed.errors import InvalidInput
from testbed.logprob import Policy
from testbed.source import AbstractSource, Batch, Ledger, Request, RolloutFunction, TrainingInputs
from testbed.sources.online import Online
from testbed.types import Pair, Response


class BestWorstOfN(AbstractSource):
    """The best of n fresh responses as the winner, the worst as the loser (Yuan et al. 2024, arXiv 2401.10020, section
    2.3; Dong et al. 2024, arXiv 2405.07863, section 3.2).

    The teacher compares every two responses, and responses are ranked by their summed margins, so that a pairwise
    preference model can rank too. With n = 2 this is the wrapped source.

    Attributes:
        n: responses to each prompt. source: who writes them.
    """

    n: int = hyper(4, least=2, static=True)
    source: AbstractSource = Online()

    def __check_init__(self) -> None:
        if not self.source.writes:
            raise InvalidInput(
                f"source must write fresh texts to choose from, such as Online(), got {config.spell(self.source)}"
            )

    def work(self, request: Request) -> tuple[float, float]:
        """The cost of all responses from which pairs are chosen."""
        return self.source.work(self._request(request))

    def init(self, inputs: TrainingInputs, policy: Policy, request: Request) -> Any:
        """The state of the wrapped source."""
        return self.source.init(inputs, policy, self._request(request))

    def draw(
        self,
        state: Any,
        inputs: TrainingInputs,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[Batch, Any]:
        """Let the wrapped source write n texts to a prompt, and choose."""
        return self.source.draw(state, inputs, policy, self._request(request), key, step)

    def _request(self, request: Request) -> Request:
        judgements = self.n * (self.n - 1) // 2
        return request._replace(
            rollout=write_extremes(self.n), responses=self.n, judgements=judgements
        )


@functools.cache
def write_extremes(n: int) -> RolloutFunction:
    """The rollout function of pairs of the best and the worst of n responses."""

    def rollout(
        inputs: TrainingInputs, policy: Policy, rows: Int[Array, " pair"], key: PRNGKeyArray
    ) -> Batch:
        prompts, texts = inputs.prompts(rows), inputs.sample(policy, rows, key, n).response
        margins = compared(inputs, rows, texts)
        # Ties: the later response counts as better, as in `Online`.
        order = jnp.argsort(jnp.sum(margins, axis=2), axis=1)
        worst, best = order[:, 0], order[:, -1]
        each = jnp.arange(rows.shape[0])
        winner, loser = (jax.tree.map(lambda x, i=i: x[each, i], texts) for i in (best, worst))
        certain = jnp.ones(rows.shape[0])
        pairs = Pair(prompts, winner, loser, certain, certain)
        spent = Ledger.fresh(texts, judgements=n * (n - 1) // 2)
        spent = eqx.tree_at(lambda s: (s.pairs, s.distinct), spent, (certain, certain))
        reference = logprob.score_pairs(inputs.reference, pairs)
        return Batch(pairs, reference, margins[each, best, worst], rows, spent)

    return rollout


def compared(
    inputs: TrainingInputs, rows: Int[Array, " n"], texts: Response
) -> Float[Array, "n k k"]:
    """The teacher's margin of every response to a prompt over every other response, 0 over itself."""
    n, k = texts.length.shape
    left, right = np.triu_indices(k, 1)
    prompts = inputs.prompts(jnp.repeat(rows, len(left)))
    first, second = (
        jax.tree.map(lambda x, i=i: x[:, i].reshape(-1, *x.shape[2:]), texts) for i in (left, right)
    )
    margin = inputs.teacher.margin(prompts, first, second).reshape(n, len(left))
    table = jnp.zeros((n, k, k)).at[:, left, right].set(margin)
    return table - jnp.swapaxes(table, 1, 2)
