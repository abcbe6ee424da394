"""Every column of the results, declared once: the table that ``testbed export`` writes, a row a run and evaluation."""

from testbed.metric_table import BY_PROMPT, FACTS, METRICS, Column

#: The policy's answers to the first evaluation prompts, at a run's first and last evaluation: JSON, pairs of texts.
ANSWERS = "answers"


def _by_name(*columns: Column) -> dict[str, Column]:
    return {column.name: column for column in columns}


IDENTITY = _by_name(
    Column("study", "the study", kind="text"),
    Column("arm", "the arm: one side of the study's comparison", kind="text"),
    Column("task", "kind of the world", kind="text"),
    Column("seed", "repetition: a redraw of world, data and training", kind="whole"),
    Column("run", "hash of the run's whole config, seed included, and of files it depends on; a run that several arms "
           "or studies have stands in each", kind="text"),
    Column("code", "hash of the testbed's code that made the run; empty for runs of versions that did not store it",
           kind="text"),
    Column("evaluation", "number of the evaluation, from 0 (before training)", kind="whole"),
    Column("step", "training steps before it", kind="whole"),
    Column("diverged_step", "step at which the run's numbers stopped being finite, for all its rows; -1 if they never "
           "did", kind="whole"),
)  # fmt: skip
MEASURES = _by_name(
    *METRICS,
    Column("prompts", "prompts that win rate and rewards are means over", kind="whole"),
    Column(ANSWERS, "prompts and what the policy answers, at the first and the last evaluation: JSON, a list of pairs",
           kind="text"),
    *(column._replace(meaning=f"{column.meaning}; with --by-prompt") for column in BY_PROMPT),
    Column("stack", "runs that shared a device with it", kind="whole"),
    Column("devices", "devices that they were spread over", kind="whole"),
)  # fmt: skip
#: Every column that the store knows by name, except the config; other columns are swept paths and facts.
NAMED = {**IDENTITY, **MEASURES}
#: Families of columns; the number of columns in a family depends on the studies.
FAMILIES: dict[str, str] = {
    "PATH": "each swept path of the config, such as loss.beta, with the run's value; empty where an arm has none",
    f"{FACTS}NAME": "measured facts of the world that the run stands on, such as ground.proxy_accuracy",
    "config": "the run's whole config as JSON, seed included; with --configs",
}
MEANINGS = {**{name: column.meaning for name, column in NAMED.items()}, **FAMILIES}


def ordered(names: list[str]) -> list[str]:
    """Names of columns: what identifies a row, swept paths, measures, facts, the config."""
    facts = sorted(name for name in names if name.startswith(FACTS))
    swept = [name for name in names if name not in {*NAMED, "config", *facts}]
    order = [*IDENTITY, *swept, *MEASURES, *facts, "config"]
    return [name for name in order if name in names]
