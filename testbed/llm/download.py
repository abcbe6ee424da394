"""Download of distributions from the public package index, without their dependencies.

pip does the download: the pip of this environment or, in an environment made by uv, which has none, the pip that uv
runs beside it. Settings of mirrors, proxies and certificates are those of pip or uv.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from testbed.config.user_code import file_hash
from testbed.errors import InvalidInput, Unfinished

_STANDARD_ERROR = 2


class Distribution(NamedTuple):
    """One file of a release, a wheel or a source archive, and the file's sha256."""

    name: str
    version: str
    sha256: str
    source: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def download(wanted: Distribution, directory: Path, loud: bool = False) -> Path:
    """The distribution's file, downloaded into an empty directory. With ``loud``, pip shows its progress on standard
    error.

    Raises `Unfinished` if the file cannot be downloaded, or does not have the expected checksum."""
    kind = ["--no-binary" if wanted.source else "--only-binary", wanted.name]
    with tempfile.TemporaryDirectory() as scratch:
        requirement = Path(scratch) / "requirement.txt"
        requirement.write_text(
            f"{wanted.name}=={wanted.version} --hash=sha256:{wanted.sha256}\n", encoding="utf-8"
        )
        words = ["download", "--no-deps", "--require-hashes", *kind, "--requirement", requirement]
        done = subprocess.run(
            [*_pip(), *words, "--dest", directory],
            stdout=_STANDARD_ERROR if loud else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    found = list(directory.iterdir())
    if done.returncode or len(found) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = " ".join(errors[-1:]).removeprefix("ERROR:").strip() or "pip gave no reason"
        if "HASHES" in done.stderr:
            reason = "its checksum is not the one that is known"
        raise Unfinished(f"{wanted} could not be downloaded: {reason}")
    return found[0]


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise Unfinished(
            "downloads need pip or uv, and neither is installed: run `python -m ensurepip`"
        )
    return [uv, "tool", "run", "--python", sys.executable, "pip"]


def require_checksum(path: Path, sha256: str) -> None:
    """Raise `InvalidInput` if a file does not have this checksum."""
    found = file_hash(path)
    if found != sha256:
        raise InvalidInput(
            f"{path} is damaged: its sha256 is {found} instead of {sha256}; delete it and run "
            "`testbed llm fetch`"
        )
