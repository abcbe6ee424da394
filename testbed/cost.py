"""What a run needs, counted from its config: floating-point operations and bytes.

Matrix products only, two operations a multiply-add; a backward pass costs twice the forward. Plans and benchmarks
share these counts, so a benchmark's "needed" operations are the plan's.
"""

from typing import NamedTuple

from testbed.experiment import Experiment
from testbed.ranges import Number
from testbed.transformer import TransformerConfig

#: Copies of the parameters a run holds: policy, gradient, two moments, the update in flight, reference, proxy.
COPIES = 7
#: Floats per token and width that a block keeps for its backward pass, roughly.
ACTIVATIONS = 24


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
) -> float:
    """Forward pass over ``rows`` tokens that see ``keys`` keys each, with logits over ``vocabulary`` at
    the last ``wanted`` of them (default: all). The last block gives only keys and values of the others."""
    wanted = rows if wanted is None else wanted
    projected = (model.heads + 2 * model.key_value_heads) * model.head_size
    block = model.width * (projected + model.width + 3 * model.hidden) + 2 * keys * model.width
    spared = block - 2 * model.key_value_heads * model.head_size * model.width
    head = wanted * model.width * vocabulary
    return 2.0 * (rows * model.layers * block - (rows - wanted) * spared + head)


def score(experiment: Experiment, count: int = 2) -> float:
    """Forward pass over ``count`` responses to one prompt, whose context is run once."""
    task = experiment.task
    context, segments = task.prompt_length - 1, count * task.response_length
    keys = context + task.response_length / 2
    return forward(experiment.model, context + segments, keys, task.vocabulary, segments)


def sample(experiment: Experiment, count: Number) -> float:
    """Sampling ``count`` responses to one prompt."""
    task = experiment.task
    context, response = task.prompt_length - 1, task.response_length
    rows = count * response
    decoding = forward(experiment.model, rows, context + response / 2, task.vocabulary)
    return decoding + forward(experiment.model, context, context / 2, wanted=0)


def judge(experiment: Experiment) -> float:
    """One comparison by the proxy: both orders of a pair, or two responses."""
    task = experiment.task
    responses = 2 if experiment.proxy.pairwise else 1
    tokens = task.prompt_length + responses * task.response_length + 1
    return 2 * forward(experiment.model, tokens, tokens / 2, vocabulary=1, wanted=1)


def flops(experiment: Experiment) -> Flops:
    """Needed operations of a run's parts."""
    request = experiment.loss.request(experiment.batch_size)
    update = 3 * score(experiment, request.responses)
    written, judged = experiment.source.work(request)
    if written:
        # Of what was written, all that is learnt from is scored under the reference.
        reference = min(1.0, written / request.responses) * score(experiment, request.responses)
        update += sample(experiment, written) + judged * judge(experiment) + reference
    fresh = experiment.loss.fresh
    if fresh:
        update += sample(experiment, fresh) + 4 * score(experiment, fresh)
    evaluation, scoring = experiment.evaluation, score(experiment)
    measured = (
        evaluation.prompts * (sample(experiment, 1) + judge(experiment))
        + evaluation.kl_prompts * (sample(experiment, 1) + 3 * scoring)
        + 2 * evaluation.pairs * scoring
    )
    return Flops(update * experiment.batch_size, measured)


def total_flops(experiment: Experiment) -> float:
    """Needed operations of a whole run."""
    part = flops(experiment)
    evaluations = experiment.evaluation.points + 1
    return part.update * experiment.steps + part.evaluation * evaluations


def footprint(experiment: Experiment) -> int:
    """Bytes that one run holds at its peak, roughly: parameters, data, activations of an update or an evaluation."""
    task, model, evaluation = experiment.task, experiment.model, experiment.evaluation
    tokens = task.prompt_length + 2 * task.response_length
    data = experiment.data.pairs * (tokens + 8)
    if experiment.source.recorded_run is not None:
        run = experiment.source.recorded_run.run
        data += run.steps * run.batch_size * (tokens / 4 + 8)
    activations = tokens * (model.layers * ACTIVATIONS * model.width + 4 * task.vocabulary)
    # An evaluation keeps nothing for a backward pass, but its caches and two models' logits.
    cache = 2 * tokens * model.layers * model.width
    measured = evaluation.prompts * (cache + tokens * (8 * model.width + 4 * task.vocabulary))
    parameters = COPIES * model.parameters(task.vocabulary)
    return 4 * int(parameters + data + max(experiment.batch_size * activations, measured))
