"""Collected data: what the dials do to real worlds, against brute force where everything can be listed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import experiment

from envs.enumerable import Enumerable
from envs.labelers.skips import Skips
from envs.labelers.soft import Soft
from testbed.errors import InvalidInput
from testbed.exact import quantities
from testbed.exact.enumeration import all_prompts, all_responses, prompt_index, response_index
from testbed.stages import stages
from testbed.stages.stages import STAGES
from testbed.stages.world_config import WorldConfig
from testbed.transformer_config import TransformerConfig

NET = TransformerConfig(width=8, layers=1, heads=2, key_value_heads=1)
TINY = Enumerable(
    vocabulary=3, prompt_length=2, response_length=3, writers=2, writer=NET, taste=NET
)
PAIRS = 512
MAKE = {stage.name: jax.jit(stage.make) for stage in STAGES}


def config(**changes) -> WorldConfig:
    return WorldConfig.of(experiment(data__pairs=PAIRS, **changes))


@functools.cache
def before(enumerable: bool) -> tuple[dict, dict]:
    """World and SFT policy, which no dial moves, and the settings that made them."""
    settings = {"task": TINY} if enumerable else {}
    made: dict = {"material": None}
    for name in ("world", "texts", "sft", "golden"):
        made[name] = MAKE[name](config(**settings), made)
        made["base"] = made.get("sft")
    return made, settings


def pool(enumerable: bool, **changes):
    """The pool stage under other settings."""
    made, settings = before(enumerable)
    return MAKE["pool"](config(**settings, **changes), made)


def collected(enumerable: bool, **changes):
    """The data stage under other settings: world, data, and facts."""
    made, settings = before(enumerable)
    world_config = config(**settings, **changes)
    result = MAKE["data"](world_config, {**made, "pool": pool(enumerable, **changes)})
    stages.check(world_config, "data", result)
    data, _, facts, _ = result
    return made["golden"].world, data, {name: float(value) for name, value in facts.items()}


@jax.jit
def tables(world, sft):
    """Rewards, writers' and SFT log-probabilities of everything, (prompt, response)."""
    prompts, every = all_prompts(3, 2), all_responses(3, 3)
    prompts, every = jax.tree.map(jnp.asarray, (prompts, every))
    reward, written = (
        jax.vmap(lambda p, f=f: jax.vmap(lambda r: f(p, r))(every))(prompts)
        for f in (world.reward, world.writers.log_likelihood)
    )
    return reward, written, quantities.log_table(sft, prompts, every)


def counts(data) -> np.ndarray:
    """How often each response to each prompt is in the data."""
    found = np.zeros((4, 15))
    row = np.asarray(prompt_index(data.pairs.prompt, 3))
    for response in (data.pairs.winner, data.pairs.loser):
        np.add.at(found, (row, np.asarray(response_index(response, 3))), 1)
    return found


@pytest.mark.parametrize(
    "dials",
    [
        {},
        {"data__quality": 0.4},
        {"data__temperature": 0.5, "data__proximity": 0.3},
        {"data__coverage": 0.5, "data__quality": 0.2},
    ],
    ids=str,
)
def test_exact_coverage_on_a_listed_world(dials: dict) -> None:
    """Coverage, largest ratio and support as summed in float64 from the tables; and the data are drawn from the policy
    they are said to be drawn from: chi-square over all 60 cells below the 1 - 1e-4 quantile, at the fixed seed."""
    world, data, facts = collected(True, **dials)
    reward, writers, sft = (
        np.asarray(x, np.float64) for x in tables(world, before(True)[0]["sft"].policy)
    )
    kappa = 1 / facts["data_temperature"] - 1
    weight = np.exp(writers * (1 + kappa) + facts["data_tilt"] * reward)
    weight /= weight.sum(axis=1, keepdims=True)
    share = dials.get("data__proximity", 0.0)
    policy = (1 - share) * weight + share * np.exp(sft)
    target = np.exp(sft + reward)
    target /= target.sum(axis=1, keepdims=True)
    concentrability = (target**2 / policy).sum(axis=1).mean()
    assert facts["coverage_is_exact"] == 1.0
    assert facts["coverage"] == pytest.approx(1 / concentrability, rel=1e-3)
    assert facts["chi_square"] == pytest.approx(concentrability - 1, rel=2e-3)
    assert facts["max_ratio"] == pytest.approx((target / policy).max(axis=1).mean(), rel=1e-3)
    assert facts["support"] == pytest.approx(1.0, abs=1e-5)
    if "data__quality" in dials:
        assert (policy * reward).sum(axis=1).mean() == pytest.approx(
            dials["data__quality"], abs=1e-3
        )
    if "data__coverage" in dials:
        assert facts["coverage"] == pytest.approx(dials["data__coverage"], rel=1e-2)
    found = counts(data)
    expected = policy * found.sum(axis=1, keepdims=True)
    statistic = ((found - expected) ** 2 / expected).sum()
    assert statistic < 105  # 56 degrees of freedom: 1 - 1e-4 quantile 101.6


def test_dials_draw_from_the_candidates_of_the_prompt() -> None:
    """Where responses cannot be listed: every text is a candidate of its own prompt, and quality is hit."""
    made, _ = before(False)
    changes = {"data__quality": 0.5, "data__prompts": 128}
    _, data, facts = collected(False, **changes)
    candidates = pool(False, **changes).texts
    assert candidates.tokens.shape[:2] == (128, 16)
    offered = [set(map(bytes, row)) for row in np.asarray(candidates.tokens)]
    for response in (data.pairs.winner, data.pairs.loser):
        for i, tokens in enumerate(np.asarray(response.tokens)):
            assert bytes(tokens) in offered[i % 128]
    prompts = np.asarray(made["texts"].corpus.prompts.tokens)
    np.testing.assert_array_equal(data.pairs.prompt.tokens, np.tile(prompts[:128], (4, 1)))
    assert facts["reached_quality"] == pytest.approx(0.5, abs=1e-3)
    # 1,024 responses of unit variance: four standard errors.
    assert facts["data_quality"] == pytest.approx(0.5, abs=4 / np.sqrt(2 * PAIRS))
    assert facts["data_prompts"] == len(np.unique(prompts[:128], axis=0))
    assert facts["coverage_is_exact"] == 0.0


def test_written_texts_need_no_candidates_where_no_coverage_is_asked_for() -> None:
    """Without candidates there is no pool, the data are the same texts with the same labels, and the facts say nothing
    of coverage."""
    bare = config(data__coverage_prompts=0)
    assert not stages_of(bare, "pool")
    assert stages_of(config(), "pool")
    assert stages_of(config(data__coverage_prompts=0, data__quality=0.5), "pool")
    assert stages_of(config(task=TINY, data__coverage_prompts=0), "pool")
    made, _ = before(False)
    texts = MAKE["texts"](bare, made)
    assert texts.candidates.length.shape == (0, 16)
    np.testing.assert_array_equal(texts.corpus.first.tokens, made["texts"].corpus.first.tokens)
    result = MAKE["data"](bare, {**made, "texts": texts, "pool": None})
    stages.check(bare, "data", result)
    _, data, facts = collected(False)
    assert "coverage" in facts
    assert facts.keys() > result.facts.keys()
    assert result.facts.keys() >= {"data_quality", "label_noise", "labelled"}
    np.testing.assert_array_equal(result.data.pairs.winner.tokens, data.pairs.winner.tokens)
    np.testing.assert_allclose(result.data.golden_margin, data.golden_margin, atol=1e-5)


def stages_of(world_config: WorldConfig, name: str) -> bool:
    """Whether a config needs a stage."""
    return next(stage for stage in STAGES if stage.name == name).needed(world_config)


def test_all_from_sft_has_the_quality_of_sft() -> None:
    """Golden reward is standardised over SFT samples: their mean is 0, within four standard errors."""
    _, _, facts = collected(False, data__proximity=1.0)
    assert facts["data_quality"] == pytest.approx(0.0, abs=4 / np.sqrt(2 * PAIRS))


def test_out_of_reach_is_refused_with_the_nearest_value() -> None:
    with pytest.raises(
        InvalidInput, match=r"^data.quality=40 cannot be reached on Neural with seed"
    ):
        collected(False, data__quality=40.0)


def test_the_same_text_twice_is_a_tie() -> None:
    """Whatever rounding makes of its two rewards."""
    _, data, facts = collected(True)
    same = np.all(np.asarray(data.pairs.winner.tokens == data.pairs.loser.tokens), axis=1)
    assert 0 < same.mean() == pytest.approx(facts["same_text"])
    assert np.all(np.asarray(data.golden_margin)[same] == 0)
    assert np.mean(np.asarray(data.golden_margin)[~same] != 0) > 0.95


def test_a_support_of_one_response_is_refused() -> None:
    """The likeliest response alone, which the writers give more than a hundredth of their mass."""
    with pytest.raises(InvalidInput, match=r"^data leave one response a prompt .* needs two"):
        collected(True, data__support=0.01, data__candidates=200)


def test_soft_labels_and_skips_reach_the_data() -> None:
    """A soft label is the labeler's probability, at least one half for the winner; a skipped pair weighs nothing, and
    the others' weights make up for it."""
    _, data, facts = collected(False, labeler=Soft())
    pairs = data.pairs
    expected = 1 / (1 + np.exp(-np.abs(np.asarray(data.golden_margin, np.float64))))
    np.testing.assert_allclose(pairs.preference, expected, atol=1e-5)
    assert facts["label_noise"] == 0.0
    assert facts["label_confidence"] == pytest.approx(expected.mean(), abs=1e-5)
    _, data, facts = collected(False, labeler=Skips(rate=0.5, scale=1e6))
    weight = np.asarray(data.pairs.weight)
    kept = weight > 0
    assert facts["labelled"] == pytest.approx(kept.mean())
    assert abs(kept.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(PAIRS)
    np.testing.assert_allclose(weight[kept], 1 / kept.mean(), rtol=1e-5)


def test_a_labeler_that_skips_everything_is_refused() -> None:
    with pytest.raises(InvalidInput, match="skips every pair"):
        collected(False, labeler=Skips(rate=1.0, scale=1e9))
