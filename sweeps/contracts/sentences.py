"""Error messages about a user's class: one sentence with the name of the class, the file and the failing line."""

import contextlib
import difflib
import inspect
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sweeps.contracts.samples import quick
from sweeps.estimands import Estimand
from sweeps.rules import Rule
from testbed import paths
from testbed.config.code_files import OURS, is_installed
from testbed.config.ranges import Number
from testbed.environment import AbstractGolden, AbstractPrompts, AbstractTask, AbstractWriters
from testbed.errors import InvalidInput
from testbed.losses.base import AbstractLoss
from testbed.objective import AbstractObjective
from testbed.preference import AbstractLabeler, AbstractPreference
from testbed.proxies.base import AbstractProxyConfig
from testbed.references.base import AbstractReference
from testbed.source import AbstractSource

T = TypeVar("T")
#: The word for a member of each family in error messages, by base class; the more specific classes come first.
FAMILIES: dict[type, str] = {
    AbstractLoss: "loss",
    AbstractObjective: "method",
    AbstractLabeler: "labeler",
    AbstractGolden: "golden reward",
    AbstractPrompts: "prompts",
    AbstractWriters: "writers",
    AbstractTask: "task",
    AbstractProxyConfig: "proxy",
    AbstractPreference: "preference model",
    AbstractSource: "source",
    AbstractReference: "reference",
    Estimand: "estimand",
    Rule: "rule",
}
_ROOT = Path(__file__).resolve().parents[2]
_NONE_YET = "and there is none yet when a program is traced: use"
#: Errors of Python and numpy about values that are unknown while a program is traced, and what to use instead.
_TRACED: dict[type[Exception], str] = {
    jax.errors.TracerBoolConversionError: "`if`, `while`, `and`, `or` and `not` need a value, "
    f"{_NONE_YET} jnp.where, or & and |",
    jax.errors.NonConcreteBooleanIndexError: "a mask as an index makes an array of unknown size: use jnp.where",
    jax.errors.TracerArrayConversionError: "numpy needs values, and there are none yet when a program is traced: use "
    "jax.numpy",
    jax.errors.ConcretizationTypeError: f"float(), int(), range() and shapes need a value, {_NONE_YET} "
    "jax.numpy, or declare the field eqx.field(static=True)",
}


def ours(kind: type) -> bool:
    """Whether a class comes with the testbed: the contract tests check it, and no command does."""
    return kind.__module__.split(".")[0] in OURS


def named(thing: Any, method: str = "") -> str:
    """The name of an object in error messages: ``loss Square``, ``labeler Coin.outcomes``."""
    kind = thing if inspect.isclass(thing) else type(thing)
    word = next((word for base, word in FAMILIES.items() if issubclass(kind, base)), "class")
    return f"{word} {kind.__name__}" + (f".{method}" if method else "")


@contextlib.contextmanager
def guarded(thing: Any, method: str = "") -> Iterator[None]:
    """Turn any exception from the code of ``thing`` into an `InvalidInput` of one sentence: class, file, line and
    cause."""
    try:
        yield
    except InvalidInput as problem:
        told = str(problem)
        raise (
            problem
            if told.startswith(named(thing))
            else InvalidInput(f"{named(thing, method)}: {told}")
        ) from problem
    except Exception as problem:
        raise InvalidInput(
            f"{named(thing, method)} fails{_place(thing, problem)}: {_cause(problem)}"
        ) from problem


def called(thing: Any, method: str, kind: type[T], *arguments: Any) -> T:
    """The value of a property or the result of a method of ``thing``, which must be a ``kind``."""
    with guarded(thing, method):
        value: Any = getattr(thing, method)
        value = value(*arguments) if callable(value) else value
    require_kind(named(thing, method), value, kind)
    return value


def traced(thing: Any, method: str, function: Callable, *arguments: Any) -> Any:
    """The shapes that a function, which calls a method of ``thing``, would return; nothing is computed."""
    with guarded(thing, method):
        return jax.eval_shape(function, *arguments)


def computed(thing: Any, method: str, function: Callable, *arguments: Any) -> Any:
    """What a function, which calls a method of ``thing``, returns as a compiled program."""
    with guarded(thing, method):
        return jax.device_get(quick(function)(*arguments))


def _cause(problem: Exception) -> str:
    """One line about an exception; if code asked a traced value for its value, also what to use instead."""
    for kind, advice in _TRACED.items():
        if isinstance(problem, kind):
            return advice
    said = traceback.TracebackException.from_exception(problem).format_exception_only()
    first = "".join(said).strip().split("\n")[0].rstrip(".")
    if isinstance(problem, AttributeError) and problem.obj is not None:
        near = difflib.get_close_matches(problem.name or "", dir(problem.obj), n=1)
        return f"{first}: did you mean '{near[0]}'?" if near else first
    return first


def _place(thing: Any, problem: Exception) -> str:
    """Where the user's code failed: the last executed line of it, or the line where the class begins."""
    frames = traceback.extract_tb(problem.__traceback__)
    theirs = [frame for frame in frames if _theirs(frame.filename)]
    if theirs:
        return f" in {paths.shown(Path(theirs[-1].filename).resolve())}, line {theirs[-1].lineno}"
    kind = type(thing)
    try:
        file, line = inspect.getsourcefile(kind), inspect.getsourcelines(kind)[1]
    except (OSError, TypeError):
        return ""
    return f" ({paths.shown(Path(file).resolve())}, line {line})" if file else ""


def _theirs(file: str) -> bool:
    path = Path(file).resolve()
    inside = any(path.is_relative_to(_ROOT / name) for name in OURS)
    return path.is_file() and not inside and not is_installed(path)


def is_array(value: Any) -> bool:
    """Whether a value is an array, or the shape and dtype of an array."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def require_array(
    what: str, value: Any, shape: tuple[int, ...], meaning: str, kind: Any = jnp.floating
) -> None:
    """Refuse anything but an array (or its shape and dtype) of the given shape and kind of number. ``what`` is the
    subject of the sentence, ``meaning`` explains the shape."""
    words = {jnp.floating: "floating-point numbers", jnp.integer: "whole numbers"}
    if not is_array(value):
        raise InvalidInput(f"{what} returns {_spoken(value)}: needs {meaning}, shape {shape}")
    if tuple(value.shape) != shape:
        raise InvalidInput(f"{what} returns shape {tuple(value.shape)}: needs {shape}, {meaning}")
    if not jnp.issubdtype(value.dtype, kind):
        raise InvalidInput(
            f"{what} returns numbers of type {value.dtype}: needs {words[kind]}, {meaning}"
        )


def require_traced(
    thing: Any, method: str, shape: tuple[int, ...], meaning: str, function: Callable, *given: Any
) -> None:
    """`require_array` for the result of a function that calls a method of ``thing``; nothing is computed."""
    require_array(named(thing, method), traced(thing, method, function, *given), shape, meaning)


def require_kind(what: str, value: Any, kind: type, example: str = "") -> None:
    """Refuse anything but an instance of ``kind``."""
    if not isinstance(value, kind):
        hint = f", {example}" if example else ""
        raise InvalidInput(f"{what} returns {_spoken(value)}: needs {kind.__name__}{hint}")


def require_two(what: str, value: Any, meaning: str, second: type = object) -> None:
    """Refuse anything but a tuple of two things, of which the latter is a ``second``."""
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], second)):
        raise InvalidInput(f"{what} returns a {type(value).__name__}: needs two things, {meaning}")


def require_within(
    what: str, numbers: Any, low: Number, high: Number, needed: str, slack: float = 0.0
) -> None:
    """Refuse numbers that lie more than ``slack`` outside a range. The sentence is ``what``, the first such number, and
    ``needed``."""
    numbers = np.asarray(numbers)
    outside = numbers[(numbers < low - slack) | (numbers > high + slack)]
    if outside.size:
        number = outside[0].item()
        shown = f"{number:.6g}" if isinstance(number, float) else number
        raise InvalidInput(f"{what} {shown}{needed}")


def require_tokens(what: str, tokens: Any, vocabulary: int) -> None:
    """Refuse token ids that are not in the vocabulary; ``what`` ends in a verb."""
    ids = f": vocabulary={vocabulary} has the ids from 0 to {vocabulary - 1}"
    require_within(f"{what} token", tokens, 0, vocabulary - 1, ids)


def require_like(what: str, value: Any, example: Any, meaning: str) -> None:
    """Refuse a pytree whose structure, shapes or dtypes differ from those of an example."""
    returned, needed = (_leaves(tree) for tree in (value, example))
    if type(value) is not type(example) or returned.keys() != needed.keys():
        raise InvalidInput(f"{what} returns {_spoken(value)}: needs {meaning}")
    for path, leaf in returned.items():
        right = needed[path]
        if leaf.shape != right.shape or leaf.dtype != right.dtype:
            raise InvalidInput(
                f"{what} returns {meaning} with {path or 'value'} of shape {tuple(leaf.shape)} and type {leaf.dtype}: "
                f"needs {tuple(right.shape)} and {right.dtype}"
            )


def _leaves(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path).lstrip("."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if is_array(leaf)
    }


def require_finite(what: str, values: Any, where: str) -> None:
    """Refuse infinities and NaN in any leaf."""
    for path, leaf in _leaves(values).items():
        array = np.asarray(leaf)
        if np.issubdtype(array.dtype, np.inexact) and not np.all(np.isfinite(array)):
            wrong = array[~np.isfinite(array)]
            part = f" in {path}" if path else ""
            raise InvalidInput(
                f"{what} is {wrong[0]}{part} for {wrong.size} of {array.size} {where}: needs finite numbers"
            )


def require_numbers(module: eqx.Module) -> None:
    """Refuse a config with a leaf that is not a number: programs take leaves as arrays."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(module):
        if not (isinstance(leaf, bool | int | float) or is_array(leaf)):
            name = jax.tree_util.keystr(path).lstrip(".")
            raise InvalidInput(
                f"{named(module)} has {leaf!r} in its field {name}, which is no number: declare the field as "
                "eqx.field(static=True)"
            )


def _spoken(value: Any) -> str:
    """A short description of a value, in a word or two."""
    if value is None:
        return "None"
    if is_array(value):
        return f"shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
