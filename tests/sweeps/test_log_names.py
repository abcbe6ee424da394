"""Names of logs, pages and figures: short, different where what they stand for differs, and written beside it."""

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tensorboard import HEADER, events, hparams, logs, table, write

from sweeps.store.file_names import MOST_BYTES, figure_stem, file_name, stem, study_stem
from sweeps.tensorboard import refresh, writer
from sweeps.tensorboard.log_names import labels, run_labels
from sweeps.tensorboard.texts import Logged
from sweeps.tensorboard.writer import More

LONG = [f"{'Flips(labeler=' * depth}x{')' * depth}" for depth in (16, 17, 18)]
#: Values of one path that the names of before could not tell apart, or could not hold.
ALIKE: dict[str, list[Any]] = {
    "digits": [0.1234567, 0.1234568],
    "neighbours": [0.1, math.nextafter(0.1, 1)],
    "tiny": [1e-300, 1.0000001e-300],
    "large": [1e16, -1e16],
    "replaced": ["Ties(a=0.1)/é", "Ties(a=0.1)/ü"],
    "long": LONG,
    "long at the end": ["a" * 300 + "b", "a" * 300 + "c"],
    "wide letters": ["é" * 120, "é" * 119 + "e"],
    "case": ["Ipo", "ipo"],
    "spaces": ["a b", "a_b", "a  b"],
    "dots": [".", "..", "", "..."],
    "paths": ["../../x", "..__..__x", "/", "a/b"],
    "missing": [None, "None"],
    "not finite": [math.inf, "inf", -math.inf],
    "numbers as texts": [1.0, "1"],
    "tuples": [(1, 2), (1, 3), "(1, 2)"],
    "devices": ["con", "CON", "nul.x"],
    "marked": ["a b", file_name("a b")],
    "controls": ["a\nb", "a\0b", "a\tb"],
}


def expect_names(names: list[str]) -> None:
    """All different, also where case does not count, and each fit for every file system."""
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        for part in name.split("/"):
            assert part.isascii()
            assert part not in ("", ".", "..")
            assert len(part) <= MOST_BYTES
            assert not set(part) & set('<>:"\\|?*\n\0')


@pytest.mark.parametrize("values", ALIKE.values(), ids=ALIKE)
def test_values_that_are_alike_have_logs_of_their_own(values: list[Any]) -> None:
    keys = ["arm", "loss.beta"]
    expect_names(labels(keys, [("online", value) for value in values]))
    arms = dict.fromkeys(map(str, values))
    expect_names(labels(["arm"], [(arm,) for arm in arms], ["study"]))
    rows = [
        {"arm": "a", "loss.beta": x, "seed": s, "run": f"{x}{s}"} for x in values for s in (0, 1)
    ]
    expect_names(run_labels(keys, rows))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(st.text(max_size=300), unique=True, min_size=2, max_size=6))
def test_texts_of_any_kind_have_names_of_their_own(texts: list[str]) -> None:
    expect_names(labels(["arm"], [(text,) for text in texts]))
    names = {file_name(text) for text in texts}
    assert len(names) == len(texts)
    assert len({stem(text) for text in texts}) == len(texts)
    assert all(len(study_stem(text).encode()) <= MOST_BYTES for text in texts)


def test_names_stay_readable_and_do_not_depend_on_each_other() -> None:
    keys = ["arm", "optimiser.learning_rate", "loss.beta"]
    many = [("online", 10.0**-k, 0.1) for k in range(8)] + [("é", 1.0, 2.0), ("x" * 300, 1.0, 2.0)]
    whole = labels(keys, many)
    assert whole[:3] == [
        "online/learning_rate=1,beta=0.1",
        "online/learning_rate=0.1,beta=0.1",
        "online/learning_rate=0.01,beta=0.1",
    ]
    assert whole[9].startswith("x" * 80)
    for name, setting in zip(whole, many, strict=True):
        assert labels(keys, [setting]) == [name]
    assert labels(["arm", "data.seed", "proxy.seed"], [("a", 1, 2)]) == [
        "a/data.seed=1,proxy.seed=2"
    ]


def test_runs_of_one_setting_and_seed_are_told_apart() -> None:
    """As runs are whose files, not configs, differ."""
    rows = [{"arm": "a", "seed": 0, "run": run} for run in ("0a", "0b")]
    expect_names(run_labels(["arm"], rows))


def test_the_study_has_its_own_log(tmp_path: Path) -> None:
    """An arm may be called as that log is."""
    results = table(rates=1).replace({"arm": {"arm0": "study", "arm1": "Study"}})
    root = write(results, HEADER, tmp_path)
    assert len(logs(root)) == 3


def with_values(values: list[Any]) -> pd.DataFrame:
    """Results of one arm with a path of these values."""
    parts = [table(arms=1, rates=1).assign(run=f"{k}") for k in range(len(values))]
    for part, value in zip(parts, values, strict=True):
        part["loss.beta"] = pd.Series([value] * len(part), dtype=object)
        part["run"] = [f"{run}-{seed}" for run, seed in zip(part["run"], part["seed"], strict=True)]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("kind", ["digits", "replaced", "long", "case", "tuples", "dots"])
def test_names_are_written_beside_what_they_stand_for(tmp_path: Path, kind: str) -> None:
    """In a file beside the logs, on a page, and, whole, as hyper-parameters."""
    values = ALIKE[kind]
    results = with_values(values)
    root = write(results, HEADER, tmp_path, more=More(runs=True, hparams=True))
    found = {name: json.loads((root.parent / name / "names.json").read_text()) for name in
             ("summary", "runs", "hparams")}  # fmt: skip
    for name, meanings in found.items():
        assert set(meanings) == logs(root.parent / name) - {".", "study"}
    stored = [value if isinstance(value, str | float) else str(value) for value in values]
    assert [one["loss.beta"] for one in found["summary"].values()] == stored
    assert len(found["hparams"]) == 3 * len(values)
    for name, one in found["summary"].items():
        start = hparams(root / name)["session_start_info"].session_start_info.hparams
        own = start["loss.beta"]
        assert own.string_value == one["loss.beta"] or own.number_value == one["loss.beta"]
    pages = [
        value.tensor.string_val[0].decode()
        for event in events(root / "study")
        for value in event.summary.value
        if value.tag.startswith("study/6_logs")
    ]
    shown = [name for name in found["summary"] if "~" in name]
    assert len(pages) == bool(shown)
    assert all(f"`{name}`" in page for page in pages for name in shown)


def test_studies_have_directories_of_their_own(tmp_path: Path) -> None:
    names = ["a b", "a_b", "../x", "n" * 300, "Gap", "gap"]
    studies = [Logged(table(rates=1), HEADER | {"study": name}) for name in names]
    writer.write(studies, tmp_path, More(hparams=True))
    root = tmp_path / "tensorboard"
    places = {name.partition("/")[0] for name in logs(root / "summary")}
    expect_names(sorted(places))
    assert len(places) == len(names)
    assert {path.name for path in tmp_path.iterdir()} == {"tensorboard"}


def test_pages_and_figures_have_names_of_their_own() -> None:
    studies = ["gap", "a b", "a-b", "index", "Methods", "transfer", "transfer-x", "é", "n" * 300]
    stems = [study_stem(study) for study in studies]
    assert len({one.casefold() for one in stems}) == len(studies)
    assert not {"index", "methods", "provenance", "transfer"} & {one.casefold() for one in stems}
    assert study_stem("gap") == "gap"
    assert study_stem("é") == unicodedata.normalize("NFC", "é")
    assert figure_stem("gap", "levels-loss.beta") == "gap-levels-loss-beta"
    assert not figure_stem("transfer", "x").startswith("transfer-")
    assert len(figure_stem("n" * 300, "levels-" + "x" * 300).encode()) < 250


def test_figures_are_those_of_their_study(tmp_path: Path) -> None:
    """Where a study's name begins as another's does, or has letters that stand for others in patterns."""
    folder = tmp_path / "report" / "figures"
    folder.mkdir(parents=True)
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(8)
    names = ["gap", "gap-noisy", "a[b]", "cut"]
    for name in names:
        path = folder / f"{figure_stem(name, 'curves')}.png"
        path.write_bytes(b"" if name == "cut" else png)
    found = refresh.figures(tmp_path, names)
    assert {name: [path.name for path in own] for name, own in found.items()} == {
        "gap": ["gap-curves.png"],
        "gap-noisy": ["gap-noisy-curves.png"],
        "a[b]": [f"{study_stem('a[b]')}-curves.png"],
        "cut": [],
    }
