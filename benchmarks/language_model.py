"""Speed of sampling and training a real language model: SmolLM2-135M-Instruct, or another checkpoint.

    uv run --extra llm python benchmarks/language_model.py

Sampling: 32 responses of 32 tokens to prompts of 24, with cached keys and values. Training: one IPO step of 8 pairs of
texts with these lengths (24 + 32 tokens), adapters of low rank on queries and values. Two kinds of pairs are measured:
labelled data, whose reference scores are known, and fresh samples, which are scored under the reference too. All are
programs of the testbed's own engine. The results are medians over repeats, and the most memory that the process held.
"""

import argparse
import dataclasses
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import shared

from sweeps import runtime
from sweeps.population import devices
from testbed import decode, logprob, train
from testbed.lora import Lora, adapted
from testbed.losses.ipo import Ipo
from testbed.optimiser import OptimiserConfig
from testbed.policies.pretrained import pretrained
from testbed.proxies.linear_head import Head, HeadProxy
from testbed.source import Dataset, TrainingInputs
from testbed.sources.offline import Offline
from testbed.types import Pair, PairScores, Prompt, Response

PROMPT, RESPONSE, TEMPERATURE = 24, 32, 0.7


def seconds(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Seconds of the first call, including compilation, and the median of ``repeats`` further calls."""
    times = []
    for _ in range(1 + repeats):
        clock = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - clock)
    return times[0], statistics.median(times[1:])


def prompts(count: int, vocabulary: int) -> Any:
    """Random prompts of full length."""

    tokens = jax.random.randint(jax.random.key(1), (count, PROMPT), 1, vocabulary)
    return Prompt(tokens, jnp.full(count, PROMPT, dtype=jnp.int32))


def sampling(options: argparse.Namespace, model: Any) -> dict[str, float]:
    """Tokens a second."""

    asked, keys = (
        prompts(options.samples, model.vocabulary),
        jax.random.split(jax.random.key(2), options.samples),
    )
    program = jax.jit(lambda model, asked, keys: decode.sample(model, asked, keys, RESPONSE, 1))
    first, each = seconds(lambda: program(model, asked, keys), options.repeats)
    return {
        "sampling_first_call_seconds": first,
        "tokens_per_second": options.samples * RESPONSE / each,
    }


def training(options: argparse.Namespace, handle: Any) -> dict[str, float]:
    """Seconds of a step."""

    model = handle.model
    head = Head.init(jax.random.key(0), jnp.zeros((1, model.config.width)))
    teacher = HeadProxy(handle.trunk(1).model, head)
    if options.checkpointing:
        config = dataclasses.replace(model.config, checkpointing=True)
        model = dataclasses.replace(model, config=config)
    count = options.pairs
    policy = adapted(jax.random.key(3), model, Lora(targets=options.targets))

    def text(seed: int) -> Response:
        shape = (count, RESPONSE)
        tokens = jax.random.randint(jax.random.key(seed), shape, 1, model.vocabulary)
        return Response(tokens, jnp.full(count, RESPONSE, dtype=jnp.int32))

    pairs = Pair(prompts(count, model.vocabulary), text(4), text(5), *jnp.ones((2, count)))
    plan = train.TrainConfig(Offline(), Ipo(beta=0.1), OptimiserConfig(1e-3), count)

    @jax.jit
    def step(policy: Any, pairs: Pair, scores: PairScores | None, state: Any) -> Any:
        if scores is None:
            scores = logprob.score_pairs(policy, pairs)
        # IPO does not use the rewards of labelled pairs, and the compiler removes unused values.
        inputs = TrainingInputs(Dataset(pairs, scores, jnp.ones(count)), policy, teacher)
        if state is None:
            return train.init(plan, inputs)
        return train.update(plan, inputs, state, jax.random.key(6), jnp.asarray(0))

    known = jax.jit(logprob.score_pairs)(policy, pairs)
    state = step(policy, pairs, known, None)
    first, each = seconds(lambda: step(policy, pairs, known, state), options.repeats)
    _, scored = seconds(lambda: step(policy, pairs, None, state), options.repeats)
    return {
        "step_first_call_seconds": first,
        "step_seconds": each,
        "step_scored_seconds": scored,
    }


def main() -> None:
    """Measure and print."""
    options = shared.arguments(
        __doc__,
        checkpoint=("smollm2", "(default smollm2)"),
        samples=(32, "at once (default 32)"),
        pairs=(8, "a step (default 8)"),
        targets=("qv", "of the adapters (default qv)"),
        checkpointing=(False, "of gradients"),
        repeats=(5, "(default 5)"),
    )

    # One model uses all cores; studies have one device per core.
    runtime.configure(cores_here=1)

    handle = pretrained(options.checkpoint)[0].configured(temperature=TEMPERATURE)
    figures = sampling(options, handle.model) | training(options, handle)
    figures["peak_gflops"] = devices.matrix_peak() / 1e9
    figures["process_peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    shared.show(figures)
    shared.write(options.json, {"figures": figures})


if __name__ == "__main__":
    main()
