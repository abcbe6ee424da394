"""What a cluster has still to do, and who takes what next. Knows nothing of how the work is done."""

from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

#: How often a piece of work is tried.
ATTEMPTS = 3


@dataclass(frozen=True)
class Item:
    """A piece of work. Those of one ``kind`` share compiled programs; ``needs`` are the numbers of the items that must
    be done before it."""

    number: int
    label: str
    content: Any
    kind: Hashable = None
    needs: frozenset[int] = frozenset()


class Failure(NamedTuple):
    """An item that was given up, and why."""

    item: Item
    error: str


class Work:
    """Items that wait, are under way, done or given up.

    An item that fails is tried again, `ATTEMPTS` times in all; then it is given up, and so are those that need it,
    while the others go on.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._waiting = deque(items)
        self._under_way: dict[int, Item] = {}
        self._tried: Counter[int] = Counter()
        self._done: set[int] = set()
        self.failures: list[Failure] = []

    @property
    def over(self) -> bool:
        """Whether everything is done or given up."""
        return not self._waiting and not self._under_way

    def next(self, kind: Hashable = None, others: Collection[Hashable] = ()) -> Item | None:
        """What somebody who did ``kind`` last should do next: what was tried before, then more of that kind, then one
        that none of the ``others`` is at, then anything; None if nothing can be begun now."""
        ready = [item for item in self._waiting if item.needs <= self._done]
        for wanted in (
            lambda item: self._tried[item.number] > 0,
            lambda item: item.kind == kind,
            lambda item: item.kind not in others,
        ):
            found = next(filter(wanted, ready), None)
            if found:
                return found
        return ready[0] if ready else None

    def begin(self, item: Item) -> None:
        """Somebody does a waiting item from now on."""
        self._waiting.remove(item)
        self._under_way[item.number] = item

    def finish(self, item: Item) -> None:
        """It is done."""
        del self._under_way[item.number]
        self._done.add(item.number)

    def fail(self, item: Item, error: str) -> bool:
        """It came to nothing; whether it is given up."""
        del self._under_way[item.number]
        self._tried[item.number] += 1
        if self._tried[item.number] < ATTEMPTS:
            self._waiting.appendleft(item)
            return False
        self._give_up(item, error)
        return True

    def _give_up(self, item: Item, error: str) -> None:
        self.failures.append(Failure(item, error))
        for other in [other for other in self._waiting if item.number in other.needs]:
            self._waiting.remove(other)
            self._give_up(other, f"{item.label} failed: {error}")
