"""The time of a small sweep from nothing: a new process, imports, tracing, compiling, training, measuring.

    uv run python benchmarks/startup.py                     # 8 runs of 400 offline steps of workload S on all cores

Each repeat starts a process with an empty compilation cache (cold) and then one with the cache that the first process
has left (warm). The results are medians of two rates: the training steps of all runs divided by the whole time of the
process, and this rate divided by the machine's float32 matrix-product peak, which the process measures at its end (not
counted).
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import shared
import throughput
from throughput import experiment

from sweeps import runtime
from sweeps.console.progress import Meter
from sweeps.population import devices, executable_cache, host, plan
from sweeps.population.programs import Programs
from sweeps.store import provenance
from sweeps.study import Point
from testbed import logprob
from testbed.config import replace_all
from testbed.evaluation_set import Opponent
from testbed.source import Dataset
from testbed.stages.world_config import WorldArtifacts, WorldConfig


def sweep(options: argparse.Namespace) -> dict[str, Any]:
    """Train the runs through the engine, as a study does, in a world of random networks; return when each part was
    done."""
    runtime.configure()

    measured = {"points": 1, "prompts": 64, "kl_prompts": 64, "pairs": 64}
    changes = {f"evaluation.{name}": value for name, value in measured.items()}
    base = replace_all(experiment(options.workload, options.mode), changes)
    runs = [
        replace_all(base, {"steps": options.steps, "optimiser.learning_rate": 1e-4 * (1 + k)})
        for k in range(options.runs)
    ]
    points = [Point(str(k), "arm", 0, {}, run) for k, run in enumerate(runs)]
    imported = time.time()
    made = artifacts(base)
    drawn = time.time()

    standing = {WorldConfig.of(run): made for run in runs}
    progress = Meter(options.runs, options.runs * options.steps)
    with Programs(standing) as programs:
        chunks = plan.plan(points, devices.Machine.here()).chunks
        finite = 0
        for number, chunk in enumerate(chunks):
            compiled = programs.of(chunks[number:])
            outcome = host.run_chunk(chunk, standing, progress, compiled)
            finite += len(chunk.points) - outcome.diverged
    done = time.time()
    if finite < options.runs:
        raise SystemExit("a policy diverged: this is no measurement")
    return {
        "imported": imported,
        "drawn": drawn,
        "done": done,
        "devices": chunks[0].devices,
        "peak_gflops": devices.matrix_peak() / 1e9,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }


def artifacts(base: Any) -> Any:
    """World artifacts for the runs: networks of random numbers, and random data. A study finds its artifacts in its
    cache, or makes them in minutes; here only the reference's scores need compilation."""

    def drawn_shapes() -> Any:
        return devices.alone(jax.eval_shape(networks))

    def networks() -> Any:
        return throughput.world(base, 0), base.task.world(jax.random.key(0))

    random, task, count = np.random.default_rng(0), base.task, base.data.pairs

    def filled(leaf: Any) -> Any:
        """Values for a network's parameters: matrices have variance 1/fan-in, all other arrays are 1."""
        if not np.issubdtype(leaf.dtype, np.floating) or leaf.ndim < 2:
            return jnp.asarray(np.ones(leaf.shape, leaf.dtype))
        drawn = random.normal(size=leaf.shape) * leaf.shape[-2] ** -0.5
        return jnp.asarray(drawn.astype(leaf.dtype))

    def texts(like: Any, time: int) -> Any:
        """Random texts of full length, one per pair."""
        tokens = random.integers(1, task.vocabulary, (count, time), dtype=np.int32)
        return type(like)(jnp.asarray(tokens), jnp.asarray(np.full(count, time, np.int32)))

    code = "".join(Path(file).read_text() for file in (__file__, throughput.__file__))
    shapes = executable_cache.worked_out(code, devices.alone(base), drawn_shapes)
    inputs, drawn = jax.tree.map(filled, shapes)
    margins = jnp.asarray(np.ones(count, np.float32))
    pairs = inputs.data.pairs
    pairs = type(pairs)(
        texts(pairs.prompt, task.prompt_length),
        texts(pairs.winner, task.response_length),
        texts(pairs.loser, task.response_length),
        margins,
        margins,
    )
    scores = jax.jit(logprob.score_pairs)(inputs.reference, pairs)
    data, some = Dataset(pairs, scores, margins), base.evaluation.prompts
    prompts, answers = jax.tree.map(lambda x: x[:some], (pairs.prompt, pairs.winner))
    answers = jax.tree.map(lambda x: x[:, None], answers)
    opponent = Opponent(prompts, answers, margins[:some, None])
    return jax.device_get(
        WorldArtifacts(drawn, inputs.reference, data, inputs.teacher, opponent, {})
    )


def timed(options: argparse.Namespace, cache: str) -> dict[str, Any]:
    """One process of its own; its figures."""
    names = ("workload", "mode", "runs", "steps")
    given = [f"--{name}={getattr(options, name)}" for name in names]
    begun = time.time()
    told = shared.process(__file__, "--child", *given, TESTBED_CACHE=cache)
    seconds = told["done"] - begun
    rate = options.runs * options.steps / seconds
    return {
        "seconds": seconds,
        "seconds_importing": told["imported"] - begun,
        "seconds_training": told["done"] - told["drawn"],
        "run_steps_per_second": rate,
        "run_steps_per_second_per_peak_gflops": rate / told["peak_gflops"],
        "peak_gflops": told["peak_gflops"],
        **{name: told[name] for name in ("devices", "machine", "versions")},
    }


def main() -> None:
    """Measure and print a table."""
    options = shared.arguments(
        __doc__,
        workload=("S", "(default S)", sorted(throughput.WORKLOADS)),
        mode=("offline", "(default offline)", throughput.MODES),
        runs=(8, "(default 8)"),
        steps=(400, "of each run (default 400)"),
        repeats=(3, "(default 3)"),
        child=(False, argparse.SUPPRESS),
    )
    if options.child:
        print(json.dumps(sweep(options)))
        return
    tables: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as cache:
            for found in tables.values():
                found.append(timed(options, cache))
    names = [name for name, value in tables["cold"][0].items() if isinstance(value, float)]
    print(f"{options.runs} runs of {options.steps} steps, {options.workload} {options.mode}")
    print(f"{'':38s}{'cold':>12s}{'warm':>12s}")
    medians = {
        kind: {name: statistics.median(one[name] for one in found) for name in names}
        for kind, found in tables.items()
    }
    for name in names:
        print(f"{name:38s}{medians['cold'][name]:12.4g}{medians['warm'][name]:12.4g}")
    shared.write(options.json, {"medians": medians, "repeats": tables})


if __name__ == "__main__":
    main()
