"""What a command or call asks for is kept as data, and makes the same runs again."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_study import TINY

from sweeps.api.request import Changes, Request, selection_of
from sweeps.store import metadata
from sweeps.study import load_study
from testbed import config
from testbed.errors import InvalidInput
from testbed.losses.dpo import Dpo


@pytest.fixture
def file(tmp_path: Path) -> str:
    # Arms that leave the loss to axes and settings.
    text = TINY.replace('{"loss.beta": 1.0}', '{"model.width": 8}')
    text = text.replace('{"loss.beta": 0.01}', '{"model.width": 16}')
    (tmp_path / "tiny.py").write_text(text)
    return str(tmp_path / "tiny.py")


def stored(request: Request, command: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `study.json` says, as read from JSON: all of it, and of its session."""
    [selection] = request.selections()
    [origin] = request.origins([selection], command)
    described = json.loads(json.dumps(config.jsonable({**selection.describe(), **origin})))
    session = metadata.session(described)
    return {"schema": metadata.SCHEMA, **described, "sessions": [session]}, session


ASKED: list[tuple[Changes, Changes, str | None]] = [
    ((), (), None),
    (["loss=Dpo", "steps=8"], [], None),
    ({"loss": "Dpo"}, {"loss.beta": ["0.1", "0.2"]}, None),
    ({"steps": 8, "task": "Neural(order=2)"}, {}, None),
    ({"optimiser.learning_rate": 0.01}, (), None),
    ((), {"optimiser.learning_rate": (1e-4, 0.1 + 0.2)}, None),
    ((), {"loss": [Dpo(beta=0.3), Dpo()]}, None),
    ((), ["loss=Ipo,RobustDpo(beta=0.2)", "batch_size=2,4"], None),
    (["steps=12"], (), "summarize"),
]


@pytest.mark.parametrize(("settings", "axes", "task"), ASKED)
def test_a_request_is_kept_as_data(
    file: str, settings: Changes, axes: Changes, task: str | None
) -> None:
    """By versions that keep it, and by those before, of which the settings and axes that were stored say enough. The
    text of the command is for people."""
    request = Request((file,), None, 1, settings, axes, task)
    expected = [point.run for point in request.selections()[0].points()]
    head, session = stored(request, "testbed unheard of")
    assert metadata._misfit(head | {"planned": {}}) is None
    assert [point.run for point in selection_of(head, session).points()] == expected
    older = {name: value for name, value in session.items() if name != "asked"}
    assert {point.run for point in selection_of(head, older).points()} == set(expected)


def test_each_study_has_the_whole_request(file: str) -> None:
    study = load_study(file)
    request = Request((file, study, "gap"), "smoke", 2, ["steps=4"], {"loss.beta": [0.1]})
    selections = [study.select(None, 2)] * 3
    first, second, third = (one["asked"] for one in request.origins(selections, "testbed run"))
    assert (first["study"], second["study"], third["study"]) == (file, "tiny", "gap")
    changes = {"settings": {"steps": "4"}, "axes": {"loss.beta": ["0.1"]}}
    assert third == {"study": "gap", "preset": "all", "seeds": 2, **changes}


def test_what_cannot_be_made_again_is_refused(file: str) -> None:
    head, session = stored(Request((file,), seeds=1), "testbed run")
    Path(file).unlink()
    with pytest.raises(InvalidInput, match=r"tiny\.py does not exist"):
        selection_of(head, session)
    asked = session["asked"] | {"study": "gap"}
    for name, value, told in (
        ("study", "gapp", "unknown study"),
        ("preset", "huge", "unknown preset"),
        ("seeds", 0, "seeds must be at least 1"),
        ("settings", {"nothing": "1"}, "nothing"),
        ("axes", {"loss.beta": ["x"]}, "must be a number"),
    ):
        with pytest.raises(InvalidInput, match=told):
            selection_of(head, {"asked": asked | {"preset": "smoke", name: value}})
