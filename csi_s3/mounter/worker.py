"""One process per mount: pyfuse3, the file system, the S3 client. Started by fork (zygote) or exec.

It gets everything over its channel: what to serve, the kernel's INIT request and the FUSE
descriptor. It does not end with the channel: a keeper may be replaced, and the mount command exits
once the mount is served. It ends when the mount is unmounted everywhere, or on `stop` or SIGTERM.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from csi_s3.aio import blocking, finish
from csi_s3.config import environment
from csi_s3.config.store_rules import StoreRules
from csi_s3.config.volume import SpoolRules, VolumeConfig
from csi_s3.errors import InternalError, MountError, StoreTimeoutError, VolumeError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.few_lines import FewLines
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fs.write.spool import Spool
from csi_s3.fuse import boundary
from csi_s3.fuse.bridge import Bridge
from csi_s3.fuse.interrupts import give_up
from csi_s3.fuse.session import Session
from csi_s3.kernel.process_limits import raise_descriptor_limit
from csi_s3.kernel.process_memory import Heap, memory_of
from csi_s3.link import messages
from csi_s3.link.channel import Channel, MessageTooLargeError
from csi_s3.link.report import Notice, Report, State, Usage
from csi_s3.link.spec import MountSpec
from csi_s3.mounter.bucket_health import BucketHealth, HealthReporter
from csi_s3.mounter.confinement import confine, limit_memory
from csi_s3.mounter.memory_shares import cost_of, fitted_to
from csi_s3.mounter.memory_upkeep import MemoryUpkeep
from csi_s3.mounter.metrics import request_counts
from csi_s3.mounter.notices import Notices, final_error
from csi_s3.obs import logs
from csi_s3.obs.slow_steps import SlowSteps
from csi_s3.s3.bucket import open_bucket
from csi_s3.s3.reach import reach_of
from csi_s3.s3.store import ObjectStore

log = logging.getLogger(__name__)

BUCKET_WITHIN_S = 90.0
MEMORY_WITHIN_S = 1.0


def run_worker(sock: socket.socket, *, rules: StoreRules | None = None) -> int:
    """Serve one mount and return the exit code: 0 after an orderly end, 1 if it never served.

    rules: what the volume may name as its store; None: anything, on the user's own machine.
    To be called in a process of its own, without an event loop and with one thread.
    """
    raise_descriptor_limit()
    return uvloop.run(_run(Channel(sock), rules))


async def _run(channel: Channel, rules: StoreRules | None) -> int:
    message = await channel.receive()
    body = None if message is None else messages.read(message, messages.FROM_KEEPER)
    if message is None or not isinstance(body, messages.ServeBody):
        return 1
    spec = body.spec
    logs.bind(spec.log_fields)
    if body.memory_bytes is not None:
        spec = replace(spec, volume=fitted_to(spec.volume, body.memory_bytes))
    if body.spool_bytes is not None:
        tree = replace(spec.volume.tree, spool_bytes=body.spool_bytes)
        spec = replace(spec, volume=replace(spec.volume, tree=tree))
    environment.add(body.secrets)
    worker = Worker(channel, spec, body.credentials_dir, body.spool_rules, rules=rules)
    try:
        if spec.has_node:
            worker.confine()
        await worker.serve(message.take_fd(), bytes.fromhex(body.init))
    except (Exception, BaseExceptionGroup) as exc:
        error = _cause(exc)
        log.error(  # noqa: TRY400 - the traceback only for a bug
            "%s",
            error,
            extra={"code": error.code},
            exc_info=exc if isinstance(error, InternalError) else None,
        )
        await worker.send_metrics()
        await worker.report(State.FAILED, error)
        return 1
    await worker.send_metrics()  # the keeper keeps the totals of ended workers
    return 0


def _cause(exc: BaseException) -> VolumeError:
    """The first exception of a group; one that is not a VolumeError is a bug."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, VolumeError):
        return exc
    return InternalError(f"bug in the worker: {type(exc).__name__}", "see its log")


class Worker:
    """Lifetime: the process. Concurrency: one task group, which ends with the session."""

    def __init__(
        self,
        channel: Channel,
        spec: MountSpec,
        credentials_dir: str = "",
        spool_rules: SpoolRules = SpoolRules(),  # noqa: B008 - frozen
        *,
        rules: StoreRules | None = None,
    ) -> None:
        """credentials_dir: for a spec without one. rules: as of `run_worker`."""
        self._channel, self._spec = channel, spec
        directory = spec.credentials_dir or credentials_dir
        self._credentials_dir = Path(directory) if directory else None
        self._rules = rules
        self._state_dir = Path(spec.state_dir) if spec.state_dir else None
        self._spool_rules = spool_rules
        self._usage: Callable[[], Usage] = Usage
        self._spool: Spool | None = None
        self._stopping = asyncio.Event()
        self._has_ended = False
        self._slow_steps: SlowSteps | None = None
        self._health = BucketHealth(spec.volume.bucket.prefix, time.monotonic)
        self._notices = Notices(spec.mount_id, self._notify, clock=time.monotonic)
        self._health_reporter: HealthReporter | None = None

    def confine(self) -> None:
        """Leave this process what this volume needs; before any thread is started.

        Raises:
            VolumeError: as `open_bucket`, or the kernel refuses.

        """
        volume = self._spec.volume
        reach = reach_of(volume.bucket, self._credentials_dir)
        try:
            confine(reach, self._state_dir)
        except OSError as exc:
            raise MountError(
                f"the volume's process cannot confine itself: {exc}",
                "give node plugin and mounter the same version; else see the node's kernel log",
            ) from exc
        if volume.tree.memory_bytes is not None:
            limit_memory(cost_of(volume.tree.memory_bytes))

    async def serve(self, fuse_fd: int, init_request: bytes) -> None:
        """Serve until the mount is gone or `stop` arrives; then upload open files.

        The order is:
        1. the channel is read, so that `usage` and `metrics` are answered from now on;
        2. the bucket answers one LIST;
        3. recovery begins, and takes its locks before the kernel's first request;
        4. the session answers INIT, and SERVING is reported;
        5. the session ends: by itself when the mount is gone, or by `_stop` after the upload;
        6. open files are uploaded if `_stop` has not done it, and ENDED is reported.

        Raises:
            BadOptionError: CSI_S3_SLOW_STEP_MS is not a number.
            ExceptionGroup of VolumeError: the bucket did not answer, or the kernel refused INIT.

        """
        volume = self._spec.volume
        owner_and_root = volume.allow_root and not volume.allow_other  # never on CSI volumes
        session = Session(fuse_fd, init_request, only_owner_and_root=owner_and_root)
        loop = asyncio.get_running_loop()
        if (limit_ms := environment.slow_step_ms()) is not None:
            self._slow_steps = SlowSteps(limit_ms / 1000)
            self._slow_steps.watch(loop)
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGUSR1, session.log_requests)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # a terminal's, meant for the parent
        bucket = open_bucket(
            volume.bucket,
            observe=request_counts.count_request,
            watch=self._health.watch,
            credentials_dir=self._credentials_dir,
            rules=self._rules,
        )
        async with bucket as store, asyncio.TaskGroup() as group:
            background = [group.create_task(self._receive(session))]
            await check_bucket(store, volume)
            fs = FileSystem(
                MountContext.create(store, volume.tree, group),
                prefix=volume.bucket.prefix,
                kernel=session,
                state_dir=None if volume.read_only else self._state_dir,  # leftovers stay there
                spool_rules=self._spool_rules,
            )
            self._spool = fs.spool
            self._usage = lambda: Usage(
                **asdict(fs.usage()), requests_in_flight=session.requests_in_flight
            )
            background.append(group.create_task(MemoryUpkeep(Heap(), fs).run()))
            background.append(group.create_task(self._report_changes(store)))
            background.append(group.create_task(fs.recover()))
            serving = group.create_task(session.serve(self._bridge(fs), key_of=fs.key_of))
            stopping = group.create_task(self._stop(fs, session))
            await self._until_answered(session, serving)
            await self.report(State.SERVING)
            await serving
            if self._stopping.is_set():
                await stopping
            else:
                stopping.cancel()
                await self._drain(fs)
            for task in background:
                task.cancel()
            await fs.close()
        if self._state_dir is not None:
            with contextlib.suppress(OSError):  # not empty: bytes that could not be uploaded
                self._state_dir.rmdir()

    def _bridge(self, fs: FileSystem) -> Bridge:
        boundary.error_listener.set(self._notices.take)
        tree = self._spec.volume.tree
        others_may_write = tree.dir_mode & (stat.S_IWGRP | stat.S_IWOTH)
        is_root_s = self._spec.has_node and not (tree.uid or tree.gid or others_may_write)
        bridge = Bridge(
            fs,
            negative_ttl_s=tree.negative_metadata_ttl_s,
            on_other_user=self._notices.take_other_user if is_root_s else None,
        )
        if self._slow_steps is not None:
            self._slow_steps.watch_methods(bridge)
        return bridge

    async def report(self, state: State, error: VolumeError | None = None) -> None:
        """Report to the channel's other end, if it is still there; nothing after the last state."""
        if self._has_ended:
            return
        self._has_ended = state is not State.SERVING
        report = Report(mount_id=self._spec.mount_id, state=state, error=error, usage=self._usage())
        await self._send("report", {"report": report.to_json()})

    async def send_metrics(self) -> None:
        if self._spool is not None:
            request_counts.count_spool(self._spool, now_s=time.time())  # noqa: TID251 - of files
        memory = None
        with contextlib.suppress(TimeoutError, MemoryError):  # the last numbers stay
            memory = await blocking(partial(memory_of, os.getpid()), within_s=MEMORY_WITHIN_S)
        await self._send("metrics", request_counts.metrics_message(self._usage(), memory))

    async def _send(self, type_: str, body: dict[str, Any]) -> None:
        try:
            await self._channel.send(type_, body)
        except ConnectionError:
            log.debug("%s not sent: the channel is closed", type_)
        except MessageTooLargeError as exc:  # the mount is more than its numbers
            log.error("not sent: %s", exc)  # noqa: TRY400

    async def _until_answered(self, session: Session, serving: "asyncio.Task[None]") -> None:
        answered = asyncio.create_task(session.is_answered.wait())  # noqa: TID251 - ends here
        await asyncio.wait({answered, serving}, return_when=asyncio.FIRST_COMPLETED)
        answered.cancel()

    async def _receive(self, session: Session) -> None:
        while (message := await self._channel.receive()) is not None:
            message.close_fds()
            if message.type == "stop":
                self._stopping.set()
            elif message.type == "metrics":
                await self.send_metrics()
            elif message.type == "requests":
                session.log_requests()
            elif message.type != "usage":
                log.warning("message of type %r is not understood", message.type)
            elif self._health_reporter is None:
                await self._report_serving()
            else:
                self._health_reporter.ask()

    async def _report_changes(self, store: ObjectStore) -> None:
        """Report the bucket's health and send notices, where there is a node that reads them."""
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
        await self._send("notice", {"notice": notice.to_json()})

    async def _stop(self, fs: FileSystem, session: Session) -> None:
        await self._stopping.wait()
        await self._drain(fs)
        await fs.close()  # the session's end waits for its requests, and they for the store
        session.end()
        give_up()

    async def _drain(self, fs: FileSystem) -> None:
        """Upload open files within the drain timeout, keep the others, and report ENDED."""
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
                    "raise drain-timeout, or find out why the store is slow",
                )
            )
        await fs.keep()
        lines = FewLines(log, logging.ERROR)
        for failure in failures:
            lines.log("at the end: %s", failure, op="drain", code=failure.code)
        lines.end("at the end: %d more files could not be uploaded")
        if self._health_reporter is not None:
            await self._notices.flush()  # of a last close: the pod may end before it failed
        await self.report(State.ENDED, final_error(failures))


async def check_bucket(store: ObjectStore, volume: VolumeConfig) -> None:
    """Send one LIST of the mount's prefix: it proves bucket, region, credentials and policy.

    Raises:
        VolumeError: what is wrong, and what to do.

    """
    try:
        async with asyncio.timeout(BUCKET_WITHIN_S):
            await store.list_page(volume.bucket.prefix, max_keys=1)
    except TimeoutError as exc:
        raise StoreTimeoutError(
            f"bucket {volume.bucket.bucket} did not answer in {BUCKET_WITHIN_S:.0f} s",
            "check endpoint-url, region and the network between this node and the store",
        ) from exc
