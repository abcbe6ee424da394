"""What a cluster has still to do, and which worker does what next. Knows nothing of how the work is done."""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable
from typing import Any, NamedTuple

#: How often a piece of work is tried, and how often it may lose its host before that counts as an attempt each time.
ATTEMPTS, LOSSES = 3, 10


class Item(NamedTuple):
    """A piece of work. Items of one ``kind`` share compiled programs; ``needs`` are the numbers of the items that must
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


class Queue:
    """Items that wait, are under way, done or given up.

    An item that fails is tried again, `ATTEMPTS` times in all. It is tried on another host if there is one: a host on
    which everything fails must not use up the attempts of every item. Then the item is given up, and so are those that
    need it, while the others go on.
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
        """The item that a worker on ``host``, whose latest item was of ``kind``, should do next; None if no item can be
        begun now.

        An item that failed before comes first, then one of the same kind, then one of a kind that none of the
        ``others`` is at. An item that failed on ``host`` is left to those of the ``hosts`` where it has not.
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
        """A worker does a waiting item from now on."""
        self._waiting.remove(item)

    def finish(self, item: Item) -> None:
        """An item under way is done."""
        self._done.add(item.number)

    def fail(self, item: Item, error: str, host: Hashable = None, with_host: bool = False) -> None:
        """An item under way has failed on ``host``: it waits again, before the others, or is given up. One that was
        lost ``with_host`` has used up no attempt, unless that happens more than `LOSSES` times."""
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
