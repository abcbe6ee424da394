"""The pairs that an online run learnt from, stored compactly on the device, so that another run can learn from them."""

from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt

from testbed import logprob
from testbed.batches import long_map
from testbed.logprob import Policy
from testbed.preference import AbstractPreference
from testbed.source import Batch, Ledger, TrainingInputs
from testbed.types import Pair, PairScores, Response

#: Number of windows of a stream in which policies and proxy are tested, and pairs in each (arXiv 2405.08448, figure 6
#: and appendix E: 64 near each of ten evenly spaced points).
WINDOWS, WINDOW = 10, 64


class Recording(eqx.Module):
    """Pairs that a run learnt from, in their order (leading axes: step, pair of the step).

    Token ids take one byte where the vocabulary allows it, two or four otherwise; a prompt is stored as its row in the
    data.

    Attributes:
        rows: of the prompts in the data. winner, loser: tokens. winner_length, loser_length: how many.
        preference, weight: the label. reward_margin: the teacher's, of the winner over the loser.
        golden_margin: golden reward of the winner less that of the loser; NaN before `with_golden`.
        reference: log-probabilities under the reference policy of the time.
    """

    rows: Int[Array, "step pair"]
    winner: UInt[Array, "step pair response"]
    loser: UInt[Array, "step pair response"]
    winner_length: Int[Array, "step pair"]
    loser_length: Int[Array, "step pair"]
    preference: Float[Array, "step pair"]
    weight: Float[Array, "step pair"]
    reward_margin: Float[Array, "step pair"]
    golden_margin: Float[Array, "step pair"]
    reference: PairScores

    @classmethod
    def room(cls, steps: int, batch_size: int, time: int, dtype: Any) -> Self:
        """An empty recording for ``steps`` steps of ``batch_size`` pairs of responses of at most ``time`` tokens, whose
        ids have the unsigned type ``dtype``."""
        shape = (steps, batch_size)
        tokens = jnp.zeros((*shape, time), dtype=dtype)
        count, number = jnp.zeros(shape, dtype=jnp.int32), jnp.zeros(shape)
        scores = PairScores(number, number)
        return cls(
            count,
            tokens,
            tokens,
            count,
            count,
            number,
            number,
            number,
            jnp.full(shape, jnp.nan),
            scores,
        )

    @property
    def steps(self) -> int:
        """Number of steps that the recording can hold."""
        return self.rows.shape[0]

    @property
    def batch_size(self) -> int:
        """Number of pairs a step."""
        return self.rows.shape[1]

    def put(self, batch: Batch, step: Int[Array, ""]) -> Self:
        """The recording with the pairs of one step added; steps beyond its room are ignored."""
        pairs = batch.pairs
        new = {
            "rows": batch.rows,
            "winner": pairs.winner.tokens,
            "loser": pairs.loser.tokens,
            "winner_length": pairs.winner.length,
            "loser_length": pairs.loser.length,
            "preference": pairs.preference,
            "weight": pairs.weight,
            "reward_margin": batch.reward_margin,
            "reference": batch.reference,
        }

        def write(old: Array, new: Array) -> Array:
            return old.at[step].set(new.astype(old.dtype), mode="drop", wrap_negative_indices=False)

        def fields(r: Recording) -> tuple[PyTree, ...]:
            return tuple(getattr(r, name) for name in new)

        return eqx.tree_at(fields, self, jax.tree.map(write, fields(self), tuple(new.values())))

    def batch(
        self, inputs: TrainingInputs, index: Int[Array, " n"], new: Bool[Array, " n"], moved: bool
    ) -> Batch:
        """The pairs at the places ``index`` of the stream, counted over all steps. ``new`` marks pairs that were not
        learnt from before. ``moved`` says whether the recorded run's reference policy moved, so that its scores are not
        those of the SFT policy. The ledger counts the writing and judging of a pair only once."""
        took = self._at(index)
        pairs = took._pairs(inputs)
        reference, winner, loser = took.reference, pairs.winner, pairs.loser
        if moved or not inputs.fixed:
            reference = logprob.score_pairs(inputs.reference, pairs)
        distinct, first = new.astype(jnp.float32), new.astype(jnp.int32)
        tokens = first * (winner.length + loser.length)
        spent = Ledger(jnp.ones_like(distinct), distinct, jnp.zeros_like(first), first, tokens)
        return Batch(pairs, reference, took.reward_margin, took.rows, spent)

    def windows(self, inputs: TrainingInputs) -> "Windows":
        """`WINDOWS` windows of the stream, evenly spaced, with golden margins if the recording has them. Each window
        lies in the middle of its tenth of the stream and holds `WINDOW` pairs, or fewer if the tenth has fewer."""
        size = self.rows.size
        ends = np.arange(WINDOWS + 1) * size // WINDOWS
        held = np.clip(np.diff(ends), 1, WINDOW)
        first = np.minimum((ends[:-1] + ends[1:] - held) // 2, size - held)
        place = np.arange(WINDOW)
        index = first[:, None] + np.minimum(place, held[:, None] - 1)
        took = self._at(jnp.asarray(index.reshape(-1)))
        inside = jnp.asarray(place < held[:, None])
        return Windows(took._pairs(inputs), took.golden_margin, inside)

    def _at(self, index: Int[Array, " n"]) -> Self:
        """The recorded fields at some places of the stream, counted over all steps."""
        step, pair = index // self.batch_size, index % self.batch_size
        return jax.tree.map(lambda x: x[step, pair], self)

    def _pairs(self, inputs: TrainingInputs) -> Pair:
        """The recorded data as pairs, with prompts."""
        winner = Response(self.winner.astype(jnp.int32), self.winner_length)
        loser = Response(self.loser.astype(jnp.int32), self.loser_length)
        return Pair(inputs.prompts(self.rows), winner, loser, self.preference, self.weight)

    def with_golden(self, golden: AbstractPreference, inputs: TrainingInputs) -> Self:
        """The recording with golden margins. They are computed afterwards: all at once costs less than step by step."""

        def judge(one: tuple[Array, Response, Response]) -> Float[Array, ""]:
            row, winner, loser = jax.tree.map(lambda x: x[None], one)
            return golden.margin(inputs.prompts(row), winner, loser)[0]

        rows = self.rows.reshape(-1)
        texts = [
            Response(tokens.reshape(rows.shape[0], -1).astype(jnp.int32), length.reshape(-1))
            for tokens, length in (
                (self.winner, self.winner_length),
                (self.loser, self.loser_length),
            )
        ]
        margin = long_map(judge, (rows, *texts)).reshape(self.rows.shape)
        # Identical texts tie, even if rounding makes their two rewards differ.
        margin = jnp.where(jnp.all(self.winner == self.loser, axis=-1), 0.0, margin)
        return eqx.tree_at(lambda r: r.golden_margin, self, margin)


class Windows(eqx.Module):
    """Pairs of a stream, `WINDOW` for each of `WINDOWS` windows, one window after the other.

    Attributes:
        pairs: as the teacher labelled them. golden_margin: golden reward of the winner less that of the loser.
        inside: which places hold a pair; the others repeat the window's last pair.
    """

    pairs: Pair
    golden_margin: Float[Array, " n"]
    inside: Bool[Array, "window pair"]

    def accuracy(self, margin: Float[Array, " n"]) -> Float[Array, " window"]:
        """Share of each window's pairs on which ``margin`` has the sign of the golden margin; a margin of exactly 0
        counts one half."""
        right = 0.5 * (1.0 + jnp.sign(margin) * jnp.sign(self.golden_margin))
        right = jnp.where(self.inside, right.reshape(self.inside.shape), 0.0)
        return jnp.sum(right, axis=1) / jnp.sum(self.inside, axis=1)


def token_type(policy: Policy, inputs: TrainingInputs) -> jnp.dtype:
    """The smallest unsigned type that holds a policy's token ids."""
    row = jnp.zeros(1, dtype=jnp.int32)
    texts = jax.tree.map(lambda x: x[:, None], inputs.preferred(row))
    logits = jax.eval_shape(logprob.response_logits, policy, inputs.prompts(row), texts)
    vocabulary = logits.shape[-1]
    kinds = (jnp.uint8, jnp.uint16, jnp.uint32)
    return jnp.dtype(next(kind for kind in kinds if vocabulary - 1 <= jnp.iinfo(kind).max))


def shuffled(
    key: Array, steps: int, batch_size: int, window: Float[Array, ""] | float
) -> Int[Array, " item"]:
    """An order of all pairs of a stream in which each pair stays within its window of ``window`` steps. A window of 1
    step keeps the order of the stream; a window as long as the stream shuffles uniformly."""
    place = jnp.arange(steps * batch_size)
    block = (place // batch_size).astype(jnp.float32) // jnp.asarray(window, jnp.float32)
    chance = jax.random.uniform(key, place.shape)
    return jnp.where(jnp.asarray(window) > 1, jnp.lexsort((chance, block)), place)
