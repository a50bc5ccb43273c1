"""The keeper's side of the zygote: start it, have it fork workers, learn of their exits."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from signal import Signals
from socket import socket

from typing_extensions import override

from csi_s3.config import environment
from csi_s3.link import messages
from csi_s3.link.channel import Channel, Message

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "csi_s3.mounter.zygote")
_EXIT_WITHIN_S = 5.0


@dataclass(eq=False, slots=True)
class WorkerProcess:
    """One worker process.

    number: identifies it in messages. pid: for logs; only the zygote, its parent, may signal it.
    ended: the exit code, or minus the signal; None if the zygote died first.
    """

    number: int
    pid: asyncio.Future[int]
    ended: asyncio.Future[int | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class ZygoteClient:
    """The running zygote and the workers that it has forked.

    Lifetime: the constructor execs it, and must be called before the process starts any thread;
    `run` returns at its end; `close` ends it. Concurrency: `run` is one task's; any task may call
    the rest.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._channel, zygote_end = Channel.pair()
        with zygote_end:
            fd = zygote_end.fileno()
            # a session of its own: a terminal's Ctrl-C is for the keeper, which then drains
            self._zygote = subprocess.Popen(  # noqa: S603 - COMMAND, or a test's
                [*command, str(fd)],
                pass_fds=[fd],
                env=environment.without_secrets(),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._workers: dict[int, WorkerProcess] = {}
        self._last_number = 0

    @override
    def __repr__(self) -> str:
        return f"<ZygoteClient zygote={self._zygote.pid} workers={len(self._workers)}>"

    @property
    def is_alive(self) -> bool:
        return self._zygote.poll() is None

    async def run(self) -> None:
        """Take the zygote's messages until it ends; then all workers have ended with it."""
        try:
            while (message := await self._channel.receive()) is not None:
                message.close_fds()
                self._take(message)
        finally:
            self._forget_workers()

    async def spawn(self, name: str, sock: socket) -> WorkerProcess:
        """Fork a worker with a copy of sock, and wait until it has a pid.

        Raises:
            ConnectionError: the zygote has ended, or could not fork; the message says which.

        """
        self._last_number += 1
        worker = WorkerProcess(self._last_number, asyncio.get_running_loop().create_future())
        self._workers[worker.number] = worker
        try:
            await self._channel.send(
                "spawn", {"number": worker.number, "name": name}, [sock.fileno()]
            )
        except ConnectionError:
            del self._workers[worker.number]
            raise
        await worker.pid
        return worker

    async def kill(self, worker: WorkerProcess) -> None:
        """Send SIGKILL if it still runs; `worker.ended` is done when it has exited."""
        try:
            await self._channel.send("kill", {"number": worker.number})
        except ConnectionError:
            log.debug("the zygote has ended, and its workers with it")

    def close(self) -> str:
        """End the zygote, and with it every worker that still runs. Returns how it ended."""
        self._channel.close()
        try:
            status = self._zygote.wait(_EXIT_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._zygote.kill()
            status = self._zygote.wait()
        return describe(status)

    def _take(self, message: Message) -> None:
        match messages.read(message, messages.FROM_ZYGOTE):
            case messages.Exited(number=number, status=status):
                self._workers.pop(number).ended.set_result(status)
            case messages.Refused(number=number, reason=reason):
                pid = self._workers.pop(number).pid
                if not pid.done():
                    pid.set_exception(ConnectionError(f"no process could be started: {reason}"))
            case messages.Spawned(number=number, pid=pid_):
                pid = self._workers[number].pid
                if not pid.done():
                    pid.set_result(pid_)

    def _forget_workers(self) -> None:
        for worker in self._workers.values():
            if not worker.pid.done():
                worker.pid.set_exception(ConnectionError("the process that starts workers died"))
            worker.ended.set_result(None)
        self._workers.clear()


def describe(status: int) -> str:
    """An exit status as in logs and metrics: `SIGKILL`, `exit-1`."""
    return Signals(-status).name if status < 0 else f"exit-{status}"
