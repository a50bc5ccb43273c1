"""Exclusive access to ranges of keys during a rename; other changes below them wait.

The rename of a directory lists, copies and deletes all keys under a prefix, which takes a while.
A file that is stored there during that time would be copied too early, or be left behind under the
old name. The kernel locks the directories whose entries change, not those further down.

A change costs the same however many there are. A turn is compared with others when it comes, and
again when a move that it waited for ends, because only such a move changes its keys.

Rejected: holding the locks of all open files, which also wait for memory.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

from csi_s3.errors import VolumeError

KeyOf = Callable[[], str]


class _Turn:
    """It is taken while a block runs; not a generator, because each change of a name takes one.

    keys: fixed when the turn begins; until then they are those of the last comparison.
    number: in the order of arrival.
    blockers: the earlier turns that must end first.
    begins: of a turn that waits.
    """

    __slots__ = ("_lock", "begins", "blockers", "is_move", "key_functions", "keys", "number")

    def __init__(self, lock: "KeyRangeLock", keys: tuple[KeyOf, ...], *, is_move: bool) -> None:
        self._lock, self.key_functions, self.is_move = lock, keys, is_move
        self.number = 0
        self.keys: tuple[str, ...] = ()
        self.blockers: set[_Turn] = set()
        self.begins: asyncio.Future[None] | None = None

    async def __aenter__(self) -> tuple[str, ...]:
        if (begins := self._lock.arrive(self)) is not None:
            try:
                await begins
            except BaseException:
                self._lock.leave(self)
                raise
        return self.keys

    async def __aexit__(self, *_: object) -> None:
        self._lock.leave(self)

    def touches(self, other: "_Turn") -> bool:
        return any(_covers(a, b) or _covers(b, a) for a in self.keys for b in other.keys)


class KeyRangeLock:
    """First come, first served; changes wait for moves only.

    Concurrency: the holder of a turn must not ask for another one, nor wait for memory. No one
    may wait for a turn while holding a writer's or a version's lock.
    Cancellation: a turn ends in plain code.
    """

    def __init__(self) -> None:
        """Dictionaries, because they keep the order of arrival and forget at once."""
        self._turns: dict[_Turn, None] = {}
        self._moves: dict[_Turn, None] = {}
        self._waiting: dict[_Turn, None] = {}
        self._numbers = itertools.count()

    @property
    def is_free(self) -> bool:
        return not (self._turns or self._moves or self._waiting)

    def change(self, key: KeyOf) -> AbstractAsyncContextManager[tuple[str, ...]]:
        """Change the object of this key, which is computed again when the turn begins.

        To be entered; that gives the key, which stays what it is while the turn lasts.
        """
        return _Turn(self, (key,), is_move=False)

    def move(self, *keys: KeyOf) -> AbstractAsyncContextManager[tuple[str, ...]]:
        """As `change`, of these keys; one that ends with "/" stands for all that begin with it."""
        return _Turn(self, keys, is_move=True)

    @contextmanager
    def change_at_once(self, key: KeyOf) -> Iterator[bool]:
        """As `change`, if there is no need to wait; else False, and nothing may be changed."""
        mine = _Turn(self, (key,), is_move=False)
        mine.number = next(self._numbers)
        self._compare(mine)
        if mine.blockers:
            yield False
            return
        self._turns[mine] = None
        try:
            yield True
        finally:
            self.leave(mine)

    def arrive(self, mine: _Turn) -> asyncio.Future[None] | None:
        """For `_Turn`: it is the last in the order of arrival. What it must wait for, if at all."""
        mine.number = next(self._numbers)
        self._compare(mine)
        self._turns[mine] = None
        if mine.is_move:
            self._moves[mine] = None
        if mine.blockers:
            self._waiting[mine] = None
            mine.begins = asyncio.get_running_loop().create_future()
        return mine.begins

    def _compare(self, mine: _Turn) -> None:
        """Find its present keys, and the earlier turns that it must wait for."""
        mine.keys = tuple([key() for key in mine.key_functions])
        others = self._turns if mine.is_move else self._moves
        if not others:
            mine.blockers.clear()
            return
        earlier = itertools.takewhile(lambda turn: turn.number < mine.number, others)
        mine.blockers = {turn for turn in earlier if turn.touches(mine)}

    def leave(self, mine: _Turn) -> None:
        """For `_Turn`: it has ended, or does not wait any more."""
        del self._turns[mine]
        if mine.is_move:
            del self._moves[mine]
        if not self._waiting:
            return
        self._waiting.pop(mine, None)
        waiting = self._waiting if mine.is_move else self._moves
        for turn in [t for t in waiting if mine in t.blockers]:
            try:
                self._unblock(turn, mine)
            except VolumeError as exc:
                self._begin(turn, exc)

    def _unblock(self, turn: _Turn, ended: _Turn) -> None:
        if ended.is_move:
            self._compare(turn)
        else:
            turn.blockers.discard(ended)
        if not turn.blockers:
            self._begin(turn)

    def _begin(self, turn: _Turn, failure: VolumeError | None = None) -> None:
        """failure: it has no key any more; this is for its own task."""
        self._waiting.pop(turn, None)
        if turn.begins is None or turn.begins.done():
            return  # cancelled
        if failure is None:
            turn.begins.set_result(None)
        else:
            turn.begins.set_exception(failure)


def _covers(key: str, other: str) -> bool:
    return key == other or (key.endswith("/") and other.startswith(key))
