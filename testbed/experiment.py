"""The config of one run, from the task to the evaluation: everything that a result depends on.

Static fields are shapes and counts and make up the compile key, ``jax.tree.structure(experiment)``; numeric fields are
leaves, so runs that differ only in numeric fields share one compiled program.
"""

import dataclasses
import math
from typing import Any, Literal

import equinox as eqx

from testbed import config
from testbed.config import ranges
from testbed.config.canonical_form import later, read
from testbed.config.ranges import hyper
from testbed.data.spec import DataSpec
from testbed.environment import AbstractTask
from testbed.errors import InvalidInput
from testbed.lora import Lora
from testbed.losses.ipo import Ipo
from testbed.objective import AbstractObjective
from testbed.optimiser import FitConfig, OptimiserConfig
from testbed.preference import AbstractLabeler
from testbed.proxies.base import AbstractProxyConfig
from testbed.proxies.reader import ProxyConfig
from testbed.recorded_runs.recorded_run import Recorded
from testbed.references.base import AbstractReference
from testbed.references.fixed import Fixed
from testbed.seeds import LAST, Seeds, UsedSeeds
from testbed.source import AbstractSource
from testbed.sources.online import Online
from testbed.train import OnlineRun, Teacher, TrainConfig
from testbed.transformer_config import SIZES, TransformerConfig

#: The source of texts for golden baselines and recorded runs.
_ONLINE = Online()


class EvaluationConfig(eqx.Module):
    """What is measured and how often.

    Attributes:
        points: evaluations after the one at step 0.
        first: steps before the first of these; the steps of evaluations then grow geometrically, so that they are
            denser in KL at the start, where training moves fastest; at most steps - points + 1, and at most steps.
            None: evaluations are evenly spaced, and the number of steps is a multiple of ``points``.
        prompts: fixed prompts of the win rate (2048 in arXiv 2405.08448).
        kl_prompts: number of these prompts that are used to estimate the KL and to classify the policy's own samples
            (256 in that paper).
        pairs: pairs of D_golden that are classified and whose log-probabilities are followed (256 in that paper).
        stream: plan of an online run; proxy and policy are tested on its stream of pairs, window by window (the paper's
            figure 6). If the source uses a recorded run, it must be the same one.
        optimum_beta: beta, > 0, of the exact IPO optimum to which the policy's distance is measured (the paper's
            appendix H); for tasks that can be enumerated.
        by_prompt: keep the golden reward and the win on every prompt with the results
            (`testbed.metric_table.BY_PROMPT`), as 16-bit floats: 2 kB an evaluation of 512 prompts. Nothing else of a
            run depends on this.
    """

    points: int = hyper(10, least=1, static=True)
    first: int | None = hyper(None, least=1, static=True, later=True)
    prompts: int = hyper(512, least=2, static=True)
    kl_prompts: int = hyper(256, least=2, static=True)
    pairs: int = hyper(256, least=1, static=True)
    opponent_answers: int = hyper(1, least=1, static=True, later=True)
    stream: Recorded | None = None
    optimum_beta: float | None = hyper(None, above=0)
    by_prompt: bool = later(True, static=True)

    def __check_init__(self) -> None:
        ranges.check(self)
        if self.kl_prompts > self.prompts:
            raise InvalidInput(
                f"kl_prompts must be at most prompts={self.prompts}, got {self.kl_prompts}"
            )
        if self.stream is not None and not self.stream.has_stream:
            raise InvalidInput(
                "stream.run.loss must learn from pairs, which can be classified, "
                f"got {config.spell(self.stream.run.loss)}"
            )

    def refuse_steps(self, steps: int) -> None:
        """Raise `InvalidInput` if a run of so many steps has no place for the evaluations."""
        points, first = read(self, "points"), read(self, "first")
        if first is None and (steps < points or steps % points):
            raise InvalidInput(
                f"steps must be a positive multiple of evaluation.points={points}, got {steps}"
            )
        if first is not None and steps < first + points - 1:
            raise InvalidInput(
                f"steps must be at least evaluation.first + evaluation.points - 1 = {first + points - 1}, got {steps}"
            )

    def marks(self, steps: int) -> tuple[int, ...]:
        """Steps of the evaluations in a run of ``steps`` steps: 0, then ``points`` increasing ones, the last ``steps``.

        With ``first``, evaluation i of points lies at first * (steps / first) ** ((i - 1) / (points - 1)), rounded, or
        one step behind the evaluation before if it would not be later. Raises `InvalidInput` as `refuse_steps` does.
        """
        self.refuse_steps(steps)
        points, first = self.points, self.first
        if first is None:
            return tuple(range(0, steps + 1, steps // points))
        if points == 1:
            return (0, steps)
        found, growth = [0], steps / first
        for i in range(points):
            wanted = math.floor(first * growth ** (i / (points - 1)) + 0.5)
            found.append(max(wanted, found[-1] + 1))
        return tuple(found)


class Experiment(eqx.Module):
    """One run.

    Attributes:
        task: the kind of world. labeler: who labels D_golden. model: the policy's shape, and the proxy's unless
            ``proxy.model`` says otherwise; a task on a checkpoint brings its own policy and shape.
        tabular: the policy is optimised as a table of all responses, starting from exactly the same SFT policy; for
            tasks that can be enumerated.
        lora: train only adapters of low rank; all other weights stay those of the SFT policy.
        sft: supervised fine-tuning on both responses of every pair. data: size of the data. proxy: the proxy.
        baseline: training of the golden baseline, the opponent in the win rate: online, labelled by the golden reward
            itself, at the base configuration. With 0 steps the opponent is the SFT policy itself.
        baseline_model: the opponent's shape; none: the policy's. With another shape, everything except the policy's
            start is built on an SFT policy of that shape: the golden reward is standardised over its samples, and data,
            coverage and baseline are those of an experiment with that shape. The same holds for the labels and the
            proxy, if ``proxy.model`` is set too: policies of all sizes then meet the very same data, proxy and
            opponent.
        source: where texts to learn from come from. teacher: who judges the texts of the source, the proxy or the
            golden reward itself, without noise. loss: the objective to minimise, a loss or a method. reference: how the
            reference policy, to which the policy is held, moves.
        optimiser: for the policy. steps: updates, a multiple of ``evaluation.points`` unless ``evaluation.first`` is
            set. batch_size: pairs an update. evaluation: what is measured. seed: redraws world, data and training.
        seeds: seeds that single parts have instead, so that several worlds share a part, or runs in one world train
            with other random numbers.
    """

    task: AbstractTask
    labeler: AbstractLabeler
    model: TransformerConfig = SIZES["XS"]
    tabular: bool = eqx.field(static=True, default=False)
    lora: Lora | None = None
    sft: FitConfig = FitConfig(steps=1000, batch_size=64, optimiser=OptimiserConfig(2e-3))
    data: DataSpec = DataSpec()
    proxy: AbstractProxyConfig = ProxyConfig()
    baseline: OnlineRun = OnlineRun()
    baseline_model: TransformerConfig | None = None
    source: AbstractSource = Online()
    teacher: Teacher = eqx.field(static=True, default="proxy")
    loss: AbstractObjective = Ipo(beta=0.1)
    reference: AbstractReference = Fixed()
    optimiser: OptimiserConfig = OptimiserConfig()
    steps: int = eqx.field(static=True, default=1000)
    batch_size: int = eqx.field(static=True, default=32)
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = 0
    seeds: Seeds = later(Seeds())

    def __check_init__(self) -> None:
        # Fields are read directly, and checks are called on the class: equinox's attribute access looks for methods
        # first and makes modules of them, which takes longer than all the checks below, and 10^5 runs are checked one
        # by one.
        source, steps, seed = (read(self, name) for name in ("source", "steps", "seed"))
        loss, task, evaluation = (read(self, name) for name in ("loss", "task", "evaluation"))
        type(loss).refuse(loss, source)
        recorded = source.recorded_run
        for run in (read(self, "baseline"), *((recorded.run,) if recorded else ())):
            made_online = read(run, "loss")
            type(made_online).refuse(made_online, _ONLINE)
        if not 0 <= seed <= LAST:
            raise InvalidInput(f"seed must be between 0 and 2^31 - 1, got {seed}")
        _check_seeds(Seeds.of(read(self, "seeds"), seed), task)
        if read(self, "tabular") and not task.enumerable:
            raise InvalidInput(
                f"tabular must be false for a task that cannot be enumerated, got {self.tabular} "
                f"with {type(task).__name__}"
            )
        lora = read(self, "lora")
        if lora is not None:
            if self.tabular:
                raise InvalidInput("lora must be none for a tabular policy, which has no weights")
            # The shape of a checkpoint is unknown until the checkpoint is loaded.
            if not type(task).checkpointed:
                lora.refuse(self.model)
        EvaluationConfig.refuse_steps(evaluation, steps)
        stream = read(evaluation, "stream")
        needed = {"batch_size": read(self, "batch_size")}
        # Where the task brings the policy, nothing is fine-tuned.
        if not type(task).checkpointed:
            needed["sft.batch_size"] = read(read(self, "sft"), "batch_size")
        needed |= {
            "baseline.batch_size": read(read(self, "baseline"), "batch_size"),
            "proxy.fit.batch_size": read(read(read(self, "proxy"), "fit"), "batch_size"),
            "evaluation.prompts": read(evaluation, "prompts"),
            "evaluation.pairs": read(evaluation, "pairs"),
        }
        if recorded is not None:
            needed["source.recorded.run.batch_size"] = recorded.run.batch_size
        if stream is not None:
            needed["evaluation.stream.run.batch_size"] = stream.run.batch_size
        pairs = read(read(self, "data"), "pairs")
        for name, value in needed.items():
            if not 1 <= value <= pairs:
                raise InvalidInput(f"{name} must be between 1 and data.pairs={pairs}, got {value}")
        fits = {"proxy.fit": read(read(self, "proxy"), "fit")}
        if not type(task).checkpointed:
            fits["sft"] = read(self, "sft")
        for name, fit in fits.items():
            FitConfig.refuse_pairs(fit, pairs, f"{name}.")
        _check_evaluation(evaluation, task, recorded)

    @property
    def marks(self) -> tuple[int, ...]:
        """Steps at which the policy is evaluated, 0 and ``steps`` included (`EvaluationConfig.marks`)."""
        return read(self, "evaluation").marks(read(self, "steps"))

    @property
    def used_seeds(self) -> UsedSeeds:
        """The seeds of golden reward, writers, labels and training."""
        return Seeds.of(read(self, "seeds"), read(self, "seed"))

    @property
    def opponent(self) -> Literal["SFT", "golden baseline"]:
        """The policy whose answers the win rate compares with."""
        return "golden baseline" if self.baseline.steps else "SFT"

    @property
    def recorded(self) -> Recorded | None:
        """The online run that is recorded before training, for the source or for the evaluation."""
        stream = read(read(self, "evaluation"), "stream")
        return read(read(self, "source"), "recorded_run") or stream

    @property
    def shape(self) -> TransformerConfig:
        """The policy's shape: ``model``, unless the task brings the policy."""
        return self.task.shape(self.model)

    @property
    def base_shape(self) -> TransformerConfig:
        """Shape of the SFT policy on which reward, data and baseline are built."""
        return self.task.shape(self.baseline_model or self.model)

    def refuse_shapes(self) -> None:
        """Raise `InvalidInput`, before anything is built, if a network cannot read the task's texts. This loads the
        checkpoint of a task that brings one, so it is not part of the checks that run for every config."""
        task, policy, base = self.task, self.shape, self.base_shape
        needed = task.prompt_length + task.response_length
        shapes = {"model": policy, "baseline_model": base}
        for name in (field.name for field in dataclasses.fields(task)):
            if isinstance(getattr(task, name), TransformerConfig):
                shapes[f"task.{name}"] = getattr(task, name)
        for name, shape in shapes.items():
            room = shape.room
            if room is not None and room < needed:
                raise InvalidInput(
                    f"{name} must have room for the {needed} tokens of prompt_length "
                    f"{task.prompt_length} and response_length {task.response_length}, got "
                    f"learned_positions={shape.learned_positions} and context={shape.context}"
                )
        self.proxy.refuse(policy, base, task)

    @property
    def train(self) -> TrainConfig:
        """The config of the policy optimisation."""
        return TrainConfig(
            self.source, self.loss, self.optimiser, self.batch_size, self.reference, self.teacher
        )


def _check_seeds(used: UsedSeeds, task: AbstractTask) -> None:
    """Refuse writers of another seed than the golden reward's where the task draws both together, and a training seed
    that is too large."""
    if used.writers != used.golden and not type(task).draws_writers_apart():
        raise InvalidInput(
            f"seeds.writers must be the golden reward's seed {used.golden} for {type(task).__name__}, which draws both "
            f"together (it has no world_with), got {used.writers}"
        )
    if used.training > LAST:
        raise InvalidInput(
            f"seed + seeds.training_shift must be at most 2^31 - 1, got {used.training}"
        )


def _check_evaluation(evaluation: EvaluationConfig, task: AbstractTask, recorded: Any) -> None:
    """Refuse an evaluation that needs what the task does not have, or the stream of another run than the source's."""
    stream, beta = read(evaluation, "stream"), read(evaluation, "optimum_beta")
    if beta is not None and not task.enumerable:
        raise InvalidInput(
            f"evaluation.optimum_beta must be none for a task that cannot be enumerated, got {beta} "
            f"with {type(task).__name__}"
        )
    if stream and recorded and config.canonical(stream) != config.canonical(recorded):
        raise InvalidInput(
            f"evaluation.stream must be the run that source draws on, {config.spell(recorded)}, "
            f"got {config.spell(stream)}"
        )
