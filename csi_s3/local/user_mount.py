"""FUSE mounts with the rights of the caller: by mount(2) as root, otherwise by fusermount3.

A mount is looked up in mountinfo by directory and device before it is unmounted: it may have been
unmounted, and another one mounted there.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from csi_s3.config.mount_command import MountCommand
from csi_s3.errors import BadOptionError, MountError
from csi_s3.kernel import fusermount, mount
from csi_s3.kernel.mountinfo import mount_at

AUTO_UNMOUNT_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class OpenMount:
    """A mount that is not served yet. fd: its /dev/fuse. device: "major:minor"."""

    directory: Path
    fd: int
    device: str
    auto_unmount: "AutoUnmount | None" = None

    @property
    def fds(self) -> list[int]:
        """The descriptors that the worker inherits and keeps open."""
        return [self.fd] if self.auto_unmount is None else [self.fd, self.auto_unmount.fd]

    def to_argument(self) -> str:
        """For the worker's command line, where `release` reads it."""
        auto_unmount = -1 if self.auto_unmount is None else self.auto_unmount.fd
        return f"{self.fd},{auto_unmount},{self.device},{self.directory}"

    @classmethod
    def from_argument(cls, text: str) -> Self:
        fd, unmount_fd, device, directory = text.split(",", 3)
        auto_unmount = None if unmount_fd == "-1" else AutoUnmount(int(unmount_fd))
        return cls(Path(directory), int(fd), device, auto_unmount)


class AutoUnmount:
    """A shell that unmounts if the worker dies (option auto-unmount).

    It reads from a pipe whose other end only the worker has, and takes a few hundred KiB.
    """

    def __init__(self, fd: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.fd = fd
        self._process = process

    @classmethod
    def start(cls, directory: Path) -> Self:
        if os.geteuid() == 0:
            command = ["umount", "-l", str(directory)]
        else:
            command = [fusermount.find_program(), "-u", "-z", "-q", "--", str(directory)]
        read_end, write_end = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603 - a fixed script, the directory as an argument
                ["/bin/sh", "-c", 'read word || exec "$@"', "sh", *command],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        return cls(write_end, process)

    def dismiss(self) -> None:
        """The worker ends in order: the shell exits without unmounting."""
        os.write(self.fd, b"\n")

    def wait(self) -> None:
        """Wait for the shell, after the worker's end."""
        if self._process is not None:
            self._process.wait(AUTO_UNMOUNT_WITHIN_S)


@contextmanager
def open_mount(command: MountCommand, directory: Path, name: str) -> Iterator[OpenMount]:
    """Mount on directory; the block passes the descriptors to the worker, then they are closed.

    If the block fails, the mount is removed.

    Raises:
        VolumeError: it could not be mounted.

    """
    with ExitStack() as closing:
        fd = _mount(command, directory, name)
        closing.callback(os.close, fd)
        entry = mount_at(str(directory))
        if entry is None or not entry.is_fuse:
            raise MountError(f"{directory} was unmounted while it was being mounted")
        auto_unmount = None
        try:
            if command.auto_unmount:
                auto_unmount = AutoUnmount.start(directory)
                closing.callback(os.close, auto_unmount.fd)
            yield OpenMount(directory, fd, entry.device, auto_unmount)
        except BaseException:
            unmount(directory, entry.device)
            if auto_unmount is not None:
                auto_unmount.dismiss()  # it would unmount whatever is mounted there by then
            raise


def _mount(command: MountCommand, directory: Path, name: str) -> int:
    volume = command.config
    flags = {
        "read_only": volume.read_only,
        "allow_other": volume.allow_other,
        "no_exec": command.no_exec,
    }
    if os.geteuid() != 0:
        if volume.labels:
            raise BadOptionError(
                f"{next(iter(volume.labels))}: an ordinary user may not label a mount for SELinux",
                "fusermount3 does not have this option: mount as root, or remove it",
            )
        return fusermount.mount_as_user(
            directory, source_name=name, allow_root=volume.allow_root, **flags
        )
    fd = mount.open_fuse()
    try:
        mount.mount_fuse(fd, directory, source_name=name, labels=volume.labels, **flags)
    except BaseException:
        os.close(fd)
        raise
    return fd


def unmount(directory: Path, device: str) -> None:
    """Detach the mount of this device from directory, if it is still there.

    Raises:
        MountError: the kernel or fusermount3 refused.

    """
    if not _is_there(directory, device):
        return
    try:
        if os.geteuid() == 0:
            mount.umount(directory)
        else:
            fusermount.unmount_as_user(directory)
    except MountError:
        if _is_there(directory, device):  # else it was unmounted concurrently
            raise


def release(mounted: str) -> None:
    """At the end of a worker: unmount the mount that its command line names.

    If the connection has ended, the unmount was the reason, and directory and device may belong to
    another mount by now.
    """
    fuse = OpenMount.from_argument(mounted)
    if not mount.is_over(fuse.fd):
        unmount(fuse.directory, fuse.device)
    if fuse.auto_unmount is not None:
        fuse.auto_unmount.dismiss()


def _is_there(directory: Path, device: str) -> bool:
    entry = mount_at(str(directory))
    return entry is not None and entry.device == device
