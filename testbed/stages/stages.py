"""The stages before policy optimisation: world, SFT, labelled data, proxy, opponent.

Each stage is a pure function of parts of the config, including the stage's seed, and of the results of earlier stages;
the functions are in ``testbed.stages``. The address of a result depends on all these inputs, so each result is computed
once and then read from the cache (`testbed.cache`); `sweeps.population.host` runs the stages for many seeds at once.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from testbed import config, numerics
from testbed.config import user_code
from testbed.data.spec import refuse_unreached
from testbed.errors import InvalidInput
from testbed.policies import shared_weights
from testbed.stages.baseline import train_baseline
from testbed.stages.code import Code, classes_in, installed
from testbed.stages.data import gather, make_data, own_data, rescore
from testbed.stages.golden import standardise
from testbed.stages.optimum import find_optimum
from testbed.stages.proxy import train_proxy
from testbed.stages.recorded import cut_windows, prepare, record
from testbed.stages.sft import fine_tune
from testbed.stages.start import start_policy
from testbed.stages.world import draw_world, load_material, write_texts
from testbed.stages.world_config import WorldArtifacts, WorldConfig


class Stage(NamedTuple):
    """A stage in the preparation of a run.

    Attributes:
        name: of the stage, and of its result.
        function: computes the result, from the values of ``fields`` and then the results of the stages in ``after``. It
            has no other input, so that the stage's address covers everything that the result depends on.
        fields: paths in `WorldConfig`. after: names of earlier stages.
        only_with: a field of `WorldConfig`; if it is None, the stage is not needed, and its result is None.
        address: paths in `WorldConfig` that the address names instead of ``fields``, if they determine the result too
            and are equal for more configs.
        host: the function runs on the host, not as a compiled program.
        exact: the result is compared with runs bit for bit, so only processes that round in the same way share it.
    """

    name: str
    function: Callable[..., PyTree]
    fields: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    only_with: str | None = None
    address: tuple[str, ...] | None = None
    host: bool = False
    exact: bool = False

    def needed(self, world_config: WorldConfig) -> bool:
        """Whether the stage has to run for this config."""
        return self.only_with is None or getattr(world_config, self.only_with) is not None

    def make(self, world_config: WorldConfig, made: Mapping[str, PyTree]) -> PyTree:
        """The result, from a config and the results of earlier stages by name."""
        return self.function(*self.parts(world_config), *(made[name] for name in self.after))

    def own(self, world_config: WorldConfig) -> WorldConfig:
        """The config without everything that the stage does not read: configs with an equal structure of this part
        share the stage's program."""
        return world_config.only(_named(self.fields))

    def parts(self, world_config: WorldConfig) -> list[Any]:
        """The parts of a config that the function is given."""
        return _parts(world_config, self.fields)


#: Every stage, after the stages that it needs. Two stages with the same function share their results if their inputs
#: are equal.
STAGES = (
    Stage("material", load_material, ("task", "content"), (), "content", host=True),
    Stage("world", draw_world, ("task", "golden_seed", "writers_seed"), ("material",)),
    Stage("texts", write_texts, ("data.counts", "seed"), ("world",)),
    Stage("sft", fine_tune, ("task", "model", "sft", "seed"), ("material", "texts")),
    Stage("start", start_policy, ("task", "tabular", "lora", "seed"), ("sft",)),
    Stage("base", fine_tune, ("task", "base_model", "sft", "seed"), ("material", "texts")),
    Stage("golden", standardise, ("task", "seed"), ("world", "base")),
    Stage("pool", gather, ("task", "data.pool", "seed"), ("golden", "base", "texts"), "pool"),
    Stage(
        "data",
        make_data,
        ("task", "labeler", "data", "seed", "label_seed"),
        ("golden", "base", "texts", "pool"),
    ),
    Stage("scores", rescore, (), ("sft", "data"), "baseline_model"),
    Stage(
        "proxy",
        train_proxy,
        ("proxy", "model", "data.held_out", "seed"),
        ("base", "data"),
        address=("trained_proxy", "data.held_out", "seed"),
    ),
    Stage(
        "baseline",
        train_baseline,
        ("task", "baseline", "prompts", "opponent_answers", "seed"),
        ("golden", "base", "texts"),
    ),
    Stage(
        "optimum",
        find_optimum,
        ("task", "labeler", "optimum_beta"),
        ("golden", "start", "data"),
        "optimum_beta",
    ),
    Stage(
        "recorded",
        record,
        ("recorded", "training_seed"),
        ("golden", "start", "scores", "data", "proxy"),
        "recorded",
        exact=True,
    ),
    Stage(
        "stream",
        cut_windows,
        (),
        ("start", "scores", "data", "proxy", "recorded"),
        "stream",
        exact=True,
    ),
    Stage(
        "prepared",
        prepare,
        ("source", "labeler", "training_seed"),
        ("golden", "start", "scores", "data", "proxy", "recorded"),
        "source",
        exact=True,
    ),
)


#: Fields of `WorldConfig` behind its properties.
_BEHIND = {"base_model": ("model", "baseline_model"), "content": ("task",)}


def _named(paths: Iterable[str]) -> frozenset[str]:
    """The fields of `WorldConfig` that are read at some paths."""
    first = (path.partition(".")[0] for path in paths)
    return frozenset(name for part in first for name in _BEHIND.get(part, (part,)))


@cache
def reached(name: str) -> frozenset[str]:
    """The fields of `WorldConfig` on which a stage's result depends, through earlier stages too."""
    (stage,) = (stage for stage in STAGES if stage.name == name)
    own = _named((*stage.fields, *filter(None, [stage.only_with])))
    return own.union(*map(reached, stage.after))


def check(world_config: WorldConfig, name: str, result: PyTree) -> None:
    """Refuse a stage's result that cannot be used: raises `InvalidInput` if the data are not what was asked for."""
    if name != "data":
        return
    facts = {key: float(value) for key, value in result.facts.items()}
    where = f"on {type(world_config.task).__name__} with seed {int(world_config.seed)}"
    if facts["labelled"] == 0.0:
        raise InvalidInput(f"labeler {config.spell(world_config.labeler)} skips every pair {where}")
    if facts["same_text"] == 1.0:
        raise InvalidInput(
            f"data leave one response a prompt {where}, and a pair needs two: widen "
            "data.support, data.temperature or data.quality"
        )
    if world_config.data.dialled:
        refuse_unreached(
            world_config.data, facts["reached_quality"], facts["reached_coverage"], where
        )


def assemble(made: Mapping[str, PyTree]) -> WorldArtifacts:
    """The `WorldArtifacts` from the results of the stages."""
    start, golden, data, proxy, baseline = (
        made[name] for name in ("start", "golden", "data", "proxy", "baseline")
    )
    prepared, stream, optimum = (made[name] for name in ("prepared", "stream", "optimum"))
    facts = made["sft"].facts | golden.facts | data.facts
    facts |= {"parameters": np.asarray(float(shared_weights.size(start)))}
    for result in (proxy, baseline, prepared, stream, optimum):
        facts |= result.facts if result else {}
    return WorldArtifacts(
        golden.world,
        start,
        own_data(made["scores"], data),
        proxy.proxy,
        baseline.opponent,
        facts,
        prepared.prepared if prepared else None,
        stream.windows if stream else None,
        optimum.optimum if optimum else None,
    )


def fingerprints(world_config: WorldConfig, code: Code | None = None) -> dict[str, str]:
    """The address of each stage's result. It covers the earlier stages, and everything else that the result depends on:
    the stage's part of the config, files that the config names, the code that the stage can reach, libraries and
    settings (`testbed.numerics`). ``code`` is that of this process by default."""
    addresses: dict[str, str] = {}
    code, settings, bits = code or installed(), _settings(), numerics.bits()
    fields = dict.fromkeys(field for stage in STAGES for field in stage.fields)
    values = {field: attrgetter(field)(world_config) for field in fields}
    classes = {field: classes_in(value) for field, value in values.items()}
    for stage in STAGES:
        before = [addresses[name] for name in stage.after]
        parts = [values[field] for field in stage.fields]
        told = user_code.sources(parts)
        held = frozenset().union(*(classes[field] for field in stage.fields))
        reached = code.hash_of([stage.function.__module__], held, told)
        beside = [reached, settings, *told, *([bits] if stage.exact else ())]
        named = parts if stage.address is None else _parts(world_config, stage.address)
        address = config.fingerprint(stage.function.__name__, *beside, *before, *named)
        addresses[stage.name] = address
    return addresses


def identity(world_config: WorldConfig, code: Code | None = None) -> str:
    """A hash of everything that the bits of a run's results depend on, except the run's own training and measuring."""
    return config.fingerprint(
        _settings(), numerics.bits(), *fingerprints(world_config, code).values()
    )


def _parts(world_config: WorldConfig, paths: tuple[str, ...]) -> list[Any]:
    return [attrgetter(path)(world_config) for path in paths]


def _settings() -> str:
    """A hash of libraries and settings, on which every stage depends beside config and code."""
    return _settings_under(numerics.snapshot())


@cache
def _settings_under(snapshot: tuple[Any, ...]) -> str:
    """`_settings` at the time of ``snapshot``: computed once for all worlds."""
    return config.fingerprint(numerics.settings())
