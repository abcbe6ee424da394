"""The setup of `sweeps.paper` on a pretrained language model: the same studies, two sizes.

Differences from the simulated worlds, because a policy has 135 million parameters instead of thousands:

- **The policy** is the checkpoint itself, which serves unchanged as the SFT policy; adapters on queries and values are
  trained (`testbed.lora`), with their own learning rate.
- **The writers** are the checkpoint too: D_golden is sampled from the checkpoint and labelled by the golden reward.
  **The proxy** is a linear head on the activations of the checkpoint's middle layer.
- **The opponent** in the win rate is the checkpoint itself, not a policy trained against the golden reward: at KL 0 the
  win rate is one half.
- **Few runs and few steps.** Each arm runs at one rate and one beta.
"""

from collections.abc import Mapping
from typing import Any

from envs.text import Text
from sweeps.grid import Axis, product
from sweeps.study import Preset
from testbed.lora import Lora
from testbed.proxies.linear_head import HeadConfig

#: The largest rate tried at which IPO's loss falls on its training data; at twice this rate the loss rises above its
#: start.
RATE, BETA = 1e-3, 0.1
_STEPS = {"llm": 30, "llm-gpu": 400}
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "llm": {
        "data.pairs": 128,
        "data.held_out": 32,
        "batch_size": 8,
        "optimiser.warmup": 4.0,
        "evaluation.points": 5,
        "evaluation.prompts": 48,
        "evaluation.kl_prompts": 16,
        "evaluation.pairs": 16,
    },
    "llm-gpu": {
        "data.pairs": 4096,
        "data.held_out": 512,
        "model.precision": "bfloat16",
        "batch_size": 32,
        "evaluation.points": 10,
        "evaluation.prompts": 512,
        "evaluation.kl_prompts": 128,
        "evaluation.pairs": 128,
    },
}
_SEEDS = {"llm": 4, "llm-gpu": 8}
_RATES = {"llm": (RATE,), "llm-gpu": (5e-4, RATE)}
_BETAS = {"llm": (BETA,), "llm-gpu": (0.03, BETA, 0.3)}
_NOTES = {
    "llm": "SmolLM2-135M on two cores, an hour.",
    "llm-gpu": "SmolLM2-135M, ten times as long; for a GPU.",
}
SIZES = tuple(_NOTES)


def preset(size: str, *runs: str) -> Preset:
    """A preset of a size. ``runs`` are the paths of recorded runs in the arms; these runs are as long as the online
    runs."""
    steps, batch = _STEPS[size], _SETTINGS[size]["batch_size"]
    settings = {
        **_SETTINGS[size],
        "lora": Lora(),
        "proxy": HeadConfig(),
        "data.candidates": 2,
        "steps": steps,
        "baseline.steps": 0,
        "baseline.batch_size": batch,
    }
    for path in runs:
        settings |= {
            f"{path}.run.steps": steps,
            f"{path}.run.batch_size": batch,
            f"{path}.run.optimiser.learning_rate": RATE,
            f"{path}.run.optimiser.warmup": settings.get("optimiser.warmup", 20.0),
        }
    kept = {"optimiser.learning_rate": RATE, "loss.beta": BETA}
    axes = product(
        Axis("task", (Text(),)),
        Axis("optimiser.learning_rate", _RATES[size]),
        Axis("loss.beta", _BETAS[size]),
    )
    return Preset(settings, axes, _SEEDS[size], _NOTES[size], fixed=kept)
