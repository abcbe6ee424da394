"""The report: complete, self-contained, escaped, repeatable, and refused where there is nothing."""

import html.parser
import json
import re

import numpy as np
import pytest

import analysis
from analysis import report
from analysis.calibration import Truth, simulate
from sweeps.claims import Change, Claim, MatchedGap, Rule
from sweeps.store import Store
from testbed.errors import InvalidInput

RULE = Rule(rope=0.01)
NASTY = "<script>alert('x')</script> & \"quoted\""
CLAIMS = [
    Claim("C2", f"online beats offline {NASTY}", MatchedGap("online", "offline"), RULE, "no gap"),
    Claim("C11", "winners fall", Change("winner_logprob_change", "offline", -1), RULE, "they rise"),
]
HEADER = {
    "study": "gap",
    "title": NASTY,
    "question": "Does it?",
    "preset": "smoke",
    "seeds": 3,
    "base": {"kind": "Experiment", "note": NASTY},
    "settings": {},
    "arms": {"online": {"source": "Online()"}, "offline": {"source": "Offline()"}},
    "axes": {"setting": list(range(6))},
    "claims": [claim.describe() for claim in CLAIMS],
    "source": "0" * 16,
    "versions": {"python": "3.11"},
    "machine": {"cores": 2},
    "created": "2025-01-01T00:00:00+00:00",
    "command": "testbed run gap --preset smoke",
}


def make_rows(task="Neural"):
    table = simulate(Truth(), np.random.default_rng(2), settings=6, evaluations=8)
    table = table.assign(
        study="gap",
        task=task,
        config="{}",
        data_accuracy=np.where(table["arm"] == "offline", 0.9, 0.6) + 0.01 * table["seed"],
        winner_logprob_change=-0.01 * table["step"] - 0.1 * table["seed"],
        loser_logprob_change=-0.02 * table["step"],
    )
    run = table["run"].iloc[0]
    table.loc[table["run"] == run, "diverged_step"] = 300
    return table


def test_what_runs_consumed_is_told_by_arm(tmp_path) -> None:
    """Medians at the end, in thousands' groups; nothing where older results lack the columns."""
    rows = make_rows()
    page = report.build(write(tmp_path / "old", rows)).read_text()
    assert "What a run consumed" not in page
    online = (rows["arm"] == "online").to_numpy()
    rows = rows.assign(
        pairs_seen=32.0 * rows["step"],
        distinct_pairs=np.where(online, 32.0 * rows["step"], 4096.0),
        labels_bought=np.where(online, 0.0, 4096.0),
        judgements=np.where(online, 32.0 * rows["step"], 0.0),
        tokens_sampled=np.where(online, 700.0 * rows["step"], 0.0),
    )
    page = report.build(write(tmp_path / "new", rows)).read_text()
    section = page.partition("What a run consumed")[2].partition("</table>")[0]
    text = re.sub(r"(<[^>]*>|\s)+", " ", section)
    steps = int(rows["step"].max())
    assert f"Neural online {32 * steps:,} {32 * steps:,} 0 {32 * steps:,} {700 * steps:,}" in text
    assert f"Neural offline {32 * steps:,} 4,096 4,096 0 0" in text


def write(directory, table):
    with Store.create_or_open(directory, HEADER) as store:
        store.append(table.to_dict("records"))
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("results") / "gap", make_rows())
    assert report.build(path) == path / "report.html"
    return path


@pytest.fixture(scope="module")
def page(directory):
    return (directory / "report.html").read_text()


def test_files_are_written(directory):
    verdicts = json.loads((directory / "verdicts.json").read_text())
    assert [row["claim"] for row in verdicts] == ["C2", "C11"]
    names = {path.name for path in (directory / "figures").iterdir()}
    assert names == {f"{name}.{kind}" for name in report.FIGURES for kind in ("png", "svg")}


def test_page_is_self_contained(page):
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_values_are_escaped(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 3


def test_page_is_well_formed(page):
    open_tags, void = [], {"meta", "br"}

    class Checker(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in void:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(page)
    assert open_tags == []
    identifiers = re.findall(r'\sid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_page_tells_verdicts_runs_and_provenance(page, directory):
    verdicts = json.loads((directory / "verdicts.json").read_text())
    for row in verdicts:
        assert f'class="pill {row["verdict"]}"' in page
        assert row["rule"]["words"][1:].replace(">", "&gt;") in page
    assert "36</b>runs, 1 diverged" in page
    assert "3 checkpoints after divergence (Neural)" in page
    assert "testbed run gap --preset smoke" in page
    assert "testbed report gap" in page


def test_same_results_same_bytes(directory):
    before = {path: path.read_bytes() for path in directory.rglob("*.*") if path.is_file()}
    report.build(directory)
    assert {path: path.read_bytes() for path in before} == before


def test_results_without_curves_still_give_a_page(tmp_path):
    table = make_rows().assign(win_rate=np.nan, data_accuracy=np.nan)
    path = report.build(write(tmp_path / "bare", table))
    text = path.read_text()
    assert "there is no curve" in text
    names = {file.name for file in (path.parent / "figures").iterdir()}
    assert names == {f"{n}.{kind}" for n in ("logprob", "verdicts") for kind in ("png", "svg")}


def test_missing_directory_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="nowhere"):
        analysis.load(tmp_path / "nowhere")


def test_empty_directory_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"study\.json"):
        analysis.load(tmp_path)


def test_store_without_rows_is_refused(tmp_path):
    Store.create_or_open(tmp_path / "begun", HEADER).close()
    with pytest.raises(InvalidInput, match="no finished runs"):
        analysis.load(tmp_path / "begun")


def test_foreign_schema_is_refused(tmp_path):
    (tmp_path / "study.json").write_text('{"schema": 99}')
    with pytest.raises(InvalidInput, match="99"):
        analysis.load(tmp_path)


def test_unwritable_directory_is_refused(tmp_path):
    path = write(tmp_path / "kept", make_rows().assign(win_rate=np.nan))
    (path / "figures").write_text("a file where the folder should be")
    with pytest.raises(InvalidInput, match="cannot be written"):
        report.build(path)
