"""The site: complete, self-contained, escaped, repeatable; told what is missing; refused where there is nothing."""

import csv
import html.parser
import io
import json
import re
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from simulated import Truth, simulate

from analysis import export, report
from analysis.figures import inputs, style
from analysis.html import amount, number, slug
from analysis.load import Results, load, results
from analysis.site import study_data, verdicts
from analysis.verdicts.verdict import rank
from sweeps.claims import Claim, Test
from sweeps.estimands import (
    BestDifference,
    Change,
    Level,
    MatchedDifference,
    PairedDifference,
    RankCorrelation,
    RelativeBest,
    Trend,
    WithinRun,
)
from sweeps.rules import More, Same
from sweeps.store.store import Store
from testbed.errors import InvalidInput

NASTY = "<script>alert('x')</script> & \"quoted\" | *bold*"
POINT = More(rope=0.01)
CURVES = (
    Claim(
        "C2",
        f"beats {NASTY}",
        (Test(MatchedDifference("online", "offline"), POINT),),
        "no gap",
        beside=(
            MatchedDifference("online", "offline", outcome="win_rate"),
            BestDifference("online", "offline", within=8.0),
        ),
    ),
    Claim(
        "C11",
        "winners fall",
        (Test(Change("winner_logprob_change", "offline", -1), POINT),),
        "they rise",
        note="The KL range was checked.",
    ),
)
WIDE = (
    Claim("C12", "chance", (Test(Level("self_accuracy", "arm 0"), Same(0.05)),), "better"),
    Claim(
        "C10",
        "accuracy does not predict",
        (Test(RankCorrelation("data_accuracy", "win_rate", "arm 1"), Same(0.2)),),
        "it does",
    ),
    Claim(
        "C8",
        "the proxy decays",
        (
            Test(
                WithinRun(
                    ("ground.proxy_stream_accuracy_1",),
                    ("ground.proxy_stream_accuracy_10",),
                    "arm 0",
                ),
                POINT,
            ),
        ),
        "it does not",
    ),
    Claim(
        "C14",
        "closes",
        (Test(Trend(RelativeBest("arm 1", "arm 0"), "policy.model"), More(0.0)),),
        "it does not",
    ),
    Claim(
        "B4",
        "nearer",
        (Test(PairedDifference("optimum_distance", "arm 1", "arm 0"), POINT),),
        "farther",
    ),
)
MODELS = {"Shape(width=8,layers=1)": 1000.0, "Shape(width=16,layers=1)": 4100.0}


def header(name, claims, arms, table, **more):
    return {
        "study": name,
        "title": NASTY,
        "question": "Does it?",
        "background": "One.\n\nTwo & three.",
        "preset": "smoke",
        "seeds": 3,
        "base": {"kind": "Experiment", "note": NASTY},
        "settings": {},
        "strata": [],
        "arms": {arm: {"source": arm} for arm in arms},
        "axes": {},
        "planned": {arm: sorted(set(table.loc[table["arm"] == arm, "run"])) for arm in arms},
        "claims": [claim.describe() for claim in claims],
        "source": "0" * 16,
        "versions": {"python": "3.11"},
        "machine": {"cores": 2},
        "created": "2025-01-01T00:00:00+00:00",
        "command": f"testbed run {name} --preset smoke",
    } | more


def curve_rows():
    """Two arms with curves; one run diverges."""
    table = simulate(Truth(), np.random.default_rng(2))
    table = table.assign(
        study="alpha",
        task="Neural",
        config='{"kind": "Experiment"}',
        data_accuracy=np.where(table["arm"] == "offline", 0.9, 0.6) + 0.01 * table["seed"],
        winner_logprob_change=-0.01 * table["step"] - 0.1 * table["seed"],
        loser_logprob_change=-0.02 * table["step"],
    )
    online = (table["arm"] == "online").to_numpy()
    table = table.assign(
        pairs_seen=32.0 * table["step"],
        labels_bought=np.where(online, 0.0, 4096.0),
        tokens_sampled=np.where(online, 700.0 * table["step"], 0.0),
    )
    table.loc[table["run"] == table["run"].iloc[0], "diverged_step"] = 300
    return table


def wide_rows():
    """Nine arms on two tasks, at two sizes, with columns for every further figure."""
    rng = np.random.default_rng(3)
    rows = []
    for index, (arm, model) in enumerate((a, m) for a in range(9) for m in MODELS):
        for task in ("Enumerable", NASTY):
            for seed in range(2):
                for coverage in (0.1, 0.5, 1.0):
                    run = f"{index}-{seed}-{coverage}-{task[0]}"
                    for point in range(4):
                        noise = rng.normal(0, 0.01, 3)
                        rows.append(
                            {
                                "run": run, "study": "beta", "arm": f"arm {arm}", "task": task,
                                "seed": seed, "step": 10 * point, "evaluation": point,
                                "diverged_step": -1, "prompts": 64, "config": "{}",
                                "policy.model": model, "data.coverage": coverage,
                                "ground.parameters": MODELS[model],
                                "ground.data_support_mass": coverage**0.5,
                                "kl": 0.3 * point, "win_rate": 0.4 + 0.05 * point + noise[0],
                                "golden_reward": 0.1 * point + noise[0],
                                "data_accuracy": 0.6 + noise[1], "self_accuracy": 0.5 + noise[2],
                                "optimum_distance": 0.5 - 0.3 * coverage + noise[0],
                                **{f"stream_accuracy_{k}": 0.6 + noise[1] for k in range(1, 11)},
                                **{
                                    f"ground.proxy_stream_accuracy_{k}": 0.9 - 0.02 * k + noise[2]
                                    for k in range(1, 11)
                                },
                            }
                        )  # fmt: skip
    return pd.DataFrame(rows)


def write(directory, head, table):
    with Store.create_or_open(directory, head) as store:
        store.append(table.to_dict("list"))
    return directory


@pytest.fixture(autouse=True, scope="module")
def _same_code():
    """The code may change while tests run; that is not what they are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "source_hash", lambda: "0" * 16)
        yield


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "both"
    rows = curve_rows()
    head = header("alpha", CURVES, ("online", "offline"), rows)
    head["planned"]["online"].append("never-ran")
    foreign = rows[rows["run"] == rows["run"].iloc[-1]].assign(run="unknown")
    write(path / "alpha", head, pd.concat([rows, foreign]))
    wide = wide_rows()
    arms = [f"arm {index}" for index in range(9)]
    axes = {"policy.model": list(MODELS), "data.coverage": [0.1, 0.5, 1.0]}
    besides = [{"policy.model": model, "data.coverage": 2.0} for model in MODELS]
    besides.append(
        {"policy.model": next(iter(MODELS))}
    )  # joined from a plan without the other axis
    looks = [{"worlds": worlds, "points": 2.0, "widths": []} for worlds in (8, 10)]
    grown = {"points": 2.0, "max_worlds": 32, "minutes": None, "ended": "precision", "looks": looks}
    world = {"strata": ["policy.model"], "axes": axes, "further": {"arm 3": besides}}
    world |= {"seeds": [100, 102], "precision": grown}
    write(path / "beta", header("beta", WIDE, arms, wide, **world), wide)
    (path / "gamma").mkdir()
    (path / "gamma" / "study.json").write_text('{"schema": 99}')
    assert report.build(path) == path / "report" / "index.html"
    return path


@pytest.fixture(scope="module")
def pages(directory):
    return {path.name: path.read_text() for path in (directory / "report").glob("*.html")}


def text_of(page):
    """A page's words, without its style, tags and repeated spaces."""
    page = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return re.sub(r"(<[^>]*>|\s)+", " ", page)


def test_files_are_written(directory, pages):
    names = {"index.html", "alpha.html", "beta.html", "methods.html", "provenance.html"}
    assert pages.keys() == names
    figures = {path.name for path in (directory / "report" / "figures").iterdir()}
    alpha = {"frontier", "frontier-win_rate", "logprob", "classification", "envelope"}
    alpha |= {"effects", "worlds"}
    beta = {
        "levels-policy-model", "distance-data-coverage", "distance-ground-data_support_mass",
        "windows", "classification", "scatter-data_accuracy-win_rate", "ends", "envelope", "effects",
        "worlds",
    }  # fmt: skip
    wanted = {f"alpha-{name}" for name in alpha} | {f"beta-{name}" for name in beta}
    assert figures == {f"{name}.{kind}" for name in wanted for kind in ("png", "svg", "csv")}


def test_verdicts_are_written_with_their_study(directory):
    rows = json.loads((directory / "report" / "verdicts.json").read_text())
    assert {(row["study"], row["claim"]) for row in rows} >= {("alpha", "C2"), ("beta", "C14")}
    assert sum(row["study"] == "beta" for row in rows) >= len(WIDE) * 2


def test_pages_load_nothing(pages):
    for page in pages.values():
        assert not re.search(r"""\ssrc=["'](?!data:)""", page)
        assert not re.search(r"""href=["'](https?:|//)""", page)
        assert "@import" not in page
        assert not re.search(r"url\((?!#)", page)
        assert "default-src 'none'" in page


def test_values_are_escaped(pages):
    for name, page in pages.items():
        assert "<script" not in page, name
    assert pages["alpha.html"].count("&lt;script&gt;") >= 3


def test_pages_are_well_formed(pages):
    void = {"meta", "br"}
    for page in pages.values():
        open_tags = []

        class Checker(html.parser.HTMLParser):
            def handle_starttag(self, tag, attrs, open_tags=open_tags):
                if tag not in void:
                    open_tags.append(tag)

            def handle_endtag(self, tag, open_tags=open_tags):
                assert open_tags.pop() == tag

        Checker().feed(page)
        assert open_tags == []
        identifiers = re.findall(r'\sid="([^"]+)"', page)
        assert len(identifiers) == len(set(identifiers))


def test_every_link_leads_somewhere(directory, pages):
    root = directory / "report"
    for name, page in pages.items():
        for target in set(re.findall(r'<a [^>]*href="([^"]+)"', page)):
            file, _, anchor = unquote(target).partition("#")
            assert (root / (file or name)).is_file(), (name, target)
            if anchor:
                assert f'id="{anchor}"' in pages[file or name], (name, target)


def test_scoreboard_says_verdicts_in_shape_word_and_number(directory, pages):
    rows = json.loads((directory / "report" / "verdicts.json").read_text())
    for row in rows:
        link = f"{slug(row['study'])}.html#{verdicts.anchor(row)}"
        cell = re.search(
            rf'<td class="(\w+)"[^>]*><a href="{re.escape(link)}".*?</td>', pages["index.html"]
        )
        assert cell
        assert cell[1] == row["verdict"]
        assert row["verdict"] in text_of(cell[0])
        if row["estimate"] is not None:
            assert amount(row["estimate"], row["unit"]) in text_of(cell[0])
    shapes = re.findall(r'\.pill[.\w]*::before \{ content: "(.)"', pages["index.html"])
    assert len(set(shapes)) == 3


def test_what_is_missing_is_told(directory, pages):
    index, page = text_of(pages["index.html"]), text_of(pages["alpha.html"])
    assert "alpha lacks 1 of its planned runs" in index
    assert "1 planned run (1 of arm online)" in page
    assert "1 run that the study did not plan" in page
    assert "schema 99" in index
    own = {run for name in ("alpha", "beta") for run in load(directory / name).table["run"]}
    assert f"{len(own)} runs, 1 diverged" in index
    assert "no study here asks: C1, C3, C4" in index


def test_pages_show_first_and_tell_the_background_last(directory, pages):
    """The finding and the main figure, then verdicts, then the rest. The first page begins with the study that leads
    with the first claim, and has one sentence for the others."""
    page, index = pages["alpha.html"], pages["index.html"]
    places = [
        page.index(part)
        for part in (
            'class="lead finding"',
            "<figure>",
            'id="verdicts"',
            'id="design"',
            'id="background"',
        )
    ]
    assert places == sorted(places)
    assert page.index('id="background"') > page.rindex("<figure>")
    places = [index.index(part) for part in ('class="lead finding"', "<figure>", 'id="scoreboard"')]
    assert places == sorted(places)
    [row] = [row for row in judged(directory) if row["claim"] == "C2"]
    size = amount(row["estimate"], row["unit"])
    words = f"At the same KL (0.5 to 3 nats) online and offline differ in golden reward by {size} ("
    assert words in text_of(page)
    assert words in text_of(index)
    assert f"is {row['verdict']} on Neural." in text_of(page)
    assert "beta: " in text_of(index)


def test_the_worlds_stand_beside_every_interval(directory, pages):
    """Each test and each effect beside it that is measured in worlds has a forest: a mark a world, and a diamond if
    there is an interval. Those of a typical task have a mark for each task with an interval."""
    for study in ("alpha", "beta"):
        effects = {
            (row["claim"], row["task"], part, index): effect
            for row in judged(directory)
            for part in ("tests", "beside")
            for index, effect in enumerate(row[part])
            if row["study"] == study
        }
        expected = []
        for (claim, task, *place), effect in effects.items():
            marks = len(effect["details"].get("worlds", ()))
            if task == "all tasks":
                same = [
                    e for (c, t, *p), e in effects.items() if (c, p) == (claim, place) and t != task
                ]
                marks = sum(one["interval"] is not None for one in same)
            if marks:
                expected.append((marks, effect["interval"] is not None))
        forests = re.findall(r'<svg [^>]*class="forest.*?</svg>', pages[f"{study}.html"], re.DOTALL)
        shown = [(forest.count("<circle"), "<polygon" in forest) for forest in forests]
        assert sorted(shown) == sorted(expected)
        assert len(shown) > 3


def test_what_was_looked_at_before_is_told(pages):
    alpha, beta, index = (text_of(pages[f"{name}.html"]) for name in ("alpha", "beta", "index"))
    assert "Development seeds: looked at before" in alpha
    assert "Development seeds" not in beta
    assert "alpha: Development seeds" in index
    assert "looked at 2 times, with 8 and 10 worlds a task" in beta
    assert "looked at 2 times" not in alpha


def test_pages_say_how_many_verdicts_may_be_wrong(directory, pages):
    rows = judged(directory)
    decided = sum(row["verdict"] != "undecided" for row in rows)
    assert f"Of {decided} decided verdicts at most " in text_of(pages["index.html"])
    near = [{**row, "close": index < 2} for index, row in enumerate(rows)]
    assert "2 verdicts are marked as close to the threshold" in verdicts.many(near)
    assert verdicts.many([{**row, "verdict": "undecided"} for row in rows]) == ""
    board = verdicts.scoreboard(near)
    assert board.count("close to the threshold") == 2


def judged(directory):
    return json.loads((directory / "report" / "verdicts.json").read_text())


def test_study_page_tells_rules_runs_and_cost(directory, pages):
    page = text_of(pages["alpha.html"])
    for row in json.loads((directory / "report" / "verdicts.json").read_text()):
        if row["study"] == "alpha":
            assert row["tests"][0]["rule"]["words"][1:].replace(">", "&gt;") in page
    assert "36 runs, 1 diverged" in page
    assert "3 checkpoints after divergence (Neural)" in page
    assert "The KL range was checked." in page
    assert "Two &amp; three." in page
    table = curve_rows()
    steps = int(table["step"].max())
    assert f"Neural online {32 * steps:,} 0 {700 * steps:,}" in page


def test_rows_on_the_axes_lack_what_one_arm_runs_besides():
    rows = pd.DataFrame(
        {"arm": ["a", "a", "b", "b"], "rate": [0.1, 0.2, 0.1, 0.2], "steps": [5, 9, 9, 5]}
    )
    besides = {"a": [{"rate": 0.2, "steps": 9}], "b": [{"rate": 0.2, "steps": 9}]}
    kept = Results({"further": besides}, rows).on_axes
    assert list(kept.index) == [0, 2, 3]
    assert len(Results({}, rows).on_axes) == 4


def test_what_one_arm_runs_besides_the_axes_is_told(pages):
    page = text_of(pages["beta.html"])
    assert "arm 3 source = arm 3 nothing data.coverage = 2.0 arm 4" in page


def test_methods_and_provenance_tell_of_every_study(pages):
    assert 'id="fits-alpha"' in pages["methods.html"]
    assert "golden reward SFT standard deviations Neural" in text_of(pages["methods.html"])
    assert "Spearman" in pages["methods.html"]
    for name in ("alpha", "beta"):
        assert f"testbed run {name} --preset smoke" in pages["provenance.html"]
    assert "testbed report both" in pages["provenance.html"]


@pytest.mark.slow
def test_same_results_same_bytes_and_nothing_left_over(directory):
    root = directory / "report"
    before = {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
    for name in ("old.html", "figures/old-frontier.png"):
        (root / name).write_text("of an earlier build")
    report.build(directory)
    after = {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()}
    assert after == before


def test_forms_agree_and_reuse_the_verdicts_of_the_build(directory, monkeypatch):
    rows = json.loads((directory / "report" / "verdicts.json").read_text())

    def refuse(*_):
        raise AssertionError("analysed again")

    monkeypatch.setattr(study_data, "gather", refuse)
    assert json.loads(export.render(directory, "json")) == rows
    lines = list(csv.DictReader(io.StringIO(export.render(directory, "csv"))))
    assert [(line["study"], line["claim"], line["verdict"]) for line in lines] == [
        (row["study"], row["claim"], row["verdict"]) for row in rows
    ]
    markdown = export.render(directory, "markdown")
    board = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in board}
    assert cells == {len({row["task"] for row in rows}) + 2}
    assert "<script" not in markdown
    reasons = [line for line in markdown.splitlines() if line.startswith("- ")]
    assert len(reasons) == sum(row["verdict"] != "reproduced" for row in rows)
    (directory / "alpha" / "blocks" / "new.parquet").write_bytes(b"")
    try:
        with pytest.raises((AssertionError, InvalidInput)):
            export.render(directory, "json")
    finally:
        (directory / "alpha" / "blocks" / "new.parquet").unlink()


def test_unknown_form_is_refused(directory):
    with pytest.raises(InvalidInput, match="json, csv, markdown"):
        export.render(directory, "latex")


def test_results_without_curves_still_give_a_page(tmp_path):
    table = curve_rows().assign(golden_reward=np.nan, win_rate=np.nan, data_accuracy=np.nan)
    head = header("alpha", CURVES, ("online", "offline"), table)
    index = report.build(write(tmp_path / "bare", head, table))
    assert "C2" in index.read_text()
    names = {path.stem for path in (index.parent / "figures").iterdir()}
    assert names == {"alpha-logprob", "alpha-effects", "alpha-worlds"}


def test_missing_directory_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="nowhere"):
        report.build(tmp_path / "nowhere")


def test_empty_directory_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"study\.json"):
        report.build(tmp_path)


def test_store_without_rows_is_refused(tmp_path):
    head = header("alpha", CURVES, ("online", "offline"), curve_rows())
    Store.create_or_open(tmp_path / "begun", head).close()
    with pytest.raises(InvalidInput, match="no finished runs"):
        report.build(tmp_path / "begun")


def test_foreign_schema_is_refused(tmp_path):
    (tmp_path / "study.json").write_text('{"schema": 99}')
    with pytest.raises(InvalidInput, match="99"):
        load(tmp_path)


def test_unwritable_directory_is_refused(tmp_path):
    table = curve_rows().assign(win_rate=np.nan)
    path = write(tmp_path / "kept", header("alpha", (), ("online", "offline"), table), table)
    (path / "report").write_text("a file where the folder should be")
    with pytest.raises(InvalidInput, match="cannot be written"):
        report.build(path)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0612, "probability", "+6.1 points"),
        (-0.0612, "probability per nats", "−6.12 points per nats"),
        (0.62, "share", "62%"),
        (0.0, "share of checkpoints", "0% of checkpoints"),
        (-3.456, "nats", "−3.46 nats"),
        (0.0123, "log KL", "+0.012 log KL"),
        (12.34, "units", "+12.3"),
    ],
)
def test_amounts_are_read_aloud(value, unit, text):
    assert amount(value, unit) == text


def test_numbers_never_show_a_negative_zero():
    assert number(-0.0001, "probability") == "0.0"


def test_many_arms_are_told_apart():
    arms = [f"arm {index}" for index in range(40)]
    looks = {(one.colour, one.marker) for one in (style.look(arms, arm) for arm in arms)}
    assert len(looks) == len(arms)


def test_spread_labels_keep_their_distance_and_their_middle():
    assert style.spread([0.0, 0.0, 5.0], 1.0) == [-0.5, 0.5, 5.0]
    assert style.spread([3.0, 1.0], 1.0) == [3.0, 1.0]


def test_levels_are_named_by_what_differs():
    table = pd.DataFrame({"loss": ["Ipo(beta=0.1,mean=True)", "Ipo(beta=0.3,mean=True)"]})
    names = inputs.level_names(results({}, table), "loss", {})
    assert list(names.values()) == ["beta=0.1", "beta=0.3"]


def test_claims_are_in_the_papers_order():
    ids = ["B2", "C10", "C2", "B1", "C1"]
    assert sorted(ids, key=rank) == ["C1", "C2", "C10", "B1", "B2"]
