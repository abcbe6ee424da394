"""Every labeler's parameters are recovered from its labels by a NumPyro model with the labeler's own likelihood.

Simulation-based calibration (Talts et al. 2018, arXiv 1804.06788): parameters are drawn from a prior, labels from the
labeler; the rank of each parameter among its posterior draws is then uniform if, and for practical purposes only if,
the stated likelihood is the one that labels are drawn with.
"""

import dataclasses
import functools
import importlib
import operator
from collections.abc import Callable, Mapping
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import prompts, responses, world
from numpyro.infer import MCMC, NUTS
from numpyro.infer.reparam import LocScaleReparam, TransformReparam
from scipy import stats

from envs.labelers.annotators import Annotator, AnnotatorPool
from envs.labelers.biased import Biased
from envs.labelers.bradley_terry import BradleyTerry
from envs.labelers.flips import Flips
from envs.labelers.intransitive import Intransitive
from envs.labelers.myopic import Myopic
from envs.labelers.raters import Raters
from envs.labelers.recency import Recency
from envs.labelers.skips import Skips
from envs.labelers.ties import Ties
from testbed.config import flatten, members
from testbed.preference import AbstractLabeler, View

#: Replications, labels in each, and posterior draws of which ranks are taken.
REPLICATIONS, LABELS, DRAWS = 40, 240, 31
WARMUP, THINNING = 100, 4
#: A correct likelihood fails one Kolmogorov-Smirnov test with this probability.
FALSE_ALARM = 1e-4

Values = Mapping[str, jax.Array]
Chances = Callable[[AbstractLabeler, View, View, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A labeler, priors of the parameters at these paths, and how well posterior means must follow the truth."""

    labeler: AbstractLabeler
    priors: dict[str, dist.Distribution]
    correlation: float = 0.6


def positive(median: float, spread: float = 0.5) -> dist.Distribution:
    return dist.LogNormal(np.log(median), spread)


CASES = {
    "BradleyTerry": Case(BradleyTerry(), {"temperature": positive(1.0)}),
    "Raters": Case(Raters(), {"spread": positive(0.7)}),
    "Flips": Case(
        Flips(),
        {"rate": dist.Uniform(0.0, 0.35), "labeler.temperature": positive(0.7)},
        correlation=0.5,  # flips hide the temperature
    ),
    "Ties": Case(Ties(), {"temperature": positive(0.7), "threshold": positive(0.5)}),
    "Skips": Case(
        Skips(),
        {
            "labeler.temperature": positive(1.0),
            "rate": dist.Uniform(0.0, 1.0),
            "scale": positive(2.0),
        },
    ),
    "Biased": Case(
        Biased(),
        {
            "temperature": positive(0.7),
            "length_bias": dist.Normal(0.0, 0.3),
            "position_bias": dist.Normal(0.0, 0.5),
        },
    ),
    "Myopic": Case(Myopic(), {"temperature": positive(0.3), "discount": dist.Uniform(0.0, 1.0)}),
    "Recency": Case(Recency(), {"temperature": positive(0.3), "discount": dist.Uniform(0.0, 1.0)}),
    "Intransitive": Case(
        Intransitive(), {"temperature": positive(0.5), "strength": dist.Uniform(0.0, 1.0)}
    ),
    "AnnotatorPool": Case(
        AnnotatorPool(annotators=12),
        {
            "temperature": positive(0.5),
            "temperature_spread": positive(0.5),
            "position_bias": positive(0.5),
            "length_bias": positive(0.3),
            "taste": positive(1.0),
        },
        correlation=0.3,  # of a spread, twelve annotators say little
    ),
}

# Those of a labeler that was added: a file of its own with another ``CASES``, of `Case`'s fields.
for _path in sorted((Path(__file__).parents[1] / "support").glob("labeler_case_*.py")):
    _added = importlib.import_module(_path.stem).CASES
    CASES |= {name: Case(*fields) for name, fields in _added.items()}


def parameterised(case: Case, values: Values) -> AbstractLabeler:
    """The case's labeler with other parameters."""
    return eqx.tree_at(
        lambda labeler: [operator.attrgetter(path)(labeler) for path in values],
        case.labeler,
        list(values.values()),
    )


def perceived(labeler: AbstractLabeler) -> tuple[View, View]:
    """Both views of `LABELS` comparisons, the same ones everywhere."""
    view = jax.vmap(functools.partial(labeler.view, world()))
    return tuple(view(prompts(LABELS), responses(LABELS, seed)) for seed in (0, 1))


def model(case: Case, who: jax.Array, answers: jax.Array) -> None:
    """Priors and the labeler's own likelihood. Of a pool it is known who answered; its annotators are latent."""
    values = {path: numpyro.sample(path, prior) for path, prior in case.priors.items()}
    labeler = parameterised(case, values)
    first, second = perceived(labeler)
    if isinstance(labeler, AnnotatorPool):
        with numpyro.plate("annotators", labeler.annotators):
            team = {
                name: numpyro.sample(f"annotator.{name}", part)
                for name, part in labeler.population().items()
            }
        each = jax.tree.map(lambda x: x[who], Annotator(**team))
        chance = jax.vmap(Annotator.outcomes)(each, first, second)
    else:
        chance = jax.vmap(labeler.outcomes)(first, second)
    numpyro.sample("answers", dist.Categorical(probs=chance), obs=answers)


#: Annotators without scale: the sampler would not get into the narrow part of the population.
UNSCALED = {
    "annotator.temperature": TransformReparam(),
    "annotator.position_bias": LocScaleReparam(0.0),
    "annotator.length_bias": LocScaleReparam(0.0),
    "annotator.taste": LocScaleReparam(0.0),
}


def answer_by(pool: AnnotatorPool, key: jax.Array, *pair: View) -> tuple[jax.Array, jax.Array]:
    """Who answers one comparison, drawn by weight, and what."""
    k_who, k_answer = jax.random.split(key)
    who = jax.random.categorical(k_who, jnp.log(pool.shares()))
    chance = jax.tree.map(lambda x: x[who], pool.draw()).outcomes(*pair)
    return who, jax.random.categorical(k_answer, jnp.log(chance))


@functools.partial(jax.jit, static_argnums=0)
def simulate(case: Case, key: jax.Array, values: Values) -> tuple[jax.Array, jax.Array]:
    """One data set: who answered, and what."""
    k_seed, k_answers = jax.random.split(key)
    labeler = parameterised(case, values)
    first, second = perceived(labeler)
    keys = jax.random.split(k_answers, LABELS)
    if isinstance(labeler, AnnotatorPool):
        seed = jax.random.randint(k_seed, (), 0, 2**31 - 1)
        labeler = eqx.tree_at(lambda pool: pool.seed, labeler, seed)
        return jax.vmap(functools.partial(answer_by, labeler))(keys, first, second)
    return jnp.zeros(LABELS, jnp.int32), jax.vmap(labeler.answer)(keys, first, second)


@functools.partial(jax.jit, static_argnums=0)
def infer(case: Case, key: jax.Array, who: jax.Array, answers: jax.Array) -> Values:
    """`DRAWS` posterior draws of the case's parameters."""
    kernel = NUTS(numpyro.handlers.reparam(model, config=UNSCALED), max_tree_depth=6)
    chain = MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=DRAWS * THINNING,
        thinning=THINNING,
        progress_bar=False,
    )
    chain.run(key, case, who, answers)
    return {path: chain.get_samples()[path] for path in case.priors}


def calibrate(case: Case, misread: float = 1.0) -> dict[str, tuple[float, float]]:
    """For each parameter: p-value of uniform ranks, and correlation of posterior means with the truth.

    Labels are drawn with the first parameter multiplied by ``misread``.
    """
    k_prior, k_data, k_chain = jax.random.split(jax.random.key(0), 3)
    k_each = jax.random.split(k_prior, len(case.priors))
    truth = {
        path: prior.sample(k, (REPLICATIONS,))
        for k, (path, prior) in zip(k_each, case.priors.items(), strict=True)
    }
    first = next(iter(case.priors))
    drawn_with = truth | {first: truth[first] * misread}
    who, answers = jax.vmap(functools.partial(simulate, case))(
        jax.random.split(k_data, REPLICATIONS), drawn_with
    )
    draws = jax.vmap(functools.partial(infer, case))(
        jax.random.split(k_chain, REPLICATIONS), who, answers
    )
    found = {}
    for path, values in truth.items():
        rank = np.sum(np.asarray(draws[path]) < np.asarray(values)[:, None], axis=1)
        # Spread over its cell, a discrete uniform rank is a continuous one.
        cell = np.random.default_rng(0).uniform(size=REPLICATIONS)
        p = stats.kstest((rank + cell) / (DRAWS + 1), "uniform").pvalue
        means = np.mean(np.asarray(draws[path]), axis=1)
        found[path] = (float(p), float(np.corrcoef(means, values)[0, 1]))
    return found


def test_every_case_recovers_all_parameters_of_its_labeler() -> None:
    """All continuous ones. A labeler that is added may bring its case: ``CASES = {"Mine": (...)}`` in
    tests/support/labeler_case_mine.py; without one its frequencies and gradients are checked, in test_labelers.py.
    `Soft` and `Deterministic` have no parameters of their own."""
    kinds = members(AbstractLabeler, AbstractLabeler.family)
    assert len(CASES) >= 10
    for name, case in CASES.items():
        assert type(case.labeler) is kinds[name]
        floats = {p for p, value in flatten(case.labeler).items() if isinstance(value, float)}
        assert floats == set(case.priors)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_parameters_are_recovered(case: Case) -> None:
    """Ranks are uniform, and posterior means follow the truth. With 22 parameters at `FALSE_ALARM` each, correct
    likelihoods fail somewhere with probability 0.2%; keys are fixed."""
    for path, (p_value, correlation) in calibrate(case).items():
        assert p_value > FALSE_ALARM, path
        assert correlation > case.correlation, path


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["BradleyTerry", "Flips", "Ties", "Skips", "Biased", "Intransitive"]
)
def test_a_wrong_likelihood_is_noticed(name: str) -> None:
    """Labels drawn with the first parameter 1.4 times what the likelihood takes it for: that test fails,
    although posterior means follow the truth as before."""
    first, *_ = CASES[name].priors
    p_value, correlation = calibrate(CASES[name], misread=1.4)[first]
    assert p_value < FALSE_ALARM
    assert correlation > CASES[name].correlation
