"""A view of a results table for TensorBoard: event files made anew from the store, never the store.

``summary/`` holds at most 40 logs (TensorBoard opens blank with more): one for each arm and setting
with the median over seeds, and one, ``study``, with the question, the verdicts and the figures.
``runs/`` holds single runs, on request.
"""

import contextlib
import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboardX import FileWriter
from tensorboardX import summary as summaries
from tensorboardX.summary import Summary  # pyright: ignore[reportAttributeAccessIssue]

MAX_SUMMARIES = 39
MAX_RUNS = 500
_SUFFIX = ".testbed"

TAGS = {
    "generation/win_rate": "win_rate",
    "generation/golden_reward": "golden_reward",
    "generation/proxy_reward": "proxy_reward",
    "generation/proxy_win_rate": "proxy_win_rate",
    "generation/entropy": "entropy",
    "generation/length": "length",
    "budget/kl": "kl",
    "classification/on_golden_data": "data_accuracy",
    "classification/own_samples": "self_accuracy",
    "likelihood/winners": "winner_logprob_change",
    "likelihood/losers": "loser_logprob_change",
    "train/loss": "train_loss",
    "train/gradient_norm": "gradient_norm",
    "train/diverged": "diverged",
}


def write(
    results: pd.DataFrame,
    header: Mapping[str, Any],
    directory: Path,
    figures: Sequence[Path] = (),
    verdicts: Sequence[Mapping[str, Any]] = (),
    single_runs: bool = False,
) -> Path:
    """Write event files under ``directory/tensorboard``, in place of the ones of an earlier call.

    ``results`` is the long table, ``header`` the contents of ``study.json``, ``figures`` PNG files,
    ``verdicts`` the contents of ``verdicts.json``. With ``single_runs`` up to `MAX_RUNS` runs are
    written too, every setting's lowest seeds first. Returns the directory of the summary.
    """
    root = directory / "tensorboard"
    _remove_old(root)
    # Each row says whether its run had diverged by then; a median over seeds would hide it.
    diverged = results["diverged_step"].between(0, results["step"])
    results = results.assign(diverged=diverged.astype(float))
    keys = _keys(results, header)
    groups = dict(iter(results.groupby(keys, sort=False, dropna=False)))
    for key in _chosen(groups):
        group = groups[key]
        with _writer(root / "summary" / _label(keys, key)) as writer:
            how = {name: "median" for name in TAGS.values() if name in group} | {"diverged": "mean"}
            _write_scalars(writer, group.groupby("step", as_index=False).agg(how))
    with _writer(root / "summary" / "study") as writer:
        for tag, text in _texts(results, header, verdicts).items():
            writer.add_summary(summaries.text(tag, text))
        for figure in figures:
            writer.add_summary(_image(figure))
    if single_runs:
        _write_runs(results, keys, root / "runs")
    return root / "summary"


def _keys(results: pd.DataFrame, header: Mapping[str, Any]) -> list[str]:
    """Columns that tell settings apart: the arm, and whatever else takes several values."""
    candidates = dict.fromkeys(["task", *header.get("axes", {})])
    varied = [name for name in candidates if len(results[name].unique()) > 1]
    return ["arm", *varied]


def _chosen(groups: Mapping[Any, pd.DataFrame]) -> list[Any]:
    """The settings to summarise: all if they are few, else each arm's ones with the best peaks."""
    if len(groups) <= MAX_SUMMARIES:
        return list(groups)
    peaks = {key: _peak(group) for key, group in groups.items()}
    by_arm: dict[str, list[Any]] = {}
    for key in sorted(groups, key=lambda key: -peaks[key]):
        by_arm.setdefault(key[0], []).append(key)
    share = max(1, MAX_SUMMARIES // len(by_arm))
    return [key for best in by_arm.values() for key in best[:share]][:MAX_SUMMARIES]


def _peak(group: pd.DataFrame) -> float:
    """The highest median win rate of a setting; lowest of all if there is none."""
    medians = group.groupby("step")["win_rate"].median().to_numpy(float)
    return float(np.max(medians, initial=-math.inf, where=np.isfinite(medians)))


def _write_runs(results: pd.DataFrame, keys: list[str], root: Path) -> None:
    """Single runs, bounded in number: every setting's first seed, then every second, and so on."""
    runs = dict(iter(results.groupby(["arm", "run"], sort=False)))
    first_seeds = sorted(runs, key=lambda run: runs[run]["seed"].iat[0])
    for run in first_seeds[:MAX_RUNS]:
        group = runs[run]
        label = _label(keys, tuple(group[name].iat[0] for name in keys))
        with _writer(root / label / f"seed={group['seed'].iat[0]}") as writer:
            _write_scalars(writer, group)


def _write_scalars(writer: FileWriter, table: pd.DataFrame) -> None:
    """One event a step with all its values; what is not finite is left out."""
    table = table.sort_values("step")
    tags = {tag: column for tag, column in TAGS.items() if column in table}
    for step, row in zip(
        table["step"].tolist(), table[list(tags.values())].to_numpy(float).tolist(), strict=True
    ):
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in zip(tags, row, strict=True)
            if math.isfinite(value)
        ]
        writer.add_summary(Summary(value=values), step)


def _label(keys: Sequence[str], key: tuple[Any, ...]) -> str:
    """A log's path: the arm, then the settings under their shortest telling names."""
    last = [name.rpartition(".")[2] for name in keys]
    short = [end if last.count(end) == 1 else name for name, end in zip(keys, last, strict=True)]
    settings = ",".join(
        f"{name}={_number(value)}" for name, value in list(zip(short, key, strict=True))[1:]
    )
    return "/".join(
        re.sub(r"[^A-Za-z0-9_.=,()-]", "_", part) for part in (key[0], settings) if part
    )


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _texts(
    results: pd.DataFrame, header: Mapping[str, Any], verdicts: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Markdown pages: the question, the claims and what came out, the design."""
    runs = results.drop_duplicates("run")
    diverged = np.count_nonzero(runs["diverged_step"] >= 0)
    claims = "\n".join(
        f"- **{claim['id']}** {claim['text']} *Against it:* {claim.get('against', '')}"
        for claim in header.get("claims", ())
    )
    outcomes = "\n".join(
        ["| claim | task | verdict | estimate | interval |", "|---|---|---|---|---|"]
        + [f"| {' | '.join(verdict_cells(verdict))} |" for verdict in verdicts]
    )
    axes = "\n".join(f"- `{path}`: {values}" for path, values in header.get("axes", {}).items())
    return {
        "study/claims": f"# {header.get('title')}\n\n{header.get('question')}\n\n{claims}",
        "study/verdicts": outcomes if verdicts else "No verdicts yet.",
        "study/design": f"{len(runs)} runs, of which {diverged} diverged; preset "
        f"{header.get('preset')}, {header.get('seeds')} seeds.\n\n{axes}\n\nSource "
        f"{header.get('source')}, {header.get('machine')}, {header.get('versions')}",
    }


def verdict_cells(verdict: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Claim, task, verdict, estimate and interval as text; a dash for what there is not."""
    estimate, interval = verdict.get("estimate"), verdict.get("interval")
    return (
        str(verdict.get("claim", "–")),
        str(verdict.get("task", "–")),
        str(verdict.get("verdict", "–")),
        "–" if estimate is None else f"{estimate:.3g}",
        "–" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}",
    )


def _image(figure: Path) -> Summary:
    """A PNG file as it is; its header holds the width and height (PNG specification, 11.2.2)."""
    data = figure.read_bytes()
    size = [int.from_bytes(data[start : start + 4], "big") for start in (16, 20)]
    image = Summary.Image(width=size[0], height=size[1], colorspace=4, encoded_image_string=data)
    return Summary(value=[Summary.Value(tag=f"figures/{figure.stem}", image=image)])


@contextlib.contextmanager
def _writer(directory: Path) -> Iterator[FileWriter]:
    """A writer of one log. Its name is unique: two of one second would overwrite each other."""
    writer = FileWriter(str(directory), filename_suffix=f".{uuid.uuid4().hex[:8]}{_SUFFIX}")
    try:
        yield writer
    finally:
        writer.close()


def _remove_old(root: Path) -> None:
    """Remove the event files that an earlier call wrote, and the directories that leaves empty."""
    for file in root.rglob(f"events.out.tfevents.*{_SUFFIX}"):
        file.unlink()
    for directory in sorted(root.rglob("*"), reverse=True):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
