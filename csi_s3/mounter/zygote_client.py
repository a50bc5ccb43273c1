"""The keeper's end of the zygote: start it, ask it for workers, hear of their end."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from signal import Signals
from socket import socket

from typing_extensions import override

from csi_s3.link.channel import Channel, Message

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "csi_s3.mounter.zygote")
_END_WITHIN_S = 5.0


@dataclass(eq=False, slots=True)
class WorkerProcess:
    """One worker process.

    pid: for the log; only the zygote, its parent, may signal it.
    ended: exit code, or minus the signal; None where the zygote died before it could tell.
    """

    number: int
    pid: asyncio.Future[int]
    ended: asyncio.Future[int | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class ZygoteClient:
    """The running zygote and its children.

    Lifetime: it is exec'd by the constructor, to be called before the process starts any thread;
    `run` returns at its end; `close` ends it. Concurrency: `run` is one task's, the rest anybody's.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._channel, theirs = Channel.pair()
        with theirs:
            fd = theirs.fileno()
            # a session of its own: a terminal's Ctrl-C is for the keeper, which then drains
            self._process = subprocess.Popen(  # noqa: S603 - COMMAND, or a test's
                [*command, str(fd)],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._children: dict[int, WorkerProcess] = {}
        self._last_number = 0

    @override
    def __repr__(self) -> str:
        return f"<ZygoteClient zygote={self._process.pid} children={len(self._children)}>"

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def run(self) -> None:
        """Take the zygote's messages until it ends; then no child has an end left to wait for."""
        try:
            while (message := await self._channel.receive()) is not None:
                message.close_fds()
                self._take(message)
        finally:
            self._forget_children()

    async def spawn(self, name: str, sock: socket) -> WorkerProcess:
        """Fork a worker with sock, of which the caller keeps its copy, and wait until it has a pid.

        Raises:
            ConnectionError: the zygote is gone, or could not fork; the message says which.

        """
        self._last_number += 1
        child = WorkerProcess(self._last_number, asyncio.get_running_loop().create_future())
        self._children[child.number] = child
        try:
            await self._channel.send(
                "spawn", {"number": child.number, "name": name}, [sock.fileno()]
            )
        except ConnectionError:
            del self._children[child.number]
            raise
        await child.pid
        return child

    async def kill(self, child: WorkerProcess) -> None:
        """SIGKILL, if it still runs; `child.ended` tells when it is gone."""
        try:
            await self._channel.send("kill", {"number": child.number})
        except ConnectionError:
            log.debug("the zygote is gone, and its children with it")

    def close(self) -> str:
        """End the zygote, and with it every worker that still runs. Returns how it ended."""
        self._channel.close()
        try:
            status = self._process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return describe(status)

    def _take(self, message: Message) -> None:
        number = message.body["number"]
        if message.type == "exited":
            self._children.pop(number).ended.set_result(message.body["status"])
            return
        pid = self._children[number].pid
        if message.type == "refused":
            del self._children[number]
            if not pid.done():
                reason = message.body["reason"]
                pid.set_exception(ConnectionError(f"no process could be started: {reason}"))
        elif not pid.done():
            pid.set_result(message.body["pid"])

    def _forget_children(self) -> None:
        for child in self._children.values():
            if not child.pid.done():
                child.pid.set_exception(ConnectionError("the process that starts workers died"))
            child.ended.set_result(None)
        self._children.clear()


def describe(status: int) -> str:
    """An exit status as people and metrics name it: `SIGKILL`, `exit-1`."""
    return Signals(-status).name if status < 0 else f"exit-{status}"
