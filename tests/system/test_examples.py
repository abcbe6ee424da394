"""What users add: examples run as they are, and moved to its family each is one new file and no other edit."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import PROMPT, TIME, VOCABULARY, cache_directory, experiment
from rich.console import Console
from snippets import ROOT, files

from sweeps import api
from sweeps.api import runner
from sweeps.contracts.samples import MadeUpEvidence
from sweeps.population import host
from sweeps.store.store import Store
from sweeps.study import load_study
from testbed.config import replace_all

EXAMPLES = ROOT / "examples"
#: Of `helpers.experiment`: what programs are compiled for, so that the tests share them.
SMALL = (
    "model",
    "sft",
    "data",
    "proxy",
    "baseline",
    "optimiser",
    "steps",
    "batch_size",
    "evaluation",
)


#: Those whose task is their own.
OWN_TASK = ("my_task", "my_hypothesis", "my_golden")
MINE = sorted(path.stem for path in EXAMPLES.glob("my_*.py"))
#: Lines that an example may have, but for the two whose interface is wide.
LINES, WIDE = 60, {"my_proxy": 70, "my_source": 90}


@pytest.mark.parametrize("name", [*MINE, "pick_pairs"])
def test_examples_are_planned(name: str, tmp_path: Path) -> None:
    """And their classes pass the checks that every command makes."""
    path = EXAMPLES / f"{name}.py"
    forecast = api.forecast(path, preset="smoke", out=tmp_path, console=Console(quiet=True))
    assert forecast.runs == 8
    assert forecast.plan is not None


@pytest.mark.parametrize("name", ["my_estimand", "my_rule"])
def test_examples_of_judging_decide(name: str) -> None:
    """By made-up results, in which the first arm's numbers differ from the second's."""
    selection = load_study(str(EXAMPLES / f"{name}.py")).select("smoke")
    (claim,) = selection.claims
    ruling = claim.judge(MadeUpEvidence(selection))
    assert ruling.parts[0].estimate is not None
    assert ruling.verdict in ("reproduced", "contradicted", "undecided")


@pytest.mark.parametrize("name", [name for name in MINE if name not in ("my_estimand", "my_rule")])
def test_examples_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The very study of the file, in a world of a few tokens; every run is measured and learns something."""
    (tmp_path / "stages").symlink_to(cache_directory())
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    study, small = load_study(str(EXAMPLES / f"{name}.py")), experiment()
    task = small.task
    if name in OWN_TASK:
        sizes = {"vocabulary": VOCABULARY, "prompt_length": PROMPT, "response_length": TIME}
        shape = {"salient": 3, "facts": 2} if name == "my_golden" else {"writer": task.writer}
        task = replace_all(study.base.task, sizes | {"writers": 2} | shape)
    settings = {path: getattr(small, path) for path in SMALL}
    settings |= {"task": task, "baseline_model": None, "proxy": small.proxy}
    if name == "my_proxy":
        settings["proxy"] = replace_all(study.base.proxy, {"fit": small.proxy.fit})
    selection = study.select("smoke", 1, settings)
    console, out = Console(file=io.StringIO()), tmp_path / "out"
    runner.run([selection], out, console, lambda directory, *_: directory, host)
    rows = Store.open(out).read()
    assert set(rows["arm"]) == {arm.name for arm in study.arms}
    assert rows["run"].nunique() == len(selection.points())
    assert np.all(rows["diverged_step"] == -1)
    last = rows[rows["step"] == small.steps]
    assert np.all(last["kl"] > 0)
    assert np.all(np.isfinite(last["win_rate"]))


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("my_*.py"):
        assert len(path.read_text().splitlines()) < WIDE.get(path.stem, LINES), path


def own(path: Path) -> str:
    """An example's classes without its study."""
    text = path.read_text()
    return re.sub(r"^from sweeps.*\n", "", text[: text.index("\nstudy = ")], flags=re.MULTILINE)


#: Where each new file goes, and its text; those of how-to pages are as the pages have them.
ADDED = {
    "testbed/losses/huber_ipo.py": own(EXAMPLES / "my_loss.py"),
    "envs/paths.py": own(EXAMPLES / "my_task.py"),
    "envs/labelers/lapses.py": own(EXAMPLES / "my_labeler.py"),
    "sweeps/studies/pick_pairs.py": (EXAMPLES / "pick_pairs.py").read_text(),
    **files(ROOT / "docs" / "howto" / "loss.md"),
    **files(ROOT / "docs" / "howto" / "labeler.md"),
}
#: What must have been run for each of them, among others.
EXPECTED = (
    "test_contracts.py::test_losses_are_finite_with_finite_slopes[HuberIpo]",
    "test_contracts.py::test_members_are_configs[HuberIpo]",
    "test_losses.py::test_losses_equal_their_reference_implementations[HuberIpo",
    "test_contracts.py::test_worlds_write_valid_text[Paths]",
    "test_contracts.py::test_tasks_play_as_environments[Paths]",
    "test_worlds.py::test_rewards_vary_within_prompts[Paths]",
    "test_worlds.py::test_trivial_answers_do_not_win[Paths]",
    "test_labelers.py::test_contract[Lapses]",
    "test_labelers.py::test_answers_have_the_stated_frequencies[Lapses]",
    "test_likelihoods.py::test_parameters_are_recovered[Lapses]",
    "test_studies.py::test_claims_say_what_decides_and_what_would_count_against[pick_pairs]",
)


@pytest.mark.slow
def test_an_extension_is_one_new_file_which_the_contract_tests_pick_up(tmp_path: Path) -> None:
    """In a copy of the repository, to which files are added and in which nothing is changed."""
    for folder in ("testbed", "envs", "sweeps", "analysis", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "checkpoints")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path, text in ADDED.items():
        assert not (ROOT / path).exists()
        (tmp_path / path).write_text(text)
    tests = (
        "contracts/test_contracts.py",
        "testbed/test_losses.py",
        "testbed/test_likelihoods.py",
        "envs/test_worlds.py",
        "envs/test_labelers.py",
        "sweeps/test_studies.py",
    )
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-n",
        "0",
        "--no-header",
        "-p",
        "no:cacheprovider",
    ]
    words += [
        "-k",
        "HuberIpo and not every_objective or Paths or Lapses or pick_pairs or has_a_ref",
    ]
    done = subprocess.run(
        [*words, *(f"tests/{name}" for name in tests)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    passed = {line.split(" ")[0] for line in done.stdout.splitlines() if " PASSED" in line}
    missing = [each for each in EXPECTED if not any(each in test for test in passed)]
    assert not missing, done.stdout
