"""The outcomes of every run, and TensorBoard's HPARAMS: one schema for all runs of a results directory.

The schema has every swept path and every outcome once; a run, or a setting, is a session with its own values.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tensorboardX.proto import api_pb2, plugin_hparams_pb2, summary_pb2
from tensorboardX.summary import Summary  # pyright: ignore[reportAttributeAccessIssue]

from sweeps.tensorboard.events import Add, Table, values

_api: Any = api_pb2
_summaries: Any = summary_pb2
_plugin: Any = plugin_hparams_pb2

PEAK = {"outcome/peak_win_rate": "win_rate", "outcome/kl_at_peak": "kl"}
FINAL = {
    "outcome/final_win_rate": "win_rate",
    "outcome/final_kl": "kl",
    "outcome/final_golden_reward": "golden_reward",
    "outcome/final_accuracy": "data_accuracy",
    "outcome/final_winners": "winner_logprob_change",
}
GAP = "outcome/matched_kl_gap"
DIVERGED = "outcome/diverged"
WORDS = {
    "outcome/peak_win_rate": "highest win rate of its trained checkpoints, before any divergence",
    "outcome/kl_at_peak": "KL from SFT at that checkpoint, nats",
    GAP: "win rate less that of the other arms on the same task at the same KL, mean over its trained checkpoints",
    "outcome/final_win_rate": "win rate at the last checkpoint; diverged runs have none",
    "outcome/final_kl": "KL from SFT at the last checkpoint, nats",
    "outcome/final_golden_reward": "golden reward at the last checkpoint, SFT standard deviations",
    "outcome/final_accuracy": "accuracy on D_golden at the last checkpoint",
    "outcome/final_winners": "change of log-probability of D_golden's winners, nats",
    DIVERGED: "1 if the run diverged; of a setting, the share of its runs",
}
#: Paths with at most this many values get a check box for each value.
_MOST_TICKED = 24
#: The line that a run is compared with has at most this many points.
_MOST_KNOTS = 20


def outcomes(results: Table, keys: Sequence[str]) -> Table:
    """One row per run: arm, run, seed, its settings (`keys`), and its outcomes; NaN for missing outcomes."""
    table = results.reset_index(drop=True)
    runs = ["arm", "run"]
    sound = (table["diverged_step"] < 0) | (table["step"] < table["diverged_step"])
    trained = table[sound & (table["evaluation"] > 0) & np.isfinite(table["win_rate"])]
    best = table.loc[trained.groupby(runs)["win_rate"].idxmax()].set_index(runs)
    last = table.loc[table.groupby(runs)["evaluation"].idxmax()].set_index(runs)
    per_run = last[[key for key in dict.fromkeys([*keys, "seed"]) if key not in runs]].copy()
    for tag, column in PEAK.items():
        if column in table:
            per_run[tag] = best[column].astype(float)
    if "kl" in table and table["arm"].nunique() > 1:
        gaps = trained[runs].assign(gap=_matched_gaps(trained))
        per_run[GAP] = gaps.groupby(runs)["gap"].mean()
    for tag, column in FINAL.items():
        if column in table:
            per_run[tag] = last[column].astype(float).where(last["diverged_step"] < 0)
    per_run[DIVERGED] = (last["diverged_step"] >= 0).astype(float)
    return per_run.reset_index()


def _matched_gaps(trained: Table) -> pd.Series:
    """For each checkpoint, its win rate minus the win rate of other arms' checkpoints on its task at its KL; NaN
    outside their range of KL. The other arms' win rate is a line through means of neighbours, with about root n
    checkpoints to a mean."""
    gaps = pd.Series(math.nan, trained.index)
    for _, world in trained.groupby("task"):
        for arm, checkpoints in world.groupby("arm"):
            others = world[(world["arm"] != arm) & np.isfinite(world["kl"])].sort_values(
                "kl", kind="stable"
            )
            if others.empty:
                continue
            knots = min(_MOST_KNOTS, math.isqrt(len(others)))
            near = np.array_split(others[["kl", "win_rate"]].to_numpy(float), knots)
            kl, win_rate = np.transpose([part.mean(0) for part in near])
            line = np.interp(checkpoints["kl"], kl, win_rate)
            inside = checkpoints["kl"].between(others["kl"].iat[0], others["kl"].iat[-1])
            gaps[checkpoints.index] = (checkpoints["win_rate"] - line).where(inside)
    return gaps


def tags(table: Table) -> list[str]:
    """The columns of `outcomes` that are outcomes."""
    return [tag for tag in WORDS if tag in table]


def schema(table: Table, keys: Sequence[str]) -> Any:
    """The experiment: the paths in `keys` with their values, and the outcomes, in words."""
    parameters = [
        _parameter(key, table[key].dropna().unique().tolist()) for key in keys if key in table
    ]
    metrics = [
        _api.MetricInfo(
            name=_api.MetricName(tag=tag),
            display_name=tag.partition("/")[2].replace("_", " "),
            description=WORDS[tag],
        )
        for tag in tags(table)
    ]
    experiment = _api.Experiment(hparam_infos=parameters, metric_infos=metrics)
    return _summary("experiment", experiment=experiment)


def _parameter(name: str, values: Sequence[Any]) -> Any:
    kinds = {_kind(value) for value in values}
    kind = kinds.pop() if len(kinds) == 1 else "STRING"
    info = _api.HParamInfo(name=name, type=_api.DataType.Value(f"DATA_TYPE_{kind}"))
    if len(values) <= _MOST_TICKED:
        ordered = sorted(values) if kind != "STRING" else sorted(map(str, values))
        info.domain_discrete.extend(ordered)
    elif kind == "FLOAT64":
        info.domain_interval.min_value = float(min(values))
        info.domain_interval.max_value = float(max(values))
    return info


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "BOOL"
    return "FLOAT64" if isinstance(value, int | float) else "STRING"


def session(
    add: Add, row: Mapping[str, Any], keys: Sequence[str], mixed: Sequence[str] = ()
) -> None:
    """Write a log's settings and outcomes. The values of `mixed` paths are of several kinds, and are written as
    text."""
    start = _plugin.SessionStartInfo()
    for key in keys:
        value = row.get(key)
        if value is None or value != value:
            continue
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float) and key not in mixed:
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = str(value)
    add(_summary("session_start_info", session_start_info=start), 0)
    add(values({tag: row[tag] for tag in WORDS if tag in row}), 0)
    how = "FAILURE" if row[DIVERGED] == 1 else "SUCCESS"
    end = _plugin.SessionEndInfo(status=_api.Status.Value(f"STATUS_{how}"))
    add(_summary("session_end_info", session_end_info=end), 0)


def mixed(table: Table, keys: Sequence[str]) -> list[str]:
    """The paths whose values are of several kinds."""
    kinds_of = {key: {_kind(value) for value in table[key].dropna().tolist()} for key in keys}
    return [key for key, kinds in kinds_of.items() if len(kinds) > 1]


def _summary(tag: str, **content: Any) -> Any:
    data = _plugin.HParamsPluginData(version=0, **content).SerializeToString()
    plugin = _summaries.SummaryMetadata.PluginData(plugin_name="hparams", content=data)
    metadata = _summaries.SummaryMetadata(plugin_data=plugin)
    return Summary(value=[Summary.Value(tag=f"_hparams_/{tag}", metadata=metadata)])
