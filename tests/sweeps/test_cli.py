"""The command line as a user meets it: help, mistakes, exit codes, TensorBoard."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from sweeps import runtime
from sweeps.cli import completion
from sweeps.cli import main as cli
from sweeps.console import progress, terminal
from sweeps.store.store import SCHEMA, Store
from sweeps.study import study_names

STUDY = textwrap.dedent('''
    """A user's own study."""
    import equinox as eqx
    from sweeps.grid import Axis
    from sweeps.study import Arm, Preset, Study
    from testbed.errors import InvalidInput

    class Loss(eqx.Module):
        beta: float = 1.0

        def __check_init__(self):
            if self.beta <= 0:
                raise InvalidInput(f"beta must be > 0, got {self.beta}")

    class Base(eqx.Module):
        loss: Loss = Loss()
        seed: int = 0

    study = Study("mine", "Mine", "?", Base(), (Arm("only", {}),),
                  Axis("loss.beta", (1.0, 2.0)), (), {"laptop": Preset(seeds=1)})
''')


@pytest.fixture
def study(tmp_path: Path) -> str:
    file = tmp_path / "mine.py"
    file.write_text(STUDY)
    return str(file)


@pytest.fixture(autouse=True)
def configured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the test run's own XLA settings: commands configure the process they run in."""
    monkeypatch.setattr(runtime, "configure", lambda: None)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on standard error of a command that must exit with status 2."""
    try:
        status = cli.main(words)
    except SystemExit as stop:
        status = stop.code
    out, error = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


COMMANDS = dict(completion.commands(cli.parser()))


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_is_quick_and_needs_no_jax(command: list[str]) -> None:
    program = (
        "import sys\nfrom sweeps.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert not {'jax', 'pandas', 'rich'} & sys.modules.keys()"
    )
    words = [sys.executable, "-c", program, *command, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert "usage: testbed" in done.stdout
    assert ("examples:" if command else "exit status:") in done.stdout


@pytest.mark.parametrize("command", [["list"], ["run", "gap", "--preset=smoke", "--dry-run"]])
def test_a_start_waits_for_nothing_it_does_not_need(command: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom sweeps.cli.main import main\nstatus = main(sys.argv[1:])\n"
        "assert not {'gymnax', 'matplotlib', 'scipy.stats'} & sys.modules.keys()\nsys.exit(status)"
    )
    words = [sys.executable, "-c", program, *command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("width", [8, 30])
def test_help_fits_narrow_terminals(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_completion(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The script of every shell knows commands, studies, presets and kinds; bash, which is here, completes by it."""
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("reproduce", "tandem", "laptop", "references", "verbose"):
        assert word in script
    if shell != "bash" or shutil.which("bash") is None:
        return
    (tmp_path / "script").write_text(script)
    (tmp_path / "mine.py").touch()
    (tmp_path / "results").mkdir()
    for words, expected in (
        (["sta"], "status"),
        (["run", "ga"], "gap"),
        (["run", "mi"], "mine.py"),
        (["run", "gap", "--preset", "smo"], "smoke"),
        (["list", "lab"], "labelers"),
        (["status", "res"], "results"),
    ):
        line = " ".join(["testbed", *words])
        program = (
            f"source ./script; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_testbed; "
            'echo "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected]


def test_logs_get_no_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert cli.main(["list"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    made = terminal.console()
    assert isinstance(progress.display(1, 1, made), progress.LogDisplay)
    # A log that is to be coloured is still none that lines are redrawn in.
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert terminal.console().is_terminal
    assert isinstance(progress.display(1, 1, terminal.console()), progress.LogDisplay)
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.console().no_color


def test_whoever_reads_may_go() -> None:
    """A reader that has gone is no fault: the command's own status counts."""
    words = [sys.executable, "-m", "sweeps.cli.main", "list", "columns", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_mistakes_in_arguments(capsys: pytest.CaptureFixture[str], study: str) -> None:
    assert "required: COMMAND" in refused(capsys)
    assert "unknown command 'rnu': did you mean 'run'?" in refused(capsys, "rnu")
    unknown = refused(capsys, "run", study, "--prest", "smoke")
    assert "testbed run: unknown option '--prest': did you mean '--preset'?" in unknown
    assert "testbed status: does not take 'b'" in refused(capsys, "status", "a", "b")
    assert "unknown choice 'losss': did you mean 'losses'?" in refused(capsys, "list", "losss")
    assert "seeds must be a number of at least 1" in refused(capsys, "run", study, "--seeds", "x")
    assert "argument --workers: must be a whole number, got 'x'" in refused(
        capsys, "run", study, "--workers", "x"
    )
    assert "seeds must be at least 1, got 0" in refused(capsys, "run", study, "--seeds", "0")


def test_mistakes_in_the_selection(
    capsys: pytest.CaptureFixture[str], study: str, tmp_path: Path
) -> None:
    assert "unknown study 'gapp'" in refused(capsys, "run", "gapp")
    assert "nowhere.py does not exist" in refused(capsys, "run", "nowhere.py")
    assert "did you mean 'laptop'" in refused(capsys, "run", study, "--preset", "laptp")
    assert "did you mean 'loss.beta'" in refused(capsys, "run", study, "--set", "loss.bta=1")
    assert "loss.beta must be a number, got 'x'" in refused(
        capsys, "run", study, "--axis", "loss.beta=1,x"
    )
    assert "--set takes path=value, got 'loss'" in refused(capsys, "run", study, "--set", "loss")
    assert "beta must be > 0, got -1.0" in refused(capsys, "run", study, "--set", "loss.beta=-1")
    assert not (tmp_path / "results").exists()


def test_mistakes_in_directories(
    capsys: pytest.CaptureFixture[str], study: str, tmp_path: Path
) -> None:
    assert "holds no results" in refused(capsys, "report", str(tmp_path))
    assert "holds no results" in refused(capsys, "tensorboard", str(tmp_path))
    assert "holds no results" in refused(capsys, "status", str(tmp_path))
    assert "holds no results" in refused(capsys, "compare", str(tmp_path), str(tmp_path))
    assert "holds no results" in refused(capsys, "export", str(tmp_path), "--out", "x.csv")
    run = ("run", study, "--out")
    assert "neither empty nor a store" in refused(capsys, *run, str(tmp_path))
    assert "cannot be written" in refused(capsys, *run, study)
    out = results(tmp_path / "out")
    assert "holds study 'small', this command runs 'mine'" in refused(capsys, *run, str(out))
    header = out / "study.json"
    header.write_text(header.read_text().replace(f'"schema": {SCHEMA}', '"schema": 99'))
    assert "has schema 99" in refused(capsys, *run, str(out))
    assert "has schema 99" in refused(capsys, *run, str(out), "--dry-run")
    assert "has schema 99" in refused(capsys, "report", str(out))


@pytest.fixture
def nothing_compiled(tmp_path: Path) -> Iterator[None]:
    """No program is stored."""
    usual = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "xla"))
    yield
    jax.config.update("jax_compilation_cache_dir", usual)


@pytest.mark.usefixtures("nothing_compiled")
def test_the_whole_paper_is_one_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["reproduce", "--preset", "smoke", "--dry-run", "--out", out]) == 0
    plan = capsys.readouterr().out
    for name in ("gap", "tandem", "quality", "classification", "contrastive", "scale", "theory"):
        assert f"{name} (smoke)" in " ".join(plan.split())
    assert "of which 0 are stored" in plan
    assert "of compiling, beside the stages; the analysis comes after" in plan
    assert not Path(out).exists()
    assert "did you mean 'paper'" in refused(capsys, "reproduce", "--preset", "papr")
    assert "study gap is given twice" in refused(capsys, "run", "gap", "gap", "--out", out)


def test_the_scoreboard_for_programs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(results(tmp_path / "out"))
    assert cli.main(["report", out, "--format", "json"]) == 0
    assert capsys.readouterr().out == "[]\n"
    assert "unknown --format 'yaml'" in refused(capsys, "report", out, "--format", "yaml")


def results(directory: Path) -> Path:
    """A directory of results with one run."""
    header = {"study": "small", "base": {}, "settings": {}, "arms": {}, "axes": {}}
    header |= {"preset": "laptop", "seeds": 1, "claims": [], "source": "abc"}
    row = {
        "study": "small",
        "run": "a",
        "arm": "online",
        "seed": 0,
        "evaluation": 0,
        "config": "{}",
        "step": 0,
    }
    with Store.create_or_open(directory, header) as store:
        row |= {"task": "t", "diverged_step": -1, "kl": 0.0, "win_rate": 0.5}
        store.append({name: [value] for name, value in row.items()})
    return directory


def test_tensorboard_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = results(tmp_path / "out")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    assert cli.main(["tensorboard", str(out)]) == 1
    assert "uv run --extra tensorboard testbed tensorboard" in capsys.readouterr().err
    # The logs are there all the same.
    assert list((out / "tensorboard" / "summary" / "online").glob("events*"))


def test_tensorboard_refuses_conditions_that_no_run_meets(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = str(results(tmp_path / "out"))
    for condition, said in (
        ("arm=offline", "no run has arm=offline: its values are online"),
        ("amr=online", "did you mean 'arm'?"),
        ("arm", "--where"),
    ):
        assert said in refused(capsys, "tensorboard", out, "--where", condition)


def test_tensorboard_refuses_a_port_in_use(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    out = str(results(tmp_path / "out"))
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"--port {port} is in use" in refused(capsys, "tensorboard", out, "--port", port)
    assert "from 0 to 65535" in refused(capsys, "tensorboard", out, "--port", "99999")


def test_list_shows_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "default preset" in shown
    # The table breaks long names, but studies stand at the beginning of their rows.
    rows = {cell.strip() for line in shown.splitlines() for cell in re.split("[│┃|]", line)[:2]}
    assert set(study_names()) <= rows


def test_runtime_sets_up_xla_unless_the_user_has(tmp_path: Path) -> None:
    program = (
        "from sweeps import runtime\n{before}\nruntime.configure()\n"
        "import jax\n"
        "import os\nprint(len(jax.devices()), jax.config.jax_compilation_cache_dir)\n"
        "print(os.environ['XLA_FLAGS'].count('prefer_vector_width'), os.environ['XLA_FLAGS'][-3:])"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    clean |= {"TESTBED_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"}

    def settings(before: str = "", **more: str) -> list[str]:
        words = [sys.executable, "-c", program.format(before=before)]
        return subprocess.run(
            words, capture_output=True, text=True, check=True, env=clean | more
        ).stdout.split()

    ours = [str(runtime.cores()), str(tmp_path / "xla"), "1", "512"]
    assert settings() == ours
    assert settings(before="import jax") == ours
    flags = "--xla_force_host_platform_device_count=3 --xla_cpu_prefer_vector_width=256"
    expected = ["3", "/x", "1", "256"]
    assert settings(XLA_FLAGS=flags, JAX_COMPILATION_CACHE_DIR="/x") == expected
