"""How fast a policy trains: run-steps a second against the machine's own matrix-product peak.

    uv run python benchmarks/throughput.py --workload S --mode offline --seconds 20

Rates of machines, and of one shared machine an hour later, do not compare. What does is the ratio of both numbers
measured side by side: run-steps per second per GFLOP/s of float32 matrix-product peak, and the share of that peak that
the needed floating-point operations make up. Each repeat measures the peak, then the training, then the peak again;
medians over repeats are quoted.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

WORKLOADS = {
    "S": {"width": 64, "layers": 2, "heads": 4},
    "M": {"width": 256, "layers": 4, "heads": 8},
}
REPEATS = 5


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="S")
    parser.add_argument("--mode", choices=["offline", "online"], default="offline")
    parser.add_argument("--pointwise", action="store_true", help="score with a pointwise proxy")
    parser.add_argument("--stack", type=int, default=1, help="runs at once (default 1)")
    parser.add_argument(
        "--devices", type=int, default=1, help="CPU cores used, one XLA device each"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time (default 20)")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    return parser.parse_args()


def pin(devices: int) -> None:
    """Give this process as many cores as devices, before jax starts its threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:devices])
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"


def experiment(workload: str, mode: str, pointwise: bool) -> Any:
    """The workload's config: vocabulary 64, prompt 8, response 16, 32 pairs a step, AdamW."""
    from envs.labelers.bradley_terry import BradleyTerry
    from envs.neural import Neural
    from testbed.data import DataSpec
    from testbed.experiment import Experiment
    from testbed.proxies import ProxyConfig
    from testbed.sources.offline import Offline
    from testbed.sources.online import Online
    from testbed.transformer import TransformerConfig

    size = WORKLOADS[workload]
    return Experiment(
        task=Neural(vocabulary=64, prompt_length=8, response_length=16),
        labeler=BradleyTerry(),
        model=TransformerConfig(size["width"], size["layers"], size["heads"], size["heads"]),
        data=DataSpec(pairs=1024),
        proxy=ProxyConfig(pairwise=not pointwise),
        source=Online() if mode == "online" else Offline(),
        batch_size=32,
    )


def lane(config: Any, seed: int) -> tuple[Any, Any]:
    """One run's train config and supply: random networks and random data, full-length responses."""
    import jax
    import jax.numpy as jnp

    from testbed import logprob
    from testbed.sources.base import Dataset, Supply
    from testbed.transformer import Transformer
    from testbed.types import Pair, Prompt, Response

    task, count = config.task, config.data.pairs
    keys = jax.random.split(jax.random.key(seed), 5)

    def tokens(key: Any, length: int) -> Any:
        return jax.random.randint(key, (count, length), 1, task.vocabulary)

    def full(length: int) -> Any:
        return jnp.full(count, length, dtype=jnp.int32)

    prompt, response = task.prompt_length, task.response_length
    pairs = Pair(
        Prompt(tokens(keys[0], prompt), full(prompt)),
        Response(tokens(keys[1], response), full(response)),
        Response(tokens(keys[2], response), full(response)),
        *jnp.ones((2, count)),
    )
    model = Transformer.init(keys[3], config.model, task.vocabulary)
    proxy = config.proxy.init(keys[4], config.model, task.vocabulary)
    data = Dataset(pairs, logprob.score_pairs(model, pairs), jnp.ones(count))
    return config.train, Supply(data, model, proxy)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the workload; every figure."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from sweeps import population, provenance
    from testbed import cost, train

    config = experiment(options.workload, options.mode, options.pointwise)
    needed = cost.flops(config).update
    lanes = [lane(config, seed) for seed in range(options.stack)]
    stacked = jax.tree.map(lambda *x: np.stack([np.asarray(a) for a in x]), *lanes)
    keys = np.arange(options.stack)

    def advance(state: Any, run: Any, seed: Any, start: Any, steps: Any) -> Any:
        config, supply = run
        return train.advance(config, supply, state, jax.random.key(seed), start, steps)

    start = population.spread(lambda run: train.init(*run))
    program = population.compiled(advance, shared=2, donate=(0,))
    clock = time.perf_counter()
    state = program(start(stacked), stacked, keys, jnp.asarray(0), jnp.asarray(1))
    jax.block_until_ready(state)
    compiled = time.perf_counter() - clock

    def timed(steps: int) -> float:
        nonlocal state
        clock = time.perf_counter()
        state = program(state, stacked, keys, jnp.asarray(1), jnp.asarray(steps))
        jax.block_until_ready(state)
        return time.perf_counter() - clock

    timed(5)
    steps = max(1, round(options.seconds / REPEATS / (timed(5) / 5)))
    rates, peaks = [], []
    for _ in range(REPEATS):
        before = population.matrix_peak()
        rates.append(steps * options.stack / timed(steps))
        peaks.append(max(before, population.matrix_peak()) / 1e9)
    per_gflops = [rate / peak / options.devices for rate, peak in zip(rates, peaks, strict=True)]
    if not jax.tree.all(jax.tree.map(lambda x: bool(jnp.all(jnp.isfinite(x))), state.policy)):
        raise SystemExit("the policy diverged: this is no measurement")
    rate, peak = statistics.median(rates), statistics.median(peaks)
    return {
        "workload": options.workload,
        "mode": options.mode,
        "proxy": "pointwise" if options.pointwise else "pairwise",
        "stack": options.stack,
        "devices": options.devices,
        "steps_timed": steps * REPEATS,
        "first_call_seconds": compiled,
        "needed_mflop_per_step": needed / 1e6,
        "peak_gflops": peak,
        "achieved_gflops": rate * needed / 1e9,
        "run_steps_per_second": rate,
        "run_steps_per_second_per_peak_gflops": statistics.median(per_gflops),
        "lowest_and_highest": [min(per_gflops), max(per_gflops)],
        "share_of_peak": rate * needed / 1e9 / peak / options.devices,
        "tokens_per_second": rate * 2 * config.batch_size * config.task.response_length,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }


def main() -> None:
    """Measure and print a table."""
    options = arguments()
    if options.stack < 1 or options.devices < 1 or options.stack % options.devices:
        sys.exit(f"--stack must be a positive multiple of --devices={options.devices}")
    pin(options.devices)
    figures = measure(options)
    for name, value in figures.items():
        if isinstance(value, float):
            value = f"{value:.4g}"
        print(f"{name:38s} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
