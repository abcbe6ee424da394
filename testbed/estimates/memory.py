"""What a run holds in memory, counted from its config in bytes.

Of a program that reads many texts at once, most memory goes to what few of its steps have between them: activations
kept for a backward pass, hidden units, attention scores, logits. These are counted, and come within a fifth of the
compiler's own figure for the workloads of `tests/testbed/test_estimated_memory.py`. The golden reward is not counted:
it is taken of `testbed.batches.CHUNK` texts at a time, which is less than the rest unless its networks have large
vocabularies or evaluations are small. After a run forecast and truth are shown.
"""

from typing import NamedTuple

from testbed.batches import portion
from testbed.config.ranges import Number
from testbed.estimates import flops
from testbed.experiment import Experiment
from testbed.recorded_runs.pair_stream import WINDOW, WINDOWS
from testbed.transformer_config import TransformerConfig

#: Bytes of a number.
WORD = 4
#: Copies of the parameters a run holds: policy, two moments, gradient, the update in flight.
COPIES = 5
#: Floats per token and width that a block keeps for its backward pass, roughly.
ACTIVATIONS = 24
#: Arrays of the width of the residual stream and of the hidden layer that a block has at a time, of attention scores,
#: and of logits: in learning, in a comparison of two policies, and to a sum of log-probabilities.
STREAMS, HIDDEN, SCORES = 4, 3, 2
LEARNT, COMPARED, SCORED = 4, 5, 2


class Footprint(NamedTuple):
    """Bytes: of what runs in one world share, of what each run keeps, and of what it needs while it computes."""

    world: int
    run: int
    work: int


def footprint(experiment: Experiment) -> Footprint:
    """What one run holds, roughly: data and networks of its world; its policy with gradient and moments; and what an
    update or an evaluation works with, whichever is more."""
    task, model = experiment.task, experiment.shape
    parameters = model.parameters(task.vocabulary)
    changed, copied = parameters, 0
    if experiment.lora is not None:
        changed = experiment.lora.parameters(model)
        parameters += changed
        # Sampling merges, for each run that samples, what has adapters.
        copied = flops.merged(model, experiment.lora)
    shared = parameters + flops.reading(experiment).parameters + flops.listed(experiment)
    work = max(_update(experiment), *_evaluation(experiment)) + copied
    return Footprint(
        WORD * int(_data(experiment) + shared), WORD * COPIES * changed, WORD * int(work)
    )


def _data(experiment: Experiment) -> Number:
    """Pairs that runs learn from or are measured on."""
    tokens = _tokens(experiment)
    data = experiment.data.pairs * (tokens + 8)
    if experiment.source.recorded_run is not None:
        run = experiment.source.recorded_run.run
        data += run.steps * run.batch_size * (tokens / 4 + 8)
    if experiment.evaluation.stream is not None:
        data += WINDOWS * WINDOW * (tokens + 8)
    return data


def _update(experiment: Experiment) -> Number:
    """A batch forward and back: what blocks keep, and the logits of its responses."""
    model = experiment.shape
    kept = ACTIVATIONS + model.layers if model.checkpointing else model.layers * ACTIVATIONS
    each = _tokens(experiment) * kept * model.width + LEARNT * _logits(experiment)
    return experiment.batch_size * each


def _evaluation(experiment: Experiment) -> tuple[Number, ...]:
    """The parts of an evaluation, which keeps nothing for a backward pass: the proxy's comparisons, sampled answers,
    those whose KL is summed, the pairs that are classified, and all responses where they are listed."""
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
    """A pass over both responses of as many of ``count`` pairs as are taken at once."""
    logits = _logits(experiment)
    taken = portion(count, WORD * logits)
    return taken * (_pass(experiment.shape, _tokens(experiment)) + copies * logits)


def _tokens(experiment: Experiment) -> int:
    """Of a pair, which is run with one prompt."""
    return experiment.task.prompt_length + 2 * experiment.task.response_length


def _logits(experiment: Experiment) -> int:
    """Of both responses of a pair, one copy."""
    return 2 * experiment.task.response_length * experiment.task.vocabulary


def _pass(model: TransformerConfig, tokens: int) -> int:
    """A pass over one text without a way back: its states, and the wider of hidden layer and attention."""
    scores = SCORES * model.heads * tokens
    return tokens * (STREAMS * model.width + max(HIDDEN * model.hidden, scores))
