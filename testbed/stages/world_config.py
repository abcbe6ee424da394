"""The inputs of a run that the stages build, as a config and as arrays (`testbed.stages.stages`)."""

from collections.abc import Callable, Collection
from typing import Any, Self

import equinox as eqx
import jax
from jaxtyping import PyTree

from testbed import moved
from testbed.config.canonical_form import names_of, read, shared_text
from testbed.data.spec import DataSpec, PoolSpec
from testbed.environment import AbstractTask, World
from testbed.evaluation_set import Opponent
from testbed.exact.optimum import Optimum
from testbed.experiment import EvaluationConfig, Experiment
from testbed.logprob import Policy
from testbed.lora import Lora
from testbed.metrics import EvaluationInputs
from testbed.optimiser import FitConfig
from testbed.preference import AbstractLabeler, AbstractPreference, GoldenPreference
from testbed.proxies.base import AbstractProxyConfig
from testbed.recorded_runs.pair_stream import Windows
from testbed.recorded_runs.recorded_run import Recorded
from testbed.source import AbstractSource, Dataset, TrainingInputs
from testbed.train import OnlineRun, Teacher
from testbed.transformer_config import TransformerConfig


class WorldConfig(eqx.Module):
    """The part of an `Experiment` that its stages depend on.

    ``baseline_model`` is None if it is the policy's shape, ``writers_seed`` if it is ``golden_seed``. ``training_seed``
    is ``seed`` if no stage trains as runs do, so that runs with other training seeds share their world.
    """

    task: AbstractTask
    labeler: AbstractLabeler
    model: TransformerConfig
    sft: FitConfig
    data: DataSpec
    proxy: AbstractProxyConfig
    baseline: OnlineRun
    baseline_model: TransformerConfig | None
    recorded: Recorded | None
    stream: Recorded | None
    optimum_beta: float | None
    source: AbstractSource | None
    prompts: int = eqx.field(static=True)
    opponent_answers: int = eqx.field(static=True)
    tabular: bool = eqx.field(static=True)
    lora: Lora | None
    seed: int
    golden_seed: int
    writers_seed: int | None
    label_seed: int
    training_seed: int

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """The config of an experiment's stages. Raises `InvalidInput` if a network cannot read the task's texts."""
        experiment.refuse_shapes()
        return cls(*cls.parts(experiment))

    @classmethod
    def parts(cls, experiment: Experiment) -> tuple[Any, ...]:
        """The values of all fields for an experiment, without checks. Experiments with equal values share the results
        of all stages."""
        return tuple(
            _DERIVED[name](experiment) if name in _DERIVED else read(experiment, name)
            for name in names_of(cls)
        )

    def only(self, names: Collection[str]) -> Self:
        """The config with None for every field, static ones included, that is not named."""
        reduced = object.__new__(type(self))
        for name, value in vars(self).items():
            object.__setattr__(reduced, name, value if name in names else None)
        return reduced

    @property
    def base_model(self) -> TransformerConfig:
        """Shape of the SFT policy on which reward, data and baseline are built."""
        return self.baseline_model or self.model

    @property
    def trained_proxy(self) -> tuple[Any, ...]:
        """The parts of the config that a proxy depends on beside its data."""
        return self.proxy.trained_by(self.model)

    @property
    def pool(self) -> PoolSpec | None:
        """The pool that data are drawn from or that coverage is measured on; None if nothing asks for one."""
        asked = self.data.dialled or self.task.enumerable or self.data.coverage_prompts
        return self.data.pool if asked else None

    @property
    def content(self) -> str | None:
        """Identifies the content of files that worlds depend on; None if there are none. Raises `InvalidInput` for
        unusable files: every plan reads this property first."""
        self.task.check()
        return self.task.content() or None


def _shape(experiment: Experiment) -> TransformerConfig:
    task = read(experiment, "task")
    return type(task).shape(task, read(experiment, "model"))


def _baseline_shape(experiment: Experiment) -> TransformerConfig | None:
    """The shape of the SFT policy behind the baseline; None if it is the policy's shape."""
    task, chosen = read(experiment, "task"), read(experiment, "baseline_model")
    if chosen is None:
        return None
    shape = type(task).shape(task, chosen)
    # Compared as texts, which are cached: plans ask for the shapes of 10^5 runs.
    return None if shared_text(shape) == shared_text(_shape(experiment)) else shape


def _writers_seed(experiment: Experiment) -> int | None:
    used = read(experiment, "used_seeds")
    return None if used.writers == used.golden else used.writers


def _training_seed(experiment: Experiment) -> int:
    trained = read(experiment, "recorded") or read(read(experiment, "source"), "preparation")
    return read(experiment, "used_seeds").training if trained else read(experiment, "seed")


#: Fields of `WorldConfig` whose value is not the experiment's field of the same name.
_DERIVED: dict[str, Callable[[Experiment], Any]] = {
    "model": _shape,
    "baseline_model": _baseline_shape,
    "recorded": lambda experiment: read(experiment, "recorded"),
    "stream": lambda experiment: read(read(experiment, "evaluation"), "stream"),
    "optimum_beta": lambda experiment: read(read(experiment, "evaluation"), "optimum_beta"),
    "source": lambda experiment: read(read(experiment, "source"), "preparation"),
    "prompts": lambda experiment: read(read(experiment, "evaluation"), "prompts"),
    "golden_seed": lambda experiment: read(experiment, "used_seeds").golden,
    "writers_seed": _writers_seed,
    "label_seed": lambda experiment: read(experiment, "used_seeds").labels,
    "training_seed": _training_seed,
    "opponent_answers": lambda experiment: read(read(experiment, "evaluation"), "opponent_answers"),
}


class WorldArtifacts(eqx.Module):
    """All inputs of a run that the stages have made. ``sft`` is in the form that is trained; ``facts`` are measured
    numbers."""

    world: World
    sft: Policy
    data: Dataset
    proxy: AbstractPreference
    opponent: Opponent
    facts: dict[str, Any]
    prepared: PyTree = None
    stream: Windows | None = None
    optimum: Optimum | None = None

    def training_inputs(self, teacher: Teacher = "proxy") -> TrainingInputs:
        """The inputs of sources."""
        judge = self.golden if teacher == "golden" else self.proxy
        return TrainingInputs(self.data, self.sft, judge, self.prepared)

    def evaluation_inputs(self, evaluation: EvaluationConfig) -> EvaluationInputs:
        """The inputs of evaluations."""
        pairs = jax.tree.map(lambda x: x[: evaluation.pairs], self.data)
        return EvaluationInputs(
            self.sft,
            pairs,
            self.golden,
            self.proxy,
            self.opponent,
            self.stream,
            self.optimum,
            evaluation.kl_prompts,
        )

    @property
    def golden(self) -> GoldenPreference:
        """The noise-free judge."""
        return GoldenPreference(self.world)


__getattr__ = moved.renamed(__name__, Ground="WorldArtifacts", GroundConfig="WorldConfig")
