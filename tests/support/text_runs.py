"""Runs on the text world of a tiny checkpoint, and where what they stand on is kept."""

import json
from pathlib import Path
from typing import Any

import tiny
from helpers import experiment

from envs.goldens.random_head import RandomTaste
from envs.text import Text
from testbed.data.spec import DataSpec
from testbed.experiment import Experiment
from testbed.lora import Lora
from testbed.optimiser import FitConfig, OptimiserConfig
from testbed.proxies.linear_head import HeadConfig

PROMPTS = ("a film", "the film was", "we", "not", "a<end> film", "a<end> was")


def task(directory: Path) -> Text:
    """The world, whose prompts are written into a directory."""
    tiny.loaded()
    path = directory / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": text}) for text in PROMPTS))
    return Text(
        vocabulary=tiny.VOCABULARY,
        prompt_length=4,
        response_length=6,
        checkpoint=tiny.NAME,
        golden=RandomTaste(layers=2, units=8),
        prompts=str(path),
    )


def run(directory: Path, **changes: Any) -> Experiment:
    """A run with adapters and a head for a proxy."""
    fit = FitConfig(steps=20, batch_size=8, optimiser=OptimiserConfig(learning_rate=1e-2))
    fields = {
        "task": task(directory),
        "lora": Lora(rank=2),
        "proxy": HeadConfig(layers=2, fit=fit),
        "data": DataSpec(pairs=16, held_out=8, candidates=2),
        "baseline__steps": 0,
        "optimiser__learning_rate": 3e-2,
    }
    return experiment(**(fields | changes))
