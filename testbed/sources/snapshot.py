"""Snapshot: fresh texts from a lagging copy of the policy."""

from typing import ClassVar

import jax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from testbed.config.ranges import hyper
from testbed.logprob import Policy
from testbed.policies.trainable import rebuilt, trained
from testbed.source import AbstractSource, Request, Rows, TrainingInputs
from testbed.sources.online import Online


class Snapshot(AbstractSource):
    """Fresh texts by a copy of the policy that is renewed every ``refresh_every`` steps: from `Online` (1) to texts of
    the SFT policy (more steps than the run has) (Noukhovitch et al. 2024, arXiv 2410.18252, section 3).

    Prompts and random numbers are those of `Online` with the same key.

    Attributes:
        refresh_every: steps between copies.
    """

    writes: ClassVar[bool] = True

    refresh_every: int = hyper(64, least=1)

    def init(self, inputs: TrainingInputs, policy: Policy, request: Request) -> tuple[Rows, Policy]:
        """The order of prompts, and a copy of the trained part of the policy."""
        return Online().init(inputs, policy, request), trained(policy)

    def draw(
        self,
        state: tuple[Rows, Policy],
        inputs: TrainingInputs,
        policy: Policy,
        request: Request,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[PyTree, tuple[Rows, Policy]]:
        """Renew the copy if it is due, and let it write the texts of this step."""
        rows, copy = state
        part = trained(policy)
        copy = jax.lax.cond(step % self.refresh_every == 0, lambda: part, lambda: copy)
        writer = rebuilt(copy, inputs.reference)
        texts, rows = Online().draw(rows, inputs, writer, request, key, step)
        return texts, (rows, copy)
