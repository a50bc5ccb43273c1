"""Whether the bucket still answers a mount that is being served, as its own requests show.

kubelet repeats NodePublishVolume for running pods and node passes the question on, so that a volume
that failed since says so in `kubectl describe pod`. What is known comes from requests that programs
cause anyway. One request of our own, a LIST of one key, is sent only when node asks and there is
reason to doubt: after a failure, so that recovery is seen though nobody uses the mount; or when
nothing has come back for long. Rejected: asking the bucket at each question (a request per pod and
minute, for ever), and looking at single attempts (they are retried, and have no words).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from csi_s3.errors import (
    AccessDeniedError,
    CredentialsError,
    NoSuchBucketError,
    StoreRefusedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VolumeError,
)

STALLED_S = 20.0  # a request under way for so long, and none has succeeded since
PROBE_EVERY_S = 10.0
PROBE_WITHIN_S = 30.0
ANSWER_WITHIN_S = 3.0  # node waits 5 s
TELL_EVERY_S = 5.0

# Of the whole volume, whatever was asked for.
_WHOLE = (CredentialsError, NoSuchBucketError, StoreUnavailableError, StoreTimeoutError)
# Of one key, as a rule; but HEAD is answered 400 or 403 without a word to expired keys, too.
_DOUBTFUL = (AccessDeniedError, StoreRefusedError)

log = logging.getLogger(__name__)


class BucketHealth:
    """What the outcomes say so far. wrong: the failure since which nothing has succeeded.

    A refusal of one object is not the volume's; one of LIST at the mount's prefix is. That one is
    over only when the same LIST succeeds: reading may go on all the while.
    Concurrency: plain code. changed: set when wrong has come, gone or become another code.
    """

    def __init__(self, prefix: str, clock: Callable[[], float]) -> None:
        self.wrong: VolumeError | None = None
        self.changed = asyncio.Event()
        self._prefix, self._clock = prefix, clock
        self._doubt = False
        self._under_way: dict[object, float] = {}
        self._succeeded_at = clock()

    @property
    def is_doubtful(self) -> bool:
        """Whether it is worth a request of our own to find out."""
        if self.wrong is not None or self._doubt:
            return True
        oldest = min(self._under_way.values(), default=self._clock())
        return self._clock() - max(oldest, self._succeeded_at) > STALLED_S

    @contextmanager
    def watching(self, *, listed: str | None = None) -> Iterator[None]:
        """Take the outcome of a request. listed: the prefix that a LIST is of."""
        call = object()
        self._under_way[call] = self._clock()
        of_all = listed == self._prefix
        try:
            yield
        except VolumeError as exc:
            self.failed(exc, of_all=of_all)
            raise
        else:
            self._succeeded(of_all=of_all)
        finally:
            del self._under_way[call]

    def failed(self, error: VolumeError, *, of_all: bool) -> None:
        if of_all or isinstance(error, _WHOLE):
            self._turn(error)
        elif isinstance(error, _DOUBTFUL):
            self._doubt = True

    def _succeeded(self, *, of_all: bool) -> None:
        self._succeeded_at = self._clock()
        if self.wrong is None or isinstance(self.wrong, _WHOLE) or of_all:
            self._doubt = False
            self._turn(None)

    def _turn(self, now: VolumeError | None) -> None:
        before, self.wrong = self.wrong, now
        if _code(before) != _code(now):
            self.changed.set()


def _code(error: VolumeError | None) -> str:
    return "" if error is None else error.code


class HealthReporter:
    """Answers node's questions, and tells it of changes without being asked.

    Lifetime: `run` is its task, beside the mount's. Concurrency: `ask` is plain code.
    probe: sends one LIST, watched. report: sends the health.
    """

    def __init__(
        self,
        health: BucketHealth,
        *,
        probe: Callable[[], Awaitable[object]],
        report: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._health, self._probe, self._report = health, probe, report
        self._clock, self._pause = clock, pause
        self._asked = asyncio.Event()

    def ask(self) -> None:
        self._asked.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_changes())
            await self._answer(group)

    async def _answer(self, group: asyncio.TaskGroup) -> None:
        probing: asyncio.Task[None] | None = None
        probed_at = self._clock() - PROBE_EVERY_S
        while True:
            await self._asked.wait()
            self._asked.clear()
            is_due = self._clock() - probed_at >= PROBE_EVERY_S
            if self._health.is_doubtful and is_due and (probing is None or probing.done()):
                probed_at = self._clock()
                probing = group.create_task(self._find_out())
            if probing is not None and not probing.done():
                await asyncio.wait({probing}, timeout=ANSWER_WITHIN_S)
            await self._report()

    async def _find_out(self) -> None:
        """Its outcome is `BucketHealth`'s; this only bounds it."""
        try:
            async with asyncio.timeout(PROBE_WITHIN_S):
                await self._probe()
        except TimeoutError:
            error = StoreTimeoutError(
                f"the bucket did not answer a LIST in {PROBE_WITHIN_S:.0f} s",
                "check the network between this node and the store, and the store itself",
            )
            self._health.failed(error, of_all=True)
        except VolumeError as exc:
            log.debug("the bucket was asked and failed: %s", exc, extra={"code": exc.code})

    async def _tell_changes(self) -> None:
        told = ""
        while True:
            await self._health.changed.wait()
            self._health.changed.clear()
            wrong = self._health.wrong
            if _code(wrong) == told:
                continue  # it came and went
            told = _code(wrong)
            if wrong is None:
                log.info("the bucket answers again")
            else:
                log.warning("requests to the bucket fail: %s", wrong, extra={"code": wrong.code})
            await self._report()
            await self._pause(TELL_EVERY_S)
