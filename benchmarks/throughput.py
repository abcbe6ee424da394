"""Speed of training: run-steps a second relative to the machine's own matrix-product peak.

    uv run python benchmarks/throughput.py                                  # every workload, mode and stack size
    uv run python benchmarks/throughput.py --workload S --mode offline --stack 1 --seconds 20

Rates of different machines are not comparable, nor are rates of one shared machine at different hours. Ratios of two
numbers measured side by side are comparable: run-steps per second per GFLOP/s of float32 matrix-product peak of the
devices used, and the share of this peak that the needed floating-point operations make up. Each repeat measures the
peak, then the training, then the peak again; the results are medians over repeats. On a GPU there is a second share:
the bytes that a compiled step reads and writes, by XLA's account, as a share of the measured memory bandwidth; a CPU's
caches hold all these bytes.
"""

import argparse
import functools
import itertools
import math
import os
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import shared

from envs.labelers.bradley_terry import BradleyTerry
from envs.neural import Neural
from sweeps import runtime
from sweeps.population import devices
from sweeps.population.devices import Along
from testbed import logprob, train
from testbed.config import replace
from testbed.data.spec import DataSpec
from testbed.estimates import flops
from testbed.experiment import Experiment
from testbed.proxies.reader import ProxyConfig
from testbed.source import Dataset, TrainingInputs
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.transformer import Transformer
from testbed.transformer_config import TransformerConfig
from testbed.types import Pair, Prompt, Response

WORKLOADS = {
    "S": {"width": 64, "layers": 2, "heads": 4},
    "M": {"width": 256, "layers": 4, "heads": 8},
}
MODES = ("offline", "online")
#: Stack sizes of the whole table, by platform: a CPU computes one run after the other in any case.
STACKS = {"cpu": (1, 8), "gpu": (1, 16, 256, 1024, 4096)}
REPEATS = 5
SHOWN = {
    "run_steps_per_second": "run-steps/s",
    "tokens_per_second": "tokens/s",
    "achieved_gflops": "GFLOP/s",
    "share_of_peak": "of peak",
    "share_of_bandwidth": "of bandwidth",
    "run_steps_per_second_per_peak_gflops": "per peak GFLOP/s",
    "memory_mb": "MB",
}


def pin(devices: int) -> None:
    """Give this process as many cores as devices, before jax starts its threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:devices])
    runtime.configure()


def experiment(workload: str, mode: str, pointwise: bool = False) -> Any:
    """The workload's config: vocabulary 64, prompt 8, response 16, 32 pairs a step, AdamW."""
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


def world(config: Any, seed: Any) -> Any:
    """The inputs of training: random networks and random data, full-length responses."""

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
    return TrainingInputs(
        Dataset(pairs, logprob.score_pairs(model, pairs), jnp.ones(count)), model, proxy
    )


def bandwidth() -> float:
    """Measured rate at which one device reads and writes its memory, bytes a second: the best of a few passes over an
    array that is larger than every cache."""
    big = jnp.ones(2**29)
    add = jax.jit(lambda x: x + 1.0)
    jax.block_until_ready(add(big))
    best = math.inf
    for _ in range(5):
        clock = time.perf_counter()
        jax.block_until_ready(add(big))
        best = min(best, time.perf_counter() - clock)
    return 2 * big.nbytes / best


class Training:
    """A stack of runs of one world on each device, ready for training."""

    def __init__(self, config: Any, stack: int) -> None:
        """Compile the program for ``stack`` runs, spread over all devices, and take the first step."""

        def advance(state: Any, config: Any, seed: Any, inputs: Any, start: Any, steps: Any) -> Any:
            return train.advance(config, inputs, state, jax.random.key(seed), start, steps)

        count, weights = jax.device_count(), devices.everywhere(())
        lanes, rows, everywhere = Along.LANES, Along.ROWS, Along.ALL
        shape = (count, stack // count)
        drawn = jax.jit(functools.partial(world, config))
        supplies = [drawn(seed) for seed in range(count)]
        self._rows = devices.place(devices.stacked(supplies))
        runs = [(config.train, seed) for seed in range(stack)]
        self._lanes = devices.place(devices.stacked(runs, *shape))
        begin = devices.compiled(lambda run, inputs: train.init(run[0], inputs), (lanes, rows))
        program = devices.compiled(
            advance, (lanes, lanes, lanes, rows, everywhere, everywhere), donate=(0,)
        )
        self._state = begin(weights, self._lanes, self._rows)
        clock = time.perf_counter()
        numbers = (np.int32(0), np.int32(1))
        compiled = program.lower(weights, self._state, *self._lanes, self._rows, *numbers).compile()
        self.memory = (devices.needed_memory(compiled) or 0) * count
        # XLA counts a loop whose length is an argument once: this is one step of every run of a device.
        self.bytes = (compiled.cost_analysis() or {}).get("bytes accessed", 0.0) * count
        self._program = functools.partial(program, weights)
        self.seconds(1)
        self.first_call = time.perf_counter() - clock

    def seconds(self, steps: int) -> float:
        """Train every run for ``steps`` steps; return the seconds that this took."""
        count = np.int32(steps)
        clock = time.perf_counter()
        self._state = self._program(self._state, *self._lanes, self._rows, np.int32(1), count)
        jax.block_until_ready(self._state)
        return time.perf_counter() - clock

    def finite(self) -> bool:
        """Whether no run has diverged."""
        return bool(np.all(jax.device_get(self._state.diverged_step) < 0))


def measure(options: argparse.Namespace, workload: str, mode: str, stack: int) -> dict[str, Any]:
    """Measure one workload; return every figure."""

    config = experiment(workload, mode, options.pointwise)
    config = replace(config, "model.precision", options.precision)
    needed = flops.flops(config).update
    training = Training(config, stack)
    training.seconds(5)
    steps = max(1, round(options.seconds / REPEATS / (training.seconds(5) / 5)))
    count = jax.device_count()
    rates, peaks = [], []
    for _ in range(REPEATS):
        before = devices.matrix_peak()
        rates.append(steps * stack / training.seconds(steps))
        peaks.append(max(before, devices.matrix_peak()) / 1e9)
    if not training.finite():
        raise SystemExit("a policy diverged: this is no measurement")
    # On a CPU the peak is the peak of one product on all cores of the process.
    total = 1 if jax.default_backend() == "cpu" else count
    per_gflops = [rate / peak / total for rate, peak in zip(rates, peaks, strict=True)]
    rate, peak = statistics.median(rates), statistics.median(peaks) * total
    moving = None if jax.default_backend() == "cpu" else bandwidth() * total
    return {
        "workload": workload,
        "mode": mode,
        "precision": options.precision,
        "proxy": "pointwise" if options.pointwise else "pairwise",
        "stack": stack,
        "devices": count,
        "steps_timed": steps * REPEATS,
        "first_call_seconds": training.first_call,
        "needed_mflop_per_step": needed / 1e6,
        "peak_gflops": peak,
        "achieved_gflops": rate * needed / 1e9,
        "run_steps_per_second": rate,
        "run_steps_per_second_per_peak_gflops": statistics.median(per_gflops),
        "lowest_and_highest": [min(per_gflops), max(per_gflops)],
        "share_of_peak": rate * needed / 1e9 / peak,
        "bandwidth_gb_per_second": moving and moving / 1e9,
        "share_of_bandwidth": moving and training.bytes / stack * rate / moving,
        "tokens_per_second": rate * 2 * config.batch_size * config.task.response_length,
        "memory_mb": training.memory / 1e6,
        "device_peak_memory_mb": (devices.peak_memory() or 0) / 1e6 or None,
    }


def cases(options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """The workloads, modes and stack sizes to measure."""
    count = jax.device_count()
    sizes = STACKS.get(jax.default_backend(), STACKS["gpu"])
    stacks = [options.stack] if options.stack else [max(size, count) for size in sizes]
    if any(stack < 1 or stack % count for stack in stacks):
        sys.exit(f"--stack must be a positive multiple of the {count} devices")
    workloads = [options.workload] if options.workload else sorted(WORKLOADS, reverse=True)
    modes = [options.mode] if options.mode else MODES
    return list(itertools.product(workloads, modes, stacks))


def main() -> None:
    """Measure and print a table."""
    options = shared.arguments(
        __doc__,
        workload=(str, "(default: each)", sorted(WORKLOADS)),
        mode=(str, "(default: each)", MODES),
        stack=(int, "runs at once (default: a range)"),
        pointwise=(False, "score with a pointwise proxy"),
        precision=(
            "float32",
            "of products: float32 (default), tensorfloat32, bfloat16; the peak stays float32's",
        ),
        devices=(1, "CPU cores used, one XLA device each (default 1)"),
        seconds=(20.0, "measured time (default 20)"),
    )
    if options.devices < 1:
        sys.exit("--devices must be at least 1")
    pin(options.devices)
    print(f"{'workload':16s}{'stack':>6s}" + "".join(f"{name:>18s}" for name in SHOWN.values()))
    rows = []
    for workload, mode, stack in cases(options):
        figures = measure(options, workload, mode, stack)
        rows.append(figures)
        cells = "".join(
            "                 -" if figures[name] is None else f"{figures[name]:18.4g}"
            for name in SHOWN
        )
        print(f"{workload + ' ' + mode:16s}{stack:6d}{cells}", flush=True)
    if len(rows) == 1:
        shared.show(rows[0])
    shared.write(options.json, {"figures": rows})


if __name__ == "__main__":
    main()
