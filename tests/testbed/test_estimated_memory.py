"""The memory that plans predict, beside the compiler's own account of the programs that run."""

import functools
from pathlib import Path
from typing import Any

import pytest
from helpers import experiment
from scripts import script

from sweeps.population import devices, executable_cache, programs
from sweeps.population.plan import plan
from sweeps.selection import Point
from testbed.config import fingerprint, replace, replace_all
from testbed.estimates.memory import COPIES, footprint
from testbed.lora import Lora

FEWER = {"evaluation.prompts": 64, "evaluation.kl_prompts": 64}
LOGITS = {"task.vocabulary": 4096, "evaluation.pairs": 16}
NARROW = {"model.width": 32, "model.heads": 2, "model.key_value_heads": 2}


@functools.cache
def benchmark() -> Any:
    """The benchmark, for its workloads on random networks and data, which nothing has to be trained for."""
    return script("benchmarks/throughput.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "changes", "decisive", "within"),
    [
        ("offline", {}, "measuring", 1 / 5),
        ("offline", FEWER | {"batch_size": 256}, "training", 1 / 5),
        ("online", FEWER | LOGITS, "measuring", 1 / 3),
        ("online", FEWER | LOGITS | {"task.writers": 1}, "measuring", 1 / 5),
        ("offline", NARROW, "measuring", 1 / 5),
    ],
)
def test_a_plan_predicts_the_memory_of_its_programs(
    mode: str,
    changes: dict[str, Any],
    decisive: str,
    within: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To within a fifth, whether most of it goes to a batch, to the proxy's comparisons or to logits, and whether
    the network is narrow or not; a third where most goes to the golden reward, which is not counted."""
    run = replace_all(benchmark().experiment("S", mode), changes)
    [chunk] = plan([Point(fingerprint(run), mode, 0, {}, run)]).chunks
    # The scripts import each other.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    artifacts = script("benchmarks/startup.py").artifacts(run)
    parts = programs.needed(chunk, artifacts).parts
    sizes = [devices.needed_memory(executable_cache.compiled(*part)) or 0 for part in parts]
    assert sizes.index(max(sizes)) == ("training", "measuring").index(decisive)
    assert chunk.bytes / chunk.devices == pytest.approx(max(sizes), rel=within)


def test_a_run_holds_what_it_trains() -> None:
    """Of a policy with adapters they are all that a run has for itself; its world has the rest once."""
    lora = Lora(rank=2, targets="qv")
    plain = experiment()
    own, other = (footprint(x) for x in (replace(plain, "lora", lora), plain))
    assert own.run == 4 * COPIES * lora.parameters(plain.model)
    assert own.world == other.world + 4 * lora.parameters(plain.model)


def test_checkpointing_keeps_less() -> None:
    many = experiment(model__layers=8, batch_size=32)
    assert footprint(replace(many, "model.checkpointing", True)).work < footprint(many).work
