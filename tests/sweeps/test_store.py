"""The results store: round trips, resuming, refusals, and survival of kills."""

import errno
import fcntl
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_rows import columns

from sweeps.store import parquet
from sweeps.store.parquet import value_in
from sweeps.store.store import METRICS, SCHEMA, Store
from testbed.errors import InvalidInput

HEADER: dict[str, Any] = {
    "study": "small",
    "preset": "laptop",
    "seeds": 2,
    "base": {"kind": "Small", "loss": {"kind": "Ipo", "beta": 0.1}, "steps": 100},
    "settings": {},
    "arms": {"online": {"source": "Online"}},
    "axes": {"loss.beta": [0.1, 1.0]},
    "claims": [{"id": "C2"}],
    "source": "abc",
    "created": "2024-01-01T00:00:00+00:00",
}


def rows(run: str, arm: str = "online", seed: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """Three evaluations of one run, as a chunk delivers them."""
    config = json.dumps(HEADER["base"] | {"seed": seed})
    return [
        {"run": run, "study": "small", "arm": arm, "task": "Neural", "seed": seed}
        | {"loss.beta": 0.1, "step": 10 * k, "evaluation": k, "diverged_step": -1, "prompts": 64}
        | {"kl": np.float32(0.1 * k), "win_rate": 0.5, "train_loss": math.nan if k == 0 else 1.0}
        | {"config": config, "stack": 4, "devices": 2}
        | changes
        for k in range(3)
    ]


def test_round_trip_and_resume(tmp_path: Path) -> None:
    with Store.create_or_open(tmp_path / "out", HEADER) as store:
        assert store.finished() == set()
        assert store.read().empty
        store.append(columns(rows("b", seed=1) + rows("a")))
    with Store.create_or_open(tmp_path / "out", HEADER) as store:
        assert store.finished() == {"a", "b"}
        store.append(columns(rows("c")))
    table = Store.open(tmp_path / "out").read()
    assert list(table["run"]) == list("aaacccbbb")
    assert list(table["evaluation"]) == [0, 1, 2] * 3
    assert table["kl"].dtype == np.float64
    assert table["kl"][1] == np.float32(0.1)
    assert table["train_loss"].isna().tolist() == [True, False, False] * 3
    assert table["step"].dtype == np.int64
    assert json.loads(table["config"][0])["loss"]["kind"] == "Ipo"


def test_repeated_rows_count_once(tmp_path: Path) -> None:
    with Store.create_or_open(tmp_path, HEADER) as store:
        first = store.append(columns(rows("a")))
        assert store.append(columns(rows("a"))) == first  # same content, same name
        store.append(columns(rows("a") + rows("b")))
        # One experiment may serve two arms.
        store.append(columns(rows("a", arm="offline")))
        assert len(list((tmp_path / "blocks").iterdir())) == 3
        assert len(store.read()) == 9


def test_columns_are_stored_as_given(tmp_path: Path) -> None:
    """Arrays of numpy and arrow, lists, gaps: what `read` gives is what `append` got."""
    given: dict[str, Any] = {
        "run": np.array(["a", "a", "b"], dtype=object),
        "arm": pa.array(["online"] * 3).dictionary_encode(),
        "study": ["small"] * 3,
        "seed": np.zeros(3, np.int32),
        "evaluation": [0, 1, 0],
        "config": pa.array(["{}", "{}", '{"seed": 1}']),
        "kl": np.array([0.1, np.nan, 3.0], np.float32),
        "win_rate": [None, 0.5, 1],
        "entropy": np.array([1, 2, 3]),
        "loss.beta": [1, 0.5, None],
        "ground.parameters": np.array([7.0, 7.0, 8.0]),
        "flag": [True, None, False],
        "whole": np.array([1, 2, 3], np.int16),
    }
    with Store.create_or_open(tmp_path, HEADER) as store:
        path = store.append(given)
    table = Store.open(tmp_path).read()
    assert list(table["run"]) == ["a", "a", "b"]
    for name, kind in (("kl", np.float64), ("win_rate", np.float64), ("entropy", np.float64)):
        assert table[name].dtype == kind
        np.testing.assert_array_equal(table[name], np.array(given[name], np.float64))
    np.testing.assert_array_equal(table["loss.beta"], [1.0, 0.5, np.nan])
    assert table["whole"].dtype.kind == "i"
    assert list(table["flag"]) == [True, None, False]
    assert table["config"].dtype == "category"
    # Rows that come one by one are the same.
    again = columns(pq.read_table(path).to_pylist())
    same(parquet.long([parquet.typed(again)], ()), table[list(given)])
    with pytest.raises(ValueError, match=r"rows lack the columns \['config'\]"):
        parquet.typed({name: given[name] for name in given if name != "config"})
    with pytest.raises(ValueError, match="equally long"):
        parquet.typed(given | {"kl": [1.0]})


def test_vectors_are_read_when_they_are_wanted(tmp_path: Path) -> None:
    """Through merging, repeated rows and rows without vectors; kept out of the table by default."""
    name, other = parquet.VECTORS
    cells = [np.array([0.1, -2.0, np.nan, 7e4]), np.array([1.0, 0.5]), None]
    with np.errstate(over="ignore"):
        stored = [None if cell is None else parquet.packed(cell) for cell in cells]
    given = rows("a", **{other: parquet.packed(np.zeros(3))})
    given = [row | {name: cell} for row, cell in zip(given, stored, strict=True)]
    with Store.create_or_open(tmp_path, HEADER) as store:
        store.append(columns(given))
        store.append(columns(rows("b")))
        store.append(columns(given[:2]))
    assert len(list((tmp_path / "blocks").iterdir())) == 1
    store = Store.open(tmp_path)
    assert not {name, other} & set(store.read().columns)
    table = store.read(by_prompt=True)
    assert [cell or None for cell in table[name]] == [*stored, None, None, None]
    found = store.by_prompt(name)
    assert found.keys() == {("a", 0), ("a", 1)}
    # 0.1 in 16 bits is 1638 / 2^14; 70,000 is beyond their range.
    np.testing.assert_array_equal(found["a", 0], [1638 / 2**14, -2.0, np.nan, np.inf])
    np.testing.assert_array_equal(found["a", 1], [1.0, 0.5])
    assert store.by_prompt(name, {("a", 1), ("c", 0)}).keys() == {("a", 1)}
    assert store.by_prompt(other)["a", 2].tolist() == [0.0, 0.0, 0.0]
    # Rows of a table that was read are stored as they were: studies exchange runs.
    again = parquet.typed(
        {key: table[key].to_numpy() for key in ("run", "arm", "seed", "evaluation", "config", name)}
    )
    assert again.column(name).to_pylist() == [*stored, None, None, None]
    with pytest.raises(InvalidInput, match="hold 3 bytes in column golden_reward_by_prompt"):
        parquet.vectors([parquet.typed(columns([given[0] | {name: b"odd"}]))], name)


def same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """Equal, but for the order in which categories were met."""
    pd.testing.assert_frame_equal(left, right, check_categorical=False)


def many(count: int, **changes: Any) -> list[list[dict[str, Any]]]:
    """The rows of runs of two arms and three seeds, run by run in no order."""
    arms = ("online", "offline")
    made = [rows(f"{k:04x}", arms[k % 2], k % 3, kl=k / 7, **changes) for k in range(count)]
    return random.Random(0).sample(made, count)


def test_many_blocks_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = many(40)
    later = [[row | {"ground.new": 1.0, "loss.beta": 2} for row in part] for part in parts[20:]]
    for part in parts[:20]:
        for row in part:
            del row["loss.beta"]  # filled in from the config
    whole = [row for part in (*parts[:20], *later) for row in part]
    with Store.create_or_open(tmp_path / "one", HEADER) as store:
        store.append(columns(whole))
    expected = Store.open(tmp_path / "one").read()
    monkeypatch.setattr("sweeps.store.store.MERGED_ROWS", 30)
    with Store.create_or_open(tmp_path / "many", HEADER) as store:
        for part in (*parts[:20], *later, *parts[:5]):
            store.append(columns(part))
            held = store.held()
        assert held == Store.open(tmp_path / "one").held()
        # Ten runs of three rows are merged whenever there are so many.
        assert len(list((tmp_path / "many" / "blocks").iterdir())) == 4 + 5
        table = Store.open(tmp_path / "many").read()
        same(table[expected.columns], expected)
    assert len(list((tmp_path / "many" / "blocks").iterdir())) == 5
    table = Store.open(tmp_path / "many").read()
    same(table[expected.columns], expected)
    assert expected["loss.beta"].isin([0.1, 2.0]).all()
    order = expected[["arm", "seed", "run", "evaluation"]]
    assert order.equals(order.drop_duplicates().sort_values(list(order), ignore_index=True))


def test_a_kill_while_merging_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    store = Store.create_or_open(tmp_path, HEADER)
    for part in many(20):
        store.append(columns(part))
    expected = store.read()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            store.merge()
    store.close()
    assert len(list((tmp_path / "blocks").iterdir())) == 21
    same(Store.open(tmp_path).read(), expected)
    Store.create_or_open(tmp_path, HEADER).close()  # merges what the other left
    assert len(list((tmp_path / "blocks").iterdir())) == 1
    same(Store.open(tmp_path).read(), expected)


def test_a_full_disk_leaves_blocks_unmerged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with Store.create_or_open(tmp_path, HEADER) as store:
        for part in many(3):
            store.append(columns(part))
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            store.merge()
    assert len(list((tmp_path / "blocks").iterdir())) == 3
    assert len(Store.open(tmp_path).read()) == 9


def test_reading_while_blocks_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, todo = parquet.decode, [lambda: writer.merge(), lambda: writer.append(late)]

    def meanwhile(*arguments: Any) -> Any:
        if todo:
            todo.pop()()
        return decode(*arguments)

    late = columns(rows("late"))
    with Store.create_or_open(tmp_path, HEADER) as writer:
        for part in many(8):
            writer.append(columns(part))
        monkeypatch.setattr(parquet, "decode", meanwhile)
        table = Store.open(tmp_path).read()
    monkeypatch.setattr(parquet, "decode", decode)
    same(table, Store.open(tmp_path).read())
    assert len(table) == 27


PLANNED = {"online": ["b", "a"], "offline": []}


def test_planned_runs_are_counted_in_the_header_and_listed_beside_it(tmp_path: Path) -> None:
    with Store.create_or_open(tmp_path, HEADER | {"planned": PLANNED}) as store:
        store.note(seconds=1.0)
        assert store.header["planned"] == PLANNED
    assert json.loads((tmp_path / "study.json").read_text())["planned"] == {
        "online": 2,
        "offline": 0,
    }
    more = HEADER | {"planned": {"online": ["c", "a"], "third": ["d"]}}
    Store.create_or_open(tmp_path, more).close()
    assert Store.open(tmp_path).header["planned"] == {
        "online": ["b", "a", "c"],
        "offline": [],
        "third": ["d"],
    }
    (tmp_path / "planned.parquet").unlink()
    with pytest.raises(InvalidInput, match=r"planned\.parquet is not readable: restore it, or"):
        Store.open(tmp_path)


def test_stores_of_the_schema_before_are_read_and_joined(tmp_path: Path) -> None:
    with Store.create_or_open(tmp_path, HEADER) as store:
        store.append(columns(rows("a")))
    study = tmp_path / "study.json"
    old = json.loads(study.read_text()) | {"schema": 2, "planned": PLANNED}
    study.write_text(json.dumps(old))
    assert Store.open(tmp_path).header["planned"] == PLANNED
    assert Store.open(tmp_path).finished() == {"a"}
    Store.create_or_open(tmp_path, HEADER | {"planned": {"online": ["c"]}}).close()
    assert json.loads(study.read_text())["schema"] == SCHEMA
    assert Store.open(tmp_path).header["planned"] == {"online": ["b", "a", "c"], "offline": []}


def test_files_are_as_documented(tmp_path: Path) -> None:
    with Store.create_or_open(tmp_path, HEADER) as store:
        path = store.append(columns(rows("a") * 100))
    group = pq.ParquetFile(path).metadata.row_group(0)
    stored = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {column.compression for column in stored.values()} == {"ZSTD"}
    assert "BYTE_STREAM_SPLIT" in stored["kl"].encodings
    assert "RLE_DICTIONARY" in stored["config"].encodings
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "blocks", "study.json"]


def test_an_axis_added_later_is_filled_in_from_configs(tmp_path: Path) -> None:
    with Store.create_or_open(tmp_path, HEADER) as store:
        store.append(columns(rows("a")))
    later = HEADER | {"axes": {"loss.beta": [2.0], "steps": [100, 200], "loss": ["Ipo", "Dpo"]}}
    with Store.create_or_open(tmp_path, later) as store:
        store.append(columns(rows("b", **{"steps": 200, "loss.beta": 2.0, "loss": "Dpo"})))
        assert store.header["axes"]["loss.beta"] == [0.1, 1.0, 2.0]
    table = Store.open(tmp_path).read()
    assert list(table["steps"]) == [100] * 3 + [200] * 3
    assert table["steps"].dtype == np.int64
    assert list(table["loss"]) == ["Ipo"] * 3 + ["Dpo"] * 3
    assert list(table["loss.beta"]) == [0.1] * 3 + [2.0] * 3
    assert value_in({"loss": {"kind": "Ipo"}}, "loss.beta") is None


def test_joining_keeps_what_was_fixed_before_the_run(tmp_path: Path) -> None:
    Store.create_or_open(tmp_path, HEADER).close()
    more = HEADER | {"seeds": 5, "preset": "paper", "claims": [{"id": "C9"}], "source": "def"}
    more["arms"] = {"offline": {"source": "Offline"}}
    with Store.create_or_open(tmp_path, more) as store:
        header = store.header
    assert header == Store.open(tmp_path).header
    assert (header["seeds"], header["preset"], header["source"]) == (5, "paper", "abc")
    assert header["claims"] == [{"id": "C2"}]
    assert set(header["arms"]) == {"online", "offline"}
    assert [session["source"] for session in header["sessions"]] == ["abc", "def"]
    with Store.create_or_open(tmp_path, HEADER) as store:
        assert store.header["seeds"] == 5


def test_a_session_may_plan_further_seeds(tmp_path: Path) -> None:
    """In the same session, whose facts stay; facts about the study survive sessions that do not mention them."""
    first = HEADER | {"planned": {"online": ["a"]}, "seeds": 8}
    with Store.create_or_open(tmp_path, first) as store:
        store.note(seconds=1.0)
        looks = [{"worlds": 8, "points": 2, "widths": []}]
        facts = {"points": {"C2": 2}, "max_worlds": 32, "minutes": None, "ended": None}
        store.keep(precision={**facts, "looks": looks})
        store.plan_further(first | {"planned": {"online": ["a", "b"]}, "seeds": 10})
        with pytest.raises(InvalidInput, match="holds the seeds 0:10, this command runs 100:112"):
            store.plan_further(first | {"seeds": [100, 112]})
        assert store.header == Store.open(tmp_path).header
    Store.create_or_open(tmp_path, HEADER).close()
    header = Store.open(tmp_path).header
    assert (header["seeds"], header["planned"]) == (10, {"online": ["a", "b"]})
    assert [session["seeds"] for session in header["sessions"]] == [10, 2]
    assert header["sessions"][0]["seconds"] == 1.0
    assert header["precision"]["looks"] == looks
    reader = Store.open(tmp_path)
    for change in (lambda: reader.keep(a=1), lambda: reader.plan_further(first)):
        with pytest.raises(ValueError, match="opened to read"):
            change()
    header = json.loads((tmp_path / "study.json").read_text())
    header["precision"]["looks"] = [{"worlds": "eight"}]
    (tmp_path / "study.json").write_text(json.dumps(header))
    with pytest.raises(InvalidInput, match=r"precision\.looks"):
        Store.open(tmp_path)


def test_joining_unites_what_arms_run_besides_the_axes(tmp_path: Path) -> None:
    first = HEADER | {"further": {"offline": [{"rate": 0.1, "steps": 500}]}}
    second = HEADER | {"further": {"offline": [{"rate": 0.2}], "online": [{"rate": 0.2}]}}
    for header in (HEADER, first, second, first):
        Store.create_or_open(tmp_path, header).close()
    assert Store.open(tmp_path).header["further"] == {
        "offline": [{"rate": 0.1, "steps": 500}, {"rate": 0.2}],
        "online": [{"rate": 0.2}],
    }


def test_infinite_values_of_an_axis(tmp_path: Path) -> None:
    header = HEADER | {"axes": {"source.refresh": [1.0, math.inf]}}
    with Store.create_or_open(tmp_path, header) as store:
        store.append(columns(rows("a", **{"source.refresh": math.inf})))
    with Store.create_or_open(tmp_path, header) as store:
        assert store.header["axes"] == {"source.refresh": [1.0, "inf"]}
        assert list(store.read()["source.refresh"]) == [math.inf] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study": "other"}, "holds study 'small', this command runs 'other'"),
        (
            {"base": HEADER["base"] | {"steps": 7}},
            "holds runs with steps=100, this command has 7",
        ),
        (
            {"base": HEADER["base"] | {"loss": {"kind": "Dpo", "beta": 0.1}}},
            "holds runs with loss=Ipo, this command has Dpo",
        ),
        ({"base": HEADER["base"] | {"new": 1}}, "holds runs with new=nothing, this command has 1"),
        ({"arms": {"online": {"source": "Offline"}}}, "arm online: source=Online"),
        ({"settings": {"source.x": 3}}, r"source\.x=nothing, this command has 3"),
    ],
)
def test_refuses_to_mix_results(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    Store.create_or_open(tmp_path, HEADER).close()
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(InvalidInput, match=message):
        Store.create_or_open(tmp_path, HEADER | changes)
    assert (tmp_path / "study.json").read_bytes() == before
    Store.create_or_open(tmp_path, HEADER).close()  # the refusal left no lock


def test_refuses_directories_that_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InvalidInput, match=r"neither empty nor a store .*thesis\.tex"):
        Store.create_or_open(tmp_path, HEADER)
    with pytest.raises(InvalidInput, match="holds no results"):
        Store.open(tmp_path)
    with pytest.raises(InvalidInput, match="cannot be written"):
        Store.create_or_open(tmp_path / "thesis.tex" / "out", HEADER)
    with pytest.raises(InvalidInput, match="cannot be written"):
        Store.create_or_open("/proc/testbed", HEADER)


@pytest.mark.parametrize("step", range(5))
def test_a_store_that_was_hardly_begun_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The process ends before one of the changes on disk that make a store."""
    left, header = iter(range(step)), HEADER | {"planned": {"online": ["a"]}}

    def until_then(function: Any) -> Any:
        def change(*arguments: Any, **options: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return change

    with monkeypatch.context() as patch:
        for place, name in [(os, "replace"), (Path, "mkdir")]:
            patch.setattr(place, name, until_then(getattr(place, name)))
        if step < 4:
            with pytest.raises(KeyboardInterrupt):
                Store.create_or_open(tmp_path / "out", header)
        else:
            Store.create_or_open(tmp_path / "out", header).close()  # four changes are all
    with Store.create_or_open(tmp_path / "out", header) as store:
        store.append(columns(rows("a")))
    assert Store.open(tmp_path / "out").finished() == {"a"}


def test_refuses_other_schemas_and_damage(tmp_path: Path) -> None:
    with Store.create_or_open(tmp_path, HEADER) as store:
        block = store.append(columns(rows("a")))
    block.write_bytes(block.read_bytes()[:100])
    with pytest.raises(InvalidInput, match="is damaged: delete it"):
        Store.open(tmp_path).read()
    study = tmp_path / "study.json"
    study.write_text(json.dumps(json.loads(study.read_text()) | {"schema": 99}))
    for access in (Store.open, lambda path: Store.create_or_open(path, HEADER)):
        with pytest.raises(InvalidInput, match=f"has schema 99, this version .*schema {SCHEMA}"):
            access(tmp_path)
    study.write_text("{")
    with pytest.raises(InvalidInput, match="not readable as JSON: restore it, or choose another"):
        Store.open(tmp_path)


def test_a_file_system_without_locks_is_not_taken_for_another_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InvalidInput, match=r"cannot be written \(No locks available\)"):
        Store.create_or_open(tmp_path, HEADER)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Store.create_or_open(tmp_path, HEADER) as store:
        with pytest.raises(InvalidInput, match="in use by another"):
            Store.create_or_open(tmp_path, HEADER)
        store.append(columns(rows("a")))
        assert Store.open(tmp_path).finished() == {"a"}  # readers need no lock
    Store.create_or_open(tmp_path, HEADER).close()
    with pytest.raises(ValueError, match="opened to read"):
        Store.open(tmp_path).append(columns(rows("b")))


def test_a_disk_error_leaves_nothing_of_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with Store.create_or_open(tmp_path, HEADER) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(InvalidInput, match="No space left on device"):
                store.append(columns(rows("a")))
        assert list((tmp_path / "blocks").iterdir()) == []
        store.append(columns(rows("a")))
        assert store.finished() == {"a"}


WRITER = textwrap.dedent("""
    import sys
    from store_rows import columns
    from sweeps.store.store import METRICS, Store
    from test_store_rows import HEADER
    k = int(sys.argv[2])
    with Store.create_or_open(sys.argv[1], HEADER) as store:
        done = store.finished()
        print("ready", flush=True)
        while True:
            k += 1
            run = f"{k:016x}"
            store.append(columns(
                {"run": run, "arm": "online", "seed": k, "evaluation": e, "config": "{}"}
                | {metric: e / (k + 1) for metric in METRICS}
                for e in range(200)
            ))
""")


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_blocks(tmp_path: Path) -> None:
    (tmp_path / "test_store_rows.py").write_text(f"HEADER = {HEADER!r}")
    out = tmp_path / "out"
    folders = [str(tmp_path), os.getcwd(), str(Path(__file__).parents[1] / "support")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    delays = random.Random(0)
    for attempt in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(out), str(attempt * 10**6)],
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(delays.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        table = Store.open(out).read()
        counts = table.groupby("run").size()
        assert (counts == 200).all()
        seeds = table["run"].map(lambda run: int(run, 16))
        np.testing.assert_array_equal(table["kl"], table["evaluation"] / (seeds + 1))
    assert len(counts) > 6
    # The next writer takes the dead one's lock and clears what it left.
    (out / "blocks" / ".0000.tmp").write_bytes(b"half")
    Store.create_or_open(out, HEADER).close()
    assert not list((out / "blocks").glob(".*"))
    assert isinstance(table, pd.DataFrame)
    assert set(METRICS) <= set(table)
