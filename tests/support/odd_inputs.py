"""Inputs that are nearly right: files cut short, with bits turned or parts moved, documents with odd values in them."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

#: What may stand anywhere in a document, in place of what is right.
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1 << 31,
    1 << 63,
    -(1 << 70),
    10**4000,
    0.5,
    float("inf"),
    float("nan"),
    1e308,
    "",
    "a",
    "\0",
    "\ud83d",
    "<|end|>",
    "é\u2028\U0001f600",
    "a" * 10_000,
    "(" * 200,
    "{{ messages }}",
    [],
    [[]],
    [None],
    ["a", 1],
    {},
    {"a": 1},
    {"content": None},
    {"type": "Sequence"},
)


@st.composite
def torn(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file cut off, with up to four bits turned, or with a part left out, doubled or moved."""
    kind = draw(st.sampled_from(("cut", "bits", "left out", "doubled", "noise")))
    place = draw(st.integers(0, max(0, len(whole) - 1)))
    size = draw(st.integers(1, 40))
    if kind == "cut":
        return whole[:place]
    if kind == "left out":
        return whole[:place] + whole[place + size :]
    if kind == "doubled":
        return whole[: place + size] + whole[place:]
    if kind == "noise":
        return whole[:place] + draw(st.binary(min_size=1, max_size=8)) + whole[place + size :]
    found = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(whole) - 1)))
        if found:
            found[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(found)


def _places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a document; of a long list or object only the first and last few."""
    items: list[Any] = []
    if isinstance(document, dict):
        items = list(document)
    elif isinstance(document, list):
        items = list(range(len(document)))
    chosen = items if len(items) <= 12 else items[:3] + items[-3:]
    return [at, *(place for name in chosen for place in _places(document[name], (*at, name)))]


@st.composite
def odd(draw: st.DrawFn, document: Any) -> bytes:
    """A document with one to three places that hold an odd value, nothing, or what stands in another place."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(found)
        *way, name = draw(st.sampled_from(places)) or (None,)
        value = draw(st.sampled_from(VALUES))
        if draw(st.booleans()):
            value = _at(found, draw(st.sampled_from(places)))
        value = copy.deepcopy(value)
        holder = _at(found, tuple(way))
        if name is None:
            found = value
        elif isinstance(holder, dict) and draw(st.integers(0, 3)) == 0:
            del holder[name]
        else:
            holder[name] = value
    return json.dumps(found).encode("utf-8", "surrogatepass")


def _at(document: Any, place: tuple[Any, ...]) -> Any:
    for name in place:
        document = document[name]
    return document


def nearly(document: Any) -> st.SearchStrategy[bytes]:
    """A JSON file that is nearly right."""
    whole = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return st.one_of(torn(whole), odd(document))
