"""The recorded online run, and the data that source and evaluation prepare from it."""

from typing import NamedTuple

import jax
from jaxtyping import Array, PyTree

from testbed.evaluation_set import numbered
from testbed.logprob import Policy
from testbed.preference import AbstractLabeler, GoldenPreference
from testbed.recorded_runs.pair_stream import Windows
from testbed.recorded_runs.recorded_run import Given, Made, Recorded
from testbed.source import AbstractSource, Dataset, TrainingInputs
from testbed.stages import online_run
from testbed.stages.data import Labelled, own_data
from testbed.stages.golden import Standardised
from testbed.stages.proxy import TrainedProxy
from testbed.stages.world import Seed
from testbed.streams import Stream, stream


class CutWindows(NamedTuple):
    """Windows of a recorded stream of pairs, and facts measured of them."""

    windows: Windows
    facts: dict[str, Array]


class Prepared(NamedTuple):
    """The prepared data of a source, and facts measured of them."""

    prepared: PyTree
    facts: dict[str, Array]


def record(
    recorded: Recorded,
    seed: Seed,
    golden: Standardised,
    start: Policy,
    scores: Dataset | None,
    data: Labelled,
    proxy: TrainedProxy,
) -> Made:
    """The online run that source or evaluation use: exactly the run of an experiment with the same plan."""
    judge = GoldenPreference(golden.world)
    teacher = judge if recorded.teacher == "golden" else proxy.proxy
    inputs = TrainingInputs(own_data(scores, data), start, teacher)
    return online_run.make(recorded, inputs, judge, stream(jax.random.key(seed), Stream.TRAINING))


def cut_windows(
    start: Policy, scores: Dataset | None, data: Labelled, proxy: TrainedProxy, recorded: Made
) -> CutWindows:
    """Windows of the recorded stream. Measured: how often the proxy agrees with the golden reward in each."""
    assert recorded.recording is not None
    windows = recorded.recording.windows(TrainingInputs(own_data(scores, data), start, proxy.proxy))
    pairs = windows.pairs
    margin = proxy.proxy.margin(pairs.prompt, pairs.winner, pairs.loser)
    return CutWindows(windows, numbered("proxy_stream_accuracy", windows.accuracy(margin)))


def prepare(
    source: AbstractSource,
    labeler: AbstractLabeler,
    seed: Seed,
    golden: Standardised,
    start: Policy,
    scores: Dataset | None,
    data: Labelled,
    proxy: TrainedProxy,
    recorded: Made,
) -> Prepared:
    """The data that the source prepares from a recorded run."""
    inputs = TrainingInputs(own_data(scores, data), start, proxy.proxy)
    key = stream(jax.random.key(seed), Stream.TRAINING)
    given = Given(inputs, recorded, golden.world, labeler, key)
    prepared, facts = source.prepare(given)
    return Prepared(prepared, facts | {"recorded_diverged_step": recorded.diverged_step})
