"""The mounter's first process: connected to node, it keeps each mount's descriptor and worker.

It does as little as possible, because the container lives and dies with it: it never touches a
mount, opens no path in one, speaks no S3, and never forks: workers come from the zygote, which is
exec'd before anything else. Until take-over is built a dead worker is not replaced: its mount is
reported FAILED and forgotten, node aborts it, and the next publish makes it anew.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from csi_s3.aio import blocking
from csi_s3.config.programs import MounterConfig
from csi_s3.errors import (
    BadRequestError,
    InternalError,
    MemoryLimitError,
    MounterUnavailableError,
    VolumeError,
    VolumeNotFoundError,
)
from csi_s3.link import channel as link
from csi_s3.link.report import Notice, Report, State
from csi_s3.link.spec import VERSION, MountSpec
from csi_s3.mounter.memory_shares import MemoryShares
from csi_s3.mounter.metrics.volume_totals import VolumeTotals
from csi_s3.mounter.outbox import Outbox
from csi_s3.mounter.worker_supervisor import WorkerSupervisor
from csi_s3.mounter.zygote_client import ZygoteClient
from csi_s3.obs import http_endpoint
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.metrics import exposition

log = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = 0.02, 1.0
FLUSH_WITHIN_S = 2.0
TEXT_WITHIN_S = 5.0  # 85 ms for 16 volumes: in a thread, so that nothing waits for it
DIE_WITHIN_S = 5.0  # a process that was sent SIGKILL


async def serve(config: MounterConfig) -> None:
    """Serve node until SIGTERM (or SIGINT), then until every worker has uploaded its open files.

    Raises:
        BadOptionError: the memory limit is too small, or nobody can listen at the HTTP address.
        MounterUnavailableError: the zygote died; the program must end, to be started anew.

    """
    shares = MemoryShares(config.memory_limit, config.max_volumes)
    metrics.build_info()
    metrics.MEMORY_LIMIT_BYTES.set(config.memory_limit or 0)
    zygote_client = ZygoteClient()
    keeper = Keeper(config.socket, zygote_client, shares, credentials_dir=config.credentials_dir)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    endpoint = http_endpoint.serving(
        config.http_address, live=keeper.live, ready=keeper.unready, collect=keeper.collect
    )
    try:
        with closing(zygote_client), endpoint:
            await keeper.run(stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class Keeper:
    """The mounts of this mounter and its connection to node.

    Lifetime: `run`, once; it ends the zygote. Concurrency: one task owns the connection, one each
    mount (`WorkerSupervisor.run`); what they share is changed in plain code between awaits. Reports
    go to node through the connection's outbox, so a node that does not read delays nobody.
    credentials_dir: of mounts that have none of their own.
    """

    def __init__(
        self,
        socket: Path,
        zygote_client: ZygoteClient,
        shares: MemoryShares | None = None,
        *,
        credentials_dir: Path | None = None,
    ) -> None:
        self._socket = socket
        self._credentials_dir = "" if credentials_dir is None else str(credentials_dir)
        self._zygote_client = zygote_client
        self._shares = shares or MemoryShares(None, 1)
        self._totals = VolumeTotals(time.monotonic)
        self._mounts: dict[str, WorkerSupervisor] = {}
        self._outbox: Outbox | None = None
        self._owners = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()  # replaced when it is set: a share came back
        self._draining = False

    @override
    def __repr__(self) -> str:
        where = "connected" if self._outbox else "not connected"
        return f"<Keeper {where} mounts={list(self._mounts.values())}>"

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until stop is set and every worker has ended, or until the zygote dies.

        Raises:
            MounterUnavailableError: it died. Its workers died with it and are reported so.

        """
        try:
            async with self._owners:
                zygote = self._owners.create_task(self._zygote_client.run())
                connection = self._owners.create_task(self._stay_connected(stop))
                stopped = self._owners.create_task(stop.wait())
                await asyncio.wait({zygote, stopped}, return_when=asyncio.FIRST_COMPLETED)
                died = zygote.done()
                await (self._report_lost() if died else self._drain())
                for task in (zygote, connection, stopped):
                    task.cancel()
        finally:
            how = self._zygote_client.close()
        if died:
            raise MounterUnavailableError(
                f"the process that starts workers died: {how}",
                "the mounter ends with it and must be started again; its volumes are mounted anew "
                "at their next publish",
            )

    # --- for the HTTP endpoint --------------------------------------------------------------------

    async def live(self) -> None:
        """Only that this is called says something."""

    def unready(self) -> str | None:
        """Why no volume could be mounted now."""
        if self._draining or not self._zygote_client.is_alive:
            return "the mounter is ending"
        return None if self._outbox else f"not connected to node at {self._socket}"

    async def collect(self) -> bytes:
        """The text of /metrics: this mounter's numbers and those of all its workers."""
        metrics.NODE_CONNECTED.set(self._outbox is not None)
        found = await self._totals.collect()
        return await blocking(partial(exposition.text, found), within_s=TEXT_WITHIN_S)

    # --- the end ----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._draining = True
        log.info("ending; mounts served: %s", len(self._mounts))
        for supervisor in self._mounts.values():
            supervisor.stop()
        while self._running:
            await asyncio.wait(self._running)
        await self._flush()

    async def _report_lost(self) -> None:
        """Report the mounts whose workers the zygote takes with it; give up on those left."""
        self._draining = True
        log.error("the zygote died; mounts lost: %s", len(self._mounts))
        if self._running:
            _, remaining = await asyncio.wait(self._running, timeout=DIE_WITHIN_S)
            for task in remaining:
                task.cancel()
        await self._flush()

    async def _flush(self) -> None:
        if self._outbox is not None:
            await self._outbox.flush(within_s=FLUSH_WITHIN_S)

    # --- the connection to node -------------------------------------------------------------------

    def _is_cut_off(self) -> bool:
        """Whether the directory that our container has mounted is removed: node has another."""
        try:
            return self._socket.parent.stat().st_nlink == 0
        except OSError:
            return False

    async def _stay_connected(self, stop: asyncio.Event) -> None:
        said, retry_s = "", FIRST_RETRY_S
        clock = asyncio.get_running_loop().time
        while True:
            since = clock()
            try:
                channel = link.connect(self._socket)
            except OSError as exc:
                level = logging.WARNING if isinstance(exc, PermissionError) else logging.INFO
                reason = f"cannot reach node at {self._socket}: {exc.strerror}"
            else:
                level, reason = logging.INFO, await self._converse(channel)
            if clock() - since > LAST_RETRY_S:  # it lasted: whatever ended it is news
                said, retry_s = "", FIRST_RETRY_S
            if not self._mounts and self._is_cut_off():
                log.info("node has removed the socket's directory; ending, to be given the new one")
                stop.set()
                return
            if reason != said:
                log.log(level, "%s; trying again; mounts served: %s", reason, len(self._mounts))
                said = reason
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def _converse(self, channel: link.Channel) -> str:
        """Talk with node until the connection ends. Returns why it did."""
        try:
            with Outbox(channel) as outbox:
                outbox.put("hello", {"version": VERSION, "pid": os.getpid()})
                for supervisor in self._mounts.values():
                    body, fd = supervisor.have()
                    outbox.put("have", body, fd)
                outbox.put("ready", {})
                self._outbox = outbox  # from here on reports are newer than what `have` said
                async with asyncio.TaskGroup() as tasks:
                    sending = tasks.create_task(outbox.run())
                    reason = await self._listen(channel)
                    sending.cancel()
                return reason
        finally:
            self._outbox = None
            channel.close()

    async def _listen(self, channel: link.Channel) -> str:
        try:
            while (message := await channel.receive()) is not None:
                try:
                    await self._obey(message)
                finally:
                    message.close_fds()
        except ConnectionError as exc:
            return f"the connection to node broke: {exc}"
        return "node ended the connection"

    async def _obey(self, message: link.Message) -> None:
        if message.type == "serve":
            self._serve(message)
            return
        mount_id = str(message.body.get("mount_id"))
        supervisor = self._mounts.get(mount_id)
        if message.type == "stop":
            if supervisor is None:
                self._tell(Report(mount_id=mount_id, state=State.ENDED))
            else:
                supervisor.stop()
        elif message.type == "usage":
            if supervisor is None:
                self._deny(mount_id, VolumeNotFoundError(f"mount {mount_id} is not served here"))
            else:
                await supervisor.ask_usage()
        else:
            log.info("node said %r, which this version does not know", message.type)

    def _tell(self, report: Report) -> None:
        if self._outbox is not None:  # else `have` tells it, or its absence
            self._outbox.put("report", {"report": report.to_json()})

    def _notify(self, notice: Notice) -> None:
        if self._outbox is not None:  # else nobody could make an Event of it; the log has it
            self._outbox.put("notice", {"notice": notice.to_json()})

    def _deny(self, mount_id: str, error: VolumeError) -> None:
        self._tell(Report(mount_id=mount_id, state=State.FAILED, error=error))

    # --- mounts -----------------------------------------------------------------------------------

    def _serve(self, message: link.Message) -> None:
        spec: Mapping[str, Any] = message.body.get("spec") or {}
        mount_id = str(spec.get("mount_id"))
        if self._draining:
            self._refuse(spec, MounterUnavailableError("the mounter is ending"))
            return
        predecessor = self._mounts.get(mount_id)
        fd = message.take_fd()
        try:
            supervisor = WorkerSupervisor(
                spec,
                message.body["init"],
                fd,
                tell=self._tell,
                notify=self._notify,
                allot=self._allot,
                predecessor=predecessor,
            )
        except (KeyError, TypeError, ValueError) as exc:
            os.close(fd)
            what = f"node described mount {mount_id} in a way this mounter cannot read: {exc!r}"
            self._refuse(spec, BadRequestError(what, "node and mounter differ in version"))
            return
        if predecessor is not None:
            predecessor.supersede()
        self._mounts[mount_id] = supervisor
        self._totals.opened(supervisor.meter)
        owner = self._owners.create_task(self._own(supervisor))
        self._running.add(owner)
        owner.add_done_callback(self._running.discard)

    async def _own(self, supervisor: WorkerSupervisor) -> None:
        try:
            await supervisor.run(self._zygote_client)
        except Exception:  # a bug in one mount's task must not end the others
            log.exception("bug while serving %r", supervisor)
            supervisor.fail(InternalError(f"volume {supervisor.volume_handle!r}: internal error"))
        finally:
            self._totals.closed(supervisor.meter)
            if self._mounts.get(supervisor.mount_id) is supervisor:
                del self._mounts[supervisor.mount_id]
                self._shares.release(supervisor.mount_id)
            self._freed.set()
            self._freed = asyncio.Event()

    def _refuse(self, spec: Mapping[str, Any], error: VolumeError) -> None:
        """Refuse a mount that never becomes a `WorkerSupervisor`, which counts its own failures."""
        metrics.MOUNT_FAILURES.inc(volume=str(spec.get("volume_handle", "")), code=error.code)
        self._deny(str(spec.get("mount_id")), error)

    async def _allot(self, spec: MountSpec) -> MountSpec:
        """Give a mount its share; where none is left, wait for those of mounts that are ending.

        Node unmounts a volume before its worker has uploaded what is open and has ended, and
        kubelet may publish the next one in between. A mount in use is not waited for.

        Raises:
            MemoryLimitError: there is not enough left, and nothing is about to come back.

        """
        while True:
            freed = self._freed
            try:
                volume = self._shares.allot(spec.mount_id, spec.volume_handle, spec.volume)
            except MemoryLimitError:
                others = (s for s in self._mounts.values() if s.mount_id != spec.mount_id)
                if not any(supervisor.is_ending for supervisor in others):
                    raise
            else:
                credentials_dir = spec.credentials_dir or self._credentials_dir
                return replace(spec, volume=volume, credentials_dir=credentials_dir)
            fields = {"volume": spec.volume_handle, "mount": spec.mount_id}
            log.info("waiting for the memory of a mount that is ending", extra=fields)
            await freed.wait()
