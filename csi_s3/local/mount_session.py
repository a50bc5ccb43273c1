"""One mount of this machine's user: the FUSE mount, its worker process, the words between them.

The worker is started by exec, so the caller is never forked; only the calling process talks to
it, by the messages of `link.channel`, as the keeper does. Rejected: to serve the mount from a
thread of the caller, whose GIL, signals and crashes would then be the mount's.
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
from csi_s3.link.channel import Channel
from csi_s3.link.report import Report, State
from csi_s3.link.spec import MountSpec
from csi_s3.local.mount_point import claimed
from csi_s3.local.user_mount import OpenMount, opened, unmount

INIT_WITHIN_S = 10.0
SERVING_WITHIN_S = 100.0  # the worker gives up on a silent bucket before, and says it better
END_WITHIN_S = 10.0  # for a worker that has said its last word

T = TypeVar("T")


class MountSession:
    """A mount and its worker, from `start` to `stop` or until the worker ends by itself.

    Concurrency: one caller at a time, from any thread; no event loop is needed, one that runs in
    the calling thread does no harm.
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

        log: the descriptor that becomes the worker's stderr. The worker outlives the caller: to
        end it there are `stop`, umount, and SIGTERM to its process.

        Raises:
            VolumeError: why not; nothing is left mounted and no process is left.

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
            claimed(Path(command.directory)) as directory,
            opened(command, directory, name) as fuse,
            ExitStack() as undo,
        ):
            init = mount.read_init(fuse.fd, INIT_WITHIN_S)
            channel, theirs = Channel.pair()
            undo.callback(channel.close)
            with theirs:
                process = _exec_worker(fuse, theirs.fileno(), log, debug=command.debug)
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
                hint="are endpoint, region and network right? --foreground --debug shows more",
            ) from exc
        except ConnectionError:
            report = None
        if report is None or report.state is not State.SERVING:
            raise self._failure(report)

    async def last_words(self) -> Report | None:
        """Wait until the worker has ended its work, or is gone (None)."""
        while (report := await self._report()) is not None:
            if report.state is not State.SERVING:
                return report
        return None

    async def ask_to_stop(self) -> None:
        """Open files are uploaded, then `last_words` come."""
        with suppress(ConnectionError):  # it has ended by itself
            await self._channel.send("stop", {"mount_id": self._spec.mount_id})

    def kill(self) -> None:
        """Do not wait for uploads any longer."""
        self._process.kill()

    def stop(self) -> None:
        """Upload open files, end the worker, unmount. What is still open elsewhere goes dead.

        Raises:
            VolumeError: a file could not be uploaded, or the worker died; it is unmounted anyway.

        """

        async def stopping() -> Report | None:
            try:
                async with asyncio.timeout(self.stop_within_s):
                    await self.ask_to_stop()
                    return await self.last_words()
            except TimeoutError:
                self.kill()
                return None

        self.finish(_run(stopping))

    @property
    def stop_within_s(self) -> float:
        return self._spec.volume.tree.drain_timeout_s + END_WITHIN_S

    def finish(self, report: Report | None) -> None:
        """After the last words: no process and no mount is left.

        Raises:
            VolumeError: the report carries one, or the worker died.

        """
        try:
            code = _end(self._process)
            if self._fuse.watcher is not None:
                self._fuse.watcher.wait()
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
            hint="its log says why: --foreground or --log-directory shows it",
        )

    async def _report(self) -> Report | None:
        while (message := await self._channel.receive()) is not None:
            message.close_fds()
            if message.type == "report":
                return Report.from_json(message.body["report"])
        return None


def _state_dir(name: str, directory: str) -> Path:
    """The same for the next mount of this bucket on this directory, so that it finds leftovers."""
    names = f"{name}\0{Path(directory).absolute()}".encode(errors="surrogateescape")
    return state_home() / "csi-s3" / hashlib.sha256(names).hexdigest()[:32]


def _exec_worker(fuse: OpenMount, sock: int, log: int, *, debug: bool) -> subprocess.Popen[bytes]:
    """In a session of its own: a Ctrl-C in the caller's terminal is the caller's to handle."""
    arguments = ["worker", "--fd", str(sock)]
    arguments += ["--mounted", fuse.to_argument()]
    arguments += ["--debug"] if debug else []
    return subprocess.Popen(  # noqa: S603 - a list, no shell
        [sys.executable, "-m", "csi_s3", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        cwd="/",  # the caller's directory may be unmounted while the worker lives
        pass_fds=[sock, *fuse.kept],
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> int:
    """Exit code of a process that should end by itself now; one that does not is killed."""
    try:
        return process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        return _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    return process.wait()


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run to the end on a loop of its own, also below a notebook's running loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(asyncio.run(work()))
        except BaseException as exc:  # noqa: BLE001 - handed to the waiter, whatever it is
            done.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return done.result()
