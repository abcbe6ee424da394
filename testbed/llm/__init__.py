"""Pretrained decoders: their weights in `testbed.transformer.Transformer`, and their tokenizers.

What only they need is in the extra ``llm``, and is imported when it is used.
"""

import re
from pathlib import Path

from testbed.errors import InvalidInput
from testbed.llm import fetch, hub
from testbed.llm.checkpoint import read_directory
from testbed.llm.families import build
from testbed.llm.gguf_files import GgufFile
from testbed.llm.tokenizer import Tokenizer
from testbed.places import expanded
from testbed.transformer import Transformer

__all__ = ["Tokenizer", "load"]


def load(source: str | Path) -> tuple[Transformer, Tokenizer]:
    """A pretrained model and its tokenizer.

    ``source`` is ``smollm2``, a directory as Hugging Face writes it, a GGUF file (a path may begin with ``~``), or a
    name on its hub (``OWNER/NAME``). ``model(tokens)`` maps ids ``(time,)`` to float32 next-token logits ``(time,
    vocabulary)``. Raises `InvalidInput` for what cannot be used and `Unfinished` for what cannot be had, in a
    sentence that names the file.
    """
    path = Path(expanded(str(source)))
    if str(source) in KNOWN:
        path = KNOWN[str(source)]()
    elif not path.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
            raise InvalidInput(
                f"no model '{source}': give {', '.join(KNOWN)}, a directory, a GGUF file, or "
                "OWNER/NAME on the Hugging Face hub"
            )
        path = hub.snapshot(str(source))
    if path.is_dir():
        model, tokenizer = build(read_directory(path)), Tokenizer.read(path)
    else:
        file = GgufFile(path)
        model, tokenizer = build(file.checkpoint()), file.tokenizer()
    tokenizer.require_fits(model.vocabulary)
    return model, tokenizer


#: Models that are fetched and prepared by name.
KNOWN = {"smollm2": fetch.smollm2}
