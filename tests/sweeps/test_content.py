"""What addresses of stages and names of runs carry beside configs: files, users' own code, settings, processor."""

import contextlib
import dataclasses
import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import tiny
from helpers import experiment, read_anew
from small_study import BASE, TINY

from envs.enumerable import Enumerable
from envs.goldens.random_head import RandomTaste
from envs.text import Text
from sweeps.grid import Axis
from sweeps.population import plan
from sweeps.store import metadata, provenance
from sweeps.store.store import Store
from sweeps.study import Arm, Preset, Study, load_study
from testbed import config, numerics
from testbed.config import code_files, user_code
from testbed.config.canonical_form import alternatives, field_names, read, type_hints
from testbed.data.spec import DataSpec
from testbed.errors import InvalidInput
from testbed.experiment import Experiment
from testbed.lora import Lora
from testbed.losses.ipo import Ipo
from testbed.optimiser import FitConfig
from testbed.policies import pretrained
from testbed.proxies.base import AbstractProxyConfig
from testbed.proxies.linear_head import HeadConfig
from testbed.recorded_runs.recorded_run import Recorded
from testbed.sources.generated import Generated
from testbed.sources.online import Online
from testbed.stages import code, stages
from testbed.stages.stages import STAGES, fingerprints
from testbed.stages.world_config import WorldConfig
from testbed.train import OnlineRun
from testbed.transformer_config import SIZES, TransformerConfig

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "llama"
EXACT = {"recorded", "stream", "prepared"}
NAMES = {stage.name for stage in STAGES}
FIT = FitConfig(steps=5, batch_size=8)
RECORDED = Recorded(OnlineRun(steps=6, batch_size=8))


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


# Users' own code.

PACKAGE = {
    "lib/__init__.py": "",
    "lib/rewards.py": "def bonus(response):\n    return (response.tokens == 4).sum() * 1.0\n",
    "lib/deep/__init__.py": "",
    "lib/deep/late.py": "from ..other import FACTOR\n",
    "lib/other.py": "FACTOR = 1.0\n",
    "lib/unused.py": "UNUSED = 1\n",
    "plugins/by_name.py": "PLUGIN = 1\n",
    "study.py": BASE
    + """
import importlib
from lib.rewards import bonus
from testbed.environment import AbstractGolden, World
from testbed.config import replace_all

class Bonus(AbstractGolden):
    def __call__(self, prompt, response):
        from lib.deep import late
        return late.FACTOR * bonus(response)

class Own(Neural):
    def world(self, key):
        plugin = importlib.import_module("plugins.by_name")
        drawn = super().world(key)
        return World(drawn.prompts, drawn.writers, Bonus())

base = replace_all(base, {"task": Own(vocabulary=7, prompt_length=4, response_length=5)})
study = Study(
    "own", "Own golden in a package", "?", base,
    (Arm("near", {"loss.beta": 1.0}),), Axis("optimiser.learning_rate", (1e-3,)), (), {"all": Preset(seeds=2)}, "all",
)
""",
}


def package(folder: Path, prefix: str, files: dict[str, str] | None = None) -> Path:
    """`PACKAGE` in a folder, its modules under names of their own, so that tests do not meet in one process."""
    for name, text in (files or PACKAGE).items():
        for word in ("lib", "plugins"):
            name = name.replace(f"{word}/", f"{prefix}_{word}/")
            text = re.sub(rf"\b{word}\.", f"{prefix}_{word}.", text)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "study.py"


@pytest.mark.parametrize(
    ("edited", "counts"),
    [
        ("study.py", True),
        ("one_lib/rewards.py", True),
        ("one_lib/__init__.py", True),
        ("one_lib/deep/__init__.py", True),
        ("one_lib/deep/late.py", True),  # imported inside a method
        ("one_lib/other.py", True),  # imported by that, relatively
        ("one_plugins/by_name.py", True),  # imported by its name as a text, inside a method
        ("one_lib/unused.py", False),
    ],
)
def test_code_in_packages_and_imported_inside_methods_counts(
    tmp_path: Path, edited: str, counts: bool
) -> None:
    study = load_study(str(package(tmp_path, "one")))
    world_config = WorldConfig.of(study.base)
    read_anew()
    before, runs = fingerprints(world_config), {point.run for point in study.points()}
    (tmp_path / edited).write_text((tmp_path / edited).read_text(encoding="utf-8") + "\nx = 1\n")
    read_anew()
    assert moved(before, fingerprints(world_config)) == (NAMES if counts else set())
    again = {point.run for point in study.points()}
    assert runs.isdisjoint(again) if counts else runs == again


def test_code_loaded_by_a_name_that_only_its_run_gives_counts(tmp_path: Path) -> None:
    """``importlib.import_module(name)``: then everything that is loaded from below the folder counts."""
    files = {
        "lib/__init__.py": "",
        "lib/chosen.py": "CHOSEN = 1\n",
        "study.py": TINY
        + """
import importlib
chosen = importlib.import_module(".".join(["lib", "chosen"]).replace("lib", "two_lib"))
class Mine(type(base.loss)):
    pass
loss = Mine()
""",
    }
    file = package(tmp_path, "two", files)
    study = load_study(str(file))
    (module,) = (m for m in list(sys.modules.values()) if getattr(m, "study", None) is study)
    found = set(user_code.files([module.loss]))  # type: ignore[attr-defined]
    # Other tests of this process may have loaded files from elsewhere, such as the examples.
    assert {name for name in found if (tmp_path / name).exists()} == {
        "study.py",
        "two_lib/__init__.py",
        "two_lib/chosen.py",
    }


def test_equal_files_in_another_folder_are_the_same_code(tmp_path: Path) -> None:
    found = []
    for folder in ("here", "there"):
        file = package(tmp_path / folder, "three")
        study = load_study(str(file))
        found.append((fingerprints(WorldConfig.of(study.base)), [p.run for p in study.points()]))
        assert type(study.base.task).__module__.startswith(code_files.STUDY)
        for name in [name for name in sys.modules if name.startswith("three_")]:
            del sys.modules[name]
        sys.path.remove(str(tmp_path / folder))
    assert found[0] == found[1]


def test_a_folder_that_would_stand_for_another_is_refused(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        file = package(tmp_path / folder, "four")
        if folder == "here":
            load_study(str(file))
    with pytest.raises(InvalidInput, match=r"four_lib, which is .*here.four_lib.*another name"):
        load_study(str(file))


class Weighted(Ipo):
    """A loss of others' that reads a file which its field names."""

    file: str = eqx.field(static=True, default="")


class Told(Ipo):
    """A loss of others' that says itself what it depends on."""

    said: str = eqx.field(static=True, default="")

    def content(self) -> str:
        """Not the field, but something that it leads to."""
        return Path(self.said).read_text(encoding="utf-8")


def test_files_that_fields_name_count(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    for kind, field in ((Weighted, "file"), (Told, "said")):
        path.write_text("one", encoding="utf-8")
        loss = kind(**{field: str(path)})
        first = user_code.sources([experiment(loss=loss)])
        path.write_text("two", encoding="utf-8")
        second = user_code.sources([experiment(loss=loss)])
        assert first != second
        path.write_text("one", encoding="utf-8")
        assert user_code.sources([experiment(loss=loss)]) == first
    assert user_code.sources([experiment(loss=Weighted(file="no such\0file"))])


ALIKE = {
    "__init__.py": "from .square import Loss as Square\nfrom .fourth import Loss as Fourth\n",
    "common.py": """
from testbed.losses.base import AbstractLoss
class Base(AbstractLoss):
    beta: float = 0.1
""",
    "square.py": """
from .common import Base
class Loss(Base):
    def __call__(self, pair):
        return pair.margin() ** 2
""",
    "fourth.py": """
from .common import Base
class Loss(Base):
    def __call__(self, pair):
        return pair.margin() ** 4
""",
}
LOSSES = (
    TINY
    + """
from five_parts import Fourth, Square
from testbed.config import replace_all
from testbed.losses.ipo import Ipo
def make(power):
    class Mine(Ipo):
        def __call__(self, pair):
            return pair.margin() ** power
    return Mine()
def runs(*losses):
    return [replace_all(base, {"loss": loss}) for loss in losses]
by_file, by_closure = runs(Square(), Fourth()), runs(make(2), make(4))
"""
)


def test_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """In two files that import the same others, and made by a function that was given another number."""
    (tmp_path / "five_parts").mkdir()
    for name, text in ALIKE.items():
        (tmp_path / "five_parts" / name).write_text(text, encoding="utf-8")
    (tmp_path / "study.py").write_text(LOSSES, encoding="utf-8")
    study = load_study(str(tmp_path / "study.py"))
    (module,) = (m for m in list(sys.modules.values()) if getattr(m, "study", None) is study)
    by_file, by_closure = vars(module)["by_file"], vars(module)["by_closure"]
    for first, second in (by_file, by_closure):
        assert config.fingerprint(first) == config.fingerprint(second)
        assert user_code.sources([first]) != user_code.sources([second])
        assert user_code.sources([first]) == user_code.sources([first])
    before = user_code.sources([by_file[0]])
    common = tmp_path / "five_parts" / "common.py"
    common.write_text(common.read_text(encoding="utf-8") + "x = 1\n", encoding="utf-8")
    assert user_code.sources([by_file[0]]) == before
    importlib.reload(sys.modules["five_parts.common"])
    assert user_code.sources([by_file[0]]) != before


class Two(Ipo):
    """A loss of others' with two files, and a number that its constructor does not take."""

    first: str = eqx.field(static=True, default="")
    rest: tuple[str, ...] = eqx.field(static=True, default=())
    power: int = eqx.field(static=True, init=False, default=2)


def test_files_are_told_apart_by_the_fields_that_name_them(tmp_path: Path) -> None:
    one, two = tmp_path / "a" / "p.txt", tmp_path / "b" / "p.txt"
    for path in (one, two):
        path.parent.mkdir()
        path.write_text(path.parent.name, encoding="utf-8")
    run = experiment(loss=Two(first=str(one), rest=(str(two),)))
    before, files = user_code.sources([run]), user_code.files([run])
    assert {str(one), str(two)} <= files.keys()
    for path, text in ((one, "b"), (two, "a")):
        path.write_text(text, encoding="utf-8")
    assert user_code.sources([run]) != before
    odd = Two()
    object.__setattr__(odd, "power", 4)
    assert user_code.sources([experiment(loss=odd)]) != user_code.sources([experiment(loss=Two())])


# A user's own proxy.


class Stretch(AbstractProxyConfig):
    """Only its fields are looked at here."""

    fit: FitConfig = FIT
    stretch: float = 1.0
    kept: int = eqx.field(static=True, default=3)

    def train(self, key, model, sft, pairs):
        raise NotImplementedError

    def reading(self, model, task, pairs):
        raise NotImplementedError


@pytest.mark.parametrize(
    "change", [{"proxy__stretch": -1.0}, {"proxy__kept": 4}, {"model__width": 32}], ids=str
)
def test_everything_that_a_proxy_of_ones_own_is_told_counts(change: dict[str, Any]) -> None:
    before, after = (
        fingerprints(WorldConfig.of(experiment(proxy=Stretch(), **more))) for more in ({}, change)
    )
    assert "proxy" in moved(before, after)


def test_policies_of_all_sizes_share_a_proxy_with_a_shape_of_its_own() -> None:
    def address(**changes: Any) -> str:
        return fingerprints(WorldConfig.of(experiment(baseline_model=SIZES["XS"], **changes)))[
            "proxy"
        ]

    small, large = SIZES["XS"], SIZES["S"]
    own = {"proxy__model": small, "proxy__fit": FIT}
    assert address(model=small, **own) == address(model=large, **own)
    assert address(model=large) != address(model=small)
    heads = {address(model=size, proxy=HeadConfig(layers=1, fit=FIT)) for size in (small, large)}
    assert len(heads) == 1


# Checkpoints and prompts.


@pytest.fixture
def text(tmp_path: Path) -> Text:
    """A world on a copy of a checkpoint with a chat template, whose files a test may change."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    edit(folder / "tokenizer_config.json", chat_template="{{ messages[-1].content }}")
    (folder / "generation_config.json").write_text("{}", encoding="utf-8")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt":"the cat"}\n' * 8, encoding="utf-8")
    return Text(
        checkpoint=str(folder),
        vocabulary=272,
        prompts=str(prompts),
        chat=True,
        prompt_length=60,
        response_length=4,
        golden=RandomTaste(layers=2, units=8),
        system=None,
    )


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields))


def flip(path: Path) -> None:
    """Change the last byte of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


EDITS: dict[str, Callable[[Path], object]] = {
    "chat_template": lambda d: edit(d / "tokenizer_config.json", chat_template="USER: {{ messages[-1].content }}"),
    "chat_template.jinja": lambda d: (d / "chat_template.jinja").write_text("A: {{ messages[-1].content }}"),
    "rope_theta": lambda d: edit(d / "config.json", rope_theta=500000.0),
    "rms_norm_eps": lambda d: edit(d / "config.json", rms_norm_eps=1e-3),
    "generation_config": lambda d: edit(d / "generation_config.json", eos_token_id=[2, 3]),
    "tokenizer": lambda d: (d / "tokenizer.json").write_text((d / "tokenizer.json").read_text() + "\n"),
    "weights": lambda d: flip(d / "model.safetensors"),
    "prompts": lambda d: (d.parent / "prompts.jsonl").write_text('{"prompt":"a dog"}\n' * 8),
}  # fmt: skip


def text_experiment(task: Text) -> Experiment:
    return experiment(
        task=task,
        lora=Lora(rank=2),
        proxy=HeadConfig(layers=2, fit=FIT),
        data=DataSpec(pairs=16, held_out=8, candidates=2),
        baseline__steps=0,
    )


@pytest.mark.parametrize("name", EDITS)
def test_every_file_of_a_text_world_counts(text: Text, name: str) -> None:
    run = text_experiment(text)
    before, names = fingerprints(WorldConfig.of(run)), user_code.sources([run])
    EDITS[name](Path(text.checkpoint))
    assert "material" in moved(before, fingerprints(WorldConfig.of(run)))
    assert user_code.sources([run]) != names


def test_a_checkpoint_that_changes_in_place_is_loaded_again(text: Text) -> None:
    """As `cases/06`: prompts and model are those on the disk now, in the same process."""
    folder = Path(text.checkpoint)
    first = text.material()
    EDITS["chat_template"](folder)
    second = text.material()
    assert first.prompts.length.tolist() != second.prompts.length.tolist()
    assert "USER" in text.text(second.prompts.tokens[0][: int(second.prompts.length[0])].tolist())
    edit(folder / "config.json", rope_theta=500000.0, rms_norm_eps=1e-3)
    shape = text.material().model.model.config
    assert (shape.rope_base, shape.norm_epsilon) == (500000.0, 1e-3)
    assert first.model.model.config.rope_base != 500000.0


def test_a_registered_checkpoint_is_identified_by_what_was_given() -> None:
    tiny.loaded()
    before = pretrained.content(tiny.NAME)
    model = jax.tree.map(jnp.asarray, tiny.original())
    warmer = config.replace(tiny.CONFIG, "temperature", 0.5)
    try:
        pretrained.register(tiny.NAME, dataclasses.replace(model, config=warmer), tiny.Pieces())
        assert pretrained.content(tiny.NAME) != before
    finally:
        pretrained.register(tiny.NAME, model, tiny.Pieces())
    assert pretrained.content(tiny.NAME) == before


# Settings and machines.


def addresses() -> dict[str, str]:
    return fingerprints(WorldConfig.of(experiment(source=Generated(recorded=RECORDED))))


def test_settings_of_jax_that_change_numbers_count() -> None:
    """Of jax's settings, each is either part of the addresses or one that changes no number."""
    before = addresses()
    for name, value in (
        ("jax_threefry_partitionable", False),
        ("jax_default_matmul_precision", "bfloat16"),
        ("jax_softmax_custom_jvp", True),
        ("jax_high_dynamic_range_gumbel", True),
    ):
        old = jax.config.values[name]
        jax.config.update(name, value)
        try:
            assert moved(before, addresses()) == NAMES, name
        finally:
            jax.config.update(name, old)
    old = jax.config.values["jax_log_compiles"]
    jax.config.update("jax_log_compiles", True)
    try:
        assert addresses() == before
    finally:
        jax.config.update("jax_log_compiles", old)
    counted = set(numerics.settings()["jax"])
    assert {"jax_default_prng_impl", "jax_enable_x64", "jax_random_seed_offset"} <= counted


def test_flags_of_xla_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before, flags = addresses(), os.environ["XLA_FLAGS"]
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_cpu_prefer_vector_width=128")
    assert moved(before, addresses()) == NAMES
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_force_host_platform_device_count=7")
    assert addresses() == before


@pytest.mark.parametrize("what", ["processor", "_instructions", "_versions"])
def test_the_processor_counts_for_what_is_compared_bit_for_bit(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name or its instructions; versions of libraries count for all."""
    before = addresses()
    monkeypatch.setattr(numerics, what, lambda: "another")
    assert moved(before, addresses()) == (NAMES if what == "_versions" else EXACT)
    assert stages.identity(WorldConfig.of(experiment())) != ""


def test_the_generator_of_random_numbers_is_pinned() -> None:
    """Whatever variables say, the same numbers are drawn."""
    draw = (
        "from sweeps import runtime; runtime.configure()\n"
        "import jax; print(jax.random.normal(jax.random.key(3), (7,)).tolist())"
    )

    def drawn(**variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", draw],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    expected = drawn()
    for name, value in (
        ("JAX_THREEFRY_PARTITIONABLE", "0"),
        ("JAX_RANDOM_SEED_OFFSET", "5"),
        ("JAX_DEFAULT_PRNG_IMPL", "rbg"),
    ):
        assert drawn(**{name: value}) == expected, name


def test_a_session_says_with_which_settings_it_ran() -> None:
    session = metadata.session({**provenance.session(), "command": "x"})
    assert session["numerics"]["jax"]["jax_threefry_partitionable"] == "True"
    assert any(
        flag.startswith("--xla_cpu_prefer_vector_width")
        for flag in session["numerics"]["xla_flags"]
    )
    assert session["numerics"]["libraries"]["jaxlib"]
    assert session["bits"]["processor"] == session["machine"]["processor"]
    assert session["bits"]["devices"][1] == jax.device_count()


# Every field.


def leaves(module: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Path and value of every number and text in a config."""
    found: list[tuple[str, Any]] = []
    for name in field_names(module):
        value = read(module, name)
        if isinstance(value, eqx.Module):
            found += leaves(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def other(kind: type, name: str, value: Any) -> list[Any]:
    """Values unlike a field's value, of which its annotation admits one."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1]
    if isinstance(value, tuple):
        return [(*value, 1.0), value[:-1]]
    found: list[Any] = [0.5, 1, "other", (0.5,)]
    for option in alternatives(type_hints(kind)[name]):
        found = [*typing.get_args(option), *found]
        if isinstance(option, type) and issubclass(option, eqx.Module):
            with contextlib.suppress(TypeError):  # one that has no defaults
                found.append(option())
    return found


def altered(module: Any, path: str, value: Any) -> Any:
    """The config with another value at a path, which need not make sense; None if its annotation takes none of ours."""
    name, _, rest = path.partition(".")
    if rest:
        inner = altered(read(module, name), rest, value)
        return None if inner is None else config.varied(module, name, inner)
    for candidate in other(type(module), name, value):
        try:
            if candidate != value:
                return config.varied(module, name, candidate)
        except InvalidInput:
            continue
    return None


RICH = experiment(
    source=Generated(recorded=RECORDED),
    evaluation__stream=RECORDED,
    lora=Lora(rank=2),
    data=DataSpec(pairs=24, held_out=16, quality=0.1),
    baseline_model=SIZES["XS"],
)


def test_every_field_changes_the_name_of_a_run() -> None:
    fields = leaves(RICH)
    tried = {path: changed for path, value in fields if (changed := altered(RICH, path, value))}
    untried = {path for path, _ in fields} - tried.keys()
    assert all(path.endswith("rope_scaling") for path in untried), untried
    for path, changed in tried.items():
        assert config.fingerprint(changed) != config.fingerprint(RICH), path


RUNS = {
    "sampled": RICH,
    "enumerated": experiment(
        task=Enumerable(vocabulary=3, prompt_length=2, response_length=2),
        tabular=True,
        evaluation__optimum_beta=0.5,
        source=Online(),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_plans_group_runs_by_what_addresses_name(name: str) -> None:
    """Of every field: the plan puts a run on another ground exactly if one of its stages has another address."""
    run = RUNS[name]
    before, register = fingerprints(WorldConfig.of(run)), plan._Register()
    assert register.world(run) == 0
    apart, together = set(), set()
    for path, changed in variants(run):
        moves = moved(before, fingerprints(WorldConfig(*WorldConfig.parts(changed))))
        (apart if moves else together).add(path)
        assert (register.world(changed) != 0) == bool(moves), path
    free = ("loss.", "optimiser.", "steps", "batch_size", "reference", "teacher", "source.")
    free += ("evaluation.points", "evaluation.first", "evaluation.kl_prompts", "evaluation.pairs")
    free += ("evaluation.by_prompt",)
    free += ("seeds.training", "seeds.families")  # seed 0 is the first of every family
    assert all(path.startswith(free) for path in together), together
    assert {"seed", "evaluation.prompts", "data.quality", "task.vocabulary"} <= apart
    assert {"seeds.golden", "seeds.writers", "seeds.labels"} <= apart
    assert ("seeds.training" in apart) == ("seeds.training_shift" in apart) == (name == "sampled")


def variants(thing: Any) -> Iterator[tuple[str, Any]]:
    """Each field of a config, and the config with another value there."""
    for path, value in leaves(thing):
        # The recorded stream is that of the source's run: no experiment has one without the other.
        changed = None if "stream." in path else altered(thing, path, value)
        if changed is not None:
            with contextlib.suppress(
                InvalidInput
            ):  # a task that its own check refuses has no world
                changed.task.check()
                yield path, changed


def distinct(module: Any) -> Any:
    """A copy of a config in which no two places hold one object."""
    made = object.__new__(type(module))
    for name in field_names(module):
        value = read(module, name)
        value = distinct(value) if isinstance(value, eqx.Module) else value
        object.__setattr__(made, name, value)
    return made


def places(module: Any, prefix: str = "") -> dict[int, str]:
    """Where the modules of a config are."""
    found = {id(module): prefix}
    for name in field_names(module):
        value = read(module, name)
        if isinstance(value, eqx.Module):
            found |= places(value, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("name", RUNS)
def test_addresses_name_what_stages_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every field: addresses of the stages that read it move, and none moves if none reads it."""
    world_config = distinct(WorldConfig.of(RUNS[name]))
    where, looked_at = places(world_config), set()

    def noting(self: Any, attribute: str) -> Any:
        if id(self) in where:
            looked_at.add(where[id(self)] + attribute)
        return object.__getattribute__(self, attribute)

    made: dict[str, Any] = {}
    seen: dict[str, set[str]] = {}
    for stage in STAGES:
        made[stage.name], seen[stage.name] = None, set()
        if stage.needed(world_config):
            parts, given = stage.parts(world_config), [made[name] for name in stage.after]
            looked_at.clear()
            with monkeypatch.context() as patch:
                for kind in code.classes_in(world_config):
                    patch.setattr(kind, "__getattribute__", noting)
                make = functools.partial(stage.function, *parts)
                made[stage.name] = jax.eval_shape(make, *given)
            seen[stage.name] = set(looked_at)
    before = fingerprints(world_config)
    given_by_value = {field for stage in STAGES for field in stage.fields}
    given_by_value |= {"data.pairs", "data.held_out", "data.candidates", "data.coverage_prompts"}
    given_by_value |= {"baseline_model"}
    for path, changed in variants(world_config):
        moves = moved(before, fingerprints(changed))
        readers = {name for name in seen if path in seen[name]}
        assert readers <= moves, path
        if not readers and moves:
            # Given as it is; kept inside of networks; or the run whose stream is prepared.
            above = path.rpartition(".")[0]
            kept = above and isinstance(config.get(world_config, above), TransformerConfig)
            assert path in given_by_value or kept or path.startswith("source.recorded."), path


# Joining results.


def store(
    directory: Path, content: dict[str, dict[str, str]] | None, **more: Any
) -> dict[str, Any]:
    study = Study(
        "s", "S", "?", experiment(), (Arm("near", {"loss.beta": 1.0}),),
        Axis("optimiser.learning_rate", (1e-3,)), (), {"all": Preset(seeds=1)}, "all",
    )  # fmt: skip
    described = {**study.select().describe(), **provenance.session(), **more}
    described.pop("content")
    if content is not None:
        described["content"] = content
    with Store.create_or_open(directory, described) as made:
        return made.header


@pytest.mark.parametrize(
    ("was", "now", "named"),
    [
        ({"near": {"loss.py": "a"}}, {"near": {"loss.py": "b"}}, "loss.py"),
        ({"near": {"loss.py": "a"}}, {"near": {"renamed.py": "a"}}, "loss.py, renamed.py"),
        (None, {"near": {"loss.py": "a"}}, "loss.py"),
        ({}, {"near": {"loss.py": "a"}}, "loss.py"),
        ({"near": {"loss.py": "a"}}, {"near": {"loss.py": "a", "labeler.py": "c"}}, ""),
        ({"near": {"loss.py": "a", "labeler.py": "c"}}, {"near": {"loss.py": "a"}}, ""),
        ({}, {}, ""),
        (None, {}, ""),
    ],
)
def test_runs_of_other_code_are_not_joined(
    tmp_path: Path, was: dict | None, now: dict, named: str
) -> None:
    store(tmp_path / "out", was)
    if named:
        with pytest.raises(InvalidInput, match=rf"arm near .* another content of {named}: choose"):
            store(tmp_path / "out", now)
    else:
        merged = store(tmp_path / "out", now)
        files = {**(was or {}).get("near", {}), **now.get("near", {})}
        assert merged["content"].get("near", {}) == files
