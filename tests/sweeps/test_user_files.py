"""Users' own files: what they may import, what is sent to other processes, and what is made anew once they change."""

import pickle
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
from helpers import SumTask, experiment, read_anew

from envs.neural import Neural
from sweeps import user_files
from sweeps.population.run_checkpoints import RunCheckpoints
from sweeps.study import Point, load_study
from testbed.config import replace, user_code
from testbed.errors import InvalidInput
from testbed.losses.ipo import Ipo
from testbed.stages.stages import fingerprints
from testbed.stages.world_config import WorldConfig

HELPER = """
import jax.numpy as jnp
def bound(x):
    return jnp.minimum(x, 1.0)
"""
LOSS = """
from {prefix}_helper import bound
from testbed.losses.base import AbstractLoss
class Mine(AbstractLoss):
    beta: float = 0.1
    def __call__(self, pair):
        return bound(-pair.margin())
"""
STUDY = """
from sweeps.studies import gap
from {prefix}_loss import Mine
class Here(Mine):
    pass
study = gap.study.derived("mine", "Mine", loss=Mine())
"""


def written(folder: Path, prefix: str) -> Path:
    """A study that imports a loss beside it, which imports a helper; other tests' files have other prefixes."""
    for name, text in {"helper": HELPER, "loss": LOSS, "study": STUDY}.items():
        (folder / f"{prefix}_{name}.py").write_text(text.replace("{prefix}", prefix))
    return folder / f"{prefix}_study.py"


def test_a_study_imports_files_beside_it(tmp_path: Path) -> None:
    study = load_study(str(written(tmp_path, "beside")))
    assert type(study.base.loss).__module__ == "beside_loss"
    own = {file.name for file in user_files.loaded() if file.path.startswith(str(tmp_path))}
    assert {name for name in own if not name.startswith(user_files.STUDY)} == {
        "beside_helper",
        "beside_loss",
    }
    assert len(own) == 3


def test_a_file_that_would_import_another_module_is_refused(tmp_path: Path) -> None:
    """Of what is installed, or of another study's folder."""
    (tmp_path / "numpy.py").write_text("")
    study = tmp_path / "study.py"
    study.write_text("import numpy")
    with pytest.raises(InvalidInput, match=r"imports numpy, which is .*: give numpy.py beside it"):
        load_study(str(study))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        study = written(tmp_path / folder, "twice")
        if folder == "one":
            load_study(str(study))
    with pytest.raises(InvalidInput, match=r"imports twice_loss, which is .*one.twice_loss\.py"):
        load_study(str(study))


def test_another_process_gets_the_files_themselves(tmp_path: Path) -> None:
    """It has nothing on disk: objects of the files' classes are read there, and errors name the files."""
    study = load_study(str(written(tmp_path, "sent")))
    (here,) = (
        module
        for name, module in sys.modules.items()
        if name.startswith(user_files.STUDY) and module.study is study
    )
    files = [f for f in user_files.loaded() if f.path.startswith(str(tmp_path))]
    own = user_code.sources([study.base.loss])
    for name in ("helper", "loss", "study"):
        (tmp_path / f"sent_{name}.py").unlink()
    reader = textwrap.dedent("""
        import pickle, sys
        from sweeps.user_files import UserFile, receive
        from testbed.config.user_code import sources
        with open(sys.argv[1], "rb") as file:
            receive([UserFile(*each) for each in pickle.load(file)])
            things = pickle.load(file)
        print(*(type(thing).__name__ for thing in things), *sources(things[:1]))
        print(type(things[0]).__call__.__code__.co_filename)
    """)
    with (tmp_path / "sent.pickle").open("wb") as file:
        pickle.dump([tuple(each) for each in files], file)
        pickle.dump((study.base.loss, here.Here()), file)
    done = subprocess.run(
        [sys.executable, "-c", reader, str(tmp_path / "sent.pickle")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path = next(file.path for file in files if file.name == "sent_loss")
    assert done.stdout.split() == ["Mine", "Here", *own, path]


def test_what_is_made_with_own_code_is_made_anew_once_it_changes(tmp_path: Path) -> None:
    """A change of the class's file, or of what that uses of the files beside it, and of nothing else."""
    file = written(tmp_path, "changed")
    base = load_study(str(file)).base
    world_config = WorldConfig.of(replace(base, "baseline.loss", base.loss))

    def addresses() -> dict[str, str]:
        """As another process finds them, which reads the files anew."""
        read_anew()
        return fingerprints(world_config)

    first = addresses()
    file.write_text(file.read_text() + "x = 1\n")
    assert addresses() == first
    for name in ("changed_helper.py", "changed_loss.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "y = 1\n")
        now = addresses()
        assert {stage for stage in now if now[stage] != first[stage]} == {"baseline"}
        first = now


def test_what_is_made_with_a_notebook_s_class_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no file that would tell whether it is still the same: a class of the same name is another one, here and in
    another process."""
    notebook = types.ModuleType("notebook_cells")
    monkeypatch.setitem(sys.modules, notebook.__name__, notebook)
    cell = "from testbed.losses.ipo import Ipo\nclass Mine(Ipo):\n    pass\n"
    exec(cell, vars(notebook))
    loss = vars(notebook)["Mine"]()
    world_config = WorldConfig.of(experiment(baseline__loss=loss))
    first = fingerprints(world_config)
    assert fingerprints(world_config) == first
    exec(cell, vars(notebook))
    other = fingerprints(WorldConfig.of(experiment(baseline__loss=vars(notebook)["Mine"]())))
    read_anew()
    for now in (other, fingerprints(world_config)):
        assert {stage for stage in now if now[stage] != first[stage]} == {"baseline"}


def test_a_paused_run_is_not_gone_on_with_by_other_code(tmp_path: Path) -> None:
    """A user's own loss that is edited between two commands."""
    file = written(tmp_path, "edited")
    base = load_study(str(file)).base

    def address() -> str:
        read_anew()
        return RunCheckpoints()._address(Point("0", "arm", 0, {}, base))

    first = address()
    assert address() == first
    loss = tmp_path / "edited_loss.py"
    loss.write_text(loss.read_text() + "y = 1\n")
    assert address() != first


def test_only_own_code_counts() -> None:
    plain = WorldConfig.of(experiment())
    assert user_code.sources([plain, Neural(), (Ipo(),)]) == []
    (own,) = user_code.sources([[SumTask()]])
    assert user_code.sources([[SumTask(vocabulary=9)]]) == [own]
    assert set(fingerprints(plain)) > {"world", "baseline"}
