"""One mount of this mounter: what node handed over, and the worker that serves it now.

The spec, the INIT request and the descriptor of the FUSE connection are all that a worker needs,
and none of them ends with the worker: it is the keeper that closes a mount whose worker has exited.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from typing_extensions import override

from csi_s3.config import environment
from csi_s3.errors import VolumeError, WorkerDiedError
from csi_s3.kernel import mount
from csi_s3.link.channel import MessageTooLargeError, encoded
from csi_s3.link.messages import ServeBody
from csi_s3.link.report import Notice, Report, State
from csi_s3.mounter.mounter_deadlines import MounterDeadlines
from csi_s3.mounter.worker_run import WorkerRun
from csi_s3.mounter.zygote_client import ZygoteClient
from csi_s3.obs.metrics import catalog as metrics

log = logging.getLogger(__name__)

_HINTS = {
    "SIGKILL": "if it was not killed on purpose, memory ran out: see the mounter's memory limit",
    "SIGSEGV": "a crash in native code: please report it with the mounter's log",
}


class FuseMount:
    """The descriptor, the last report of the mount to node, and the worker.

    Lifetime: owns fd until `close`. Concurrency: `serve` is one task's; everything else is plain
    code for the keeper's tasks.
    send: takes notices and reports; the last report has the state FAILED or ENDED.
    """

    def __init__(
        self,
        body: ServeBody,
        fd: int,
        zygote_client: ZygoteClient,
        send: Callable[[Report | Notice], None],
        deadlines: MounterDeadlines,
    ) -> None:
        """Hold the mount of node's `serve` message."""
        self.spec = body.spec
        self.report: Report | None = None
        self.worker = WorkerRun(self.spec, zygote_client, self._pass_on, deadlines)
        self._message = {"spec": body.spec.to_json(), "init": body.init}
        self._fd = fd
        self._send = send
        self._is_replaced = False
        self._stop = asyncio.Event()
        self._closed = asyncio.Event()

    @override
    def __repr__(self) -> str:
        state = self.report.state.value if self.report else "starting"
        state += " stopping" * self.is_stopping + " closed" * self._closed.is_set()
        return f"<FuseMount {self.spec.mount_id} {self.spec.volume_handle!r} {state} {self.worker}>"

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def is_ending(self) -> bool:
        """Its memory comes back soon: it is unmounted everywhere, or was stopped, or has ended."""
        if self._closed.is_set():
            return False
        return self._has_ended or self.is_stopping or mount.is_over(self._fd)

    @property
    def _has_ended(self) -> bool:
        return self.report is not None and self.report.state is not State.SERVING

    def have(self) -> tuple[dict[str, Any], int]:
        """The body of a `have` message, for a node that connects, and a copy of the descriptor."""
        body = {**self._message, "report": self.report.to_json() if self.report else None}
        try:
            encoded("have", body)
        except MessageTooLargeError:  # the mount is more than its last report
            log.warning("a report is not sent: it is too large", extra=self.spec.log_fields)
            body["report"] = None
        return body, os.dup(self._fd)

    def stop(self) -> None:
        """Have open files uploaded, and the worker end; it is killed when that takes too long."""
        self._stop.set()

    def replace(self) -> None:
        """Stop and report nothing more: node has made another mount with the same id."""
        self._is_replaced = True
        self.stop()

    async def serve(
        self, memory_bytes: int, spool: Mapping[str, Any], credentials_dir: str = ""
    ) -> None:
        """Have a worker serve the mount until it exits, and report the end if it did not.

        memory_bytes, credentials_dir: as in the keeper's `serve` (`link.messages`). spool: its
        fields that concern the spool.
        """
        is_anonymous = self.spec.volume.bucket.no_sign_request
        of_mounter = {
            "memory_bytes": memory_bytes,
            **spool,
            "credentials_dir": credentials_dir,
            "secrets": {} if is_anonymous else environment.secrets(),
        }
        message = {**self._message, **of_mounter}
        try:
            cause = await self.worker.serve(message, self._fd, self._stop)
        except ConnectionError as exc:
            self.fail(WorkerDiedError(f"volume {self.spec.volume_handle!r} has no worker: {exc}"))
            return
        if self._has_ended:
            log.info("worker ended: %s", cause, extra=self.spec.log_fields)
        elif self.report is None and self.is_stopping:
            self.end()
        else:
            metrics.WORKER_DEATHS.inc(volume=self.spec.volume_handle, cause=cause)
            hint = _HINTS.get(cause, "the mounter's log has its last lines")
            error = WorkerDiedError(
                f"the worker of volume {self.spec.volume_handle!r} died: {cause}",
                f"{hint}; the next publish starts a new one",
            )
            fields = {**self.spec.log_fields, "code": error.code}
            log.log(error.level, "%s", error, extra=fields)
            self.fail(error)

    def end(self) -> None:
        """Report the end of a mount that was stopped before it was served."""
        self._pass_on(Report(mount_id=self.spec.mount_id, state=State.ENDED))

    def fail(self, error: VolumeError) -> None:
        """Report that the mount is not served any more, unless its end has been reported."""
        if not self._has_ended:
            usage = {"usage": self.report.usage} if self.report else {}
            report = Report(
                mount_id=self.spec.mount_id, state=State.FAILED, error=error.again(), **usage
            )
            self._pass_on(report)

    def close(self) -> None:
        """Close the descriptor; plain code, once."""
        os.close(self._fd)
        self._closed.set()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def _pass_on(self, message: Report | Notice) -> None:
        if isinstance(message, Report):
            self.report = message
            if message.state is State.FAILED and message.error is not None:
                code = message.error.code
                metrics.MOUNT_FAILURES.inc(volume=self.spec.volume_handle, code=code)
            if self._has_ended:
                self.stop()  # a worker that has said so and does not exit is killed
            if self._is_replaced:
                return
        self._send(message)
