"""What is fetched from the public package index once and kept in the cache: human ratings of texts.

The ratings (Hutto and Gilbert, ICWSM 2014) are in the *source* archive of vaderSentiment.
"""

import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from testbed.errors import InvalidInput
from testbed.llm.download import Distribution, download, require_checksum
from testbed.places import cache_directory

RATINGS_PACKAGE: Final = Distribution(
    "vaderSentiment",
    "3.3.2",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    source=True,
)
RATINGS: Final = "hutto_ICWSM_2014.tar.gz"
RATINGS_SHA256: Final = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"


def directory() -> Path:
    """Where they are kept."""
    return cache_directory() / "llm"


def ratings(loud: bool = False) -> Path:
    """The archive of human ratings of movie reviews, product reviews, tweets and editorials; fetched if missing.

    Raises `Unfinished` if it cannot be downloaded, `InvalidInput` if the file is damaged."""
    path = directory() / RATINGS
    if not path.exists():
        with _aside() as scratch:
            archive = download(RATINGS_PACKAGE, Path(scratch), loud)
            inside = f"vaderSentiment-{RATINGS_PACKAGE.version}/additional_resources/{RATINGS}"
            taken = Path(scratch) / RATINGS
            with tarfile.open(archive) as opened, open(taken, "wb") as file:
                member = opened.extractfile(inside)
                if member is None:
                    raise InvalidInput(f"{archive.name} holds no file {inside}")
                shutil.copyfileobj(member, file)
            require_checksum(taken, RATINGS_SHA256)
            taken.replace(path)
    require_checksum(path, RATINGS_SHA256)
    return path


def _aside() -> tempfile.TemporaryDirectory:
    """A directory on the disk of what is kept: what is made there whole can be renamed into place."""
    directory().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=directory(), prefix=".making-")
