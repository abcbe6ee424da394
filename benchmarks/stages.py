"""How SFT and proxy learn: held-out loss and accuracy against steps, with the schedule of before and with today's.

    uv run python benchmarks/stages.py --tasks Neural Summarize --sizes XS --seeds 0 1 --csv curves.csv
    uv run python benchmarks/stages.py --csv docs/stages.csv --draw docs/figures/stages.png

Before: a constant rate, 4000 and 2400 steps of 64 of 16,384 pairs, and as many for each pair with fewer, as the paper's
size still has. Now: that of the laptop size (`sweeps.paper.FALLING`). Policies and proxies of one size are trained in
the same worlds, on the same pairs, from the same parameters; the held-out pairs are further pairs of the same writers.
Rows are appended to the file. The loss of SFT is in nats a token, that of the proxy the cross-entropy of its
comparisons. ``cpu`` counts the CPU seconds of the whole training, with its measurements and without compiling.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import shared

from envs.chat import Chat
from envs.enumerable import Enumerable
from envs.harmless import Harmless
from envs.helpful import Helpful
from envs.labelers.bradley_terry import BradleyTerry
from envs.neural import Neural
from envs.summarize import Summarize
from sweeps import paper, runtime
from testbed import config
from testbed.data.collect import Corpus, balanced, label
from testbed.data.spec import TextCounts
from testbed.optimiser import FitConfig, Fitting
from testbed.proxies.reader import ProxyConfig
from testbed.source import Dataset
from testbed.stages.sft import loss as sft_loss
from testbed.stages.world import draw_world, write_texts
from testbed.streams import Stream, stream
from testbed.transformer import Transformer
from testbed.transformer_config import SIZES

TASKS = {kind.__name__: kind() for kind in (Neural, Summarize, Helpful, Chat, Harmless, Enumerable)}
#: Pairs of the laptop size.
LAPTOP = 4096
#: Held-out pairs, and measurements of each training, at even distances.
HELD_OUT, POINTS = 2048, 12
BEFORE, NOW = "before", "now"
NAMES = {"SFT": "held-out SFT loss, nats a token", "proxy": "proxy accuracy, held-out pairs"}


def schedule(part: str, which: str, pairs: int) -> FitConfig:
    """The training of a part on so many pairs: each pair is seen as often as with 16,384."""
    laptop = config.replace_all(paper.EXPERIMENT, paper.FALLING)
    chosen = laptop if which == NOW else paper.EXPERIMENT
    fit = chosen.sft if part == "SFT" else chosen.proxy.fit
    learnt = LAPTOP if which == NOW else paper.EXPERIMENT.data.pairs
    return dataclasses.replace(fit, steps=round(fit.steps * pairs / learnt))


@functools.partial(jax.jit, static_argnums=(0, 1))
def world(task: Any, pairs: int, seed: Any) -> tuple[Corpus, Corpus, Dataset, Dataset]:
    """Writers' texts and labelled pairs of a world, and the held-out ones of either."""
    drawn = draw_world(task, seed, None, task.material())
    texts = write_texts(TextCounts(pairs, HELD_OUT, 0, 2), seed, drawn)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), texts.corpus, texts.held_out)
    # Labels without noise depend on no SFT policy; the reference scores are not used.
    policy = Transformer.init(jax.random.key(0), SIZES["XS"], task.vocabulary)
    key = stream(jax.random.key(seed), Stream.LABELS)
    labelled, _ = label(drawn, policy, BradleyTerry(temperature=0.0), both, key)
    data, test = (
        jax.tree.map(lambda x, part=part: x[part], labelled)
        for part in (slice(pairs), slice(pairs, None))
    )
    return texts.corpus, texts.held_out, balanced(data), test


def measured(fitting: Fitting, steps: int, measure: Any) -> Any:
    """Measurements of a model while it trains, at the steps of `ends`."""

    def part(now: Any, between: Any) -> Any:
        now = fitting.advance(now, *between)
        return now, measure(now.model)

    marks = jnp.asarray(ends(steps))
    return jax.lax.scan(part, fitting.start, (marks[:-1], marks[1:]))[1]


def ends(steps: int) -> np.ndarray:
    """Step 0, and the steps of the measurements."""
    return np.round(np.linspace(0, steps, POINTS + 1)).astype(int)


@functools.partial(jax.jit, static_argnums=(0, 1))
def train_sft(task: Any, size: str, fit: FitConfig, seed: Any, made: Any) -> Any:
    """Held-out loss of an SFT policy, in nats a token, and nothing."""
    corpus, held_out, *_ = made
    k_init, k_fit = jax.random.split(stream(jax.random.key(seed), Stream.SFT))
    model = Transformer.init(k_init, SIZES[size], task.vocabulary)
    fitting = Fitting.of(sft_loss, model, corpus, fit, k_fit)
    return measured(
        fitting, fit.steps, lambda model: (jnp.mean(sft_loss(model, held_out)), jnp.nan)
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def train_proxy(task: Any, size: str, fit: FitConfig, seed: Any, made: Any) -> Any:
    """Held-out cross-entropy of a proxy's comparisons, and the share of pairs that it orders as labelled."""
    *_, data, test = made
    k_init, k_fit = jax.random.split(stream(jax.random.key(seed), Stream.PROXY))
    proxy = ProxyConfig().init(k_init, SIZES[size], task.vocabulary)

    def loss(model: Any, pairs: Any) -> Any:
        return pairs.weight * model.loss(pairs)

    def measure(model: Any) -> Any:
        margin = model.margin(test.pairs.prompt, test.pairs.winner, test.pairs.loser)
        right = jnp.mean(0.5 * (1.0 + jnp.sign(margin)))
        return -jnp.mean(jax.nn.log_sigmoid(margin)), right

    return measured(Fitting.of(loss, proxy, data.pairs, fit, k_fit), fit.steps, measure)


def rows(task: str, size: str, pairs: int, seed: int, made: Any) -> Iterator[dict[str, Any]]:
    """Train both parts with both schedules in one world: a row for each measurement."""
    for part, train in (("SFT", train_sft), ("proxy", train_proxy)):
        for which in (BEFORE, NOW):
            fit = schedule(part, which, pairs)
            given = (TASKS[task], size, fit, seed, made)
            program = train.lower(*given).compile()
            begin = time.process_time()
            loss, right = jax.block_until_ready(program(*given[2:]))
            cpu = time.process_time() - begin
            named = {"task": task, "size": size, "pairs": pairs, "seed": seed, "part": part}
            for step, one, share in zip(ends(fit.steps)[1:], loss, right, strict=True):
                found = {"step": int(step), "loss": float(one), "accuracy": float(share)}
                yield {**named, "schedule": which, **found, "cpu": round(cpu, 1)}


def last(table: Any) -> pd.DataFrame:
    """The last measurement of every training: means over worlds by task, size, pairs, part and schedule."""
    by = ["task", "size", "pairs", "part", "schedule"]
    ended = table.loc[table.groupby([*by, "seed"])["step"].idxmax()]
    means = ended.groupby(by)[["step", "loss", "accuracy", "cpu"]].mean()
    return means.join(ended.groupby(by).size().rename("worlds"))


def draw(table: Any, file: Path) -> None:
    """Curves against steps: a row of panels for each size and part, a column for each task; means over worlds, and
    every world as a thin line."""
    tasks = list(dict.fromkeys(table["task"]))
    lines = [
        line
        for line in table.groupby(["size", "pairs", "part"], sort=False).groups
        if isinstance(line, tuple)
    ]
    figure, panels = plt.subplots(
        len(lines),
        len(tasks),
        figsize=(2.6 * len(tasks), 2.1 * len(lines)),
        squeeze=False,
        layout="constrained",
    )
    for row, (size, pairs, part) in zip(panels, lines, strict=True):
        for panel, task in zip(row, tasks, strict=True):
            chosen = table[
                (table["size"] == size)
                & (table["pairs"] == pairs)
                & (table["part"] == part)
                & (table["task"] == task)
            ]
            value = "loss" if part == "SFT" else "accuracy"
            for which, colour in ((BEFORE, "#8a8f99"), (NOW, "#1b6ca8")):
                own = chosen[chosen["schedule"] == which]
                for _, one in own.groupby("seed"):
                    panel.plot(one["step"], one[value], color=colour, lw=0.5, alpha=0.4)
                mean = own.groupby("step")[value].mean()
                panel.plot(mean.index, mean, color=colour, lw=1.8, label=which)
            panel.set_title(f"{task}, {size}, {pairs:,} pairs", fontsize=8)
            panel.tick_params(labelsize=7)
            if chosen.empty:
                panel.set_visible(False)
        row[0].set_ylabel(NAMES[part], fontsize=7)
    for panel in panels[-1]:
        panel.set_xlabel("step", fontsize=7)
    panels[0, 0].legend(fontsize=7, frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Train and append to the file, or draw what it holds."""
    given = shared.arguments(
        __doc__,
        tasks=(["Neural"], "names of tasks", list(TASKS)),
        sizes=(["XS"], "sizes of policies and proxies", list(SIZES)),
        pairs=(4096, "pairs to learn from"),
        seeds=([0], "seeds of worlds"),
        csv=(Path("curves.csv"), "file of the curves"),
        draw=(Path, "draw the curves that the file holds to this file, and train nothing"),
    )
    if given.draw:
        table = pd.read_csv(given.csv)
        print(last(table).round(4).to_string())
        return draw(table, given.draw)
    for task in given.tasks:
        for seed in given.seeds:
            made = jax.block_until_ready(world(TASKS[task], given.pairs, seed))
            for size in given.sizes:
                table = pd.DataFrame(rows(task, size, given.pairs, seed, made))
                table.round(5).to_csv(
                    given.csv, mode="a", header=not given.csv.exists(), index=False
                )
                print(last(table).round(4).to_string(), flush=True)
    return None


if __name__ == "__main__":
    runtime.configure(1)
    main()
