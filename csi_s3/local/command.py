"""`csi-s3 mount`, which behaves like mount-s3: in the background, and 0 only when it is mounted."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from csi_s3.config.mount_command import MountCommand
from csi_s3.errors import MountError
from csi_s3.kernel.syscalls import open_fd
from csi_s3.link.report import Report
from csi_s3.local.mount_session import MountSession

SYSLOG = Path("/dev/log")


def run(command: MountCommand) -> int:
    """Mount, and return the exit code; in the foreground, when the mount has ended.

    Raises:
        VolumeError: it could not be mounted, or (foreground) failed later. Nothing is mounted.

    """
    for warning in command.warnings:
        sys.stderr.write(f"csi-s3: warning: {warning}\n")
    signal.signal(signal.SIGTERM, _exit)
    with worker_log(command) as log:
        session = MountSession.start(command, log=log)
    if not command.foreground:
        _print_mounted(command)
        return 0
    try:
        report = asyncio.run(_foreground(session, command))
    except BaseException:  # such as a signal before its handler was installed
        session.stop()
        raise
    session.finish(report)
    return 0


def _print_mounted(command: MountCommand) -> None:
    bucket = command.config.bucket.bucket
    sys.stdout.write(f"bucket {bucket} is mounted at {command.directory}\n")
    sys.stdout.flush()


@contextmanager
def worker_log(command: MountCommand) -> Iterator[int]:
    """The descriptor for a worker's log lines: a file, the terminal, syslog, or nothing.

    Syslog is a connected datagram socket: each line is one write and one message, and a syslog that
    does not read loses lines but does not block.

    Raises:
        MountError: no file can be created in the log directory.

    """
    if command.no_log:
        yield subprocess.DEVNULL
    elif command.log_directory is not None:
        with open_fd(_log_file(Path(command.log_directory))) as fd:
            yield fd
    elif command.foreground:
        yield 2
    else:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect(str(SYSLOG))
            except OSError:
                yield subprocess.DEVNULL
                return
            sock.setblocking(False)
            yield sock.fileno()


def _log_file(directory: Path) -> int:
    """As mount-s3 does: the directory 0750, the file 0640, with the time in its name."""
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        fd, _ = tempfile.mkstemp(prefix=f"csi-s3-{now}.", suffix=".log", dir=directory)
    except OSError as exc:
        raise MountError(
            f"cannot create a log file in {directory}: {exc.strerror}",
            hint="set --log-directory to a directory that you can write to, or use --no-log",
        ) from exc
    os.fchmod(fd, 0o640)
    return fd


async def _foreground(session: MountSession, command: MountCommand) -> Report | None:
    """Wait for an unmount, or stop at a signal; a second signal does not wait for uploads."""
    is_stopping = asyncio.Event()

    def on_signal() -> None:
        if is_stopping.is_set():
            session.kill()
        is_stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    _print_mounted(command)
    async with asyncio.TaskGroup() as group:
        stopping = group.create_task(_stop(is_stopping, session))
        report = await session.wait_ended()
        stopping.cancel()
    return report


async def _stop(is_stopping: asyncio.Event, session: MountSession) -> None:
    await is_stopping.wait()
    await session.request_stop()
    await asyncio.sleep(session.stop_within_s)
    session.kill()


def _exit(number: int, _frame: object) -> NoReturn:
    """Exit by an exception, so that an incomplete mount is removed."""
    sys.exit(128 + number)
