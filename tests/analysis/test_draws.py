"""Draws for other programs agree with the verdicts that they come from."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated_multiverse import study_of_lines

from analysis.load import Collection
from analysis.verdicts import draws, verdict
from testbed.errors import InvalidInput

xarray = pytest.importorskip("xarray")

RESULTS = study_of_lines((0.5, 0.3), worlds=5)


@pytest.fixture(scope="module")
def entry() -> Any:
    (found,) = verdict.decide(RESULTS)
    return found


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the draws of the study of lines; returns the path."""
    monkeypatch.setattr(draws, "load_all", lambda *_: Collection(tmp_path, (RESULTS,)))

    def write(name: str) -> Path:
        assert draws.write(tmp_path, tmp_path / "new" / name) == 1
        assert [path.name for path in (tmp_path / "new").iterdir()] == [name]
        return tmp_path / "new" / name

    return write


def test_netcdf_round_trip(written: Any, entry: Any) -> None:
    tree = xarray.open_datatree(written("draws.nc"), engine="h5netcdf")
    assert set(tree.children) == {"posterior", "observed_data"}
    effect, worlds = tree["posterior"]["effect"], tree["observed_data"]
    assert effect.dims == ("chain", "draw", "test")
    assert effect.sizes == {"chain": 1, "draw": 4000, "test": 1}
    assert set(effect.coords) == {"chain", "draw", "test", *draws.LABELS}
    assert set(worlds["error"].coords) == {"test", "world", *draws.LABELS}
    labels = [effect.coords[name].item(0) for name in draws.LABELS]
    assert labels == ["lines", "X1", "Neural", "test", 0, entry["effect"], entry["unit"], 0.07]
    assert np.quantile(effect, [0.05, 0.95]) == pytest.approx(entry["interval"], abs=1e-12)
    assert np.median(effect) == pytest.approx(entry["estimate"], abs=1e-12)
    told = entry["details"]["worlds"]
    for name in ("estimate", "error"):
        values = worlds[name].isel(test=0).sel(world=[world["seed"] for world in told])
        np.testing.assert_allclose(values, [world[name] for world in told], atol=1e-12)
    # In increasing order they would look like a chain with a trend.
    values = effect.to_numpy().ravel()
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.1


def test_parquet_has_the_same(written: Any, entry: Any) -> None:
    rows: Any = pd.read_parquet(written("draws.parquet"))
    assert list(rows) == [*draws.LABELS, "group", "draw", "world", "value", "error"]
    posterior = rows[rows["group"] == "posterior"]
    assert posterior["draw"].tolist() == list(range(4000))
    assert posterior["world"].isna().all()
    assert np.quantile(posterior["value"], [0.05, 0.95]) == pytest.approx(entry["interval"])
    worlds = rows[rows["group"] == "observed_data"]
    assert worlds["world"].tolist() == [0, 1, 2, 3, 4]
    assert worlds["value"].tolist() == [world["estimate"] for world in entry["details"]["worlds"]]


def test_what_cannot_be_written_is_refused(written: Any) -> None:
    with pytest.raises(InvalidInput, match="nc, parquet"):
        written("draws.csv")
    with pytest.raises(InvalidInput, match="no effect has an interval"):
        draws.as_dataset([])
    with pytest.raises(InvalidInput, match="no effect has an interval"):
        draws.as_table(draws.effects(study_of_lines((0.5, 0.3), worlds=1)))


@pytest.mark.parametrize("name", ["taken.nc", "taken.parquet"])
def test_nothing_is_left_where_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The path is a folder."""
    monkeypatch.setattr(draws, "load_all", lambda *_: Collection(tmp_path, (RESULTS,)))
    (tmp_path / name).mkdir()
    with pytest.raises(InvalidInput, match="cannot be written"):
        draws.write(tmp_path, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
