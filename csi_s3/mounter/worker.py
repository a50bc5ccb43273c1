"""One process per mount: pyfuse3, the file system, the S3 client. Started by fork (zygote) or exec.

It is given everything over its channel: what to serve, the kernel's INIT and the fuse descriptor.
The end of the channel means nothing to it: who watches the mount may be replaced, and the mount
command goes away once it serves. It ends when the mount is gone everywhere, or when it is told to.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

import uvloop

from csi_s3.aio import finish
from csi_s3.config.volume import VolumeConfig
from csi_s3.errors import InternalError, StoreTimeoutError, VolumeError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fuse import boundary
from csi_s3.fuse.boundary import give_up
from csi_s3.fuse.bridge import Bridge
from csi_s3.fuse.session import Session
from csi_s3.link.channel import Channel, Message
from csi_s3.link.report import Notice, Report, State, Usage
from csi_s3.link.spec import MountSpec
from csi_s3.mounter.bucket_health import BucketHealth, HealthReporter
from csi_s3.mounter.metrics import request_counts
from csi_s3.mounter.notices import Notices, last_words
from csi_s3.obs import logs
from csi_s3.s3.bucket import open_bucket
from csi_s3.s3.store import ObjectStore

log = logging.getLogger(__name__)

BUCKET_ANSWERS_WITHIN_S = 90.0


def run_worker(sock: socket.socket) -> int:
    """Serve one mount and return the exit code: 0 after an orderly end, 1 if it never served.

    Call it in a process of its own, with no event loop and no thread running.
    """
    return uvloop.run(_run(Channel(sock)))


async def _run(channel: Channel) -> int:
    message = await channel.receive()
    if message is None or message.type != "serve":
        return 1
    spec = MountSpec.from_json(message.body["spec"])
    logs.bind({"volume": spec.volume_handle, "mount": spec.mount_id})
    worker = Worker(channel, spec)
    try:
        await worker.serve(message.take_fd(), bytes.fromhex(message.body["init"]))
    except (Exception, BaseExceptionGroup) as exc:
        error = _cause(exc)
        log.error(  # noqa: TRY400 - the traceback only for a bug
            "%s",
            error,
            extra={"code": error.code},
            exc_info=exc if isinstance(error, InternalError) else None,
        )
        await worker.tell_metrics()
        await worker.report(State.FAILED, error)
        return 1
    await worker.tell_metrics()  # the last: what ended workers have counted stays counted
    return 0


def _cause(found: BaseException) -> VolumeError:
    """The first error of ours; anything else is a bug."""
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    if isinstance(found, VolumeError):
        return found
    return InternalError(f"bug in the worker: {type(found).__name__}", "see its log")


class Worker:
    """Lifetime: as its process. Concurrency: one task group; the session's end ends all."""

    def __init__(self, channel: Channel, spec: MountSpec) -> None:
        self._channel, self._spec = channel, spec
        self._state_dir = Path(spec.state_dir) if spec.state_dir else None
        self._usage: Callable[[], Usage] = Usage
        self._stopping = asyncio.Event()
        self._has_ended = False
        self._health = BucketHealth(spec.volume.bucket.prefix, time.monotonic)
        self._notices = Notices(spec.mount_id, self._notify, clock=time.monotonic)
        self._health_reporter: HealthReporter | None = None

    async def serve(self, fuse_fd: int, init_request: bytes) -> None:
        """Serve until the mount is gone or we are told to stop; then upload what is open.

        Raises:
            ExceptionGroup of VolumeError: the bucket did not answer, or the kernel refused us.

        """
        volume, secret = self._spec.volume, self._spec.credentials_dir
        owner_and_root = volume.allow_root and not volume.allow_other  # never on CSI volumes
        session = Session(fuse_fd, init_request, only_owner_and_root=owner_and_root)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # a terminal's, meant for the parent
        bucket = open_bucket(
            volume.bucket,
            observe=request_counts.count_request,
            watch=self._health.watch,
            credentials_dir=Path(secret) if secret else None,
        )
        async with bucket as store, asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen())
            await first_answer(store, volume)
            fs = FileSystem(
                MountContext.create(store, volume.tree, group),
                prefix=volume.bucket.prefix,
                kernel=session,
                state_dir=None if volume.read_only else self._state_dir,  # leftovers stay there
            )
            self._usage = lambda: Usage(**asdict(fs.usage()))
            bridge = Bridge(
                fs,
                negative_ttl_s=volume.tree.negative_metadata_ttl_s,
                on_stranger=self._notices.take_stranger if self._is_root_alone() else None,
            )
            watching = group.create_task(self._keep_told(store))
            boundary.error_listener.set(self._notices.take)
            recovering = group.create_task(fs.recover())  # it takes its turns before any request
            serving = group.create_task(session.serve(bridge))
            stopping = group.create_task(self._stop(fs, session))
            await self._until_answered(session, serving)
            await self.report(State.SERVING)
            await serving
            if self._stopping.is_set():
                await stopping  # which drains; what it has under way ends with close()
            else:
                await self._drain(fs)
            for task in (listening, stopping, watching, recovering):
                task.cancel()
            fs.close()
        if self._state_dir is not None:
            with contextlib.suppress(OSError):  # bytes that could not be uploaded, or not ours
                self._state_dir.rmdir()

    def _is_root_alone(self) -> bool:
        """Whether a volume says nothing of who may write, which mostly somebody else wants to."""
        tree = self._spec.volume.tree
        others_may = tree.dir_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return self._spec.has_node and not (tree.uid or tree.gid or others_may)

    async def report(self, state: State, error: VolumeError | None = None) -> None:
        """Tell whoever watches; nobody may be there any more. After the last words nothing more."""
        if self._has_ended:
            return
        self._has_ended = state is not State.SERVING
        report = Report(mount_id=self._spec.mount_id, state=state, error=error, usage=self._usage())
        try:
            await self._channel.send("report", {"report": report.to_json()})
        except ConnectionError:
            log.debug("nobody listens to reports any more")

    async def _until_answered(self, session: Session, serving: "asyncio.Task[None]") -> None:
        answered = asyncio.create_task(session.is_answered.wait())  # noqa: TID251 - ends here
        await asyncio.wait({answered, serving}, return_when=asyncio.FIRST_COMPLETED)
        answered.cancel()

    async def _listen(self) -> None:
        handlers: dict[str, Callable[[Message], Awaitable[None]]] = {
            "stop": self._on_stop,
            "usage": self._on_usage,
            "metrics": self._on_metrics,
        }
        while (message := await self._channel.receive()) is not None:
            message.close_fds()
            handler = handlers.get(message.type)
            if handler is None:
                log.warning("message of type %r is not understood", message.type)
            else:
                await handler(message)

    async def _on_stop(self, _message: Message) -> None:
        self._stopping.set()

    async def _on_usage(self, _message: Message) -> None:
        if self._health_reporter is None:
            await self._report_serving()
        else:
            self._health_reporter.ask()

    async def _on_metrics(self, _message: Message) -> None:
        await self.tell_metrics()

    async def tell_metrics(self) -> None:
        try:
            await self._channel.send("metrics", request_counts.metrics_message(self._usage()))
        except ConnectionError:
            log.debug("nobody listens to metrics any more")

    async def _keep_told(self, store: ObjectStore) -> None:
        """Tell node how it goes, asked and unasked.

        Nothing for a mount of a command or a program: nobody reads.
        """
        if not self._spec.has_node:
            return
        self._health_reporter = HealthReporter(
            self._health,
            probe=lambda: store.list_page(self._spec.volume.bucket.prefix, max_keys=1),
            report=self._report_serving,
            clock=time.monotonic,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._health_reporter.run())
            group.create_task(self._notices.run())

    async def _report_serving(self) -> None:
        await self.report(State.SERVING, self._health.failure)

    async def _notify(self, notice: Notice) -> None:
        try:
            await self._channel.send("notice", {"notice": notice.to_json()})
        except ConnectionError:
            log.debug("nobody listens to notices any more")

    async def _stop(self, fs: FileSystem, session: Session) -> None:
        await self._stopping.wait()
        await self._drain(fs)
        fs.close()  # the session's end waits for its requests, and they for the store
        session.end()
        give_up()

    async def _drain(self, fs: FileSystem) -> None:
        """Upload open files within the grace period, and say how it ended."""
        failures: list[VolumeError] = []

        async def drain() -> None:
            failures.extend(await fs.drain())

        within_s = self._spec.volume.tree.drain_timeout_s
        try:
            await finish(drain, within_s=within_s)
        except TimeoutError:
            failures.append(
                StoreTimeoutError(
                    f"open files were not uploaded within {within_s:g} s",
                    "raise drain-timeout, or look why the store is slow",
                )
            )
        for failure in failures:
            log.error("at the end: %s", failure, extra={"op": "drain", "code": failure.code})
        if self._health_reporter is not None:
            await self._notices.all_told()  # of a last close: the pod may be gone before it failed
        await self.report(State.ENDED, last_words(failures))


async def first_answer(store: ObjectStore, volume: VolumeConfig) -> None:
    """One LIST of the mount's prefix: bucket, region, credentials and policy are right.

    Raises:
        VolumeError: what is wrong, and what to do.

    """
    try:
        async with asyncio.timeout(BUCKET_ANSWERS_WITHIN_S):
            await store.list_page(volume.bucket.prefix, max_keys=1)
    except TimeoutError as exc:
        raise StoreTimeoutError(
            f"bucket {volume.bucket.bucket} did not answer in {BUCKET_ANSWERS_WITHIN_S:.0f} s",
            "check endpoint-url, region and the network between this node and the store",
        ) from exc
