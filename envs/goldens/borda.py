"""The preference of a population of people with different tastes: a mixture of golden rewards by Borda count."""

from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from testbed.environment import AbstractGolden
from testbed.types import Prompt, Response, Scalar


class Borda(AbstractGolden):
    """sum_j weight_j Phi(u_j), the utility of annotator j being u_j = sum_i taste_ji (golden_i - centre_i) / scale_i.

    Phi is the normal distribution function and every u_j has mean 0 and standard deviation 1 over the writers'
    responses. If u_j is normal over these responses, Phi(u_j(y)) is the share of them (to any prompt) that annotator j
    finds worse than y. The reward is then the probability that a random annotator prefers y to a random writers'
    response: the Borda count. A Bradley-Terry reward fitted to the comparisons of annotators who differ is equivalent
    to that count, not to their mean utility (Siththaranjan et al. 2023, arXiv 2312.08358).
    """

    goldens: tuple[AbstractGolden, ...]
    tastes: Float[Array, "annotator golden"]
    weights: Float[Array, " annotator"]
    centres: Float[Array, " golden"]
    scales: Float[Array, " golden"]

    @classmethod
    def standardised(
        cls,
        goldens: Sequence[AbstractGolden],
        tastes: Float[Array, "annotator golden"],
        weights: Float[Array, " annotator"],
        prompts: Prompt,
        responses: Response,
    ) -> Self:
        """Standardise goldens, then every annotator's utility, over ``n`` sampled responses (a constant keeps scale 1).

        ``tastes`` are weights of the standardised goldens; ``weights`` are shares of the population and sum to one."""
        goldens = tuple(goldens)
        values = jax.vmap(lambda p, r: evaluate(goldens, p, r))(prompts, responses)
        centres, scales = jnp.mean(values, axis=0), _spread(values)
        utilities = ((values - centres[None]) / scales[None]) @ tastes.T
        return cls(goldens, tastes / _spread(utilities)[:, None], weights, centres, scales)

    def utilities(self, prompt: Prompt, response: Response) -> Float[Array, " annotator"]:
        """The utility of each annotator, in standard deviations over the writers' responses."""
        values = evaluate(self.goldens, prompt, response)
        return self.tastes @ ((values - self.centres) / self.scales)

    def __call__(self, prompt: Prompt, response: Response) -> Scalar:
        """The share of comparisons with writers' responses that the response wins, between 0 and 1."""
        return self.weights @ jax.scipy.stats.norm.cdf(self.utilities(prompt, response))


def evaluate(
    goldens: tuple[AbstractGolden, ...], prompt: Prompt, response: Response
) -> Float[Array, " golden"]:
    """The value of every golden. Goldens of one structure are stacked, so that their program compiles once."""
    alike: dict[Any, list[int]] = {}
    for index, golden in enumerate(goldens):
        alike.setdefault(jax.tree.structure(golden), []).append(index)
    values = {}
    for indices in alike.values():
        if len(indices) > 1 and jax.tree.leaves(goldens[indices[0]]):
            stack = jax.tree.map(lambda *x: jnp.stack(x), *(goldens[i] for i in indices))
            found = jax.vmap(lambda golden: golden(prompt, response))(stack)
            values |= {index: found[place] for place, index in enumerate(indices)}
        else:
            values |= {index: goldens[index](prompt, response) for index in indices}
    return jnp.stack([values[index] for index in range(len(goldens))])


def _spread(values: Float[Array, "n column"]) -> Float[Array, " column"]:
    spread = jnp.std(values, axis=0)
    return jnp.where(spread > 0, spread, 1.0)
