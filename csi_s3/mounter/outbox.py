"""An ordered send queue for one connection, which never makes its callers wait."""

import asyncio
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from csi_s3.link.channel import Channel, MessageTooLargeError

log = logging.getLogger(__name__)


class _Letter(NamedTuple):
    type: str
    body: dict[str, Any]
    fds: Sequence[int]
    sender: str


class Outbox:
    """A queue of messages with their descriptors, and the task that sends them.

    A peer that stops to read, and reads again, gets the latest message of each subject and the
    first of those without one. So the queue is bounded by the mounts, by `most`, and by
    `most_of_one` for one sender, which cannot use up the others' places.
    Lifetime: the connection's; `close` closes the descriptors that were not sent.
    """

    def __init__(self, channel: Channel, *, most: int = 1000, most_of_one: int = 50) -> None:
        """most: messages without a subject and a descriptor that wait; more are dropped."""
        self._channel, self._most, self._most_of_one = channel, most, most_of_one
        self._letters: OrderedDict[object, _Letter] = OrderedDict()  # by subject, or by any object
        self._subjectless: Counter[str] = Counter()  # by sender
        self._has_some, self._is_idle = asyncio.Event(), asyncio.Event()
        self._is_idle.set()
        self._is_full_logged = False

    @property
    def waiting(self) -> int:
        return len(self._letters)

    def close(self) -> None:
        while self._letters:
            _close(self._take())

    def put(
        self, type_: str, body: dict[str, Any], *fds: int, subject: str = "", sender: str = ""
    ) -> None:
        """Queue a message; the outbox closes its descriptors.

        subject: what it tells the state of: an earlier one that still waits is not sent.
        sender: of one without a subject: the mount.
        """
        if subject:
            self._letters.pop(subject, None)
        elif not fds and self._is_full(sender):
            if not self._is_full_logged:
                log.warning("node does not read its messages; some are dropped: %r", type_)
            self._is_full_logged = True
            return
        if not subject:
            self._subjectless[sender] += 1
        self._letters[subject or object()] = _Letter(type_, body, fds, sender)
        self._has_some.set()
        self._is_idle.clear()

    def _is_full(self, sender: str) -> bool:
        of_one = self._most_of_one if sender else self._most
        return self._subjectless.total() >= self._most or self._subjectless[sender] >= of_one

    async def run(self) -> None:
        """Send until cancelled.

        A closed connection is not an error here: its reader notices the end.
        """
        is_closed = False
        while True:
            await self._has_some.wait()
            letter = self._take()
            try:
                if not is_closed:
                    await self._channel.send(letter.type, letter.body, letter.fds)
            except ConnectionError:
                is_closed = True
            except MessageTooLargeError as exc:
                log.error("not sent: %s", exc)  # noqa: TRY400 - a fault of one mount
            finally:
                _close(letter)
            if not self._letters:
                self._is_idle.set()

    async def flush(self, *, within_s: float) -> None:
        """Wait until everything is sent or the deadline has passed."""
        try:
            async with asyncio.timeout(within_s):
                await self._is_idle.wait()
        except TimeoutError:
            return

    def _take(self) -> _Letter:
        subject, letter = self._letters.popitem(last=False)
        if not isinstance(subject, str):
            self._subjectless[letter.sender] -= 1
            if not self._subjectless[letter.sender]:
                del self._subjectless[letter.sender]
        if not self._letters:
            self._has_some.clear()
        return letter


def _close(letter: _Letter) -> None:
    for fd in letter.fds:
        os.close(fd)
