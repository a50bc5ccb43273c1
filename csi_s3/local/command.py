"""`csi-s3 mount`: mount-s3's manners. In the background by default, 0 only when it is mounted."""

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
from csi_s3.link.report import Report
from csi_s3.local.mount_session import MountSession

SYSLOG = Path("/dev/log")


def run(command: MountCommand) -> int:
    """Mount as asked; the exit code. In the foreground it returns when the mount has ended.

    Raises:
        VolumeError: not mounted, or (foreground) something went wrong later; nothing is mounted.

    """
    for warning in command.warnings:
        sys.stderr.write(f"csi-s3: warning: {warning}\n")
    signal.signal(signal.SIGTERM, _terminated)
    with worker_log(command) as log:
        session = MountSession.start(command, log=log)
    if not command.foreground:
        _say_mounted(command)
        return 0
    try:
        report = asyncio.run(_foreground(session, command))
    except BaseException:  # e.g. a signal before the handlers were there
        session.stop()
        raise
    session.finish(report)
    return 0


def _say_mounted(command: MountCommand) -> None:
    bucket = command.config.bucket.bucket
    sys.stdout.write(f"bucket {bucket} is mounted at {command.directory}\n")
    sys.stdout.flush()


@contextmanager
def worker_log(command: MountCommand) -> Iterator[int]:
    """The descriptor for a worker's log lines: a file, the terminal, syslog, or nothing.

    To syslog by a connected datagram socket: each line is one write, which is one message there,
    and a syslog that does not read costs lines and never time.

    Raises:
        MountError: no file can be made in the log directory.

    """
    if command.no_log:
        yield subprocess.DEVNULL
    elif command.log_directory is not None:
        fd = _log_file(Path(command.log_directory))
        try:
            yield fd
        finally:
            os.close(fd)
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
    """As mount-s3: the directory 0750, the file 0640, a name that tells when."""
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        fd, _ = tempfile.mkstemp(prefix=f"csi-s3-{now}.", suffix=".log", dir=directory)
    except OSError as exc:
        raise MountError(
            f"cannot write a log file into {directory}: {exc.strerror}",
            hint="give --log-directory a directory that is writable to you, or --no-log",
        ) from exc
    os.fchmod(fd, 0o640)
    return fd


async def _foreground(session: MountSession, command: MountCommand) -> Report | None:
    """Until somebody unmounts, or a signal asks to stop; a second signal does not wait."""
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            session.kill()
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    _say_mounted(command)
    async with asyncio.TaskGroup() as group:
        stopper = group.create_task(_stop_when(asked, session))
        report = await session.last_words()
        stopper.cancel()
    return report


async def _stop_when(asked: asyncio.Event, session: MountSession) -> None:
    await asked.wait()
    await session.ask_to_stop()
    await asyncio.sleep(session.stop_within_s)
    session.kill()


def _terminated(number: int, _frame: object) -> NoReturn:
    """Leave by an exception, so that a mount that is half made is taken down again."""
    sys.exit(128 + number)
