"""The setup of arXiv 2405.08448 that its studies share (sections 2 and 4, appendices A to F), and its three sizes.

Studies that start from `EXPERIMENT` and sweep `axes` share stages and runs: a stage or run that several studies need is
made once.

- **The base configuration** is the configuration of the recorded online run and of the golden baseline: the paper's
  beta of 0.1, and a rate scaled to the policy's size. A base of beta 0.03 was tried and given up: against the golden
  baseline trained with this beta the SFT policy won 1% and every policy at most 9% on `Neural`, too few to measure
  differences.
- **Online learning runs at the base configuration**, offline learning at every rate and beta, as in the paper. If a
  claim is about the peak of online learning, online runs at every beta too: at the base configuration it does not reach
  its peak.
- **Rates and betas** of offline learning go up to three times the base rate and down to a tenth of the base beta.
  Checked at laptop size: with betas down to 0.03 the win rate of offline learning was still rising at the end of its
  range of KL. Ten times the rate reaches twice this KL, beyond the peak, and was given up: at equal KL such runs win up
  to 20 points less than runs at the other rates, so that no single curve describes all of them.
- **Steps**: the 4000 steps of the paper's online run are 1000 here (320 at laptop size), and its 800 steps are a fifth
  of these. The paper also runs offline learning five times as long. Studies that ask for offline peaks (`gap`,
  `quality`, `proximity`, `dial`, `decomposition`) do so here (four times as long at laptop size), at the highest rate
  and the lowest beta (the three lowest in the paper's size): in as many steps as online, the win rate was still rising
  at the end of its range of KL.
- **Data**: the number of pairs is half to two thirds of the number that an online run writes; the paper has 128,000 for
  some 90,000 of its summarisation task. SFT and proxy see each pair as often as they would see the 4096 of the default.
  The paper takes D_golden to be like pairs of SFT samples (section 6). Checked on a quarter of the data, one seed:
  written texts were 0.75 (`Summarize`) and 0.58 (`Neural`) SFT standard deviations better than SFT samples, and the
  proxy, right about 77% of held-out pairs, was right about 64% and 73% of pairs of SFT samples. With all of the data
  these are 0.48 and 0.38, and 70% (of 80%) and 77% (of 77%).
- **Schedule** of SFT and proxy: constant rates, and on `Neural` and `Summarize` at laptop size a high rate that falls
  linearly to 0 in a third of the steps (`FALLING`). There held-out loss and accuracy are as good or better. On
  `Helpful` and `Enumerable` the proxy is worse, so all else keeps constant rates, but for other tasks that a command
  sets in place of a laptop preset's (docs/choices.md, benchmarks/stages.py).
- **Teacher**: checked because the gap does not appear at laptop size. With the golden reward in the proxy's place
  (`testbed run gap --set teacher=golden`, three seeds) online beats offline at the same KL by 14.5 points on `Neural`
  (90% interval 10.0 to 19.1) and by 12.2 on `Summarize` (7.3 to 17.2; no verdict, as a curve misses its points): the
  proxy is the reason that no gap appears.
- **Outcome**: claims are decided by the golden reward of the policy's answers, in SFT standard deviations, whose
  variance is 5 to 8 times smaller than that of win rates; the win rate stands beside it.
- **ROPE**: a difference of golden reward of 0.07, or of win rates or accuracies of two percentage points, is
  practically nothing. Near one half 0.07 is about two points of win rate.

The ruggedness of `Neural` was set by one criterion: the proxy agrees with the golden reward on about three of four
held-out pairs, as reward models do with people. No outcome of a study was used. Earlier forms of its golden reward
were given up because very short responses, then single repeated tokens, beat nearly all responses of the writers: the
weight of variety is set so that no trivial answer passes the writers' 99th percentile.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from envs.chat import Chat
from envs.enumerable import Enumerable
from envs.harmless import Harmless
from envs.helpful import Helpful
from envs.labelers.bradley_terry import BradleyTerry
from envs.neural import Neural
from envs.summarize import Summarize
from sweeps import language
from sweeps.grid import Axis, Grid, product
from sweeps.study import Preset
from testbed import config
from testbed.data.spec import DataSpec
from testbed.experiment import Experiment
from testbed.losses.ipo import Ipo
from testbed.objective import AbstractObjective
from testbed.optimiser import FitConfig, OptimiserConfig
from testbed.proxies.reader import ProxyConfig
from testbed.recorded_runs.recorded_run import Recorded
from testbed.sources.replay import Replay
from testbed.train import OnlineRun
from testbed.transformer_config import SIZES

BASE_RATE = 3e-4
BASE_BETA = 0.1
#: Path and value of the base rate, for arms that keep this rate and sweep beta.
RATE = MappingProxyType({"optimiser.learning_rate": BASE_RATE})
#: The same for arms that keep the whole base configuration.
BASE = MappingProxyType({**RATE, "loss.beta": BASE_BETA})
#: Differences of win rates and accuracies that are practically nothing.
ROPE = 0.02
#: Differences of golden reward, in SFT standard deviations, that are practically nothing: about two points of win rate
#: near one half.
REWARD_ROPE = 0.07
#: Budget of KL, in nats, within which arms of equal tuning are compared.
BUDGET = 8.0

LOSS = Ipo(beta=BASE_BETA)
OPTIMISER = OptimiserConfig(learning_rate=BASE_RATE)
#: The base configuration. Proxy and golden baseline keep their size when policies grow (section 5.5).
EXPERIMENT = Experiment(
    task=Neural(),
    labeler=BradleyTerry(temperature=0.0),
    model=SIZES["XS"],
    data=DataSpec(pairs=16384, coverage_prompts=0),
    sft=FitConfig(steps=4000, batch_size=64, optimiser=OptimiserConfig(2e-3)),
    proxy=ProxyConfig(
        fit=FitConfig(steps=2400, batch_size=64, optimiser=OptimiserConfig(1e-3, weight_decay=0.1)),
        model=SIZES["XS"],
    ),
    baseline=OnlineRun(loss=LOSS, optimiser=OPTIMISER),
    baseline_model=SIZES["XS"],
    loss=LOSS,
    optimiser=OPTIMISER,
)
#: The base configuration in the world that is small enough to be enumerated: a quarter of the pairs are 64 pairs for
#: each of the world's prompts.
LISTED = config.replace_all(
    EXPERIMENT,
    {"task": Enumerable(), "data.pairs": 4096, "sft.steps": 1000, "proxy.fit.steps": 600},
)

#: Training of SFT and proxy on 4096 pairs of the laptop's tasks in a third of the steps of the constant rates, 1000 and
#: 600.
FALLING = MappingProxyType(
    {
        "sft.steps": 333,
        "sft.optimiser.learning_rate": 1.6e-2,
        "sft.decay": 1.0,
        "proxy.fit.steps": 200,
        "proxy.fit.optimiser.learning_rate": 1.6e-2,
        "proxy.fit.optimiser.weight_decay": 0.5,
        "proxy.fit.decay": 1.0,
    }
)
_TASKS = {
    "smoke": (Neural(),),
    "laptop": (Neural(), Summarize()),
    "paper": (Neural(), Summarize(), Helpful(), Chat(), Harmless()),
}
_RATES = {"smoke": (BASE_RATE,), "laptop": (BASE_RATE, 1e-3), "paper": (1e-4, BASE_RATE, 1e-3)}
_BETAS = {
    "smoke": (0.03, BASE_BETA),
    "laptop": (0.03, BASE_BETA),
    "paper": (0.01, 0.03, BASE_BETA, 0.3),
}
#: Betas at which offline arms also run longer (`LONGER`), at the highest rate: the lowest betas of each size.
_LONG_BETAS = {"smoke": (), "laptop": (0.03,), "paper": (0.01, 0.03, BASE_BETA)}
#: How many times as long these runs are; the paper runs offline learning five times as long.
LONGER = {"smoke": 1, "laptop": 4, "paper": 5}
_STEPS = {"smoke": 100, "laptop": 320, "paper": 1000}
#: Steps with which the golden baseline is trained; 0: the opponent is SFT itself.
_BASELINE = {"smoke": 0, "laptop": 0, "paper": 1000}
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "data.pairs": 512,
        "data.held_out": 128,
        "sft.steps": 200,
        "proxy.fit.steps": 100,
        "evaluation.points": 4,
        "evaluation.prompts": 128,
        "evaluation.kl_prompts": 64,
        "evaluation.pairs": 64,
    },
    "laptop": {
        "data.pairs": 4096,
        "sft.steps": 1000,
        "proxy.fit.steps": 600,
        "evaluation.points": 8,
        "evaluation.first": 8,
        "evaluation.opponent_answers": 4,
    },
    "paper": {"evaluation.points": 20, "evaluation.first": 10, "evaluation.prompts": 2048},
}
_SEEDS = {"smoke": 2, "laptop": 6, "paper": 16}
#: Worlds a task of the studies whose verdicts are shown first, at laptop size.
MANY_WORLDS = 16
_NOTES = {
    "smoke": "Does everything run? Too small to believe.",
    "laptop": "Two cores, one sitting.",
    "paper": "The paper's grid; meant for a GPU.",
}
PRESETS = tuple(_NOTES)


def recorded(loss: AbstractObjective = LOSS, rate: float = BASE_RATE) -> Recorded:
    """The recorded online run at the base configuration, or at that of another loss."""
    return Recorded(OnlineRun(loss=loss, optimiser=OptimiserConfig(learning_rate=rate)))


def shuffled(of: Recorded) -> Replay:
    """The stream of a recorded run, shuffled uniformly: its window is longer than any run."""
    return Replay(of, shuffle_window=1e6)


def tasks(size: str) -> Grid:
    """The tasks of a size."""
    return Axis("task", _TASKS[size])


def rates(size: str) -> Grid:
    """Learning rates of a size."""
    return Axis("optimiser.learning_rate", _RATES[size])


def betas(size: str) -> Grid:
    """Regularisation strengths of a size."""
    return Axis("loss.beta", _BETAS[size])


def grid(size: str) -> Grid:
    """The grid that every arm sweeps: tasks, learning rates, betas."""
    return product(tasks(size), rates(size), betas(size))


def preset(
    size: str,
    *runs: str,
    axes: Grid | None = None,
    longer: Sequence[str] = (),
    worlds: int | None = None,
    **changes: Any,
) -> Preset:
    """A preset of a size.

    ``runs`` are the paths of recorded runs in the arms (``source.recorded``); these are as long as the online runs.
    ``axes`` replaces `grid`. Arms in ``longer`` additionally run some settings longer (`LONGER`). ``worlds``
    replaces the number of worlds at laptop size. ``changes`` (``__`` for a dot) are further settings.
    """
    steps = _STEPS[size]
    lengths = {f"{path}.run.steps": steps for path in runs}
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    swept = grid(size) if axes is None else axes
    tasks = swept.values("task") if "task" in swept.paths else ()
    checked = size == "laptop" and tasks and all(task in _TASKS["laptop"] for task in tasks)
    settings = {
        **_SETTINGS[size],
        **(FALLING if checked else {}),
        "steps": steps,
        "baseline.steps": _BASELINE[size],
        **lengths,
        **changed,
    }
    further: dict[str, Grid] = {}
    if longer and _LONG_BETAS[size]:
        swept = product(swept, Axis("steps", (steps,)))
        further = dict.fromkeys(longer, _long(size, swept))
    seeds = worlds if worlds and size == "laptop" else _SEEDS[size]
    return Preset(settings, swept, seeds, _NOTES[size], further=further)


def _long(size: str, swept: Grid) -> Grid:
    """Longer runs of a size, on all swept tasks."""
    return product(
        Axis("task", swept.values("task")),
        Axis("optimiser.learning_rate", (max(_RATES[size]),)),
        Axis("loss.beta", _LONG_BETAS[size]),
        Axis("steps", (LONGER[size] * _STEPS[size],)),
    )


def presets(
    *runs: str,
    axes: Callable[[str], Grid] = grid,
    longer: Sequence[str] = (),
    worlds: int | None = None,
    few_rates: bool = False,
) -> Mapping[str, Preset]:
    """The three sizes, each with its axes (see `preset`), and the sizes of a pretrained language model, with the usual
    axes. ``few_rates``: at laptop size the axes have the base rate alone; other rates are for arms that run ``longer``.
    """

    def swept(size: str) -> Grid:
        whole = axes(size)
        if not (few_rates and size == "laptop"):
            return whole
        (path,) = RATE
        return product(whole.without(path), Axis(path, (RATE[path],)))

    sizes = {
        size: preset(size, *runs, axes=swept(size), longer=longer, worlds=worlds)
        for size in PRESETS
    }
    if axes is grid:
        sizes |= {size: language.preset(size, *runs) for size in language.SIZES}
    return MappingProxyType(sizes)
