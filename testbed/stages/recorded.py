"""The recorded online run, and what source and evaluation make of it."""

from typing import NamedTuple

import jax
from jaxtyping import Array, PyTree

from testbed.logprob import Policy
from testbed.metrics import numbered
from testbed.preference import AbstractLabeler, GoldenPreference
from testbed.recorded_runs.pair_stream import Windows
from testbed.recorded_runs.recorded_run import Given, Made, Recorded
from testbed.source import AbstractSource, Dataset, Supply
from testbed.stages import online_run
from testbed.stages.data import Labelled, own_data
from testbed.stages.golden import Standardised
from testbed.stages.proxy import TrainedProxy
from testbed.stages.world import Seed
from testbed.streams import Stream, stream


class CutWindows(NamedTuple):
    """Windows of a recorded stream of pairs, and what was measured of them."""

    windows: Windows
    facts: dict[str, Array]


class Prepared(NamedTuple):
    """What a source draws on, and what was measured of it."""

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
    """The online run that source or evaluation draw on: the very one of an experiment with the same plan."""
    judge = GoldenPreference(golden.world)
    teacher = judge if recorded.teacher == "golden" else proxy.proxy
    supply = Supply(own_data(scores, data), start, teacher)
    return online_run.make(recorded, supply, judge, stream(jax.random.key(seed), Stream.TRAINING))


def cut_windows(
    start: Policy, scores: Dataset | None, data: Labelled, proxy: TrainedProxy, recorded: Made
) -> CutWindows:
    """Windows of the recorded stream. Measured: how often the proxy agrees with the golden reward in each."""
    assert recorded.recording is not None
    windows = recorded.recording.windows(Supply(own_data(scores, data), start, proxy.proxy))
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
    """What the source needs made of a recorded run."""
    supply = Supply(own_data(scores, data), start, proxy.proxy)
    key = stream(jax.random.key(seed), Stream.TRAINING)
    given = Given(supply, recorded, golden.world, labeler, key)
    prepared, facts = source.prepare(given)
    return Prepared(prepared, facts | {"recorded_diverged_step": recorded.diverged_step})
