"""TensorBoard's logs, read back from the event files."""

import itertools
import json
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.layout_pb2 import Layout
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from sweeps.tensorboard import hparams as outcomes
from sweeps.tensorboard import writer
from sweeps.tensorboard.texts import Logged
from sweeps.tensorboard.writer import More
from testbed.errors import InvalidInput

HEADER: dict[str, Any] = {
    "study": "small",
    "title": "A small study",
    "question": "Does it work?",
    "preset": "laptop",
    "seeds": 3,
    "axes": {"optimiser.learning_rate": [0.001, 0.01], "loss.beta": [0.1]},
    "claims": [{"id": "C2", "text": "online beats offline", "against": "a gap below zero"}],
    "source": "abc",
}
VERDICT = {
    "claim": "C2",
    "task": "Neural",
    "verdict": "reproduced",
    "estimate": 0.04321,
    "interval": [0.01, 0.08],
}


def table(arms: int = 2, rates: int = 2, seeds: int = 3) -> pd.DataFrame:
    """A long table in which the win rate is arm + rate/10 + seed/100 + step/1000."""
    return pd.DataFrame(
        {
            "run": f"{arm}-{rate}-{seed}",
            "arm": f"arm{arm}",
            "task": "Neural",
            "seed": seed,
            "optimiser.learning_rate": 10.0 ** -(rate + 1),
            "loss.beta": 0.1,
            "step": step,
            "evaluation": step // 10,
            "diverged_step": 10 if (arm, rate, seed) == (1, 1, 2) else -1,
            "win_rate": np.float32(arm + rate / 10 + seed / 100 + step / 1000),
            "kl": float(step),
            "train_loss": math.nan if step == 0 else 1.0,
            "data_accuracy": math.inf if step == 20 else 0.5,
        }
        for arm in range(arms)
        for rate in range(rates)
        for seed in range(seeds)
        for step in (0, 10, 20)
    )


def events(directory: Path) -> Iterator[Event]:
    """Events of a log: records of length, its checksum, data, its checksum (TFRecord format)."""
    for file in directory.glob("events.out.tfevents.*"):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event()
            event.ParseFromString(data[12 : 12 + length])
            yield event
            data = data[16 + length :]


def scalars(directory: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for event in events(directory):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def logs(root: Path) -> set[str]:
    return {str(f.parent.relative_to(root)) for f in root.rglob("events.out.tfevents.*")}


def write(
    results: pd.DataFrame,
    header: dict[str, Any],
    directory: Path,
    more: More | None = None,
    **shown: Any,
) -> Path:
    """Write one study; the summary's directory."""
    writer.write([Logged(results, header, **shown)], directory, more)
    return directory / "tensorboard" / "summary"


def test_summary_holds_medians_over_seeds(tmp_path: Path) -> None:
    root = write(table(), HEADER, tmp_path)
    assert root == tmp_path / "tensorboard" / "summary"
    # Only what varies is in the names: beta has one value here.
    assert logs(root) == {
        "study",
        "arm0/learning_rate=0.1",
        "arm0/learning_rate=0.01",
        "arm1/learning_rate=0.1",
        "arm1/learning_rate=0.01",
    }
    found = scalars(root / "arm1" / "learning_rate=0.01")
    assert found["generation/win_rate"] == pytest.approx({0: 1.11, 10: 1.12, 20: 1.13})
    assert found["budget/kl"] == {0: 0, 10: 10, 20: 20}
    # NaN and infinities are left out, not written as numbers.
    assert found["train/loss"] == {10: 1, 20: 1}
    assert found["classification/on_golden_data"] == {0: 0.5, 10: 0.5}
    # The band: quartiles over the seeds.
    assert found["quartiles/generation/win_rate/lower"][20] == pytest.approx(1.125)
    assert found["quartiles/generation/win_rate/upper"][20] == pytest.approx(1.135)
    # One of three seeds diverged at step 10.
    assert found["train/diverged"] == pytest.approx({0: 0, 10: 1 / 3, 20: 1 / 3})


def test_text_and_figures(tmp_path: Path) -> None:
    figure = tmp_path / "curves.png"
    matplotlib.image.imsave(figure, np.zeros((20, 30, 3)))
    root = write(table(), HEADER, tmp_path, figures=[figure], verdicts=[VERDICT])
    values = {value.tag: value for event in events(root / "study") for value in event.summary.value}
    image = values["figures/curves"].image
    assert (image.width, image.height) == (30, 20)
    assert image.encoded_image_string == figure.read_bytes()
    texts = {
        tag: value.tensor.string_val[0].decode() for tag, value in values.items() if "study" in tag
    }
    text = " ".join(texts.values())
    assert "online beats offline" in text
    assert "| C2 | Neural | reproduced | 0.0432 | 0.01 to 0.08 |" in text
    assert "12 runs, of which 1 diverged" in text
    assert "source: `abc`" in texts["study/5_provenance/text_summary"]


def test_answers_stand_beside_those_of_sft(tmp_path: Path) -> None:
    """Of each arm the run of the first seed that wins most in the end: its first and its last answers, safe in a
    cell."""
    results = table()
    said = {0: [["Is it? ", "no . "]], 20: [["Is it? ", "yes | *so*\n<b> ."]]}
    results["answers"] = [
        json.dumps(said[step]) if step in said else None for step in results["step"]
    ]
    best = results["run"].isin(["0-1-0", "1-1-0"])
    results.loc[~best & (results["step"] == 20), "answers"] = json.dumps([["?", "a worse run's"]])
    root = write(results, HEADER, tmp_path)
    (page,) = (
        value.tensor.string_val[0].decode()
        for event in events(root / "study")
        for value in event.summary.value
        if value.tag.startswith("study/4_answers")
    )
    head, _, *rows = page.splitlines()
    assert head == "| task | arm | prompt | SFT | trained |"
    assert rows == [
        rf"| Neural | arm{arm} | Is it? | no . | yes \| \*so\* \<b\> . |" for arm in (0, 1)
    ]


def test_histograms_are_the_shares_between_quantiles(tmp_path: Path) -> None:
    results = table(arms=1, rates=1).assign(prompts=200)
    for number in range(1, 6):
        # The median over the seeds 0, 1, 2 is that of seed 1.
        results[f"golden_reward_quantile_{number}"] = 10.0 * number + results["seed"] - 1
    root = write(results, HEADER, tmp_path)
    found = {
        event.step: value.histo
        for event in events(root / "arm0")
        for value in event.summary.value
        if value.tag == "samples/golden_reward"
    }
    assert list(found) == [0, 10, 20]
    shown = found[10]
    assert list(shown.bucket_limit) == [10, 20, 30, 40, 50]
    assert list(shown.bucket) == pytest.approx([0, 30, 50, 50, 30])
    assert (shown.min, shown.max, shown.num) == pytest.approx((10, 50, 160))
    assert shown.sum == pytest.approx(30 * 15 + 50 * 25 + 50 * 35 + 30 * 45)
    assert shown.sum_squares == pytest.approx(30 * 225 + 50 * 625 + 50 * 1225 + 30 * 2025)


def test_effects_of_worlds_are_histograms_and_their_half_widths_curves(tmp_path: Path) -> None:
    """An effect has a histogram of the worlds' estimates, and a half width for each number of worlds; a claim with
    several tests has several. Verdicts without worlds have neither."""
    worlds = [{"seed": seed, "estimate": 0.1 * seed, "error": 0.02} for seed in range(4)]
    unknown = {"seed": 4, "estimate": None, "error": None}
    test = {
        "details": {"worlds": [*worlds, unknown], "half_widths": [[2, 0.6], [3, 0.3], [4, 0.2]]}
    }
    bare = {"details": {}}
    verdicts = [
        VERDICT | {"tests": [test]},
        VERDICT | {"claim": "C9", "tests": [bare, test]},
        VERDICT,
    ]
    root = write(table(), HEADER, tmp_path, verdicts=verdicts)
    found = scalars(root / "study")
    assert found["half_width/C2/Neural"] == pytest.approx({2: 0.6, 3: 0.3, 4: 0.2})
    assert {tag for tag in found if "half_width" in tag} == {
        "half_width/C2/Neural",
        "half_width/C9/Neural/2",
    }
    histograms = {
        value.tag: (event.step, value.histo)
        for event in events(root / "study")
        for value in event.summary.value
        if value.WhichOneof("value") == "histo"
    }
    assert histograms.keys() == {"worlds/C2/Neural", "worlds/C9/Neural/2"}
    step, shown = histograms["worlds/C2/Neural"]
    assert (step, shown.num, shown.min) == (4, 4, 0.0)
    assert shown.max == pytest.approx(0.3)
    assert shown.sum == pytest.approx(0.6)


def test_a_log_forgets_what_was_there_before(tmp_path: Path) -> None:
    """TensorBoard drops what it has read of a log when another says that it begins."""
    root = write(table(), HEADER, tmp_path)
    first, second = itertools.islice(events(root / "study"), 2)
    assert first.file_version == "brain.Event:2"
    assert (second.session_log.status, second.step) == (SessionLog.START, 0)


def test_writing_again_replaces_our_files_and_no_others(tmp_path: Path) -> None:
    root = write(table(rates=3), HEADER, tmp_path, more=More(runs=True))
    foreign = root / "events.out.tfevents.1.of-somebody-else"
    foreign.write_bytes(b"")
    write(table(), HEADER, tmp_path)
    assert foreign.exists()
    foreign.unlink()
    assert len(logs(root)) == 5
    assert len(list(root.rglob("events*"))) == 5
    assert {path.name for path in root.parent.iterdir()} == {"summary"}
    assert len(scalars(root / "arm0" / "learning_rate=0.1")["budget/kl"]) == 3


def test_large_studies_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = table(rates=40, seeds=1)
    root = write(big, HEADER, tmp_path)
    assert len(logs(root)) <= writer.MAX_SUMMARIES + 1
    # The settings with the best peaks of each arm are kept: high rates here.
    kept = {name for name in logs(root) if name.startswith("arm0")}
    assert kept == {f"arm0/learning_rate={10.0 ** -(k + 1):g}" for k in range(21, 40)}
    # Of each arm the three best and the three worst; together there are no more logs than before.
    write(big, HEADER, tmp_path, more=More(runs=True))
    assert len(logs(root.parent)) <= writer.MAX_SUMMARIES + 1
    runs = logs(root.parent / "runs")
    assert {run for run in runs if run.startswith("best/arm1")} == {
        f"best/arm1/learning_rate={10.0 ** -(k + 1):g}/seed=0" for k in (37, 38, 39)
    }
    assert {run for run in runs if run.startswith("worst/arm1")} == {
        f"worst/arm1/learning_rate={10.0 ** -(k + 1):g}/seed=0" for k in (0, 1, 2)
    }
    monkeypatch.setattr(writer, "MAX_RUNS", 7)
    write(table(), HEADER, tmp_path, more=More(runs=True, where={"arm": "arm1"}))
    assert len(logs(root.parent / "runs")) == 6
    write(table(), HEADER, tmp_path, more=More(runs=True, where={"task": "neural"}))
    runs = logs(root.parent / "runs")
    assert len(runs) == 7
    # Every setting's first seed comes before anyone's third.
    assert sum(run.endswith("seed=0") for run in runs) == 4


def test_the_best_the_worst_and_the_diverged_run_of_each_arm(tmp_path: Path) -> None:
    write(table(seeds=7), HEADER, tmp_path, more=More(runs=True))
    root = tmp_path / "tensorboard" / "runs"
    runs = logs(root)
    assert {run for run in runs if run.startswith("best/arm0")} == {
        f"best/arm0/learning_rate=0.01/seed={seed}" for seed in (4, 5, 6)
    }
    assert {run for run in runs if run.startswith("diverged")} == {
        "diverged/arm1/learning_rate=0.01/seed=2"
    }
    found = scalars(root / "best" / "arm0" / "learning_rate=0.01" / "seed=6")
    assert found["generation/win_rate"] == pytest.approx({0: 0.16, 10: 0.17, 20: 0.18})


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"loss.bta": "1"}, "unknown column 'loss.bta'"),
        ({"loss.beta": "0.2"}, "no run has loss.beta=0.2: its values are 0.1"),
        ({"arm": "arm0", "diverged_step": "10"}, "no run has all of arm=arm0, diverged_step=10"),
    ],
)
def test_conditions_that_no_run_meets(tmp_path: Path, where: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(said)):
        write(table(), HEADER, tmp_path, more=More(runs=True, where=where))
    # What was there stays.
    assert not (tmp_path / "tensorboard").exists()


def hparams(directory: Path) -> dict[str, Any]:
    """The plugin's content of a log, by tag."""
    found = {}
    for event in events(directory):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                content = HParamsPluginData()
                content.ParseFromString(value.metadata.plugin_data.content)
                found[value.tag.partition("/")[2]] = content
    return found


def test_hparams_have_one_schema_and_a_session_a_run(tmp_path: Path) -> None:
    logged = Logged(table(), HEADER)
    root = writer.write([logged], tmp_path, More(hparams=True))
    assert root == tmp_path / "tensorboard" / "hparams"
    schema = hparams(root)["experiment"].experiment
    assert [info.name for info in schema.hparam_infos] == ["arm", "optimiser.learning_rate", "seed"]
    assert [v.number_value for v in schema.hparam_infos[1].domain_discrete.values] == [0.01, 0.1]
    metrics = [info.name.tag for info in schema.metric_infos]
    assert metrics[:2] == ["outcome/peak_win_rate", "outcome/kl_at_peak"]
    places = logs(root) - {"."}
    assert len(places) == 12
    lost = root / "arm1" / "learning_rate=0.01" / "seed=2"
    for place in places:
        own = hparams(root / place)
        assert "experiment" not in own
        status = own["session_end_info"].session_end_info.status
        assert Status.Name(status) == (
            "STATUS_FAILURE" if root / place == lost else "STATUS_SUCCESS"
        )
    best = root / "arm1" / "learning_rate=0.01" / "seed=1"
    start = hparams(best)["session_start_info"].session_start_info.hparams
    assert start["arm"].string_value == "arm1"
    assert start["optimiser.learning_rate"].number_value == pytest.approx(0.01)
    assert start["seed"].number_value == 1
    found = {tag: steps[0] for tag, steps in scalars(best).items()}
    assert found == pytest.approx(
        {
            "outcome/peak_win_rate": 1.13,
            "outcome/kl_at_peak": 20,
            # Twelve checkpoints of the other arm, in three means of four: 0.0425 at 10 nats, 0.1075 at 20.
            "outcome/matched_kl_gap": (1.12 - 0.0425 + 1.13 - 0.1075) / 2,
            "outcome/final_win_rate": 1.13,
            "outcome/final_kl": 20,
            "outcome/diverged": 0,
        }
    )
    # It diverged at step 10, and its first checkpoint is SFT itself: nothing came out.
    assert scalars(lost) == {"outcome/diverged": {0: 1}}


def test_the_gap_is_to_other_arms_at_the_same_kl() -> None:
    """Two arms on lines that are 0.1 apart: the one beyond the other's range counts only where they meet."""
    kl = np.arange(1, 41) / 10
    near = pd.DataFrame({"arm": "near", "kl": kl, "win_rate": 0.4 + 0.1 * kl})
    far = pd.DataFrame({"arm": "far", "kl": kl + 2, "win_rate": 0.5 + 0.1 * (kl + 2)})
    elsewhere = far.assign(arm="near", task="another", win_rate=0.0)
    rows = pd.concat([near, far, elsewhere], ignore_index=True).fillna({"task": "Neural"})
    rows = rows.assign(
        run=rows["arm"] + rows["task"], seed=0, evaluation=1, step=1, diverged_step=-1
    )
    found = outcomes.outcomes(rows, ["task"]).set_index(["arm", "task"])[outcomes.GAP]
    # Means of six or seven neighbours lie on a straight line too; at its ends, beyond the outer means, it is level.
    assert found["far", "Neural"] == pytest.approx(0.1, abs=0.01)
    assert found["near", "Neural"] == pytest.approx(-0.1, abs=0.01)
    assert math.isnan(found["near", "another"])
    alone = outcomes.outcomes(rows[rows["arm"] == "near"], ["task"])
    assert outcomes.GAP not in alone


def test_settings_have_sessions_too(tmp_path: Path) -> None:
    root = write(table(), HEADER, tmp_path)
    schema = hparams(root / "study")["experiment"].experiment
    assert [info.name for info in schema.hparam_infos] == ["arm", "optimiser.learning_rate"]
    found = scalars(root / "arm1" / "learning_rate=0.01")
    # The median of the two that did not diverge.
    assert found["outcome/peak_win_rate"][0] == pytest.approx(1.125)
    assert found["outcome/diverged"][0] == pytest.approx(1 / 3)


def test_arms_stand_side_by_side_with_their_bands(tmp_path: Path) -> None:
    root = write(table(), HEADER, tmp_path)
    (config,) = (
        value
        for event in events(root / "study")
        for value in event.summary.value
        if value.tag == "custom_scalars__config__"
    )
    layout = Layout()
    layout.ParseFromString(config.tensor.string_val[0])
    sides, settings = layout.category
    assert sides.title == "Arms side by side, each at its best"
    # The page shows the last one first.
    assert [chart.title for chart in sides.chart][-2:] == ["budget/kl", "generation/win_rate"]
    # One series a chart, with the same tags in the logs of both arms: each log has a colour of its own, and TensorBoard
    # says nothing of the logs that are not compared.
    best = [root / arm / "learning_rate=0.01" for arm in ("arm0", "arm1")]
    drawn = [scalars(log) for log in best]
    for chart in (*sides.chart, *settings.chart):
        (series,) = chart.margin.series
        for own in drawn:
            assert {series.value, series.lower, series.upper} <= own.keys()
    # The setting with the higher peak stands for its arm, and no other does.
    for own in drawn:
        assert own["side_by_side/generation/win_rate"] == own["generation/win_rate"]
    others = logs(root) - {str(log.relative_to(root)) for log in best}
    assert others
    for other in others:
        assert not any(tag.startswith("side_by_side") for tag in scalars(root / other))


def test_several_studies_share_the_logs_and_the_schema(tmp_path: Path) -> None:
    studies = [
        Logged(table(rates=30, seeds=1), HEADER | {"study": name}) for name in ("one", "two")
    ]
    root = writer.write(studies, tmp_path)
    assert root == tmp_path / "tensorboard" / "summary"
    assert len(logs(root)) <= writer.MAX_SUMMARIES + 1
    assert {name.split("/")[0] for name in logs(root)} == {"one", "two"}
    root = writer.write(studies, tmp_path, More(hparams=True))
    assert len(logs(root) - {"."}) == 120
    schema = hparams(root)["experiment"].experiment
    assert schema.hparam_infos[0].name == "study"


def test_tensorboards_own_reader_agrees(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = write(table(), HEADER, tmp_path)
    log = EventAccumulator(str(root / "arm0" / "learning_rate=0.1"))
    log.Reload()
    shown = {tag for tag in log.Tags()["scalars"] if not tag.startswith(("quartiles", "outcome"))}
    assert shown == {
        "generation/win_rate",
        "budget/kl",
        "train/loss",
        "train/diverged",
        "classification/on_golden_data",
    }
    assert [(e.step, e.value) for e in log.Scalars("budget/kl")] == [(0, 0), (10, 10), (20, 20)]


def test_tensorboards_own_hparams_page_has_every_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    root = writer.write([Logged(table(), HEADER)], tmp_path, More(hparams=True))
    logs = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(root))
    logs.Reload()
    provider = data_provider.MultiplexerDataProvider(logs, str(root))
    backend = backend_context.Context(TBContext(logdir=str(root), data_provider=provider))
    statuses = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]
    # Sorted by the peak, as a click on its column does, the highest first.
    name = api_pb2.MetricName(tag="outcome/peak_win_rate")
    column = api_pb2.ColParams(metric=name, order=api_pb2.ORDER_DESC)
    query = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=statuses, col_params=[column], start_index=0, slice_size=50
    )
    context = RequestContext()
    found = backend.hparams_metadata(context, "")
    experiment = backend.experiment_from_metadata(context, "", True, found, None)
    handler = list_session_groups.Handler(context, backend, "", query)
    groups = handler.run().session_groups
    assert [info.name for info in experiment.hparam_infos] == [
        "arm",
        "optimiser.learning_rate",
        "seed",
    ]
    assert len(groups) == 12
    first = groups[0]
    assert first.hparams["arm"].string_value == "arm1"
    assert first.hparams["optimiser.learning_rate"].number_value == pytest.approx(0.01)
    values = {value.name.tag: value.value for value in first.metric_values}
    assert values["outcome/peak_win_rate"] == pytest.approx(1.13)


def test_an_axis_called_like_another_keeps_its_whole_path(tmp_path: Path) -> None:
    results = table(rates=1).assign(**{"proxy.learning_rate": [0.1, 0.2] * 9})
    results["optimiser.learning_rate"] = [0.3, 0.4] * 9
    header = HEADER | {"axes": {"optimiser.learning_rate": [], "proxy.learning_rate": []}}
    root = write(results, header, tmp_path)
    assert "arm0/optimiser.learning_rate=0.3,proxy.learning_rate=0.1" in logs(root)


def test_numbers_too_large_for_32_bits_are_left_out(tmp_path: Path) -> None:
    results = table().assign(train_loss=1e300)
    root = write(results, HEADER, tmp_path, more=More(hparams=True))
    assert "train/loss" not in scalars(root / "arm0" / "learning_rate=0.1")
    results = table().drop(columns="win_rate")
    assert "study" in logs(write(results, HEADER, tmp_path))
