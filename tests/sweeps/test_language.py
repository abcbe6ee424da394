"""Runs on a pretrained model, a tiny one: through the same stages and programs as all others, without a copy of its
weights; they go on at the step where they were, and their policies answer."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import text_runs
import tiny
from helpers import Silence, measured

from sweeps import throttle
from sweeps.api import chat_session
from sweeps.cli import main as cli
from sweeps.population import chunk_runner, host
from sweeps.population.plan import Chunk, Layout, plan
from sweeps.population.run_checkpoints import RunCheckpoints
from sweeps.population.world_builder import WorldBuilder
from sweeps.study import Point
from testbed import config, train
from testbed.cache import Cache
from testbed.errors import InvalidInput
from testbed.experiment import Experiment
from testbed.metric_table import FACTS
from testbed.policies import shared_weights
from testbed.policies.pretrained import restored
from testbed.sources.offline import Offline
from testbed.stages.world_config import WorldArtifacts, WorldConfig
from testbed.streams import Stream, stream


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache for this file's runs."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTBED_CACHE", str(directory))
        yield directory


@functools.cache
def runs(cache: Path) -> tuple[Experiment, ...]:
    """Online in two worlds, and offline in one of them."""
    online = text_runs.run(cache)
    return online, config.replace(online, "seed", 1), config.replace(online, "source", Offline())


def point(run: Experiment) -> Point:
    arm = type(run.source).__name__.lower()
    return Point(config.fingerprint(run), arm, run.seed, {}, run)


def worlds(cache: Path) -> WorldBuilder:
    return WorldBuilder(Cache(cache / "stages"), Silence())


def chunk(points: list[Point], seconds: float | None = None) -> Chunk:
    owned = [WorldConfig.of(one.experiment) for one in points]
    worlds = list(dict.fromkeys(owned))
    owners = tuple(map(worlds.index, owned))
    return Chunk(tuple(points), tuple(worlds), owners, Layout(2, 1), 0, 2, False, seconds)


@functools.cache
def done(cache: Path) -> dict[str, np.ndarray]:
    """The rows of all runs, in one go."""
    found: list[Any] = []
    host.execute(plan([point(run) for run in runs(cache)]), found.append, Silence())
    names = set(found[0]).intersection(*found)
    return {name: np.concatenate([rows[name] for rows in found]) for name in names}


def of(rows: Any, run: Experiment) -> dict[str, np.ndarray]:
    mine = np.asarray(rows["run"]) == config.fingerprint(run)
    return {name: np.asarray(values)[mine] for name, values in rows.items()}


def whole(cache: Path, run: Experiment) -> WorldArtifacts:
    """What a run stands on, weights put in."""
    return restored(worlds(cache)[WorldConfig.of(run)])


@pytest.mark.parametrize("which", range(3))
def test_rows_are_those_of_the_training_loop(cache: Path, which: int) -> None:
    """With weights inside of world, reference and proxy, as any other run has them."""
    run = runs(cache)[which]
    mine, artifacts = of(done(cache), run), whole(cache, run)
    inputs, evaluation_inputs = (
        artifacts.training_inputs(),
        artifacts.evaluation_inputs(run.evaluation),
    )
    key = stream(jax.random.key(run.seed), Stream.TRAINING)
    state = jax.jit(train.init)(run.train, inputs)
    advance = jax.jit(train.advance)
    for start in (0, 3):
        state = advance(run.train, inputs, state, key, *map(jax.numpy.asarray, (start, 3)))
    fresh = jax.random.fold_in(stream(key, Stream.EVALUATION), 2)
    policy = jax.jit(train.present)(inputs, state)
    found = measured(policy, evaluation_inputs, fresh)
    found |= {"train_loss": state.loss, "gradient_norm": state.gradient_norm}
    for name in found.keys() - {"policy_checksum"}:
        np.testing.assert_allclose(
            mine[name][-1], float(found[name]), rtol=1e-4, atol=1e-5, err_msg=name
        )
    assert mine["kl"][0] == 0.0 < mine["kl"][-1]
    assert mine["win_rate"][0] == pytest.approx(0.5, abs=0.35)
    assert mine[f"{FACTS}parameters"][0] == shared_weights.size(artifacts.sft)


def test_nothing_that_is_stored_holds_weights(cache: Path) -> None:
    done(cache)
    biggest = tiny.loaded()[0].model.blocks[0].gate.size
    for file in (*(cache / "stages").iterdir(), *(cache / "policies").iterdir()):
        stored = Cache(file.parent).load(file.stem)
        for leaf in jax.tree.leaves(stored):
            assert getattr(leaf, "shape", ()) != tiny.loaded()[0].model.embedding.shape
            assert np.size(leaf) < 8 * biggest
    start = worlds(cache).made(WorldConfig.of(runs(cache)[0]))["start"]
    assert len(shared_weights.missing(start)) == len(jax.tree.leaves(tiny.loaded()[0].model))


def test_golden_rewards_keep_their_own_scale(cache: Path) -> None:
    """They are standardised within prompts when the world is drawn, and not once more."""
    artifacts = whole(cache, runs(cache)[0])
    assert float(artifacts.world.centre) == 0.0
    assert float(artifacts.world.scale) == 1.0
    assert 0.2 < float(artifacts.facts["within_prompt_variance"]) <= 1.2


class Interrupted(Silence):
    """Ends the work when it is told of progress for the last of so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def advance(self, steps: int) -> None:
        super().advance(steps)
        self.left -= steps > 0
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_run_goes_on_at_the_step_where_it_was(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the third step and in the fifth, it measures the very same, to the last bit."""
    monkeypatch.setattr(chunk_runner, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(throttle, "SHARE", 1e9)
    points = [point(run) for run in runs(cache)[:2]]
    undisturbed = host.run_chunk(chunk(points), worlds(cache), Silence()).rows
    slow = chunk(points, seconds=1e6)
    seen = []
    # The second is told of two runs that go on, before it is told of steps.
    for times in (3, 2 + 3):
        with pytest.raises(KeyboardInterrupt):
            host.run_chunk(slow, worlds(cache), Interrupted(times))
        paused = [RunCheckpoints().paused(p) for p in points]
        seen += [(one.index, one.done) for one in paused if one is not None]
    assert seen == [(1, 2), (1, 2), (2, 1), (2, 1)]
    rows = host.run_chunk(slow, worlds(cache), Silence()).rows
    assert rows.keys() == undisturbed.keys()
    for name in rows:
        np.testing.assert_array_equal(rows[name], undisturbed[name], err_msg=name)
    assert [RunCheckpoints().paused(p) for p in points] == [None] * 2


def test_stored_prompts_are_those_that_were_asked(cache: Path) -> None:
    """Whole, with the end token in the middle of two of them; an answer ends at its first end token."""
    pairs = [
        pair for kept in done(cache)["answers"] if kept is not None for pair in json.loads(kept)
    ]
    shown = {f" {text}" for text in text_runs.PROMPTS}
    assert {prompt for prompt, _ in pairs} <= shown
    assert {prompt for prompt, _ in pairs} & {" a<end> film", " a<end> was"}
    assert all("<end>" not in answer for _, answer in pairs)


def test_policies_answer(cache: Path) -> None:
    """Before and after, with the same random numbers; the reward is the golden one, and no policy of another run
    answers."""
    done(cache)
    talk = chat_session.Conversation.of(point(runs(cache)[0]), Silence())
    before, after = talk("the film", count=3)
    again = talk("the film", count=3)
    assert (before, after) == again
    assert len(before) == len(after) == 3
    assert any(a.log_ratio != 0 for a in after)
    assert before != after
    artifacts = whole(cache, runs(cache)[0])
    text = after[0]
    tokens = tiny.loaded()[1].encode(text.words)
    assert len(tokens) in (text.length, text.length - 1)
    response = tiny.loaded()[1].responses([text.words], 6)
    assert int(response.length[0]) == text.length
    alone = jax.tree.map(lambda x: x[0], response)
    reward = jax.jit(lambda world, *text: world.reward(*text))(
        artifacts.world, talk.point.experiment.task.prompt("the film"), alone
    )
    assert text.reward == pytest.approx(float(reward), abs=1e-4)
    with pytest.raises(InvalidInput, match="a prompt must have 1 to 4 tokens, got 5"):
        talk("a film was not great")
    with pytest.raises(InvalidInput, match="a prompt must have 1 to 4 tokens, got 0"):
        talk("  ")
    other = config.replace(runs(cache)[0], "seed", 7)
    with pytest.raises(InvalidInput, match="is not in the cache"):
        chat_session.Conversation.of(point(other), Silence())


def test_runs_are_chosen_by_name() -> None:
    points = [
        Point(run, arm, seed, {}, None)
        for run, arm, seed in (("ab12", "online", 0), ("ab34", "online", 1), ("cd56", "offline", 0))
    ]
    assert chat_session.chosen(points, "online-1").run == "ab34"
    assert chat_session.chosen(points, "cd").run == "cd56"
    with pytest.raises(InvalidInput, match="run 'ab' is the beginning of 2 ids"):
        chat_session.chosen(points, "ab")
    with pytest.raises(InvalidInput, match="unknown run 'onlin-0': did you mean 'online-0'"):
        chat_session.chosen(points, "onlin-0")


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")
def test_a_study_from_the_command_line(
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`testbed run gap` on the tiny model with the preset of pretrained models, and a talk to what came of it."""
    text = text_runs.task(cache)
    fields = {"checkpoint": tiny.NAME, "prompts": text.prompts, "vocabulary": tiny.VOCABULARY}
    fields |= {"prompt_length": 4, "response_length": 6}
    given = ",".join(f"{name}={value!r}" for name, value in fields.items())
    words = f"Text({given},golden=RandomTaste(layers=2,units=8))"
    # The shapes of `text_runs`, whose programs are compiled already.
    small = {
        "data.pairs": 16,
        "data.held_out": 8,
        "data.candidates": 2,
        "steps": 4,
        "batch_size": 8,
        "baseline.batch_size": 8,
        "evaluation.points": 2,
        "evaluation.prompts": 16,
        "evaluation.kl_prompts": 8,
        "evaluation.pairs": 12,
        "sft.batch_size": 8,
        "proxy.layers": 2,
        "proxy.fit.steps": 10,
        "proxy.fit.batch_size": 8,
        "lora.rank": 2,
    }
    changes = [part for path, value in small.items() for part in ("--set", f"{path}={value}")]
    out = tmp_path / "out"
    command = ["run", "gap", "--task", words, "--seeds", "2", *changes, "--out", str(out)]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "4 runs, 0 of them stored" in told
    assert (out / "report" / "index.html").is_file()
    assert cli.main(["chat", str(out)]) == 0
    assert "offline" in capsys.readouterr().out
    assert cli.main(["chat", str(out), "online-1", "--prompt", "the film"]) == 0
    told = capsys.readouterr().out
    assert "the film" in told
    assert "reward" in told
    assert cli.main(["chat", str(out), "online-9", "--prompt", "the film"]) == 2
    assert "unknown run 'online-9'" in capsys.readouterr().err
    header = json.loads((out / "study.json").read_text())
    # A session of an earlier version, and one of a version that had another field.
    for session in header["sessions"]:
        asked = session.pop("asked")
    (out / "study.json").write_text(json.dumps(header))
    assert cli.main(["chat", str(out)]) == 0
    assert "offline" in capsys.readouterr().out
    for session in header["sessions"]:
        session["asked"] = asked | {"settings": {"a_field_of_another_version": "1"}}
    (out / "study.json").write_text(json.dumps(header))
    assert cli.main(["chat", str(out)]) == 2
    assert "is one that this version would make again" in capsys.readouterr().err
