"""Old import paths keep working, and say where a module has gone."""

import importlib
import sys

import pytest

from testbed import moved

PATHS = {
    f"{package}.{old}": f"{package}.{new}"
    for package, table in moved.MOVED.items()
    for old, new in table.items()
}


@pytest.mark.parametrize("old", PATHS)
def test_an_old_path_gives_what_the_new_one_has(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, old, raising=False)
    new = importlib.import_module(PATHS[old])
    with pytest.warns(FutureWarning, match=rf"{old} has moved: import {PATHS[old]}"):
        alias = importlib.import_module(old)
    public = [name for name in vars(new) if not name.startswith("_")]
    assert public
    assert all(getattr(alias, name) is vars(new)[name] for name in public)
    monkeypatch.delitem(sys.modules, old)


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("testbed.references", "Refreshed"),
        ("testbed.proxies", "ProxyConfig"),
        ("testbed.proxies", "AbstractProxyConfig"),
        ("testbed.data", "DataSpec"),
        ("testbed.exact", "rlhf_optimum"),
        ("sweeps.store", "Store"),
        ("analysis.transfer", "compare"),
    ],
)
def test_a_package_that_was_a_module_has_its_names(package: str, name: str) -> None:
    with pytest.warns(FutureWarning, match=rf"{package}.{name} has moved"):
        assert getattr(importlib.import_module(package), name).__name__ == name


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("testbed.source", "Supply", "TrainingInputs"),
        ("testbed.source", "Author", "RolloutFunction"),
        ("analysis.transfer", "Card", "TransferTable"),
        ("testbed.stages.world_config", "GroundConfig", "WorldConfig"),
    ],
)
def test_an_old_name_gives_what_has_a_new_one(module: str, old: str, new: str) -> None:
    with pytest.warns(FutureWarning, match=rf"{old} has moved") as given:
        assert getattr(importlib.import_module(module), old).__name__ == new
    assert any(new in str(one.message) for one in given)


def test_stars_and_dir_see_the_names_of_the_new_module(monkeypatch: pytest.MonkeyPatch) -> None:
    new = importlib.import_module("testbed.config.ranges")
    names: dict[str, object] = {}
    monkeypatch.delitem(sys.modules, "testbed.ranges", raising=False)
    with pytest.warns(FutureWarning, match=r"testbed\.ranges has moved"):
        exec("from testbed.ranges import *", names)
    assert names["hyper"] is new.hyper
    alias = sys.modules["testbed.ranges"]
    assert "hyper" in dir(alias)


def test_a_module_that_was_divided_has_all_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sweeps.results", raising=False)
    with pytest.warns(FutureWarning, match=r"sweeps\.results has moved"):
        results = importlib.import_module("sweeps.results")
    assert results.Outcome.__name__ == "Outcome"
    assert results.report is importlib.import_module("sweeps.api").report


def test_names_that_never_were_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"testbed\.data.*nothing"):
        importlib.import_module("testbed.data").nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("testbed.never_was")
