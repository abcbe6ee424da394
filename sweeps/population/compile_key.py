"""Which runs share compiled programs, and which can be measured side by side."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from testbed.config.canonical_form import read
from testbed.experiment import EvaluationConfig, Experiment

_TRAINED = ("source", "loss", "optimiser", "reference", "task", "lora")


def measured_part(evaluation: EvaluationConfig) -> Any:
    """The part of a compile key that describes an evaluation."""
    names = ("prompts", "kl_prompts", "pairs", "opponent_answers")
    counts = (read(evaluation, name) for name in names)
    return jax.tree.structure((evaluation.stream, evaluation.optimum_beta)), *counts


def compile_key(
    experiment: Experiment,
    structure: Callable[[Any], Any] = jax.tree.structure,
    measured: Callable[[Any], Any] = measured_part,
) -> tuple[Any, ...]:
    """Two runs share a compiled program if this key is equal: it holds everything static except training lengths.
    ``structure`` and ``measured`` may be replaced by functions that keep their results."""
    parts = {name: read(experiment, name) for name in (*_TRAINED, "model")}
    proxy = read(experiment, "proxy")
    form = type(proxy).form(proxy, parts["model"])
    return (
        *map(structure, parts.values()),
        *(structure(part) if isinstance(part, eqx.Module) else part for part in form),
        measured(read(experiment, "evaluation")),
        read(read(experiment, "data"), "pairs"),
        *(read(experiment, name) for name in ("batch_size", "teacher", "tabular")),
    )


def rhythm(experiment: Experiment) -> Any:
    """Runs with equal rhythms can train side by side from evaluation to evaluation: the steps between evaluations if
    these are evenly spaced, so that runs of several lengths share slots; else the steps of all evaluations."""
    steps, evaluation = read(experiment, "steps"), read(experiment, "evaluation")
    if read(evaluation, "first") is None:
        return steps // read(evaluation, "points")
    return evaluation.marks(steps)
