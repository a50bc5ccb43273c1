"""How the caller's rights turn into a FUSE mount: root by mount(2), everybody else by fusermount3.

What is unmounted here is always looked up in mountinfo first, by directory and device: somebody
may have unmounted ours and mounted something else.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from csi_s3.config.command import MountCommand
from csi_s3.errors import BadOptionError, MountError
from csi_s3.kernel import fusermount, mount
from csi_s3.kernel.mountinfo import mount_at

Watcher = tuple[subprocess.Popen[bytes], socket.socket]

WATCHER_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class OpenMount:
    """A mount that nobody serves yet. device: "major:minor", as mountinfo shows it."""

    fd: int
    device: str
    watcher: Watcher | None = None

    @property
    def kept(self) -> list[int]:
        """Descriptors that the worker holds as long as it lives, besides `fd`."""
        return [] if self.watcher is None else [self.watcher[1].fileno()]

    def wait(self) -> None:
        """After the worker's end: until auto_unmount has done its part."""
        if self.watcher is not None:
            self.watcher[0].wait(WATCHER_WITHIN_S)


@contextmanager
def opened(command: MountCommand, directory: Path, name: str) -> Iterator[OpenMount]:
    """Mount on directory; the block hands the descriptors to the worker, then ours are closed.

    Unless the block fails the mount stays.

    Raises:
        VolumeError: cannot be mounted, with the reason and what to do.

    """
    with ExitStack() as closing:
        fd, watcher = _mount(command, directory, name)
        closing.callback(os.close, fd)
        if watcher is not None:
            closing.callback(watcher[1].close)
        entry = mount_at(str(directory))
        if entry is None or not entry.is_fuse:
            raise MountError(f"{directory} was mounted and is gone", "did somebody unmount it?")
        try:
            yield OpenMount(fd, entry.device, watcher)
        except BaseException:
            unmount(directory, entry.device)
            raise


def _mount(command: MountCommand, directory: Path, name: str) -> tuple[int, Watcher | None]:
    volume = command.config
    if os.geteuid() == 0 and not command.auto_unmount:
        fd = mount.open_fuse()
        try:
            mount.mount_fuse(
                fd,
                directory,
                source_name=name,
                read_only=volume.read_only,
                allow_other=volume.allow_other,
            )
        except BaseException:
            os.close(fd)
            raise
        return fd, None
    if volume.allow_root and not volume.allow_other and os.geteuid() != 0:
        raise BadOptionError(
            "option --allow-root is not built yet for ordinary users",
            hint="--allow-other lets root in, and everybody else as --dir-mode and --file-mode say",
        )
    user = fusermount.mount_as_user(
        directory,
        source_name=name,
        read_only=volume.read_only,
        allow_other=volume.allow_other,
        auto_unmount=command.auto_unmount,
    )
    return user.fd, user.watcher


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
    """In a worker that has ended its work: unmount what it served, `mounted` of the command line.

    Nothing to do where the connection has ended: then the unmount was why the worker ended, and
    directory and device may be somebody else's by now.
    """
    fd, device, directory = mounted.split(",", 2)
    if not mount.is_over(int(fd)):
        unmount(Path(directory), device)


def _is_there(directory: Path, device: str) -> bool:
    entry = mount_at(str(directory))
    return entry is not None and entry.device == device
