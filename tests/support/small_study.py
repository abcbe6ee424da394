"""Studies' files as text: the beginning of one, imports and a base experiment of which a run takes seconds, compiling
included; and a whole one, which can be run.

For files that other processes read, or that stand outside of the tests' own path; others have `helpers.experiment`,
whose shapes are the same, so that their programs are compiled once for all.
"""

from pathlib import Path

import pytest
from rich.console import Console

import sweeps
from sweeps import runtime

BASE = """\
import functools

from envs.labelers.bradley_terry import BradleyTerry
from envs.neural import Neural
from sweeps.grid import Axis
from sweeps.study import Arm, Preset, Study
from testbed.data.spec import DataSpec
from testbed.experiment import EvaluationConfig, Experiment
from testbed.optimiser import FitConfig
from testbed.proxies.reader import ProxyConfig
from testbed.sources.offline import Offline
from testbed.train import OnlineRun
from testbed.transformer_config import TransformerConfig

net = functools.partial(TransformerConfig, layers=1, heads=2, key_value_heads=1)
base = Experiment(
    task=Neural(
        vocabulary=7, prompt_length=4, response_length=5,
        writers=2, writer=net(width=8), golden=net(width=8),
    ),
    labeler=BradleyTerry(),
    model=net(width=16),
    source=Offline(),
    data=DataSpec(pairs=32, held_out=16),
    sft=FitConfig(steps=5, batch_size=8),
    proxy=ProxyConfig(fit=FitConfig(steps=5, batch_size=8)),
    baseline=OnlineRun(steps=5, batch_size=8),
    evaluation=EvaluationConfig(points=2, prompts=16, kl_prompts=8, pairs=12),
    steps=6,
    batch_size=8,
)
"""

#: Two arms and two rates on two worlds.
TINY = (
    '"""Two betas of one loss on a world of seven words."""\n'
    + BASE
    + """
from sweeps.claims import Claim, Test
from sweeps.estimands import PairedDifference
from sweeps.rules import More

further = Test(PairedDifference("kl", "far", "near"), More(0.0))
study = Study(
    "tiny", "Tiny", "Does it run?", base,
    (Arm("near", {"loss.beta": 1.0}), Arm("far", {"loss.beta": 0.01})),
    Axis("optimiser.learning_rate", (1e-3, 3e-3)),
    (Claim("B1", "further", (further,), "nearer"),),
    {"all": Preset(seeds=2)}, "all",
)
"""
)


def results_of_tiny(place: Path) -> Path:
    """Write `TINY` into ``place`` and run it, with the XLA settings of the test run; its results, in ``place/out``."""
    (place / "tiny.py").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "configure", lambda: None)
        done = sweeps.run(place / "tiny.py", out=place / "out", console=Console(quiet=True))
    assert done.directory == place / "out"
    return done.directory
