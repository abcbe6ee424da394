"""The proxy of the golden preference."""

from typing import NamedTuple

import jax
from jaxtyping import Array

from testbed.evaluation_set import agreement
from testbed.preference import AbstractPreference
from testbed.proxies.base import AbstractProxyConfig
from testbed.stages.data import Labelled
from testbed.stages.sft import FineTuned
from testbed.stages.world import Seed
from testbed.streams import Stream, stream
from testbed.transformer_config import TransformerConfig


class TrainedProxy(NamedTuple):
    """A proxy, and facts measured of it."""

    proxy: AbstractPreference
    facts: dict[str, Array]


def train_proxy(
    config: AbstractProxyConfig,
    model: TransformerConfig,
    held_out: int,
    seed: Seed,
    base: FineTuned,
    data: Labelled,
) -> TrainedProxy:
    """The proxy, trained on D_golden and tested against the golden reward on held-out pairs."""
    key = stream(jax.random.key(seed), Stream.PROXY)
    proxy = config.train(key, model, base.policy, data.data.pairs)
    facts = {}
    for name, part in (("proxy_accuracy", data.test), ("proxy_train_accuracy", data.data)):
        part = jax.tree.map(lambda x: x[:held_out], part)
        margin = proxy.margin(part.pairs.prompt, part.pairs.winner, part.pairs.loser)
        facts[name] = agreement(margin, part.golden_margin)
    return TrainedProxy(proxy, facts)
