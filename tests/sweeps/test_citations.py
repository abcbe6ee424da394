"""Whom to cite: every paper that a docstring names has an entry; a bibliography is of what a study's runs used."""

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from helpers import experiment
from test_cli import results

from envs.labelers.ties import Ties
from sweeps import runtime, user_files
from sweeps.catalogue import citations
from sweeps.catalogue.citations import bibliography, entries_of, kinds, said
from sweeps.claims import Claim
from sweeps.cli import main as cli
from sweeps.store.store import Store
from sweeps.study import load_study
from testbed import config
from testbed.errors import InvalidInput
from testbed.losses.dpo import Dpo

ROOT = Path(__file__).parents[2]
ARXIV = re.compile(r"\d{4}\.\d{5}")
NAME = r"[A-Z][\w'-]+"
#: Authors and year, in a sentence; what stands before an arXiv number is told by that.
AUTHORS = re.compile(
    rf"({NAME}(?: and {NAME}| et al\.)? (?:1[89]|20)\d\d)(?!, arXiv|[\w.]| \(arXiv)"
)
KINDS = {name: kind for name, kind in kinds().items() if not name.startswith("Abstract")}
ENTRIES = entries_of(KINDS.values())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_paper_that_a_docstring_names_has_an_entry(kind: type) -> None:
    text, names = said(kind), {entry.name for entry in ENTRIES}
    assert set(ARXIV.findall(text)) <= names
    alone = re.sub(rf"{NAME} et al\. \d{{4}}\)?,? \(?arXiv", "", text)
    assert {name for name in AUTHORS.findall(alone) if " " in name} <= names


def test_entries_are_whole() -> None:
    """Unique, with balanced braces, and each of them cited by a class or always."""
    keys = [entry.key for entry in ENTRIES]
    assert len(set(keys)) == len(keys)
    together = "\n".join(said(kind) for kind in KINDS.values())
    for entry in ENTRIES:
        assert re.match(r"@\w+\{[\w-]+,\n(  \w+ = \{.+\},\n)+\}$", entry.text), entry.key
        assert entry.text.count("{") == entry.text.count("}")
        assert entry.key == "alignment-testbed" or entry.named_in(together), entry.key


def cited(tmp_path: Path, *configs: object, claims: Sequence[Claim] = ()) -> set[str]:
    """Keys of the bibliography of a store with one run a config."""
    header = {"study": "small", "base": {}, "settings": {}, "arms": {}, "axes": {}, "source": "abc"}
    described = [config.jsonable(claim.describe()) for claim in claims]
    header |= {"preset": "laptop", "seeds": 1, "claims": described}
    rows = [
        {"run": str(n), "arm": "online", "seed": 0, "evaluation": 0, "step": 0, "task": "t"}
        | {"config": json.dumps(config.jsonable(one)), "diverged_step": -1}
        | {"kl": 0.0, "win_rate": 0.5}
        for n, one in enumerate(configs)
    ]
    with Store.create_or_open(tmp_path / "out", header) as store:
        store.append({name: [row[name] for row in rows] for name in rows[0]})
    store = Store.open(tmp_path / "out")
    return set(re.findall(r"^@\w+\{(.+),$", bibliography([(store, store.read())]), re.MULTILINE))


ALWAYS = {"alignment-testbed", "tang2024gap", "gao2022overoptimization"}


def test_a_study_cites_what_its_runs_used(tmp_path: Path) -> None:
    used = cited(tmp_path, experiment(), experiment(loss=Dpo(), labeler=Ties()))
    online = "guo2024oaif"
    assert used == ALWAYS | {
        online,
        "azar2023ipo",
        "rafailov2023dpo",
        "rao1967ties",
        "bradley1952rank",
    }


def test_a_users_own_file_is_cited_too(tmp_path: Path) -> None:
    file = tmp_path / "citing.py"
    file.write_text(
        '"""Mine."""\nfrom sweeps.studies import gap\nfrom testbed.losses.ipo import Ipo\n'
        'class Own(Ipo):\n    """As in Hong et al. 2024, arXiv 2403.07691."""\n'
        'study = gap.study.derived("mine", "Mine", loss=Own())\n'
    )
    study = load_study(str(file))
    assert str(file) in {each.path for each in user_files.loaded()}
    found = cited(tmp_path, experiment(loss=study.base.loss))
    assert "hong2024orpo" in found


def test_the_estimand_of_a_claim_is_cited_from_its_own_file(tmp_path: Path) -> None:
    file = tmp_path / "measuring.py"
    file.write_text(
        '"""Mine."""\nimport dataclasses\nfrom sweeps.claims import Claim, Test\n'
        "from sweeps.estimands import Level\nfrom sweeps.rules import More\nfrom sweeps.studies import gap\n"
        'BIBTEX = """@article{doe2099effect,\n  author = {Doe, Jane},\n  year = {2099},\n}"""\n'
        "@dataclasses.dataclass(frozen=True)\n"
        'class OwnLevel(Level):\n    """An effect (Doe 2099)."""\n'
        'TEST = Test(OwnLevel("kl", "online"), More(0.0))\n'
        'CLAIM = Claim("X1", "It is.", (TEST,), "It is not.")\n'
        'study = dataclasses.replace(gap.study.derived("own", "Own"), claims=(CLAIM,))\n'
    )
    study = load_study(str(file))
    assert "doe2099effect" in cited(tmp_path, experiment(), claims=study.claims)


@pytest.mark.parametrize(
    ("text", "key", "name"),
    [
        ("@article{foo2024, title={Foo}, author={Foo, A.}, year={2024}}", "foo2024", "Foo 2024"),
        (
            '@misc{bar,\n author = "Bar, B. and {Von Baz}, C.",\n year=2023}',
            "bar",
            "Bar and {Von Baz} 2023",
        ),
        (
            "@misc{doe,\n  author = {Doe, J.},\n  year = {2020},\n  eprint = {2001.00001},\n}",
            "doe",
            "2001.00001",
        ),
    ],
)
def test_entries_in_other_layouts(text: str, key: str, name: str) -> None:
    [entry] = citations._entries(text)
    assert (entry.key, entry.name) == (key, name)


def test_what_is_no_entry_is_refused() -> None:
    with pytest.raises(InvalidInput, match="BIBTEX must be entries with author and year"):
        list(citations._entries("@article{foo2024, title={Foo}}"))


def test_the_command_prints_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "configure", lambda: None)
    assert cli.main(["report", str(results(tmp_path / "out")), "--bib"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("@software{alignment-testbed,")
    assert set(re.findall(r"^@\w+\{(.+),$", out, re.MULTILINE)) == ALWAYS


def test_the_citation_file_is_of_this_version() -> None:
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cff["version"] == project["version"]
    assert cff["license"] == project["license"]
    assert project["version"] in ENTRIES[0].text
    assert {"cff-version", "message", "title", "authors"} <= cff.keys()
