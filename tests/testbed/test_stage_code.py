"""Addresses of stages cover the code that the stages can reach, and no other."""

import contextlib
import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from helpers import experiment

import testbed
from envs.enumerable import Enumerable
from sweeps.population.run_checkpoints import RunCheckpoints
from sweeps.study import Point
from testbed import config, metric_table, metrics, train
from testbed.config import code_files
from testbed.losses.dpo import Dpo
from testbed.losses.ipo import Ipo
from testbed.losses.slic import Slic
from testbed.recorded_runs.recorded_run import Recorded
from testbed.sources.replay import Replay
from testbed.stages import code as stage_code
from testbed.stages import stages
from testbed.stages.code import Code
from testbed.stages.stages import STAGES, fingerprints
from testbed.stages.world_config import WorldConfig
from testbed.train import OnlineRun

ROOT = Path(testbed.__path__[0]).parent
NAMES = {stage.name for stage in STAGES}
RECORDED = {"recorded", "stream", "prepared"}
#: The baseline has the default loss, the recorded run another one.
RUN = experiment(source=Replay(recorded=Recorded(OnlineRun(loss=Dpo(), steps=6, batch_size=8))))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's packages."""
    root = tmp_path_factory.mktemp("packages")
    for name in code_files.OURS:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def place(thing: Any) -> Path:
    """The file of a module or class, below the folder of the packages."""
    name = getattr(thing, "__module__", None) or thing.__name__
    return Path(str(sys.modules[name].__file__)).relative_to(ROOT)


@contextlib.contextmanager
def written(file: Path, text: str) -> Iterator[None]:
    """Another text in a file, for a while."""
    old = file.read_text() if file.exists() else None
    file.write_text(text)
    try:
        yield
    finally:
        file.unlink() if old is None else file.write_text(old)


def moved(whole: Path, file: Path, text: str, run: Any = RUN) -> set[str]:
    """The stages whose address is another with another text of a file."""
    world_config = WorldConfig.of(run)
    before = fingerprints(world_config, Code(whole))
    with written(whole / file, text):
        after = fingerprints(world_config, Code(whole))
    return {name for name in NAMES if before[name] != after[name]}


def edited(whole: Path, thing: Any, run: Any = RUN) -> set[str]:
    """The stages whose address is another after an edit of the code of a module or class."""
    file = place(thing)
    return moved(whole, file, (whole / file).read_text() + "\nedited = 1\n", run)


def test_a_copy_of_the_code_is_the_same_code(whole: Path) -> None:
    world_config = WorldConfig.of(RUN)
    assert fingerprints(world_config, Code(whole)) == fingerprints(world_config)


def test_a_new_loss_rebuilds_nothing(whole: Path) -> None:
    file = place(Slic)
    assert moved(whole, file.with_name("brand_new.py"), (whole / file).read_text()) == set()


@pytest.mark.parametrize("kind", [Ipo, Dpo, Slic])
def test_a_docstring_or_comment_of_a_loss_rebuilds_nothing(whole: Path, kind: type) -> None:
    text = (whole / place(kind)).read_text()
    assert text.count('"""') >= 4
    said = re.sub(r'"""(?=\w)', '"""Another word. ', text) + "# A comment.\n\n\n"
    assert said.count("Another word") >= 2
    assert moved(whole, place(kind), said) == set()


def test_a_loss_rebuilds_the_stages_that_train_with_it(whole: Path) -> None:
    """The default loss counts wherever an online run may be planned, which names it."""
    assert edited(whole, Slic) == set()
    assert edited(whole, Dpo) == RECORDED
    assert edited(whole, Ipo) == {"baseline", *RECORDED}
    run = experiment(baseline__loss=Slic(), source=RUN.source)
    assert edited(whole, Slic, run) == {"baseline"}


def test_what_worlds_are_made_of_rebuilds_what_stands_on_it(whole: Path) -> None:
    by_name = {stage.name: stage.function for stage in STAGES}
    assert edited(whole, type(RUN.task)) == NAMES
    assert edited(whole, Enumerable) == set()
    assert edited(whole, type(RUN.labeler)) == NAMES - {
        "material", "world", "texts", "sft", "start", "base", "golden", "pool", "baseline",
    }  # fmt: skip
    assert edited(whole, by_name["start"]) == {"start", "optimum", *RECORDED}
    assert edited(whole, by_name["baseline"]) == {"baseline"}
    assert edited(whole, by_name["recorded"]) == RECORDED
    assert edited(whole, by_name["optimum"]) == {"optimum"}


def test_a_metric_rebuilds_nothing(whole: Path) -> None:
    for thing in (metrics, metric_table):
        assert edited(whole, thing) == set()


def test_a_paused_run_goes_on_unless_code_that_the_run_reaches_is_edited(whole: Path) -> None:
    """Of losses the run's own, its recorded run's and its baseline's count; so does what measures the run."""
    point = Point("0", "arm", 0, {}, RUN)

    def address() -> str:
        return RunCheckpoints(Code(whole))._address(point)

    def restarted_by(file: Path, text: str) -> bool:
        before = address()
        with written(whole / file, text):
            return address() != before

    def restarted_by_edit(thing: Any) -> bool:
        return restarted_by(place(thing), (whole / place(thing)).read_text() + "\nedited = 1\n")

    assert RunCheckpoints()._address(point) == address()
    assert not restarted_by(place(Slic).with_name("brand_new.py"), "edited = 1\n")
    assert not any(map(restarted_by_edit, (Slic, Enumerable)))
    assert all(map(restarted_by_edit, (Ipo, Dpo, Replay, metrics, train, type(RUN.task))))


def test_nothing_outside_of_engine_and_worlds_counts(whole: Path) -> None:
    for file in ("sweeps/population/plan.py", "sweeps/population/world_builder.py"):
        assert moved(whole, Path(file), "edited = 1\n") == set()


OF_A_USER = """
from envs.labelers.soft import Soft
class Mine(Soft):
    def helper(self):
        import testbed.losses.slic
"""


def test_the_engine_s_code_behind_a_users_class_counts(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that the user's file imports, also inside functions, and those of the class's bases."""
    (tmp_path / "own_labeler_file.py").write_text(OF_A_USER)
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("own_labeler_file").Mine()
    run = config.replace(RUN, "labeler", mine)
    expected = edited(whole, type(RUN.labeler), config.replace(RUN, "labeler", RUN.labeler))
    assert "data" in expected
    assert edited(whole, type(mine).__mro__[1], run) == expected
    assert edited(whole, Slic, run) == expected
    assert edited(whole, Dpo, run) == RECORDED


def test_imports_are_read_as_they_run(tmp_path: Path) -> None:
    """Those inside functions count, those for annotations alone do not, neither does what nobody imports."""
    package = tmp_path / "testbed"
    package.mkdir()
    files = {
        "__init__": "",
        "one": "import typing\nfrom typing import TYPE_CHECKING\nfrom testbed import two\n"
        "if TYPE_CHECKING:\n    from testbed.four import x\nelse:\n    from . import six\n"
        "if typing.TYPE_CHECKING:\n    import testbed.four\n"
        "def late():\n    from testbed.three import x\n",
        "two": "import testbed.one\n",
        "three": "x = 1\n",
        "four": "x = 1\n",
        "five": "x = 1\n",
        "six": "x = 1\n",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    found = Code(tmp_path).reached_by(["testbed.one"])
    assert found == {"testbed", *(f"testbed.{name}" for name in ("one", "two", "three", "six"))}


def test_data_files_count_with_the_code_that_reads_them(whole: Path) -> None:
    data = [
        path
        for name in ("testbed", "envs")
        for path in code_files.package_files(ROOT / name)
        if path.suffix not in (".py", ".typed")
    ]
    assert data
    readers = [name for name in Code(ROOT).everything() if "prompts" in name]
    for path in data:
        before = Code(whole).hash_of(readers)
        copied = whole / path.relative_to(ROOT)
        copied.write_bytes(path.read_bytes() + b"\n")
        assert Code(whole).hash_of(readers) != before, path
        copied.write_bytes(path.read_bytes())


def test_only_known_files_load_code_by_names_that_are_not_written_down() -> None:
    """Imports are read from files: what else is loaded must change no result. One walks families for the command line,
    one loads libraries that are optional, one modules under their old names."""
    import ast

    from testbed.config import overrides
    from testbed.llm import optional

    files = [path for name in ("testbed", "envs") for path in (ROOT / name).rglob("*.py")]
    found = {path for path in files if code_files.is_dynamic(ast.parse(path.read_bytes()))}
    assert found == {ROOT / place(thing) for thing in (overrides, optional, testbed.moved)}


@pytest.mark.parametrize(
    "run",
    [
        experiment(source=RUN.source, evaluation__stream=RUN.recorded),
        experiment(
            task=Enumerable(vocabulary=3, prompt_length=2, response_length=2),
            tabular=True,
            evaluation__optimum_beta=0.5,
        ),
    ],
    ids=["sampled", "enumerated"],
)
def test_stages_run_no_code_that_their_addresses_lack(run: Any) -> None:
    """Every function of engine or worlds that a stage calls, as the interpreter sees it."""
    world_config, made = WorldConfig.of(run), {}
    covered: dict[str, set[str]] = {}
    files: set[str] = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    code = stage_code.installed()
    for stage in STAGES:
        parts = stage.parts(world_config)
        kinds = {kind.__module__ for one in stage_code.classes_in(parts) for kind in one.__mro__}
        own = code.reached_by([stage.function.__module__, *kinds])
        covered[stage.name] = set(own).union(*(covered[name] for name in stage.after))
        made[stage.name] = None
        if not stage.needed(world_config):
            continue
        given = [made[name] for name in stage.after]
        files.clear()
        sys.setprofile(note)
        try:
            made[stage.name] = jax.eval_shape(
                lambda *g, s=stage, p=parts: s.function(*p, *g), *given
            )
        finally:
            sys.setprofile(None)
        below = [Path(file).relative_to(ROOT) for file in files if Path(file).is_relative_to(ROOT)]
        ran = {
            ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            for path in below
            if path.parts[0] in ("testbed", "envs")
        }
        assert ran <= covered[stage.name], stage.name
    assert covered["world"] < covered["baseline"]
    assert stages.installed() is code
