"""The mounter's first process: connected to node, it holds each mount's descriptor.

It does as little as possible, because the container ends with it: it opens no path in a mount, does
not speak S3, and never forks. Workers come from the zygote, which is exec'd before anything else. A
dead worker is not replaced: its mount is reported FAILED and closed, node aborts the connection,
and the next publish makes a new mount.
"""

import asyncio
import logging
import os
import signal
import time
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from csi_s3.aio import blocking
from csi_s3.config.programs import MounterConfig
from csi_s3.config.volume import SpoolRules
from csi_s3.errors import (
    BadRequestError,
    InternalError,
    MemoryLimitError,
    MounterUnavailableError,
    VolumeError,
    VolumeNotFoundError,
    shortened,
)
from csi_s3.kernel.process_limits import hide_memory
from csi_s3.link import channel as link
from csi_s3.link import messages
from csi_s3.link.json_values import is_mount_id
from csi_s3.link.report import Notice, Report, State
from csi_s3.link.spec import VERSION, MountSpec
from csi_s3.mounter.fuse_mount import FuseMount
from csi_s3.mounter.memory_shares import MemoryShares
from csi_s3.mounter.metrics.volume_totals import VolumeTotals
from csi_s3.mounter.mounter_deadlines import MounterDeadlines
from csi_s3.mounter.outbox import Outbox
from csi_s3.mounter.spool_shares import SpoolShares
from csi_s3.mounter.zygote_client import COMMAND, ZygoteClient
from csi_s3.obs import http_endpoint
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.metrics import exposition

log = logging.getLogger(__name__)

MAX_HANDLE_BYTES = 200  # of a volume whose mount cannot be read
FIRST_PAUSE_S, LAST_PAUSE_S = 0.02, 1.0  # between attempts to connect to node


async def serve(config: MounterConfig) -> None:
    """Serve node until SIGTERM (or SIGINT), then until every worker has uploaded its open files.

    Raises:
        BadOptionError: the memory limit is too small, or the HTTP address cannot be used.
        MounterUnavailableError: the zygote died; the program must be started again.

    """
    shares = MemoryShares(config.memory_limit, config.max_volumes)
    rules = SpoolRules(
        free_percent=config.spool_free_percent, kept_s=config.leftover_days * 24 * 3600.0
    )
    spools = SpoolShares(config.spool_limit, config.max_volumes, rules)
    metrics.build_info()
    metrics.MEMORY_LIMIT_BYTES.set(config.memory_limit or 0)
    hide_memory()
    zygote_client = ZygoteClient([*COMMAND, "--store-rules", config.store_rules.to_text()])
    keeper = Keeper(
        config.socket,
        zygote_client,
        shares,
        spools=spools,
        credentials_dir=config.credentials_dir,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, keeper.log_requests)
    endpoint = http_endpoint.serving(config.http_address, keeper.unready, keeper.collect)
    try:
        with closing(zygote_client), endpoint:
            await keeper.run(stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            loop.remove_signal_handler(number)


class Keeper:
    """The mounts of this mounter and its connection to node.

    Lifetime: `run`, once; it ends the zygote. Concurrency: one task owns the connection, and one
    each mount (`_own`); what they share is changed in plain code between awaits. Messages go to
    node through the connection's outbox, so a node that does not read delays nothing.
    credentials_dir: for mounts that have none of their own.
    """

    def __init__(
        self,
        socket: Path,
        zygote_client: ZygoteClient,
        shares: MemoryShares | None = None,
        deadlines: MounterDeadlines | None = None,
        *,
        spools: SpoolShares | None = None,
        credentials_dir: Path | None = None,
    ) -> None:
        self._socket = socket
        self._credentials_dir = "" if credentials_dir is None else str(credentials_dir)
        self._zygote_client = zygote_client
        self._shares = shares or MemoryShares(None, 1)
        self._spools = spools or SpoolShares(None, 1)
        self._deadlines = deadlines or MounterDeadlines()
        self._totals = VolumeTotals(time.monotonic, answer_within_s=self._deadlines.metrics_s)
        self._mounts: dict[str, FuseMount] = {}
        self._outbox: Outbox | None = None
        self._tasks = asyncio.TaskGroup()
        self._owners: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()  # a mount was stopped or closed; replaced when it is set
        self._is_draining = False

    @override
    def __repr__(self) -> str:
        connection = "connected" if self._outbox else "not connected"
        return f"<Keeper {connection} mounts={list(self._mounts.values())}>"

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until stop is set and every worker has ended, or until the zygote dies.

        Raises:
            MounterUnavailableError: it died. Its workers died with it; their mounts are reported.

        """
        try:
            async with self._tasks:
                zygote = self._tasks.create_task(self._zygote_client.run())
                connection = self._tasks.create_task(self._stay_connected(stop))
                stopped = self._tasks.create_task(stop.wait())
                await asyncio.wait({zygote, stopped}, return_when=asyncio.FIRST_COMPLETED)
                is_zygote_dead = zygote.done()
                await (self._report_lost() if is_zygote_dead else self._drain())
                for task in (zygote, connection, stopped):
                    task.cancel()
        finally:
            cause = self._zygote_client.close()
        if is_zygote_dead:
            raise MounterUnavailableError(
                f"the process that starts workers died: {cause}",
                "the mounter ends with it and must be started again; its volumes are mounted again "
                "at their next publish",
            )

    # --- for the HTTP endpoint --------------------------------------------------------------------

    def unready(self) -> str | None:
        if self._is_draining or not self._zygote_client.is_alive:
            return "the mounter is ending"
        return None if self._outbox else f"not connected to node at {self._socket}"

    async def collect(self) -> bytes:
        """The text of /metrics: this mounter's numbers and those of all its workers."""
        metrics.NODE_CONNECTED.set(self._outbox is not None)
        waiting = 0 if self._outbox is None else self._outbox.waiting
        metrics.MOUNTER_RECORDS.set(waiting, kind="messages")
        samples = await self._totals.collect()
        text = partial(exposition.text, samples)
        return await blocking(text, within_s=self._deadlines.exposition_s)

    def log_requests(self) -> None:
        """Have all workers log the requests of programs that wait for an answer; at SIGUSR1."""
        for fuse_mount in self._mounts.values():
            self._tasks.create_task(fuse_mount.worker.log_requests())

    # --- the end ----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._is_draining = True
        log.info("ending; mounts served: %s", len(self._mounts))
        for fuse_mount in self._mounts.values():
            self._stop(fuse_mount)
        while self._owners:
            await asyncio.wait(self._owners)
        await self._flush()

    async def _report_lost(self) -> None:
        """Report the mounts whose workers ended with the zygote; give up on those left."""
        self._is_draining = True
        log.error("the zygote died; mounts lost: %s", len(self._mounts))
        if self._owners:
            _, remaining = await asyncio.wait(self._owners, timeout=self._deadlines.exit_s)
            for task in remaining:
                task.cancel()
        await self._flush()

    async def _flush(self) -> None:
        if self._outbox is not None:
            await self._outbox.flush(within_s=self._deadlines.flush_s)

    # --- the connection to node -------------------------------------------------------------------

    async def _stay_connected(self, stop: asyncio.Event) -> None:
        """Connect to node again and again; a reason that repeats is logged once."""
        logged_reason, pause_s = "", FIRST_PAUSE_S
        clock = asyncio.get_running_loop().time
        while True:
            began_s = clock()
            try:
                channel = link.connect(self._socket)
            except OSError as exc:
                level = logging.WARNING if isinstance(exc, PermissionError) else logging.INFO
                reason = f"cannot reach node at {self._socket}: {exc.strerror}"
            else:
                level, reason = logging.INFO, await self._converse(channel)
            if clock() - began_s > LAST_PAUSE_S:  # the connection had lasted
                logged_reason, pause_s = "", FIRST_PAUSE_S
            if not self._mounts and self._is_socket_directory_removed():
                log.info("node has removed the socket's directory; ending, to be given the new one")
                stop.set()
                return
            if reason != logged_reason:
                log.log(level, "%s; trying again; mounts served: %s", reason, len(self._mounts))
                logged_reason = reason
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    def _is_socket_directory_removed(self) -> bool:
        """Whether the directory that this container has mounted was deleted and made again."""
        try:
            return self._socket.parent.stat().st_nlink == 0
        except OSError:
            return False

    async def _converse(self, channel: link.Channel) -> str:
        """Talk with node until the connection ends. Returns why it did."""
        try:
            with closing(Outbox(channel)) as outbox:
                outbox.put("hello", {"version": VERSION, "pid": os.getpid()})
                for fuse_mount in self._mounts.values():
                    body, fd = fuse_mount.have()
                    outbox.put("have", body, fd)
                outbox.put("ready", {})
                self._outbox = outbox  # from here on reports are newer than those in `have`
                async with asyncio.TaskGroup() as tasks:
                    sending = tasks.create_task(outbox.run())
                    reason = await self._receive(channel)
                    sending.cancel()
                return reason
        finally:
            self._outbox = None
            channel.close()

    async def _receive(self, channel: link.Channel) -> str:
        try:
            while (message := await channel.receive()) is not None:
                try:
                    await self._obey(message)
                finally:
                    message.close_fds()
        except ConnectionError as exc:
            return f"the connection to node broke: {exc}"
        except Exception:  # what one message causes must not end all volumes
            log.exception("internal error at a message of node", extra={"code": "internal"})
            return "the connection was ended after an internal error"
        return "node ended the connection"

    async def _obey(self, message: link.Message) -> None:
        if message.type == "serve":
            self._serve(message)
            return
        body = messages.read(message, messages.FROM_NODE)
        if not isinstance(body, messages.MountRequest):
            log.info("node sent %r, which this version does not know", message.type)
            return
        mount_id = body.mount_id
        fuse_mount = self._mounts.get(mount_id)
        if message.type == "stop":
            if fuse_mount is None:
                self._answer(Report(mount_id=mount_id, state=State.ENDED))
            else:
                self._stop(fuse_mount)
        elif fuse_mount is None:
            error = VolumeNotFoundError(f"mount {mount_id} is not served here")
            self._answer(Report(mount_id=mount_id, state=State.FAILED, error=error))
        else:
            await fuse_mount.worker.request_usage()

    def _send(self, message: Report | Notice) -> None:
        """Without a connection nothing is sent: `have` will tell, and the log has the notice."""
        if self._outbox is None:
            return
        if isinstance(message, Report):
            self._outbox.put("report", {"report": message.to_json()}, subject=message.mount_id)
        else:
            self._outbox.put("notice", {"notice": message.to_json()}, sender=message.mount_id)

    def _answer(self, report: Report) -> None:
        """Send a report of a mount that is not here; one that tells why may still wait."""
        if self._outbox is not None:
            subject = f"not here: {report.mount_id}"
            self._outbox.put("report", {"report": report.to_json()}, subject=subject)

    # --- mounts -----------------------------------------------------------------------------------

    def _serve(self, message: link.Message) -> None:
        try:
            body = messages.read(message, messages.FROM_NODE)
        except ConnectionError as exc:
            if not message.fds:
                raise
            what = f"node described a mount in a way this mounter cannot read: {exc}"
            self._refuse(
                message.body.get("spec"),
                BadRequestError(what, "node and mounter differ in version"),
            )
            return
        assert isinstance(body, messages.ServeBody)  # noqa: S101 - as the table has it
        spec, mount_id = body.spec, body.spec.mount_id
        if self._is_draining:
            self._refuse(spec.to_json(), MounterUnavailableError("the mounter is ending"))
            return
        fd = message.take_fd()
        fuse_mount = FuseMount(body, fd, self._zygote_client, self._send, self._deadlines)
        predecessor = self._mounts.get(mount_id)
        if predecessor is not None:
            predecessor.replace()
            self._wake()
        self._mounts[mount_id] = fuse_mount
        self._totals.opened(fuse_mount.worker.metrics)
        owner = self._tasks.create_task(self._own(fuse_mount, predecessor))
        self._owners.add(owner)
        owner.add_done_callback(self._owners.discard)

    async def _own(self, fuse_mount: FuseMount, predecessor: FuseMount | None) -> None:
        """One mount from `serve` to its end: its share of memory, its worker, its descriptor."""
        spec = fuse_mount.spec
        try:
            if predecessor is not None:  # two workers never serve one mount id
                await predecessor.wait_closed()
            memory_bytes = await self._allot(fuse_mount)
            if memory_bytes is None:
                fuse_mount.end()
            else:
                await fuse_mount.serve(memory_bytes, self._allot_spool(spec), self._credentials_dir)
        except MemoryLimitError as exc:
            log.log(exc.level, "%s", exc, extra={**spec.log_fields, "code": exc.code})
            fuse_mount.fail(exc)
        except Exception:  # a bug in one mount's task must not end the others
            log.exception("bug while serving %r", fuse_mount)
            fuse_mount.fail(InternalError(f"volume {spec.volume_handle!r}: internal error"))
        finally:
            fuse_mount.close()
            self._totals.closed(fuse_mount.worker.metrics)
            if self._mounts.get(spec.mount_id) is fuse_mount:
                del self._mounts[spec.mount_id]
                self._shares.release(spec.mount_id)
                self._spools.release(spec.mount_id)
            self._wake()

    def _stop(self, fuse_mount: FuseMount) -> None:
        fuse_mount.stop()
        self._wake()

    def _wake(self) -> None:
        """Let mounts that wait for memory look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _refuse(self, spec: object, error: VolumeError) -> None:
        """Refuse a mount that never becomes a `FuseMount`, which counts its own failures.

        spec: node's, as plain data. Without an id there is no mount to answer for.
        """
        found = spec if isinstance(spec, dict) else {}
        volume = shortened(str(found.get("volume_handle", "")), MAX_HANDLE_BYTES)
        metrics.MOUNT_FAILURES.inc(volume=volume, code=error.code)
        self._totals.refused(volume)
        mount_id = str(found.get("mount_id"))
        if is_mount_id(mount_id):
            self._send(Report(mount_id=mount_id, state=State.FAILED, error=error))
        else:
            log.error("%s", error, extra={"volume": volume, "code": error.code})

    def _allot_spool(self, spec: MountSpec) -> dict[str, Any]:
        """What a worker's `serve` says of its spool."""
        asked = spec.volume.tree.spool_bytes
        given = self._spools.allot(spec.mount_id, spec.volume_handle, spec.state_dir, asked)
        return {"spool_bytes": given, "spool_rules": asdict(self._spools.rules)}

    async def _allot(self, fuse_mount: FuseMount) -> int | None:
        """Wait for a mount's share of memory; None if it is stopped before it has one.

        Node unmounts a volume before its worker has uploaded what is open and has ended, and
        kubelet may publish the next one in between. So the share of a mount that is ending is
        waited for, and that of a mount in use is not.

        Raises:
            MemoryLimitError: there is not enough left, and no mount is ending.

        """
        spec, is_logged = fuse_mount.spec, False
        while not fuse_mount.is_stopping:
            changed = self._changed
            try:
                asked = spec.volume.tree.memory_bytes
                return self._shares.allot(spec.mount_id, spec.volume_handle, asked)
            except MemoryLimitError:
                others = (m for m in self._mounts.values() if m is not fuse_mount)
                if not any(other.is_ending for other in others):
                    raise
            if not is_logged:
                log.info("waiting for the memory of a mount that is ending", extra=spec.log_fields)
                is_logged = True
            await changed.wait()
        return None
