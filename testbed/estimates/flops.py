"""Floating-point operations of a run, counted from its config (for its memory see `testbed.estimates.memory`).

Only matrix products are counted, with two operations a multiply-add. A backward pass costs twice the forward pass, less
the gradients of weights that are not trained (`learn`). Work that the items of a batch share is counted for batches of
an update's size. Plans and benchmarks share these counts, so a benchmark's "needed" operations are the plan's.
"""

import math
from typing import NamedTuple

from testbed import config
from testbed.config.ranges import Number
from testbed.exact.enumeration import count_prompts, count_responses
from testbed.experiment import Experiment
from testbed.lora import Lora, shapes
from testbed.proxies.base import Reading
from testbed.recorded_runs.pair_stream import WINDOW, WINDOWS
from testbed.sources.online import Online
from testbed.train import OnlineRun
from testbed.transformer_config import TransformerConfig

#: Products of a block in the order in which they depend on one another.
ORDER = (("query", "key", "value"), ("attention_out",), ("gate", "up"), ("down",))


class Flops(NamedTuple):
    """Needed floating-point operations: of one update, and of one evaluation."""

    update: float
    evaluation: float


def forward(
    model: TransformerConfig,
    rows: Number,
    keys: Number,
    vocabulary: int = 0,
    wanted: Number | None = None,
    looked_up: Number | None = None,
) -> float:
    """Forward pass over ``rows`` tokens that see ``keys`` keys each, with logits over ``vocabulary`` at the last
    ``wanted`` of them (default: all). For the other tokens the last block computes only keys and values. The first
    block's queries, keys and values are products of ``looked_up`` embeddings (default: one each row) if those are fewer
    than the rows."""
    wanted = rows if wanted is None else wanted
    looked_up = rows if looked_up is None else min(rows, looked_up)
    asking = model.query_width * model.width
    projecting = asking + 2 * model.key_width * model.width
    further = asking + model.mlp_products * model.hidden * model.width
    further += 2 * keys * model.query_width
    later = model.layers - 1
    spared = (rows - wanted) * (further + asking * min(1, later))
    blocks = (looked_up + later * rows) * projecting + model.layers * rows * further - spared
    return 2.0 * (blocks + wanted * model.width * vocabulary)


class Passed(NamedTuple):
    """Numbers of rows in a pass over texts: all rows, the rows whose logits are wanted, and the embeddings that are
    looked up."""

    rows: Number
    wanted: Number
    looked_up: Number

    def through(self, name: str, number: int, layers: int) -> Number:
        """Number of rows that a weight of block ``number`` is multiplied by; see `forward`."""
        if number == 0 and name in ORDER[0]:
            return min(self.rows, self.looked_up)
        return self.wanted if number == layers - 1 and name not in ("key", "value") else self.rows


def adapters(model: TransformerConfig, lora: Lora, passed: Passed) -> float:
    """Forward pass through the adapters alone."""
    return sum(
        2.0 * lora.rank * sum(shapes(model)[name]) * passed.through(name, number, model.layers)
        for number in range(model.layers)
        for name in lora.weights
    )


def _scored(experiment: Experiment, count: int) -> tuple[Passed, float, float]:
    """Rows of ``count`` responses to one prompt, whose context is run once; the cost of the forward pass without
    adapters; and the cost of the adapters."""
    task, model, lora = experiment.task, experiment.shape, experiment.lora
    context, segments = task.prompt_length - 1, count * task.response_length
    keys = context + task.response_length / 2
    passed = Passed(context + segments, segments, task.vocabulary / experiment.batch_size)
    plain = forward(model, passed.rows, keys, task.vocabulary, *passed[1:])
    return passed, plain, 0.0 if lora is None else adapters(model, lora, passed)


def score(experiment: Experiment, count: int = 2) -> float:
    """Forward pass over ``count`` responses to one prompt."""
    _, plain, added = _scored(experiment, count)
    return plain + added


def learn(experiment: Experiment, count: int = 2) -> float:
    """Forward and backward pass over ``count`` responses to one prompt. A product with a weight that is not trained
    needs no gradient with respect to the weight, and products before the first adapter need no gradients at all."""
    passed, plain, added = _scored(experiment, count)
    model, lora = experiment.shape, experiment.lora
    again = 0.0
    if model.checkpointing:
        again = plain + added - _kept(experiment, passed)
    if lora is None:
        return 3.0 * plain + again
    first = next(i for i, names in enumerate(ORDER) if set(names) & set(lora.weights))
    spared = 0.0
    for place, names in enumerate(ORDER[: first + 1]):
        for name in names:
            (width, out), rows = shapes(model)[name], passed.through(name, 0, model.layers)
            ranked = lora.rank if place == first and name in lora.weights else 0
            spared += 2.0 * rows * width * (out + ranked)
    return 2.0 * plain + 3.0 * added - spared + again


def _kept(experiment: Experiment, passed: Passed) -> float:
    """Forward products that a checkpointed backward pass does not compute again: logits, the first block's queries,
    keys and values, and the last product of each block."""
    model, lora = experiment.shape, experiment.lora
    total = 2.0 * passed.wanted * model.width * experiment.task.vocabulary
    for number in range(model.layers):
        for name in ORDER[-1] if number else ORDER[0] + ORDER[-1]:
            (width, out), rows = shapes(model)[name], passed.through(name, number, model.layers)
            ranked = lora.rank if lora is not None and name in lora.weights else 0
            before = width * ranked if name in ORDER[0] else 0
            total += 2.0 * rows * (width * out + before + ranked * out)
    return total


def sample(experiment: Experiment, count: Number) -> float:
    """Sampling ``count`` responses to one prompt. Adapters are merged once for the batch."""
    task = experiment.task
    context, response = task.prompt_length - 1, task.response_length
    rows = count * response
    table = task.vocabulary / experiment.batch_size
    keys = context + response / 2
    decoding = forward(experiment.shape, rows, keys, task.vocabulary, looked_up=response * table)
    prompt = forward(experiment.shape, context, context / 2, wanted=0, looked_up=table)
    lora = experiment.lora
    merging = 0.0 if lora is None else 2.0 * lora.rank * merged(experiment.shape, lora)
    return decoding + prompt + merging / experiment.batch_size


def merged(model: TransformerConfig, lora: Lora) -> int:
    """Number of parameters in the weights that have adapters."""
    return model.layers * sum(math.prod(shapes(model)[name]) for name in lora.weights)


def reading(experiment: Experiment) -> Reading:
    """How the proxy reads responses."""
    return experiment.proxy.reading(experiment.shape, experiment.task, experiment.data.pairs)


def judge(experiment: Experiment) -> float:
    """One comparison by the proxy: a reading of the pair in both orders, or of each response."""
    r = reading(experiment)
    embedded = None if r.embedded is None else r.embedded / (2 * experiment.batch_size)
    return 2 * forward(r.shape, r.tokens, r.tokens / 2, r.outputs, r.wanted, embedded)


def classified(experiment: Experiment) -> int:
    """Number of pairs that an evaluation scores under policy and reference."""
    evaluation = experiment.evaluation
    return evaluation.pairs + (WINDOWS * WINDOW if evaluation.stream else 0)


def listed(experiment: Experiment) -> int:
    """Number of responses to all prompts that an evaluation scores for the distance to the exact optimum."""
    task = experiment.task
    if experiment.evaluation.optimum_beta is None:
        return 0
    prompts = count_prompts(task.vocabulary, task.prompt_length)
    return prompts * count_responses(task.vocabulary, task.response_length)


def flops(experiment: Experiment) -> Flops:
    """Needed operations of one update and of one evaluation of a run."""
    request = experiment.loss.request(experiment.batch_size)
    update = learn(experiment, request.responses)
    written, judged = experiment.source.work(request)
    if written:
        # Only the responses that are learnt from are scored under the reference.
        reference = min(1.0, written / request.responses) * score(experiment, request.responses)
        update += sample(experiment, written) + judged * judge(experiment) + reference
    fresh = experiment.loss.fresh
    if fresh:
        update += sample(experiment, fresh) + learn(experiment, fresh) + score(experiment, fresh)
    evaluation, scoring = experiment.evaluation, score(experiment)
    measured = (
        evaluation.prompts * (sample(experiment, 1) + judge(experiment))
        + evaluation.kl_prompts * (sample(experiment, 1) + 3 * scoring)
        + 2 * classified(experiment) * scoring
        + listed(experiment) * score(experiment, 1)
    )
    return Flops(update * experiment.batch_size, measured)


def total(part: Flops, steps: int, points: int) -> float:
    """Needed operations of a whole run with ``steps`` updates and ``points`` evaluations after the first one."""
    return part.update * steps + part.evaluation * (points + 1)


def stage_flops(experiment: Experiment) -> dict[str, float]:
    """Needed operations of the long stages before training, by stage name; all other stages are neglected."""
    e, shape = experiment, experiment.baseline_model or experiment.model
    based = config.replace_all(
        e, {"model": shape, "tabular": False, "lora": None, "evaluation.optimum_beta": None}
    )
    found = {"proxy": judge(e) * reading(e).learning}
    if e.baseline.steps:
        found["baseline"] = _online(based, e.baseline)
    if e.task.checkpointed:
        found |= _written(based)
    else:
        found |= {"base": _fit(based), "sft": _fit(config.replace(e, "lora", None))}
    if e.recorded is not None:
        found["recorded"] = _online(e, e.recorded.run)
    return found


def _written(experiment: Experiment) -> dict[str, float]:
    """Operations of the stages that sample and score with a task's own pretrained policy before any training."""
    task, data = experiment.task, experiment.data
    prompts, each = task.standardising
    pairs = data.pairs + data.held_out
    one = sample(experiment, 1)
    return {
        "world": 2 * prompts * each * one,
        "texts": (2 * pairs + data.counts.rows * data.candidates) * one,
        "golden": prompts * each * one,
        "data": pairs * score(experiment),
    }


def _fit(experiment: Experiment) -> float:
    """Supervised fine-tuning on both responses of every pair."""
    return learn(experiment) * experiment.sft.cost


def _online(experiment: Experiment, run: OnlineRun) -> float:
    """An online run without its evaluations."""
    parts = {"loss": run.loss, "optimiser": run.optimiser, "batch_size": run.batch_size}
    return flops(config.replace_all(experiment, {"source": Online(), **parts})).update * run.steps
