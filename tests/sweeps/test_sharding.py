"""One model over four devices against the same on one: in a process of its own, whose devices XLA makes when it
starts."""

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from sweeps import sharding
from testbed.errors import InvalidInput

PROGRAM = textwrap.dedent("""
    import pickle, sys
    from sweeps import runtime
    runtime.configure(4)
    import jax
    import jax.numpy as jnp
    from helpers import CONFIG, dataset, model, world
    from sweeps import sharding
    from testbed import train
    from testbed.lora import Lora, adapted
    from testbed.losses.ipo import Ipo
    from testbed.optimiser import OptimiserConfig
    from testbed.preference import GoldenPreference
    from testbed.source import TrainingInputs
    from testbed.sources.online import Online

    assert jax.device_count() == 4
    over = sharding.mesh(batch=2, model=2)
    plain = jax.tree.map(jnp.asarray, model(0, CONFIG, 8))
    adapters = adapted(jax.random.key(1), plain, Lora(rank=4, targets="qkvogud"))
    # With an epsilon this large no parameter moves by the sign of what rounding makes of a gradient of 0.
    optimiser = OptimiserConfig(1e-2, warmup=2.0, epsilon=1e-3)

    def go(plan, inputs, state):
        return train.advance(plan, inputs, state, jax.random.key(0), jnp.asarray(0), jnp.asarray(3))

    found = {}
    for name, policy in (("plain", plain), ("adapters", adapters)):
        inputs = TrainingInputs(dataset(policy, 24), policy, GoldenPreference(world()))
        plan = train.TrainConfig(Online(), Ipo(beta=0.1), optimiser, 8)
        alone = jax.jit(go)(plan, inputs, train.init(plan, inputs))
        plan = sharding.cut_batches(plan, over)
        state = sharding.spread(train.init(plan, inputs), over)
        step = jax.jit(go, out_shardings=sharding.placements(state, over))
        step = step.lower(plan, sharding.spread(inputs, over), state).compile()
        together = step(plan, sharding.spread(inputs, over), state)
        placed = jax.tree_util.tree_leaves_with_path((together.policy, together.optimiser))
        shards = {
            jax.tree_util.keystr(path): (x.shape, sorted(s.data.shape for s in x.addressable_shards))
            for path, x in placed
        }
        base = sharding.spread(inputs, over).reference.blocks[0].gate
        base = base.weight if name == "adapters" else base
        found[name] = {
            "alone": jax.device_get((alone.policy, alone.loss, alone.gradient_norm)),
            "together": jax.device_get((together.policy, together.loss, together.gradient_norm)),
            "shards": shards,
            "base": (base.shape, base.addressable_shards[0].data.shape),
            "sums": step.as_text().count("all-reduce("),
        }
    with open(sys.argv[1], "wb") as file:
        pickle.dump(found, file)
""")


@pytest.mark.slow
def test_four_devices_train_one_model_as_one_does(tmp_path: Path) -> None:
    """Three online updates, of all parameters and of adapters alone; and the weights are really cut."""
    path = tmp_path / "found.pickle"
    inherited = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", PROGRAM, str(path)]
    subprocess.run(words, check=True, env=inherited, capture_output=True)
    for name, found in pickle.loads(path.read_bytes()).items():
        pairs = zip(*(jax.tree.leaves(found[part]) for part in ("alone", "together")), strict=True)
        for alone, together in pairs:
            np.testing.assert_allclose(together, alone, rtol=1e-4, atol=2e-5, err_msg=name)
        (rows, out), part = found["base"]
        assert part == (rows, out // 2)
        assert found["sums"] > 0
        cut = {leaf for leaf, (whole, parts) in found["shards"].items() if parts != [whole] * 4}
        for leaf in cut:
            whole, parts = found["shards"][leaf]
            assert all(2 * np.prod(part) == np.prod(whole) for part in parts)
        wanted = ["query", "attention_out", "gate", "down"]
        wanted = [f"blocks[1].{field}" for field in wanted]
        if name == "plain":
            wanted += ["embedding", "head"]
        for field in wanted:
            # Itself and Adam's two moments.
            assert sum(field in leaf for leaf in cut) >= 3, field
        assert not any("norm" in leaf for leaf in cut)


def test_what_is_refused() -> None:
    count = jax.device_count()
    with pytest.raises(InvalidInput, match=rf"batch \* model must be the {count} devices"):
        sharding.mesh(batch=count + 1, model=1)
