"""How the caller's rights turn into a FUSE mount: root by mount(2), everybody else by fusermount3.

What is unmounted here is always looked up in mountinfo first, by directory and device: somebody
may have unmounted ours and mounted something else.
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

WATCHER_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class OpenMount:
    """A mount that nobody serves yet. fd: its /dev/fuse. device: "major:minor"."""

    directory: Path
    fd: int
    device: str
    watcher: "Watcher | None" = None

    @property
    def kept(self) -> list[int]:
        """The descriptors that the worker inherits and keeps to its end."""
        return [self.fd] if self.watcher is None else [self.fd, self.watcher.fd]

    def to_argument(self) -> str:
        """For the worker's command line, and there for `release`."""
        watcher = -1 if self.watcher is None else self.watcher.fd
        return f"{self.fd},{watcher},{self.device},{self.directory}"

    @classmethod
    def from_argument(cls, text: str) -> Self:
        fd, watcher, device, directory = text.split(",", 3)
        kept = None if watcher == "-1" else Watcher(int(watcher))
        return cls(Path(directory), int(fd), device, kept)


class Watcher:
    """A shell that unmounts when the worker is gone without a word (auto-unmount).

    It waits at a pipe whose other end only the worker has, and takes a few hundred KiB.
    """

    def __init__(self, fd: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.fd = fd
        self._process = process

    @classmethod
    def start(cls, directory: Path) -> Self:
        if os.geteuid() == 0:
            unmount_words = ["umount", "-l", str(directory)]
        else:
            unmount_words = [fusermount.find_program(), "-u", "-z", "-q", "--", str(directory)]
        theirs, ours = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603 - fixed words, the directory as an argument
                ["/bin/sh", "-c", 'read word || exec "$@"', "sh", *unmount_words],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return cls(ours, process)

    def dismiss(self) -> None:
        """The worker ends in order: there is nothing to unmount."""
        os.write(self.fd, b"\n")

    def wait(self) -> None:
        """After the worker's end: until the shell has done its part."""
        if self._process is not None:
            self._process.wait(WATCHER_WITHIN_S)


@contextmanager
def opened(command: MountCommand, directory: Path, name: str) -> Iterator[OpenMount]:
    """Mount on directory; the block hands the descriptors to the worker, then ours are closed.

    Unless the block fails the mount stays.

    Raises:
        VolumeError: cannot be mounted, with the reason and what to do.

    """
    with ExitStack() as closing:
        fd = _mount(command, directory, name)
        closing.callback(os.close, fd)
        entry = mount_at(str(directory))
        if entry is None or not entry.is_fuse:
            raise MountError(f"{directory} was mounted and is gone", "did somebody unmount it?")
        watcher = None
        try:
            if command.auto_unmount:
                watcher = Watcher.start(directory)
                closing.callback(os.close, watcher.fd)
            yield OpenMount(directory, fd, entry.device, watcher)
        except BaseException:
            unmount(directory, entry.device)
            if watcher is not None:
                watcher.dismiss()  # it would unmount what is there now, whosever it is
            raise


def _mount(command: MountCommand, directory: Path, name: str) -> int:
    volume = command.config
    if os.geteuid() != 0:
        if volume.labels:
            raise BadOptionError(
                f"{next(iter(volume.labels))}: an ordinary user may not label a mount for SELinux",
                "fusermount3 knows no such option: mount as root, or leave it out",
            )
        return fusermount.mount_as_user(
            directory,
            source_name=name,
            read_only=volume.read_only,
            allow_other=volume.allow_other,
            no_exec=command.no_exec,
            allow_root=volume.allow_root,
        )
    fd = mount.open_fuse()
    try:
        mount.mount_fuse(
            fd,
            directory,
            source_name=name,
            read_only=volume.read_only,
            allow_other=volume.allow_other,
            no_exec=command.no_exec,
            labels=volume.labels,
        )
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
        if _is_there(directory, device):  # else somebody else was faster
            raise


def release(mounted: str) -> None:
    """In a worker that has ended its work: unmount what it served, as its command line says.

    Nothing to do where the connection has ended: then the unmount was why the worker ended, and
    directory and device may be somebody else's by now.
    """
    fuse = OpenMount.from_argument(mounted)
    if not mount.is_over(fuse.fd):
        unmount(fuse.directory, fuse.device)
    if fuse.watcher is not None:
        fuse.watcher.dismiss()


def _is_there(directory: Path, device: str) -> bool:
    entry = mount_at(str(directory))
    return entry is not None and entry.device == device
