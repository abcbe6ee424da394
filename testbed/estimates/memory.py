"""Memory of a run in bytes, estimated from its config.

A program that processes many texts at once needs most memory for intermediate results of a few of its steps:
activations kept for a backward pass, hidden units, attention scores, logits. The estimate counts these, and is within a
fifth of the compiler's own figure for the workloads of `tests/testbed/test_estimated_memory.py`. It leaves out the
golden reward, which processes `testbed.batches.CHUNK` texts at a time and needs less than the rest unless its networks
have large vocabularies or evaluations are small. After a run, estimate and measurement are shown.
"""

from typing import NamedTuple

from testbed.batches import portion
from testbed.config.ranges import Number
from testbed.estimates import flops
from testbed.experiment import Experiment
from testbed.recorded_runs.pair_stream import WINDOW, WINDOWS
from testbed.transformer_config import TransformerConfig

#: Bytes of one number.
WORD = 4
#: Copies of the parameters that a run holds: policy, two moments, gradient, and the update in progress.
COPIES = 5
#: Floats per token and width that a block keeps for its backward pass, roughly.
ACTIVATIONS = 24
#: Number of arrays that exist at the same time in a block: of the residual stream's width, of the hidden layer's width,
#: and of attention scores. Then copies of the logits: in learning, in a comparison of two policies, and in a sum of
#: log-probabilities.
STREAMS, HIDDEN, SCORES = 4, 3, 2
LEARNT, COMPARED, SCORED = 4, 5, 2


class Footprint(NamedTuple):
    """Bytes: shared by all runs in one world, kept by each run, and needed by a run only while it computes."""

    world: int
    run: int
    work: int


def footprint(experiment: Experiment) -> Footprint:
    """The approximate memory of one run: data and networks of its world; its policy with gradient and moments; and the
    larger of the memory that an update and an evaluation need."""
    task, model = experiment.task, experiment.shape
    parameters = model.parameters(task.vocabulary)
    changed, copied = parameters, 0
    if experiment.lora is not None:
        changed = experiment.lora.parameters(model)
        parameters += changed
        # Each run that samples merges the weights that have adapters.
        copied = flops.merged(model, experiment.lora)
    shared = parameters + flops.reading(experiment).parameters + flops.listed(experiment)
    work = max(_update(experiment), *_evaluation(experiment)) + copied
    return Footprint(
        WORD * int(_data(experiment) + shared), WORD * COPIES * changed, WORD * int(work)
    )


def _data(experiment: Experiment) -> Number:
    """Memory of the pairs that runs learn from or are measured on."""
    tokens = _tokens(experiment)
    data = experiment.data.pairs * (tokens + 8)
    evaluation = experiment.evaluation
    data += evaluation.prompts * evaluation.opponent_answers * experiment.task.response_length
    if experiment.source.recorded_run is not None:
        run = experiment.source.recorded_run.run
        data += run.steps * run.batch_size * (tokens / 4 + 8)
    if experiment.evaluation.stream is not None:
        data += WINDOWS * WINDOW * (tokens + 8)
    return data


def _update(experiment: Experiment) -> Number:
    """Memory of a forward and backward pass over a batch: the blocks' activations, and the logits of the responses."""
    model = experiment.shape
    kept = ACTIVATIONS + model.layers if model.checkpointing else model.layers * ACTIVATIONS
    each = _tokens(experiment) * kept * model.width + LEARNT * _logits(experiment)
    return experiment.batch_size * each


def _evaluation(experiment: Experiment) -> tuple[Number, ...]:
    """Memory of the parts of an evaluation, which keeps nothing for a backward pass: the proxy's comparisons, sampled
    answers, responses whose KL is summed, classified pairs, and all responses where they can be listed."""
    task, model, evaluation = experiment.task, experiment.shape, experiment.evaluation
    read = flops.reading(experiment)
    sampled = evaluation.prompts + evaluation.kl_prompts
    cache = 2 * model.layers * model.key_width * (task.prompt_length + task.response_length)
    return (
        2 * evaluation.prompts * _pass(read.shape, read.tokens),
        sampled * (cache + _pass(model, task.prompt_length) + COMPARED * task.vocabulary),
        _at_once(experiment, evaluation.kl_prompts, COMPARED),
        _at_once(experiment, flops.classified(experiment), SCORED),
        2 * flops.listed(experiment),
    )


def _at_once(experiment: Experiment, count: int, copies: int) -> Number:
    """Memory of a forward pass over both responses of the pairs that are processed at once, out of ``count`` pairs."""
    logits = _logits(experiment)
    taken = portion(count, WORD * logits)
    return taken * (_pass(experiment.shape, _tokens(experiment)) + copies * logits)


def _tokens(experiment: Experiment) -> int:
    """Number of tokens of a pair, whose prompt is run once."""
    return experiment.task.prompt_length + 2 * experiment.task.response_length


def _logits(experiment: Experiment) -> int:
    """Size of one copy of the logits of both responses of a pair."""
    return 2 * experiment.task.response_length * experiment.task.vocabulary


def _pass(model: TransformerConfig, tokens: int) -> int:
    """Memory of a forward pass over one text without a backward pass: its states, and the larger of hidden layer and
    attention."""
    scores = SCORES * model.heads * tokens
    return tokens * (STREAMS * model.width + max(HIDDEN * model.hidden, scores))
