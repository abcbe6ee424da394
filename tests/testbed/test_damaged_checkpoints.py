"""Damaged files of checkpoints, by the thousand: a right load or one sentence, each within 5 s and 1 GiB.

Every reader gets inputs that are cut, have bits turned, or are odd in their structure, drawn by hypothesis. Inputs that
once ended in anything else are kept in ``tests/corpus`` beside some made by hand, and played again.
"""

import contextlib
import json
import resource
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.errors import InvalidInput, Unfinished
from testbed.llm import load
from testbed.llm.checkpoint import read_directory
from testbed.llm.families import build
from testbed.llm.gguf_files import GgufFile
from testbed.llm.tokenizer import Tokenizer
from testbed.transformer import Transformer

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
CORPUS = Path(__file__).parents[1] / "corpus"
GGUF = CHECKPOINTS / "llama_gguf" / "model.gguf"
SECONDS, BYTES, RESERVED = 5, 2**30, 2**32
#: Inputs of each reader that are drawn.
EXAMPLES = 500

many = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class TooSlow(BaseException):
    """`SECONDS` are over."""


class TooLarge(BaseException):
    """More than `BYTES` were needed."""


def sizes() -> tuple[int, int]:
    """Bytes of addresses that this process has reserved, and of memory that it holds."""
    reserved, held = Path("/proc/self/statm").read_text().split()[:2]
    return int(reserved) * resource.getpagesize(), int(held) * resource.getpagesize()


def peak() -> int:
    """The most memory that this process has held since `forget_peak`, where the system forgets."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def limits(size: int = BYTES) -> Iterator[None]:
    """What runs meanwhile has `SECONDS`, and ``size`` bytes of memory more than there are. What asks for `RESERVED`
    gets a `MemoryError`: addresses alone, as threads and compilers reserve many, cost nothing."""

    def stop(*_: Any) -> None:
        raise TooSlow

    reserved, held = sizes()
    forget_peak()
    before, most = resource.getrlimit(resource.RLIMIT_AS), peak()
    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (reserved + RESERVED, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    if peak() > max(most, held + size):
        raise TooLarge


def test_the_limits_hold() -> None:
    """They stop what is too long, and what is too large."""

    def forever() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while True:
            pass

    with pytest.raises(TooSlow), limits():
        forever()
    with pytest.raises(MemoryError), limits():
        bytearray(2 * RESERVED)
    forget_peak()
    # More than was ever held, where the system does not forget.
    most = peak() - sizes()[1] + 2**27
    with pytest.raises(TooLarge), limits(2**26):
        bytes(most) + b"1"


def outcome(read: Callable[[], Any]) -> Any:
    """What is read, or the sentence that refuses it."""
    with limits():
        try:
            return read()
        except (InvalidInput, Unfinished) as problem:
            message = str(problem)
    assert "\n" not in message
    assert len(message) < 1000
    message.encode("utf-8")
    return message


def loaded_or_refused(read: Callable[[], Any], path: Path) -> None:
    """Everything but a whole model or a sentence that names the path is a fault."""
    found = outcome(read)
    if isinstance(found, str):
        assert str(path) in found
    else:
        assert isinstance(found, Transformer | Tokenizer)


def read_gguf(path: Path) -> Transformer:
    file = GgufFile(path)
    model, tokenizer = build(file.checkpoint()), file.tokenizer()
    tokenizer.require_fits(model.vocabulary)
    return model


def read_weights(directory: Path) -> Transformer:
    return build(read_directory(directory))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the checkpoints, whose files are written anew for every input."""
    made = tmp_path_factory.mktemp("damaged")
    for name in ("llama", "llama_old", "gpt2", "qwen2", "qwen3"):
        shutil.copytree(CHECKPOINTS / name, made / name)
    return made


def test_whole_files_are_loaded(scratch: Path) -> None:
    """So that what is refused below is refused for its damage; and what is compiled at first is compiled."""
    for name in ("llama", "llama_old", "gpt2", "qwen2", "qwen3"):
        assert isinstance(outcome(lambda name=name: load(scratch / name)[0]), Transformer)
    assert isinstance(outcome(lambda: read_gguf(GGUF)), Transformer)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, head: int) -> bytes:
    """Bytes with some turned, cut out, doubled or overwritten by numbers that may be lengths; mostly in the first
    ``head``, where the structure is."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        reach = draw(st.sampled_from([64, 512, head, len(content)]))
        place = draw(st.integers(0, max(0, min(reach, len(content)) - 1)))
        kind = draw(st.sampled_from(["bit", "byte", "number", "cut", "hole", "twice", "insert"]))
        if kind == "bit" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and content:
            content[place] = draw(st.integers(0, 255))
        elif kind == "number":
            number = draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]))
            content[place : place + 8] = struct.pack("<Q", number)
        elif kind == "cut":
            del content[place:]
        elif kind == "hole":
            del content[place : place + draw(st.integers(1, 64))]
        elif kind == "twice":
            size = draw(st.integers(1, 64))
            content[place:place] = content[place : place + size]
        else:
            content[place:place] = draw(st.binary(min_size=1, max_size=16))
    return bytes(content)


LLAMA_WEIGHTS = (CHECKPOINTS / "llama" / "model.safetensors").read_bytes()


@st.composite
def odd_tensors(draw: st.DrawFn) -> bytes:
    """A safetensors file whose list of tensors has odd entries."""
    size = struct.unpack("<Q", LLAMA_WEIGHTS[:8])[0]
    head = json.loads(LLAMA_WEIGHTS[8 : 8 + size])
    names = sorted(head)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(names))
        part = draw(st.sampled_from(["dtype", "shape", "data_offsets", "whole", "gone", "name"]))
        if part == "whole":
            head[name] = draw(ODD)
        elif part == "gone":
            head.pop(name, None)
        elif part == "name":
            head[draw(st.text(max_size=9))] = head.get(name)
        elif isinstance(head.get(name), dict):
            known = st.sampled_from(["F64", "F16", "BF16", "I8", "F8_E4M3", "BOOL", "U64"])
            head[name][part] = draw(known | ODD if part == "dtype" else ODD)
    text = json.dumps(head).encode()
    shift = draw(st.sampled_from([0, 0, 0, 1, -1, 2**32]))
    return struct.pack("<Q", len(text) + shift) + text + LLAMA_WEIGHTS[8 + size :]


#: Values that a field of JSON is not meant to have.
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 2, 3, 2**31, 2**63, 10**18, 10**400, 0.5, 1e308, 1e-308])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud83d", "..", "", "/", "a/b", "\x00", "x" * 5000, "float32", "silu"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=5,
)


@many
@given(st.data())
def test_safetensors(scratch: Path, data: st.DataObject) -> None:
    directory = scratch / "llama"
    content = data.draw(damaged(LLAMA_WEIGHTS, 1500) | odd_tensors())
    (directory / "model.safetensors").write_bytes(content)
    loaded_or_refused(lambda: read_weights(directory), directory)


def test_safetensors_are_whole_again(scratch: Path) -> None:
    (scratch / "llama" / "model.safetensors").write_bytes(LLAMA_WEIGHTS)
    assert isinstance(outcome(lambda: read_weights(scratch / "llama")), Transformer)


@many
@given(st.data())
def test_gguf(scratch: Path, data: st.DataObject) -> None:
    path = scratch / "model.gguf"
    path.write_bytes(data.draw(damaged(GGUF.read_bytes(), 12_000) | odd_metadata()))
    loaded_or_refused(lambda: read_gguf(path), path)


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


@st.composite
def odd_metadata(draw: st.DrawFn) -> bytes:
    """A GGUF file with one of its fields, or one that it does not have, of another type or length."""
    names = [name.encode() for name in NAMES] + [b"llama.vocab_size", b"llama.attention.key_length"]
    name, kind = draw(st.sampled_from(names)), draw(st.integers(0, 13))
    large = st.sampled_from([0, 1, 2, 3, 5, 31, 2**31, 2**62, 2**64 - 1])
    if kind == 8:
        value = text(draw(st.binary(max_size=9)))
    elif kind == 9:
        inner, count = draw(st.integers(0, 13)), draw(large)
        value = struct.pack("<IQ", inner, count) + draw(st.binary(max_size=64))
    else:
        value = struct.pack("<Q", draw(large))[: SIZES.get(kind, 4)]
    field = text(name) + struct.pack("<I", kind) + value
    whole = GGUF.read_bytes()
    start = whole.find(text(name))
    if start < 0:
        count = struct.unpack("<Q", whole[16:24])[0]
        return whole[:16] + struct.pack("<Q", count + 1) + field + whole[24:]
    # What stood there stays behind the new value, and is read as the next field.
    stop = start + len(text(name)) + 4 + draw(st.sampled_from([0, 1, 4, 8]))
    return whole[:start] + field + whole[stop:]


SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
NAMES = (
    "general.architecture",
    "general.alignment",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.tokens",
    "tokenizer.chat_template",
)


@st.composite
def odd_object(draw: st.DrawFn, whole: dict[str, Any], more: tuple[str, ...]) -> bytes:
    """An object of JSON with other values, and fields that it does not have; or what is no object of JSON."""
    if draw(st.integers(0, 3)) == 0:
        plain = json.dumps(whole).encode()
        return draw(damaged(plain, len(plain)) | st.sampled_from(NO_OBJECTS))
    changed = dict(whole)
    for _ in range(draw(st.integers(1, 3))):
        changed[draw(st.sampled_from((*whole, *more)))] = draw(ODD)
    return json.dumps(changed).encode()


NO_OBJECTS = (
    b"",
    b"\xff\xfe{}",
    b'{"a": 1',
    b"[" * 200_000,
    b'{"a":' * 200_000,
    b'{"vocab_size": ' + b"9" * 5000 + b"}",
    b"NaN",
    b"null",
    b'{"a": "\xed\xa0\xbd"}',
)
CONFIGS = {
    name: json.loads((CHECKPOINTS / name / "config.json").read_text())
    for name in ("llama", "gpt2", "qwen2", "qwen3")
}
ROPE = ("rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings")
MORE = (*ROPE, "head_dim", "sliding_window", "use_sliding_window", "layer_types", "n_ctx", "odd")


@st.composite
def odd_config(draw: st.DrawFn, name: str) -> bytes:
    """A config with odd fields, in half of all cases inside of its rotary settings."""
    whole = CONFIGS[name]
    if draw(st.booleans()):
        return draw(odd_object(whole, MORE))
    inside = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    parts = (*inside, "type", "rope_theta", "full_attention", "original_max_position_embeddings")
    for _ in range(draw(st.integers(1, 2))):
        inside[draw(st.sampled_from(parts))] = draw(ODD)
    return json.dumps(whole | {draw(st.sampled_from(ROPE)): inside}).encode()


@many
@given(st.data())
def test_configs(scratch: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(CONFIGS)))
    path = scratch / name / "config.json"
    path.write_bytes(data.draw(odd_config(name)))
    loaded_or_refused(lambda: read_weights(scratch / name), scratch / name)


@many
@given(st.data())
def test_indices(scratch: Path, data: st.DataObject) -> None:
    """A wrong place for a tensor, or a wrong list of all of them."""
    directory = scratch / "llama_old"
    path = directory / "model.safetensors.index.json"
    whole = json.loads((CHECKPOINTS / "llama_old" / path.name).read_text())
    if data.draw(st.booleans()):
        content = data.draw(odd_object(whole, ("weight_map",)))
    else:
        names = st.sampled_from(sorted(whole["weight_map"])) | st.text(max_size=9)
        places = dict(whole["weight_map"])
        for _ in range(data.draw(st.integers(1, 3))):
            places[data.draw(names)] = data.draw(
                ODD | st.sampled_from(sorted(set(whole["weight_map"].values())))
            )
        content = json.dumps(whole | {"weight_map": places}).encode()
    path.write_bytes(content)
    loaded_or_refused(lambda: read_weights(directory), directory)


@many
@given(st.data())
def test_generation_configs(scratch: Path, data: st.DataObject) -> None:
    """Of a tokenizer whose own settings do not say which token ends a text."""
    directory = scratch / "gpt2"
    (directory / "tokenizer_config.json").unlink(missing_ok=True)
    whole = {"bos_token_id": 1, "eos_token_id": [2, 1], "temperature": 0.6, "top_p": 0.9}
    path = directory / "generation_config.json"
    path.write_bytes(data.draw(odd_object(whole, ("pad_token_id",))))
    loaded_or_refused(lambda: Tokenizer.read(directory), directory)


def kept(kind: str) -> list[Path]:
    """Inputs that once ended in something else than a load or a sentence."""
    return sorted((CORPUS / kind).glob("*"))


@pytest.mark.parametrize("path", kept("safetensors"), ids=lambda path: path.stem)
def test_kept_safetensors(tmp_path: Path, path: Path) -> None:
    shutil.copytree(CHECKPOINTS / "llama", tmp_path / "llama")
    shutil.copy(path, tmp_path / "llama" / "model.safetensors")
    loaded_or_refused(lambda: read_weights(tmp_path / "llama"), tmp_path)


@pytest.mark.parametrize("path", kept("gguf"), ids=lambda path: path.stem)
def test_kept_gguf(path: Path) -> None:
    loaded_or_refused(lambda: read_gguf(path), path)


@pytest.mark.parametrize("path", kept("config"), ids=lambda path: path.stem)
def test_kept_configs(tmp_path: Path, path: Path) -> None:
    """``CHECKPOINT.FILE.WHAT.json``: a file of a checkpoint."""
    name, file, *_ = path.name.split(".")
    made = tmp_path / name
    shutil.copytree(CHECKPOINTS / name, made)
    file = {"index": "model.safetensors.index.json"}.get(file, f"{file}.json")
    shutil.copy(path, made / file)
    loaded_or_refused(lambda: load(made)[0], made)
