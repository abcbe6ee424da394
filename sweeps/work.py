"""What a cluster has still to do, and who takes what next. Knows nothing of how the work is done."""

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

#: How often a piece of work is tried, and how often it may lose its host before that counts as an attempt each time.
ATTEMPTS, LOSSES = 3, 10


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

    An item that fails is tried again, `ATTEMPTS` times in all and elsewhere if there is an elsewhere: a host on which
    everything fails must not use up the attempts of every item. Then it is given up, and so are those that need it,
    while the others go on.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._waiting = deque(items)
        self._under_way: dict[int, Item] = {}
        self._tried: defaultdict[int, list[Hashable]] = defaultdict(list)
        self._lost: Counter[int] = Counter()
        self._done: set[int] = set()
        self.failures: list[Failure] = []

    @property
    def over(self) -> bool:
        """Whether everything is done or given up."""
        return not self._waiting and not self._under_way

    def next(
        self,
        kind: Hashable = None,
        others: Collection[Hashable] = (),
        place: Hashable = None,
        places: Collection[Hashable] = (),
    ) -> Item | None:
        """What somebody at ``place`` who did ``kind`` last should do next: what was tried before, then more of that
        kind, then one that none of the ``others`` is at, then anything; None if nothing can be begun now. What has
        failed at ``place`` is left to those of the ``places`` where it has not."""
        ready = [
            item
            for item in self._waiting
            if item.needs <= self._done and not self._left(item, place, places)
        ]
        for wanted in (
            lambda item: item.number in self._tried,
            lambda item: item.kind == kind,
            lambda item: item.kind not in others,
        ):
            found = next(filter(wanted, ready), None)
            if found:
                return found
        return ready[0] if ready else None

    def _left(self, item: Item, place: Hashable, places: Collection[Hashable]) -> bool:
        tried = self._tried.get(item.number, [])
        return place in tried and any(other not in tried for other in places)

    def begin(self, item: Item) -> None:
        """Somebody does a waiting item from now on."""
        self._waiting.remove(item)
        self._under_way[item.number] = item

    def finish(self, item: Item) -> None:
        """It is done."""
        del self._under_way[item.number]
        self._done.add(item.number)

    def fail(self, item: Item, error: str, place: Hashable = None) -> bool:
        """It came to nothing at ``place``; whether it is given up."""
        del self._under_way[item.number]
        self._tried[item.number].append(place)
        if len(self._tried[item.number]) < ATTEMPTS:
            self._waiting.appendleft(item)
            return False
        self._give_up(item, error)
        return True

    def lose(self, item: Item, error: str, place: Hashable = None) -> bool:
        """Its host was lost with it, which says nothing of the item unless it goes on: it waits again, before the
        others; whether it is given up."""
        self._lost[item.number] += 1
        if self._lost[item.number] > LOSSES:
            return self.fail(item, error, place)
        del self._under_way[item.number]
        self._waiting.appendleft(item)
        return False

    def _give_up(self, item: Item, error: str) -> None:
        self.failures.append(Failure(item, error))
        for other in [other for other in self._waiting if item.number in other.needs]:
            self._waiting.remove(other)
            self._give_up(other, f"{item.label} failed: {error}")
