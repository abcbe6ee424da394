"""Axes of a study: lists of values, combined by product, in step, or drawn at random.

A `Grid` yields settings, each a dict from a config path to a value::

    product(Axis("optimiser.learning_rate", (1e-4, 1e-3)), Axis("loss.beta", (0.1, 1.0)))  # 4
    zipped(Axis("model.width", (32, 64)), Axis("model.heads", (2, 4)))                     # 2
    random(100, seed=0, **{"loss.beta": LogUniform(0.01, 1.0)})                            # 100
"""

import abc
import itertools
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from testbed.errors import InvalidInput


@dataclass(frozen=True)
class Grid:
    """A table of settings: one column per path, one row per setting.

    Raises `InvalidInput` if there is no row, or if a path occurs twice.
    """

    paths: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        twice = {path for path in self.paths if self.paths.count(path) > 1}
        if twice:
            raise InvalidInput(f"axis '{twice.pop()}' is given twice: name each path once")
        if not self.rows:
            raise InvalidInput(f"axis '{', '.join(self.paths)}' has no values: give at least one")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self.paths, row, strict=True)) for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def values(self, path: str) -> tuple[Any, ...]:
        """The different values of one path, in order of appearance."""
        column = self.paths.index(path)
        return _unique(row[column] for row in self.rows)

    def without(self, *paths: str) -> "Grid":
        """The grid without some paths; rows that become equal are kept once."""
        kept = [column for column, name in enumerate(self.paths) if name not in paths]
        rows = _unique(tuple(row[column] for column in kept) for row in self.rows)
        return Grid(tuple(self.paths[column] for column in kept), rows)


def _unique(items: Any) -> tuple[Any, ...]:
    """Items without repeats, in order; compared by ``repr``, because 1, 1.0 and True are equal."""
    return tuple({repr(item): item for item in items}.values())


def Axis(path: str, values: Sequence[Any]) -> Grid:
    """One path and the values it takes."""
    return Grid((path,), tuple((value,) for value in values))


def product(*grids: Grid) -> Grid:
    """Every combination; the last grid varies fastest. The product of no grids is one empty setting."""
    return _joined(grids, itertools.product(*(grid.rows for grid in grids)))


def zipped(*grids: Grid) -> Grid:
    """Grids of equal length, combined row by row: first with first, second with second."""
    if len({len(grid) for grid in grids}) > 1:
        lengths = ", ".join(f"{'+'.join(grid.paths)}: {len(grid)}" for grid in grids)
        raise InvalidInput(f"zipped axes need equally many values, got {lengths}")
    return _joined(grids, zip(*(grid.rows for grid in grids), strict=True))


def _joined(grids: Sequence[Grid], rows: Iterable[tuple[tuple[Any, ...], ...]]) -> Grid:
    """The paths of all grids; each of ``rows`` holds one row of every grid."""
    paths = tuple(path for grid in grids for path in grid.paths)
    return Grid(paths, tuple(tuple(itertools.chain.from_iterable(row)) for row in rows))


class Distribution(abc.ABC):
    """A distribution from which `random` draws values."""

    @abc.abstractmethod
    def draw(self, generator: np.random.Generator, n: int) -> list[Any]:
        """``n`` independent values; the first k do not depend on ``n``."""


@dataclass(frozen=True)
class Uniform(Distribution):
    """Uniform on [low, high)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InvalidInput(f"Uniform needs low < high, got low={self.low}, high={self.high}")

    def draw(self, generator: np.random.Generator, n: int) -> list[float]:
        """See `Distribution`."""
        return (self.low + (self.high - self.low) * generator.random(n)).tolist()


@dataclass(frozen=True)
class LogUniform(Distribution):
    """Uniform in the logarithm, between two positive bounds."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise InvalidInput(
                f"LogUniform needs 0 < low < high, got low={self.low}, high={self.high}"
            )

    def draw(self, generator: np.random.Generator, n: int) -> list[float]:
        """See `Distribution`."""
        bounds = Uniform(math.log(self.low), math.log(self.high))
        return np.exp(bounds.draw(generator, n)).tolist()


@dataclass(frozen=True)
class Choice(Distribution):
    """One of the given values, each equally likely."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        if not values:
            raise InvalidInput("Choice needs at least one value, got none")
        object.__setattr__(self, "values", values)

    def draw(self, generator: np.random.Generator, n: int) -> list[Any]:
        """See `Distribution`."""
        return [self.values[int(u * len(self.values))] for u in generator.random(n)]


def random(n: int, seed: int, **distributions: Distribution) -> Grid:
    """``n`` settings drawn independently; each path has its own random stream.

    A larger ``n`` extends the same list, and a further path does not change the values of the others. A random search
    that grows therefore keeps its finished runs.
    """
    if n < 1:
        raise InvalidInput(f"random needs n >= 1, got {n}")
    columns = [
        distribution.draw(np.random.default_rng([seed, zlib.crc32(path.encode())]), n)
        for path, distribution in distributions.items()
    ]
    return Grid(tuple(distributions), tuple(zip(*columns, strict=True)))
