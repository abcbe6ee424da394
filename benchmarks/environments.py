"""Speed of the worlds: environment steps a second of every task, beside gymnax's own CartPole.

    uv run python benchmarks/environments.py --seconds 2 --tasks neural,summarize

Rates of different machines are not comparable, nor are rates of one shared machine at different hours. Therefore every
repeat measures CartPole, then every task, and the result is the median over repeats of the ratio of the two. A step is
one token written (or one push of the cart) in one of the vectorised environments. There are three ways of playing:

- *episodes*: reset, then ``step_env`` until every response is full, rewarded once, at the end; random tokens, none
  of which ends a response early.
- *auto-reset*: gymnax's ``step``, which resets at every end; random tokens, so that responses end at all times.
- *whole*: prompts, random tokens and golden rewards at once, without stepping; the counted steps are the tokens. The
  ratio of this way is to CartPole's episodes.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import shared

from testbed.config import members, unknown
from testbed.environment import AbstractTask
from testbed.errors import InvalidInput
from testbed.token_environment import TokenEnvironment
from testbed.types import Response, response_length

#: Steps of CartPole between resets: random pushes keep the pole up for about this long.
PUSHES = 20
#: Steps with automatic resets: each environment writes several responses.
ROUNDS = 4
WAYS = ("episodes", "auto-reset", "whole")
CARTPOLE = "CartPole-v1"


class Program(NamedTuple):
    """A compiled way of playing: the function to call, and the number of steps in one call."""

    play: Callable[[Any], Any]
    steps: int


def chosen(names: str | None) -> dict[str, Any]:
    """The selected tasks, with their defaults. Raises `InvalidInput` for an unknown name."""
    kinds = members(AbstractTask, AbstractTask.family)
    by_name = {name.casefold(): kind for name, kind in kinds.items()}
    # Tasks with a checkpoint are left out: its weights are too large for thousands of environments at once.
    light = [name for name, kind in kinds.items() if not kind.checkpointed]
    wanted = light if names is None else [name.strip() for name in names.split(",")]
    for name in wanted:
        if name.casefold() not in by_name:
            raise unknown("task", name, kinds)
    return {(kind := by_name[name.casefold()]).__name__: kind() for name in wanted}


def stepped(
    environment: Any, params: Any, count: int, length: int, low: int = 0, resets: bool = True
) -> Program:
    """Reset and ``length`` steps with random actions from ``low`` up: of ``step``, which resets at every end, or of
    ``step_env``."""
    step_once = environment.step if resets else environment.step_env

    def lane(key: Any, params: Any) -> Any:
        k_reset, k_actions, k_steps = jax.random.split(key, 3)
        _, state = environment.reset_env(k_reset, params)
        actions = jax.random.randint(k_actions, (length,), low, environment.num_actions)

        def step(carry: Any, now: Any) -> Any:
            state, total, seen = carry
            key, action = now
            observation, state, reward, *_ = step_once(key, state, action, params)
            return (state, total + reward, seen + jnp.sum(observation)), None

        # The observations are summed: unused observations would be removed by the compiler.
        nothing = jnp.zeros(())
        keys = jax.random.split(k_steps, length)
        (_, *totals), _ = jax.lax.scan(step, (state, nothing, nothing), (keys, actions))
        return totals

    return _program(lane, params, count, length)


def whole(task: Any, world: Any, count: int) -> Program:
    """Prompt, random tokens and golden reward at once."""

    length = task.response_length

    def lane(key: Any, world: Any) -> Any:
        k_prompt, k_tokens = jax.random.split(key)
        tokens = jax.random.randint(k_tokens, (length,), 1, task.vocabulary)
        return world.reward(world.prompts(k_prompt), Response(tokens, response_length(tokens)))

    return _program(lane, world, count, length)


def _program(lane: Callable[[Any, Any], Any], params: Any, count: int, length: int) -> Program:
    play = jax.jit(
        lambda key, params: jax.vmap(lane, (0, None))(jax.random.split(key, count), params)
    )
    return Program(lambda key: jax.block_until_ready(play(key, params)), count * length)


def programs(tasks: dict[str, Any], count: int) -> dict[tuple[str, str], Program]:
    """Every way of playing every environment."""

    cart, params = gymnax.make(CARTPOLE)
    playing = {
        (CARTPOLE, "episodes"): stepped(cart, params, count, PUSHES, resets=False),
        (CARTPOLE, "auto-reset"): stepped(cart, params, count, ROUNDS * PUSHES),
    }
    for name, task in tasks.items():
        environment, length = TokenEnvironment(task), task.response_length
        world = jax.jit(task.world)(jax.random.key(0))
        playing |= {
            (name, "episodes"): stepped(environment, world, count, length, low=1, resets=False),
            (name, "auto-reset"): stepped(environment, world, count, ROUNDS * length),
            (name, "whole"): whole(task, world, count),
        }
    return playing


def rate(program: Program, seconds: float) -> float:
    """Steps a second, over as many calls as fit into the time, at least one."""
    calls, start = 0, time.perf_counter()
    while not calls or time.perf_counter() - start < seconds:
        program.play(jax.random.key(calls))
        calls += 1
    return calls * program.steps / (time.perf_counter() - start)


def measure(options: argparse.Namespace, tasks: dict[str, Any]) -> dict[str, Any]:
    """Measure everything, and return every figure."""
    playing = programs(tasks, options.environments)
    for (name, way), program in playing.items():
        result = program.play(jax.random.key(0))
        if not all(bool(jax.numpy.all(jax.numpy.isfinite(x))) for x in jax.tree.leaves(result)):
            raise SystemExit(f"{name}, {way}: rewards are not finite: this is no measurement")
    share = options.seconds / options.repeats
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in playing}
    for _ in range(options.repeats):
        for key, program in playing.items():
            rates[key].append(rate(program, share))
    rows = []
    for (name, way), own in rates.items():
        base = rates[CARTPOLE, "episodes" if way == "whole" else way]
        ratios = [mine / other for mine, other in zip(own, base, strict=True)]
        rows.append(
            {
                "environment": name,
                "way": way,
                "steps_per_second": statistics.median(own),
                "ratio_to_cartpole": statistics.median(ratios),
                "lowest_and_highest": [min(ratios), max(ratios)],
            }
        )
    given = {name: getattr(options, name) for name in ("environments", "repeats", "seconds")}
    return given | {"rows": rows}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines: million steps a second, and the ratio to CartPole, by environment and way."""
    head = "".join(f"{way:>24s}" for way in WAYS)
    unit = "".join(f"{'M steps/s':>14s}{'ratio':>10s}" for _ in WAYS)
    lines = [f"{'':14s}{head}", f"{'':14s}{unit}"]
    for name in dict.fromkeys(row["environment"] for row in rows):
        cells = ""
        for way in WAYS:
            for row in rows:
                if (row["environment"], row["way"]) == (name, way):
                    million, ratio = row["steps_per_second"] / 1e6, row["ratio_to_cartpole"]
                    cells += f"{million:14.3g}{ratio:10.3g}"
        lines.append(f"{name:14s}{cells}")
    return lines


def main() -> None:
    """Measure and print a table."""
    options = shared.arguments(
        __doc__,
        environments=(4096, "at once (default 4096)"),
        seconds=(1.0, "measured time of each task and way, all repeats together (default 1)"),
        repeats=(5, "(default 5)"),
        tasks=(str, "names with commas between (default: all that need no checkpoint)"),
    )
    for name in ("environments", "repeats", "seconds"):
        value = getattr(options, name)
        if not (value > 0 and math.isfinite(value)):
            sys.exit(f"--{name} must be greater than 0, got {value}")

    try:
        tasks = chosen(options.tasks)
    except InvalidInput as problem:
        sys.exit(str(problem))
    figures = measure(options, tasks)
    print("\n".join(table(figures["rows"])))
    print(f"{options.environments} environments at once, medians of {options.repeats} repeats")
    shared.write(options.json, figures)


if __name__ == "__main__":
    main()
