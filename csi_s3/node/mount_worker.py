"""The process that serves one mount, as node sees it: requests and reports via the mounter."""

import asyncio
import contextlib

from csi_s3.errors import MounterUnavailableError, VolumeError, WorkerDiedError
from csi_s3.link.report import Report, Usage
from csi_s3.link.spec import MountSpec
from csi_s3.node.mounter_link import MounterLink
from csi_s3.node.node_deadlines import NodeDeadlines
from csi_s3.node.source_mounts import SourceMount


class MountWorker:
    """Reports and the worker's end wake what waits for them; both are plain calls.

    bucket_error: what the worker reported last of its bucket while it serves.
    """

    def __init__(
        self, spec: MountSpec, mounter_link: MounterLink, deadlines: NodeDeadlines
    ) -> None:
        self.bucket_error: VolumeError | None = None
        self._spec, self._mounter_link, self._deadlines = spec, mounter_link, deadlines
        self._start: asyncio.Future[None] | None = None
        self._usage_waiters: list[asyncio.Future[Usage]] = []

    async def start(self, source: SourceMount) -> None:
        """Have a new worker serve the mount; return when it does.

        Raises:
            VolumeError: what the worker or the mounter reported, or no answer in time.

        """
        body = {"spec": self._spec.to_json(), "init": source.init.hex()}
        self._start = start = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._deadlines.start_s):
                await self._mounter_link.send("serve", body, [source.fd])
                await start
        except TimeoutError as exc:
            with contextlib.suppress(MounterUnavailableError):
                await self._mounter_link.send("stop", {"mount_id": self._spec.mount_id})
            within = f"{self._deadlines.start_s:.0f} s"
            raise MounterUnavailableError(
                f"volume {self._spec.volume_handle} was not served within {within}",
                "see the mounter's log for what it waits for",
            ) from exc
        finally:
            self._start = None
            start.cancel()

    async def usage(self) -> Usage:
        """Ask the worker, which also reports `bucket_error` with its answer.

        Raises:
            VolumeError: it ended or does not answer.

        """
        answer: asyncio.Future[Usage] = asyncio.get_running_loop().create_future()
        self._usage_waiters.append(answer)
        try:
            async with asyncio.timeout(self._deadlines.usage_s):
                await self._mounter_link.send("usage", {"mount_id": self._spec.mount_id})
                return await answer
        except TimeoutError as exc:
            raise WorkerDiedError(
                f"the process that serves the volume has not answered for"
                f" {self._deadlines.usage_s:.0f} s",
                "see the mounter's log",
            ) from exc
        finally:
            self._usage_waiters.remove(answer)

    def serving(self, report: Report) -> None:
        """Take its report that it serves."""
        self.bucket_error = report.error
        for waiter in self._usage_waiters:
            if not waiter.done():
                waiter.set_result(report.usage)
        if self._start is not None and not self._start.done():
            self._start.set_result(None)

    def ended(self, error: VolumeError) -> bool:
        """Fail what waits for it. True: it had not started, and `start` raises the error."""
        for waiter in self._usage_waiters:
            if not waiter.done():
                waiter.set_exception(error.again())
        if self._start is None:
            return False
        if not self._start.done():
            self._start.set_exception(error.again())
        return True

    def death(self, how: str) -> WorkerDiedError:
        return WorkerDiedError(
            f"the process that serves volume {self._spec.volume_handle} {how}",
            "see the mounter's log, or the last state of its pod's container",
        )
