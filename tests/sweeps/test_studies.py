"""Every study that comes with the testbed, found by walking the package, keeps the family's rules."""

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from typing import Any

import equinox as eqx
import jax
import pytest

from sweeps import paper
from sweeps.rules import Rule
from sweeps.study import Study, list_studies, load_study, study_names
from testbed import config
from testbed.stages.stages import WorldConfig, fingerprints

STUDIES = {study.name: study for study in list_studies()}


@pytest.fixture(params=sorted(STUDIES))
def study(request: pytest.FixtureRequest) -> Study:
    return STUDIES[request.param]


def test_the_scoreboard_has_every_claim_of_the_paper_and_every_question_once() -> None:
    ids = Counter(claim.id for study in STUDIES.values() for claim in study.claims)
    assert max(ids.values()) == 1
    # C3.8 is a part of C3: the same question at equal steps and tuning.
    assert {f"C{number}" for number in range(1, 18)} == {
        one.split(".")[0] for one in ids if one[0] == "C"
    }
    questions = {one.split(".")[0] for one in ids if one[0] == "B"}
    assert questions >= {"B1", "B2", "B3", "B4", "B5", "B6"}


def test_a_study_is_a_file_of_its_name_with_three_sizes(study: Study) -> None:
    assert study.name in study_names()
    assert set(paper.PRESETS) <= set(study.presets)
    assert study.question.endswith("?")
    assert study.background.strip()
    for preset in study.presets.values():
        assert preset.note
    assert study.presets["laptop"].seeds >= 3
    assert study.presets["paper"].seeds >= 8


def test_claims_say_what_decides_and_what_would_count_against(study: Study) -> None:
    for claim in study.claims:
        assert claim.text.endswith(".")
        assert len(claim.against) > 20
        assert claim.arms_used()
        for test in claim.tests:
            assert isinstance(test.rule, Rule)
            assert all(test.estimand.words())
        assert type(claim).from_dict(config.jsonable(claim.describe())) == claim


def test_every_preset_can_be_built_and_judges_something(study: Study) -> None:
    for name in study.presets:
        selection = study.select(name, seeds=1)
        assert selection.claims
        points = selection.points()
        assert {point.arm for point in points} == {arm.name for arm in selection.arms}
        for path in study.strata:
            assert path in selection.axes.paths
        recorded = [p for p in points if p.experiment.source.recorded_run is not None]
        for point in recorded:
            # A recorded run is as long as the online runs beside it, whatever the preset.
            steps = study.presets[name].settings["steps"]
            assert point.experiment.source.recorded_run.run.steps == steps
            assert point.arm in study.presets[name].further or point.experiment.steps == steps
        for arm in study.presets[name].further:
            longest = max(point.experiment.steps for point in points if point.arm == arm)
            assert longest == paper.LONGER[name] * study.presets[name].settings["steps"]


def without_later(module: Any, data: Any) -> Any:
    """A module's JSON without those fields that came later than the first runs, where they have their defaults."""
    if isinstance(module, tuple):
        return [without_later(one, its) for one, its in zip(module, data, strict=True)]
    if not isinstance(module, eqx.Module):
        return data
    kept = dict(data)
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if field.metadata.get("later") and value == field.default:
            del kept[field.name]
        else:
            kept[field.name] = without_later(value, data[field.name])
    return kept


def test_points_are_as_made_one_by_one_and_share_their_parts(study: Study) -> None:
    """The way of thousands of points gives what single changes give, through the constructors."""
    selection = study.select("smoke", seeds=3)
    points = selection.points()
    for point in points:
        experiment = point.experiment
        fields = {name: getattr(experiment, name) for name in config.field_names(experiment)}
        assert type(experiment)(**fields) == experiment
        written = [without_later(experiment, config.jsonable(experiment))]
        text = json.dumps(written, sort_keys=True, separators=(",", ":"), allow_nan=False)
        assert point.run == hashlib.sha256(text.encode()).hexdigest()[:16]
        assert experiment.seed == point.seed
        assert point.settings.keys() <= set(selection.axes.paths)
        for path, value in point.settings.items():
            found = config.get(experiment, path)
            assert value == (config.spell(found) if isinstance(found, eqx.Module) else found)
    for arm, name in itertools.product(selection.arms, config.field_names(points[0].experiment)):
        values = [getattr(point.experiment, name) for point in points if point.arm == arm.name]
        if isinstance(values[0], eqx.Module):
            assert len(set(map(id, values))) == len({config.canonical(value) for value in values})


def test_studies_of_the_paper_share_runs_and_stages() -> None:
    studies = [study for study in STUDIES.values() if study.judges_paper]
    assert {study.name for study in studies} >= {"gap", "tandem", "quality", "classification"}
    runs = [{point.run for point in study.points("smoke", seeds=1)} for study in studies]
    assert len(set().union(*runs)) < 0.7 * sum(map(len, runs))
    worlds = {
        stage: {
            fingerprints(WorldConfig.of(point.experiment))[stage]
            for name in ("gap", "tandem", "quality", "classification", "proximity")
            for point in STUDIES[name].points("smoke", seeds=1)
        }
        for stage in ("sft", "data", "proxy", "baseline")
    }
    assert {stage: len(found) for stage, found in worlds.items()} == dict.fromkeys(worlds, 1)


def test_policies_of_all_sizes_meet_the_same_proxy_and_baseline() -> None:
    points = load_study("scale").points("smoke", seeds=1)
    names = [fingerprints(WorldConfig.of(point.experiment)) for point in points]
    models = {jax.tree.structure(point.experiment.model) for point in points}
    assert len(models) == len({name["sft"] for name in names}) == 2
    for stage in ("data", "proxy", "baseline"):
        assert len({name[stage] for name in names}) == 1
