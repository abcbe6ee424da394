"""Where the time of a command goes, with hand-worked times."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from analysis.site import profile as pages
from sweeps.console import profile
from sweeps.console.profile import Clocks, Doing, Part, Recording


class Hand:
    """Clocks that are set by hand."""

    now = Clocks(0.0, 0.0)

    def __call__(self) -> Clocks:
        return self.now


@pytest.fixture
def recorded() -> dict[str, Any]:
    """A stage of three seconds, in the last two of which a thread compiles, which takes two seconds more."""
    hand = Hand()
    record = Recording(age=5.0, clock=hand)
    with ThreadPoolExecutor(1) as thread:

        def beside(act: Any, *given: Any) -> None:
            thread.submit(act, *given).result()

        hand.now = Clocks(1.0, 0.5)
        record.enter(Doing(Part.STAGE, "sft"))
        hand.now = Clocks(2.0, 2.5)
        beside(record.enter, Doing(Part.COMPILE, "proxy"))
        hand.now = Clocks(4.0, 6.0)
        record.leave()
        record.enter(Doing(Part.WAIT))
        hand.now = Clocks(6.0, 8.0)
        beside(record.leave)
        record.leave()
        hand.now = Clocks(7.0, 8.25)
        return record.described()


def test_time_is_booked_under_what_all_threads_do(recorded: dict[str, Any]) -> None:
    found = {
        one["part"]: (one["what"], one["seconds"], one["cpu_seconds"], one["beside_programs"])
        for one in recorded["parts"]
    }
    assert found == {
        "imports": ("", 5.0, 0.0, 0.0),
        "stages": ("sft", 3.0, 5.5, 2.0),
        "waiting for programs": ("", 2.0, 2.0, 2.0),
        "host": ("", 2.0, 0.75, 0.0),
    }
    assert recorded["wall_seconds"] == 12.0 == sum(one["seconds"] for one in recorded["parts"])
    assert recorded["cpu_seconds"] == 8.25
    assert recorded["unhidden_seconds"] == 2.0
    assert recorded["programs"] == [
        {"name": "proxy", "tracing": 0.0, "compiling": 4.0, "reading": 0.0, "waited": 2.0}
    ]


def test_the_page_shows_the_parts_and_the_bar_is_whole(
    recorded: dict[str, Any], tmp_path: Path
) -> None:
    assert pages.of(tmp_path) == ""
    (tmp_path / profile.FILE).write_text(json.dumps(recorded))
    page = pages.of(tmp_path)
    assert page == pages.of(tmp_path / "gap")  # one command, several studies
    (row,) = (row for row in page.split("<tr>") if ">sft<" in row)
    assert re.findall(r">([^<]+)</td>", row) == ["stages", "sft", "1", "3.0", "25%", "5.5", "2.0"]
    widths = [float(width) for width in re.findall(r'<rect [^>]* width="([\d.]+)"', page)]
    assert sum(widths) == pytest.approx(640.0, abs=0.3)
    (tmp_path / profile.FILE).write_text(json.dumps({"parts": 3}))
    assert pages.of(tmp_path) == ""


def test_jax_s_own_programs_are_told_apart(tmp_path: Path) -> None:
    """A program that a part names keeps the part's name; all others have jax's. Other threads' time is not waiting."""

    def small(x: Any) -> Any:
        return jnp.sin(x) + 3.25

    def large(x: Any) -> Any:
        return jnp.cos(x) - 3.25

    with profile.recording() as record:
        profile.listen()
        jax.jit(small)(jnp.ones(7))
        thread = threading.Thread(target=lambda: _named(large))
        thread.start()
        thread.join()
        profile.write(tmp_path)
    found = {one["name"]: one for one in record.described()["programs"]}
    assert found["small"]["compiling"] > 0.0
    assert found["small"]["tracing"] > 0.0
    assert found["mine"]["compiling"] > 0.0
    assert found["mine"]["waited"] == 0.0 < found["small"]["waited"]
    assert "large" not in found
    assert pages.of(tmp_path) != ""
    assert not profile.active()


def _named(function: Any) -> None:
    with profile.part(Part.TRACE, "mine"):
        jax.jit(function)(jnp.ones(7))


def test_nothing_is_recorded_unasked(tmp_path: Path) -> None:
    assert profile.part(Part.STORE) is profile.part(Part.FIT, "gap")
    assert profile.write(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
