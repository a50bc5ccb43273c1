"""The process that has imported everything and forks workers from itself.

It is exec'd by the keeper before anything else runs there, and stays a plain loop with one thread:
a fork copies only the calling thread, so another one could leave a lock held in the child. It never
holds a volume's descriptor: a worker gets its own from the keeper, over a socket of which the
zygote closes its copy right after the fork.

Rejected: exec per worker (imports cost 0.4 s of CPU and 60 MB each), multiprocessing's forkserver
(it has threads and a resource tracker, and its helpers look like workers), fork from
the keeper (it runs an event loop and holds every volume's descriptor).

Messages (`link.channel`; the keeper's side is `mounter.zygote_client`):
    keeper -> zygote   spawn   {number, name} + [worker's socket]
                       kill    {number}            SIGKILL, if it still runs
    zygote -> keeper   spawned {number, pid}
                       refused {number, reason}    no process could be made
                       exited  {number, status}    exit code, or minus the signal
The zygote ends when the keeper's socket is closed, and its workers are killed with it
(PR_SET_PDEATHSIG): a worker does not end with its own channel, and without a keeper it would serve
its mount without end. So files that a worker has not uploaded are lost when the zygote or the
keeper is killed. On SIGTERM the keeper waits for all workers first.
"""

import argparse
import asyncio
import contextlib
import ctypes
import json
import logging
import os
import select
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeAlias

from csi_s3.config.store_rules import StoreRules
from csi_s3.errors import VolumeError
from csi_s3.kernel.process_limits import hide_memory, set_process_name
from csi_s3.mounter.memory_upkeep import prepare
from csi_s3.obs import logs

log = logging.getLogger(__name__)

WorkerMain: TypeAlias = Callable[[socket.socket], int]

FAILED = 70  # exit code of a worker that raised (sysexits.h: EX_SOFTWARE)
_STDERR = 2
_PR_SET_PDEATHSIG = 1
_MESSAGE_BYTES = 64 << 10


def serve_forks(control: socket.socket, worker: WorkerMain) -> None:
    """Fork a process that runs `worker` for each `spawn`, until the keeper's end is closed.

    worker: gets its socket, returns its exit code; runs with default signal handling.

    Raises:
        RuntimeError: this process runs more than one thread.

    """
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"{threads} threads run in the zygote; a fork would lose their locks")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the keeper decides when to end
    wakeup, signals = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
    prepare()  # a collection in a worker would write to every shared page
    workers = _Workers(control, worker)
    while True:
        ready, _, _ = select.select([control.fileno(), wakeup], [], [])
        if wakeup in ready:
            os.read(wakeup, 4096)
            workers.reap()
        if control.fileno() in ready and not workers.obey():
            return


class _Workers:
    """The running workers by pid, each with the keeper's number for it."""

    def __init__(self, control: socket.socket, worker: WorkerMain) -> None:
        self._control = control
        self._worker = worker
        self._numbers: dict[int, int] = {}

    def obey(self) -> bool:
        """Handle the next message. False: the keeper has closed its end."""
        try:
            data, fds, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 1)
        except ConnectionError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if message["type"] == "spawn":
            with socket.socket(fileno=fds[0]) as sock:
                self._spawn(message["number"], message["name"], sock)
        elif message["type"] == "kill":
            for pid, number in self._numbers.items():  # not reaped yet, so the pid is not reused
                if number == message["number"]:
                    os.kill(pid, signal.SIGKILL)
        return True

    def reap(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self._numbers.pop(pid)
            self._send("exited", number=number, status=os.waitstatus_to_exitcode(status))

    def _spawn(self, number: int, name: str, sock: socket.socket) -> None:
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as exc:
            self._send("refused", number=number, reason=exc.strerror)
            return
        if pid == 0:
            _run_worker(self._worker, sock, zygote=zygote, name=name)
        self._numbers[pid] = number
        self._send("spawned", number=number, pid=pid)

    def _send(self, type_: str, **body: object) -> None:
        with contextlib.suppress(
            ConnectionError
        ):  # the keeper has ended: the next read returns its end
            self._control.send(json.dumps({"type": type_, **body}).encode())


def _run_worker(worker: WorkerMain, sock: socket.socket, *, zygote: int, name: str) -> NoReturn:
    """Run the worker in the forked process, and exit whatever happens."""
    status = FAILED
    try:
        _become_worker(sock, zygote=zygote, name=name)
        status = worker(sock)
    except BaseException:
        log.exception("worker %s failed", name)
    finally:
        logging.shutdown()
        os._exit(status)


def _become_worker(sock: socket.socket, *, zygote: int, name: str) -> None:
    """Drop what was inherited from the zygote: descriptors, signal handling, name."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:
        os._exit(FAILED)  # the zygote died before the parent-death signal was set
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for entry in Path("/proc/self/fd").iterdir():
        if (fd := int(entry.name)) > _STDERR and fd != sock.fileno():
            with contextlib.suppress(OSError):  # the descriptor of the listing
                os.close(fd)
    set_process_name(f"csi-s3 {name}")
    logs.configure("worker")
    logs.bind({"mount": name})


async def _warm_up() -> None:
    """Fill caches and run lazy imports once for all workers; nothing is sent.

    Measured: opening its bucket costs a worker 23 ms of CPU instead of 37, and 1.5 MB less private
    memory.
    """
    from csi_s3.config.volume import BucketConfig  # noqa: PLC0415 - as in main
    from csi_s3.s3.bucket import open_bucket  # noqa: PLC0415
    from csi_s3.s3.credentials import chain  # noqa: PLC0415

    chain.warm()
    config = BucketConfig(bucket="warm", region="us-east-1", no_sign_request=True)
    with contextlib.suppress(VolumeError):  # each volume reports a broken AWS configuration
        async with open_bucket(config):
            pass


def main() -> None:
    """`python -m csi_s3.mounter.zygote [--store-rules RULES] FD`: serve the keeper behind FD.

    Without rules of its own (`config.store_rules`), a volume may name what the strictest allow.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("fd", type=int)
    parser.add_argument("--store-rules", type=StoreRules.from_text, default=StoreRules())
    arguments = parser.parse_args()
    logs.configure("zygote")
    hide_memory()
    # the keeper imports this module as well and does not need these
    from csi_s3.mounter.worker import run_worker  # noqa: PLC0415

    asyncio.run(_warm_up())
    worker = partial(run_worker, rules=arguments.store_rules)
    serve_forks(socket.socket(fileno=arguments.fd), worker)


if __name__ == "__main__":
    main()
