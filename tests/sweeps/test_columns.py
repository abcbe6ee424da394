"""Metrics are declared once, and columns are those that are declared."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from helpers import experiment

import testbed
from envs.enumerable import Enumerable
from sweeps.population import programs
from sweeps.store import columns, parquet
from sweeps.tensorboard import hparams, writer
from testbed import train
from testbed.metric_table import BY_PROMPT, DECLARED, LEDGER, METRICS, POLICY
from testbed.recorded_runs.recorded_run import Recorded
from testbed.stages.stages import STAGES, assemble
from testbed.stages.world_config import WorldArtifacts, WorldConfig
from testbed.train import OnlineRun

ROOT = Path(testbed.__path__[0]).parent
#: A run of which everything is measured that can be.
RUN = experiment(
    task=Enumerable(vocabulary=3, prompt_length=2, response_length=2),
    tabular=True,
    evaluation__optimum_beta=0.5,
    evaluation__stream=Recorded(OnlineRun(steps=10, batch_size=8)),
)
#: Modules that work out metrics, each by its name.
MEASURING = {"testbed/metrics.py", "sweeps/population/programs.py"}
#: A view chooses at most so many metrics; a longer list would declare them again.
CHOSEN = 5


def shapes_of_ground() -> WorldArtifacts:
    """What the run stands on, as shapes."""
    config, made = WorldConfig.of(RUN), {}
    for stage in STAGES:
        given = [made[name] for name in stage.after]
        make = lambda *given, s=stage: s.function(*s.parts(config), *given)  # noqa: E731
        made[stage.name] = jax.eval_shape(make, *given) if stage.needed(config) else None
    return assemble(made)


def test_what_a_run_measures_is_declared_and_what_is_declared_is_measured() -> None:
    def measure(artifacts: WorldArtifacts) -> tuple[dict[str, jax.Array], jax.Array]:
        state = train.init(RUN.train, artifacts.training_inputs())
        lane = programs.Lane(*map(jnp.asarray, (0, 1, 0, 0, RUN.steps, 0)))
        evaluation_inputs = artifacts.evaluation_inputs(RUN.evaluation)
        return programs._measurements(programs.measured_part(state), lane, evaluation_inputs)

    measured, outcomes = jax.eval_shape(measure, shapes_of_ground())
    names = {name for name in measured if not name.startswith("answer_")}
    assert names - {"diverged_step"} == {metric.name for metric in METRICS}
    assert {*POLICY, *LEDGER} < {*METRICS}
    assert len(measured) == len(names) + 2 * RUN.task.response_length
    assert outcomes.shape == (len(BY_PROMPT), RUN.evaluation.prompts)


def test_names_tags_and_meanings() -> None:
    names = [*columns.IDENTITY, *columns.MEASURES]
    tags = [metric.tag for metric in METRICS if metric.tag]
    assert len(set(names)) == len(names) == len(columns.NAMED)
    assert len(set(tags)) == len(tags) == len(writer.TAGS) - 1
    assert all(metric.meaning and metric.kind == "number" for metric in METRICS)
    assert {*names, "config"} == parquet.KNOWN
    assert tuple(metric.name for metric in METRICS) == parquet.METRICS
    assert tuple(column.name for column in BY_PROMPT) == parquet.VECTORS
    assert set(hparams.PEAK.values()) | set(hparams.FINAL.values()) <= DECLARED.keys()


def spelt(node: ast.AST) -> int:
    """How many metrics a list, a set, a tuple or either side of a dictionary names."""
    sides: list[list[Any]] = []
    if isinstance(node, ast.List | ast.Set | ast.Tuple):
        sides = [node.elts]
    elif isinstance(node, ast.Dict):
        sides = [node.keys, node.values]
    names = {metric.name for metric in METRICS}
    return max((sum(getattr(x, "value", None) in names for x in side) for side in sides), default=0)


def test_no_other_module_lists_the_metrics() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("testbed", "envs", "sweeps", "analysis", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if any(spelt(node) > CHOSEN for node in ast.walk(ast.parse(path.read_bytes())))
    }
    assert found == MEASURING


def test_tables_of_the_pages() -> None:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    for page, rows in (("cli.md", columns.MEANINGS), ("tensorboard.md", writer.TAGS)):
        text = hooks.on_page_markdown((ROOT / "docs" / page).read_text())
        assert all(f"\n| `{name}` | " in text for name in rows)
