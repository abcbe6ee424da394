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
    assert len(rows[["arm", "run"]].drop_duplicates()) == len(selection.points())
    assert np.all(rows["diverged_step"] == -1)
    last = rows[rows["step"] == small.steps]
    assert np.all(last["kl"] > 0)
    assert np.all(np.isfinite(last["win_rate"]))


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("my_*.py"):
        assert len(path.read_text().splitlines()) < WIDE.get(path.stem, LINES), path


def member(name: str, end: str = "\nstudy = ", keep: str = "nothing", without: str = "") -> str:
    """An example's class without its study: the text up to ``end``, without imports from `sweeps` but from ``keep``,
    and without the line ``without``, an import of the study."""
    text = (EXAMPLES / f"{name}.py").read_text()
    others = rf"^from sweeps(?!\.{keep} ).*\n"
    return re.sub(others, "", text[: text.index(end)].replace(without, ""), flags=re.MULTILINE)


def short(name: str) -> str:
    """A member that is written for this test."""
    return (ROOT / "tests" / "support" / "members" / f"{name}.py").read_text()


#: One new member of every family: its file, the file's text, and tests that must have been run for it, among others.
MEMBERS = (
    (
        "testbed/losses/one_sided.py",
        short("one_sided"),
        (
            "test_contracts.py::test_losses_are_finite_with_finite_slopes[OneSided]",
            "test_contracts.py::test_members_are_configs[OneSided]",
            "test_losses.py::test_losses_equal_their_reference_implementations[OneSided]",
            "test_citations.py::test_every_paper_that_a_docstring_names_has_an_entry[OneSided]",
        ),
    ),
    (
        "testbed/losses/huber_ipo.py",
        member("my_loss"),
        (
            "test_contracts.py::test_losses_are_finite_with_finite_slopes[HuberIpo]",
            "test_contracts.py::test_members_are_configs[HuberIpo]",
            "test_losses.py::test_losses_equal_their_reference_implementations[HuberIpo",
            "test_citations.py::test_every_paper_that_a_docstring_names_has_an_entry[HuberIpo]",
        ),
    ),
    (
        "testbed/methods/duel.py",
        short("duel"),
        (
            "test_contracts.py::test_members_are_configs[Duel]",
            "test_methods.py::test_ledgers[Duel]",
            "test_contracts.py::test_members_pass_what_users_classes_are_held_to[Duel]",
        ),
    ),
    (
        "testbed/sources/data_first.py",
        member("my_source", without="from testbed.sources.online import Online\n"),
        (
            "test_contracts.py::test_members_are_configs[DataFirst]",
            "test_contracts.py::test_members_pass_what_users_classes_are_held_to[DataFirst]",
        ),
    ),
    (
        "testbed/references/delayed.py",
        short("delayed"),
        ("test_contracts.py::test_members_pass_what_users_classes_are_held_to[Delayed]",),
    ),
    (
        "testbed/proxies/bag.py",
        member("my_proxy"),
        ("test_contracts.py::test_members_pass_what_users_classes_are_held_to[BagConfig]",),
    ),
    (
        "envs/labelers/clipped.py",
        short("clipped"),
        (
            "test_labelers.py::test_contract[Clipped]",
            "test_labelers.py::test_gradients_are_finite[Clipped-default]",
        ),
    ),
    (
        "envs/labelers/lapses.py",
        member("my_labeler"),
        (
            "test_labelers.py::test_contract[Lapses]",
            "test_labelers.py::test_answers_have_the_stated_frequencies[Lapses]",
            "test_likelihoods.py::test_parameters_are_recovered[Lapses]",
            "test_citations.py::test_every_paper_that_a_docstring_names_has_an_entry[Lapses]",
        ),
    ),
    (
        "envs/goldens/mentions.py",
        member(
            "my_golden",
            end="\n\nclass Mentioning",
            without="from envs.summarize import Summarize\n",
        ),
        ("test_contracts.py::test_goldens_are_functions_of_the_text_alone[Mentions]",),
    ),
    (
        "envs/paths.py",
        member("my_task"),
        (
            "test_contracts.py::test_tasks_have_the_form_that_users_tasks_are_held_to[Paths]",
            "test_contracts.py::test_worlds_write_valid_text[Paths]",
            "test_contracts.py::test_tasks_play_as_environments[Paths]",
            "test_worlds.py::test_rewards_vary_within_prompts[Paths]",
            "test_worlds.py::test_trivial_answers_do_not_win[Paths]",
        ),
    ),
    (
        "sweeps/studies/pick_pairs.py",
        (EXAMPLES / "pick_pairs.py").read_text(),
        (
            "test_studies.py::test_claims_say_what_decides_and_what_would_count_against[pick_pairs]",
            "test_studies.py::test_every_preset_can_be_built_and_judges_something[pick_pairs]",
        ),
    ),
    (
        "sweeps/rules/less.py",
        member("my_rule", end="\nCLAIM = ", keep="rules"),
        ("test_judging.py::test_rules_pass_what_users_are_held_to[Less]",),
    ),
    (
        "sweeps/estimands/thrift_difference.py",
        member("my_estimand", end="\nCLAIM = ", keep="(?:estimands(?:.base)?|rules)"),
        ("test_judging.py::test_estimands_pass_what_users_are_held_to[ThriftDifference]",),
    ),
)
#: What two of them may have besides, as how-to pages have it: an independent implementation, and priors.
SECOND = {
    **files(ROOT / "docs" / "howto" / "loss.md"),
    **files(ROOT / "docs" / "howto" / "labeler.md"),
}
#: Tests of whole families, which must pass with the new members too.
WHOLE = (
    "test_claims.py::test_claims_survive_as_json",
    "test_families.py::test_names_are_unique_over_all_families",
    "test_imports.py::test_no_folder_reaches_itself",
    "test_citations.py::test_entries_are_whole",
    "test_losses.py::test_reference_implementations_are_of_losses",
    "test_likelihoods.py::test_every_case_recovers_all_parameters_of_its_labeler",
    "test_studies.py::test_the_scoreboard_has_every_claim_of_the_paper_and_every_question_once",
)


@pytest.mark.slow
def test_an_extension_is_one_new_file_which_the_contract_tests_pick_up(tmp_path: Path) -> None:
    """In a copy of the repository, to which files are added and in which nothing is changed."""
    for folder in ("testbed", "envs", "sweeps", "analysis", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "checkpoints")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    added = {path: text for path, text, _ in MEMBERS} | SECOND
    for path, text in added.items():
        assert not (ROOT / path).exists()
        (tmp_path / path).write_text(text)
    expected = [*WHOLE, *(test for _, _, tests in MEMBERS for test in tests)]
    words = [sys.executable, "-m", "pytest", "-v", "-n", "0", "--no-header"]
    words += ["-p", "no:cacheprovider", "-k", " or ".join(sorted(map(selecting, expected)))]
    modules = {test.split("::")[0] for test in expected}
    paths = (path for path in (tmp_path / "tests").rglob("test_*.py") if path.name in modules)
    done = subprocess.run(
        [*words, *sorted(map(str, paths))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    passed = {line.split(" ")[0] for line in done.stdout.splitlines() if " PASSED" in line}
    missing = [each for each in expected if not any(each in test for test in passed)]
    assert not missing, done.stdout


def selecting(test: str) -> str:
    """A test as pytest's ``-k`` is told it."""
    name, _, rest = test.split("::")[1].partition("[")
    return f"({name} and {rest.rstrip(']').split('-')[0]})" if rest else name
