"""One mount of this mounter, from node's `serve` to the end of its worker."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from typing_extensions import override

from csi_s3.errors import MemoryLimitError, VolumeError, WorkerDiedError
from csi_s3.kernel import mount
from csi_s3.link.channel import Channel, Message
from csi_s3.link.report import Notice, Report, State
from csi_s3.link.spec import MountSpec
from csi_s3.mounter.metrics.worker_metrics import WorkerMetrics
from csi_s3.mounter.zygote_client import WorkerProcess, ZygoteClient, describe
from csi_s3.obs.metrics import catalog as metrics

log = logging.getLogger(__name__)

DRAIN_MARGIN_S = 5.0  # beyond the volume's drain-timeout, before a worker that drains is killed
EXIT_WITHIN_S = 5.0  # from the end of a worker's socket to the end of the process
_HINTS = {
    "SIGKILL": "if nobody killed it, memory ran out: see the mounter pod's memory limit",
    "SIGSEGV": "a crash in native code: please report it with the mounter's log",
}


class WorkerSupervisor:
    """The descriptor, the worker, and what the worker said last.

    Lifetime: owns fd until `run`, which is one task's, has returned; the mount is then served by
    nobody. Concurrency: everything else is for the keeper's tasks. Cancellation: a cancelled `run`
    leaves the worker to the zygote, whose end is every worker's.
    tell: takes every report, the last one with state FAILED or ENDED, exactly once.
    notify: takes what users should hear, as the worker's message has it.
    allot: waits for the volume's share of memory and gives it, or raises MemoryLimitError; what
        node sent is kept as it came, for `have`.
    meter: what the worker has counted.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        init: str,
        fd: int,
        *,
        tell: Callable[[Report], None],
        notify: Callable[[Notice], None],
        allot: Callable[[MountSpec], Awaitable[int]],
        predecessor: "WorkerSupervisor | None" = None,
    ) -> None:
        parsed = MountSpec.from_json(spec)
        self.mount_id = parsed.mount_id
        self.volume_handle = parsed.volume_handle
        self.report: Report | None = None
        self.meter = WorkerMetrics(parsed.volume_handle)
        self._spec, self._init, self._fd = spec, init, fd
        self._parsed, self._allot = parsed, allot
        self._drain_s = parsed.volume.tree.drain_timeout_s
        self._tell, self._notify = tell, notify
        self._predecessor = predecessor
        self._channel: Channel | None = None
        self._usage_asked = False
        self._stop = asyncio.Event()
        self._gone = asyncio.Event()

    @override
    def __repr__(self) -> str:
        state = self.report.state.value if self.report else "starting"
        return f"<WorkerSupervisor {self.mount_id} {self.volume_handle!r} {state}>"

    @property
    def is_ending(self) -> bool:
        """Its memory comes back by itself: nobody has the mount any more, or it was told to end."""
        if self._gone.is_set():
            return False
        said = self.report is not None and self.report.state is not State.SERVING
        return said or self._stop.is_set() or mount.is_over(self._fd)

    def have(self) -> tuple[dict[str, Any], int]:
        """What node is told of this mount after it connects, and a duplicate of the descriptor."""
        report = self.report.to_json() if self.report else None
        return {"spec": self._spec, "init": self._init, "report": report}, os.dup(self._fd)

    def stop(self) -> None:
        """Let the worker upload its open files and end; it is killed when that takes too long."""
        self._stop.set()

    def supersede(self) -> None:
        """Stop, and say nothing of it: node has made the mount anew under the same id."""
        self._tell = lambda _: None
        self.stop()

    async def ask_usage(self) -> None:
        """Have the worker report. One question at a time, so a stuck worker cannot fill its socket.

        A worker that has not said anything yet is not asked: its first report is the answer.
        """
        if self._channel is not None and not self._usage_asked:
            self._usage_asked = True
            await self._say("usage")

    async def run(self, zygote_client: ZygoteClient) -> None:
        """Start the worker, pass on what it reports, and say the last word if it does not."""
        try:
            if self._predecessor is not None:  # one worker per mount id, ever
                await self._predecessor._gone.wait()  # noqa: SLF001 - of the same class
                self._predecessor = None
            allotted = await self._room()
            if allotted is None:
                self._pass_on(Report(mount_id=self.mount_id, state=State.ENDED))
                return
            await self._serve(zygote_client, allotted)
        except MemoryLimitError as exc:
            log.log(exc.level, "%s", exc, extra={**self._fields(), "code": exc.code})
            self.fail(exc)
        finally:
            os.close(self._fd)
            self._gone.set()

    def fail(self, error: VolumeError) -> None:
        """Say that this mount is served no more, unless its last word is said."""
        if self.report is None or self.report.state is State.SERVING:
            usage = {"usage": self.report.usage} if self.report else {}
            self._pass_on(Report(mount_id=self.mount_id, state=State.FAILED, error=error, **usage))

    async def _room(self) -> int | None:
        """Wait for the share of memory. None: the mount was stopped before there was one."""
        async with asyncio.TaskGroup() as tasks:
            stopped = tasks.create_task(self._stop.wait())
            allotted = tasks.create_task(self._allotted())
            await asyncio.wait({stopped, allotted}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            allotted.cancel()
        if allotted.cancelled() or self._stop.is_set():
            return None
        found = allotted.result()
        if isinstance(found, MemoryLimitError):
            raise found
        return found

    async def _allotted(self) -> int | MemoryLimitError:
        """A failure is a result: raised, it would come out of the group as a group of errors."""
        try:
            return await self._allot(self._parsed)
        except MemoryLimitError as exc:
            return exc

    async def _serve(self, zygote_client: ZygoteClient, memory_bytes: int) -> None:
        channel, theirs = Channel.pair()
        with closing(channel):
            with theirs:
                try:
                    child = await zygote_client.spawn(self.mount_id, theirs)
                except ConnectionError as exc:
                    what = f"volume {self.volume_handle!r} has no worker: {exc}"
                    self.fail(WorkerDiedError(what))
                    return
            log.info("worker is pid %s", child.pid.result(), extra=self._fields())
            metrics.WORKER_STARTS.inc(volume=self.volume_handle)
            self._channel = channel
            body = {"spec": self._spec, "init": self._init, "memory_bytes": memory_bytes}
            await self._say("serve", body, self._fd)
            self.meter.opened(child.pid.result(), partial(self._say, "metrics"))
            async with asyncio.TaskGroup() as tasks:
                drain = tasks.create_task(self._drain(zygote_client, child, channel))
                await self._listen(channel)
                self.meter.closed()
                await self._wait_exit(zygote_client, child)
                drain.cancel()
        self._report_exit(child)

    async def _wait_exit(self, zygote_client: ZygoteClient, child: WorkerProcess) -> None:
        """Wait for the end of a process that has closed its socket."""
        await asyncio.wait({child.ended}, timeout=EXIT_WITHIN_S)
        if not child.ended.done():
            await zygote_client.kill(child)
            await asyncio.wait({child.ended}, timeout=EXIT_WITHIN_S)

    async def _listen(self, channel: Channel) -> None:
        try:
            while (message := await channel.receive()) is not None:
                self._take(message)
        except (ConnectionError, KeyError, ValueError):
            log.exception("worker said what is not a report", extra=self._fields())

    def _take(self, message: Message) -> None:
        message.close_fds()
        if message.type == "notice":
            self._notify(Notice.from_json(message.body["notice"]))
            return
        if message.type == "metrics":
            self.meter.take(message.body)
            return
        if message.type != "report":
            raise ConnectionError(f"{message.type!r} from a worker")
        self._usage_asked = False
        self._pass_on(Report.from_json(message.body["report"]))

    async def _drain(
        self, zygote_client: ZygoteClient, child: WorkerProcess, channel: Channel
    ) -> None:
        await self._stop.wait()
        if self.report is None:  # it waits for its bucket and has no file to upload
            await zygote_client.kill(child)
            return
        await self._say("stop")
        _, late = await asyncio.wait({child.ended}, timeout=self._drain_s + DRAIN_MARGIN_S)
        if late:
            log.warning(
                "worker did not end in %s s and is killed; files that were open may be lost",
                self._drain_s + DRAIN_MARGIN_S,
                extra=self._fields(),
            )
            await zygote_client.kill(child)
            await asyncio.wait({child.ended}, timeout=EXIT_WITHIN_S)
            channel.close()  # a process that cannot even be killed is waited for no longer

    def _report_exit(self, child: WorkerProcess) -> None:
        status = child.ended.result() if child.ended.done() else None
        cause = "unknown" if status is None else describe(status)
        if self.report is not None and self.report.state is not State.SERVING:
            log.info("worker ended: %s", cause, extra=self._fields())
            return
        if self.report is None and self._stop.is_set():
            self._pass_on(Report(mount_id=self.mount_id, state=State.ENDED))
            return
        metrics.WORKER_DEATHS.inc(volume=self.volume_handle, cause=cause)
        error = WorkerDiedError(
            f"the worker of volume {self.volume_handle!r} died: {cause}",
            _HINTS.get(cause, "the mounter's log has its last lines")
            + "; the next publish starts a new one",
        )
        log.log(error.level, "%s", error, extra={**self._fields(), "code": error.code})
        self.fail(error)

    def _pass_on(self, report: Report) -> None:
        if report.state is State.FAILED and report.error is not None:
            metrics.MOUNT_FAILURES.inc(volume=self.volume_handle, code=report.error.code)
        self.report = report
        self._tell(report)

    async def _say(self, type_: str, body: dict[str, Any] | None = None, *fds: int) -> None:
        if self._channel is not None:
            try:
                await self._channel.send(type_, {"mount_id": self.mount_id, **(body or {})}, fds)
            except ConnectionError:
                log.debug("worker is gone: %s not said", type_, extra=self._fields())

    def _fields(self) -> dict[str, str]:
        return {"volume": self.volume_handle, "mount": self.mount_id}
