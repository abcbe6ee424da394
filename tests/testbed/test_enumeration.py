"""Lists of all prompts and responses against plain loops, places in them, and what is too large to list."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import prompt as a_prompt
from helpers import response as a_response

from envs.enumerable import Enumerable
from testbed.errors import InvalidInput
from testbed.exact.enumeration import (
    LIMIT,
    TABLE_LIMIT,
    all_prompts,
    all_responses,
    check,
    count_prompts,
    count_responses,
    prompt_index,
    response_index,
)
from testbed.types import response_length

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SIZES = [(2, 1), (2, 5), (3, 3), (5, 4)]
sizes = pytest.mark.parametrize(("vocabulary", "time"), SIZES)


def texts(vocabulary: int, time: int) -> list[tuple[int, ...]]:
    """Every text that ends at its first 0 or at the limit, without padding."""
    cut = set()
    for tokens in itertools.product(range(vocabulary), repeat=time):
        end = tokens.index(0) + 1 if 0 in tokens else time
        cut.add(tokens[:end])
    return sorted(cut)


@sizes
def test_all_responses_are_listed_once_in_order(vocabulary: int, time: int) -> None:
    every = all_responses(vocabulary, time)
    rows = zip(every.tokens.tolist(), every.length.tolist(), strict=True)
    found = [tuple(tokens[:length]) for tokens, length in rows]
    assert found == texts(vocabulary, time)
    assert len(found) == count_responses(vocabulary, time)
    assert np.all(np.where(every.mask, 0, every.tokens) == 0)
    np.testing.assert_array_equal(response_length(every.tokens), every.length)
    assert every.tokens.dtype == every.length.dtype == jnp.int32


def test_order_of_the_documentation() -> None:
    every = all_responses(3, 2)
    expected = [[0, 0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]]
    np.testing.assert_array_equal(every.tokens, expected)


@sizes
def test_response_index_finds_every_place(vocabulary: int, time: int) -> None:
    """One at a time, in batches of any rank, under jit; and whatever stands behind the end."""
    every = all_responses(vocabulary, time)
    places = np.arange(every.length.shape[0])
    find = jax.jit(response_index, static_argnums=1)
    np.testing.assert_array_equal(find(every, vocabulary), places)
    one = jax.vmap(lambda r: response_index(r, vocabulary))(every)
    np.testing.assert_array_equal(one, places)
    junk = a_response(np.where(every.mask, every.tokens, vocabulary - 1), every.length)
    np.testing.assert_array_equal(find(junk, vocabulary), places)
    square = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), every)
    np.testing.assert_array_equal(find(square, vocabulary), [places, places[::-1]])


@pytest.mark.parametrize(("vocabulary", "length"), [(2, 3), (4, 2), (5, 1)])
def test_prompts_and_their_places(vocabulary: int, length: int) -> None:
    every = all_prompts(vocabulary, length)
    expected = list(itertools.product(range(1, vocabulary), repeat=length))
    np.testing.assert_array_equal(every.tokens, expected)
    np.testing.assert_array_equal(every.length, length)
    assert len(expected) == count_prompts(vocabulary, length)
    found = jax.jit(prompt_index, static_argnums=1)(every, vocabulary)
    np.testing.assert_array_equal(found, np.arange(len(expected)))
    last = a_prompt(expected[-1], length)
    assert int(prompt_index(last, vocabulary)) == len(expected) - 1


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ((32, 6, 12), ("vocabulary=32", "response_length=12", str(LIMIT))),
        ((10**6, 2, 10**9), ("vocabulary=1000000", str(LIMIT))),
        ((64, 2, 3), ("response_length=3", str(LIMIT))),
        ((16, 5, 3), ("prompt_length=5", str(TABLE_LIMIT))),
        ((3, 10**9, 3), ("prompt_length=1000000000", str(TABLE_LIMIT))),
        ((1, 2, 3), ("vocabulary must be at least 2", "1")),
        ((4, 0, 3), ("prompt_length must be at least 1", "0")),
        ((4, 2, 0), ("response_length must be at least 1", "0")),
    ],
)
def test_what_cannot_be_listed_is_refused(given: tuple, names: tuple) -> None:
    with pytest.raises(InvalidInput) as error:
        check(*given)
    assert all(name in str(error.value) for name in names)
    assert "\n" not in str(error.value)


def test_limits_themselves_are_allowed() -> None:
    check(64, 1, 2)
    check(2, 1, 12)
    check(16, 2, 3)


def test_the_task_refuses_before_anything_compiles() -> None:
    with pytest.raises(InvalidInput, match="response_length=13"):
        Enumerable(vocabulary=2, response_length=13)
    with pytest.raises(InvalidInput, match="prompt_length=9"):
        Enumerable(prompt_length=9)
    with pytest.raises(InvalidInput, match="order must be"):
        Enumerable(order=0)
