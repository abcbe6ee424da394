"""Families are found by walking their packages, one member a file."""

from collections import Counter

import pytest

from sweeps.catalogue import families, listing
from sweeps.study import study_names
from testbed.config import members

FOUND = {what: members(*family) for what, family in families.FAMILIES.items()}
#: Some members of each family.
KNOWN = {
    "tasks": {"Neural", "Text"},
    "labelers": {"BradleyTerry", "AnnotatorPool"},
    "goldens": {"Fluency", "Length", "NeuralGolden"},
    "losses": {"Ipo", "Dpo", "BestOfTwo"},
    "methods": {"Rloo", "Ppo", "NashMd"},
    "sources": {"Offline", "Online", "Replay"},
    "references": {"Fixed", "Averaged"},
    "proxies": {"ProxyConfig", "HeadConfig"},
    "estimands": {"MatchedDifference", "AtEvery", "Trend", "Slope"},
    "rules": {"More", "NoMore", "Same"},
}


@pytest.mark.parametrize("what", FOUND)
def test_members_are_found_one_a_file(what: str) -> None:
    """Documented, with a name of its own, and listed."""
    kinds = FOUND[what]
    assert kinds.keys() >= KNOWN[what]
    files = Counter(kind.__module__ for kind in kinds.values())
    assert max(files.values()) == 1
    assert all(kind.__doc__ for kind in kinds.values())
    assert {entry.name for entry in families.entries(what)} >= kinds.keys()
    assert what in listing.SOURCES


def test_names_are_unique_over_all_families() -> None:
    """A config is stored with the names of its classes."""
    names = Counter(name for kinds in FOUND.values() for name in kinds)
    assert max(names.values()) == 1


def test_studies_are_found() -> None:
    assert {"gap", "tandem", "scale"} <= set(study_names())
