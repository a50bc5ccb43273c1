"""One worker process of a mount, from its fork to its exit."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from typing_extensions import override

from csi_s3.aio import Pace
from csi_s3.kernel.descriptors import discard
from csi_s3.link import messages
from csi_s3.link.channel import Channel
from csi_s3.link.report import Notice, Report
from csi_s3.link.spec import MountSpec
from csi_s3.mounter.metrics.worker_metrics import WorkerMetrics
from csi_s3.mounter.mounter_deadlines import MounterDeadlines
from csi_s3.mounter.zygote_client import WorkerProcess, ZygoteClient, describe
from csi_s3.obs.metrics import catalog as metrics

MESSAGES_PER_S = 100  # of one worker; it answers requests, and reports what has changed

log = logging.getLogger(__name__)


class WorkerRun:
    """The process, the channel to it, and what it reported last.

    Lifetime: `serve`, once, in one task. The mount's descriptor is its caller's: the mount may
    outlive its worker. Concurrency: everything else is for the keeper's tasks. Cancellation: a
    cancelled `serve` leaves the process to the zygote, which ends all workers when it ends.
    on_message: takes each report and each notice.
    """

    def __init__(
        self,
        spec: MountSpec,
        zygote_client: ZygoteClient,
        on_message: Callable[[Report | Notice], None],
        deadlines: MounterDeadlines,
    ) -> None:
        self.report: Report | None = None
        self.metrics = WorkerMetrics(spec.volume_handle)
        self._spec, self._zygote_client, self._on_message = spec, zygote_client, on_message
        self._deadlines = deadlines
        self._process: WorkerProcess | None = None
        self._channel: Channel | None = None
        self._is_usage_requested = False

    @override
    def __repr__(self) -> str:
        if self._process is None:
            return "<WorkerRun not started>"
        pid = self._process.pid.result()
        if self._process.ended.done():
            return f"<WorkerRun pid={pid} exited: {_cause(self._process)}>"
        state = self.report.state.value if self.report else "starting"
        return f"<WorkerRun pid={pid} {state}>"

    async def serve(self, message: Mapping[str, Any], fd: int, stop: asyncio.Event) -> str:
        """Start a worker that serves the mount, and wait for its exit, whose cause is returned.

        message: the body of `serve`. stop: when it is set, the worker uploads open files and ends;
        it is killed if that takes too long.

        Raises:
            ConnectionError: no process could be started.

        """
        channel, worker_end = Channel.pair(discard=discard)
        with closing(channel):
            with worker_end:
                process = await self._zygote_client.spawn(self._spec.mount_id, worker_end)
            self._process, self._channel = process, channel
            log.info("worker is pid %s", process.pid.result(), extra=self._spec.log_fields)
            metrics.WORKER_STARTS.inc(volume=self._spec.volume_handle)
            await self._send("serve", message, fd)
            self.metrics.opened(process.pid.result(), partial(self._send, "metrics"))
            async with asyncio.TaskGroup() as tasks:
                stopping = tasks.create_task(self._stop(process, channel, stop))
                closing_ = tasks.create_task(self._close_late(process, channel))
                await self._receive(channel)
                self.metrics.closed()
                await asyncio.wait({process.ended}, timeout=self._deadlines.exit_s)
                await self._kill(process)
                stopping.cancel()
                closing_.cancel()
        return _cause(process)

    async def request_usage(self) -> None:
        """Have the worker report. One request at a time, so a stuck worker cannot fill its socket.

        Nothing is sent to a worker that is not there yet: its first report is the answer.
        """
        if self._channel is not None and not self._is_usage_requested:
            self._is_usage_requested = True
            await self._send("usage")

    async def log_requests(self) -> None:
        """Have the worker log the requests that wait for an answer."""
        await self._send("requests")

    async def _receive(self, channel: Channel) -> None:
        """Take the worker's messages until its end of the channel is closed.

        Foreign code may run in a worker: what it says is checked, and is about its own mount only.
        """
        pace = Pace(MESSAGES_PER_S)
        try:
            while (message := await channel.receive()) is not None:
                try:
                    await pace.turn()
                    self._take(message.type, messages.read(message, messages.FROM_WORKER))
                finally:
                    message.close_fds()
        except ConnectionError as exc:
            log.error(  # noqa: TRY400 - the worker's fault; it is killed
                "the worker broke the protocol: %s", exc, extra=self._spec.log_fields
            )
        except Exception:  # what one worker causes must not leave it alive without a keeper
            log.exception("internal error; the worker is killed", extra=self._spec.log_fields)

    def _take(self, type_: str, body: messages.MessageBody | None) -> None:
        mount_id = self._spec.mount_id
        if isinstance(body, messages.MetricsBody):
            self.metrics.take(body.families)
        elif isinstance(body, messages.NoticeBody):
            self._on_message(replace(body.notice, mount_id=mount_id))
        elif isinstance(body, messages.ReportBody):
            self._is_usage_requested = False
            self.report = replace(body.report, mount_id=mount_id)
            self._on_message(self.report)
        else:
            raise ConnectionError(f"{type_!r} from a worker")

    async def _close_late(self, process: WorkerProcess, channel: Channel) -> None:
        """After the process has ended: it may have given its end of the channel to another one."""
        await asyncio.wait({process.ended})
        await asyncio.sleep(self._deadlines.exit_s)  # for its last words
        channel.close()

    async def _stop(self, process: WorkerProcess, channel: Channel, stop: asyncio.Event) -> None:
        await stop.wait()
        if self.report is None:  # it waits for its bucket and has no file to upload
            await self._zygote_client.kill(process)
            return
        await self._send("stop")
        within_s = self._spec.volume.tree.drain_timeout_s + self._deadlines.drain_margin_s
        _, running = await asyncio.wait({process.ended}, timeout=within_s)
        if running:
            log.warning(
                "worker did not end in %s s and is killed; files that were open may be lost",
                within_s,
                extra=self._spec.log_fields,
            )
            await self._kill(process)
            channel.close()  # also for a process that not even SIGKILL ends

    async def _kill(self, process: WorkerProcess) -> None:
        """Kill the process if it still runs, and wait for its end within the deadline."""
        if not process.ended.done():
            await self._zygote_client.kill(process)
            await asyncio.wait({process.ended}, timeout=self._deadlines.exit_s)

    async def _send(self, type_: str, body: Mapping[str, Any] | None = None, *fds: int) -> None:
        if self._channel is not None:
            try:
                body = {"mount_id": self._spec.mount_id, **(body or {})}
                await self._channel.send(type_, body, fds)
            except ConnectionError:
                log.debug("worker is gone: %s not sent", type_, extra=self._spec.log_fields)


def _cause(process: WorkerProcess) -> str:
    status = process.ended.result() if process.ended.done() else None
    return "unknown" if status is None else describe(status)
