"""The cost of a choice of loss, method or source: a loss's share of a step, and the time of steps relative to `Ipo`.

    uv run python benchmarks/sources.py --workload S --rounds 9

The programs take turns in one process. Each round gives the ratio of a program's time to the time of the reference
program beside it; the results are medians over rounds and their range, because rates on a shared machine are not
comparable.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import shared
from throughput import WORKLOADS, experiment, pin, world

from testbed import train
from testbed.config import members, replace_all
from testbed.losses.base import AbstractLoss, ScoredPair, expected
from testbed.losses.kto import Kto
from testbed.losses.slic import Slic
from testbed.objective import AbstractObjective
from testbed.sources.mixture import Mixture
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.sources.record import Record
from testbed.sources.reuse import Reuse
from testbed.sources.snapshot import Snapshot
from testbed.types import PairScores

#: Evaluations of a loss and its gradient in one timed call: a single one is too short to time.
EVALUATIONS = 2000


def compared_sources() -> dict[str, dict[str, Any]]:
    """The sources that are compared with `Online`; the objective is `Ipo` throughout."""
    sources = {
        "Online": Online(),
        "Online again": Online(),
        "Record(Online, steps=4000)": Record(steps=4000),
        "Snapshot(refresh_every=64)": Snapshot(refresh_every=64),
        "Mixture(share=0.5)": Mixture(share=0.5),
        "Reuse(epochs=4)": Reuse(epochs=4),
        "Offline": Offline(),
    }
    return {name: {"source": source} for name, source in sources.items()}


def compared_objectives() -> dict[str, dict[str, Any]]:
    """Losses that need more forward passes than `Ipo`, offline like `Ipo`; and the methods, online like `Ipo`."""
    offline = {"Kto": Kto(), "Slic(target='data')": Slic(target="data")}
    methods = members(AbstractObjective, "testbed.methods")
    online = {name: kind() for name, kind in sorted(methods.items())}
    return {
        f"{name}, {where}": {"loss": loss, "source": source}
        for where, source, losses in (("offline", Offline(), offline), ("online", Online(), online))
        for name, loss in losses.items()
    }


def training(workload: str, changes: dict[str, Any], steps: int) -> Callable[[], float]:
    """A function that trains for ``steps`` steps and returns the seconds per step."""

    run = replace_all(experiment(workload, "online"), changes)
    config, inputs = run.train, world(run, 0)
    advance = jax.jit(train.advance, donate_argnums=2)
    state, done = jax.jit(train.init)(config, inputs), 0

    def turn() -> float:
        nonlocal state, done
        start = time.perf_counter()
        clock = map(jnp.asarray, (done, steps))
        state = advance(config, inputs, state, jax.random.key(0), *clock)
        jax.block_until_ready(state)
        done += steps
        return (time.perf_counter() - start) / steps

    turn()
    return turn


def alone(loss: Any, pairs: int) -> Callable[[], float]:
    """A function that evaluates a loss and its gradient over a batch of scores and returns the seconds per batch.

    The loss is compiled alone. It therefore writes and reads arrays that a training step would fuse away: the time is
    an upper bound of the loss's time within a step."""

    keys = jax.random.split(jax.random.key(0), 4)
    scores = [-20.0 + 3.0 * jax.random.normal(key, (pairs,)) for key in keys]
    one = jnp.ones(pairs)
    lengths = jnp.full(pairs, 16, dtype=jnp.int32)
    anchor = PairScores(scores[2], scores[3])

    def value(policy: Any) -> Any:
        rest = (anchor, lengths, lengths, one, one, one, policy.winner)
        return jnp.mean(jax.vmap(lambda pair: expected(loss, pair))(ScoredPair(policy, *rest)))

    @jax.jit
    def many(policy: Any) -> Any:
        def step(_: Any, policy: Any) -> Any:
            slope = jax.grad(value)(policy)
            return jax.tree.map(lambda x, g: x - 1e-6 * g, policy, slope)

        return jax.lax.fori_loop(0, EVALUATIONS, step, policy)

    start = PairScores(scores[0], scores[1])
    jax.block_until_ready(many(start))

    def turn() -> float:
        clock = time.perf_counter()
        jax.block_until_ready(many(start))
        return (time.perf_counter() - clock) / EVALUATIONS

    return turn


def main() -> None:
    """Measure and print two tables."""
    options = shared.arguments(
        __doc__,
        workload=("S", "(default S)", sorted(WORKLOADS)),
        rounds=(9, "turns of each program (default 9)"),
        steps=(40, "training steps a turn (default 40)"),
    )
    if options.rounds < 1 or options.steps < 1:
        sys.exit("--rounds and --steps must be at least 1")
    pin(1)

    sources, objectives = (
        {
            name: training(options.workload, changes, options.steps)
            for name, changes in compared.items()
        }
        for compared in (compared_sources(), compared_objectives())
    )
    kinds = members(AbstractLoss, "testbed.losses")
    losses = {name: alone(kind(), 32) for name, kind in sorted(kinds.items())}
    ratios, against, shares = (
        {name: [] for name in turns} for turns in (sources, objectives, losses)
    )
    for _ in range(options.rounds):
        for name, turn in sources.items():
            before, here, after = sources["Online"](), turn(), sources["Online"]()
            ratios[name].append(2.0 * here / (before + after))
        step, online = sources["Offline"](), sources["Online"]()
        for name, turn in objectives.items():
            against[name].append(turn() / (step if name.endswith("offline") else online))
        for name, turn in losses.items():
            shares[name].append(turn() / step)
    figures = {
        "seconds of a step against Online's": ratios,
        "seconds of a step against that of Ipo on the same source": against,
        "a loss's share of an offline step": shares,
    }
    medians: dict[str, dict[str, float]] = {}
    for title, rows in figures.items():
        print(title)
        medians[title] = {name: statistics.median(values) for name, values in rows.items()}
        for name, values in rows.items():
            spread = f"({min(values):.3g} to {max(values):.3g})"
            print(f"  {name:28s} {medians[title][name]:.3g}  {spread}")
    shared.write(options.json, medians)


if __name__ == "__main__":
    main()
