"""Studies: presets, arms, axes and settings make the right points; bad ones are refused."""

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import equinox as eqx
import pytest

from sweeps.claims import Claim, Test
from sweeps.estimands import InteriorMaximum, MatchedDifference
from sweeps.grid import Axis, Grid, product, zipped
from sweeps.rules import More
from sweeps.study import (
    Arm,
    Preset,
    Study,
    list_studies,
    load_study,
    split_values,
    study_names,
)
from testbed import config
from testbed.config import user_code
from testbed.errors import InvalidInput

EXAMPLES = Path(__file__).parents[2] / "examples"


class Online(eqx.Module):
    fraction: float = 1.0


class Offline(eqx.Module):
    pass


class Loss(eqx.Module):
    beta: float = 0.1
    margin: float = 0.0

    def __check_init__(self) -> None:
        if self.beta <= 0:
            raise InvalidInput(f"beta must be > 0, got {self.beta}")


class Small(eqx.Module):
    """Shaped like the testbed's experiment, small enough to do sums with."""

    source: Online | Offline = Offline()
    loss: Loss = Loss()
    rate: float = 0.001
    steps: int = eqx.field(static=True, default=100)
    seed: int = 0


class Dialled(Small):
    """With a field that may be left out."""

    quality: float | None = None


CLAIM = Claim(
    "C2",
    "online beats offline",
    (Test(MatchedDifference("online", "offline"), More(0.01)),),
    "a gap <= 0",
)
ARMS = (Arm("online", {"source": Online()}), Arm("offline", {"source": Offline()}))
AXES = product(Axis("rate", (0.001, 0.01)), Axis("loss.beta", (0.1, 1.0)))


def study(**changes: Any) -> Study:
    parts: dict[str, Any] = {
        "name": "small",
        "title": "A small study",
        "question": "Does it work?",
        "base": Small(),
        "arms": ARMS,
        "axes": AXES,
        "claims": (CLAIM,),
        "presets": {
            "laptop": Preset(seeds=2),
            "smoke": Preset({"steps": 10}, axes=Axis("loss.beta", (0.5,)), seeds=1),
        },
    }
    return Study(**(parts | changes))


def test_points_are_arms_by_settings_by_seeds() -> None:
    points = study().points()
    assert len(points) == 2 * 4 * 2
    assert len({point.run for point in points}) == len(points)
    first = points[0]
    assert (first.arm, first.seed, dict(first.settings)) == (
        "online",
        0,
        {"rate": 0.001, "loss.beta": 0.1},
    )
    assert first.run == config.fingerprint(
        Small(source=Online(), seed=0), *user_code.sources([Small(source=Online())])
    )
    assert first.experiment.source == Online()
    assert {point.experiment.seed for point in points} == {0, 1}
    assert all(point.experiment.seed == point.seed for point in points)


def test_preset_settings_and_axes() -> None:
    points = study().points("smoke")
    assert [(p.arm, p.experiment.steps, p.experiment.loss.beta) for p in points] == [
        ("online", 10, 0.5),
        ("offline", 10, 0.5),
    ]
    assert len(study().points("smoke", seeds=5)) == 10


def test_more_seeds_or_values_keep_the_runs_there_were() -> None:
    few = {point.run for point in study().points(seeds=1)}
    assert few < {point.run for point in study().points(seeds=3)}
    assert few < {p.run for p in study().points(seeds=1, axes={"loss.beta": [0.1, 1, 2.0]})}


def test_set_fixes_a_swept_axis_and_sets_anything_else() -> None:
    points = study().points(seeds=1, settings={"loss.beta": 0.3, "steps": 7})
    assert len(points) == 2 * 2
    assert {p.experiment.loss.beta for p in points} == {0.3}
    assert {p.experiment.steps for p in points} == {7}
    # The fixed axis stays a column of the results, the other setting never was one.
    assert {tuple(p.settings) for p in points} == {("rate", "loss.beta")}


def test_a_setting_of_a_whole_module_comes_before_axes_of_its_fields() -> None:
    points = study().points(seeds=1, settings={"loss": Loss(beta=9.0, margin=2.0)})
    assert {(p.experiment.loss.beta, p.experiment.loss.margin) for p in points} == {
        (0.1, 2.0),
        (1.0, 2.0),
    }


def test_axis_replaces_adds_and_may_hold_modules() -> None:
    points = study().points(seeds=1, axes={"rate": [0.5], "steps": [1, 2, 3]})
    assert len(points) == 2 * 2 * 3
    assert points[0].settings == {"loss.beta": 0.1, "rate": 0.5, "steps": 1}
    points = study(axes=product()).points(seeds=1, axes={"loss": [Loss(), Loss(margin=1.0)]})
    assert [p.settings["loss"] for p in points[:2]] == ["Loss", "Loss(margin=1.0)"]


def test_an_axis_may_leave_a_field_out() -> None:
    """Left out is nothing in the results too, so that the column stays one of numbers."""
    selection = study(base=Dialled()).select_texts("laptop", 1, [], ["quality=none,0.5"])
    assert {p.settings["quality"] for p in selection.points()} == {None, 0.5}
    assert {p.experiment.quality for p in selection.points()} == {None, 0.5}
    assert selection.describe()["axes"]["quality"] == [None, 0.5]


def test_equal_experiments_run_once_an_arm() -> None:
    assert len(study().points(seeds=1, axes={"rate": [1, 1.0], "loss.beta": [0.1]})) == 2


def test_replacing_one_of_two_zipped_axes() -> None:
    stepped = study(axes=zipped(Axis("rate", (0.1, 0.2)), Axis("loss.beta", (1.0, 2.0))))
    points = stepped.points(seeds=1, axes={"loss.beta": [3.0]})
    assert [(p.settings["rate"], p.settings["loss.beta"]) for p in points[:2]] == [
        (0.1, 3.0),
        (0.2, 3.0),
    ]


def test_parse_reads_texts_by_the_fields_they_name() -> None:
    texts = ["steps=5", "loss.beta=2"], ["rate=1,0.1", "loss.margin=1"]
    selection = study().select_texts("laptop", None, *texts)
    assert selection.settings == {"steps": 5}
    assert selection.axes.values("rate") == (1.0, 0.1)
    assert selection.axes.values("loss.beta") == (2.0,)
    assert selection.preset == "laptop"
    kinds = (
        study()
        .select_texts(None, None, [], ["loss=Loss(beta=0.1,margin=1),Loss"])
        .axes.values("loss")
    )
    assert kinds == (Loss(0.1, 1.0), Loss())
    # A field that only one arm's module has: the others do without.
    one = study(arms=(Arm("offline", {}), Arm("online", {"source": Online()})))
    points = one.select_texts(None, 1, ["source.fraction=0.5"], []).points()
    fractions = {p.arm: getattr(p.experiment.source, "fraction", None) for p in points}
    assert fractions == {"offline": None, "online": 0.5}
    with pytest.raises(InvalidInput, match="fractoin"):
        one.select_texts(None, 1, ["source.fractoin=0.5"], [])


def test_an_arm_keeps_what_it_fixes_and_lacks_what_it_has_not() -> None:
    arms = (
        Arm("online", {"source": Online()}),
        Arm("fixed", {"source": Online()}, {"rate": 0.01}),
        Arm("offline", {"source": Offline()}),
    )
    axes = product(AXES, Axis("source.fraction", (0.5, 1.0)))
    points = study(arms=arms, axes=axes, claims=()).points(seeds=1)
    count = {arm.name: sum(point.arm == arm.name for point in points) for arm in arms}
    assert count == {"online": 8, "fixed": 4, "offline": 4}
    assert {p.experiment.rate for p in points if p.arm == "fixed"} == {0.01}
    assert {p.settings["rate"] for p in points if p.arm == "fixed"} == {0.01}
    assert all("source.fraction" not in p.settings for p in points if p.arm == "offline")
    shared = {p.run for p in points if p.arm == "fixed"} & {
        p.run for p in points if p.arm == "online"
    }
    assert len(shared) == 4
    # Also against the command line, which is told so.
    one = study(arms=arms, axes=axes, claims=())
    assert one.select().notes() == []
    assert one.select(settings={"rate": 0.01}).notes() == []
    for selection in (one.select(axes={"rate": (0.3, 0.4)}), one.select(settings={"rate": 0.3})):
        assert {p.experiment.rate for p in selection.points() if p.arm == "fixed"} == {0.01}
        assert selection.notes() == ["arm fixed keeps rate at 0.01, as its study says"]
    with pytest.raises(InvalidInput, match="fractoin"):
        study(axes=product(AXES, Axis("source.fractoin", (0.5,))))


def test_an_arm_may_run_settings_besides_the_axes() -> None:
    further = {"offline": product(Axis("rate", (0.1,)), Axis("loss.beta", (0.5,)))}
    presets = {"laptop": Preset(further=further, seeds=2)}
    one = study(axes=product(Axis("rate", (0.1, 0.2)), Axis("loss.beta", (1.0,))), presets=presets)
    points = one.points()
    assert sum(p.arm == "online" for p in points) == 4
    besides = [p for p in points if p.arm == "offline" and p.settings["loss.beta"] == 0.5]
    assert [(p.seed, p.experiment.rate, p.experiment.loss.beta) for p in besides] == [
        (0, 0.1, 0.5),
        (1, 0.1, 0.5),
    ]
    described = one.select().describe()
    assert described["axes"] == {"rate": [0.1, 0.2], "loss.beta": [1.0]}
    assert described["further"] == {"offline": [{"rate": 0.1, "loss.beta": 0.5}]}
    assert len(described["planned"]["offline"]) == 6
    assert one.select(axes={"loss.beta": (0.5, 1.0)}).describe()["further"] == {}
    # The command line's values hold for these settings as well; what has become equal runs once.
    assert {p.experiment.loss.beta for p in one.points(settings={"loss.beta": 3.0})} == {3.0}
    assert len(one.points(settings={"loss.beta": 3.0})) == 8
    assert len(one.points(axes={"loss.beta": (1.0, 2.0), "rate": (0.1,)})) == 8
    for wrong in ({"ofline": further["offline"]}, {"offline": Axis("rate", (0.1,))}):
        with pytest.raises(InvalidInput, match="offline"):
            study(axes=AXES, presets={"laptop": Preset(further=wrong)})
    odd = {"a": Axis("steps", (7,))}
    with pytest.raises(InvalidInput, match="multiple of 5, got 7"):
        study(
            base=Even(),
            arms=(Arm("a", {}),),
            axes=Axis("steps", (5,)),
            claims=(),
            presets={"laptop": Preset(further=odd)},
        )


def test_a_preset_may_run_some_arms_and_change_fields_inside_their_modules() -> None:
    presets = {
        "laptop": Preset(seeds=2),
        "few": Preset({"source.fraction": 0.25}, arms=("online",), seeds=1),
    }
    one = study(presets=presets)
    selection = one.select("few")
    assert {p.arm for p in selection.points()} == {"online"}
    assert {p.experiment.source.fraction for p in selection.points()} == {0.25}
    described = selection.describe()
    assert list(described["arms"]) == ["online"]
    assert described["claims"] == []
    assert len(described["planned"]["online"]) == 4
    assert described["settings"] == {"source.fraction": 0.25}
    with pytest.raises(InvalidInput, match="onlin"):
        study(presets={"laptop": Preset(arms=("onlin",))})
    # What tells the arms apart stays theirs.
    own = study(arms=(Arm("online", {"rate": 0.5}), Arm("offline", {})), axes=Axis("steps", (10,)))
    assert {p.experiment.rate for p in own.points()} == {0.5, 0.001}


class Even(eqx.Module):
    """Two fields that must fit together, as evaluations and steps must."""

    steps: int = eqx.field(static=True, default=10)
    points: int = eqx.field(static=True, default=5)
    seed: int = 0

    def __check_init__(self) -> None:
        if self.steps % self.points:
            raise InvalidInput(f"steps must be a multiple of {self.points}, got {self.steps}")


def test_only_whole_experiments_are_checked() -> None:
    presets = {"laptop": Preset({"points": 7}, seeds=1)}
    even = study(
        base=Even(), arms=(Arm("a", {}),), axes=Axis("steps", (7, 14)), claims=(), presets=presets
    )
    assert [p.experiment.steps for p in even.points()] == [7, 14]
    selection = even.select_texts(None, None, ["points=9"], ["steps=27,18"])
    assert [p.experiment.steps for p in selection.points()] == [27, 18]
    assert selection.describe()["base"] == {"kind": "Even", "steps": 10, "points": 9}
    with pytest.raises(InvalidInput, match="steps must be a multiple of 9, got 7"):
        even.points(settings={"points": 9})


def test_a_later_whole_module_undoes_earlier_settings_inside_it() -> None:
    presets = {"laptop": Preset({"loss.margin": 5.0}, seeds=1)}
    [point] = study(arms=ARMS[:1], claims=(), axes=product(), presets=presets).points(
        settings={"loss": Loss(beta=0.5)}
    )
    assert point.experiment.loss == Loss(beta=0.5, margin=0.0)


def test_split_values_respects_brackets() -> None:
    assert split_values("a,b") == ["a", "b"]
    assert split_values("Ipo(beta=0.1),Dpo(a=1, b=(2,3)) , x") == [
        "Ipo(beta=0.1)",
        "Dpo(a=1, b=(2,3))",
        "x",
    ]


def test_describe_is_what_study_json_says() -> None:
    described = study().select("smoke", settings={"loss.margin": 1.0}).describe()
    assert described["base"] == {
        "kind": "Small",
        "source": {"kind": "Offline"},
        "loss": {"kind": "Loss", "beta": 0.1, "margin": 1.0},
        "rate": 0.001,
        "steps": 10,
    }
    assert described["axes"] == {"loss.beta": [0.5]}
    assert described["arms"] == {"online": {"source": "Online"}, "offline": {"source": "Offline"}}
    assert described["claims"] == [CLAIM.describe()]
    assert (described["study"], described["preset"], described["seeds"]) == ("small", "smoke", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "laptp"}, r"unknown preset of study small 'laptp': did you mean 'laptop'\?"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"settings": {"loss.bta": 1.0}}, r"unknown field 'loss.bta': did you mean 'loss.beta'\?"),
        ({"settings": {"loss.beta": 0.0}}, r"loss: beta must be > 0, got 0\.0"),
        ({"axes": {"loss.beta": [1.0, -1.0]}}, r"loss: beta must be > 0, got -1\.0"),
        ({"axes": {"loss.beta": []}}, "axis 'loss.beta' has no values"),
        ({"axes": {"lss": [1.0]}}, "unknown field 'lss': did you mean 'loss'"),
        ({"settings": {"seed": 3}}, "seed cannot be set or swept: --seeds"),
        ({"settings": {"source": Online()}}, "tells the arms online, offline apart"),
        ({"settings": {"rate": 1.0}, "axes": {"rate": [1.0]}}, "rate is both set and swept"),
    ],
)
def test_bad_selections(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        study().points(**arguments)


@pytest.mark.parametrize(
    ("texts", "axes", "message"),
    [
        (["steps"], [], "--set takes path=value, got 'steps'"),
        (["steps="], [], "--set takes path=value, got 'steps='"),
        ([], ["=1,2"], "--axis takes path=a,b,c, got '=1,2'"),
        ([], ["rate=1", "rate=2"], "--axis rate is given twice"),
        ([], ["rate=1,x"], "rate must be a number, got 'x'"),
        (["loss=Los"], [], "unknown kind for loss 'Los': did you mean 'Loss'"),
    ],
)
def test_bad_texts(texts: list[str], axes: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        study().select_texts(None, None, texts, axes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": (ARMS[0], ARMS[0])}, "arms must be one or more with different names"),
        ({"arms": ()}, "arms must be one or more"),
        ({"default": "large"}, "unknown default preset 'large': known: laptop, smoke"),
        ({"axes": Axis("loss.bet", (1.0,))}, "unknown field 'loss.bet'"),
        ({"presets": {"laptop": Preset({"stps": 1})}}, "unknown field 'stps'"),
        ({"presets": {"laptop": Preset(seeds=0)}}, "seeds must be at least 1, got 0"),
        (
            {"claims": (Claim("C1", "", (Test(InteriorMaximum("onlin"), More(0.0)),), ""),)},
            "unknown arm in claim C1 'onlin': did you mean 'online'",
        ),
    ],
)
def test_bad_studies(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        study(**changes)


STUDY_FILE = textwrap.dedent('''
    """A user's own study with a loss of its own."""
    import equinox as eqx
    from sweeps.grid import Axis
    from sweeps.study import Arm, Preset, Study

    class Mine(eqx.Module):
        beta: float = 1.0

    class Base(eqx.Module):
        loss: Mine = Mine()
        seed: int = 0

    study = Study("mine", "Mine", "?", Base(), (Arm("only", {}),),
                  Axis("loss.beta", (1.0, 2.0)), (), {"laptop": Preset(seeds=1)})
''')


def test_a_users_own_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(STUDY_FILE)
    mine = load_study(str(file))
    assert len(mine.points()) == 2
    parsed = mine.select_texts(None, None, ["loss=Mine"], []).points()
    assert {point.run for point in parsed} == {point.run for point in mine.points()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study = 3", r"must define `study = Study\(...\)` at its top level, got int"),
        ("x = 1\nimport nothing_like_it", "cannot be loaded in line 2: ModuleNotFoundError"),
        ("def f(:", "cannot be loaded: SyntaxError"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        load_study(str(file))


def test_unknown_studies() -> None:
    with pytest.raises(
        InvalidInput, match=r"unknown study 'gapp'.*or give the path of a \.py file"
    ):
        load_study("gapp")
    with pytest.raises(InvalidInput, match=r"study file nowhere/x\.py does not exist"):
        load_study("nowhere/x.py")


def test_every_study_that_comes_with_the_testbed_is_sound() -> None:
    found = list_studies()
    assert [each.name for each in found] == study_names()
    for each in found:
        for preset in each.presets:
            assert each.points(preset, seeds=1)
        assert isinstance(each.axes, Grid)
        assert all(claim.against for claim in each.claims)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_is_sound(path: Path) -> None:
    """Its arms can be run in every preset, and the docstring's command names it."""
    found = load_study(str(path))
    assert f"testbed run examples/{path.name}" in path.read_text()
    for preset in found.presets:
        assert len(found.points(preset)) >= len(found.arms)


def test_the_tandem_replays_the_very_run_of_its_online_arm() -> None:
    points = load_study("tandem").points("smoke", seeds=1)
    (replay,) = [point for point in points if point.arm == "replay"]
    (online,) = [p for p in points if p.arm == "online" and p.settings == replay.settings]
    recorded = replay.experiment.source.recorded_run
    assert config.describe(recorded.run.train(online.experiment.source)) == config.describe(
        online.experiment.train
    )
    assert recorded.run.steps == online.experiment.steps


def test_a_fixed_path_that_nothing_sweeps_is_refused():
    arms = (Arm("online", {}, {"optimizer.learning_rate": 1e-3}),)
    with pytest.raises(InvalidInput, match=r"path that arm online keeps fixed.*optimizer"):
        dataclasses.replace(load_study("gap"), arms=arms, claims=())


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", ".hidden"])
def test_a_study_name_that_is_no_directory_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="it names a directory of results"):
        dataclasses.replace(load_study("gap"), name=name)
