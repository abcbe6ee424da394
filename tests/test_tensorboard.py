"""TensorBoard's logs, read back from the event files."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from tensorboardX.proto.event_pb2 import Event

from sweeps import tensorboard

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


def test_summary_holds_medians_over_seeds(tmp_path: Path) -> None:
    root = tensorboard.write(table(), HEADER, tmp_path)
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
    # One of three seeds diverged at step 10.
    assert found["train/diverged"] == pytest.approx({0: 0, 10: 1 / 3, 20: 1 / 3})


def test_text_and_figures(tmp_path: Path) -> None:
    figure = tmp_path / "curves.png"
    matplotlib.image.imsave(figure, np.zeros((20, 30, 3)))
    root = tensorboard.write(table(), HEADER, tmp_path, figures=[figure], verdicts=[VERDICT])
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


def test_writing_again_replaces_our_files_and_no_others(tmp_path: Path) -> None:
    root = tensorboard.write(table(rates=3), HEADER, tmp_path, single_runs=True)
    foreign = root / "events.out.tfevents.1.of-somebody-else"
    foreign.write_bytes(b"")
    tensorboard.write(table(), HEADER, tmp_path)
    assert foreign.exists()
    foreign.unlink()
    assert len(logs(root)) == 5
    assert len(list(root.rglob("events*"))) == 5
    assert {path.name for path in root.parent.iterdir()} == {"summary"}
    assert len(scalars(root / "arm0" / "learning_rate=0.1")["budget/kl"]) == 3


def test_large_studies_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = table(rates=40, seeds=1)
    root = tensorboard.write(big, HEADER, tmp_path, single_runs=True)
    assert len(logs(root)) <= tensorboard.MAX_SUMMARIES + 1
    # The settings with the best peaks of each arm are kept: high rates here.
    kept = {name for name in logs(root) if name.startswith("arm0")}
    assert kept == {f"arm0/learning_rate={10.0 ** -(k + 1):g}" for k in range(21, 40)}
    assert len(logs(root.parent / "runs")) == 80
    monkeypatch.setattr(tensorboard, "MAX_RUNS", 7)
    tensorboard.write(table(), HEADER, tmp_path, single_runs=True)
    runs = logs(root.parent / "runs")
    assert len(runs) == 7
    # Every setting's first seed comes before anyone's third.
    assert sum(run.endswith("seed=0") for run in runs) == 4


def test_tensorboards_own_reader_agrees(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = tensorboard.write(table(), HEADER, tmp_path)
    log = EventAccumulator(str(root / "arm0" / "learning_rate=0.1"))
    log.Reload()
    assert set(log.Tags()["scalars"]) == {
        "generation/win_rate",
        "budget/kl",
        "train/loss",
        "train/diverged",
        "classification/on_golden_data",
    }
    assert [(e.step, e.value) for e in log.Scalars("budget/kl")] == [(0, 0), (10, 10), (20, 20)]


def test_an_axis_called_like_another_keeps_its_whole_path(tmp_path: Path) -> None:
    results = table(rates=1).assign(**{"proxy.learning_rate": [0.1, 0.2] * 9})
    results["optimiser.learning_rate"] = [0.3, 0.4] * 9
    header = HEADER | {"axes": {"optimiser.learning_rate": [], "proxy.learning_rate": []}}
    root = tensorboard.write(results, header, tmp_path)
    assert "arm0/optimiser.learning_rate=0.3,proxy.learning_rate=0.1" in logs(root)
