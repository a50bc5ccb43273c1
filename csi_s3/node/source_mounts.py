"""Source mounts: each volume is mounted once in node's own directory, and pods get binds of it.

    <state dir>/volumes/<mount id>/fs      the FUSE mount; no program reads it there
    <state dir>/volumes/<mount id>/state   the worker's, owned by the mounter's user

Directories are removed one by one and only if empty, so that no bug can delete objects of a bucket
or data that a worker could not upload. Everything here blocks: call it by `off_loop`.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from errno import ENOTEMPTY
from pathlib import Path
from typing import TypeVar

from csi_s3.aio import LateCalls, blocking
from csi_s3.errors import MountError, VolumeError
from csi_s3.kernel import fusectl, mount
from csi_s3.kernel.mountinfo import MountEntry, mount_at

KERNEL_S = 20.0  # for calls that take milliseconds
INIT_S = 5.0
_MOUNT_ID = re.compile("[0-9a-f]{32}")

T = TypeVar("T")
log = logging.getLogger(__name__)

_LATE = LateCalls(64)  # of calls that concern no mount


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMount:
    """One FUSE connection, from mount(2) to its end.

    fd: node's duplicate of its /dev/fuse descriptor.
    device: "major:minor"; "" if the source was unmounted before node (re)started.
    init: the kernel's INIT request.
    """

    mount_id: str
    fd: int
    device: str
    init: bytes


class SourceMounts:
    def __init__(self, state_dir: Path, *, owner: int) -> None:
        self.volumes = state_dir.resolve() / "volumes"
        self.leftovers = state_dir.resolve() / "leftovers"
        self._owner = owner

    def prepare(self) -> None:
        """Make the directory of all mounts; the mounter can pass through it but not list it."""
        self.volumes.mkdir(parents=True, exist_ok=True)
        self.volumes.chmod(0o711)

    def path(self, mount_id: str) -> Path:
        return self.volumes / mount_id / "fs"

    def state(self, mount_id: str) -> Path:
        return self.volumes / mount_id / "state"

    def make(
        self, mount_id: str, source_name: str, labels: Mapping[str, str] | None = None
    ) -> SourceMount:
        """Mount, and read the kernel's INIT request. Accesses now wait for a worker.

        labels: SELinux's.

        Raises:
            BadOptionError: the labels are refused.
            MountError: the kernel refused.
            Nothing is left.

        """
        path = self.path(mount_id)
        fd = mount.open_fuse()
        try:
            self._make_directories(mount_id)
            mount.mount_fuse(fd, path, source_name=source_name, labels=labels)
            device = _device(path)
            init = mount.read_init(fd, INIT_S)
        except VolumeError:
            os.close(fd)  # its last descriptor: ends the connection
            self.detach(mount_id)
            self.remove(mount_id)
            raise
        return SourceMount(mount_id=mount_id, fd=fd, device=device, init=init)

    def _make_directories(self, mount_id: str) -> None:
        path, state = self.path(mount_id), self.state(mount_id)
        try:
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(0o711)
            self.detach(mount_id)  # never on top of an old mount
            path.mkdir(mode=0o700, exist_ok=True)
            state.mkdir(mode=0o700, exist_ok=True)
            os.chown(state, self._owner, self._owner)
        except OSError as exc:
            raise MountError(
                f"cannot make {exc.filename}: {exc.strerror}",
                "is the node's --state-dir writable, and is there space on its disk?",
            ) from exc

    def end(self, source: SourceMount) -> None:
        """Abort the connection: all waiting and later accesses get an error."""
        if source.device:
            fusectl.abort(int(source.device.partition(":")[2]), fd=source.fd)

    def detach(self, mount_id: str) -> None:
        """Unmount the source. Binds of pods and containers stay."""
        while mount.umount(self.path(mount_id)):
            pass

    def remove(self, mount_id: str) -> None:
        """Remove those of the mount's directories that are empty."""
        if not self.remove_empty(mount_id):
            log.warning(
                "%s is not removed: a worker left files in it, possibly data that was not "
                "uploaded; the volume's next mount uploads them",
                self.state(mount_id),
                extra={"mount": mount_id},
            )

    def remove_empty(self, mount_id: str) -> bool:
        """As `remove`. False: a worker left files in the state directory, which stays."""
        state = self.state(mount_id)
        for directory in (self.path(mount_id), state, state.parent):
            try:
                directory.rmdir()
            except FileNotFoundError:  # the worker removes its own, once it is empty
                continue
            except OSError as exc:
                if exc.errno != ENOTEMPTY:
                    raise MountError(f"cannot remove {directory}: {exc.strerror}") from exc
                if directory == state:
                    return False
        return True

    def all_ids(self) -> Iterator[str]:
        """The ids of all mounts that have directories, while mounts come and go."""
        with os.scandir(self.volumes) as entries:
            for entry in entries:
                if _MOUNT_ID.fullmatch(entry.name):
                    yield entry.name

    def mounted(self, entries: Iterable[MountEntry]) -> dict[str, MountEntry]:
        """The source mounts among these entries, by their ids."""
        found: dict[str, MountEntry] = {}
        for entry in entries:
            volume, _, name = entry.mount_point.removeprefix(f"{self.volumes}/").partition("/")
            if entry.fs_type == mount.FS_TYPE and name == "fs" and _MOUNT_ID.fullmatch(volume):
                found[volume] = entry
        return found


def _device(path: Path) -> str:
    entry = mount_at(str(path))
    if entry is None or entry.fs_type != mount.FS_TYPE:
        raise MountError(f"{path} was mounted but is not in mountinfo", "see dmesg")
    return entry.device


async def off_loop(call: Callable[[], T], action: str, late: LateCalls = _LATE) -> T:
    """Run a blocking call in a thread: a kernel that does not answer must not stop the plugin.

    late: of one mount, so that a mount that hangs does not use up what others need.

    Raises:
        MountError: no answer in time (the call may still take effect), or an unexpected failure
            of a system call.

    """
    try:
        return await blocking(call, within_s=KERNEL_S, late=late)
    except TimeoutError as exc:
        why = str(exc) or f"it took over {KERNEL_S:.0f} s"
        raise MountError(f"{action} failed: {why}", "is the node overloaded?") from exc
    except OSError as exc:
        raise MountError(f"{action} failed: {exc}") from exc
