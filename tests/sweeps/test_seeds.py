"""Seeds as a number or a range: what is read, what is refused, and that a range changes no run."""

from pathlib import Path
from typing import Any

import pytest

from sweeps.seeds import seeds_from, spelt_seeds, stored_seeds
from sweeps.store import metadata
from sweeps.studies import gap
from testbed.errors import InvalidInput


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3, range(3)),
        ("3", range(3)),
        (range(100, 116), range(100, 116)),
        ("100:116", range(100, 116)),
        (" 0 : 2 ", range(2)),
        ([5, 7], range(5, 7)),
    ],
)
def test_forms_of_seeds(given: Any, expected: range) -> None:
    assert seeds_from(given) == expected
    assert seeds_from(stored_seeds(expected)) == expected
    assert seeds_from(spelt_seeds(expected)) == expected


@pytest.mark.parametrize(
    "given",
    [
        0,
        -1,
        "0",
        "",
        "a",
        "3:3",
        "5:2",
        "-1:4",
        "1:2:3",
        "1.5",
        range(4, 4),
        range(0, 9, 2),
        [1],
        [1, 2, 3],
        "0:9999999999",
    ],
)
def test_other_forms_are_refused(given: Any) -> None:
    with pytest.raises(
        InvalidInput,
        match=r"seeds must be (at least 1, got|a number of at least 1, or a range such as 100:116)",
    ):
        seeds_from(given)


def test_a_range_has_the_runs_of_its_seeds() -> None:
    """A run keeps its name, whatever other seeds are asked for; the size is counted without naming runs."""
    study, settings = gap.study, {"task": gap.study.base.task}
    some, all_of_them = (study.select("smoke", chosen, settings) for chosen in ("2:4", 4))
    names = {(point.arm, point.seed, point.run) for point in all_of_them.points()}
    assert {(point.arm, point.seed, point.run) for point in some.points()} == {
        name for name in names if name[1] in (2, 3)
    }
    assert some.size == len(some.points()) == all_of_them.size / 2
    assert all(point.experiment.seed == point.seed for point in some.points())
    assert (some.describe()["seeds"], all_of_them.describe()["seeds"]) == ([2, 4], 4)


def test_a_directory_holds_one_range() -> None:
    """A longer range joins, another beginning is refused."""

    def header(chosen: str) -> dict[str, Any]:
        described = gap.study.select("smoke", chosen).describe()
        return {**described, "planned": {}, "sessions": []}

    place = Path("results")
    assert metadata.joined(place, header("100:102"), header("100:104"))["seeds"] == [100, 104]
    assert metadata.joined(place, header("100:104"), header("100:102"))["seeds"] == [100, 104]
    assert metadata.joined(place, header("2"), header("3"))["seeds"] == 3
    with pytest.raises(
        InvalidInput, match="holds the seeds 0:2, this command runs 100:102: choose another --out"
    ):
        metadata.joined(place, header("2"), header("100:102"))
