"""Whether the bucket still answers a mount that is being served, as its own requests show.

kubelet repeats NodePublishVolume for running pods and node passes the question on, so that a volume
that failed after its mount shows the failure in `kubectl describe pod`. The answer comes from the
requests that programs cause: the outcome of each request to the bucket counts, after its retries
(`s3.http.Http.send`). A LIST of one key is sent only when node asks and the outcomes leave doubt:
after a failure, so that recovery is noticed while no program uses the mount; or when no answer has
come for long. Rejected: a request to the bucket at each question (one per pod and minute), and
looking at single attempts (they are retried, and have no message).
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
REPORT_EVERY_S = 5.0

# These concern the whole volume, whichever request failed.
_OF_VOLUME = (CredentialsError, NoSuchBucketError, StoreUnavailableError, StoreTimeoutError)
# These concern one key, as a rule; but expired keys get a 400 or 403 without a body from HEAD.
_UNCLEAR = (AccessDeniedError, StoreRefusedError)

log = logging.getLogger(__name__)


class BucketHealth:
    """The verdict of the outcomes so far.

    failure: the one since which nothing has succeeded. A refused object is not a failure of the
        volume; a refused LIST of the mount's prefix is, until the same LIST succeeds (reading may
        be allowed all the time).
    changed: set when failure has come, gone or become one of another code.
    Concurrency: plain code.
    """

    def __init__(self, prefix: str, clock: Callable[[], float]) -> None:
        self.failure: VolumeError | None = None
        self.changed = asyncio.Event()
        self._prefix, self._clock = prefix, clock
        self._is_unclear = False
        self._started: dict[object, float] = {}  # requests under way
        self._succeeded_at = clock()

    @property
    def needs_probe(self) -> bool:
        """Whether it takes a request of the worker's own to know."""
        if self.failure is not None or self._is_unclear:
            return True
        oldest = min(self._started.values(), default=self._clock())
        return self._clock() - max(oldest, self._succeeded_at) > STALLED_S

    @contextmanager
    def watch(self, listed: str | None = None) -> Iterator[Callable[[VolumeError], None]]:
        """Count the outcome of a request: an error that is raised or passed to the yielded call.

        listed: the prefix that a LIST is of. A cancelled request does not count.
        """
        is_prefix = listed == self._prefix
        errors: list[VolumeError] = []
        request = object()
        self._started[request] = self._clock()
        try:
            yield errors.append
            if not errors:
                self._succeeded(is_prefix=is_prefix)
        except VolumeError as exc:
            errors.append(exc)
            raise
        finally:
            del self._started[request]
            for error in errors:
                self.failed(error, is_prefix=is_prefix)

    def failed(self, error: VolumeError, *, is_prefix: bool) -> None:
        """Count a failure. is_prefix: of a LIST of the mount's prefix."""
        if is_prefix or isinstance(error, _OF_VOLUME):
            self._set(error)
        elif isinstance(error, _UNCLEAR):
            self._is_unclear = True

    def _succeeded(self, *, is_prefix: bool) -> None:
        self._succeeded_at = self._clock()
        if self.failure is None or isinstance(self.failure, _OF_VOLUME) or is_prefix:
            self._is_unclear = False
            self._set(None)

    def _set(self, failure: VolumeError | None) -> None:
        before, self.failure = self.failure, failure and failure.again()
        if _code(before) != _code(failure):
            self.changed.set()


def _code(error: VolumeError | None) -> str:
    return "" if error is None else error.code


class HealthReporter:
    """Answers node's questions, and reports changes without being asked.

    Lifetime: `run` is its task, beside the mount's. Concurrency: `ask` is plain code.
    probe: sends one LIST of the mount's prefix. report: sends the health.
    """

    def __init__(
        self,
        health: BucketHealth,
        *,
        probe: Callable[[], Awaitable[object]],
        report: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
        probe_within_s: float = PROBE_WITHIN_S,
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        self._health, self._probe, self._report = health, probe, report
        self._clock, self._pause = clock, pause
        self._probe_within_s, self._answer_within_s = probe_within_s, answer_within_s
        self._question = asyncio.Event()

    def ask(self) -> None:
        self._question.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report_changes())
            await self._answer(group)

    async def _answer(self, group: asyncio.TaskGroup) -> None:
        probing: asyncio.Task[None] | None = None
        probed_at = self._clock() - PROBE_EVERY_S
        while True:
            await self._question.wait()
            self._question.clear()
            is_due = self._clock() - probed_at >= PROBE_EVERY_S
            if self._health.needs_probe and is_due and (probing is None or probing.done()):
                probed_at = self._clock()
                probing = group.create_task(self._send_probe())
            if probing is not None and not probing.done():
                await asyncio.wait({probing}, timeout=self._answer_within_s)
            await self._report()

    async def _send_probe(self) -> None:
        try:
            async with asyncio.timeout(self._probe_within_s):
                await self._probe()
        except TimeoutError:
            error = StoreTimeoutError(
                f"the bucket did not answer a LIST in {self._probe_within_s:g} s",
                "check the network between this node and the store, and the store itself",
            )
            self._health.failed(error, is_prefix=True)
        except VolumeError as exc:
            log.debug("the probe of the bucket failed: %s", exc, extra={"code": exc.code})
            self._health.failed(exc, is_prefix=True)

    async def _report_changes(self) -> None:
        reported = ""
        while True:
            await self._health.changed.wait()
            self._health.changed.clear()
            failure = self._health.failure
            if _code(failure) == reported:
                continue  # it came and went
            reported = _code(failure)
            if failure is None:
                log.info("the bucket answers again")
            else:
                log.warning(
                    "requests to the bucket fail: %s", failure, extra={"code": failure.code}
                )
            await self._report()
            await self._pause(REPORT_EVERY_S)
