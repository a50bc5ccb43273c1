"""One mount without Kubernetes: the FUSE mount, its worker process, and the messages to it.

The worker is started by exec, so the caller is never forked. The calling process uses the messages
of `link.channel`, as the keeper does. Rejected: serving the mount in a thread of the caller, whose
GIL, signals and crashes would affect the mount.
"""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import uuid4

from csi_s3.config.environment import state_home
from csi_s3.config.mount_command import MountCommand
from csi_s3.errors import StoreTimeoutError, VolumeError, WorkerDiedError
from csi_s3.kernel import mount, tuning
from csi_s3.link import messages
from csi_s3.link.channel import Channel
from csi_s3.link.report import Report, State
from csi_s3.link.spec import MountSpec
from csi_s3.local.mount_point import claim
from csi_s3.local.user_mount import OpenMount, open_mount, unmount

INIT_WITHIN_S = 10.0
SERVING_WITHIN_S = 100.0  # the worker gives up on its bucket earlier, with a better message
EXIT_WITHIN_S = 10.0  # for a worker that has reported its end

T = TypeVar("T")


class MountSession:
    """A mount and its worker, from `start` to `stop` or until the worker ends by itself.

    Concurrency: one caller at a time, from any thread, with or without a running event loop.
    """

    def __init__(
        self,
        spec: MountSpec,
        channel: Channel,
        process: subprocess.Popen[bytes],
        fuse: OpenMount,
    ) -> None:
        self.directory = fuse.directory
        self._spec, self._channel, self._process, self._fuse = spec, channel, process, fuse

    @classmethod
    def start(cls, command: MountCommand, *, log: int) -> Self:
        """Mount, and return when the worker serves and the bucket has answered.

        log: the descriptor that becomes the worker's stderr. The worker outlives the caller: it
        ends after `stop`, umount, or SIGTERM.

        Raises:
            VolumeError: it could not be mounted. No mount and no process is left.

        """
        volume = command.config
        name = f"s3://{volume.bucket.bucket}/{volume.bucket.prefix}"
        spec = MountSpec(
            mount_id=uuid4().hex,
            volume_handle=name,
            volume=volume,
            state_dir=str(_state_dir(name, command.directory)),
            has_node=False,
        )
        with (
            claim(Path(command.directory)) as directory,
            open_mount(command, directory, name) as fuse,
            ExitStack() as undo,
        ):
            init = mount.read_init(fuse.fd, INIT_WITHIN_S)
            channel, worker_end = Channel.pair()
            undo.callback(channel.close)
            with worker_end:
                process = _exec_worker(fuse, worker_end.fileno(), log, debug=command.debug)
            undo.callback(_kill, process)
            session = cls(spec, channel, process, fuse)
            _run(lambda: session._serve(init, fuse.fd))
            undo.pop_all()
        if os.geteuid() == 0:
            tuning.set_read_ahead(fuse.device)
        return session

    async def _serve(self, init: bytes, fd: int) -> None:
        body = {"spec": self._spec.to_json(), "init": init.hex()}
        try:
            async with asyncio.timeout(SERVING_WITHIN_S):
                await self._channel.send("serve", body, [fd])
                report = await self._report()
        except TimeoutError as exc:
            self.kill()
            raise StoreTimeoutError(
                f"{self._spec.volume_handle} did not answer within {SERVING_WITHIN_S:.0f} s",
                hint="check endpoint, region and network; --foreground --debug shows more",
            ) from exc
        except ConnectionError:
            report = None
        if report is None or report.state is not State.SERVING:
            raise self._failure(report)

    async def wait_ended(self) -> Report | None:
        """Wait for the worker's final report; None if it ends without one."""
        while (report := await self._report()) is not None:
            if report.state is not State.SERVING:
                return report
        return None

    async def request_stop(self) -> None:
        """Have open files uploaded, and the worker end; see `wait_ended`."""
        with suppress(ConnectionError):  # it has already ended
            await self._channel.send("stop", {"mount_id": self._spec.mount_id})

    def kill(self) -> None:
        """End the worker without waiting for uploads."""
        self._process.kill()

    def stop(self) -> None:
        """Upload open files, end the worker, unmount. Files that are still open become unusable.

        Raises:
            VolumeError: a file could not be uploaded, or the worker died. It is unmounted anyway.

        """

        async def stopping() -> Report | None:
            try:
                async with asyncio.timeout(self.stop_within_s):
                    await self.request_stop()
                    return await self.wait_ended()
            except TimeoutError:
                self.kill()
                return None

        self.finish(_run(stopping))

    @property
    def stop_within_s(self) -> float:
        return self._spec.volume.tree.drain_timeout_s + EXIT_WITHIN_S

    def finish(self, report: Report | None) -> None:
        """Clean up after the final report: wait for the process, and unmount.

        Raises:
            VolumeError: the report has one, or the worker died.

        """
        try:
            code = _end(self._process)
            if self._fuse.auto_unmount is not None:
                self._fuse.auto_unmount.wait()
        finally:
            self._channel.close()
            unmount(self.directory, self._fuse.device)
        if code != 0 or (report is not None and report.error is not None):
            raise self._failure(report)

    def _failure(self, report: Report | None) -> VolumeError:
        code = _end(self._process)
        if report is not None and report.error is not None:
            return report.error
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return WorkerDiedError(
            f"the process that serves {self.directory} ended {how}",
            hint="see its log (--foreground or --log-directory)",
        )

    async def _report(self) -> Report | None:
        while (message := await self._channel.receive()) is not None:
            try:
                body = messages.read(message, messages.FROM_WORKER)
            finally:
                message.close_fds()
            if isinstance(body, messages.ReportBody):
                return body.report
        return None


def _state_dir(name: str, directory: str) -> Path:
    """Equal for the next mount of this bucket on this directory, so that it finds leftovers."""
    names = f"{name}\0{Path(directory).absolute()}".encode(errors="surrogateescape")
    return state_home() / "csi-s3" / hashlib.sha256(names).hexdigest()[:32]


def _exec_worker(fuse: OpenMount, sock: int, log: int, *, debug: bool) -> subprocess.Popen[bytes]:
    """In a session of its own, so that Ctrl-C in a terminal goes to the caller only."""
    arguments = ["worker", "--fd", str(sock)]
    arguments += ["--mounted", fuse.to_argument()]
    arguments += ["--debug"] if debug else []
    return subprocess.Popen(  # noqa: S603 - a list, no shell
        [sys.executable, "-m", "csi_s3", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        cwd="/",  # the caller's directory may be unmounted while the worker lives
        pass_fds=[sock, *fuse.fds],
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that is ending; it is killed if that takes too long."""
    try:
        return process.wait(EXIT_WITHIN_S)
    except subprocess.TimeoutExpired:
        return _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    return process.wait()


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run on a new event loop, also where a loop is running, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(asyncio.run(work()))
        except BaseException as exc:  # noqa: BLE001 - passed to the waiter
            done.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return done.result()
