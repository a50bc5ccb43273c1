"""A table that cannot grow without bound, for what is remembered and may be forgotten.

Each container that lives longer than one call has a bound, which docs/memory-containers.md states.
One of this class has it by construction. What must not be forgotten needs a bound of another kind:
a refusal for the program that asks, or an owner that removes the entry.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, MutableMapping
from typing import TypeVar

from typing_extensions import override

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(MutableMapping[K, V]):
    """At most so many entries: what was set longest ago makes room for what is set.

    Iteration begins with the oldest. Concurrency: plain code.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._entries: OrderedDict[K, V] = OrderedDict()

    @override
    def __getitem__(self, key: K) -> V:
        return self._entries[key]

    @override
    def __setitem__(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self.most:
            self._entries.popitem(last=False)

    @override
    def __delitem__(self, key: K) -> None:
        del self._entries[key]

    @override
    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    @override
    def __len__(self) -> int:
        return len(self._entries)
