"""Source mounts: each volume is mounted once in node's own directory, and pods get binds of it.

    <state dir>/volumes/<mount id>/fs            the FUSE mount; no program reads it there
    <state dir>/volumes/<mount id>/record.json   node's own description of the mount, mode 0600
    <state dir>/spools/<mount id>                the worker's, owned by the mounter's user

Only this module knows these paths. The mounter's pod sees `spools` only, so that no process in it
can open a file of a volume. They are reached by openat2, which follows no symlink, and changed by
descriptor: the mounter's user owns what is in a spool.

Directories are removed one by one and only if empty, so that no bug can delete objects of a bucket
or data that a worker could not upload. Everything here blocks: call it by `off_loop`.
"""

import json
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import ENOSPC, ENOTEMPTY
from pathlib import Path
from typing import TypeVar

from csi_s3.aio import LateCalls, blocking
from csi_s3.errors import MountError, VolumeError
from csi_s3.kernel import fusectl, mount, syscalls
from csi_s3.kernel.mountinfo import MountEntry, mount_at
from csi_s3.kernel.syscalls import open_fd
from csi_s3.link.channel import MAX_MESSAGE_BYTES
from csi_s3.link.json_values import is_mount_id
from csi_s3.link.spec import MountSpec

KERNEL_S = 20.0  # for calls that take milliseconds
INIT_S = 5.0
_FS, _RECORD, _OLD_SPOOL = "fs", "record.json", "state"
_READ = os.O_RDONLY | os.O_DIRECTORY
_PATH = os.O_PATH | os.O_DIRECTORY

T = TypeVar("T")
log = logging.getLogger(__name__)

_LATE = LateCalls(64)  # of calls that concern no mount


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMount:
    """One FUSE connection, from mount(2) to its end.

    fd: node's duplicate of its /dev/fuse descriptor.
    device: "major:minor"; "" if the source was unmounted before node (re)started.
    init: the kernel's INIT request; empty if node has started since.
    """

    mount_id: str
    fd: int
    device: str
    init: bytes = b""


class SourceMounts:
    def __init__(self, state_dir: Path, *, owner: int) -> None:
        self.volumes = state_dir.resolve() / "volumes"
        self.spools = state_dir.resolve() / "spools"
        self.leftovers = state_dir.resolve() / "leftovers"
        self._owner = owner

    def prepare(self) -> None:
        """Make both directories; a mounter can pass through them but not list them.

        Through `volumes`, the mounter of an earlier build reaches the spools of its mounts.
        """
        for directory in (self.volumes, self.spools):
            directory.mkdir(parents=True, exist_ok=True)
            with open_fd(os.open(directory, _READ | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
                os.fchmod(fd, 0o711)

    def path(self, mount_id: str) -> Path:
        return self.volumes / mount_id / _FS

    def state(self, mount_id: str) -> Path:
        return self.spools / mount_id

    def make(self, spec: MountSpec) -> SourceMount:
        """Mount, and read the kernel's INIT request. Accesses now wait for a worker.

        Raises:
            BadOptionError: the volume's SELinux labels are refused.
            MountError: the kernel refused.
            Nothing is left.

        """
        mount_id, bucket = spec.mount_id, spec.volume.bucket
        path, name = self.path(mount_id), f"s3://{bucket.bucket}/{bucket.prefix}"
        fd = mount.open_fuse()
        try:
            with self._made_directory(spec) as fs:
                mount.mount_fuse(
                    fd, path, source_name=name, labels=spec.volume.labels, directory=fs
                )
            device = _device(path)
            init = mount.read_init(fd, INIT_S)
        except VolumeError:
            os.close(fd)  # its last descriptor: ends the connection
            self.detach(mount_id)
            self.remove(mount_id)
            raise
        return SourceMount(mount_id=mount_id, fd=fd, device=device, init=init)

    @contextmanager
    def _made_directory(self, spec: MountSpec) -> Iterator[int]:
        """Make a mount's directories and record; a descriptor (O_PATH) to mount on."""
        mount_id = spec.mount_id
        try:
            with suppress(FileNotFoundError), self._opened(mount_id) as directory:
                self._move_old_spool(directory, mount_id)
            with _opened(self.spools) as spools:
                _make(spools, mount_id)
                with open_fd(syscalls.open_beneath(spools, mount_id, _READ)) as spool:
                    os.fchown(spool, self._owner, self._owner)
            with _opened(self.volumes) as volumes:
                _make(volumes, mount_id)
            with self._opened(mount_id) as directory:
                self._detach_below(directory)  # never on top of an old mount
                _make(directory, _FS)
                self._write_record(directory, spec)
                fs = syscalls.open_beneath(directory, _FS, _PATH)
        except OSError as exc:
            raise MountError(
                f"cannot make the directories of {self.volumes / mount_id}: {exc}",
                "is the node's --state-dir writable, and is there space on its disk?",
            ) from exc
        with open_fd(fs):
            yield fs

    @contextmanager
    def root(self, source: SourceMount) -> Iterator[int]:
        """A descriptor (O_PATH) of the root of the mount, and of no other; asks no daemon.

        Raises:
            MountError: it is not there any more, or another mount is there.

        """
        with self._opened(source.mount_id) as directory:
            fd = syscalls.open_beneath(directory, _FS, _PATH)
        with open_fd(fd):
            dev = syscalls.cached_status(fd).dev
            if f"{os.major(dev)}:{os.minor(dev)}" != source.device:
                path = self.path(source.mount_id)
                raise MountError(f"{path} is not the mount {source.device}", "see dmesg")
            yield fd

    # --- node's record of a mount --------------------------------------------------------------

    def record(self, mount_id: str) -> MountSpec | None:
        """The description with which node made the mount; None if there is none to believe."""
        try:
            with (
                self._opened(mount_id) as directory,
                open_fd(syscalls.open_beneath(directory, _RECORD, os.O_RDONLY)) as file,
            ):
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                    raise ValueError("it is not node's")  # noqa: TRY301
                spec = MountSpec.from_json(json.loads(os.read(file, 2 * MAX_MESSAGE_BYTES)))
                if spec.mount_id != mount_id:
                    raise ValueError("it is of another mount")  # noqa: TRY301
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as exc:
            log.error(  # noqa: TRY400 - a file of this node
                "the record of a mount cannot be used: %s", exc, extra={"mount": mount_id}
            )
            return None
        return spec

    def write_record(self, spec: MountSpec) -> None:
        """Write the record of a mount that has none.

        Raises:
            OSError: the mount has no directory, or it cannot be written to.

        """
        with self._opened(spec.mount_id) as directory:
            self._write_record(directory, spec)

    def _write_record(self, directory: int, spec: MountSpec) -> None:
        """Written before the mount is made: a part of one is of no mount."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open_fd(os.open(_RECORD, flags, 0o600, dir_fd=directory)) as file:
            os.fchmod(file, 0o600)
            data = json.dumps(spec.to_json()).encode()
            if os.write(file, data) != len(data):
                raise OSError(ENOSPC, os.strerror(ENOSPC), _RECORD)

    def has_directory(self, mount_id: str) -> bool:
        try:
            with self._opened(mount_id):
                return True
        except OSError:
            return False

    # --- the end -------------------------------------------------------------------------------

    def end(self, source: SourceMount) -> None:
        """Abort the connection: all waiting and later accesses get an error."""
        if source.device:
            fusectl.abort(int(source.device.partition(":")[2]), fd=source.fd)

    def detach(self, mount_id: str) -> None:
        """Unmount the source. Binds of pods and containers stay."""
        with suppress(FileNotFoundError), self._opened(mount_id) as directory:
            self._detach_below(directory)

    def _detach_below(self, directory: int) -> None:
        while mount.umount(f"/proc/self/fd/{directory}/{_FS}"):
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
        """As `remove`. False: a worker left files in its spool, which stays."""
        try:
            with suppress(FileNotFoundError):
                with self._opened(mount_id) as directory:
                    _remove(directory, _FS)
                    self._move_old_spool(directory, mount_id)
                    with suppress(FileNotFoundError):
                        os.unlink(_RECORD, dir_fd=directory)
                with _opened(self.volumes) as volumes:
                    _remove(volumes, mount_id)
            with _opened(self.spools) as spools:
                _remove(spools, mount_id)
        except OSError as exc:
            if exc.errno == ENOTEMPTY:
                return False
            raise MountError(
                f"cannot remove the directories of {self.volumes / mount_id}: {exc}"
            ) from exc
        return True

    def _move_old_spool(self, directory: int, mount_id: str) -> None:
        """Put the spool of an earlier build, which lay beside its mount, where spools are now.

        No worker uses it: the mount is being made, or has ended.
        """
        with suppress(FileNotFoundError):
            try:
                os.rmdir(_OLD_SPOOL, dir_fd=directory)
            except OSError as exc:
                if exc.errno != ENOTEMPTY:
                    raise
                with _opened(self.spools) as spools:
                    os.rename(_OLD_SPOOL, mount_id, src_dir_fd=directory, dst_dir_fd=spools)

    @contextmanager
    def _opened(self, mount_id: str) -> Iterator[int]:
        """A descriptor of a mount's directory.

        Raises:
            OSError: ENOENT: it has none; ELOOP, ENOTDIR: it is a symlink or a file.

        """
        if not is_mount_id(mount_id):
            raise MountError(f"{mount_id!r} is not the id of a mount")
        with _opened(self.volumes) as volumes:
            directory = syscalls.open_beneath(volumes, mount_id, _READ)
        with open_fd(directory):
            yield directory

    def all_ids(self) -> Iterator[str]:
        """The ids of all mounts that have a spool or a directory, while mounts come and go."""
        with os.scandir(self.spools) as entries:
            yield from (entry.name for entry in entries if is_mount_id(entry.name))
        with os.scandir(self.volumes) as entries:
            for entry in entries:
                if is_mount_id(entry.name) and not self.state(entry.name).exists():
                    yield entry.name

    def mounted(self, entries: Iterable[MountEntry]) -> dict[str, MountEntry]:
        """The source mounts among these entries, by their ids."""
        found: dict[str, MountEntry] = {}
        for entry in entries:
            volume, _, name = entry.mount_point.removeprefix(f"{self.volumes}/").partition("/")
            if entry.fs_type == mount.FS_TYPE and name == _FS and is_mount_id(volume):
                found[volume] = entry
        return found


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    with open_fd(os.open(directory, _PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
        yield fd


def _make(directory: int, name: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=directory)


def _remove(directory: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=directory)


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
