"""`testbed inspect`: its numbers recomputed, its page, its mistakes; and `testbed list` of what there is."""

import functools
import html.parser
import io
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    PROMPT,
    TIME,
    VOCABULARY,
    Silence,
    SumGolden,
    SumTask,
    UniformPrompts,
    UniformWriters,
    cache_directory,
    cut,
    experiment,
    model,
    sum_reward,
)

from analysis.site import inspection_figure
from envs.labelers.bradley_terry import BradleyTerry
from envs.neural import Neural
from sweeps import inspection, runtime
from sweeps.catalogue import families
from sweeps.cli import main as cli
from sweeps.inspection import (
    BEST,
    BEST_OF,
    COPIED,
    EMPTY,
    PROMPTS,
    REPEATED,
    SEARCHED,
    SFT,
    SHOWN,
    WORST,
    WRITERS,
    Inspection,
)
from sweeps.population.world_builder import WorldBuilder
from sweeps.study import load_study
from testbed.cache import Cache
from testbed.environment import World
from testbed.errors import InvalidInput
from testbed.stages.world_config import WorldConfig
from testbed.types import Prompt, Response

NET = "TransformerConfig(width=8, layers=1, heads=2, key_value_heads=1)"
TASK = (
    f"neural(vocabulary={VOCABULARY}, prompt_length={PROMPT}, response_length={TIME}, writers=2, "
    f"writer={NET}, golden={NET})"
)
#: The sizes of `helpers.experiment`, so that its programs are compiled once.
SMALL = (
    "model.width=16",
    "model.layers=1",
    "model.heads=2",
    "model.key_value_heads=1",
    "sft.steps=60",
    "sft.batch_size=8",
    "sft.optimiser.learning_rate=0.01",
    "data.pairs=32",
    "data.held_out=16",
    "proxy.fit.steps=20",
    "proxy.fit.batch_size=8",
)


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the test run's own XLA settings, and its stages to itself."""
    monkeypatch.setattr(runtime, "configure", lambda: None)
    monkeypatch.setenv("TESTBED_CACHE", str(cache_directory()))


@functools.cache
def sampled() -> inspection.Sampled:
    """Samples of a world whose reward is the sum of tokens; its ideal writes as its writers do."""
    centre, scale = jnp.array(2.0), jnp.array(4.0)
    own = World(
        UniformPrompts(), UniformWriters(), SumGolden(), centre, scale, ideal=UniformWriters()
    )
    return jax.device_get(jax.jit(inspection.sample)(SumTask(), own, model(3), jax.random.key(0)))


def test_rewards_of_every_source_by_hand() -> None:
    found = sampled()
    for source, text in found.texts.items():
        rows, each = found.rewards[source].shape
        assert rows == (SEARCHED if source == REPEATED else PROMPTS)
        for row in range(rows):
            given = cut(found.prompts, row)
            by_hand = [sum_reward(given, cut(text, (row, i))) for i in range(each)]
            np.testing.assert_allclose(found.rewards[source][row], by_hand, atol=1e-5)
    assert found.rewards[WRITERS].shape[1] == 2
    assert found.rewards[SFT].shape[1] == BEST_OF


def test_best_and_worst_are_of_the_same_prompts_samples() -> None:
    found = sampled()
    for source, pick in ((BEST, np.argmax), (WORST, np.argmin)):
        which = pick(found.rewards[SFT], axis=1)
        for row in range(PROMPTS):
            assert found.rewards[source][row, 0] == found.rewards[SFT][row, which[row]]
            expected = cut(found.texts[SFT], (row, int(which[row]))).tolist()
            assert cut(found.texts[source], (row, 0)).tolist() == expected


def test_trivial_responses_by_hand() -> None:
    """The sum is largest for the last token, written until the limit; this prompt leaves room for an end."""
    found = sampled()
    assert found.repeated.tolist() == [VOCABULARY - 1, TIME]
    for row in range(PROMPTS):
        assert cut(found.texts[EMPTY], (row, 0)).tolist() == [0]
        copied = [*cut(found.prompts, row).tolist(), 0][:TIME]
        assert cut(found.texts[COPIED], (row, 0)).tolist() == copied
    for row in range(SEARCHED):
        assert cut(found.texts[REPEATED], (row, 0)).tolist() == [VOCABULARY - 1] * TIME


def test_a_prompt_longer_than_the_limit_is_cut() -> None:
    given = jax.tree.map(lambda x: x[-1], sampled().prompts)
    text = inspection._copied(given, 1)
    assert cut(jax.tree.map(lambda x: x[None], text), 0).tolist() == [int(given.tokens[0])]


@functools.cache
def found() -> Inspection:
    """An inspection of `helpers.experiment`."""
    return inspection.inspect(experiment(labeler__temperature=1.0), False, Silence())


def test_samples_are_standardised_and_pairs_counted_again(tmp_path: Path) -> None:
    """SFT samples, others than were standardised over, have mean 0 and SD 1 within five standard errors (256 prompts);
    shares agree with those that the stages measured."""
    mine = found()
    assert list(mine.rewards) == [WRITERS, SFT, BEST, WORST, EMPTY, REPEATED, COPIED]
    by_prompt = mine.rewards[SFT].reshape(PROMPTS, BEST_OF)
    error = by_prompt.mean(axis=1).std(ddof=1) / np.sqrt(PROMPTS)
    assert abs(by_prompt.mean()) < 5 * np.hypot(error, 1 / np.sqrt(512))
    assert by_prompt.std() == pytest.approx(1.0, abs=0.2)
    np.testing.assert_array_equal(mine.rewards[BEST], by_prompt.max(axis=1))
    np.testing.assert_array_equal(mine.rewards[WORST], by_prompt.min(axis=1))
    ties, right = 16 - mine.proxy.right.size, mine.proxy.right.sum()
    assert 0 <= 16 * mine.facts["proxy_accuracy"] - right <= ties < 4
    ties, wrong = 32 - mine.labels.right.size, np.sum(1 - mine.labels.right)
    assert 0 <= 32 * mine.facts["label_noise"] - wrong <= ties < 6
    assert wrong > 0
    assert np.all(mine.labels.difference > 0)


def test_pretrained_models_are_not_inspected() -> None:
    with pytest.raises(InvalidInput, match="too many for the pretrained model of Text"):
        inspection.configure("text", [], 0, False)


def test_the_golden_baseline_is_not_built() -> None:
    progress = Silence()
    own = experiment(seed=5)
    cache = Cache(cache_directory())
    config = WorldConfig.of(own)
    made = WorldBuilder(cache, progress).made(config, inspection._BUILT)
    assert set(made) == {
        "material",
        "world",
        "texts",
        "sft",
        "base",
        "golden",
        "pool",
        "data",
        "proxy",
    }
    assert not any("baseline" in stage for stage in progress.stages)


def test_examples_are_what_the_world_says_of_their_words() -> None:
    mine = found()
    config = WorldConfig.of(mine.experiment)
    cache = Cache(cache_directory() / "stages")
    made = WorldBuilder(cache, Silence()).made(config, inspection._BUILT)
    reward = functools.partial(jax.jit(World.reward), made["golden"].world)
    assert len(mine.examples) == SHOWN
    words = mine.experiment.task.words()

    def tokens(text: str, size: int) -> tuple[jax.Array, jax.Array]:
        ids = [words.index(word) for word in text.split()]
        padded = np.zeros(size, np.int32)
        padded[: len(ids)] = ids
        return jnp.asarray(padded), jnp.asarray(len(ids))

    for example in mine.examples:
        rewards = [text.reward for text in example.responses]
        assert rewards == sorted(rewards, reverse=True)
        own = {text.source: text.reward for text in example.responses}
        assert own[BEST] >= own[SFT] >= own[WORST]
        for text in example.responses:
            expected = reward(
                Prompt(*tokens(example.prompt, PROMPT)), Response(*tokens(text.words, TIME))
            )
            assert text.reward == pytest.approx(float(expected), abs=1e-4)


def test_distributions_and_checks_by_hand() -> None:
    mine = found()
    for row in mine.distributions():
        ordered = np.sort(mine.rewards[row["source"]])
        assert row["mean"] == pytest.approx(sum(ordered.tolist()) / len(ordered), abs=1e-5)
        for name, share in (("p1", 0.01), ("median", 0.5), ("p99", 0.99)):
            place = share * (len(ordered) - 1)
            low, part = int(place), place - int(place)
            high = min(low + 1, len(ordered) - 1)
            expected = ordered[low] * (1 - part) + ordered[high] * part
            assert row[name] == pytest.approx(expected, abs=1e-5)
    fact = mine.facts
    assert [holds for _, holds in mine.checks()] == [
        fact["within_prompt_variance"] >= 1 / 3,
        max(np.mean(mine.rewards[s]) for s in (EMPTY, REPEATED, COPIED))
        <= np.percentile(mine.rewards[WRITERS], 99),
        0.65 <= fact["proxy_accuracy"] <= 0.95,
    ]


def test_groups_hold_equally_many_pairs() -> None:
    judged = inspection.Judged(
        np.arange(16, dtype=np.float32)[::-1], (np.arange(16)[::-1] >= 8).astype(np.float32)
    )
    x, share, error = inspection_figure.grouped(judged)
    assert x.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5, 14.5]
    assert share.tolist() == [0.0] * 4 + [1.0] * 4
    assert error.tolist() == [0.0] * 8


def command(*more: str) -> list[str]:
    return ["inspect", TASK, *(word for text in SMALL for word in ("--set", text)), *more]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The page and the terminal's text of one command."""
    out = tmp_path_factory.mktemp("inspect") / "page"
    with pytest.MonkeyPatch.context() as patch:
        text = io.StringIO()
        patch.setattr(sys, "stdout", text)
        patch.setattr(runtime, "configure", lambda: None)
        patch.setenv("TESTBED_CACHE", str(cache_directory()))
        assert cli.main(command("--seed", "1", "--out", str(out))) == 0
    return out, text.getvalue()


def test_the_command_prints_and_writes_everything(written: tuple[Path, str]) -> None:
    out, text = written
    assert {path.name for path in out.iterdir()} == {"inspect.html", "inspect.json", "figures"}
    assert {path.name for path in (out / "figures").iterdir()} == {"inspect.png", "inspect.svg"}
    told = json.loads((out / "inspect.json").read_text())
    assert told["config"]["seed"] == 1
    assert told["config"]["data"]["pairs"] == 32
    assert told["coverage_is"] == "estimated"
    assert len(told["rewards"][SFT]) == PROMPTS * BEST_OF
    assert {"coverage", "chi_square", "proxy_accuracy", "label_noise"} <= told["facts"].keys()
    plain = (out / "inspect.html").read_text()
    for place in (text, plain):
        assert "The neural world" in place
        assert "variance within prompts" in place
        assert f"{100 * told['facts']['proxy_accuracy']:.0f}%" in place
        assert told["examples"][0]["prompt"] in place
        assert told["examples"][0]["responses"][0]["words"] in place
    assert str(out / "inspect.html") in text


def test_the_page_is_self_contained_and_well_formed(written: tuple[Path, str]) -> None:
    plain = (written[0] / "inspect.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", plain)
    assert "@import" not in plain
    assert "<script" not in plain
    assert not re.search(r"url\((?!#)", plain)
    assert "default-src 'none'" in plain
    open_tags: list[str] = []

    class Checker(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag != "meta":
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(plain)
    assert open_tags == []


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on standard error of a command that must exit with status 2."""
    assert cli.main(["inspect", *words]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    return error


def test_mistakes_are_one_sentence_before_anything_compiles(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "WorldBuilder", None)
    assert "unknown kind for task 'sumarize': did you mean 'Summarize'?" in refused(
        capsys, "sumarize"
    )
    assert "order must be between 0" in refused(capsys, "Neural(order=99)")
    assert "unknown field of Neural 'ordr'" in refused(capsys, "Neural(ordr=1)")
    assert "did you mean 'data.quality'" in refused(capsys, "neural", "--set", "data.qualty=1")
    assert "--set takes path=value, got 'sft'" in refused(capsys, "neural", "--set", "sft")
    assert "support must be none or in (0, 1]" in refused(
        capsys, "neural", "--set", "data.support=2"
    )
    assert "the seed is given as --seed N" in refused(capsys, "neural", "--set", "seed=1")
    assert "the task is given as TASK" in refused(capsys, "neural", "--set", "task=chat")
    assert "seed must be between 0" in refused(capsys, "neural", "--seed", "-1")
    file = tmp_path / "file"
    file.write_text("")
    assert f"--out {file} cannot be written" in refused(capsys, "neural", "--out", str(file))


def test_settings_reach_the_experiment() -> None:
    """Later settings win over quick ones, and kinds come before fields inside them."""
    settings = ["labeler=BradleyTerry", "labeler.temperature=0.25", "data.pairs=512"]
    own = inspection.configure("Neural(order=2)", settings, 7, quick=True)
    assert own.task == Neural(order=2)
    assert own.labeler == BradleyTerry(temperature=0.25)
    assert own.seed == 7
    assert (own.data.pairs, own.sft.steps) == (512, inspection.QUICK["sft.steps"])
    whole = inspection.configure("neural", [], 0, quick=False)
    assert whole.data.pairs == load_study("gap").base.data.pairs


def test_an_unreachable_dial_is_told() -> None:
    with pytest.raises(InvalidInput, match=r"data .* on Neural with seed 0"):
        inspection.inspect(experiment(data__quality=50.0), False, Silence())


def test_catalogue_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    (ipo,) = (entry for entry in families.entries("losses") if entry.name == "Ipo")
    assert ipo.citation == "Azar et al. 2023, arXiv 2310.12036, eq. 17"
    assert ipo.formula.startswith("(h - 1/(2 beta))^2")
    beta, averaged = ipo.parameters
    assert (beta.name, beta.default, beta.admits) == ("beta", "0.1", "> 0")
    assert beta.meaning.startswith("strength of the KL regularisation")
    assert (averaged.default, averaged.admits) == ("false", "true or false")
    assert families.cited("f(x) (A 2020, eq. (3)).") == ("f(x)", "A 2020, eq. (3)")
    assert families.cited("f(x) (twice).") == ("f(x) (twice).", "")
    for what in families.FAMILIES:
        assert cli.main(["list", what]) == 0
        out = capsys.readouterr().out
        for entry in families.entries(what):
            assert f"\n{entry.name}  " in f"\n{out}"
            assert all(parameter.name in out for parameter in entry.parameters)


@pytest.mark.parametrize("what", ["losses", "methods", "sources", "references"])
def test_what_runs_are_made_of_is_documented(what: str) -> None:
    """Formula and citation where there is one to give, every field with its meaning, every number with its range."""
    for entry in families.entries(what):
        assert entry.formula, entry.name
        if what in ("losses", "methods"):
            assert entry.citation, f"{entry.name}: the first paragraph must end with its citation"
        for parameter in entry.parameters:
            assert parameter.meaning, f"{entry.name}: Attributes: lacks {parameter.name}"
            unbounded = parameter.admits in ("a number", "a whole number")
            # Shares of a recorded run are checked against its checkpoints.
            assert not unbounded or entry.name == "Generated", f"{entry.name}.{parameter.name}"
    with pytest.raises(SystemExit):
        cli.main(["list", "taks"])
