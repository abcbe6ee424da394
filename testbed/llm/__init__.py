"""Pretrained decoders: their weights as a `testbed.transformer.Transformer`, and their tokenizers.

Packages that only pretrained decoders need are in the extra ``llm``, and are imported when they are used.
"""

import hashlib
import re
from pathlib import Path

from testbed.config import user_code
from testbed.errors import InvalidInput
from testbed.llm import fetch, hub
from testbed.llm.checkpoint import read_directory
from testbed.llm.families import build
from testbed.llm.gguf_files import GgufFile
from testbed.llm.tokenizer import Tokenizer
from testbed.paths import expanded
from testbed.transformer import Transformer

__all__ = ["Tokenizer", "load"]


def load(source: str | Path) -> tuple[Transformer, Tokenizer]:
    """A pretrained model and its tokenizer.

    ``source`` is ``smollm2``, a directory in Hugging Face's format, a GGUF file (a path may begin with ``~``), or the
    name of a model on the Hugging Face hub (``OWNER/NAME``). ``model(tokens)`` maps ids ``(time,)`` to float32
    next-token logits ``(time, vocabulary)``. Raises `InvalidInput` for a model that cannot be used and `Unfinished` for
    one that cannot be obtained, in a sentence that names the file.
    """
    path = located(source)
    if path.is_dir():
        model, tokenizer = build(read_directory(path)), Tokenizer.read(path)
    else:
        file = GgufFile(path)
        model, tokenizer = build(file.checkpoint()), file.tokenizer()
    tokenizer.require_fits(model.vocabulary)
    return model, tokenizer


def located(source: str | Path) -> Path:
    """The directory or the GGUF file of a model that `load` takes. Raises what `load` raises for an unknown model."""
    path = Path(expanded(str(source)))
    if str(source) in KNOWN:
        return KNOWN[str(source)]()
    if path.exists():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise InvalidInput(
            f"no model '{source}': give {', '.join(KNOWN)}, a directory, a GGUF file, or "
            "OWNER/NAME on the Hugging Face hub"
        )
    return hub.snapshot(str(source))


def content(source: str | Path) -> str:
    """A hash of the names and contents of all files of a model that `load` may read: weights, configs, tokenizer,
    templates.

    Raises what `load` raises for a model that does not exist, and `InvalidInput` for a file that cannot be read."""
    path = located(source)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES)
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        try:
            digest.update(f"{name} {user_code.file_hash(file)}\n".encode())
        except OSError as problem:
            raise InvalidInput(f"{file} cannot be read ({problem.strerror})") from problem
    return digest.hexdigest()


#: Suffixes of the files in a model's directory that count: weights, settings and vocabularies, templates.
_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")

#: Models that are fetched and prepared by name.
KNOWN = {"smollm2": fetch.smollm2}
