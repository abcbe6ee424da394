"""Classes of a user's own: every kind of fault is refused in one sentence that names the class, before anything is
built; what is right passes, and what comes with the testbed is not tried at every command."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    PROMPT,
    TIME,
    VOCABULARY,
    SumGolden,
    SumTask,
    UniformPrompts,
    UniformWriters,
    experiment,
)

from envs.labelers.bradley_terry import BradleyTerry
from envs.labelers.flips import Flips
from sweeps import contracts
from sweeps.cli import main as cli
from sweeps.contracts.samples import MadeUpEvidence
from sweeps.estimands import Estimand, Unanswerable
from sweeps.rules import Draws, Rule
from sweeps.studies import gap
from testbed.config import replace
from testbed.config.ranges import hyper
from testbed.environment import AbstractGolden, AbstractTask, AbstractWriters, World
from testbed.errors import InvalidInput
from testbed.losses.base import AbstractLoss
from testbed.methods.reinforce import Reinforce
from testbed.optimiser import FitConfig
from testbed.preference import AbstractLabeler, decided
from testbed.proxies.base import AbstractProxy, AbstractProxyConfig, Reading, cross_entropy
from testbed.references.base import AbstractReference
from testbed.sources.offline import Offline
from testbed.sources.online import Online
from testbed.types import Response

EXAMPLE = experiment()
STUDY = '''"""A loss of one's own."""

import jax.numpy as jnp

from sweeps.studies import gap
from testbed.losses.base import AbstractLoss, ScoredPair
from testbed.config.ranges import hyper


class Square(AbstractLoss):
    """(h - 5)^2."""

    beta: float = hyper(0.1, above=0)

    def __call__(self, pair: ScoredPair):
        {body}


study = gap.study.derived("mine", "A loss of one's own", loss=Square())
'''
NO_VALUE = "need a value, and there is none yet when a program is traced: use"
IF = (
    "loss Square fails in FILE, line 16: `if`, `while`, `and`, `or` and `not` "
    f"{NO_VALUE} jnp.where, or & and |"
)
#: What a loss does, and what is said of it.
BODIES = {
    "return ((pair.margin() - 5.0) ** 2).reshape(1)": "loss Square returns shape (1,): needs (), one number a pair",
    "return None": "loss Square returns None: needs one number a pair, shape ()",
    "return jnp.int32(3)": "loss Square returns numbers of type int32: needs floating-point numbers, one number a pair",
    "return (pair.margn() - 5.0) ** 2": "loss Square fails in FILE, line 16: AttributeError: 'ScoredPair' object has "
    "no attribute 'margn': did you mean 'margin'?",
    "return 1.0 if pair.margin() > 0 else 2.0": IF,
    "return pair.margin() if self.beta > 1 else 2.0": IF,
    "return jnp.float32(float(pair.margin()))": "loss Square fails in FILE, line 16: float(), int(), range() and "
    f"shapes {NO_VALUE} jax.numpy, or declare the field eqx.field(static=True)",
    "return jnp.log(pair.margin())": "loss Square is nan for 5 of 8 pairs with margins between -6 and 6 nats: needs "
    "finite numbers",
    "return jnp.sqrt(jnp.abs(pair.margin()))": "the slope of loss Square is ",
    "return undefined": "loss Square fails in FILE, line 16: NameError: name 'undefined' is not defined",
}


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What a command says that is refused: one sentence, before anything is built."""
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))

    def run(text: str, *words: str) -> str:
        file = tmp_path / "mine.py"
        file.write_text(text)
        assert cli.main(["run", str(file), "--preset", "smoke", "--quiet", *words]) == 2
        told = capsys.readouterr().err
        assert len(told.splitlines()) == 1
        assert not list((tmp_path / "cache" / "stages").glob("*"))
        assert not (tmp_path / "out").exists()
        return told.removeprefix("testbed: ").strip().replace(str(file), "FILE")

    return run


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_losses_are_refused_at_the_dry_run(body: str, refused) -> None:
    assert refused(STUDY.replace("{body}", body), "--dry-run").startswith(BODIES[body])


def test_a_loss_of_another_shape_trains_nothing(refused, tmp_path: Path) -> None:
    """It would be another loss: (n,) weights times (n, 1) values have the mean of an outer product."""
    text = STUDY.replace("{body}", "return ((pair.margin() - 5.0) ** 2).reshape(1)")
    skips = ("--set", "labeler=Skips(rate=1.0,scale=2.0)", "--out", str(tmp_path / "out"))
    assert "loss Square returns shape (1,)" in refused(text, *skips)


def test_a_right_loss_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(STUDY.replace("{body}", "return (pair.margin() - 5.0) ** 2"))
    assert cli.main(["run", str(file), "--preset", "smoke", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "Checking loss Square" in told
    assert "8, of which 0 are stored" in told


def test_numbers_that_float32_has_not_are_refused(refused) -> None:
    """By the field's range, or by its path where it has none."""
    text = STUDY.replace("{body}", "return (pair.margin() - 5.0) ** 2")
    beta = refused(text, "--dry-run", "--set", "loss.beta=1e-46")
    assert beta == "loss: beta must be > 0 and finite, got 1e-46, which is 0 in float32"
    labels = refused(text, "--dry-run", "--set", "labeler=Skips(scale=1e-46)")
    assert labels.startswith("labeler.scale must be 0 or between 1.2e-38 and 3.4e+38 in size")
    assert labels.endswith("got 1e-46, which is 0 in float32")


def said(member: Any, example: Any = EXAMPLE) -> str:
    """What is said of a member that is refused."""
    with pytest.raises(InvalidInput) as problem:
        contracts.check_member(member, example)
    told = str(problem.value)
    assert "\n" not in told
    return told


class Plain(AbstractLoss):
    beta: float = hyper(0.1, above=0)

    def __call__(self, pair):
        return (pair.margin() - 5.0) ** 2


class Worded(Plain):
    kind: str = "square"


class Extras(Plain):
    @property
    def extras(self):
        return {"kl"}


class Unreduced(Plain):
    def value(self, policy, critic, inputs, batch):
        return batch.pairs.weight


class PerResponse(Reinforce):
    def value(self, policy, critic, inputs, batch):
        return batch.reward


def test_losses_and_methods() -> None:
    contracts.check_member(Plain(), EXAMPLE)
    assert said(Worded()).startswith(
        "loss Worded has 'square' in its field kind, which is no number"
    )
    assert said(Extras()).startswith("loss Extras.extras returns {'kl'}: needs a frozenset")
    assert said(Unreduced()) == (
        "loss Unreduced.value returns shape (4,): needs (), the mean loss of a step"
    )
    assert said(PerResponse()).startswith("method PerResponse.value returns shape (4,")


class OutcomesBy(AbstractLabeler):
    def outcomes(self, first, second):
        return self.of(first.reward - second.reward, first)

    def of(self, d, first) -> Any:
        raise NotImplementedError


class TwoOnly(OutcomesBy):
    def of(self, d, first):
        return jnp.stack([jax.nn.sigmoid(d), jax.nn.sigmoid(-d)])


class SumOfFour(OutcomesBy):
    def of(self, d, first):
        return jnp.stack([jax.nn.sigmoid(d)] * 4)


class Negative(OutcomesBy):
    def of(self, d, first):
        return decided(0.5 + d)


class NoTie(OutcomesBy):
    def of(self, d, first):
        return decided(jnp.where(d == 0, d / d, 0.5))


class Branching(OutcomesBy):
    def of(self, d, first):
        return decided(jnp.float32(1.0 if d > 0 else 0.0))


class Blind(OutcomesBy):
    def of(self, d, first):
        return decided(0.5 + 0.0 * d)

    def view(self, world, prompt, response):
        return world.reward(prompt, response)


def test_labelers() -> None:
    assert said(TwoOnly()) == (
        "labeler TwoOnly.outcomes returns shape (2,): needs (4,), the probabilities of first, second, tie, skip"
    )
    told = said(SumOfFour())
    assert told.startswith("labeler SumOfFour.outcomes gives probabilities that sum to")
    assert told.endswith("needs a sum of one over first, second, tie, skip")
    assert "gives an answer a probability of" in said(Negative())
    assert said(NoTie()).startswith("labeler NoTie.outcomes is nan for")
    branching = r"labeler Branching.outcomes fails in .*test_own_classes.py, line \d+: `if`"
    assert re.match(branching, said(Branching()))
    assert said(Blind(), replace(EXAMPLE, "task", SumTask())) == (
        "labeler Blind.view returns shape (8,): needs View"
    )


def test_what_stands_inside_another_is_tried_too() -> None:
    """A labeler in a labeler, the loss of the golden baseline."""
    with pytest.raises(InvalidInput, match=r"labeler TwoOnly\.outcomes returns shape \(2,\)"):
        contracts.check_experiment(replace(EXAMPLE, "labeler", Flips(TwoOnly())))
    with pytest.raises(InvalidInput, match="loss Extras"):
        contracts.check_experiment(replace(EXAMPLE, "baseline.loss", Extras()))


class Golden(AbstractGolden):
    def __call__(self, prompt, response):
        return self.of(response).astype(jnp.float32)

    def of(self, response) -> Any:
        raise NotImplementedError


class NanWhenEmpty(Golden):
    def of(self, response):
        return response.tokens[0] / jnp.where(response.length == 1, 0.0, 1.0)


class Constant(Golden):
    def of(self, response):
        return 0.0 * response.length + 2.0


class Vector(Golden):
    def of(self, response):
        return response.tokens


class Behind(Golden):
    def of(self, response):
        return jnp.sum(response.tokens)


class BehindPrompt(Golden):
    def __call__(self, prompt, response):
        return (jnp.sum(prompt.tokens) + response.length).astype(jnp.float32)


class OfThePrompt(Golden):
    def __call__(self, prompt, response):
        return prompt.length.astype(jnp.float32)


class Drawn(Golden):
    def of(self, response):
        return response.length + np.random.default_rng().normal()


class Whole(Golden):
    def __call__(self, prompt, response):
        return response.length


class Beyond(UniformWriters):
    def __call__(self, key, prompt):
        return Response(jnp.full(TIME, VOCABULARY), jnp.asarray(TIME))


class Unending(UniformWriters):
    def __call__(self, key, prompt):
        return Response(jnp.array([3, 2, 0, 0, 0]), jnp.asarray(2))


class Long(UniformWriters):
    def __call__(self, key, prompt):
        return Response(jnp.ones(TIME + 1, jnp.int32), jnp.asarray(TIME))


class Silent(AbstractWriters):
    def __call__(self, key, prompt):
        return Response(jnp.zeros(TIME, jnp.int32), jnp.asarray(0))


class FarPrompts(UniformPrompts):
    def __call__(self, key):
        prompt = super().__call__(key)
        return eqx.tree_at(lambda p: p.tokens, prompt, jnp.full(PROMPT, -1))


class Mine(SumTask):
    """A task with other parts."""

    prompts: Any = UniformPrompts()
    writers: Any = UniformWriters()
    golden: Any = SumGolden()

    def world(self, key):
        return World(self.prompts, self.writers, self.golden)


class Few(Mine):
    def words(self):
        return (".", "a")


class Nowhere(Mine):
    def world_on(self, material, key):
        return None


class Elsewhere(Mine):
    def world(self, key):
        return World(self.prompt, self.writers, self.golden)  # pyright: ignore[reportAttributeAccessIssue]


IDS = r"vocabulary=7 has the ids from 0 to 6"
#: Tasks, and what is said of each.
TASKS: tuple[tuple[AbstractTask, str], ...] = (
    (
        Mine(golden=NanWhenEmpty()),
        r"golden reward NanWhenEmpty is (nan|inf) for \d+ of 32 texts, such as the response of tokens \[0\]: needs a "
        r"finite number for every text",
    ),
    (
        Mine(golden=Constant()),
        "golden reward Constant is 2 for all of 32 texts: needs rewards that differ between texts",
    ),
    (
        Mine(golden=Vector()),
        r"golden reward Vector returns shape \(5,\): needs \(\), one number a response",
    ),
    (
        Mine(golden=Whole()),
        "golden reward Whole returns numbers of type int32: needs floating-point numbers, one number a response",
    ),
    (
        Mine(golden=Behind()),
        r"golden reward Behind is .* for a text and .* for the same text with other tokens behind the end of the "
        r"response: needs a reward of the text alone: use `response.mask`",
    ),
    (
        Mine(golden=BehindPrompt()),
        r"golden reward BehindPrompt is .* for a text and .* for the same text with other tokens behind the end of the "
        r"prompt: needs a reward of the text alone: use `prompt.length`",
    ),
    (
        Mine(golden=OfThePrompt()),
        "golden reward OfThePrompt gives all of 64 responses to a prompt the same reward, for each of 4 prompts: needs "
        "rewards that differ between responses to one prompt",
    ),
    (
        Mine(golden=Drawn()),
        r"golden reward Drawn is .* for a text and .* for the same text computed a second time and alone: needs the "
        r"same reward of the same text at any time, so no random numbers of numpy",
    ),
    (Mine(writers=Beyond()), f"writers Beyond of task Mine gives token 7: {IDS}"),
    (Mine(prompts=FarPrompts()), f"prompts FarPrompts of task Mine gives token -1: {IDS}"),
    (
        Mine(writers=Silent()),
        "writers Silent of task Mine gives a length of 0: needs 1 to 5 tokens",
    ),
    (
        Mine(writers=Unending()),
        "writers Unending of task Mine gives a text of 2 tokens without an end token: .*",
    ),
    (
        Mine(writers=Long()),
        r"writers Long: `tokens` returns shape \(6,\): needs \(5,\), a token id a place",
    ),
    (Few(), "task Few.words returns 2 words: needs one for each of the 7 token ids"),
    (Nowhere(), "task Nowhere.world returns None: needs World"),
    (
        Elsewhere(),
        r"task Elsewhere.world fails in .*, line \d+: AttributeError: .*: did you mean 'prompts'\?",
    ),
)


@pytest.mark.parametrize(("task", "told"), TASKS, ids=range(len(TASKS)))
def test_tasks_and_goldens(task: AbstractTask, told: str) -> None:
    assert re.fullmatch(told, said(task))


def test_a_right_task_passes() -> None:
    contracts.check_task(Mine())


class OneThing(Online):
    def draw(self, *given):
        return super().draw(*given)[0]


class Half(Offline):
    def draw(self, *given):
        batch, state = super().draw(*given)
        return jax.tree.map(lambda x: x[:2], batch), state


class Forgetful(Offline):
    def draw(self, *given):
        batch, state = super().draw(*given)
        return batch, eqx.tree_at(lambda s: s.order, state, state.order[:3])


class OutOfWords(Offline):
    def draw(self, *given):
        batch, state = super().draw(*given)
        return eqx.tree_at(
            lambda b: b.pairs.winner.tokens, batch, replace_fn=lambda x: x + 7
        ), state


class Sure(Offline):
    def draw(self, *given):
        batch, state = super().draw(*given)
        return eqx.tree_at(lambda b: b.pairs.preference, batch, replace_fn=lambda x: x + 1), state


def test_sources() -> None:
    assert said(OneThing()).startswith("source OneThing.draw returns a Batch: needs two things")
    half = "source Half.draw returns a Batch of 4 pairs with pairs.prompt.tokens of shape (2, 4)"
    assert said(Half()).startswith(half)
    assert "a next state like that of init with order of shape (3,)" in said(Forgetful())
    beyond = rf"source OutOfWords.draw gives a winner with token \d+: {IDS}"
    assert re.fullmatch(beyond, said(OutOfWords()))
    assert re.match(r"source Sure.draw gives a preference of 1.*: needs 0 to 1", said(Sure()))


class Moving(AbstractReference):
    @property
    def moves(self):
        return True

    def next(self, reference, policy, step):
        return self.of(reference, policy)

    def of(self, reference, policy) -> Any:
        raise NotImplementedError


class Nothing(Moving):
    def of(self, reference, policy):
        return None


class Infinite(Moving):
    def of(self, reference, policy):
        return jax.tree.map(lambda x: x / 0.0, reference)


def test_references() -> None:
    assert said(Nothing()) == (
        "reference Nothing.next returns None: needs a policy like the one it is given"
    )
    assert said(Infinite()).startswith("reference Infinite.next is ")


class Bag(AbstractProxy):
    worth: jax.Array

    def margin(self, prompts, first, second):
        return self.reward(first) - self.reward(second)

    def reward(self, text):
        return jnp.sum(jnp.where(text.mask, self.worth[text.tokens], 0.0), axis=-1)

    def loss(self, pairs):
        return cross_entropy(self.margin(pairs.prompt, pairs.winner, pairs.loser), pairs.preference)


class Column(Bag):
    def margin(self, prompts, first, second):
        return super().margin(prompts, first, second)[:, None]


class OneSided(Bag):
    def margin(self, prompts, first, second):
        return self.reward(first)


class BagConfig(AbstractProxyConfig):
    fit: FitConfig = FitConfig(steps=20, batch_size=8)
    kind: type = eqx.field(static=True, default=Bag)

    def form(self, model):
        return ("bag", self.kind)

    def train(self, key, model, sft, pairs):
        return self.kind(jnp.arange(1.0, sft.vocabulary + 1.0))

    def reading(self, model, task, pairs):
        return Reading(model, task.response_length, 1, 1, None, task.vocabulary, pairs)


class Untrained(BagConfig):
    def train(self, key, model, sft, pairs):
        return None


class Unhashable(BagConfig):
    def form(self, model):
        return ([1],)


def test_proxies() -> None:
    contracts.check_member(BagConfig(), EXAMPLE)
    assert said(BagConfig(kind=Column)) == (
        "preference model Column.margin returns shape (8, 1): needs (8,), one number a pair"
    )
    told = said(BagConfig(kind=OneSided))
    assert told.startswith("preference model OneSided.margin is ")
    assert told.endswith(
        "for the same pair turned round: needs the opposite sign and the same size"
    )
    assert said(Untrained()) == "proxy Untrained.train returns None: needs AbstractProxy"
    assert "TypeError: unhashable type: 'list'" in said(Unhashable())


@dataclasses.dataclass(frozen=True)
class Effect(Estimand):
    arm: str = "online"

    def words(self):
        return "an effect", "units"

    def _measure(self, evidence, negligible):
        values = list(evidence.last("kl", self.arm).values())
        return Draws(*self.words(), np.asarray(values))


class Undecorated(Effect):
    more: int = 3


@dataclasses.dataclass(frozen=True)
class OneWord(Effect):
    def words(self):
        return "an effect"


@dataclasses.dataclass(frozen=True)
class NanDraws(Effect):
    def _measure(self, evidence, negligible):
        return Draws("an effect", "units", np.array([1.0, math.nan]))


@dataclasses.dataclass(frozen=True)
class Table(Effect):
    def _measure(self, evidence, negligible):
        return Draws("an effect", "units", np.ones((2, 3)))


@dataclasses.dataclass(frozen=True)
class Misspelt(Effect):
    def _measure(self, evidence, negligible):
        return evidence.lst("kl", self.arm)


@dataclasses.dataclass(frozen=True)
class Speechless(Effect):
    def _measure(self, evidence, negligible):
        raise Unanswerable("there is nothing to say")


@dataclasses.dataclass(frozen=True)
class Below(Rule):
    @property
    def limits(self):
        return -math.inf, -self.rope

    def holds(self, values):
        return values < -self.rope

    def words(self):
        return "below", "not below"


@dataclasses.dataclass(frozen=True)
class Turned(Below):
    def holds(self, values):
        return values > -self.rope


@dataclasses.dataclass(frozen=True)
class Counted(Below):
    def holds(self, values):
        return np.mean(values < -self.rope)


def test_estimands() -> None:
    evidence = MadeUpEvidence(gap.study.select("smoke"))

    def told(estimand: Estimand) -> str:
        with pytest.raises(InvalidInput) as problem:
            contracts.check_estimand(estimand, evidence)
        return str(problem.value)

    contracts.check_estimand(Effect(), evidence)
    contracts.check_estimand(Speechless(), evidence)
    assert told(Undecorated()).startswith("estimand Undecorated is not decorated: needs @dataclass")
    assert told(OneWord()).startswith("estimand OneWord.words returns 'an effect': needs two texts")
    assert told(NanDraws()).startswith("estimand NanDraws returns nan among its draws")
    assert told(Table()).startswith("estimand Table returns draws of shape (2, 3)")
    assert "did you mean 'last'?" in told(Misspelt())
    assert "unknown arm 'onlin'" in told(Effect("onlin"))
    namesake = dataclasses.make_dataclass("MatchedDifference", [], bases=(Effect,), frozen=True)
    assert told(namesake()) == (
        "estimand MatchedDifference has the name of another one in sweeps.estimands.matched_difference: "
        "choose a name that no other has"
    )


def test_rules() -> None:
    def told(rule: Rule) -> str:
        with pytest.raises(InvalidInput) as problem:
            contracts.check_rule(rule)
        return str(problem.value)

    contracts.check_rule(Below(0.02))
    assert told(Turned(0.02)).startswith("rule Turned.holds and limits disagree on an effect of ")
    assert told(Counted(0.02)).startswith("rule Counted.holds returns float64 of shape ()")


def test_each_class_is_tried_once_and_the_testbeds_own_not_at_all() -> None:
    told: list[str] = []
    contracts.check([gap.study.select("laptop")], told.append)
    assert told == []
    study = gap.study.derived("mine", "Mine", loss=Plain(), labeler=Flips(BradleyTerry()))
    contracts.check([study.select("laptop"), study.select("smoke")], told.append)
    assert told == ["Checking loss Plain"]
