"""Strict reading of a checkpoint: a field or a tensor that is not as expected is refused, and the message names it."""

import sys
from collections.abc import Container, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from testbed.errors import InvalidInput
from testbed.llm.checkpoint import CONFIG, Checkpoint, shown


class Fields:
    """The fields of a checkpoint's config. The object records which fields were requested, so that no field is
    overlooked (`require_all_known`)."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._path = checkpoint.path
        self._config = checkpoint.config
        self._asked: set[str] = set()

    def refusal(self, name: str, value: Any, allowed: str) -> InvalidInput:
        """The error for a field with a value that cannot be used."""
        place = self._path / CONFIG if self._path.is_dir() else self._path
        said = shown(repr(value) if isinstance(value, str) else value)
        return InvalidInput(f"{place}: {shown(name)} must be {allowed}, got {said}")

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field; ``default`` if it is missing or null."""
        self._asked.add(name)
        found = self._config.get(name)
        return default if found is None else found

    def called(self, name: str, *others: str) -> str:
        """The name that the config uses for a setting with several names; ``name`` if it uses none. Raises
        `InvalidInput` if the config has two of them with different values."""
        given = [each for each in (name, *others) if self.get(each) is not None]
        for each in given[1:]:
            if self.get(each) != self.get(given[0]):
                allowed = f"{given[0]} ({shown(self.get(given[0]))}), which is the same setting"
                raise self.refusal(each, self.get(each), allowed)
        return given[0] if given else name

    def require_all_known(self, harmless: Container[str], neutral: Mapping[str, Any]) -> None:
        """Refuse a field that was never requested, unless it is null, is one of the ``harmless`` fields that no number
        depends on, or has the value in ``neutral`` at which it changes nothing."""
        for name, found in self._config.items():
            if name in self._asked or found is None or name in harmless:
                continue
            if name not in neutral:
                raise self.refusal(name, found, "left out: the setting is not known here")
            if not neutral[name]:
                raise self.refusal(name, found, "left out: the setting is not applied here")
            self.require(name, neutral[name], None)

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A field that holds a count."""
        found = self.get(name, default)
        if isinstance(found, bool) or not isinstance(found, int) or found < least:
            raise self.refusal(name, found, f"a whole number of at least {least}")
        return found

    def number(self, name: str, default: float) -> float:
        """A field that holds a positive number."""
        return self.positive(name, self.get(name, default))

    def positive(self, name: str, found: Any) -> float:
        """A value of a field, or of a part of a field, as a positive number."""
        usable = isinstance(found, int | float) and not isinstance(found, bool)
        if not usable or not 0 < found < sys.float_info.max:
            raise self.refusal(name, found, "a number above 0")
        return float(found)

    def flag(self, name: str, default: bool) -> bool:
        """A field that is true or false."""
        found = self.get(name, default)
        if not isinstance(found, bool):
            raise self.refusal(name, found, "true or false")
        return found

    def require(self, name: str, allowed: Iterable[Any], default: Any) -> None:
        """Refuse a field whose value is not one of those that this module can compute."""
        allowed, found = list(allowed), self.get(name, default)
        if found not in allowed:
            raise self.refusal(name, found, " or ".join(repr(value) for value in allowed))


class Tensors:
    """The tensors of a checkpoint; the object records which tensors were taken.

    ``prefix`` precedes every tensor name in the file, or none."""

    def __init__(self, checkpoint: Checkpoint, prefix: str = "") -> None:
        self._checkpoint = checkpoint
        found = checkpoint.shapes
        self._names = {name.removeprefix(prefix): name for name in found}
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def require_count(self, blocks: str, count: int, field: str) -> None:
        """Refuse a config with more blocks than the file holds, before any block is read: the last block must be there.
        ``blocks`` is the part of tensor names before a block's number."""
        last = f"{blocks}{count - 1}."
        if not any(name.startswith(last) for name in self._names):
            raise InvalidInput(
                f"{self._checkpoint.path} holds no tensor {last}*, and {field} is {shown(count)}"
            )

    def take(self, name: str, *shape: int) -> Array:
        """A tensor of a known shape. Raises `InvalidInput` if it is missing or has another shape."""
        return jnp.asarray(self._read(name, *shape))

    def _read(self, name: str, *shape: int) -> np.ndarray:
        path = self._checkpoint.path
        if name not in self._names:
            raise InvalidInput(f"{path} holds no tensor {name}")
        stored = self._names[name]
        found = self._checkpoint.shapes[stored]
        if found != shape:
            raise InvalidInput(
                f"{path}: tensor {stored} must have shape {shape} by the config, got {found}"
            )
        self._taken.add(name)
        return self._checkpoint.read(stored)

    def turned(self, name: str, out: int, width: int) -> Array:
        """A weight that is stored with its outputs first, transposed so that it multiplies rows from the right."""
        # Transposed before the transfer to the device: nothing is compiled, and the device never holds two copies.
        return jnp.asarray(np.ascontiguousarray(self._read(name, out, width).T))

    def require_all_taken(self, ignored: Iterable[str] = ()) -> None:
        """Refuse tensors that were never taken, unless their names end in one of ``ignored``."""
        ends = tuple(ignored)
        for name in sorted(self._names.keys() - self._taken):
            if not (ends and name.endswith(ends)):
                raise InvalidInput(
                    f"{self._checkpoint.path} holds a tensor that its architecture has no place "
                    f"for: {shown(self._names[name])}"
                )
