"""Pytrees as files: all that stages hold, refusals when they are kept, and odd files, which are refused when they are
read."""

import copy
import enum
import io
import json
import sys
import tempfile
import time
import tracemalloc
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cache import same

from sweeps.population.signed_files import SignedFiles
from testbed.errors import InvalidInput
from testbed.losses.ipo import Ipo
from testbed.policies.shared_weights import Source, Weight
from testbed.serialisation import tree_files
from testbed.serialisation.tree_structure import _KINDS, DTYPES, Damaged

CORPUS = Path(__file__).parents[1] / "corpus" / "stages"
Kind = TypeVar("Kind")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 2


class Point(NamedTuple):
    x: Any
    y: Any = None


class Box(eqx.Module, Generic[Kind]):
    """A module of a user's, with static fields of every kind."""

    inside: Any
    told: Any = eqx.field(static=True, default=None)


class Outer:
    class Inner(eqx.Module):
        x: Any


class Counted(eqx.Module):
    """What a constructor does is not done again."""

    x: Any
    made = 0

    def __init__(self, x: Any) -> None:
        type(self).made += 1
        self.x = x


def encoded(tree: Any, name: str = "name") -> bytes:
    return b"".join(map(bytes, tree_files.encode(tree, name)))


def decoded(content: bytes, name: str = "name") -> Any:
    return tree_files.decode(io.BytesIO(content), name)


BFLOAT = DTYPES["bfloat16"]
TREES: dict[str, Any] = {
    "none": None,
    "numbers": [0, -1, 2**64, -(2**4000), 1.5, -0.0, 1e-310, 1e308, 0.1, True, False],
    "no numbers": [float("nan"), float("inf"), -float("inf")],
    "text": ["", 'quote " and \\', "\n\0", "\ud800", "word " * 1000, "{}"],
    "nests": [[], (), {}, [()], ([],), {"a": {}}, ((((1,),),),)],
    "keys": [{"b": 1, "a": 2, "": 9}, {3: 4, 1.5: 7}, {(1, "x"): 5}, {None: 6}, {Level.HIGH: 8}],
    "named": Point(np.ones(2), Point(1)),
    "enums": (Colour.RED, Level.HIGH),
    "module": Box(np.ones(3), (1, "two", None, Colour.RED, 0.1)),
    "nested class": Outer.Inner(np.ones(3)),
    "loss": Ipo(beta=0.3, length_normalised=True),
    "weights": {"left": Weight(Source("tiny", "abc"), 3, 12), "kept": np.ones(2)},
    "static": Box(1, (np.dtype("float32"), jnp.bfloat16, np.int8, np.dtype(jnp.bfloat16))),
    "functions": Box(1, (jax.nn.relu, jnp.tanh, jax.nn.silu, encoded)),
    "shapes": jax.eval_shape(lambda x: (x + 1, x * 2.0), 1),
    "more shapes": jax.ShapeDtypeStruct((3, 0, 2), jnp.bfloat16),
    "optimiser": optax.chain(optax.clip(1.0), optax.adam(0.1)).init({"w": np.ones((2, 3))}),
    "equinox": eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0)).layers[0].weight,
    "empty arrays": [np.zeros((0, 3), np.float32), np.zeros((2, 0)), np.zeros(0, bool)],
    "strided": [np.arange(12).reshape(3, 4).T, np.arange(10)[::-2], np.ones((2, 3), order="F")],
    "scalars": [np.float32(0.1), np.bool_(True), np.int64(-3), BFLOAT.type(1.5), np.array(2.5)],
}


@pytest.mark.parametrize("which", TREES)
def test_what_is_kept_is_read(which: str) -> None:
    kept = jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, TREES[which])
    found = decoded(encoded(kept))
    assert repr(found) == repr(kept)
    same(found, kept)


@pytest.mark.parametrize("which", DTYPES)
def test_arrays_of_every_type_are_read_to_the_last_bit(which: str) -> None:
    dtype = DTYPES[which]
    bits = np.random.default_rng(0).integers(0, 2, (3, 5, dtype.itemsize), np.uint8)
    array = bits.reshape(3, -1).view(dtype)
    array = array.reshape(3, 5)
    for kept in (array, array[0, 0], array[:0], array[:, 1:4]):
        same(decoded(encoded([kept, np.ones(1)])), [kept, np.ones(1)])


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_random_keys_are_read(generator: str) -> None:
    for kept in (jax.random.key(3, impl=generator), jax.random.split(jax.random.key(1), 3)):
        found = decoded(encoded({"key": kept}))["key"]
        assert found.dtype == kept.dtype
        same(found, kept)


def test_arrays_of_jax_are_read_as_numpys() -> None:
    found = decoded(encoded({"x": jnp.arange(3)}))
    same(found, {"x": np.arange(3, dtype=np.int32)})
    found["x"][0] = 7  # memory of its own


def test_no_constructor_runs() -> None:
    content = encoded(Counted(np.ones(2)))
    before = Counted.made
    same(decoded(content), Counted(np.ones(2)))
    assert Counted.made == before + 1


def test_others_can_read_the_arrays() -> None:
    """A file is one of safetensors."""
    tree = [np.arange(6, dtype=np.int32).reshape(2, 3), np.ones(2, bool), np.zeros((0, 2))]
    found = safetensors.numpy.load(encoded(tree))
    for i, array in enumerate(tree):
        np.testing.assert_array_equal(found[str(i)], array)


def of_a_function() -> type:
    class Hidden(eqx.Module):
        x: Any

    return Hidden


Shadowed = of_a_function()
Replaced = namedtuple("Replaced", "x")
OLD = Replaced(1)
Replaced = namedtuple("Replaced", "y")


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        (of_a_function()(1), "Hidden of module test_tree_files cannot be kept"),
        (Shadowed(1), "Hidden of module test_tree_files cannot be kept"),
        (OLD, "Replaced of module test_tree_files cannot be kept"),
        (Box(1, lambda x: x), "<lambda> of module test_tree_files cannot be kept"),
        (Box(1, time.sleep), "value of class builtins.builtin_function_or_method cannot be kept"),
        (Box(1, json.loads), "value of class builtins.function cannot be kept"),
        (Box[int](1), r"Box cannot be kept in the cache: __orig_class__ is not .* square brackets"),
        (jax.tree.map(abs, Box[int](1)), r"Box cannot be kept in the cache: .*__doc__.* is not"),
        (object(), "value of class builtins.object cannot be kept"),
        (OrderedDict(a=1), "value of class collections.OrderedDict cannot be kept"),
        ({"a": {1, 2}}, "value of class builtins.set cannot be kept"),
        (b"bytes", "value of class builtins.bytes cannot be kept"),
        (1j, "value of class builtins.complex cannot be kept"),
        (dict, "value of class builtins.type cannot be kept"),
        (np.array(["text"]), "an array of type <U4 cannot be kept"),
        (np.array([object()]), "an array of type object cannot be kept"),
        (np.ones(2, ">f4"), "an array of type >f4 cannot be kept"),
        (np.zeros(2, "f4,i4"), "an array of type .* cannot be kept"),
        (2**5000, "a number of 5001 bits cannot be kept"),
    ],
)
def test_what_cannot_be_kept_is_refused_when_it_is_kept(tree: Any, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        tree_files.encode(tree, "name")


def test_a_pytree_in_itself_is_refused() -> None:
    tree: list[Any] = []
    tree.append(tree)
    with pytest.raises(InvalidInput, match="holds itself"):
        tree_files.encode(tree, "name")


#: A file of everything at once, which fuzzing changes.
EVERYTHING = {name: tree for name, tree in TREES.items() if name != "text"} | {
    "key": jax.random.key(0),
    "odd": np.ones(2, DTYPES["float8_e4m3"]),
}


def repaired(header: Any, data: bytes, name: str = "name") -> bytes:
    """A file of any header, with the right length and checksum, written as `encode` writes them."""
    metadata = {"format": "testbed-tree", "crc32": "0" * 8}
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        metadata |= {"tree": header["__metadata__"].get("tree")}
        header = {"__metadata__": metadata} | {k: v for k, v in header.items() if k[:2] != "__"}
    text = json.dumps(header, separators=(",", ":")).encode()
    return sealed(len(text).to_bytes(8, "little") + text + data, name)


def sealed(content: bytes, name: str = "name") -> bytes:
    """A file with the right checksum."""
    start = 8 + len(tree_files._BEGIN)
    if len(content) < start + 8:
        return content
    checksum = tree_files._checksum(name, content[:start], content[start + 8 :])
    return content[:start] + checksum + content[start + 8 :]


def taken_apart(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, structure, and data of a file."""
    size = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:size])
    return header, json.loads(header["__metadata__"]["tree"]), content[size:]


def put_together(header: dict[str, Any], told: Any, data: bytes) -> bytes:
    metadata = {"tree": told if isinstance(told, str) else json.dumps(told)}
    return repaired(header | {"__metadata__": metadata}, data)


WHOLE = encoded(EVERYTHING)
HEADER, TOLD, DATA = taken_apart(WHOLE)


def test_files_that_are_put_together_again_are_read() -> None:
    """Else fuzzing would test nothing but checksums."""
    same(decoded(put_together(HEADER, TOLD, DATA)), decoded(WHOLE))
    assert sealed(WHOLE) == WHOLE


def outcome(content: bytes, measured: bool = True) -> str:
    """What comes of reading a file: "a value" or "damaged", and nothing else: nothing is imported, and time and memory
    (where it is ``measured``, which is slow) are in proportion to the file."""
    loaded, clock = set(sys.modules), time.monotonic()
    if measured:
        tracemalloc.start()
    try:
        decoded(content)
        found = "a value"
    except Damaged:
        found = "damaged"
    finally:
        peak = tracemalloc.get_traced_memory()[1] if measured else 0
        tracemalloc.stop()
    assert time.monotonic() - clock < 5.0
    assert peak < 1_000_000 + 200 * len(content)
    assert set(sys.modules) == loaded
    return found


FUZZ = settings(
    max_examples=110,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@st.composite
def changed_bytes(draw: Any) -> bytes:
    """The whole file cut, lengthened, with bits flipped, or with a piece of it elsewhere."""
    content = bytearray(WHOLE)
    place = draw(st.integers(0, len(content) - 1))
    kind = draw(st.sampled_from(["cut", "flip", "insert", "move", "longer", "size"]))
    if kind == "cut":
        del content[place:]
    elif kind == "flip":
        for at in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
            content[at] ^= draw(st.integers(1, 255))
    elif kind == "insert":
        content[place:place] = draw(st.binary(min_size=1, max_size=20))
    elif kind == "move":
        end = min(len(content), place + draw(st.integers(1, 200)))
        piece = content[place:end]
        del content[place:end]
        to = draw(st.integers(0, len(content)))
        content[to:to] = piece
    elif kind == "longer":
        content += draw(st.binary(min_size=1, max_size=20))
    else:
        content[:8] = draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
    return bytes(content)


@FUZZ
@given(changed_bytes())
def test_changed_files_are_damaged(content: bytes) -> None:
    assert (outcome(content, measured=False) == "damaged") == (content != WHOLE)


@FUZZ
@given(changed_bytes())
def test_changed_files_with_a_right_checksum_are_values_or_damaged(content: bytes) -> None:
    outcome(sealed(content), measured=False)


ODD_NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64, 10**30, -1, 0]),
    st.floats(allow_nan=False, allow_infinity=False),
)
NAMES = st.sampled_from(
    [
        *("os:system", "builtins:eval", "subprocess:Popen", "posix:mkdir", "json:loads", "", ":"),
        *("test_tree_files:Box", "test_tree_files:Point", "test_tree_files:Colour", "enum:Enum"),
        *("testbed.losses.ipo:Ipo", "equinox:Module", "equinox._module._module:Module"),
        *("testbed.objective:AbstractObjective", "builtins:tuple", "antigravity:x", "sweeps:run"),
        *(
            "testbed.policies.shared_weights:Weight",
            "test_tree_files:Box.__init__",
            "testbed.llm.fetch:ratings",
        ),
        *("float32", "bfloat16", "threefry2x32", "rbg", "object", "key<fry>", "RED", "inside", "x"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | ODD_NUMBERS | st.text(max_size=5) | NAMES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.text(max_size=3) | NAMES | st.sampled_from(sorted(_KINDS)), inner, max_size=3
        ),
        *(
            st.tuples(*[inner] * (1 + len(more))).map(
                lambda values, names=(kind, *more): dict(zip(names, values, strict=True))
            )
            for kind, (_, more) in _KINDS.items()
        ),
    ),
    max_leaves=12,
)


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in some JSON: what holds it, and where."""
    pairs = (
        enumerate(node)
        if isinstance(node, list)
        else node.items()
        if isinstance(node, dict)
        else ()
    )
    for at, inner in list(pairs):
        yield node, at
        yield from places(inner)


@st.composite
def with_other_parts(draw: Any, node: Any) -> Any:
    """Some JSON of which a few places hold something else, nothing, or twice as much."""
    node = copy.deepcopy(node)
    for _ in range(draw(st.integers(1, 3))):
        known = list(places(node))
        if not known:
            return draw(JSON)
        holder, at = known[draw(st.integers(0, len(known) - 1))]
        kind = draw(st.sampled_from(["other", "gone", "another's", "twice"]))
        if kind == "other":
            holder[at] = draw(JSON)
        elif kind == "gone":
            del holder[at]
        elif kind == "another's":
            there, place = known[draw(st.integers(0, len(known) - 1))]
            holder[at] = copy.deepcopy(there[place])
        else:
            holder[at] = [copy.deepcopy(holder[at])] * 2
    return node


@FUZZ
@given(with_other_parts(TOLD))
def test_odd_structures_are_values_or_damaged(told: Any) -> None:
    outcome(put_together(HEADER, told, DATA), measured=False)


@FUZZ
@given(with_other_parts({key: HEADER[key] for key in list(HEADER) if key != "__metadata__"}))
def test_odd_headers_are_values_or_damaged(header: Any) -> None:
    tensors = header if isinstance(header, dict) else {"0": header}
    outcome(put_together(tensors, TOLD, DATA))


@FUZZ
@given(JSON, st.dictionaries(st.sampled_from("0123"), JSON, max_size=2), st.binary(max_size=16))
def test_made_up_files_are_values_or_damaged(node: Any, types: Any, data: bytes) -> None:
    tensors = {"0": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    outcome(put_together(tensors, {"tree": node, "types": types}, data), measured=False)
    outcome(put_together({}, {"tree": node, "types": {}}, b""), measured=False)


DEEP = 100_000
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def of_tree(tree: Any, *tensors: dict[str, Any], data: bytes = b"1234") -> bytes:
    """A file of a structure and some arrays."""
    header = {str(i): tensor for i, tensor in enumerate(tensors)}
    return put_together(header, {"tree": tree, "types": {}}, data if tensors else b"")


def of_shape(shape: list[int], size: int) -> bytes:
    """A file of an array of a shape that is said to take so many bytes."""
    return of_tree({"array": 0}, ONE | {"shape": shape, "data_offsets": [0, size]}, data=b"")


def of_class(name: str, **fields: Any) -> bytes:
    """A file of a module."""
    return of_tree({"module": name, "fields": fields})


def of_text(text: str) -> bytes:
    """A file of a structure that is spelt out."""
    return put_together({}, '{"tree":' + text + ',"types":{}}', b"")


HARMFUL = {
    "deep": put_together({}, "[" * DEEP + "]" * DEEP, b""),
    "deep tuples": of_text('{"tuple":[' * DEEP + "]}" * DEEP),
    "deep lists": of_text("[" * 900 + "]" * 900),
    "long number": of_text("9" * 5000),
    "no number": of_text("NaN"),
    "empty but huge": of_shape([2**61, 0], 0),
    "empty and beyond all bounds": of_shape([0] + [2**40] * 3, 0),
    "huge": of_shape([2**40], 2**42),
    "the same bytes twice": of_tree([{"array": 0}, {"array": 1}], ONE, ONE),
    "an array twice": of_tree([{"array": 0}, {"array": 0}], ONE),
    "an array not at all": of_tree([], ONE),
    "no place": of_tree({"array": False}, ONE),
    "command": of_tree({"function": "os:system"}),
    "class for a function": of_tree({"function": "test_tree_files:Box"}),
    "no module": of_class("builtins:object"),
    "field missing": of_class("test_tree_files:Box", inside=1),
    "other field": of_class("testbed.losses.ipo:Ipo", __class__=1),
    "to be imported": of_class("antigravity:Module"),
    "abstract": of_class("testbed.references.base:AbstractReference"),
    "no member": of_tree({"enum": "test_tree_files:Colour", "member": "__class__"}),
    "key that has no hash": of_tree({"dict": [[[1], 2]]}),
    "function of numpy": of_tree({"jax type": "load"}),
    "generator": of_tree({"key": 0, "generator": "os"}, ONE | {"dtype": "U32"}),
    "key": of_tree({"key": 0, "generator": "threefry2x32"}, ONE | {"dtype": "F32"}),
}


@pytest.mark.parametrize("content", HARMFUL.values(), ids=HARMFUL)
def test_harmful_files_are_damaged(content: bytes) -> None:
    assert outcome(content) == "damaged"


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_what_once_failed_is_a_value_or_damaged(path: Path) -> None:
    outcome(path.read_bytes())


@FUZZ
@given(st.data())
def test_changed_programs_count_as_missing(data: Any) -> None:
    """Of a signed file any change but none; so nothing is ever unpickled that was not written here."""
    content, name = b"program" * 20, "a" * 64
    with tempfile.TemporaryDirectory() as directory:
        files = SignedFiles(Path(directory), Path(directory) / "key", ".program")
        files.save(name, content)
        assert files.load(name) == content
        (file,) = Path(directory).glob("*.program")
        whole = bytearray(file.read_bytes())
        place = data.draw(st.integers(0, len(whole) - 1))
        kind = data.draw(st.sampled_from(["cut", "flip", "longer", "other"]))
        if kind == "cut":
            del whole[place:]
        elif kind == "flip":
            whole[place] ^= data.draw(st.integers(1, 255))
        elif kind == "longer":
            whole += data.draw(st.binary(min_size=1, max_size=9))
        else:
            whole = bytearray(data.draw(st.binary(max_size=200)))
        file.write_bytes(whole)
        assert files.load(name) is None
        assert not file.exists()
