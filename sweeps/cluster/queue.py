"""The queue of a cluster: the work that is left, and the choice of each worker's next item. The module does not depend
on the kind of work."""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable
from typing import Any, NamedTuple

#: Number of attempts per item, and number of lost hosts per item after which each further loss counts as an attempt.
ATTEMPTS, LOSSES = 3, 10


class Item(NamedTuple):
    """A piece of work. Items of one ``kind`` share compiled programs; ``needs`` are the numbers of the items that must
    be done before this one."""

    number: int
    label: str
    content: Any
    kind: Hashable = None
    needs: frozenset[int] = frozenset()


class Failure(NamedTuple):
    """An item that was given up, and the reason."""

    item: Item
    error: str


class Queue:
    """Items that wait, are in progress, done or given up.

    An item that fails is tried again, `ATTEMPTS` times in all, on another host if there is one: a host on which
    everything fails must not use up the attempts of every item. After the last attempt the item and the items that need
    it are given up, while the others go on.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._waiting = list(items)
        self._size = len(self._waiting)
        self._tried: defaultdict[int, list[Hashable]] = defaultdict(list)
        self._lost: Counter[int] = Counter()
        self._done: set[int] = set()
        self.failures: list[Failure] = []

    @property
    def over(self) -> bool:
        """Whether every item is done or given up."""
        return len(self._done) + len(self.failures) == self._size

    def next(
        self,
        kind: Hashable = None,
        others: Collection[Hashable] = (),
        host: Hashable = None,
        hosts: Collection[Hashable] = (),
    ) -> Item | None:
        """The next item for a worker on ``host`` whose latest item was of ``kind``; None if no item can start now.

        An item that failed before comes first, then an item of the same kind, then an item of a kind that no worker in
        ``others`` has. An item that failed on ``host`` is left to those of the ``hosts`` on which it has not failed.
        """

        def left_to_others(item: Item) -> bool:
            tried = self._tried[item.number]
            return host in tried and any(other not in tried for other in hosts)

        return min(
            (one for one in self._waiting if one.needs <= self._done and not left_to_others(one)),
            key=lambda one: (not self._tried[one.number], one.kind != kind, one.kind in others),
            default=None,
        )

    def begin(self, item: Item) -> None:
        """Mark a waiting item as in progress."""
        self._waiting.remove(item)

    def finish(self, item: Item) -> None:
        """Mark an item in progress as done."""
        self._done.add(item.number)

    def fail(self, item: Item, error: str, host: Hashable = None, with_host: bool = False) -> None:
        """Record that an item in progress failed on ``host``: the item waits again, before the others, or is given up.
        An item that was lost ``with_host`` loses no attempt, unless this happens more than `LOSSES` times."""
        if with_host and self._lost[item.number] < LOSSES:
            self._lost[item.number] += 1
        else:
            self._tried[item.number].append(host)
        self._waiting.insert(0, item)
        if len(self._tried[item.number]) >= ATTEMPTS:
            self._give_up(item, error)

    def _give_up(self, item: Item, error: str) -> None:
        self._waiting.remove(item)
        self.failures.append(Failure(item, error))
        for other in [other for other in self._waiting if item.number in other.needs]:
            self._give_up(other, f"{item.label} failed: {error}")
