"""Exclusive access to ranges of keys during a rename; other changes below them wait.

The rename of a directory lists, copies and deletes all keys under a prefix, which takes a while.
A file that is stored there during that time would be copied too early, or be left behind under the
old name. The kernel locks the directories whose entries change, not those further down.

Rejected: holding the locks of all open files, which also wait for memory.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass

KeyOf = Callable[[], str]


@dataclass(slots=True, eq=False)
class _Turn:
    """keys: fixed when the turn begins; until then they may change."""

    key_functions: tuple[KeyOf, ...]
    is_move: bool
    keys: tuple[str, ...] | None = None

    def touches(self, other: "_Turn") -> bool:
        if not (self.is_move or other.is_move):
            return False
        pairs = [(a, b) for a in self.current_keys() for b in other.current_keys()]
        return any(_covers(a, b) or _covers(b, a) for a, b in pairs)

    def current_keys(self) -> tuple[str, ...]:
        return tuple(key() for key in self.key_functions) if self.keys is None else self.keys


class KeyRangeLock:
    """First come, first served; changes wait for moves only.

    Concurrency: the holder of a turn must not ask for another one, nor wait for memory. No one
    may wait for a turn while holding a writer's or a version's lock.
    Cancellation: a turn ends in plain code.
    """

    def __init__(self) -> None:
        self._entries: list[_Turn] = []
        self._moves = 0
        self._ended = asyncio.Event()

    def change(self, key: KeyOf) -> AbstractAsyncContextManager[None]:
        """Change the object of this key, which is computed again when the turn begins."""
        return self._turn(_Turn((key,), is_move=False))

    def move(self, *keys: KeyOf) -> AbstractAsyncContextManager[None]:
        """Change these keys; one that ends with "/" stands for all that begin with it."""
        return self._turn(_Turn(keys, is_move=True))

    @contextmanager
    def change_at_once(self, key: KeyOf) -> Iterator[bool]:
        """As `change`, if there is no need to wait; else False, and nothing may be changed."""
        mine = _Turn((key,), is_move=False)
        self._entries.append(mine)
        try:
            if self._must_wait(mine):
                yield False
            else:
                mine.keys = mine.current_keys()
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
            mine.keys = mine.current_keys()
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
