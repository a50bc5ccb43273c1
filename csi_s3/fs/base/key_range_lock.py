"""A rename has its keys for itself: what else this mount changes below them waits, and goes on.

The rename of a directory lists, copies and deletes all keys under a prefix, which takes a while.
A file that is stored there meanwhile would be copied too early, or be left behind under the old
name. The kernel locks the directories whose entries change, not those further down.

Rejected: holding the locks of all open files, which also wait for memory.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass

KeyOf = Callable[[], str]


@dataclass(slots=True, eq=False)
class _Turn:
    """now: the keys it has, from when its turn came; before, they may still change."""

    keys: tuple[KeyOf, ...]
    is_move: bool
    now: tuple[str, ...] | None = None

    def touches(self, other: "_Turn") -> bool:
        if not (self.is_move or other.is_move):
            return False
        ours, theirs = self.current(), other.current()
        return any(_covers(a, b) or _covers(b, a) for a in ours for b in theirs)

    def current(self) -> tuple[str, ...]:
        return self.now if self.now is not None else tuple(key() for key in self.keys)


class KeyRangeLock:
    """First come, first served; changes wait for moves only.

    Concurrency: whoever has a turn must not ask for another one, nor wait for memory. Nobody waits
    for a turn with a writer's lock, or a version's. Cancellation: a turn ends in plain code.
    """

    def __init__(self) -> None:
        self._entries: list[_Turn] = []
        self._moves = 0
        self._ended = asyncio.Event()

    def change(self, key: KeyOf) -> AbstractAsyncContextManager[None]:
        """Change the object of this key, which is asked for again when the turn comes."""
        return self._turn(_Turn((key,), is_move=False))

    def move(self, *keys: KeyOf) -> AbstractAsyncContextManager[None]:
        """Change these keys; one that ends with "/" stands for all that begin with it."""
        return self._turn(_Turn(keys, is_move=True))

    @contextmanager
    def change_at_once(self, key: KeyOf) -> Iterator[bool]:
        """As `change`, if it is our turn; else False, and nothing may be changed."""
        mine = _Turn((key,), is_move=False)
        self._entries.append(mine)
        try:
            if self._must_wait(mine):
                yield False
            else:
                mine.now = mine.current()
                yield True
        finally:
            self._leave(mine)

    @asynccontextmanager
    async def _turn(self, mine: _Turn) -> AsyncIterator[None]:
        self._entries.append(mine)
        self._moves += mine.is_move
        try:
            while self._must_wait(mine):
                await self._ended.wait()
            mine.now = mine.current()
            yield
        finally:
            self._leave(mine)

    def _leave(self, mine: _Turn) -> None:
        self._entries.remove(mine)
        self._moves -= mine.is_move
        self._ended.set()
        self._ended = asyncio.Event()

    def _must_wait(self, mine: _Turn) -> bool:
        if not self._moves:
            return False
        for earlier in self._entries:
            if earlier is mine:
                return False
            if earlier.touches(mine):
                return True
        return False


def _covers(key: str, other: str) -> bool:
    return key == other or (key.endswith("/") and other.startswith(key))
