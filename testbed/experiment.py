"""The config of one run, from the task to the evaluation: everything a result depends on.

Static fields are shapes and counts and make up the compile key, ``jax.tree.structure(experiment)``; numeric fields
are leaves, so runs that differ only in them share one compiled program.
"""

import equinox as eqx

from testbed.data import DataSpec
from testbed.environment import AbstractTask
from testbed.errors import InvalidInput
from testbed.losses.ipo import Ipo
from testbed.objective import AbstractObjective
from testbed.optimiser import FitConfig, OptimiserConfig
from testbed.preference import AbstractLabeler
from testbed.proxies import ProxyConfig
from testbed.references import AbstractReference, Fixed
from testbed.sources.base import AbstractSource
from testbed.sources.online import Online
from testbed.train import OnlineRun, TrainConfig
from testbed.transformer import SIZES, TransformerConfig


class EvaluationConfig(eqx.Module):
    """What is measured and how often.

    Attributes:
        points: evaluations after the one at step 0, evenly spaced.
        prompts: fixed prompts of the win rate (2048 in arXiv 2405.08448).
        kl_prompts: of these, how many estimate the KL and classify the policy's own samples (256 there).
        pairs: pairs of D_golden that are classified and whose log-probabilities are followed (256 there).
    """

    points: int = eqx.field(static=True, default=10)
    prompts: int = eqx.field(static=True, default=512)
    kl_prompts: int = eqx.field(static=True, default=256)
    pairs: int = eqx.field(static=True, default=256)

    def __check_init__(self) -> None:
        for name in ("points", "pairs"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("prompts", "kl_prompts"):
            if getattr(self, name) < 2:
                raise InvalidInput(
                    f"{name} must be at least 2 (for a standard error), got {getattr(self, name)}"
                )
        if self.kl_prompts > self.prompts:
            raise InvalidInput(
                f"kl_prompts must be at most prompts={self.prompts}, got {self.kl_prompts}"
            )


class Experiment(eqx.Module):
    """One run.

    Attributes:
        task: the kind of world. labeler: who labels D_golden. model: shape of policy and proxy.
        tabular: the policy is optimised as a table of all responses, starting from the very same SFT policy; for tasks
            that can be enumerated.
        sft: supervised fine-tuning on both responses of every pair. data: size of the data. proxy: the proxy.
        baseline: the opponent in the win rate: online, labelled by the golden reward itself, at the base configuration.
        source: where texts to learn from come from. loss: what is minimised, a loss or a method; ``reference``: how the
            policy that it is held to moves.
        optimiser: for the policy. steps: updates, a multiple of ``evaluation.points``. batch_size: pairs an update.
        evaluation: what is measured. seed: redraws world, data and training.
    """

    task: AbstractTask
    labeler: AbstractLabeler
    model: TransformerConfig = SIZES["XS"]
    tabular: bool = eqx.field(static=True, default=False)
    sft: FitConfig = FitConfig(steps=1000, batch_size=64, optimiser=OptimiserConfig(2e-3))
    data: DataSpec = DataSpec()
    proxy: ProxyConfig = ProxyConfig()
    baseline: OnlineRun = OnlineRun()
    source: AbstractSource = Online()
    loss: AbstractObjective = Ipo(beta=0.1)
    reference: AbstractReference = Fixed()
    optimiser: OptimiserConfig = OptimiserConfig()
    steps: int = eqx.field(static=True, default=1000)
    batch_size: int = eqx.field(static=True, default=32)
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = 0

    def __check_init__(self) -> None:
        self.loss.refuse(self.source)
        if not 0 <= self.seed < 2**31:
            raise InvalidInput(f"seed must be between 0 and 2^31 - 1, got {self.seed}")
        if self.tabular and not self.task.enumerable:
            raise InvalidInput(
                f"tabular must be false for a task that cannot be enumerated, got {self.tabular} "
                f"with {type(self.task).__name__}"
            )
        points = self.evaluation.points
        if self.steps < points or self.steps % points:
            raise InvalidInput(
                f"steps must be a positive multiple of evaluation.points={points}, got {self.steps}"
            )
        needed = {
            "batch_size": self.batch_size,
            "sft.batch_size": self.sft.batch_size,
            "baseline.batch_size": self.baseline.batch_size,
            "proxy.fit.batch_size": self.proxy.fit.batch_size,
            "evaluation.prompts": self.evaluation.prompts,
            "evaluation.pairs": self.evaluation.pairs,
        }
        recorded = self.source.recorded_run
        if recorded is not None:
            needed["source.recorded.run.batch_size"] = recorded.run.batch_size
        for name, value in needed.items():
            if not 1 <= value <= self.data.pairs:
                raise InvalidInput(
                    f"{name} must be between 1 and data.pairs={self.data.pairs}, got {value}"
                )

    @property
    def train(self) -> TrainConfig:
        """The policy optimisation part."""
        return TrainConfig(self.source, self.loss, self.optimiser, self.batch_size, self.reference)
